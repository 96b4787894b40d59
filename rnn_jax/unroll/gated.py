"""The scan of a `GatedStep`, with a derivative of its own: the gradient of W is one product after the loop.

Automatic differentiation of a scan adds up the gradient of every parameter in every step of the backward loop: H x G
numbers read and written T times. Here the step meets W in one place, `h W`; its tangent is `h dW + dh W`, and all of
`h dW` is known before the tangent loop: `hs dW`, one product for all steps. Transposed, it is `dW = hs^T da` after the
loop. The rule is one of forward mode (`jax.custom_jvp`), which jax transposes, so every transformation works on it:
`grad`, `jvp`, `vmap`, `remat`, and derivatives of derivatives.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import tree
from rnn_jax.gated_step import GatedStep
from rnn_jax.products import product
from rnn_jax.types import Array, Carry, Params


def scan_gated(
    step: GatedStep,
    params: Params,
    start: tuple[Carry, Carry],
    steps: tuple[Array, Array | None, Array | None],
    *,
    reverse: bool,
    keep: bool,
    unroll: int,
) -> tuple[Carry, tuple[Array, Carry | None]]:
    """What `lax.scan` over the step gives.

    Args:
        step: the step.
        params: of the cell.
        start: the carry to start with, and the one that comes back before fresh steps.
        steps: zs [T, *batch, G], real and fresh [T, *leading batch axes] or None.
        reverse: walk backwards.
        keep: whether the carry after each step is kept.
        unroll: steps in one turn of the loop.

    Returns:
        `(carry, (hs, carries or None))`.
    """
    scan = lambda body, carry, xs: lax.scan(body, carry, xs, reverse=reverse, unroll=unroll)  # noqa: E731

    def enter(carry: Carry, initial: Carry, fresh: Array | None) -> Carry:
        return carry if fresh is None else tree.where(fresh, initial, carry)

    def leave(carry: Carry, before: Carry, h: Array, one: Any) -> tuple[Carry, Array, Carry | None]:
        z, real, _ = one
        carry = carry if real is None else tree.where(real, carry, before)
        return carry, h.astype(z.dtype), carry if keep else None

    def gates(kernel: Array, params: Params, h: Array, z: Array) -> Any:
        return step.gates(params, z.astype(h.dtype), product(h.astype(z.dtype), kernel).astype(h.dtype))

    @jax.custom_jvp
    def forward(kernel: Array, params: Params, start: tuple[Carry, Carry], steps: Any) -> Any:
        def body(carry: Carry, one: Any) -> Any:
            before = enter(carry, start[1], one[2])
            carry, h = step.after(params, before, gates(kernel, params, step.hidden(before), one[0]))
            carry, *out = leave(carry, before, h, one)
            return carry, tuple(out)

        return scan(body, start[0], steps)

    @forward.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        kernel, params, start, steps = primals
        kernel_dot, params_dot, start_dot, (zs_dot, *_) = tangents

        def body(carry: Carry, one: Any) -> Any:
            before = enter(carry, start[1], one[2])
            h_in = step.hidden(before)
            a = gates(kernel, params, h_in, one[0])
            if step.linear is None:
                (carry, h), tangent = jax.linearize(step.after, params, before, a)
            else:
                (carry, h), tangent = step.linear(before, a)
            carry, *out = leave(carry, before, h, one)
            return carry, (tuple(out), h_in, tangent)

        carry, (out, h_in, tangent) = scan(body, start[0], steps)
        zs, real, fresh = steps
        wide = h_in.dtype
        # Time and batch joined into one axis: up to twice as fast, but a batch split over devices would be gathered.
        rows = h_in.reshape(-1, h_in.shape[-1]) if jax.device_count() == 1 else h_in
        hz_dot = product(rows.astype(zs.dtype), kernel_dot).astype(wide).reshape(*h_in.shape[:-1], kernel.shape[1])
        nothing = jnp.zeros_like(hz_dot)
        points, dots = (params, zs.astype(wide), nothing), (params_dot, zs_dot.astype(wide), hz_dot)
        known = jax.jvp(step.gates, points, dots)[1]
        transposed = lax.optimization_barrier(kernel.T)  # turned once, not at every step of the backward loop

        def by_h(h_dot: Array, z: Array) -> Any:
            contracted = (((h_dot.ndim - 1,), (1,)), ((), ()))
            hz = lax.dot_general(
                h_dot.astype(z.dtype), transposed.astype(z.dtype), contracted, preferred_element_type=wide
            )
            point = jnp.zeros_like(hz)
            return jax.jvp(lambda hz: step.gates(params, point, hz), (point,), (hz,))[1]

        def tangent_body(carry_dot: Carry, one: Any) -> Any:
            tangent, a_dot, z_dot, real, fresh = one
            before = enter(carry_dot, start_dot[1], fresh)
            a_dot = jax.tree.map(jnp.add, a_dot, by_h(step.hidden(before), z_dot))
            # Else XLA puts the gates together where they are used, once for every element of a product.
            a_dot = lax.optimization_barrier(a_dot)
            carry_dot, h_dot = tangent(before, a_dot) if step.linear else tangent(params_dot, before, a_dot)
            carry_dot, *out = leave(carry_dot, before, h_dot, (z_dot, real, fresh))
            return carry_dot, tuple(out)

        return (carry, out), scan(tangent_body, start_dot[0], (tangent, known, zs_dot, real, fresh))

    return forward(step.kernel(params), params, start, steps)
