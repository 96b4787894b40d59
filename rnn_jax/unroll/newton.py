"""`Newton()`: all steps at once. The solution of `h_t = step(h_{t-1}, x_t)` by Newton's method, and its derivative."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import tree
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params, as_cell
from rnn_jax.unroll.block_recurrence import solve_blocks, solve_blocks_transposed, solve_damped
from rnn_jax.unroll.borders import blank
from rnn_jax.unroll.jacobians import (
    Given,
    Packing,
    Parts,
    Steps,
    all_steps,
    block_jacobians,
    entering,
    packing,
    parts_of,
    sweep,
)
from rnn_jax.unroll.run import Run, Sequence, Start, run_linear, run_scan
from rnn_jax.unroll.strategies import Newton


class NewtonInfo(NamedTuple):
    """What Newton's method did, row by row; of a stack there is one for each layer.

    Attributes:
        iterations: int32 [*batch], how many updates a row got before it had converged.
        residual: [*batch], the largest `|h_t - step(h_{t-1}, x_t)| / (1 + |h_t|)` at the end.
        converged: bool [*batch]; where False, results are those of the scan. NaN never counts as converged.
    """

    iterations: Array
    residual: Array
    converged: Array


def in_full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with products in the dtype of their factors, unless the user has chosen otherwise.

    A GPU makes those of float32 in TF32, which rounds iterates by 1e-3: they would not come closer to the solution.
    """

    @functools.wraps(function)
    def of(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision(getattr(jax.config, "jax_default_matmul_precision", None) or "highest"):
            return function(*args, **kwargs)

    return of


@in_full_precision
def run_newton(
    cell: Cell | LinearCell,
    params: Params,
    sequence: Sequence,
    start: Start,
    reverse: bool,
    keep: bool,
    method: Newton,
) -> Run:
    """Runs one cell by Newton's method; `Run.info` has the `NewtonInfo`.

    A `LinearCell` is solved by its own recurrence, and a cell without a carry has nothing to solve: no iterations.

    Raises:
        ValueError: the step has no forward-mode derivative, or blocks do not divide the carry.
    """
    batch_shape = sequence.xs.shape[1:-1]
    stepped = as_cell(cell) if isinstance(cell, LinearCell) else cell
    rows = batch_shape[: len(batch_shape) - stepped.spatial_axes]
    leaves = jax.tree.leaves(start.carry)
    if isinstance(cell, LinearCell) or sequence.xs.shape[0] == 0 or not leaves:
        nothing = jnp.zeros(rows, leaves[0].real.dtype if leaves else None)
        info = NewtonInfo(jnp.zeros(rows, jnp.int32), nothing, jnp.ones(rows, bool))
        if isinstance(cell, LinearCell):
            return run_linear(cell, params, sequence, start, reverse, keep)._replace(info=info)
        return run_scan(stepped, params, sequence, start, reverse, keep)._replace(info=info)
    params = tree.with_per_step(params, sequence.noise)
    steps, guess = Steps(cell.project(params, sequence.xs), sequence.real, sequence.fresh), start.guess
    if reverse:
        steps, guess = _flip((steps, guess))
    parts, given = parts_of(cell, params), Given(params, start.initial, start.carry)
    try:
        carries, info = solve_in_time(parts, given, steps, rows, method, guess)
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise ValueError(
            "`method` Newton() needs forward-mode derivatives of `cell.step`, got a step with a custom_vjp in it, such "
            "as that of with_clipped_gradient. Use Scan() or Chunked(size)."
        ) from error
    hs = all_steps(parts, given, entering(given, carries, steps.fresh), steps)[1]
    carry = jax.tree.map(lambda leaf: leaf[-1], carries)
    if reverse:
        carries, hs = _flip((carries, hs))
    ys = blank(sequence.real, cell.readout(params, hs, sequence.xs))
    return Run(carry=carry, ys=ys, carries=carries if keep else None, info=info)


def solve_in_time(
    parts: Parts,
    given: Given,
    steps: Steps,
    rows: tuple[int, ...],
    method: Newton,
    guess: Carry | None = None,
    *,
    fall_back: bool = True,
) -> tuple[Carry, NewtonInfo]:
    """The carries after all steps, and how they were found.

    Args:
        parts: of the step.
        given: what all steps share.
        steps: leaves [T, ...], T at least 1.
        rows: the batch axes whose rows know nothing of each other.
        method: the strategy.
        guess: carries to start from, leaves [T, *batch, ...]; if None, what each step makes of the first carry.
        fall_back: whether rows that did not converge are scanned.

    Returns:
        `(carries, info)`. Derivatives are those of the exact solution: the tangents of the carries solve one linear
        recurrence with the Jacobians at the solution.
    """
    packed = packing(given.carry, rows, {"dense": 1, "diagonal": None}.get(method.jacobian, method.num_blocks))

    @jax.custom_jvp
    def solve(given: Given, steps: Steps, guess: Array) -> tuple[Array, NewtonInfo]:
        states, info = iterate(parts, packed, given, steps, guess, method)
        if not fall_back:
            return states, info

        def scanned() -> Array:
            return jnp.where(_over_rows(info.converged), states, scan(parts, packed, given, steps))

        return lax.cond(info.converged.all(), lambda: states, scanned), info

    @solve.defjvp
    @in_full_precision  # jax may call it later
    def _(primals: tuple[Given, Steps, Array], tangents: tuple[Given, Steps, Array]) -> Any:
        given, steps, _ = primals
        states, info = solve(*primals)
        direct = jax.jvp(lambda given, steps: sweep(parts, packed, given, steps, states), primals[:2], tangents[:2])[1]
        through = jax.linearize(lambda states: sweep(parts, packed, given, steps, states), states)[1]
        preconditioner = lax.stop_gradient(block_jacobians(parts, packed, given, steps, states))
        exact = packed.num_blocks == 1

        def walk(r: Array) -> Array:
            zeros = jnp.zeros_like(states)
            return jax.jvp(lambda added: scan(parts, packed, given, steps, added), (zeros,), (r,))[1]

        def solver(precondition: Callable[[Array, Array], Array], walk: Callable[[Array], Array]) -> Any:
            if exact:
                return lambda _, r: precondition(preconditioner, r)
            return lambda operator, r: _refine(operator, lambda r: precondition(preconditioner, r), walk, r, method)

        walk_back = lambda r: jax.linear_transpose(walk, r)(r)[0]  # noqa: E731
        states_dot = lax.custom_linear_solve(
            lambda d: d - through(d),
            direct,
            solver(solve_blocks, walk),
            solver(solve_blocks_transposed, walk_back),
        )
        none = jnp.zeros(info.converged.shape, jax.dtypes.float0)
        return (states, info), (states_dot, NewtonInfo(none, jnp.zeros_like(info.residual), none))

    if guess is None:
        length = jax.tree.leaves(steps)[0].shape[0]
        same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (length, *leaf.shape)), given.carry)
        guess = all_steps(parts, given, entering(given, same, steps.fresh), steps)[0]
    states, info = solve(given, steps, lax.stop_gradient(packed.pack(guess)))
    return packed.unpack(states), info


