"""flax.nnx: `nnx.RNN` over its cells, split into a graph and its parameters once, so that only arrays are passed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.problems import Problem, Tree
from benchmarks.programs import Net, Stream

CELLS = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "elman": nnx.SimpleCell}


class Bidirectional(nnx.Module):
    """Layers of LSTMs in both directions over rows of some lengths."""

    def __init__(self, weights: Tree, num_layers: int) -> None:
        self.layers = nnx.List(
            nnx.Bidirectional(*[_rnn("lstm", weights[f"{i}{way}"]) for way in "fb"], time_major=True, rngs=False)
            for i in range(num_layers)
        )

    def __call__(self, xs: Any, lengths: jax.Array) -> Any:
        """[T, B, I] -> [T, B, 2H]."""
        layers: Any = self.layers
        for layer in layers:
            xs = layer(xs, seq_lengths=lengths, rngs=nnx.Rngs(0))
        return xs


def net(problem: Problem) -> Net:
    """The network of a problem."""
    given, family = problem.params, problem.case.family
    if family == "bidirectional":

        def read_both(model: Any) -> Tree:
            ways = {f"{i}{way}": part for i, one in enumerate(model.layers) for way, part in _directions(one).items()}
            return {name: read("lstm", part.cell) for name, part in ways.items()}

        model = Bidirectional(given, problem.case.sizes["L"])
        return _split(model, lambda model, inputs, data: model(inputs["xs"], data["lengths"]), read_both)
    model = _rnn(family, given)
    return _split(
        model, lambda model, inputs, data: model(inputs["xs"], rngs=nnx.Rngs(0)), lambda model: read(family, model.cell)
    )


def stream(problem: Problem) -> Stream:
    """One step of the LSTM."""
    cell = _rnn("lstm", problem.params).cell
    graph, params, rest = nnx.split(cell, nnx.Param, ...)
    h = jnp.zeros((1, problem.case.sizes["H"]))
    return Stream(params, (h, h), lambda params, carry, x: nnx.merge(graph, params, rest)(carry, x))


def read(cell: str, module: Any) -> Tree:
    """The weights of a cell in our layout. The GRU has no `b_hn`."""
    bias = module.dense_h if cell == "lstm" else module.dense_i
    return {"w_x": module.dense_i.kernel[...], "w_h": module.dense_h.kernel[...], "b": bias.bias[...]}


def _directions(layer: Any) -> dict[str, Any]:
    return {"f": layer.forward_rnn, "b": layer.backward_rnn}


def _rnn(cell: str, weights: Tree) -> nnx.RNN:
    kind: Any = CELLS[cell]
    module = kind(weights["w_x"].shape[0], weights["w_h"].shape[0], rngs=nnx.Rngs(0))
    module.dense_i.kernel[...] = weights["w_x"]
    module.dense_h.kernel[...] = weights["w_h"]
    (module.dense_h if cell == "lstm" else module.dense_i).bias[...] = weights["b"]
    return nnx.RNN(module, time_major=True, rngs=False)


def _split(model: Any, call: Callable[..., Any], back: Callable[[Any], Tree]) -> Net:
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def apply(params: Any, inputs: Tree, data: Tree) -> jax.Array:
        return call(nnx.merge(graph, params, rest), inputs, data)

    def read_params(params: Any) -> Tree:
        return jax.tree.map(np.asarray, back(nnx.merge(graph, params, rest)))

    return Net(params, apply, read_params)
