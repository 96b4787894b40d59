"""equinox: its cells know one example and no time, so `vmap` and `lax.scan` go around them, as in its documentation."""

from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.problems import Problem, Tree
from benchmarks.programs import Net, Stream


def net(problem: Problem) -> Net:
    """The network of a problem."""
    family, size = problem.case.family, problem.case.sizes["H"]
    params, static = _cell(family, problem)

    def apply(params: Any, inputs: Tree, data: Tree) -> jax.Array:
        cell, xs = equinox.combine(params, static), inputs["xs"]
        h = jnp.zeros((xs.shape[1], size), xs.dtype)

        def step(carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            carry = jax.vmap(cell)(x, carry)
            return carry, carry[0] if family == "lstm" else carry

        return lax.scan(step, (h, h) if family == "lstm" else h, xs)[1]

    return Net(params, apply, lambda params: read(family, params))


def stream(problem: Problem) -> Stream:
    """One step of the LSTM."""
    params, static = _cell("lstm", problem)
    h = jnp.zeros(problem.case.sizes["H"])

    def step(params: Any, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        carry = equinox.combine(params, static)(x[0], carry)
        return carry, carry[0][None]

    return Stream(params, (h, h), step)


def read(cell: str, module: Any) -> Tree:
    """The weights of a cell in our layout."""
    weights = {"w_x": np.asarray(module.weight_ih).T, "w_h": np.asarray(module.weight_hh).T, "b": module.bias}
    return weights | ({"b_hn": module.bias_n} if cell == "gru" else {})


def _cell(family: str, problem: Problem) -> tuple[Any, Any]:
    """The arrays of a cell with our weights, and the rest of it."""
    given = problem.params
    kind = equinox.nn.LSTMCell if family == "lstm" else equinox.nn.GRUCell
    cell = kind(*problem.inputs["xs"].shape[-1:], problem.case.sizes["H"], key=jax.random.key(0))
    names = ["weight_ih", "weight_hh", "bias", *(["bias_n"] if family == "gru" else [])]
    values = [given["w_x"].T, given["w_h"].T, given["b"], *([given["b_hn"]] if family == "gru" else [])]
    cell = equinox.tree_at(lambda cell: [getattr(cell, name) for name in names], cell, list(map(jnp.asarray, values)))
    return equinox.partition(cell, equinox.is_array)
