"""dm-haiku: `hk.dynamic_unroll` over its cores.

Its LSTM adds 1 to the forget gate; its GRU resets before the product.
"""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problems import Problem, Tree
from benchmarks.programs import Net, Stream

GRU_NAMES = {"w_x": "w_i", "w_h": "w_h", "b": "b"}
"""Our names to those of haiku."""


def net(problem: Problem) -> Net:
    """The network of a problem."""
    family, size = problem.case.family, problem.case.sizes["H"]

    def unrolled(xs: jax.Array) -> jax.Array:
        core = hk.LSTM(size) if family == "lstm" else hk.GRU(size)
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    model = hk.without_apply_rng(hk.transform(unrolled))
    width = problem.case.sizes["I"]
    return Net(
        write(family, problem.params),
        lambda params, inputs, data: model.apply(params, inputs["xs"]),
        lambda params: read(family, params, width),
    )


def stream(problem: Problem) -> Stream:
    """One step of the LSTM."""
    size = problem.case.sizes["H"]
    model = hk.without_apply_rng(hk.transform(lambda x, carry: hk.LSTM(size)(x, carry)))
    h = jnp.zeros((1, size))

    def step(params: Any, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        y, carry = model.apply(params, x, carry)
        return carry, y

    return Stream(write("lstm", problem.params), hk.LSTMState(h, h), step)


def write(cell: str, weights: Tree) -> Tree:
    """Our weights in the layout of a core: LSTM gates i, g, f, o over [x; h]; GRU gates z, r, n with 1 - z for z."""
    if cell == "lstm":
        i, f, g, o = np.split(np.concatenate([weights["w_x"], weights["w_h"]]), 4, axis=-1)
        b_i, b_f, b_g, b_o = np.split(weights["b"], 4)
        biases = np.concatenate([b_i, b_g, b_f - 1, b_o])
        return {"lstm/linear": {"w": np.concatenate([i, g, f, o], axis=-1), "b": biases}}
    return {"gru": {theirs: _to_haiku(weights[ours]) for ours, theirs in GRU_NAMES.items()}}


def read(cell: str, params: Any, width: int) -> Tree:
    """Parameters, or gradients, in our layout. (The forget bias keeps its offset, which gradients do not have.)"""
    if cell == "lstm":
        core = params["lstm/linear"]
        i, g, f, o = np.split(core["w"], 4, axis=-1)
        b_i, b_g, b_f, b_o = np.split(core["b"], 4)
        joined = np.concatenate([i, f, g, o], axis=-1)
        return {"w_x": joined[:width], "w_h": joined[width:], "b": np.concatenate([b_i, b_f, b_g, b_o])}
    return {ours: _from_haiku(params["gru"][theirs]) for ours, theirs in GRU_NAMES.items()}


def _to_haiku(blocks: np.ndarray) -> np.ndarray:
    r, z, n = np.split(blocks, 3, axis=-1)
    return np.concatenate([-z, r, n], axis=-1)


def _from_haiku(blocks: Any) -> np.ndarray:
    z, r, n = np.split(np.asarray(blocks), 3, axis=-1)
    return np.concatenate([r, -z, n], axis=-1)