def iterate(
    parts: Parts, packed: Packing, given: Given, steps: Steps, guess: Array, method: Newton
) -> tuple[Array, NewtonInfo]:
    """Newton's iterations, until every row has converged or there have been `max_iters`.

    An iterate may lie where a step is not meant to be taken: where the normaliser of an sLSTM is negative, the next
    h is 1e308. What comes out too far from the guess, or as NaN, is replaced by the step of the last iterate, which is
    right for one step more in any case, and if that is no better by the guess.

    Returns:
        The packed carries [T, *rows, K, d], one plain step after the last iterate, and what happened.
    """
    tolerance, furthest = _tolerance(method, guess), 1 / float(jnp.finfo(guess.dtype).eps)
    guess = jnp.where(jnp.abs(guess) <= furthest, guess, 0)

    def near(states: Array) -> Array:
        return jnp.abs(states - guess) <= furthest * (1 + jnp.abs(guess))  # False where NaN

    def look(states: Array) -> tuple[Array, Array]:
        values = sweep(parts, packed, given, steps, states)
        return values, _largest(values - states, states)

    def unfinished(loop: Any) -> Array:
        turn, residual = loop[0], loop[-1]
        return (turn < method.max_iters) & ~(residual <= tolerance).all()

    def improve(loop: Any) -> Any:
        turn, iterations, states, values, residual = loop
        blocks, r = block_jacobians(parts, packed, given, steps, states), values - states
        better = states + (solve_damped(blocks, r, method.damping) if method.damping else solve_blocks(blocks, r))
        better = jnp.where(near(better), better, jnp.where(near(values), values, guess))
        done = residual <= tolerance
        states = jnp.where(_over_rows(done), states, better)
        return (turn + 1, iterations + (~done).astype(jnp.int32), states, *look(states))

    values, residual = look(guess)
    loop = (jnp.int32(0), jnp.zeros(residual.shape, jnp.int32), guess, values, residual)
    _, iterations, _, values, residual = lax.while_loop(unfinished, improve, loop)
    return values, NewtonInfo(iterations, residual, residual <= tolerance)


