"""The step of gated cells in parts, so that `unroll` can take gradients in a better order."""

from collections.abc import Callable
from typing import Any, NamedTuple

from rnn_jax.products import recurrent
from rnn_jax.types import Array, Carry, Params

__all__ = ["GatedStep", "add_gates", "on_part", "whole_carry"]


def add_gates(params: Params, z: Array, hz: Array) -> Array:
    """The default `gates`: z + hz."""
    del params
    return z + hz


def whole_carry(carry: Carry) -> Array:
    """The default `hidden`: the carry is h."""
    return carry


class GatedStep(NamedTuple):
    """A step that meets its largest parameter in one product, `h W`; all else is element-wise. Call it like any step.

        carry, h = after(params, carry, gates(params, z, hidden(carry) kernel(params)))

    `unroll` knows it and takes the gradient of W by one product after the loop. Wrapped into another function it is
    an ordinary step.

    Attributes:
        kernel: `(params) -> W` [H, G], or a `MaskedKernel`.
        after: `(params, carry, a) -> (carry, h)`, h in the dtype of the carry.
        hidden: `(carry) -> h` [*batch, H], a leaf of the carry.
        gates: `(params, z, hz) -> a`, affine: a sum of what depends on one of the three. z and hz have the dtype of h.
        linear: `(carry, a) -> (after(params, carry, a), tangent)` where the parameters are not needed, `tangent` being
            a `jax.tree_util.Partial` that maps the tangents of carry and a to those of the result. It may keep fewer
            arrays for the backward loop than `jax.linearize`, which is used if it is None.
    """

    kernel: Callable[[Params], Any]
    after: Callable[[Params, Carry, Any], tuple[Carry, Array]]
    hidden: Callable[[Carry], Array] = whole_carry
    gates: Callable[[Params, Array, Array], Any] = add_gates
    linear: Callable[[Carry, Any], tuple[Any, Any]] | None = None

    def __call__(self, params: Params, carry: Carry, z: Array) -> tuple[Carry, Array]:
        """One step."""
        hz = recurrent(self.hidden(carry), self.kernel(params), z.dtype)
        carry, h = self.after(params, carry, self.gates(params, z.astype(hz.dtype), hz))
        return carry, h.astype(z.dtype)


def on_part(step: GatedStep, part: Callable[[Params], Params]) -> GatedStep:
    """The step for parameters of which it takes a part."""
    return GatedStep(
        kernel=lambda params: step.kernel(part(params)),
        after=lambda params, carry, a: step.after(part(params), carry, a),
        hidden=step.hidden,
        gates=lambda params, z, hz: step.gates(part(params), z, hz),
        linear=step.linear,
    )
