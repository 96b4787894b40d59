"""The recurrent networks of ONNX files, with their weights."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.cells import elman, gru, lstm
from rnn_jax.cells.elman import ElmanParams
from rnn_jax.cells.gru import GRUParams
from rnn_jax.cells.lstm import LSTMCarry, LSTMParams
from rnn_jax.interop.onnx_activations import activations_of
from rnn_jax.interop.onnx_graph import GATE_ORDER, PEEPHOLE_ORDER, Graph, require_onnx
from rnn_jax.interop.plain import Walk, assemble, reset_after
from rnn_jax.layers import Directions
from rnn_jax.types import Carry, Cell, Layer, Params

INPUTS = {name: i for i, name in enumerate(("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"))}
"""The inputs of an LSTM node; those of RNN and GRU end with initial_h."""

DIRECTIONS = ("forward", "reverse", "bidirectional")


class OnnxNetwork(NamedTuple):
    """The recurrent network of an ONNX file.

    Attributes:
        model: a `Cell`, to be given to `unroll`; or a `Layer` if the network walks backwards or in both directions.
        params: the parameters of `model`.
        carry: the first carry that stands in the file, [B, H] with B = 1 where the file leaves the batch open; None
            where states start at zero or are given to the file by its caller.
    """

    model: Cell | Layer
    params: Params
    carry: Carry | None


class _Read(NamedTuple):
    """One direction of one node."""

    walk: Walk
    start: tuple[np.ndarray, ...] | None  # h, or h and c


def from_onnx(model: Any, node: str | None = None) -> OnnxNetwork:
    """The network of the `RNN`, `GRU` and `LSTM` nodes of an ONNX model.

        model, params, carry = from_onnx("model.onnx")
        carry, ys = unroll(model, params, xs, carry)  # xs [T, B, I]; model.apply(params, xs, carry=carry) of a layer

    Nodes one after another, each of which reads all outputs of the one below, as exporters write stacks and both
    directions, are one network. What stands before and behind the recurrent nodes is not converted. A layout of inputs
    is no weight: ours are [T, B, I] whatever the file has; neither is `sequence_lens`, for which `lengths` is there.

    Args:
        model: a path, the bytes of a file or an `onnx.ModelProto`.
        node: the name of a node, or of one of its outputs, that is converted alone.

    Returns:
        `OnnxNetwork(model, params, carry)`. An RNN with default activations is `elman`; `linear_before_reset` tells
        the two forms of `gru` apart; an LSTM may have peepholes; with `input_forget` it is coupled, f = 1 - i as
        onnxruntime has it.

    Raises:
        ImportError: onnx is not installed.
        ValueError: `model` is no ONNX model or has no recurrent node in its main graph, or several that are not one
            network; weights that are computed from inputs or have wrong shapes; gates of GRU or LSTM that are not
            sigmoid and tanh; `clip`, which ONNX does before the activations and no cell of ours does.

    Notes:
        That the nodes read each other is seen by computing what stands between them (Transpose, Reshape, Squeeze,
        Concat, Dropout, ...) on random numbers. Weights may be computed from constants.
    """
    onnx = require_onnx()
    graph = Graph(onnx, _load(onnx, model))
    found = [one for one in graph.nodes if one.op_type in GATE_ORDER and one.domain in ("", "ai.onnx")]
    if not found:
        raise ValueError("`model` must have an RNN, GRU or LSTM node in its main graph, got none")
    if node is not None:
        named = {name: one for one in found for name in (one.name, *one.output) if name}
        checks.one_of("node", node, tuple(named))
        found = [named[node]]
    rows = [[read for one in row for read in _read(graph, one, found)] for row in _rows(graph, found)]
    converted = assemble([[read.walk for read in row] for row in rows])
    return OnnxNetwork(converted.model, converted.params, _carry(rows))


def _load(onnx: Any, model: Any) -> Any:
    if isinstance(model, onnx.ModelProto):
        return model
    if not isinstance(model, bytes | str | os.PathLike):
        raise ValueError(f"`model` must be a path, bytes or an onnx.ModelProto, got {checks.describe(model)}")
    try:
        loaded = onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    except OSError:
        raise
    except Exception as error:  # protobuf's own kind of error, which has no public name
        raise ValueError(f"`model` must be an ONNX model: {error}") from error
    if not loaded.HasField("graph"):
        raise ValueError("`model` must be an ONNX model, got something without a graph")
    return loaded


def _attributes(graph: Graph, node: Any) -> dict[str, Any]:
    found = {one.name: graph.onnx.helper.get_attribute_value(one) for one in node.attribute}
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in found.items()}


def _name(node: Any) -> str:
    return f"{node.op_type} {node.name or next(filter(None, node.output), '')!r}"


def _rows(graph: Graph, nodes: Sequence[Any]) -> list[list[Any]]:
    """The nodes as layers: one node, or one that walks forwards and one that walks backwards over the same input."""
    rows: list[list[Any]] = []
    for node in nodes:
        way = _attributes(graph, node).get("direction", "forward")
        if rows and len(rows[-1]) == 1 and rows[-1][0].input[0] == node.input[0]:
            other = _attributes(graph, rows[-1][0]).get("direction", "forward")
            if {way, other} == {"forward", "reverse"}:
                rows[-1].insert(way == "reverse", node)
                continue
        if rows and not _reads(graph, node, rows[-1]):
            names = ", ".join(_name(one) for one in nodes)
            raise ValueError(
                "`model` must have one recurrent node, or some that each read all outputs of the one below and nothing "
                f"else, but {_name(node)} does not; `node` chooses one of {names}"
            )
        rows.append([node])
    return rows


def _reads(graph: Graph, node: Any, below: Sequence[Any]) -> bool:
    """Whether the input of a node is the outputs of the nodes below, side by side, forward first."""
    name, stops = node.input[0], [one.output[0] for one in below]
    if not all(stops) or any(graph.nodes[index].op_type in GATE_ORDER for index in graph.above(name, stops)[0]):
        return False
    rng = np.random.default_rng(0)
    for steps, batch in _sizes(graph):
        outputs, expected = {}, []
        for one in below:
            ways, _, size = _weight(graph, one, "R").shape
            ys = 9 * rng.normal(size=(steps, ways, batch, size)).astype(np.float32)
            outputs[one.output[0]] = ys.transpose(2, 0, 1, 3) if _attributes(graph, one).get("layout") else ys
            expected += [ys[:, way] for way in range(ways)]
        try:
            seen = graph.value(name, outputs, (steps, batch))
        except ValueError:
            continue
        if _attributes(graph, node).get("layout") and seen.ndim == 3:
            seen = seen.swapaxes(0, 1)
        if np.array_equal(seen, np.concatenate(expected, axis=-1)):
            return True
    return False


def _sizes(graph: Graph) -> list[tuple[int, int]]:
    """Numbers of steps and rows to try: any, and those that are fixed in the file."""
    found = [(3, 2)]
    for one in graph.inputs.values():
        fixed = [axis.dim_value for axis in one.type.tensor_type.shape.dim][:2]
        if len(fixed) == 2:
            steps, batch = fixed[0] or 3, fixed[1] or 2
            found += [(steps, batch), (batch, steps)]
    return list(dict.fromkeys(found))


def _weight(graph: Graph, node: Any, key: str) -> Any:
    """An input of a node that has to be constant, or None if it is left out."""
    name = _input(node, key)
    if not name:
        return None
    changing = [leaf for leaf in graph.above(name)[1] if leaf not in graph.constants]
    if changing:
        raise ValueError(f"`model` must have constant weights, but {key} of {_name(node)} comes from {changing[0]!r}")
    return graph.value(name, {}, ())


def _input(node: Any, key: str) -> str:
    return node.input[INPUTS[key]] if INPUTS[key] < len(node.input) else ""


def _read(graph: Graph, node: Any, chosen: Sequence[Any]) -> list[_Read]:
    """The directions of a node."""
    kind, title, attributes = node.op_type, _name(node), _attributes(graph, node)
    direction = attributes.get("direction", "forward")
    checks.one_of(f"direction` of `{title}", direction, DIRECTIONS)
    if "clip" in attributes:
        raise ValueError(f"{title} must have no `clip`: it clips what enters the activations, and no cell of ours does")
    ways, gates = 1 + (direction == "bidirectional"), len(GATE_ORDER[kind])
    weights = {key: _weight(graph, node, key) for key in ("W", "R", "B", "P")}
    size = np.shape(weights["R"])[-1] if np.ndim(weights["R"]) == 3 else attributes.get("hidden_size", 0)
    features = np.shape(weights["W"])[-1] if np.ndim(weights["W"]) == 3 else "I"
    expected = {"W": (ways, gates * size, features), "R": (ways, gates * size, size)}
    expected |= {"B": (ways, 2 * gates * size), "P": (ways, 3 * size)}
    for key, value in weights.items():
        if value is not None and value.shape != expected[key]:
            raise ValueError(f"{key} of {title} must have shape {expected[key]}, got {value.shape}")
    if attributes.get("hidden_size", size) != size:
        raise ValueError(f"`hidden_size` of {title} must be that of R, {size}, got {attributes['hidden_size']}")
    functions = _functions(kind, title, attributes, ways)
    starts = [
        _start(graph, node, key, chosen, (ways, size)) for key in ("initial_h", "initial_c")[: 1 + (kind == "LSTM")]
    ]
    found = []
    for way in range(ways):
        one = {key: None if value is None else value[way] for key, value in weights.items()}
        walk = _walk(kind, one, functions[way], attributes)
        start = None
        if any(value is not None for value in starts):
            start = tuple(np.zeros((1, size), np.float32) if value is None else value[way] for value in starts)
        found.append(_Read(walk._replace(reverse=direction == "reverse" or way == 1), start))
    return found


def _functions(kind: str, title: str, attributes: dict[str, Any], ways: int) -> list[Any]:
    """The name and function of each direction of an RNN; of GRU and LSTM only that they are what our cells have."""
    default = {"RNN": ("tanh",), "GRU": ("sigmoid", "tanh"), "LSTM": ("sigmoid", "tanh", "tanh")}[kind]
    if "activations" not in attributes:
        return [(default[0], jnp.tanh)] * ways
    found = activations_of(title, attributes, ways * len(default))
    names = tuple(name for name, _ in found)
    if kind != "RNN" and names != default * ways:
        raise ValueError(f"`activations` of {title} must be {', '.join(default)}, got {', '.join(names)}")
    return found


def _start(graph: Graph, node: Any, key: str, chosen: Sequence[Any], shape: tuple[int, int]) -> np.ndarray | None:
    """A first state [ways, B, H] that stands in the file and is not zero."""
    name = _input(node, key)
    indices, leaves = graph.above(name, through_shapes=False)
    made_by = [graph.nodes[index] for index in indices if graph.nodes[index].op_type in GATE_ORDER]
    if any(one is other for one in made_by for other in chosen):
        raise ValueError(f"{key} of {_name(node)} must not come from {_name(made_by[0])}; convert them one by one")
    if not name or made_by or any(leaf not in graph.constants for leaf in leaves):
        return None
    value = graph.value(name, {}, ())
    if _attributes(graph, node).get("layout") and value.ndim == 3:
        value = value.swapaxes(0, 1)
    if value.ndim != 3 or (value.shape[0], value.shape[2]) != shape:
        raise ValueError(f"{key} of {_name(node)} must have shape ({shape[0]}, B, {shape[1]}), got {value.shape}")
    return value if value.any() else None


def _walk(kind: str, weights: dict[str, Any], function: Any, attributes: dict[str, Any]) -> Walk:
    """The cell of one direction of a node, and its parameters."""
    size = weights["R"].shape[-1]
    w_x, w_h = (_ours(weights[key], kind).T for key in "WR")
    zeros = np.zeros(w_x.shape[1], w_x.dtype)
    on_x, on_h = (zeros, zeros) if weights["B"] is None else (_ours(b, kind) for b in np.split(weights["B"], 2))
    arrays: dict[str, Any] = {"w_x": jnp.asarray(w_x), "w_h": jnp.asarray(w_h), "b": jnp.asarray(on_x + on_h)}
    if kind == "RNN":
        return Walk(elman(size, activation=function[1]), ElmanParams(**arrays), activation=function[0])
    if kind == "GRU":
        if not attributes.get("linear_before_reset", 0):
            return Walk(gru(size, reset="before"), GRUParams(**arrays))
        return Walk(gru(size), reset_after(arrays["w_x"], arrays["w_h"], jnp.asarray(on_x), jnp.asarray(on_h)))
    peephole = None if weights["P"] is None else weights["P"].reshape(3, size)[list(PEEPHOLE_ORDER)]
    coupled = bool(attributes.get("input_forget", 0))
    if coupled:  # i = sigmoid(a), f = 1 - i = sigmoid(-a)
        arrays = {
            key: jnp.concatenate([-value[..., :size], value[..., 2 * size :]], -1) for key, value in arrays.items()
        }
        peephole = None if peephole is None else np.stack([-peephole[0], peephole[2]])
    params = LSTMParams(**arrays, w_peephole=None if peephole is None else jnp.asarray(peephole))
    return Walk(lstm(size, peephole=peephole is not None, coupled=coupled), params)


def _ours(value: np.ndarray, kind: str) -> np.ndarray:
    """Blocks of rows in ONNX's order of gates, in ours."""
    order = GATE_ORDER[kind]
    blocks = np.split(value, len(order))
    return np.concatenate([blocks[order.index(gate)] for gate in range(len(order))])


def _carry(rows: Sequence[Sequence[_Read]]) -> Carry | None:
    """The first carry of the network, if any state of it stands in the file."""
    batches = [read.start[0].shape[0] for row in rows for read in row if read.start is not None]
    if not batches:
        return None
    found = []
    for row in rows:
        carries = [_state(read, max(batches)) for read in row]
        found.append(Directions(*carries) if len(row) == 2 else carries[0])
    return tuple(found) if len(rows) > 1 else found[0]


def _state(read: _Read, batch: int) -> Carry:
    params: Any = read.walk.params
    size = params.w_h.shape[0]
    zero = np.zeros((1, size), np.float32)
    parts = 1 + isinstance(params, LSTMParams)
    h, *c = (jnp.broadcast_to(jnp.asarray(one), (batch, size)) for one in read.start or (zero,) * parts)
    return LSTMCarry(h=h, c=c[0]) if c else h
