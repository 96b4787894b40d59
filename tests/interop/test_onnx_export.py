"""What is written as ONNX runs in onnxruntime with our numbers: ragged, streamed, read again."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import jit, random_params

from rnn_jax import Cell, Layer, bidirectional, elman, gru, layer, lstm, serial, stack
from rnn_jax.initializers import normal
from rnn_jax.interop import from_onnx, to_onnx

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

STEPS, BATCH, FEATURES = 7, 4, 3
RNG = np.random.default_rng(5)
XS = RNG.normal(size=(STEPS, BATCH, FEATURES)).astype(np.float32)
LENGTHS = np.array([7, 4, 0, 1], np.int32)

RELU = {"activation": jax.nn.relu, "recurrent_init": normal(0.3)}
NETWORKS = {
    "lstm": stack(lstm(5), lstm(4, peephole=True)),
    "coupled": lstm(5, peephole=True, coupled=True),
    "gru": stack(gru(5), gru(4, reset="before")),
    "activations": stack(elman(5, **RELU), elman(4), elman(3, **RELU)),
    "backwards": layer(lstm(5), reverse=True),
    "both": bidirectional(gru(5), gru(5)),
    "deep": serial(bidirectional(lstm(3), gru(4)), bidirectional(elman(2, **RELU), elman(2))),
}


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def ran(run: Any, **feeds: Any) -> dict[str, np.ndarray]:
    names = [one.name for one in run.get_outputs()]
    return dict(zip(names, run.run(names, feeds), strict=True))


def named(carry: Any, prefix: str) -> dict[str, np.ndarray]:
    """The states of a carry as the file names them."""
    leaves, _ = jax.tree.flatten_with_path(carry)
    paths = [
        "/".join(filter(None, [prefix, jax.tree_util.keystr(path, simple=True, separator="/")])) for path, _ in leaves
    ]
    return dict(zip(paths, [np.asarray(leaf) for _, leaf in leaves], strict=True))


def whole(model: Cell | Layer) -> Any:
    """The model as one compiled function of params, xs, carry and lengths."""
    apply = (model if isinstance(model, Layer) else layer(model)).apply
    return jit(lambda params, xs, carry, lengths: apply(params, xs, carry=carry, lengths=lengths))


def random_carry(model: Cell | Layer, params: Any) -> Any:
    apply = (model if isinstance(model, Layer) else layer(model)).apply
    shapes, _ = jax.eval_shape(apply, params, jnp.asarray(XS))
    return jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape), leaf.dtype), shapes)


close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_has_our_numbers(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name]
    params = random_params(model, FEATURES)
    carry = random_carry(model, params)
    path = tmp_path / "model.onnx"
    to_onnx(model, params, path, lengths=True, carry=True)
    xs = XS.copy()
    for row, length in enumerate(LENGTHS):
        xs[length:, row] = np.nan  # padding is inert
    run, exported = whole(model), session(path)
    final, ys = run(params, xs, carry, LENGTHS)
    found = ran(exported, xs=xs, lengths=LENGTHS, **named(carry, "initial"))
    close(found.pop("ys"), ys)
    expected = named(final, "final")
    assert found.keys() == expected.keys()
    for key, value in found.items():
        close(value, expected[key])

    few = np.array([5, 3], np.int32)  # neither steps nor rows are fixed
    _, ys = run(params, XS, carry, np.array([5, 3, 0, 0]))
    starts = {key: value[:2] for key, value in named(carry, "initial").items()}
    close(ran(exported, xs=XS[:5, :2], lengths=few, **starts)["ys"], ys[:5, :2])

    again = from_onnx(path)
    assert again.carry is None
    if name == "coupled":
        assert again.model is lstm(5, peephole=True)
        close(whole(again.model)(again.params, XS, carry, LENGTHS)[1], run(params, XS, carry, LENGTHS)[1])
    else:
        assert type(again.model) is type(model)
        assert isinstance(model, Layer) or model.layers or again.model is model
        assert jax.tree.structure(again.params) == jax.tree.structure(params)
        jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_without_lengths_and_states_only_the_inputs_are_given(tmp_path: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    model = NETWORKS["both"]
    params = random_params(model, FEATURES)
    path = tmp_path / "model.onnx"
    to_onnx(model, params, path)
    final, ys = whole(model)(params, XS, None, None)
    found = ran(session(path), xs=XS)
    for value, reference in zip(found.values(), ReferenceEvaluator(str(path)).run(None, {"xs": XS}), strict=True):
        close(value, reference)
    close(found.pop("ys"), ys)
    jax.tree.map(close, found, named(final, "final"))


def test_step_by_step_is_the_whole(tmp_path: Path) -> None:
    model = stack(lstm(4), gru(3))
    params = random_params(model, FEATURES)
    path = tmp_path / "model.onnx"
    to_onnx(model, params, path, carry=True)
    run = session(path)
    state = named(model.init_carry(params, (BATCH,)), "initial")
    ys = []
    for x in XS:
        found = ran(run, xs=x[None], **state)
        ys.append(found.pop("ys")[0])
        state = {name.replace("final", "initial"): value for name, value in found.items()}
    final, expected = whole(model)(params, XS, None, None)
    close(np.stack(ys), expected)
    jax.tree.map(close, state, named(final, "initial"))


def test_the_file_describes_itself(tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "model.onnx"
    model = serial(bidirectional(lstm(3), gru(4)), layer(elman(2)))
    to_onnx(model, random_params(model, FEATURES), path, lengths=True)
    file = onnx.load(path)
    properties = {one.key: one.value for one in file.metadata_props}
    assert file.producer_name == "rnn_jax"
    assert properties["opset"] == str(file.opset_import[0].version) == "17"
    assert properties["layers"] == '[["LSTM(3)", "GRU(4) backwards"], ["RNN(2)"]]'
    assert properties["inputs"] == '["xs", "lengths"]'
    finals = ("final/0/forward/h", "final/0/forward/c", "final/0/backward", "final/1")
    assert [one.name for one in file.graph.output] == ["ys", *finals]
    shapes = [[axis.dim_param or axis.dim_value for axis in one.type.tensor_type.shape.dim] for one in file.graph.input]
    assert shapes == [["T", "B", FEATURES], ["B"]]


def test_what_has_no_node_is_refused_and_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for model, match in ((lstm(4, projection=2), "projection"), (lstm(4, layer_norm=True), "layer norm")):
        with pytest.raises(ValueError, match=match):
            to_onnx(model, random_params(model), path)
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrites nothing"):
        to_onnx(gru(2), random_params(gru(2)), path)
    assert path.read_text() == "mine"
