"""All steps at once as a map of packed carries, and the Jacobians of all steps in blocks."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import tree
from rnn_jax.gated_step import GatedStep, has_rule
from rnn_jax.products import align, recurrent
from rnn_jax.types import Array, Carry, Cell, Params


class Steps(NamedTuple):
    """What goes into each step: leaves [T, ...], in the order of processing."""

    z: Any
    real: Array | None
    fresh: Array | None


class Given(NamedTuple):
    """What all steps share: parameters, the carry of fresh starts, and the carry before the first step."""

    params: Params
    initial: Carry
    carry: Carry


class Packing(NamedTuple):
    """Carries as real arrays [..., *rows, K, d]: K blocks of d numbers that see each other.

    Attributes:
        like: the carry, as shape structs.
        rows: the batch axes whose rows know nothing of each other.
        num_blocks: K, or None for blocks of one number.
    """

    like: Carry
    rows: tuple[int, ...]
    num_blocks: int | None

    def pack(self, carry: Carry) -> Array:
        """Leaves [..., *rows, ...] to [..., *rows, K, d]."""
        parts = []
        for leaf, like in zip(jax.tree.leaves(carry), jax.tree.leaves(self.like), strict=True):
            lead = leaf.shape[: leaf.ndim - len(like.shape) + len(self.rows)]
            size = math.prod(leaf.shape[len(lead) :])
            num = self.num_blocks or size
            for part in (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,):
                parts.append(part.reshape(*lead, num, size // num))
        return jnp.concatenate(parts, axis=-1 if self.num_blocks else -2)

    def unpack(self, packed: Array) -> Carry:
        """The inverse; with fewer axes in front, `rows` being one of them or not, so have its leaves."""
        lead, start, leaves = packed.shape[:-2], 0, []
        for like in jax.tree.leaves(self.like):
            shape = like.shape[len(self.rows) :]
            size, parts = math.prod(shape) // (self.num_blocks or 1), []
            for _ in range(2 if jnp.issubdtype(like.dtype, jnp.complexfloating) else 1):
                part = lax.slice_in_dim(packed, start, start + size, axis=packed.ndim - (1 if self.num_blocks else 2))
                parts.append(part.reshape(*lead, *shape))
                start += size
            leaves.append(parts[0] if len(parts) == 1 else lax.complex(*parts))
        return jax.tree.unflatten(jax.tree.structure(self.like), leaves)


def packing(carry: Carry, rows: tuple[int, ...], num_blocks: int | None) -> Packing:
    """The packing of carries like this one.

    Raises:
        ValueError: the blocks do not divide a leaf.
    """
    like = jax.eval_shape(lambda: carry)
    for path, leaf in jax.tree_util.tree_leaves_with_path(like):
        size = math.prod(leaf.shape[len(rows) :])
        if num_blocks is not None and size % num_blocks:
            where = jax.tree_util.keystr(path) or "the carry"
            raise ValueError(f"`num_blocks` must divide the {size} numbers of {where} of a row, got {num_blocks}")
    return Packing(like, rows, num_blocks)


class Parts(NamedTuple):
    """A step in two parts, the first of which is linear and the same for all steps.

    Attributes:
        reach: `(params, carry, z) -> hz`, linear in the carry.
        rest: `(params, carry, hz, z) -> (carry, h)`.
        own: `reach` as if each of `num_units` saw nothing but itself, where `rest` is element-wise; else None. (If it
            is not so, blocks are wrong, Newton's method may need more iterations, and results are the same.)
        num_units: how many.
    """

    reach: Callable[[Params, Carry, Any], Any]
    rest: Callable[[Params, Carry, Any, Any], tuple[Carry, Any]]
    own: Callable[[Params, Carry, Any], Any] | None = None
    num_units: int = 0


def parts_of(cell: Cell, params: Params) -> Parts:
    """The parts of a step; of one that is not known to have two, the first is empty."""
    step = cell.step
    if not isinstance(step, GatedStep) or not has_rule(step, params):
        return Parts(lambda params, carry, z: (), lambda params, carry, hz, z: step(params, carry, z))
    num_units, width = step.kernel(params).shape

    def reach(params: Params, carry: Carry, z: Array) -> Array:
        return recurrent(step.hidden(carry), step.kernel(params), z.dtype)

    def own(params: Params, carry: Carry, z: Array) -> Array:
        h, kernel = step.hidden(carry), step.kernel(params).astype(z.dtype)
        gates = kernel.reshape(num_units, -1, num_units)
        return jnp.tile(h, gates.shape[1]) * align(jnp.diagonal(gates, axis1=0, axis2=2).ravel(), h)

    def rest(params: Params, carry: Carry, hz: Array, z: Array) -> tuple[Carry, Array]:
        params = step.part(params)
        carry = step.after(params, carry, step.gates(params, z.astype(hz.dtype), hz))
        return carry, step.hidden(carry).astype(z.dtype)

    return Parts(reach, rest, own, num_units) if width % num_units == 0 else Parts(reach, rest)


def entering(given: Given, carries: Carry, fresh: Array | None) -> Carry:
    """The carries that enter the steps, from those after them: leaves [T, *batch, ...]."""
    before = jax.tree.map(lambda first, after: jnp.concatenate([first[None], after[:-1]]), given.carry, carries)
    if fresh is None:
        return before
    again = jax.tree.map(lambda initial, leaf: jnp.broadcast_to(initial[None], leaf.shape), given.initial, before)
    return tree.where(fresh, again, before)


def all_steps(parts: Parts, given: Given, before: Carry, steps: Steps) -> tuple[Carry, Any]:
    """All steps at once: the carries after them and their outputs h."""

    def one(carry: Carry, z: Any) -> tuple[Carry, Any]:
        return parts.rest(given.params, carry, parts.reach(given.params, carry, z), z)

    after, hs = jax.vmap(one)(before, steps.z)
    return after if steps.real is None else tree.where(steps.real, after, before), hs


def sweep(parts: Parts, packed: Packing, given: Given, steps: Steps, states: Array) -> Array:
    """Packed carries [T, *rows, K, d] to what the steps make of them: the carries that they should be."""
    before = entering(given, packed.unpack(states), steps.fresh)
    return packed.pack(all_steps(parts, given, before, steps)[0])


def block_jacobians(parts: Parts, packed: Packing, given: Given, steps: Steps, states: Array) -> Array:
    """The blocks of the Jacobian of each step by the carry that entered it: [T, *rows, K, d, d].

    Rows being independent, one tangent serves all of them. What a unit tangent becomes in the linear part of a step is
    the same for all steps and computed once. Where units meet in the linear part only, one tangent serves all units.
    """
    before = entering(given, packed.unpack(states), steps.fresh)
    hz = jax.vmap(parts.reach, in_axes=(None, 0, 0))(given.params, before, steps.z)

    def step(carry: Carry, hz: Any) -> Carry:
        if steps.fresh is not None:  # a fresh start does not see the carry
            carry, hz = tree.where(steps.fresh, lax.stop_gradient((carry, hz)), (carry, hz))
        after = jax.vmap(parts.rest, in_axes=(None, 0, 0, 0))(given.params, carry, hz, steps.z)[0]
        return after if steps.real is None else tree.where(steps.real, after, carry)

    push = jax.linearize(step, before, hz)[1]
    first = jax.tree.map(lambda leaf: leaf[0], steps.z)

    def column(unit: Array, packed: Packing = packed, reach: Any = parts.reach) -> Array:
        """What all steps make of one tangent [K, d]."""
        carry = packed.unpack(unit)
        dots = (carry, reach(given.params, carry, first))
        dots = jax.tree.map(lambda dot, leaf: jnp.broadcast_to(_under(dot, leaf), leaf.shape), dots, (before, hz))
        return packed.pack(push(*dots))

    num, size = states.shape[-2:]
    if packed.num_blocks in (None, parts.num_units) and _is_by_unit(parts, packed):
        by_unit, per_unit = packed._replace(num_blocks=parts.num_units), num * size // parts.num_units
        ones = jnp.ones((parts.num_units, 1), states.dtype)
        columns = [column(ones * unit, by_unit, parts.own) for unit in jnp.eye(per_unit, dtype=states.dtype)[:, None]]
        blocks = jnp.stack(columns, axis=-1)  # [T, *rows, H, i, j]
        if packed.num_blocks:
            return blocks
        return jnp.swapaxes(jnp.diagonal(blocks, axis1=-2, axis2=-1), -1, -2).reshape(*states.shape, 1)
    units = jnp.eye(num * size, dtype=states.dtype).reshape(-1, num, size)
    if num == 1:
        return jnp.moveaxis(jax.vmap(column)(units), 0, -1)

    def within(one: tuple[Array, Array]) -> Array:
        return lax.dynamic_index_in_dim(column(one[0]), one[1], axis=states.ndim - 2, keepdims=False)

    columns = lax.map(within, (units, jnp.repeat(jnp.arange(num), size)), batch_size=16)
    columns = columns.reshape(num, size, *columns.shape[1:])  # [K, j, T, *rows, i]
    return jnp.moveaxis(columns, (0, 1), (-3, -1))


def _is_by_unit(parts: Parts, packed: Packing) -> bool:
    """Whether all units may share a tangent."""
    shapes = [leaf.shape[len(packed.rows) :] for leaf in jax.tree.leaves(packed.like)]
    return parts.own is not None and all(shape == (parts.num_units,) for shape in shapes)


def _under(dot: Array, leaf: Array) -> Array:
    """Axes of length one between those that `dot` lacks: it has the last axes of `leaf`."""
    return lax.expand_dims(dot, range(leaf.ndim - dot.ndim))
