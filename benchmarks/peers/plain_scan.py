"""`jax.lax.scan` written by hand, as one writes it without a library. In float64 it is the reference of all others."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import sigmoid

from benchmarks.problems import Problem, Tree
from benchmarks.programs import Net, Stream


def net(problem: Problem) -> Net:
    """The network of a problem; parameters as they come."""
    family = problem.case.family
    decoder = partial(_decoder, problem.case.sizes.get("forced") == 1)
    applies = {"diagonal": _diagonal, "lru": _lru, "decoder": decoder, "char_lm": _char_lm}

    def cell(params: Tree, inputs: Tree, data: Tree) -> jax.Array:
        return _unroll(family, params, inputs["xs"])

    def bidirectional(params: Tree, inputs: Tree, data: Tree) -> jax.Array:
        xs = inputs["xs"]
        real = (jnp.arange(xs.shape[0])[:, None] < data["lengths"])[..., None]
        for i in range(problem.case.sizes["L"]):
            ahead = _unroll("lstm", params[f"{i}f"], xs, real)
            behind = _unroll("lstm", params[f"{i}b"], xs, real, reverse=True)
            xs = jnp.concatenate([ahead, behind], axis=-1)
        return xs

    apply = bidirectional if family == "bidirectional" else applies.get(family, cell)
    return Net(problem.params, apply, dict)


def stream(problem: Problem) -> Stream:
    """One step of the LSTM."""
    h = jnp.zeros((1, problem.case.sizes["H"]))
    return Stream(problem.params, (h, h), STEPS["lstm"])


def _lstm(params: Tree, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
    h, c = carry
    i, f, g, o = jnp.split(x @ params["w_x"] + h @ params["w_h"] + params["b"], 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    h = sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def _gru(params: Tree, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
    (h,) = carry
    x_r, x_z, x_n = jnp.split(x @ params["w_x"] + params["b"], 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ params["w_h"], 3, axis=-1)
    z = sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + sigmoid(x_r + h_r) * (h_n + params["b_hn"]))
    h = (1 - z) * n + z * h
    return (h,), h


def _gru_before(params: Tree, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
    (h,) = carry
    size = h.shape[-1]
    x_gates, x_n = jnp.split(x @ params["w_x"] + params["b"], [2 * size], axis=-1)
    r, z = jnp.split(sigmoid(x_gates + h @ params["w_h"][:, : 2 * size]), 2, axis=-1)
    n = jnp.tanh(x_n + (r * h) @ params["w_h"][:, 2 * size :])
    h = (1 - z) * n + z * h
    return (h,), h


def _elman(params: Tree, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
    h = jnp.tanh(x @ params["w_x"] + carry[0] @ params["w_h"] + params["b"])
    return (h,), h


STEPS = {"lstm": _lstm, "gru": _gru, "gru_before": _gru_before, "elman": _elman}


def _unroll(cell: str, params: Tree, xs: jax.Array, real: Any = None, reverse: bool = False) -> jax.Array:
    """All outputs; where steps are not real the carry stays and outputs are zero."""
    h = jnp.zeros((xs.shape[1], params["w_h"].shape[0]), xs.dtype)

    def step(carry: Any, at: Any) -> tuple[Any, jax.Array]:
        x, is_real = at
        after, h = STEPS[cell](params, carry, x)
        if is_real is None:
            return after, h
        return jax.tree.map(lambda new, old: jnp.where(is_real, new, old), after, carry), jnp.where(is_real, h, 0)

    return lax.scan(step, (h, h) if cell == "lstm" else (h,), (xs, real), reverse=reverse)[1]


def _diagonal(params: Tree, inputs: Tree, data: Tree) -> jax.Array:
    def step(h: jax.Array, at: Any) -> tuple[jax.Array, jax.Array]:
        a, b = at
        h = a * h + b
        return h, h

    return lax.scan(step, jnp.zeros_like(inputs["b"][0]), (inputs["a"], inputs["b"]))[1]


def _lru(params: Tree, inputs: Tree, data: Tree) -> jax.Array:
    xs = inputs["xs"]
    eigenvalues, drive = lru_elements(params, xs)

    def step(h: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = eigenvalues * h + b
        return h, h

    return lru_readout(params, lax.scan(step, jnp.zeros_like(drive[0]), drive)[1], xs)


def lru_elements(params: Tree, xs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The eigenvalues [N] and what drives them [T, B, N]."""
    eigenvalues = jnp.exp(lax.complex(-jnp.exp(params["nu_log"]), jnp.exp(params["theta_log"])))
    gain = jnp.exp(params["gamma_log"])
    return eigenvalues, lax.complex(gain * (xs @ params["b_re"]), gain * (xs @ params["b_im"]))


def lru_readout(params: Tree, hs: jax.Array, xs: jax.Array) -> jax.Array:
    """Outputs of all steps."""
    return hs.real @ params["c_re"] - hs.imag @ params["c_im"] + params["d"] * xs


def _decoder(everywhere: bool, params: Tree, inputs: Tree, data: Tree) -> jax.Array:
    """A GRU with additive attention and input feeding; reads its own likeliest token where it is not forced.

    Who knows that it is forced everywhere reads out all steps after the loop.
    """
    memory, table, attention = inputs["memory"], params["embedding"], params["attention"]
    keys = memory @ attention["w_m"]
    real = jnp.arange(memory.shape[0])[:, None] < data["lengths"]

    def logits(vectors: jax.Array) -> jax.Array:
        return vectors @ params["w_o"] + params["b_o"]

    def step(carry: Any, at: Any) -> tuple[Any, jax.Array]:
        h, vector, own = carry
        truth, forced = at
        x = table[jnp.where(forced == 1, truth, own)]
        (h,), _ = _gru(params["cell"], (h,), jnp.concatenate([x, vector], axis=-1))
        energies = jnp.tanh(keys + h @ attention["w_q"]) @ attention["v"]
        shares = jax.nn.softmax(jnp.where(real, energies, -jnp.inf), axis=0)
        context = jnp.einsum("sb,sbe->be", shares, memory)
        vector = jnp.tanh(jnp.concatenate([context, h], axis=-1) @ params["w_c"])
        if everywhere:
            return (h, vector, own), vector
        y = logits(vector)
        return (h, vector, jnp.argmax(y, axis=-1).astype(truth.dtype)), y

    targets, forced = data["targets"], data["forced"]
    first = jnp.zeros_like(targets[:1])
    truths = jnp.concatenate([first, targets[:-1]])
    forced = forced.at[0].set(1)
    h = jnp.zeros((targets.shape[1], params["w_o"].shape[0]), memory.dtype)
    ys = lax.scan(step, (h, h, first[0]), (truths, forced))[1]
    return logits(ys) if everywhere else ys


def _char_lm(params: Tree, inputs: Tree, data: Tree) -> jax.Array:
    hs = _unroll("lstm", params["cell"], params["embedding"][data["tokens"]])
    return hs @ params["w_o"] + params["b_o"]
