"""ONNX files that others wrote: their nodes in onnxruntime and in our unroll give the same numbers."""

import io
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import jit

from rnn_jax import Directions, Layer, bidirectional, elman, gru, layer, lstm
from rnn_jax.interop import from_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

STEPS, BATCH, FEATURES, HIDDEN = 6, 3, 2, 4
RNG = np.random.default_rng(3)
XS = RNG.normal(size=(STEPS, BATCH, FEATURES)).astype(np.float32)
LENGTHS = np.array([6, 2, 4], np.int32)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def node(kind: str, name: str = "net", xs: str = "xs", features: int = FEATURES, **options: Any) -> tuple[Any, dict]:
    """A recurrent node with random weights, and these; options are attributes, and inputs by name."""
    given = {key: options.pop(key, "") for key in ("lens", "h", "c", "p")}
    ways, gates = 1 + (options.get("direction") == "bidirectional"), GATES[kind]
    shapes = {
        "W": (ways, gates * HIDDEN, features),
        "R": (ways, gates * HIDDEN, HIDDEN),
        "B": (ways, 2 * gates * HIDDEN),
    }
    if given["p"]:
        shapes["P"] = (ways, 3 * HIDDEN)
    weights = {f"{name}_{key}": RNG.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    inputs = [xs, *[f"{name}_{key}" for key in "WRB"], given["lens"], given["h"]]
    inputs += [given["c"], f"{name}_P" if given["p"] else ""] if kind == "LSTM" else []
    outputs = [f"{name}_{key}" for key in (("Y", "Y_h", "Y_c") if kind == "LSTM" else ("Y", "Y_h"))]
    return onnx.helper.make_node(kind, inputs, outputs, name=name, hidden_size=HIDDEN, **options), weights


def model_of(nodes: list[Any], constants: dict[str, Any], outputs: list[str], **inputs: list[Any]) -> Any:
    """A model with xs [T, B, I], lengths [B] and further inputs."""
    kinds = {
        "xs": (1, ["T", "B", FEATURES]),
        "lengths": (6, ["B"]),
        **{key: (1, shape) for key, shape in inputs.items()},
    }
    used = {name for one in nodes for name in one.input}
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        [onnx.helper.make_tensor_value_info(key, *kind) for key, kind in kinds.items() if key in used],
        [onnx.helper.make_tensor_value_info(name, 1, None) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)


def theirs(model: Any, **feeds: Any) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def ours(network: Any, **options: Any) -> tuple[Any, Any]:
    apply = (network.model if isinstance(network.model, Layer) else layer(network.model)).apply
    return jit(lambda params, xs: apply(params, xs, **options))(network.params, XS)


def side_by_side(y: np.ndarray) -> np.ndarray:
    """[T, ways, B, H] -> [T, B, ways H]."""
    return y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)


