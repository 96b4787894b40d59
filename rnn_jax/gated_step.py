"""The step of gated cells in parts, so that `unroll` can take gradients in a better order."""

from collections.abc import Callable
from typing import Any, NamedTuple

from rnn_jax.products import MaskedKernel, recurrent
from rnn_jax.types import Array, Carry, Params, take_x

__all__ = [
    "Dot",
    "GatedStep",
    "ProductStep",
    "Projection",
    "Rule",
    "add_gates",
    "has_rule",
    "take_all",
    "take_none",
    "whole_carry",
]

Dot = Callable[[int, Array], Array]
"""`dot(i, u)`: the product of u [*batch, ...] with kernel i, in the dtype of u."""


def add_gates(params: Params, z: Array, hz: Array) -> Array:
    """The default `gates`: z + hz."""
    del params
    return z + hz


def whole_carry(carry: Carry) -> Array:
    """The default `hidden`: the carry is h."""
    return carry


def take_all(params: Params) -> Params:
    """The default `part`: all parameters."""
    return params


def take_none(params: Params) -> Params:
    """The `part` of what needs no parameters."""
    del params
    return ()


class Rule(NamedTuple):
    """The element-wise part of a step that needs no parameters, and its gradient from little that is kept.

    Attributes:
        forward: `(carry, a) -> (carry, kept)`.
        pull: `(kept, before, after, carry_bar) -> (carry_bar, a_bar)`, gradients by what goes in from those by what
            comes out; before and after are the carries around the step, which need not be kept apart.
    """

    forward: Callable[[Carry, Any], tuple[Carry, Any]]
    pull: Callable[[Any, Carry, Carry, Carry], tuple[Carry, Any]]


class Projection(NamedTuple):
    """A `project` that works row by row, so that `unroll` may call it for a chunk of steps at a time.

        project(params, xs) = rows(part(params), enter(params, xs))

    Attributes:
        rows: `(params, xs) -> zs`, the same function of every row, whatever the leading axes.
        part: `(params) -> params` that `rows` knows; what it leaves out may differ from row to row.
        enter: `(params, xs) -> xs`, such as dropout, from all parameters.
    """

    rows: Callable[[Params, Array], Array]
    part: Callable[[Params], Params] = take_all
    enter: Callable[[Params, Array], Array] = take_x

    def __call__(self, params: Params, xs: Array) -> Array:
        """All rows."""
        return self.rows(self.part(params), self.enter(params, xs))

    def of_part(self, part: Callable[[Params], Params], enter: Callable[[Params, Array], Array]) -> "Projection":
        """For parameters of which it takes a part, and inputs that something is done to before."""
        return Projection(
            self.rows,
            lambda params: self.part(part(params)),
            lambda params, xs: self.enter(part(params), enter(params, xs)),
        )


class GatedStep(NamedTuple):
    """A step that meets its largest parameter in one product, `h W`; all else is element-wise. Call it like any step.

        carry = after(params, carry, gates(params, z, hidden(carry) kernel(params))),    h = hidden(carry)

    `unroll` knows it and takes the gradient of W by one product for each chunk of steps. Wrapped into another function
    it is an ordinary step.

    Attributes:
        kernel: `(params) -> W` [H, G], or a `MaskedKernel`, of all parameters.
        after: `(params, carry, a) -> carry`.
        hidden: `(carry) -> h` [*batch, H], a leaf of the carry, and the output.
        gates: `(params, z, hz) -> a`, affine: a sum of what depends on one of the three. z and hz have the dtype of h.
        rule: of `after`, where it needs no parameters. Without it the derivative of `after` is taken by jax.
        part: `(params) -> params` that `after` and `gates` know; the less, the less there is to compile.
    """

    kernel: Callable[[Params], Any]
    after: Callable[[Params, Carry, Any], Carry]
    hidden: Callable[[Carry], Array] = whole_carry
    gates: Callable[[Params, Array, Array], Any] = add_gates
    rule: Rule | None = None
    part: Callable[[Params], Params] = take_all

    def __call__(self, params: Params, carry: Carry, z: Array) -> tuple[Carry, Array]:
        """One step."""
        hz = recurrent(self.hidden(carry), self.kernel(params), z.dtype)
        params = self.part(params)
        carry = self.after(params, carry, self.gates(params, z.astype(hz.dtype), hz))
        return carry, self.hidden(carry).astype(z.dtype)

    def of_part(self, part: Callable[[Params], Params]) -> "GatedStep":
        """The step for parameters of which it takes a part."""
        return self._replace(
            kernel=lambda params: self.kernel(part(params)), part=lambda params: self.part(part(params))
        )


class ProductStep(NamedTuple):
    """A step that meets its larger parameters in products, each once, in any order. Call it like any step.

        carry = advance(params, carry, z, dot),    dot(i, u) = u kernel(params)[i]

    `unroll` keeps the products, takes the derivative of all that is between them by jax, and the gradient of each
    kernel by one product for each chunk of steps. `GatedStep` is the better where it can be: it keeps less.

    Attributes:
        kernel: `(params) -> (W, ...)`: each [H, G], or [N, D, G] for N heads apart.
        advance: `(params, carry, z, dot) -> carry`; z has the dtype of h. It calls `dot` once for each kernel.
        hidden: `(carry) -> h` [*batch, H], a leaf of the carry, and the output.
        part: `(params) -> params` that `advance` knows.
    """

    kernel: Callable[[Params], tuple[Any, ...]]
    advance: Callable[[Params, Carry, Array, Dot], Carry]
    hidden: Callable[[Carry], Array] = whole_carry
    part: Callable[[Params], Params] = take_all

    def __call__(self, params: Params, carry: Carry, z: Array) -> tuple[Carry, Array]:
        """One step."""
        kernels, dtype = self.kernel(params), z.dtype
        wide = z.astype(self.hidden(carry).dtype)
        carry = self.advance(self.part(params), carry, wide, lambda i, u: recurrent(u, kernels[i], dtype))
        return carry, self.hidden(carry).astype(dtype)

    def of_part(self, part: Callable[[Params], Params]) -> "ProductStep":
        """The step for parameters of which it takes a part."""
        return self._replace(
            kernel=lambda params: self.kernel(part(params)), part=lambda params: self.part(part(params))
        )


def has_rule(step: GatedStep | ProductStep, params: Params) -> bool:
    """Whether the scan of a step with these parameters has a gradient of its own: all but masked kernels have."""
    kernel = step.kernel(params)
    return not any(isinstance(one, MaskedKernel) for one in (kernel if isinstance(step, ProductStep) else [kernel]))
