"""What gates do along a sequence: whether they are stuck, and for how long they keep."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.gated_step import GatedStep
from rnn_jax.products import recurrent
from rnn_jax.types import Cell

__all__ = ["gate_values", "memory_steps", "saturation"]


def gate_values(
    cell: Cell, params: Any, xs: jax.Array, *, carry: Any = None, reverse: bool = False
) -> dict[str, jax.Array]:
    """All gates of an LSTM or a GRU along sequences, by the names that the cell gives them.

    Args:
      cell: `lstm` (plain or coupled, with or without a clip) or `gru` (with the reset after the product).
      params: of the cell.
      xs: [T, *batch, I].
      carry: to start with; zero if None.
      reverse: from the last step to the first.

    Returns:
      gates i, f, o (coupled: f, o) or r, z, each [T, *batch, H] in [0, 1].

    Raises:
      ValueError: the cell is another one.

    Example:
      >>> from rnn_jax import lstm
      >>> cell = lstm(4)
      >>> gates = gate_values(cell, cell.init(jax.random.key(0), 2), jnp.zeros((5, 2)))
      >>> {name: round(float(gate[0, 0]), 3) for name, gate in gates.items()}
      {'i': 0.5, 'f': 0.731, 'o': 0.5}
    """
    step, names = cell.step, _NAMES.get(type(params).__name__)
    if names is None or not isinstance(step, GatedStep) or getattr(params, "w_peephole", None) is not None:
        raise ValueError(
            "`cell` must be lstm() without peepholes, projection and layer norm, or gru() with the reset after the "
            f"product, got one with parameters of the type {type(params).__name__}"
        )
    start, zs = cell.init_carry(params, xs.shape[1:-1]) if carry is None else carry, cell.project(params, xs)

    def one(carry: Any, z: jax.Array) -> tuple[Any, jax.Array]:
        return step(params, carry, z)[0], step.hidden(carry)

    _, h = lax.scan(one, start, zs, reverse=reverse)
    hz = recurrent(h, step.kernel(params), zs.dtype)
    a = step.gates(step.part(params), zs.astype(hz.dtype), hz)
    a = a[0] if isinstance(a, tuple) else a
    size = step.hidden(start).shape[-1]
    if a.shape[-1] == 3 * size:
        names = names[1:]  # coupled: i = 1 - f
    parts = jnp.split(a, a.shape[-1] // size, axis=-1)
    return {name: jax.nn.sigmoid(part) for name, part in zip(names, parts, strict=True) if name != "g"}


_NAMES = {"LSTMParams": "ifgo", "GRUParams": "rz"}


def memory_steps(keep: jax.Array) -> jax.Array:
    """For how many steps each unit keeps what is in it, by the gate that keeps it.

        tau = -1 / mean(ln f)

    after which exp(-1) is left of a memory that nothing is added to.

    Args:
      keep: [T, ..., H], the f of an LSTM or the z of a GRU, in [0, 1].

    Returns:
      [H], over all axes but the last: 0 where the gate has been shut, infinite where it is always open.

    Example:
      >>> [f"{tau:.2f}" for tau in memory_steps(jnp.array([[0.5, 0.9, 1.0], [0.5, 0.9, 1.0]])).tolist()]
      ['1.44', '9.49', 'inf']
    """
    return 1 / jnp.abs(jnp.log(keep).mean(tuple(range(keep.ndim - 1))))


def saturation(gates: jax.Array, low: float = 0.1, high: float = 0.9) -> tuple[jax.Array, jax.Array]:
    """How often each gate is nearly shut and nearly open, over all axes but the last.

    Args:
      gates: [..., H] in [0, 1].
      low, high: what counts as nearly shut and nearly open.

    Returns:
      two arrays [H] of fractions.

    Example:
      >>> shut, opened = saturation(jnp.array([[0.05, 0.5], [0.95, 0.5]]))
      >>> shut.tolist(), opened.tolist()
      ([0.5, 0.0], [0.5, 0.0])

    References:
      Karpathy, Johnson & Fei-Fei, Visualizing and understanding recurrent networks, 2015, arXiv:1506.02078.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"`low` and `high` must satisfy 0 <= low < high <= 1, got {low} and {high}")
    axes = tuple(range(gates.ndim - 1))
    return (gates < low).mean(axes), (gates > high).mean(axes)
