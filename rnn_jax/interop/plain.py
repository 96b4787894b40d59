"""Recurrent networks as rows of plain cells, which every importer builds and every exporter takes apart."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.cells import elman, gru, lstm
from rnn_jax.cells.elman import ElmanParams
from rnn_jax.cells.gru import GRUParams
from rnn_jax.cells.lstm import LSTMCarry, LSTMParams
from rnn_jax.compose import stack
from rnn_jax.interop.converted import Converted
from rnn_jax.layers import Directions, bidirectional, layer, serial
from rnn_jax.products import MaskedKernel
from rnn_jax.types import Array, Cell, Layer, Params

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}
"""What an `elman` that is taken apart may have."""

KINDS = {LSTMParams: "LSTM", GRUParams: "GRU", ElmanParams: "RNN"}
"""What torch, cuDNN and ONNX call our cells, by the type of their parameters."""

LONG = 256
"""Steps after which a memory cell that only adds has passed any clip that matters."""


class Walk(NamedTuple):
    """One direction of one layer.

    Attributes:
        cell: an `lstm`, `gru` or `elman`.
        params: its parameters.
        reverse: it walks from the last step to the first.
        activation: of an `elman`, a name in ACTIVATIONS where it is one of them.
    """

    cell: Cell
    params: LSTMParams | GRUParams | ElmanParams
    reverse: bool = False
    activation: str = ""


Rows = tuple[tuple[Walk, ...], ...]
"""Layers, bottom first, each of one walk or of two, forward and backward."""


def assemble(rows: Sequence[Sequence[Walk]]) -> Converted:
    """The network of rows: a cell or a `stack` of them if all walk forwards, or else a layer or a `serial` of them."""
    if all(len(row) == 1 and not row[0].reverse for row in rows):
        cells, params = [row[0].cell for row in rows], tuple(row[0].params for row in rows)
        return Converted(stack(*cells), params) if len(cells) > 1 else Converted(cells[0], params[0])
    layers, params = [], []
    for row in rows:
        if len(row) == 1:
            layers.append(layer(row[0].cell, reverse=row[0].reverse))
            params.append(row[0].params)
        else:
            layers.append(bidirectional(row[0].cell, row[1].cell))
            params.append(Directions(forward=row[0].params, backward=row[1].params))
    return Converted(serial(*layers), tuple(params)) if len(layers) > 1 else Converted(layers[0], params[0])


def take_apart(model: Cell | Layer, params: Params) -> Rows:
    """The rows of a network, found in its parameters and proved by running it beside the network of these rows.

    Args:
        model: an `lstm`, `gru` or `elman` (tanh or ReLU), a `stack` of them, `bidirectional` ones (merge "concat"), or
            a `serial` of such layers. How it was initialised does not matter.
        params: its parameters, not perturbed.

    Returns:
        Rows such that `assemble(rows)` computes what `model` does, with NumPy arrays as parameters.

    Raises:
        ValueError: the network is not of these kinds, or computes something else: another activation, another merge, a
            clipped cell, a dropout that was drawn.
    """
    if not isinstance(model, Cell | Layer):
        raise ValueError(f"`model` must be a Cell or a Layer, got {checks.describe(model)}")
    parts = params if type(params) is tuple else (params,)
    if not parts:
        raise ValueError("`params` must be those of one layer or more, got ()")
    tree = jax.tree.map(np.asarray, [tuple(part) if isinstance(part, Directions) else (part,) for part in parts])
    activations = _activations(model, params, [walk for row in tree for walk in row])
    for reverse in (False, True)[: 1 + any(len(row) == 1 for row in tree)]:
        names = iter(activations)
        rows = tuple(tuple(_walk(walk, reverse or i == 1, next(names)) for i, walk in enumerate(row)) for row in tree)
        if _equal(model, params, assemble(rows)):
            return rows
    raise ValueError(
        "`model` must compute what plain lstm, gru or elman (tanh, relu) cells do, alone, in a stack, in both "
        'directions with merge="concat", or in a serial of these; with these params it computes something else'
    )


def _activations(model: Cell | Layer, params: Params, walks: list[Any]) -> list[str]:
    """The activation that each walk can only have if it is an `elman`: by its state where h is activation(-1)."""
    for walk in walks:
        if not isinstance(walk, ElmanParams | GRUParams | LSTMParams):
            raise ValueError(f"`params` must be of lstm, gru or elman cells, got {type(walk).__name__}")
        if isinstance(walk.w_h, MaskedKernel):
            raise ValueError("`params` must be trained parameters, got some with a mask drawn in by `perturb`")
    if not any(isinstance(walk, ElmanParams) for walk in walks):
        return [""] * len(walks)
    probe = jax.tree.map(lambda leaf: jnp.full_like(leaf, -1.0 if leaf.ndim == 1 else 0.0), params)
    xs = jnp.zeros((1, 1, len(walks[0].w_x)), walks[0].w_x.dtype)
    carry, _ = (model if isinstance(model, Layer) else layer(model)).apply(probe, xs)
    states = jax.tree.leaves(carry, is_leaf=lambda node: isinstance(node, LSTMCarry))
    found = ["tanh" if jax.tree.leaves(state)[0].min() < 0 else "relu" for state in states]
    return (found + ["tanh"] * len(walks))[: len(walks)]  # another model may have another carry


def _walk(params: Any, reverse: bool, activation: str) -> Walk:
    """The walk of parameters, whose type and shapes tell the cell."""
    if isinstance(params, ElmanParams):
        return Walk(elman(params.b.shape[0], activation=ACTIVATIONS[activation]), params, reverse, activation)
    if isinstance(params, GRUParams):
        size = hidden_size(params)
        return Walk(gru(size) if params.b_hn is not None else gru(size, reset="before"), params, reverse)
    cell = lstm(
        hidden_size(params),
        peephole=params.w_peephole is not None,
        projection=None if params.w_projection is None else params.w_h.shape[0],
        coupled=is_coupled(params),
        layer_norm=params.norm is not None,
    )
    return Walk(cell, params, reverse)


def hidden_size(params: Any) -> int:
    """H, which is not the size of the output where an LSTM has a projection."""
    projection = getattr(params, "w_projection", None)
    return np.shape(params.w_h if projection is None else projection)[0]


def is_coupled(params: LSTMParams) -> bool:
    """Whether the input gate of an LSTM is 1 - f and has no weights."""
    return np.shape(params.b)[0] == 3 * hidden_size(params)


def recurrent_bias(params: LSTMParams | GRUParams | ElmanParams) -> np.ndarray:
    """The second bias of libraries that have two a gate: zero but for the b_hn of a GRU, in our order of gates."""
    bias = np.zeros_like(params.b)
    if isinstance(params, GRUParams) and params.b_hn is not None:
        bias[-hidden_size(params) :] = params.b_hn
    return bias


def reset_after(w_x: Array, w_h: Array, on_x: Array, on_h: Array) -> GRUParams:
    """The parameters of a GRU that resets after the product, of two biases [3H] in our order of gates."""
    gates = 2 * w_h.shape[0]
    return GRUParams(w_x=w_x, w_h=w_h, b=on_x + on_h.at[gates:].set(0), b_hn=on_h[gates:])


def _equal(model: Cell | Layer, params: Params, other: Converted) -> bool:
    """Whether two networks with equal parameters are equal, on random inputs, and where memory cells only grow."""
    ours, theirs = (one if isinstance(one, Layer) else layer(one) for one in (model, other.model))
    w_x = jax.tree.leaves(other.params)[0]
    size, dtype = w_x.shape[0], w_x.dtype
    probes: list[tuple[Params, Array, Array | None]] = [
        (params, jax.random.normal(jax.random.key(0), (5, 2, size), dtype), jnp.array([5, 3]))
    ]
    if any(_is_lstm(node) for node in jax.tree.leaves(params, is_leaf=_is_lstm)):
        grown = jax.tree.map(lambda leaf: jnp.full_like(leaf, 8.0 if leaf.ndim == 1 else 0.0), params)
        probes.append((grown, jnp.zeros((LONG, 1, size), dtype), None))
    return all(
        _close(*(jax.jit(one.apply)(own, xs, lengths=lengths) for one in (ours, theirs))) for own, xs, lengths in probes
    )


def _is_lstm(node: Any) -> bool:
    return isinstance(node, LSTMParams)


def _close(a: Any, b: Any) -> bool:
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs: list[tuple[Array, Array]] = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    return all(x.shape == y.shape and bool(jnp.allclose(x, y, rtol=1e-4, atol=1e-5)) for x, y in pairs)
