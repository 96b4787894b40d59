"""`Cudnn()`: the LSTM kernel of cuDNN, on the parameters of our `lstm`.

Without a GPU the tests put the reference implementation of `jax.experimental.rnn` in the place of the kernel; on an
H200 values and gradients equalled those of `Scan()` to 3e-7.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from rnn_jax import checks
from rnn_jax.gated_step import GatedStep, Projection
from rnn_jax.tree import expand, where
from rnn_jax.types import Array, Cell, LinearCell, Params, take_x
from rnn_jax.unroll.borders import blank
from rnn_jax.unroll.run import Run, Sequence, Start, run_scan


def run_cudnn(
    cell: Cell | LinearCell,
    params: Params,
    sequence: Sequence,
    start: Start,
    reverse: bool,
    keep: bool,
) -> Run:
    """Runs a plain LSTM by the kernel, and a cell without a carry as it is.

    The kernel knows lengths and one direction, so steps go to it in the order of processing, the real ones first.

    Raises:
        ValueError: for all that the kernel cannot do, and where there is no GPU.
    """
    if isinstance(cell, LinearCell) or (jax.tree.leaves(start.carry) and not _is_plain_lstm(cell)):
        raise ValueError(
            "`method` Cudnn() needs a plain lstm(hidden_size), the one cell that jax has a kernel for: without "
            "peephole, projection, coupled, layer_norm and cell_clip, and not wrapped (as with_dropout does); this "
            f"cell, with parameters {type(params).__name__}, is another one. Use Scan()."
        )
    if not jax.tree.leaves(start.carry):
        return run_scan(cell, params, sequence, start, reverse, keep)
    _check_call(params, sequence, start, keep)
    num_steps, *batch_shape, input_size = sequence.xs.shape
    if 0 in (num_steps, *batch_shape):
        return run_scan(cell, params, sequence, start, reverse, keep)

    xs = sequence.xs.reshape(num_steps, -1, input_size)
    num_rows, hidden_size = xs.shape[1], start.carry.h.shape[-1]
    begin = jax.tree.map(lambda leaf: leaf.reshape(num_rows, hidden_size), start.carry)
    if sequence.real is None:
        lengths = jnp.full(num_rows, num_steps, jnp.int32)
        carry, hs = _run_kernel(params, xs[::-1] if reverse else xs, begin, lengths)
        hs = hs[::-1] if reverse else hs
    else:
        real = jnp.broadcast_to(expand(sequence.real, sequence.xs[..., 0]), (num_steps, *batch_shape))
        real = real.reshape(num_steps, num_rows)
        lengths = real.sum(0, dtype=jnp.int32)
        order = _order(real, reverse)
        # A row without a step keeps its carry; whether the kernel takes lengths of 0 is not documented.
        carry, hs = _run_kernel(params, _at(xs, order), begin, jnp.maximum(lengths, 1))
        carry = where(lengths > 0, carry, begin)
        hs = _at(hs, jnp.argsort(order, axis=0))
    ys = cell.readout(params, hs.reshape(num_steps, *batch_shape, hidden_size), sequence.xs)
    carry = jax.tree.map(lambda leaf: leaf.reshape(*batch_shape, hidden_size), carry)
    return Run(carry=carry, ys=blank(sequence.real, ys), carries=None)


def weight_blob(params: Any) -> Array:
    """The parameters of a plain `lstm` in the layout of cuDNN: W_x, W_h, b and a second bias, which is zero.

    Both have the gates i, f, g, o; kernels are transposed. Gradients flow back to the parameters.

    Args:
        params: `LSTMParams` without options.

    Returns:
        [4H (I + H + 2)], as `jax.experimental.rnn` describes it.
    """
    return jnp.concatenate([params.w_x.T.ravel(), params.w_h.T.ravel(), params.b, jnp.zeros_like(params.b)])


def _run_kernel(params: Any, xs: Array, carry: Any, lengths: Array) -> tuple[Any, Array]:
    """The kernel on xs [T, rows, I], carry [rows, H] and lengths [rows]: `(carry, hs)`."""
    from jax.experimental import rnn  # experimental: what does not use it should not depend on it

    input_size, hidden_size = params.w_x.shape[0], params.w_h.shape[0]
    batch_major, blob = _row_major(jnp.swapaxes(xs, 0, 1)), weight_blob(params)
    sizes = (input_size, hidden_size, 1, 0.0, False)  # one layer, no dropout, not bidirectional
    hs, h, c = rnn.lstm(batch_major, carry.h[None], carry.c[None], blob, lengths, *sizes)
    return carry._replace(h=h[0], c=c[0]), jnp.swapaxes(_row_major(hs), 0, 1)


def _row_major(leaf: Array) -> Array:
    """The array, and its gradient, in the order in which the kernel reads them, of which jax does not tell XLA."""
    return with_layout_constraint(leaf, Layout(major_to_minor=tuple(range(leaf.ndim))))


def _is_plain_lstm(cell: Cell) -> bool:
    """Whether a cell is made of the functions of a plain `lstm`; options and wrappers put others in their place."""

    def is_lstm(function: Any, name: str) -> bool:
        at = (getattr(function, "__module__", None), getattr(function, "__qualname__", None))
        return at == ("rnn_jax.cells.lstm", name)

    rule = cell.step.rule if isinstance(cell.step, GatedStep) else None
    project = cell.project
    if rule is None or not isinstance(project, Projection) or project.enter is not take_x:
        return False
    made_by = {"_plain": rule.forward, "lstm.<locals>.project": project.rows, "lstm.<locals>.<lambda>": project.part}
    return all(is_lstm(function, name) for name, function in made_by.items())


def _check_call(params: Params, sequence: Sequence, start: Start, keep: bool) -> None:
    """Checks what is asked of a plain LSTM, and last that there is a GPU."""
    if keep:
        raise ValueError("`method` Cudnn() has no carry but the last one: its kernel keeps c to itself. Use Scan().")
    if sequence.fresh is not None:
        raise ValueError("`resets` are more than the kernel of `method` Cudnn() knows, which is lengths. Use Scan().")
    for name, part in {"xs": sequence.xs, "params": params, "carry": start.carry}.items():
        for leaf in jax.tree.leaves(part):
            if leaf.dtype != jnp.float32:
                raise ValueError(f"`{name}` must be float32 for `method` Cudnn(), got {checks.describe(leaf)}")
    if sequence.xs.shape[-1] == 0:
        raise ValueError(f"`xs` must have features for `method` Cudnn(), got {checks.describe(sequence.xs)}")
    backend = jax.default_backend()
    if backend != "gpu":
        raise ValueError(f"`method` Cudnn() needs an NVIDIA GPU, got the backend {backend!r}. Use Auto() or Scan().")


def _order(real: Array, reverse: bool) -> Array:
    """Steps [T, rows] in the order of processing, those that are not real behind all others."""
    turn = jnp.arange(real.shape[0], dtype=jnp.int32)[:, None]
    turn = turn[::-1] if reverse else turn
    return jnp.argsort(jnp.where(real, turn, turn + real.shape[0]), axis=0)


def _at(leaf: Array, steps: Array) -> Array:
    """`leaf` [T, rows, features] at steps [T, rows]."""
    return jnp.take_along_axis(leaf, steps[..., None], axis=0)
