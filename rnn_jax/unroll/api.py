"""`unroll`, `unroll_carries`, `unroll_newton` and `stream_step`."""

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks, tree
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params, as_cell
from rnn_jax.unroll.borders import blank, crossings, real_steps
from rnn_jax.unroll.dispatch import run
from rnn_jax.unroll.run import Run, Sequence, Start
from rnn_jax.unroll.strategies import Auto, Newton, Strategy


def unroll(
    cell: Cell | LinearCell,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    method: Strategy = Auto(),
) -> tuple[Carry, Array]:
    """Runs a cell over a sequence. Equal to

        carry = cell.init_carry(params, batch_shape)
        for t in range(T):
            carry, ys[t] = stream_step(cell, params, carry, xs[t])

    whatever the strategy.

    Args:
        cell: a `Cell`, a `LinearCell`, or a `stack` of them, which is run layer by layer.
        params: its parameters.
        xs: [T, *batch, I], floating. T may be 0.
        carry: where to start; by default the cell's initial carry.
        lengths: integers in [0, T], shaped like the batch or its leading axes: steps from there on are padding. On
            padding the carry is frozen and outputs are zero; whatever xs holds there (NaN too) harms neither values
            nor gradients. Length 0 returns the carry it started with.
        mask: boolean [T, *batch] or [T, *leading batch axes], True = real: padding at any position, as if the other
            steps were not there.
        resets: boolean, shaped like `mask`: where True, the cell's initial carry (not `carry`) comes back before that
            step, so one row may hold many sequences. Walking backwards the same borders separate the same sequences.
        reverse: walk from the last real step to the first; ys[t] still belongs to xs[t].
        method: `Auto()`, `Scan()`, `Chunked(size)`, `Recursive(budget)`, `Associative()`, `Newton()`,
            `Sharded(mesh, axis)` or `Cudnn()`.

    Returns:
        `(carry, ys)`: the carry after the last real step, and ys [T, *batch, O] in the dtype of xs.

    Raises:
        ValueError: names the argument, what was expected and what came. Lengths that are traced cannot be checked:
            there a length beyond T counts as T, a negative one as 0.

    Example:
        >>> from rnn_jax import gru
        >>> cell = gru(8)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> xs = jax.random.normal(jax.random.key(1), (5, 2, 3))
        >>> carry, ys = unroll(cell, params, xs, lengths=jnp.array([5, 2]))
        >>> ys.shape, bool((ys[2:, 1] == 0).all()), bool((ys[1, 1] == carry[1]).all())
        ((5, 2, 8), True, True)
    """
    result = _unroll(cell, params, xs, carry, lengths, mask, resets, reverse, method, keep=False)
    return result.carry, result.ys


def unroll_carries(
    cell: Cell | LinearCell,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    method: Strategy = Auto(),
) -> tuple[Carry, Array, Carry]:
    """`unroll`, and the carry after every step as well.

    Args:
        cell, params, xs, carry, lengths, mask, resets, reverse, method: as in `unroll`.

    Returns:
        `(carry, ys, carries)`: every leaf of `carries` is [T, *batch, ...]; on padding it repeats.

    Raises:
        ValueError: as `unroll`.
    """
    result = _unroll(cell, params, xs, carry, lengths, mask, resets, reverse, method, keep=True)
    return result.carry, result.ys, result.carries


def unroll_newton(
    cell: Cell | LinearCell,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    guess: Carry | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    method: Newton = Newton(),
) -> tuple[Carry, Array, Carry, Any]:
    """`unroll_carries` by Newton's method, and what it did: how many iterations, and whether they converged.

    Args:
        cell, params, xs, carry, lengths, mask, resets, reverse: as in `unroll`.
        guess: carries [T, *batch, ...] to begin with, such as those of the same sequences at the last training step:
            the closer they are, the fewer iterations. No gradient flows into it. By default what each step makes of
            the first carry.
        method: the strategy.

    Returns:
        `(carry, ys, carries, info)`: info is a `NewtonInfo(iterations, residual, converged)`, or for a stack a tuple
        of them, one a layer.

    Raises:
        ValueError: as `unroll`.

    Example:
        >>> from rnn_jax import gru
        >>> cell = gru(8)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> xs = jax.random.normal(jax.random.key(1), (1000, 2, 3))
        >>> carry, ys, carries, info = unroll_newton(cell, params, xs)
        >>> bool(info.converged.all()), bool((info.iterations <= 6).all())
        (True, True)
        >>> again = unroll_newton(cell, params, xs, guess=carries)[3]
        >>> bool((again.iterations <= 1).all())
        True
    """
    if not isinstance(method, Newton):
        raise ValueError(f"`method` must be Newton(), got {checks.describe(method)}")
    result = _unroll(cell, params, xs, carry, lengths, mask, resets, reverse, method, keep=True, guess=guess)
    return result.carry, result.ys, result.carries, result.info


