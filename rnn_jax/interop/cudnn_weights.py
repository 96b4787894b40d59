"""The weights of cuDNN's recurrent networks, one flat array. cuDNN itself is not needed."""

from math import prod
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.interop.converted import Converted
from rnn_jax.interop.torch_weights import GATES, as_torch, from_torch, read_array
from rnn_jax.types import Cell, Layer, Params


class CudnnWeights(NamedTuple):
    """A network of ours as cuDNN has it: `from_cudnn(blob, mode, **options)` reads it again.

    Attributes:
        blob: all weights, flat, a NumPy array.
        mode: "LSTM", "GRU", "RNN_TANH" or "RNN_RELU", its `cudnnRNNMode_t`.
        options: `input_size`, `hidden_size`, `num_layers` and `bidirectional`.
    """

    blob: np.ndarray
    mode: str
    options: dict[str, Any]


def from_cudnn(
    blob: Any,
    mode: Literal["LSTM", "GRU", "RNN_TANH", "RNN_RELU"],
    input_size: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
) -> Converted:
    """The network of a flat weight array of cuDNN, as `jax.experimental.rnn`, MXNet and others keep it.

    Each direction of each layer is a pseudo-layer: layer 0 forward, layer 0 backward, layer 1 forward, ... First come
    the matrices of all pseudo-layers, of each W_ih [G H, I] and W_hh [G H, H], row after row; then the biases of all,
    of each b_ih [G H] and b_hh [G H]. The blocks of rows are the gates i, f, g, o of an LSTM and r, z, n of a GRU;
    NVIDIA calls z i.

    Args:
        blob: [N], floating. N is the size with two biases a gate (`CUDNN_RNN_DOUBLE_BIAS`) or with none.
        mode: cuDNN's, without its prefix.
        input_size: I of the lowest layer; above it is H, or 2 H of both directions.
        hidden_size: H.
        num_layers: each has one pseudo-layer, or two if `bidirectional`.
        bidirectional: whether all layers walk in both directions, with outputs side by side.

    Returns:
        `Converted(model, params)`. One direction: a cell, or a `stack` of them if there are several layers. Two:
        `bidirectional(...)`, or a `serial` of them. cuDNN's final states are [pseudo-layers, B, H]; our carries are in
        the same order.

    Raises:
        ValueError: the array has another size than the network.

    Example:
        >>> blob = np.random.default_rng(0).normal(size=4 * 5 * (3 + 5 + 2))
        >>> cell, params = from_cudnn(blob, "LSTM", input_size=3, hidden_size=5)
        >>> params.w_x.shape, bool(params.w_x[2, 0] == np.float32(blob[2]))
        ((3, 20), True)

    Notes:
        Where a projection stands in the array is not documented, so there is none here; neither are single biases.
        `xs` of `jax.experimental.rnn.lstm` are [B, T, I], ours [T, B, I].

    References:
        The docstring of `jax.experimental.rnn`; NVIDIA, cuDNN API, `cudnnRNNMode_t` and `cudnnGetRNNWeightParams`;
        mxnet/gluon/rnn/rnn_layer.py, which hands all four modes to cuDNN in this order.
    """
    checks.one_of("mode", mode, tuple(GATES))
    for name, value in {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}.items():
        checks.positive(name, value)
    array = read_array("blob", blob)
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"`blob` must be a floating array of one axis, got {checks.describe(array)}")
    shapes = _shapes(GATES[mode] * hidden_size, input_size, hidden_size, num_layers, bidirectional)
    matrices = {name: shape for name, shape in shapes.items() if name.startswith("weight")}
    both, bare = (sum(map(prod, some.values())) for some in (shapes, matrices))
    if array.size not in (both, bare):
        raise ValueError(
            f"`blob` must have {both} numbers for this {mode}, or {bare} if it has no biases, got {array.size}"
        )
    if array.size == bare:
        shapes = matrices
    parts = np.split(array, np.cumsum([prod(shape) for shape in shapes.values()])[:-1])
    return from_torch({name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}, mode)


def to_cudnn(model: Cell | Layer, params: Params) -> CudnnWeights:
    """A network of ours as a flat weight array of cuDNN, in the layout of `from_cudnn`.

        blob, mode, options = to_cudnn(model, params)
        w_ih, w_hh, b_ih, b_hh = jax.experimental.rnn.unpack_lstm_weights(blob, **options)  # of an LSTM

    Args:
        model: an `lstm`, `gru` or `elman` (tanh or ReLU); a `stack` of equal ones; `bidirectional` ones, or a `serial`
            of them.
        params: its parameters, not perturbed.

    Returns:
        `CudnnWeights(blob, mode, options)`. Of two biases the first is ours and the second zero, but for the b_hn of a
        GRU.

    Raises:
        ValueError: cuDNN has no such network: says why.

    Example:
        >>> import jax
        >>> from rnn_jax import gru
        >>> cell = gru(4)
        >>> blob, mode, options = to_cudnn(cell, cell.init(jax.random.key(0), 3))
        >>> blob.shape, mode, options["hidden_size"]
        ((108,), 'GRU', 4)
    """
    kind, options, weights = as_torch(model, params, "cuDNN")
    activation = options.pop("nonlinearity", "")
    order = [name for part in ("weight", "bias") for name in weights if name.startswith(part)]
    blob = np.concatenate([weights[name].ravel() for name in order])
    return CudnnWeights(blob, f"{kind}_{activation.upper()}" if activation else kind, options)


def _shapes(rows: int, input_size: int, hidden_size: int, num_layers: int, both: bool) -> dict[str, tuple[int, ...]]:
    """The arrays of a blob in its order, by torch's names; `rows` are those of a matrix."""
    ways = ("", "_reverse") if both else ("",)
    layers = [(f"_l{i}{way}", len(ways) * hidden_size if i else input_size) for i in range(num_layers) for way in ways]
    shapes: dict[str, tuple[int, ...]] = {}
    for suffix, below in layers:
        shapes |= {f"weight_ih{suffix}": (rows, below), f"weight_hh{suffix}": (rows, hidden_size)}
    for suffix, _ in layers:
        shapes |= {f"bias_ih{suffix}": (rows,), f"bias_hh{suffix}": (rows,)}
    return shapes
