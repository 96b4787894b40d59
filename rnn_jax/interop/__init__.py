"""Other libraries: flax modules as layers, and the weights of torch and flax recurrent networks as ours.

This is the only package that knows flax modules or the layout of torch; nothing else of the library imports it.
"""

from rnn_jax.interop.converted import Converted
from rnn_jax.interop.flax_cells import from_linen_cell, from_nnx_cell
from rnn_jax.interop.linen import from_linen
from rnn_jax.interop.onnx_export import to_onnx
from rnn_jax.interop.onnx_import import OnnxNetwork, from_onnx
from rnn_jax.interop.torch_weights import TorchWeights, from_torch, to_torch

__all__ = [
    "Converted",
    "OnnxNetwork",
    "TorchWeights",
    "from_linen",
    "from_linen_cell",
    "from_nnx_cell",
    "from_onnx",
    "from_torch",
    "to_onnx",
    "to_torch",
]