def stream_step(cell: Cell | LinearCell, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
    """One step of a cell, for sequences that arrive in real time. T of them equal one `unroll`.

    Args:
        cell: a `Cell`, a `LinearCell` or a `stack`.
        params: its parameters; `cell.prepare(params)`, once, spares a `Cell` work on them at every step.
        carry: from `cell.init_carry(params, batch_shape)` or the last call.
        x: [*batch, I], floating.

    Returns:
        `(carry, y)`, y [*batch, O].

    Raises:
        ValueError: if the carry does not fit the cell or the batch.

    Example:
        >>> from rnn_jax import lstm
        >>> cell = lstm(8)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> carry, y = stream_step(cell, params, cell.init_carry(params, (2,)), jnp.zeros((2, 3)))
        >>> y.shape
        (2, 8)
    """
    checks.is_cell(cell)
    if isinstance(cell, LinearCell):
        cell = as_cell(cell)
    x = jnp.asarray(x)
    checks.one_step("x", x)
    expected = jax.eval_shape(lambda: _initial_carry(cell, params, x))
    checks.carry_like(carry, expected)
    carry = jax.tree.map(lambda leaf, like: jnp.asarray(leaf).astype(like.dtype), carry, expected)
    carry, h = cell.step(params, carry, cell.project(params, x))
    return carry, cell.readout(params, h, x)


def _initial_carry(cell: Cell | LinearCell, params: Params, x: Array) -> Carry:
    """The initial carry for the batch of x, at least as wide as x."""
    return tree.widen(cell.init_carry(params, x.shape[:-1]), x.dtype)


def _unroll(
    cell: Cell | LinearCell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    lengths: Array | None,
    mask: Array | None,
    resets: Array | None,
    reverse: bool,
    method: Strategy,
    *,
    keep: bool,
    guess: Carry | None = None,
) -> Run:
    """Checks everything, then unrolls the cell, or the layers of a stack one after another."""
    checks.is_cell(cell)
    checks.sequence("xs", xs)
    xs = jnp.asarray(xs)
    if not isinstance(method, Strategy):
        options = "Auto(), Scan(), Chunked(size), Recursive(budget), Associative(), Newton(), Cudnn()"
        raise ValueError(f"`method` must be one of {options} or Sharded(mesh, axis), got {checks.describe(method)}")
    num_steps, batch_shape = xs.shape[0], xs.shape[1:-1]
    real = real_steps(lengths, mask, num_steps, batch_shape)
    if resets is not None:
        resets = checks.step_mask("resets", resets, num_steps, batch_shape)
    fresh = crossings(resets, real, reverse)
    if carry is not None or guess is not None:
        expected = jax.eval_shape(lambda: _initial_carry(cell, params, xs[:1].sum(0)))
        per_step = lambda leaf: jax.ShapeDtypeStruct((num_steps, *leaf.shape), leaf.dtype)  # noqa: E731
        if carry is not None:
            checks.carry_like(carry, expected)
        if guess is not None:
            checks.carry_like(guess, jax.tree.map(per_step, expected), "guess")
    return _unroll_layers(cell, params, xs, Start(carry, None, guess), real, fresh, reverse, method, keep)


def _unroll_layers(
    cell: Cell | LinearCell,
    params: Params,
    xs: Array,
    start: Start,
    real: Array | None,
    fresh: Array | None,
    reverse: bool,
    method: Strategy,
    keep: bool,
) -> Run:
    layers = () if isinstance(cell, LinearCell) else cell.layers
    if not layers:
        return _unroll_one(cell, params, xs, start, real, fresh, reverse, method, keep)
    runs = []
    for index, (one, one_params) in enumerate(zip(layers, params, strict=True)):
        one_xs = runs[-1].ys if runs else xs
        one_start = Start(*(None if part is None else part[index] for part in start))
        runs.append(_unroll_layers(one, one_params, one_xs, one_start, real, fresh, reverse, method, keep))
    ys = cell.readout(params, runs[-1].ys, blank(real, xs))
    return Run(
        carry=tuple(r.carry for r in runs),
        ys=blank(real, ys),
        carries=tuple(r.carries for r in runs) if keep else None,
        info=tuple(r.info for r in runs),
    )


def _unroll_one(
    cell: Cell | LinearCell,
    params: Params,
    xs: Array,
    start: Start,
    real: Array | None,
    fresh: Array | None,
    reverse: bool,
    method: Strategy,
    keep: bool,
) -> Run:
    """Unrolls one cell."""
    noise = tree.per_step(params)
    checks.noise_steps(noise, xs.shape[0])
    if isinstance(cell, Cell):
        params = cell.prepare(params)
    initial = tree.widen(cell.init_carry(params, xs.shape[1:-1]), xs.dtype)

    def like_initial(carry: Carry) -> Carry:
        return jax.tree.map(lambda leaf, like: jnp.asarray(leaf).astype(like.dtype), carry, initial)

    carry = initial if start.carry is None else like_initial(start.carry)
    guess = None if start.guess is None else like_initial(start.guess)
    sequence = Sequence(xs=blank(real, xs), real=real, fresh=fresh, noise=noise)
    return run(cell, params, sequence, Start(carry, initial, guess), reverse, keep, method)
