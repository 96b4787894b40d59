"""The recurrent cells of equinox, as ours and back."""

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells import gru, lstm
from rnn_jax.cells.elman import ElmanParams
from rnn_jax.cells.gru import GRUParams
from rnn_jax.cells.lstm import LSTMParams
from rnn_jax.interop.converted import Converted
from rnn_jax.interop.one_cell import one_cell
from rnn_jax.types import Cell, Params


def from_equinox(module: Any) -> Converted:
    """The cell of an `eqx.nn.LSTMCell` or `eqx.nn.GRUCell`.

    Args:
        module: the module, which holds its weights.

    Returns:
        `Converted(cell, params)`: `lstm` or `gru`. equinox's carry of an LSTM is the tuple (h, c), ours
        `LSTMCarry(h, c)`; its cells take one sequence, ours any batch.

    Raises:
        ImportError: equinox is not installed.
        ValueError: for another module.

    Notes:
        A module with `use_bias=False` gives biases of zero; trained further, they may leave it.
    """
    nn = _equinox().nn
    if not isinstance(module, nn.LSTMCell | nn.GRUCell):
        raise ValueError(f"`module` must be an equinox.nn.LSTMCell or GRUCell, got {type(module).__name__}")
    w_x, w_h = jnp.asarray(module.weight_ih).T, jnp.asarray(module.weight_hh).T
    b = jnp.zeros(w_x.shape[1], w_x.dtype) if module.bias is None else jnp.asarray(module.bias)
    size = w_h.shape[0]
    if isinstance(module, nn.LSTMCell):
        return Converted(lstm(size), LSTMParams(w_x=w_x, w_h=w_h, b=b))
    b_hn = jnp.zeros(size, w_x.dtype) if module.bias_n is None else jnp.asarray(module.bias_n)
    return Converted(gru(size), GRUParams(w_x=w_x, w_h=w_h, b=b, b_hn=b_hn))


def to_equinox(cell: Cell, params: Params) -> Any:
    """The equinox module that computes what `cell` does, with its weights.

    Args:
        cell: an `lstm` or `gru`, however it was initialised.
        params: its parameters.

    Returns:
        An `eqx.nn.LSTMCell` or `eqx.nn.GRUCell`: `module(x, carry)` steps one sequence, `jax.vmap(module)` a batch.

    Raises:
        ImportError: equinox is not installed.
        ValueError: for a stack, another cell, `gru(reset="before")` and the options of `lstm`, which equinox does not
            have.
    """
    eqx = _equinox()
    walk = one_cell(cell, params, "equinox", reset="after")
    if isinstance(walk.params, ElmanParams):
        raise ValueError("`cell` must be an lstm or gru: equinox has no plain recurrent cell, got an elman")
    ours = jax.tree.map(jnp.asarray, walk.params)
    kind, leaves = eqx.nn.LSTMCell, [ours.w_x.T, ours.w_h.T, ours.b]
    if isinstance(ours, GRUParams):
        kind, leaves = eqx.nn.GRUCell, [*leaves, ours.b_hn]
    module = kind(ours.w_x.shape[0], ours.w_h.shape[0], dtype=ours.b.dtype, key=jax.random.key(0))
    names = ("weight_ih", "weight_hh", "bias", "bias_n")[: len(leaves)]
    return eqx.tree_at(lambda tree: [getattr(tree, name) for name in names], module, leaves)


def _equinox() -> Any:
    try:
        import equinox
    except ImportError as error:
        raise ImportError('equinox is not installed: pip install "rnn_jax[interop]"') from error
    return equinox
