"""flax.linen: `nn.RNN` over its cells, `OptimizedLSTMCell` for the LSTM."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks.problems import Problem, Tree
from benchmarks.programs import Net, Stream

CELLS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}


class Bidirectional(nn.Module):
    """Layers of LSTMs in both directions over rows of some lengths."""

    size: int
    num_layers: int

    @nn.compact
    def __call__(self, xs: Any, lengths: jax.Array) -> Any:
        """[T, B, I] -> [T, B, 2H]."""
        for i in range(self.num_layers):
            ways: list[Any] = [nn.RNN(_lstm(self.size), time_major=True, name=f"{i}{way}") for way in "fb"]
            layer: Any = nn.Bidirectional(*ways, time_major=True)
            xs = layer(xs, seq_lengths=lengths)
        return xs


class CharLM(nn.Module):
    """Embedding, LSTM, logits."""

    vocabulary: int
    embedding_size: int
    size: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[T, B] -> [T, B, V]."""
        xs = nn.Embed(self.vocabulary, self.embedding_size, name="embedding")(tokens)
        hs = nn.RNN(_lstm(self.size), time_major=True, name="rnn")(xs)
        return nn.Dense(self.vocabulary, name="dense")(hs)


def net(problem: Problem) -> Net:
    """The network of a problem."""
    s, given, family = problem.case.sizes, problem.params, problem.case.family
    if family == "bidirectional":
        model = Bidirectional(s["H"], s["L"])
        return Net(
            {name: {"cell": write("lstm", one)} for name, one in given.items()},
            lambda params, inputs, data: model.apply({"params": params}, inputs["xs"], data["lengths"]),
            lambda params: {name: read("lstm", one["cell"]) for name, one in params.items()},
        )
    if family == "char_lm":
        return _char_lm(problem)
    rnn = nn.RNN(CELLS[family](s["H"]), time_major=True)
    return Net(
        {"cell": write(family, given)},
        lambda params, inputs, data: rnn.apply({"params": params}, inputs["xs"]),
        lambda params: read(family, params["cell"]),
    )


def stream(problem: Problem) -> Stream:
    """One step of the LSTM."""
    cell = nn.OptimizedLSTMCell(problem.case.sizes["H"])
    carry = cell.initialize_carry(jax.random.key(0), (1, problem.case.sizes["I"]))
    return Stream(write("lstm", problem.params), carry, lambda params, *args: cell.apply({"params": params}, *args))


def write(cell: str, weights: Tree) -> Tree:
    """Our weights in the layout of a linen cell."""
    if cell == "elman":
        return {"i": {"kernel": weights["w_x"], "bias": weights["b"]}, "h": {"kernel": weights["w_h"]}}
    gates = "ifgo" if cell == "lstm" else "rzn"
    w_x, w_h, b = (np.split(weights[name], len(gates), axis=-1) for name in ("w_x", "w_h", "b"))
    on_x = {f"i{gate}": {"kernel": w_x[k]} for k, gate in enumerate(gates)}
    on_h = {f"h{gate}": {"kernel": w_h[k]} for k, gate in enumerate(gates)}
    for k, gate in enumerate(gates):  # the LSTM keeps its biases beside h, the GRU beside x
        (on_h[f"h{gate}"] if cell == "lstm" else on_x[f"i{gate}"])["bias"] = b[k]
    if cell == "gru":
        on_h["hn"]["bias"] = weights["b_hn"]
    return on_x | on_h


def read(cell: str, params: Any) -> Tree:
    """The inverse of `write`."""
    if cell == "elman":
        return {"w_x": params["i"]["kernel"], "w_h": params["h"]["kernel"], "b": params["i"]["bias"]}
    gates = "ifgo" if cell == "lstm" else "rzn"

    def joined(side: str, field: str) -> np.ndarray:
        return np.concatenate([params[side + gate][field] for gate in gates], axis=-1)

    weights = {"w_x": joined("i", "kernel"), "w_h": joined("h", "kernel")}
    weights["b"] = joined("h" if cell == "lstm" else "i", "bias")
    return weights | ({"b_hn": params["hn"]["bias"]} if cell == "gru" else {})


def _lstm(size: int) -> nn.OptimizedLSTMCell:
    """A cell that belongs to the `RNN` around it, and not to the module in whose call it is made."""
    return nn.OptimizedLSTMCell(size, parent=None)


def _char_lm(problem: Problem) -> Net:
    s, given = problem.case.sizes, problem.params
    model = CharLM(s["V"], s["I"], s["H"])
    params = {
        "embedding": {"embedding": jnp.asarray(given["embedding"])},
        "rnn": {"cell": write("lstm", given["cell"])},
        "dense": {"kernel": given["w_o"], "bias": given["b_o"]},
    }

    def back(params: Any) -> Tree:
        return {
            "embedding": params["embedding"]["embedding"],
            "cell": read("lstm", params["rnn"]["cell"]),
            "w_o": params["dense"]["kernel"],
            "b_o": params["dense"]["bias"],
        }

    return Net(params, lambda params, inputs, data: model.apply({"params": params}, data["tokens"]), back)
