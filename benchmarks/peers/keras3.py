"""Keras 3 on its JAX backend: layers over [B, T, I], called by `stateless_call`."""

import os
from typing import Any

import numpy as np

from benchmarks.problems import Problem, Tree
from benchmarks.programs import Net

os.environ["KERAS_BACKEND"] = "jax"  # read when keras is imported

import keras


def net(problem: Problem) -> Net:
    """The network of a problem."""
    family, size = problem.case.family, problem.case.sizes["H"]
    given, shape = problem.params, (None, *np.swapaxes(problem.inputs["xs"], 0, 1).shape[1:])
    if family == "bidirectional":
        return _bidirectional(problem, shape)
    layer = _layer(family, size)
    layer.build(shape)
    state = [one.value for one in layer.non_trainable_variables]

    def apply(params: Any, inputs: Tree, data: Tree) -> Any:
        return layer.stateless_call(params, state, inputs["xs"])[0]

    return Net(write(family, given), apply, lambda params: read(family, params), batch_first=True)


def write(cell: str, weights: Tree) -> list[np.ndarray]:
    """Our weights as the list that a layer has: kernel, recurrent kernel, bias; GRU gates z, r, n and two biases."""
    if not cell.startswith("gru"):
        return [weights[name] for name in ("w_x", "w_h", "b")]
    w_x, w_h, b = (_swapped(weights[name]) for name in ("w_x", "w_h", "b"))
    if cell == "gru_before":
        return [w_x, w_h, b]
    zeros = np.zeros_like(weights["b"][: -len(weights["b_hn"])])
    return [w_x, w_h, np.stack([b, np.concatenate([zeros, weights["b_hn"]])])]


def read(cell: str, params: list[Any]) -> Tree:
    """Parameters, or gradients, in our layout."""
    w_x, w_h, b = map(np.asarray, params)
    if not cell.startswith("gru"):
        return {"w_x": w_x, "w_h": w_h, "b": b}
    weights = {"w_x": _swapped(w_x), "w_h": _swapped(w_h)}
    if cell == "gru_before":
        return weights | {"b": _swapped(b)}
    return weights | {"b": _swapped(b[..., 0, :]), "b_hn": np.split(b[..., 1, :], 3, axis=-1)[2]}


def _swapped(blocks: np.ndarray) -> np.ndarray:
    """r, z, n to z, r, n and back."""
    first, second, n = np.split(blocks, 3, axis=-1)
    return np.concatenate([second, first, n], axis=-1)


def _layer(family: str, size: int) -> Any:
    if family == "lstm":
        return keras.layers.LSTM(size, return_sequences=True)
    if family == "elman":
        return keras.layers.SimpleRNN(size, return_sequences=True)
    return keras.layers.GRU(size, return_sequences=True, reset_after=family == "gru")


def _bidirectional(problem: Problem, shape: tuple[Any, ...]) -> Net:
    size, count = problem.case.sizes["H"], problem.case.sizes["L"]
    layers = [keras.layers.Bidirectional(_layer("lstm", size)) for _ in range(count)]
    for layer in layers:
        layer.build(shape)
        shape = (*shape[:-1], 2 * size)
    names = [f"{i}{way}" for i in range(count) for way in "fb"]
    states = [[one.value for one in layer.non_trainable_variables] for layer in layers]
    steps = problem.case.sizes["T"]

    def apply(params: Any, inputs: Tree, data: Tree) -> Any:
        xs, mask = inputs["xs"], keras.ops.arange(steps) < data["lengths"][:, None]
        for i, layer in enumerate(layers):
            xs = layer.stateless_call(params[6 * i : 6 * i + 6], states[i], xs, mask=mask)[0]
        return xs

    def back(params: list[Any]) -> Tree:
        return {name: read("lstm", params[3 * k : 3 * k + 3]) for k, name in enumerate(names)}

    params = [array for name in names for array in write("lstm", problem.params[name])]
    return Net(params, apply, back, batch_first=True)
