"""The gradient of the scan of a `GatedStep`: a loop backwards, and products for each chunk of it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import tree
from rnn_jax.gated_step import GatedStep
from rnn_jax.types import Array, Carry, Params
from rnn_jax.unroll.walk import Walk, at, put, room


def pull_back(
    step: GatedStep, given: Any, marks: Any, walk: Walk, carries: Carry, kept: Any, bars: Any
) -> Any:
    """From gradients by the result to those by what it depends on.

    Args:
        step: the step.
        given: a `Given`: kernel, parameters, start and xs.
        marks: which steps are real, and which fresh.
        walk: how the steps were walked.
        carries: after each step.
        kept: what each step kept.
        bars: gradients by `(carry, (hs, carries or None))`.

    Returns:
        a `Given` of gradients.
    """
    back = walk.back()
    carry_bar, (hs_bar, carries_bar) = bars
    last = walk.num_steps - 1
    dtype = hs_bar.dtype
    kernel = given.kernel.astype(dtype)
    transposed = lax.optimization_barrier(kernel.T)  # turned once, not at every step
    split = splits(given.xs.shape[1:-1])

    def before_step(t: Any) -> Carry:
        first, earlier = (last, jnp.minimum(t + 1, last)) if walk.reverse else (0, jnp.maximum(t - 1, 0))
        before = jax.tree.map(lambda start, row: jnp.where(t == first, start, row), given.start[0], at(carries, earlier))
        return before if marks.fresh is None else tree.where(at(marks.fresh, t), given.start[1], before)

    def one_back(bar: tuple[Carry, Carry, Params], t: Any) -> tuple[Any, tuple[Any, Array]]:
        """Before the step, from after it: gradients by the carry, the initial carry and the parameters."""
        carry_bar, initial_bar, params_bar = bar
        before, after = before_step(t), at(carries, t)
        from_h = jax.linear_transpose(step.hidden, after)(at(hs_bar, t).astype(step.hidden(after).dtype))[0]
        carry_bar = jax.tree.map(jnp.add, carry_bar, from_h)
        if carries_bar is not None:
            carry_bar = jax.tree.map(jnp.add, carry_bar, at(carries_bar, t))
        real = None if marks.real is None else at(marks.real, t)
        nothing = jax.tree.map(jnp.zeros_like, carry_bar)
        step_bar = carry_bar if real is None else tree.where(real, carry_bar, nothing)
        if step.rule is None:
            more_params, before_bar, a_bar = jax.vjp(step.after, given.params, before, at(kept, t))[1](step_bar)
            params_bar = jax.tree.map(jnp.add, params_bar, more_params)
        else:
            before_bar, a_bar = step.rule.pull(at(kept, t), before, after, step_bar)
        # Else XLA puts the gates together where they are used, once for every element of a product.
        a_bar = lax.optimization_barrier(a_bar)
        hz_bar = gates_back(a_bar)[2]
        h = step.hidden(before)
        h_bar = lax.dot_general(
            hz_bar.astype(dtype), transposed, (((hz_bar.ndim - 1,), (0,)), ((), ())), preferred_element_type=h.dtype
        )
        before_bar = jax.tree.map(jnp.add, before_bar, jax.linear_transpose(step.hidden, before)(h_bar)[0])
        if real is not None:
            before_bar = jax.tree.map(jnp.add, before_bar, tree.where(real, nothing, carry_bar))
        if marks.fresh is not None:
            fresh = at(marks.fresh, t)
            initial_bar = jax.tree.map(jnp.add, initial_bar, tree.where(fresh, before_bar, nothing))
            before_bar = tree.where(fresh, nothing, before_bar)
        return (before_bar, initial_bar, params_bar), (a_bar, h)

    def gates_back(a_bar: Any) -> tuple[Params, Array, Array]:
        """Gradients by parameters, z and hz; the gates are affine."""
        zeros = jnp.zeros(z_like.shape, wide)
        return jax.vjp(step.gates, given.params, zeros, zeros)[1](a_bar)

    def products(a_bars: Any, hs: Array, xs: Array) -> tuple[Array, Params, Array]:
        """Gradients by the kernel, the parameters and xs, of rows."""
        zeros = jnp.zeros((*hs.shape[:-1], z_like.shape[-1]), wide)
        gates_bar, zs_bar, hz_bar = jax.vjp(step.gates, given.params, zeros, zeros)[1](a_bars)
        kernel_bar = lax.dot_general(
            hs.astype(dtype), hz_bar.astype(dtype), (((0,), (0,)), ((), ())), preferred_element_type=wide
        )
        project_bar, xs_bar = jax.vjp(step.project, given.params, xs)[1](zs_bar.astype(dtype))
        return kernel_bar, jax.tree.map(jnp.add, gates_bar, project_bar), xs_bar

    z_like = jax.eval_shape(step.project, given.params, given.xs[0])
    wide = step.hidden(given.start[0]).dtype
    wide_z = jax.ShapeDtypeStruct(z_like.shape, wide)
    a_like = jax.eval_shape(step.gates, given.params, wide_z, wide_z)

    def chunk(state: Any, first: Any, count: int) -> Any:
        bar, sums, xs_bar = state

        def one(state: Any, t: Any, k: Any) -> Any:
            bar, rows = one_back(state[0], t)
            return bar, put(state[1], rows, k)

        h_like = jax.ShapeDtypeStruct(step.hidden(given.start[0]).shape, wide)
        bar, (a_bars, hs) = back.steps(one, (bar, room((a_like, h_like), count, given.xs)), first, count)
        rows = split.rows((a_bars, hs, walk.part(given.xs, first, count)))
        *more, rows_bar = split.over(products)(*rows)
        sums = jax.tree.map(jnp.add, sums, tuple(more))
        x_bar = split.unrows(rows_bar, (count, *given.xs.shape[1:]))
        return bar, sums, lax.dynamic_update_slice_in_dim(xs_bar, x_bar, first, 0)

    nothing = jax.tree.map(jnp.zeros_like, (given.start[1], given.params))
    sums = split.zeros(jax.tree.map(lambda leaf: leaf.astype(leaf.dtype), (given.kernel, given.params)), wide)
    state = ((carry_bar, *nothing), sums, jnp.zeros_like(given.xs))
    (start_bar, initial_bar, params_bar), sums, xs_bar = back.chunks(chunk, state)
    kernel_bar, more_params = split.total(sums)
    params_bar = jax.tree.map(lambda a, b: a + b.astype(a.dtype), params_bar, more_params)
    return type(given)(kernel_bar.astype(given.kernel.dtype), params_bar, (start_bar, initial_bar), xs_bar)


class splits:
    def __init__(self, batch_shape):
        count = jax.device_count()
        self.count = count if batch_shape and batch_shape[0] % count == 0 and count > 1 else 1

    def rows(self, tree_):
        def one(leaf):
            if self.count == 1:
                return leaf.reshape(-1, leaf.shape[-1])
            k, b = leaf.shape[:2]
            leaf = leaf.reshape(k, self.count, b // self.count, *leaf.shape[2:])
            return jnp.moveaxis(leaf, 1, 0).reshape(self.count, -1, leaf.shape[-1])
        return jax.tree.map(one, tree_)

    def over(self, f):
        return f if self.count == 1 else jax.vmap(f)

    def unrows(self, rows, shape):
        if self.count == 1:
            return rows.reshape(shape)
        k, b = shape[:2]
        return jnp.moveaxis(rows.reshape(self.count, k, b // self.count, *shape[2:]), 0, 1).reshape(shape)

    def zeros(self, tree_, wide):
        lead = () if self.count == 1 else (self.count,)
        return (jnp.zeros((*lead, *tree_[0].shape), wide), jax.tree.map(lambda l: jnp.zeros((*lead, *l.shape), l.dtype), tree_[1]))

    def total(self, sums):
        return sums if self.count == 1 else jax.tree.map(lambda l: l.sum(0), sums)
