"""rnn_jax."""

from typing import Any

import jax
from jax import numpy as jnp

from benchmarks.problems import Problem, Tree
from benchmarks.programs import Net, Stream
from rnn_jax import (
    Auto,
    LinearCell,
    attention_decoder,
    bidirectional,
    dense,
    elman,
    forced_unroll,
    gru,
    lru,
    lstm,
    serial,
    stack,
    stream_step,
    unroll,
)
from rnn_jax.attention import additive
from rnn_jax.attention.decoder import DecoderParams
from rnn_jax.attention.mechanisms import AdditiveParams
from rnn_jax.cells.elman import ElmanParams
from rnn_jax.cells.gru import GRUParams
from rnn_jax.cells.lru import LRUParams
from rnn_jax.cells.lstm import LSTMParams
from rnn_jax.compose import DenseParams
from rnn_jax.forcing import argmax
from rnn_jax.layers import Directions
from rnn_jax.unroll import Strategy

PARAMS = {"lstm": LSTMParams, "gru": GRUParams, "gru_before": GRUParams, "elman": ElmanParams, "lru": LRUParams}

AUTO = Auto()


def net(problem: Problem, method: Strategy = AUTO) -> Net:
    """The network of a problem; `method` is for single cells."""
    family = problem.case.family
    if family == "diagonal":
        return _diagonal(method)
    if family == "bidirectional":
        return _bidirectional(problem)
    if family == "decoder":
        return _decoder(problem)
    if family == "char_lm":
        return _char_lm(problem)
    cell, params = _cell(family, problem)

    def apply(params: Any, inputs: Tree, data: Tree) -> jax.Array:
        return unroll(cell, params, inputs["xs"], method=method)[1]

    return Net(params, apply, _fields)


def stream(problem: Problem) -> Stream:
    """One step of the LSTM."""
    cell, params = _cell("lstm", problem)
    return Stream(params, cell.init_carry(params, (1,)), lambda params, carry, x: stream_step(cell, params, carry, x))


def _cell(family: str, problem: Problem) -> tuple[Any, Any]:
    size = problem.data["weights"].shape[-1]
    cells = {"lstm": lstm, "gru": gru, "elman": elman, "lru": lru}
    cell = gru(size, reset="before") if family == "gru_before" else cells[family](size)
    return cell, PARAMS[family](**problem.params)


def _fields(params: Any) -> Tree:
    """A NamedTuple as a tree, without its empty fields."""
    return {name: value for name, value in params._asdict().items() if value is not None}


def _diagonal(method: Strategy) -> Net:
    """`h' = a h + b` itself: the factors stand in for parameters."""

    def init_carry(params: Any, batch_shape: tuple[int, ...] = ()) -> jax.Array:
        return jnp.zeros((*batch_shape, params.shape[-1]), params.dtype)

    cell = LinearCell(init=lambda key, size: None, init_carry=init_carry, elements=lambda params, xs: (params, xs))
    return Net({}, lambda params, inputs, data: unroll(cell, inputs["a"], inputs["b"], method=method)[1], dict)


def _bidirectional(problem: Problem) -> Net:
    size = problem.case.sizes["H"]
    layers = range(problem.case.sizes["L"])
    model = serial(*[bidirectional(lstm(size), lstm(size)) for _ in layers])
    params = tuple(Directions(*[LSTMParams(**problem.params[f"{i}{way}"]) for way in "fb"]) for i in layers)

    def apply(params: Any, inputs: Tree, data: Tree) -> jax.Array:
        return model.apply(params, inputs["xs"], lengths=data["lengths"])[1]

    def read(params: Any) -> Tree:
        return {f"{i}{way}": _fields(one) for i in layers for way, one in zip("fb", params[i], strict=True)}

    return Net(params, apply, read)


def _decoder(problem: Problem) -> Net:
    s, given = problem.case.sizes, problem.params
    decoder = attention_decoder(gru(s["H"]), additive(s["A"]), s["V"], memory_size=s["E"])
    params = {
        "embedding": given["embedding"],
        "decoder": DecoderParams(
            cell=GRUParams(**given["cell"]),
            attention=AdditiveParams(**given["attention"]),
            w_c=given["w_c"],
            w_o=given["w_o"],
            b_o=given["b_o"],
        ),
    }

    def apply(params: Any, inputs: Tree, data: Tree) -> jax.Array:
        attended = decoder.attend(params["decoder"], inputs["memory"], lengths=data["lengths"])
        options: Any = {"start": 0, "feedback": argmax, "embedding": params["embedding"]}
        return forced_unroll(decoder.cell, attended, data["targets"], data["forced"], **options)[1]

    def read(params: Any) -> Tree:
        fields = _fields(params["decoder"])
        parts = {name: _fields(fields[name]) for name in ("cell", "attention")}
        return {**fields, **parts, "embedding": params["embedding"]}

    return Net(params, apply, read)


def _char_lm(problem: Problem) -> Net:
    s, given = problem.case.sizes, problem.params
    model = stack(lstm(s["H"]), dense(s["V"]))
    layers = (LSTMParams(**given["cell"]), DenseParams(w=given["w_o"], b=given["b_o"]))

    def apply(params: Any, inputs: Tree, data: Tree) -> jax.Array:
        return unroll(model, params["layers"], params["embedding"][data["tokens"]])[1]

    def read(params: Any) -> Tree:
        cell, readout = params["layers"]
        return {"embedding": params["embedding"], "cell": _fields(cell), "w_o": readout.w, "b_o": readout.b}

    return Net({"embedding": given["embedding"], "layers": layers}, apply, read)
