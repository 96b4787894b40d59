"""Other libraries: their networks as ours, ours as theirs, and parts of one inside the other.

    from_torch, from_cudnn, from_keras, from_onnx, from_linen_cell, from_haiku, ...   their weights in our cells
    to_torch, to_cudnn, to_keras, to_onnx, to_linen_cell, to_haiku, ...               our weights in theirs
    linen_cell, nnx_cell, from_linen       a flax cell in `unroll`, a flax module as a layer: its own step and weights
    LinenRNN, NnxRNN                       a cell of ours inside a flax model

A conversion gives equal numbers to 1e-5, or refuses and says what the other side lacks. Convert where a cell of ours
exists; wrap (`linen_cell`, `nnx_cell`) what has none, such as a cell of yours, or what must stay flax's.

This is the only package that knows flax modules or the layout of torch; nothing else of the library imports it.
"""

from rnn_jax.interop.converted import Converted
from rnn_jax.interop.cudnn_weights import CudnnWeights, from_cudnn, to_cudnn
from rnn_jax.interop.equinox_cells import from_equinox, to_equinox
from rnn_jax.interop.flax_cells import from_linen_cell, from_nnx_cell, to_linen_cell, to_nnx_cell
from rnn_jax.interop.flax_modules import LinenRNN, NnxRNN
from rnn_jax.interop.flax_steps import linen_cell, nnx_cell
from rnn_jax.interop.haiku_weights import from_haiku, to_haiku
from rnn_jax.interop.keras_weights import from_keras, to_keras
from rnn_jax.interop.linen import from_linen
from rnn_jax.interop.onnx_export import to_onnx
from rnn_jax.interop.onnx_import import OnnxNetwork, from_onnx
from rnn_jax.interop.torch_weights import TorchWeights, from_torch, to_torch

__all__ = [
    "Converted",
    "CudnnWeights",
    "LinenRNN",
    "NnxRNN",
    "OnnxNetwork",
    "TorchWeights",
    "from_cudnn",
    "from_equinox",
    "from_haiku",
    "from_keras",
    "from_linen",
    "from_linen_cell",
    "from_nnx_cell",
    "from_onnx",
    "from_torch",
    "linen_cell",
    "nnx_cell",
    "to_cudnn",
    "to_equinox",
    "to_haiku",
    "to_keras",
    "to_linen_cell",
    "to_nnx_cell",
    "to_onnx",
    "to_torch",
]
