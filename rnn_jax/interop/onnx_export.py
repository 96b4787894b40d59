"""Recurrent networks as ONNX files."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnn_jax.cells.lstm import LSTMParams
from rnn_jax.interop.one_cell import refuse_options
from rnn_jax.interop.onnx_graph import GATE_ORDER, PEEPHOLE_ORDER, require_onnx
from rnn_jax.interop.plain import KINDS, Walk, hidden_size, is_coupled, recurrent_bias, take_apart
from rnn_jax.types import Cell, Layer, Params

OPSET = 17
IR_VERSION = 8


def to_onnx(
    model: Cell | Layer,
    params: Params,
    path: str | os.PathLike[str],
    *,
    lengths: bool = False,
    carry: bool = False,
) -> None:
    """Writes a network as an ONNX file of `RNN`, `GRU` and `LSTM` nodes; steps and batch size stay open.

    Inputs and outputs of the file, float32 but for the lengths:

        xs [T, B, I]                             ys [T, B, O]
        lengths [B], int32, if asked for
        initial/... [B, H], if asked for         final/... [B, H]

    A state is named by its place in the carry of `model`: "final" for one `gru` or `elman`, "final/h" and "final/c" for
    an `lstm`, "final/0/h" at the bottom of a stack, "final/1/backward" for a second, bidirectional layer.

    Args:
        model: what `take_apart` of `rnn_jax.interop.plain` knows: an `lstm`, `gru` or `elman` (tanh or ReLU), a `stack`
            of them, `bidirectional` ones with merge "concat", or a `serial` of such layers.
        params: its parameters, not perturbed.
        path: the file, which must not exist yet.
        lengths: whether the file takes lengths in [0, T]. Padding is inert, as in `unroll`: ys are zero there, and
            states are those of the last real step.
        carry: whether the file takes the first states, which are zero if it does not.

    Raises:
        ImportError: onnx is not installed.
        ValueError: there is no ONNX node for the network: an LSTM with a projection or a layer norm, and what
            `take_apart` does not know.
        FileExistsError: there is such a file.

    Example:
        Streaming is the same file with T = 1, final states fed back as the initial ones::

            cell = stack(lstm(64), lstm(64))
            to_onnx(cell, params, "model.onnx", carry=True)
            session = onnxruntime.InferenceSession("model.onnx")
            names = [one.name for one in session.get_outputs()]
            state = {f"initial/{i}/{part}": np.zeros((1, 64), np.float32) for i in (0, 1) for part in "hc"}
            for x in arriving:  # [1, I]
                outputs = dict(zip(names, session.run(names, {"xs": x[None], **state})))
                y = outputs.pop("ys")[0]
                state = {name.replace("final", "initial"): value for name, value in outputs.items()}

    Notes:
        ONNX does not say what `input_forget` couples to what, so a coupled LSTM is written as a plain one whose input
        gate has the weights of its forget gate with the sign changed: 1 - sigmoid(a) = sigmoid(-a). A node never sees
        the length 0, for which onnxruntime forgets the first state (LSTM) or reads before its outputs (RNN): such rows
        run one step, and its result is not taken. Opset 17; tried with onnxruntime 1.32.
    """
    onnx = require_onnx()
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; to_onnx overwrites nothing")
    rows = take_apart(model, params)
    for walk in (walk for row in rows for walk in row):
        refuse_options(walk, "model", "ONNX", allowed=("peepholes", "coupled gates"))
    file = _build(onnx, rows, lengths, carry)
    onnx.checker.check_model(file, full_check=True)
    with path.open("xb") as target:
        target.write(file.SerializeToString())


class _Graph:
    """The nodes, constants, inputs and outputs of a file that is being built."""

    def __init__(self, onnx: Any) -> None:
        self.onnx, self.nodes, self.constants, self.inputs, self.outputs = onnx, [], {}, [], []

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = self.onnx.numpy_helper.from_array(np.asarray(value), name)
        return name

    def node(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]

    def port(self, where: list[Any], name: str, shape: list[Any], about: str, integer: bool = False) -> str:
        kind = self.onnx.TensorProto.INT32 if integer else self.onnx.TensorProto.FLOAT
        where.append(self.onnx.helper.make_tensor_value_info(name, kind, shape, about))
        return name


class _Real(NamedTuple):
    """What a file with lengths knows of them, by name."""

    steps: str  # lengths, at least 1
    rows: str  # [B, 1], True where the length is not 0


def _build(onnx: Any, rows: Any, lengths: bool, carry: bool) -> Any:
    graph = _Graph(onnx)
    below = graph.port(graph.inputs, "xs", ["T", "B", rows[0][0].params.w_x.shape[0]], "inputs, time first")
    graph.constant("first_axis", np.array([0]))
    graph.constant("second_axis", np.array([1]))
    graph.port(graph.outputs, "ys", ["T", "B", sum(hidden_size(walk.params) for walk in rows[-1])], "outputs")
    real = _lengths(graph) if lengths else None
    layers: list[list[str]] = []
    for index, row in enumerate(rows):
        place = f"/{index}" if len(rows) > 1 else ""
        names = [place + side for side in ("/forward", "/backward")] if len(row) == 2 else [place]
        ys = [_walk(graph, name, walk, below, real, carry) for name, walk in zip(names, row, strict=True)]
        below = ys[0] if len(ys) == 1 else graph.node("Concat", ys, f"layer{place}/ys", axis=2)
        layers.append([_title(walk) for walk in row])
    graph.node("Where" if real else "Identity", [real.rows, below, "zero"] if real else [below], "ys")
    body = onnx.helper.make_graph(
        graph.nodes,
        "rnn_jax",
        graph.inputs,
        graph.outputs,
        list(graph.constants.values()),
        "; ".join(map(", ".join, layers)),
    )
    file = onnx.helper.make_model(
        body,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rnn_jax",
        producer_version=version("rnn_jax"),
    )
    names = {"inputs": [one.name for one in body.input], "outputs": [one.name for one in body.output]}
    onnx.helper.set_model_props(
        file,
        {"opset": str(OPSET), **{key: json.dumps(value) for key, value in {"layers": layers, **names}.items()}},
    )
    return file


def _lengths(graph: _Graph) -> _Real:
    graph.port(graph.inputs, "lengths", ["B"], "real steps of each row, from 0 to T", integer=True)
    one, none = graph.constant("one", np.array(1, np.int32)), graph.constant("none", np.array(0, np.int32))
    graph.constant("zero", np.array(0, np.float32))
    steps = graph.node("Max", ["lengths", one], "steps")
    some = graph.node("Greater", ["lengths", none], "some")
    return _Real(steps=steps, rows=graph.node("Unsqueeze", [some, "second_axis"], "rows"))


def _walk(graph: _Graph, name: str, walk: Walk, xs: str, real: _Real | None, carry: bool) -> str:
    """Adds one direction of one layer, and returns the name of its outputs [T, B, H]."""
    inner = f"layer{name}"
    size, kind = hidden_size(walk.params), KINDS[type(walk.params)]
    parts = [""] if kind != "LSTM" else ["/h", "/c"]
    states = [f"initial{name}{part}" for part in parts] if carry else []
    for state in states:
        graph.port(graph.inputs, state, ["B", size], "state before the first step")
        graph.node("Unsqueeze", [state, "first_axis"], f"{inner}/{state}")
    weights = {key: graph.constant(f"{inner}/{key}", value[None]) for key, value in _weights(walk).items()}
    starts = [f"{inner}/{state}" for state in states] or [""] * len(parts)
    inputs = [xs, *(weights[key] for key in "WRB"), real.steps if real else "", *starts, weights.get("P", "")]
    while not inputs[-1]:
        inputs.pop()
    attributes: dict[str, Any] = {"hidden_size": size, "direction": "reverse" if walk.reverse else "forward"}
    if kind == "RNN":
        attributes["activations"] = [walk.activation.capitalize()]
    if kind == "GRU":
        attributes["linear_before_reset"] = int(getattr(walk.params, "b_hn", None) is not None)
    finals = [f"final{name}{part}" for part in parts]
    raw = [f"{inner}/{final}" for final in finals]
    graph.node(kind, inputs, f"{inner}/Y", *raw, **attributes)
    for index, (final, value) in enumerate(zip(finals, raw, strict=True)):
        graph.port(graph.outputs, final, ["B", size], "state after the last step")
        if real is None:
            graph.node("Squeeze", [value, "first_axis"], final)
        else:
            some = graph.node("Squeeze", [value, "first_axis"], f"{value}/some")
            graph.node("Where", [real.rows, some, states[index] if states else "zero"], final)
    return graph.node("Squeeze", [f"{inner}/Y", "second_axis"], f"{inner}/ys")


def _title(walk: Walk) -> str:
    way = " backwards" if walk.reverse else ""
    return f"{KINDS[type(walk.params)]}({hidden_size(walk.params)}){way}"


def _weights(walk: Walk) -> dict[str, np.ndarray]:
    """The inputs W, R, B and P of a node, without the axis of directions."""
    params: Any = walk.params
    kind = KINDS[type(params)]
    blocks = {"W": params.w_x, "R": params.w_h, "B": params.b, "on_h": recurrent_bias(params)}
    coupled = isinstance(params, LSTMParams) and is_coupled(params)
    found = {key: _reorder(value, kind, coupled) for key, value in blocks.items()}
    found["B"] = np.concatenate([found["B"], found.pop("on_h")])
    peephole: Any = getattr(params, "w_peephole", None)
    if peephole is not None:
        rows = [-peephole[0], *peephole] if coupled else peephole
        found["P"] = np.concatenate([np.asarray(rows[index], np.float32) for index in PEEPHOLE_ORDER])
    return found


def _reorder(value: Any, kind: str, coupled: bool) -> np.ndarray:
    """A fused kernel [I, G H] or bias [G H] of ours as ONNX has it: [G H, I] or [G H], in its order of gates."""
    order = GATE_ORDER[kind]
    parts = np.split(np.asarray(value, np.float32).T, len(order) - coupled)
    if coupled:
        parts.insert(0, -parts[0])
    return np.concatenate([parts[index] for index in order])