NODES = {
    "lstm": ("LSTM", {"p": "P", "direction": "bidirectional"}, bidirectional),
    "coupled": ("LSTM", {"p": "P", "input_forget": 1}, lstm(HIDDEN, peephole=True, coupled=True)),
    "gru": ("GRU", {"linear_before_reset": 1}, gru(HIDDEN)),
    "reset before": ("GRU", {"direction": "reverse"}, None),
    "rnn": ("RNN", {}, elman(HIDDEN)),
    "relu": ("RNN", {"activations": ["Relu"]}, elman(HIDDEN, activation=jax.nn.relu)),
    "both": (
        "RNN",
        {"direction": "bidirectional", "activations": ["LeakyRelu", "Elu"], "activation_alpha": [0.2, 0.7]},
        None,
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_nodes_of_onnx_helper(name: str) -> None:
    kind, options, cell = NODES[name]
    one, weights = node(kind, lens="lengths", **options)
    weights = {key: value * 0.5 for key, value in weights.items()}  # a leaky ReLU does not explode
    model = model_of([one], weights, list(one.output))
    network = from_onnx(model.SerializeToString())
    assert network.carry is None
    assert not callable(getattr(cell, "step", None)) or network.model is cell
    carry, ys = ours(network, lengths=LENGTHS)
    y, *states = theirs(model, xs=XS, lengths=LENGTHS)
    close(ys, side_by_side(y))
    ways = carry if isinstance(carry, Directions) else [carry]
    for way, one_way in enumerate(ways):
        for found, state in zip(one_way if kind == "LSTM" else [one_way], states, strict=True):
            close(found, state[way])


ACTIVATIONS = {
    "Tanh": (None, None),
    "Sigmoid": (None, None),
    "Relu": (None, None),
    "Softsign": (None, None),
    "Softplus": (None, None),
    "Affine": (0.4, 0.3),
    "LeakyRelu": (0.2, None),
    "ThresholdedRelu": (0.5, None),
    "ScaledTanh": (1.7, 0.6),
    "HardSigmoid": (0.3, 0.4),
    "Elu": (0.7, None),
}


def test_every_activation() -> None:
    for name, (alpha, beta) in ACTIVATIONS.items():
        constants = {"activation_alpha": alpha, "activation_beta": beta}
        given = {key: [value] for key, value in constants.items() if value is not None}
        one, weights = node("RNN", activations=[name], **given)
        model = model_of([one], {key: 0.5 * value for key, value in weights.items()}, ["net_Y"])
        network = from_onnx(model)
        assert from_onnx(model).model is network.model, name  # one static argument of jit
        _, ys = ours(network)
        close(ys, theirs(model, xs=XS)[0][:, 0], err_msg=name)


def test_constants_of_activations_are_taken_in_their_order_or_by_their_place_or_by_default() -> None:
    from rnn_jax.interop.onnx_activations import activations_of

    def values(names: list[str], **constants: list[float]) -> list[float]:
        attributes = {"activations": [name.encode() for name in names], **constants}
        return [float(function(jnp.float32(-1))) for _, function in activations_of("a node", attributes, len(names))]

    close(values(["Sigmoid", "LeakyRelu"], activation_alpha=[0.3]), [0.26894142, -0.3])
    close(values(["Sigmoid", "LeakyRelu"], activation_alpha=[0, 0.3]), [0.26894142, -0.3])
    close(values(["LeakyRelu", "Elu", "HardSigmoid", "ThresholdedRelu"]), [-0.01, np.exp(-1) - 1, 0.3, 0])
    with pytest.raises(ValueError, match="`activation_alpha` and `activation_beta` of a node must be given for affine"):
        values(["Affine"], activation_alpha=[1.0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_network_exported_by_torch(kind: str) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = getattr(torch.nn, kind)(FEATURES, HIDDEN, num_layers=2, bidirectional=True)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is deprecated
        axes = {"xs": {0: "T", 1: "B"}}
        torch.onnx.export(
            module, torch.zeros(2, 2, FEATURES), file, dynamo=False, input_names=["xs"], dynamic_axes=axes
        )
    network = from_onnx(file.getvalue())
    cell = {"LSTM": lstm, "GRU": gru, "RNN": elman}[kind](HIDDEN)
    assert network.carry is None
    assert len(network.params) == 2
    assert type(network.params[0].forward) is type(cell.init(jax.random.key(0), 1))
    _, ys = ours(network)
    close(ys, module(torch.tensor(XS))[0].detach().numpy())
    close(ys, theirs(onnx.load_model_from_string(file.getvalue()), xs=XS)[0])


def glue(y: str, out: str) -> list[Any]:
    return [
        onnx.helper.make_node("Transpose", [y], [f"{out}_t"], perm=[0, 2, 1, 3]),
        onnx.helper.make_node("Reshape", [f"{out}_t", "shape"], [f"{out}_d"]),
        onnx.helper.make_node("Dropout", [f"{out}_d"], [out]),
    ]


def test_chains_and_what_is_none() -> None:
    low, low_weights = node("GRU", "low", direction="bidirectional", linear_before_reset=1)
    high, high_weights = node("LSTM", "high", "between", 2 * HIDDEN)
    constants = {**low_weights, **high_weights, "shape": np.array([0, 0, -1])}
    model = model_of([low, *glue("low_Y", "between"), high], constants, ["high_Y"])
    network = from_onnx(model)
    assert network.model.apply is not None
    assert jax.tree.structure(network.params[0]).num_leaves == 8
    close(ours(network)[1], theirs(model, xs=XS)[0][:, 0])
    assert from_onnx(model, "high").model is lstm(HIDDEN)
    assert from_onnx(model, "high_Y_h").model is lstm(HIDDEN)
    with pytest.raises(ValueError, match=r"`node` must be one of 'low', .*, got 'hihg'; did you mean 'high'"):
        from_onnx(model, "hihg")

    relu = onnx.helper.make_node("Relu", ["between_raw"], ["between"])
    broken = model_of([low, *glue("low_Y", "between_raw"), relu, high], constants, ["high_Y"])
    other, other_weights = node("GRU", "other")
    apart = model_of([low, other], {**low_weights, **other_weights}, ["low_Y", "other_Y"])
    for wrong in (broken, apart):
        with pytest.raises(
            ValueError, match=r"each read all outputs of the one below.*`node` chooses one of GRU 'low', "
        ):
            from_onnx(wrong)

    decoder, decoder_weights = node("GRU", "high", "between", 2 * HIDDEN, direction="bidirectional", h="low_Y_h")
    model = model_of([low, *glue("low_Y", "between"), decoder], {**constants, **decoder_weights}, ["high_Y"])
    with pytest.raises(ValueError, match="initial_h of GRU 'high' must not come from GRU 'low'"):
        from_onnx(model)
    assert from_onnx(model, "high").carry is None


def test_batch_first_is_the_same_network() -> None:
    low, low_weights = node("LSTM", "low", direction="bidirectional", layout=1)
    shape = onnx.helper.make_node("Reshape", ["low_Y", "shape"], ["between"])  # [B, T, 2, H] -> [B, T, 2 H]
    high, high_weights = node("GRU", "high", "between", 2 * HIDDEN, layout=1, direction="reverse")
    constants = {**low_weights, **high_weights, "shape": np.array([0, 0, -1])}
    first = from_onnx(model_of([low, shape, high], constants, ["high_Y"]))
    for one in (low, high):
        one.attribute.remove(next(each for each in one.attribute if each.name == "layout"))
    model = model_of([low, *glue("low_Y", "between"), high], constants, ["high_Y"])
    jax.tree.map(np.testing.assert_array_equal, first.params, from_onnx(model).params)
    close(ours(first)[1], theirs(model, xs=XS)[0][:, 0])


def test_first_states_that_stand_in_the_file(tmp_path: Path) -> None:
    h = RNG.normal(size=(2, BATCH, HIDDEN)).astype(np.float32)
    low, low_weights = node("GRU", "low", direction="bidirectional", h="start")
    high, high_weights = node("LSTM", "high", "between", 2 * HIDDEN)
    constants = {**low_weights, **high_weights, "start": h, "shape": np.array([0, 0, -1])}
    model = model_of([low, *glue("low_Y", "between"), high], constants, ["high_Y"])
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    network = from_onnx(path)
    np.testing.assert_array_equal(network.carry[0].backward, h[1])
    np.testing.assert_array_equal(network.carry[1].c, np.zeros((BATCH, HIDDEN)))
    close(ours(network, carry=network.carry)[1], theirs(model, xs=XS)[0][:, 0])

    batch = [
        onnx.helper.make_node("Shape", ["xs"], ["rows"], name="rows"),
        onnx.helper.make_node("Gather", ["rows", "one"], ["b"]),
        onnx.helper.make_node("Concat", ["one", "b", "one"], ["wide"], axis=0),
        onnx.helper.make_node("Expand", ["learned", "wide"], ["start"]),
    ]
    one, weights = node("RNN", h="start")
    constants = {**weights, "learned": h[:1, :1], "one": np.array([1])}
    network = from_onnx(model_of([*batch, one], constants, ["net_Y"]))
    np.testing.assert_array_equal(network.carry, h[0, :1])

    one, weights = node("RNN", h="start")
    assert from_onnx(model_of([one], weights, ["net_Y"], start=[1, "B", HIDDEN])).carry is None
    assert from_onnx(model_of([one], {**weights, "start": 0 * h[:1]}, ["net_Y"])).carry is None


def test_weights_may_be_computed_from_constants() -> None:
    one, weights = node("RNN")
    plain = from_onnx(model_of([one], weights, ["net_Y"]))
    value = onnx.numpy_helper.from_array(np.ascontiguousarray(weights.pop("net_W").swapaxes(1, 2)))
    before = [
        onnx.helper.make_node("Constant", [], ["turned"], value=value),
        onnx.helper.make_node("Transpose", ["turned"], ["net_W"], perm=[0, 2, 1]),
    ]
    jax.tree.map(
        np.testing.assert_array_equal, from_onnx(model_of([*before, one], weights, ["net_Y"])).params, plain.params
    )


def test_what_is_refused(tmp_path: Path) -> None:
    def refused(match: str, change: dict[str, Any] | None = None, kind: str = "LSTM", **options: Any) -> None:
        one, weights = node(kind, **options)
        with pytest.raises(ValueError, match=match):
            from_onnx(model_of([one], {**weights, **(change or {})}, ["net_Y"]))

    refused("LSTM 'net' must have no `clip`", clip=3.0)
    refused("`activations` of LSTM 'net' must be sigmoid, tanh, tanh, got", activations=["Sigmoid", "Relu", "Tanh"])
    refused("`activations` of `RNN 'net'` must be one of .*'tanh'.*, got 'sin'", kind="RNN", activations=["Sin"])
    refused("`activations` of GRU 'net' must be 2, got 1", kind="GRU", activations=["Sigmoid"])
    refused("`direction` of `GRU 'net'` must be one of", kind="GRU", direction="backward")
    refused(
        r"W of LSTM 'net' must have shape \(1, 16, 2\), got \(1, 12, 2\)", {"net_W": np.zeros((1, 12, 2), np.float32)}
    )
    refused(r"R of LSTM 'net' must have shape", {"net_R": np.zeros((16, 4), np.float32)})
    refused(r"B of LSTM 'net' must have shape \(1, 32\), got \(1, 16\)", {"net_B": np.zeros((1, 16), np.float32)})
    refused("initial_h of LSTM 'net' must have shape", {"start": np.ones((2, 3, 4), np.float32)}, h="start")

    one, weights = node("RNN")
    del weights["net_W"]
    with pytest.raises(ValueError, match="must have constant weights, but W of RNN 'net' comes from 'net_W'"):
        from_onnx(model_of([one], weights, ["net_Y"], net_W=[1, HIDDEN, FEATURES]))
    with pytest.raises(ValueError, match="`model` must have an RNN, GRU or LSTM node in its main graph, got none"):
        from_onnx(model_of([onnx.helper.make_node("Relu", ["xs"], ["ys"])], {}, ["ys"]))
    (tmp_path / "text").write_text("no model")
    for wrong in (tmp_path / "text", b"", b"\x08\x03", 3):
        with pytest.raises(ValueError, match="`model` must be"):
            from_onnx(wrong)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "none.onnx")


def test_without_onnx_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'pip install "rnn_jax\[interop\]"'):
        from_onnx(b"")
