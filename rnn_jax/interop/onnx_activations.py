"""The activations of ONNX's recurrent nodes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.caching import cached
from rnn_jax.types import Array

Function = Callable[[Array], Array]

PLAIN: dict[str, Function] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softsign": jax.nn.soft_sign,
    "softplus": jax.nn.softplus,
}


class _Scaled(NamedTuple):
    """A function with constants; their defaults are those of the operator of its name, or nan if it has none."""

    function: Callable[..., Array]  # of x, alpha and, if it has one, beta
    alpha: float
    beta: float | None = None


NONE = float("nan")
SCALED = {
    "affine": _Scaled(lambda x, alpha, beta: alpha * x + beta, NONE, NONE),
    "leakyrelu": _Scaled(lambda x, alpha: jnp.where(x >= 0, x, alpha * x), 0.01),
    "thresholdedrelu": _Scaled(lambda x, alpha: jnp.where(x >= alpha, x, jnp.zeros_like(x)), 1.0),
    "scaledtanh": _Scaled(lambda x, alpha, beta: alpha * jnp.tanh(beta * x), NONE, NONE),
    "hardsigmoid": _Scaled(lambda x, alpha, beta: jnp.clip(alpha * x + beta, 0, 1), 0.2, 0.5),
    "elu": _Scaled(lambda x, alpha: jax.nn.elu(x, alpha), 1.0),
}


def activations_of(node: str, attributes: dict[str, Any], count: int) -> list[tuple[str, Function]]:
    """The activations of a node, in lower case, as functions; equal ones are the same object.

    Args:
        node: what an error calls the node.
        attributes: of the node, with `activations`.
        count: how many there must be.

    Raises:
        ValueError: an unknown function, too few of them, or a constant that has no default and is missing.
    """
    names = [one.decode().lower() for one in attributes["activations"]]
    if len(names) < count:
        raise ValueError(f"`activations` of {node} must be {count}, got {len(names)}")
    names = names[:count]
    for name in names:
        checks.one_of(f"activations` of `{node}", name, (*PLAIN, *SCALED))
    used = [(name, SCALED.get(name)) for name in names]
    alphas = _constants(attributes.get("activation_alpha", ()), [one is not None for _, one in used])
    betas = _constants(
        attributes.get("activation_beta", ()), [one is not None and one.beta is not None for _, one in used]
    )
    found = []
    for (name, scaled), alpha, beta in zip(used, alphas, betas, strict=True):
        if scaled is None:
            found.append((name, PLAIN[name]))
            continue
        alpha = scaled.alpha if alpha is None else alpha
        beta = scaled.beta if beta is None else beta
        if alpha != alpha or beta != beta:
            raise ValueError(f"`activation_alpha` and `activation_beta` of {node} must be given for {name}")
        found.append((name, _scaled(name, alpha, beta)))
    return found


def _constants(values: Sequence[float], needed: list[bool]) -> list[float | None]:
    """Values for the functions that need one: one each if there are as many as functions, or else in their order."""
    if len(values) == len(needed):
        return [value if need else None for value, need in zip(values, needed, strict=True)]
    rest = iter(values)
    return [next(rest, None) if need else None for need in needed]


@cached
def _scaled(name: str, alpha: float, beta: float | None) -> Function:
    constants = {"alpha": alpha} if beta is None else {"alpha": alpha, "beta": beta}
    return partial(SCALED[name].function, **constants)