def scan(parts: Parts, packed: Packing, given: Given, steps: Steps, added: Array | None = None) -> Array:
    """The packed carries step by step, with `added` [T, *rows, K, d] put onto them after each step."""

    def body(carry: Carry, one: tuple[Steps, Array | None]) -> tuple[Carry, Array]:
        (z, real, fresh), extra = one
        before = carry if fresh is None else tree.where(fresh, given.initial, carry)
        after = parts.rest(given.params, before, parts.reach(given.params, before, z), z)[0]
        after = packed.pack(after if real is None else tree.where(real, after, before))
        after = after if extra is None else after + extra
        return packed.unpack(after), after

    return lax.scan(body, given.carry, (steps, added))[1]


def _refine(
    operator: Callable[[Array], Array],
    precondition: Callable[[Array], Array],
    walk: Callable[[Array], Array],
    r: Array,
    method: Newton,
) -> Array:
    """Solves `operator(d) = r` by `d += precondition(r - operator(d))`, or by a walk where that does not converge.

    The tolerance is one for what is as large as r and d: a gradient of a mean is small everywhere.
    """
    tolerance, size = _tolerance(method, r), jnp.abs(r).max(_not_rows(r), keepdims=True)

    def unfinished(loop: Any) -> Array:
        turn, _, _, largest = loop
        return (turn < method.max_iters) & ~(largest <= tolerance).all()

    def improve(loop: Any) -> Any:
        turn, d, rest, _ = loop
        d = d + precondition(rest)
        rest = r - operator(d)
        return turn + 1, d, rest, largest_of(rest, d)

    def largest_of(rest: Array, d: Array) -> Array:
        return _largest(rest, d, jnp.where(size > 0, size, 1))

    nothing = jnp.zeros_like(r)
    loop = (jnp.int32(0), nothing, r, largest_of(r, nothing))
    _, d, _, largest = lax.while_loop(unfinished, improve, loop)
    return lax.cond((largest <= tolerance).all(), lambda: d, lambda: walk(r))


def _largest(difference: Array, states: Array, size: Array | float = 1.0) -> Array:
    """The largest `|difference| / (size + |states|)` of each row; NaN if there is one."""
    axes = _not_rows(difference)
    each = jnp.abs(difference) / (size + jnp.abs(states))
    return jnp.where(jnp.isnan(each).any(axes), jnp.nan, each.max(axes))  # XLA's fast maximum passes over NaN


def _tolerance(method: Newton, states: Array) -> float:
    return method.tol or float(jnp.finfo(states.dtype).eps) ** 0.75


def _not_rows(packed: Array) -> tuple[int, int, int]:
    """The axes of packed carries [T, *rows, K, d] that are not rows."""
    return 0, packed.ndim - 2, packed.ndim - 1


def _over_rows(flags: Array) -> Array:
    """Flags [*rows] against packed carries [T, *rows, K, d]."""
    return lax.expand_dims(flags, (0, flags.ndim + 1, flags.ndim + 2))


def _flip(carries: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.flip(leaf, 0), carries)
