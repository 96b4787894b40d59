"""The scan of a `GatedStep` or a `ProductStep`, chunk by chunk, with a gradient of its own.

Automatic differentiation of a scan writes many arrays of every step into memory, reads them back, and adds up the
gradient of every parameter in every step of the backward loop. Here each chunk of steps projects its inputs, which stay
in the cache of the processor until the steps use them; the steps write down their carries and what their rule keeps;
and the loop backwards hands on the gradient by a alone, of which one product for each chunk makes that of W, as
another makes that of the input kernel.

The rule is one of forward mode (`jax.custom_jvp`): its tangent is that of the plain scan, a linear function whose
transpose is replaced by the loop backwards. So every transformation works on it: `grad`, `jvp`, `vmap`, `remat`, and
derivatives of derivatives.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import tree
from rnn_jax.gated_step import GatedStep, ProductStep
from rnn_jax.products import recurrent
from rnn_jax.types import Array, Carry
from rnn_jax.unroll.gated_gradient import Bars, Given, Marks, Past, Project, pull_back
from rnn_jax.unroll.linear_map import linear_map
from rnn_jax.unroll.product_gradient import advance
from rnn_jax.unroll.walk import Walk, alike, at, room


def scan_gated(
    step: GatedStep | ProductStep, project: Project, given: Given, marks: Marks, walk: Walk, *, keep: bool
) -> tuple[Carry, tuple[Array, Carry | None]]:
    """What `lax.scan` over the step gives: `(carry, (hs, carries or None))`."""

    def definition(given: Given, marks: Marks) -> Any:
        return plain(step, project, given, marks, reverse=walk.reverse, keep=keep)

    @jax.custom_jvp
    def run(given: Given, marks: Marks) -> Any:
        carry, hs, carries, _ = forward(step, project, given, marks, walk, keep=keep, kept=False)
        return carry, (hs, carries)

    @run.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        given, marks = primals
        carry, hs, carries, kept = forward(step, project, given, marks, walk, keep=True, kept=True)
        out = carry, (hs, carries if keep else None)

        def tangent(past: Past, dots: Given) -> Any:
            return jax.jvp(lambda given: definition(given, past.marks), (past.given,), (dots,))[1]

        def transpose(past: Past, bars: Any) -> Given:
            carry, (hs, carries) = bars
            return pull_back(step, project, past, walk, _with_zeros(past.given.start[0], carry, hs, carries))

        return out, linear_map(tangent, transpose, Past(given, marks, carries, kept), tangents[0], out)

    return run(alike(given), marks)


def plain(
    step: GatedStep | ProductStep, project: Project, given: Given, marks: Marks, *, reverse: bool, keep: bool
) -> Any:
    """The definition: `lax.scan` over the step."""

    def body(carry: Carry, one: Any) -> tuple[Carry, Any]:
        z, real, fresh = one
        before = carry if fresh is None else tree.where(fresh, given.start[1], carry)
        after = one_step(step, given, before, z)[0]
        after = after if real is None else tree.where(real, after, before)
        return after, (step.hidden(after).astype(z.dtype), after if keep else None)

    zs = project(given.inputs, given.xs)
    return lax.scan(body, given.start[0], (zs, *marks), reverse=reverse)


def one_step(step: GatedStep | ProductStep, given: Given, before: Carry, z: Array) -> tuple[Carry, Any]:
    """The carry after a step, and what the gradient needs to know of it."""
    h = step.hidden(before)
    if isinstance(step, ProductStep):
        return advance(step, given.params, given.kernel, before, z)
    a = step.gates(given.params, z.astype(h.dtype), recurrent(h, given.kernel, z.dtype))
    return (step.after(given.params, before, a), a) if step.rule is None else step.rule.forward(before, a)


def forward(
    step: GatedStep | ProductStep, project: Project, given: Given, marks: Marks, walk: Walk, *, keep: bool, kept: bool
) -> tuple[Carry, Array, Carry | None, Any]:
    """The result, and what each step keeps for the gradient."""
    start = given.start[0]
    z_like = jax.eval_shape(lambda: project(given.inputs, given.xs)[0])

    def row(after: Carry, more: Any, h: Array) -> tuple[Array | None, Carry | None, Any]:
        return None if keep else h.astype(z_like.dtype), after if keep else None, more if kept else None

    def chunk(state: Any, first: Any, count: int) -> Any:
        zs = project(given.inputs, walk.part(given.xs, first, count))

        def one(carry: Carry, t: Any, k: Any) -> tuple[Carry, Any]:
            before = carry if marks.fresh is None else tree.where(at(marks.fresh, t), given.start[1], carry)
            after, more = one_step(step, given, before, at(zs, k))
            after = after if marks.real is None else tree.where(at(marks.real, t), after, before)
            return after, row(after, more, step.hidden(after))

        carry, arrays = state
        return walk.steps(one, carry, arrays, first, count, offset=first)

    like = jax.eval_shape(lambda z: row(*one_step(step, given, start, z), step.hidden(start)), z_like)
    carry, (hs, carries, stored) = walk.chunks(chunk, (start, room(like, walk.num_steps, given.xs)))
    return carry, step.hidden(carries).astype(z_like.dtype) if keep else hs, carries, stored


def _with_zeros(like: Carry, carry: Any, hs: Any, carries: Any) -> Bars:
    """The gradients by the result, of which whole leaves may be missing."""
    leaves, structure = jax.tree.flatten(like)

    def listed(tree: Any) -> list[Any]:
        return jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None)

    filled = [jnp.zeros_like(leaf) if bar is None else bar for leaf, bar in zip(leaves, listed(carry), strict=True)]
    rows = [None] * len(leaves) if carries is None else listed(carries)
    # Else XLA takes a constant into the loop and makes all of it in every turn.
    hs, rows = lax.optimization_barrier((hs, rows))
    return Bars(jax.tree.unflatten(structure, filled), hs, rows)
