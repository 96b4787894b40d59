"""The gradient of the scan of a `GatedStep` or a `ProductStep`: a loop backwards, and products for each chunk of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import tree
from rnn_jax.gated_step import GatedStep, ProductStep
from rnn_jax.types import Array, Carry, Params
from rnn_jax.unroll.product_gradient import kernel_gradients, pull, transpose
from rnn_jax.unroll.shards import Shards
from rnn_jax.unroll.walk import Walk, at, room, zeros

Project = Callable[[Params, Array], Array]
"""`(params, xs) -> zs`, row by row."""


class Given(NamedTuple):
    """What the result depends on.

    Attributes:
        kernel: of the step; a `ProductStep` has several.
        params: what the step knows of the parameters.
        inputs: what the projection knows of them.
        start: the carry to start with, and the one that comes back before fresh steps.
        xs: [T, *batch, I].
    """

    kernel: Any
    params: Params
    inputs: Params
    start: tuple[Carry, Carry]
    xs: Array


class Marks(NamedTuple):
    """Which steps are real, and which are fresh: [T, *leading batch axes] or None."""

    real: Array | None
    fresh: Array | None


class Past(NamedTuple):
    """What a walk leaves behind: what it was given, the carry after each step, and what each step kept."""

    given: Given
    marks: Marks
    carries: Carry
    kept: Any


class Bars(NamedTuple):
    """Gradients by the result: by the last carry, by all h, and by the leaves of all carries; None is zero."""

    carry: Carry
    hs: Array | None
    carries: list[Array | None]


def pull_back(step: GatedStep | ProductStep, project: Project, past: Past, walk: Walk, bars: Bars) -> Given:
    """Gradients by what the result depends on, from those by the result. `walk` is that of the steps forwards."""
    given, back = past.given, walk._replace(reverse=not walk.reverse)
    z_like = jax.eval_shape(lambda: project(given.inputs, given.xs)[0])
    shards = Shards(given.xs.shape[1:-1])
    # Turned once, not at every step.
    transposed = lax.optimization_barrier(jax.tree.map(lambda w: transpose(w, z_like.dtype), given.kernel))
    empty = lambda leaf: zeros(leaf.shape, leaf.dtype, given.xs)  # noqa: E731
    nothing = jax.tree.map(empty, (given.start[1], given.params))
    state = (bars.carry, *nothing)
    a_like = jax.eval_shape(lambda state: _step_back(step, past, walk, bars, transposed, state, 0)[1], state)

    def chunk(state: Any, first: Any, count: int) -> Any:
        def one(step_bars: Any, t: Any, k: Any) -> Any:
            return _step_back(step, past, walk, bars, transposed, step_bars, t)

        step_bars, a_bars = back.steps(one, state[0], room(a_like, count, given.xs), first, count)
        hs = None if isinstance(step, ProductStep) else _all_entering(step, past, walk, first, count)
        rows = shards.rows((a_bars, hs, back.part(given.xs, first, count)))
        *more, xs_bar = shards.each(_products, step, project, given.kernel, given.params, given.inputs)(*rows)
        sums = jax.tree.map(jnp.add, state[1], tuple(more))
        xs_bar = shards.unrows(xs_bar, (count, *given.xs.shape[1:]))
        return (
            step_bars,
            sums,
            lax.dynamic_update_slice_in_dim(state[2], xs_bar, first, 0, allow_negative_indices=False),
        )

    dtype = step.hidden(given.start[0]).dtype
    wide_kernel = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, dtype), given.kernel)
    sums = jax.tree.map(empty, shards.room((wide_kernel, given.params, given.inputs)))
    state = (state, sums, empty(given.xs))
    (start_bar, initial_bar, params_bar), sums, xs_bar = back.chunks(chunk, state)
    kernel_bar, more, inputs_bar = shards.total(sums)
    return Given(
        kernel=jax.tree.map(lambda bar, w: bar.astype(w.dtype), kernel_bar, given.kernel),
        params=jax.tree.map(jnp.add, params_bar, more),
        inputs=inputs_bar,
        start=(start_bar, initial_bar),
        xs=xs_bar,
    )


def _entering(past: Past, walk: Walk, t: Any) -> Carry:
    """The carry that entered step t."""
    last = walk.num_steps - 1
    first, earlier = (last, jnp.minimum(t + 1, last)) if walk.reverse else (0, jnp.maximum(t - 1, 0))
    start, initial = past.given.start
    before = jax.tree.map(lambda start, row: jnp.where(t == first, start, row), start, at(past.carries, earlier))
    return before if past.marks.fresh is None else tree.where(at(past.marks.fresh, t), initial, before)


def _all_entering(step: GatedStep, past: Past, walk: Walk, first: Any, count: int) -> Array:
    """The h that entered each step of a chunk."""
    start, initial = (step.hidden(carry) for carry in past.given.start)
    hs, last = step.hidden(past.carries), walk.num_steps - 1
    border = first + count if walk.reverse else first - 1
    before = jnp.where((border < 0) | (border > last), start, at(hs, jnp.clip(border, 0, last)))[None]
    inside = lax.dynamic_slice_in_dim(hs, first + int(walk.reverse), count - 1, allow_negative_indices=False)
    hs = jnp.concatenate([inside, before] if walk.reverse else [before, inside])
    fresh = past.marks.fresh
    return hs if fresh is None else jnp.where(tree.expand(walk.part(fresh, first, count), hs), initial[None], hs)


def _step_back(
    step: GatedStep | ProductStep,
    past: Past,
    walk: Walk,
    bars: Bars,
    transposed: Any,
    state: tuple[Carry, Carry, Params],
    t: Any,
) -> tuple[tuple[Carry, Carry, Params], Any]:
    """One step of the loop backwards.

    Args:
        step, past, walk, bars: as in `pull_back`.
        transposed: the kernel [G, H], or all of them.
        state: gradients by the carry after the step, the initial carry, and the parameters of the step.
        t: the step.

    Returns:
        the state before the step, and the gradient by a, or the `Rows` of a `ProductStep`.
    """
    carry_bar, initial_bar, params_bar = state
    params, (real, fresh) = past.given.params, past.marks
    before, after, kept = _entering(past, walk, t), at(past.carries, t), at(past.kept, t)
    if bars.hs is not None:
        carry_bar = _add_hidden(step, carry_bar, at(bars.hs, t).astype(step.hidden(before).dtype), before)
    leaves, structure = jax.tree.flatten(carry_bar)
    rows = [leaf if rows is None else leaf + at(rows, t) for leaf, rows in zip(leaves, bars.carries, strict=True)]
    carry_bar = jax.tree.unflatten(structure, rows)
    nothing = jax.tree.map(lambda leaf: zeros(leaf.shape, leaf.dtype, leaf), carry_bar)
    step_bar = carry_bar if real is None else tree.where(at(real, t), carry_bar, nothing)
    if isinstance(step, ProductStep):
        more, before_bar, a_bar = pull(step, params, transposed, before, kept, step_bar)
    else:
        more, before_bar, a_bar = _pull_gates(step, params, transposed, (before, after, kept), step_bar)
    params_bar = jax.tree.map(jnp.add, params_bar, more) if more is not None else params_bar
    if real is not None:
        before_bar = jax.tree.map(jnp.add, before_bar, tree.where(at(real, t), nothing, carry_bar))
    if fresh is not None:
        initial_bar = jax.tree.map(jnp.add, initial_bar, tree.where(at(fresh, t), before_bar, nothing))
        before_bar = tree.where(at(fresh, t), nothing, before_bar)
    return (before_bar, initial_bar, params_bar), a_bar


def _pull_gates(
    step: GatedStep, params: Params, transposed: Array, past: tuple[Carry, Carry, Any], step_bar: Carry
) -> tuple[Params | None, Carry, Any]:
    """Gradients by the parameters of `after`, the carry before a step, and a."""
    before, after, kept = past
    hidden, more = step.hidden(before), None
    if step.rule is None:
        more, before_bar, a_bar = jax.vjp(step.after, params, before, kept)[1](step_bar)
    else:
        before_bar, a_bar = step.rule.pull(kept, before, after, step_bar)
    # Else XLA puts the gates together where they are used, once for every element of a product.
    a_bar = lax.optimization_barrier(a_bar)
    nothing_z = zeros((*hidden.shape[:-1], transposed.shape[0]), hidden.dtype, hidden)
    (hz_bar,) = jax.vjp(lambda hz: step.gates(params, nothing_z, hz), nothing_z)[1](a_bar)
    h_bar = _dot(hz_bar.astype(transposed.dtype), transposed, hz_bar.ndim - 1, hidden.dtype)
    return more, _add_hidden(step, before_bar, h_bar, before), a_bar


def _add_hidden(step: GatedStep | ProductStep, carry_bar: Carry, h_bar: Array, like: Carry) -> Carry:
    """With a gradient by h added to that by the carry it is a leaf of."""
    return jax.tree.map(jnp.add, carry_bar, jax.linear_transpose(step.hidden, like)(h_bar)[0])


def _products(
    step: GatedStep | ProductStep,
    project: Project,
    kernel: Any,
    params: Params,
    inputs: Params,
    a_bars: Any,
    hs: Any,
    xs: Array,
) -> tuple[Any, Params, Params, Array]:
    """Gradients by the kernel, the parameters of step and projection, and xs, of rows [rows, features]."""
    zs, project_back = jax.vjp(project, inputs, xs)
    if isinstance(step, ProductStep):
        gates_bar = jax.tree.map(lambda leaf: zeros(leaf.shape, leaf.dtype, xs), params)
        kernel_bar, zs_bar = kernel_gradients(kernel, a_bars, zs.dtype), a_bars.z
    else:
        nothing = zeros(zs.shape, hs.dtype, hs)
        gates_bar, zs_bar, hz_bar = jax.vjp(step.gates, params, nothing, nothing)[1](a_bars)
        kernel_bar = _dot(hs.astype(zs.dtype), hz_bar.astype(zs.dtype), 0, hs.dtype)
    inputs_bar, xs_bar = project_back(zs_bar.astype(zs.dtype))
    return kernel_bar, gates_bar, inputs_bar, xs_bar


def _dot(a: Array, b: Array, axis: int, dtype: Any) -> Array:
    """Contracts an axis of a with the first one of b."""
    return lax.dot_general(a, b, (((axis,), (0,)), ((), ())), preferred_element_type=dtype)
