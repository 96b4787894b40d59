"""Converted weights of torch give torch's numbers: outputs, final states, gradients; and without torch, golden ones."""

import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax
from rnn_jax import Cell, Directions, Layer, bidirectional, dense, elman, gru, layer, lstm, serial, stack, unroll
from rnn_jax.cells.lstm import LSTMCarry
from rnn_jax.interop import from_torch, to_torch

GOLDEN = Path(__file__).parents[1] / "golden" / "torch.npz"
NAMES = ("lstm", "lstm_projected", "gru", "rnn", "rnn_relu")
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed; the golden numbers are tested"
)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiling is what takes time
RNG = np.random.default_rng(11)
XS = RNG.normal(size=(6, 4, 3)).astype(np.float32)
LENGTHS = [4, 6, 1, 3]


def run(model: Cell | Layer, params: Any, xs: Any, lengths: Any) -> tuple[Any, Any]:
    if isinstance(model, Cell):
        return unroll(model, params, xs, lengths=lengths)
    return model.apply(params, xs, lengths=lengths)


def states(carry: Any) -> Iterator[tuple[Any, ...]]:
    """The final states of all layers and directions, in the order of torch's h_n and c_n."""
    if isinstance(carry, LSTMCarry):
        yield carry.h, carry.c
    elif isinstance(carry, tuple | Directions):
        for part in carry:
            yield from states(part)
    else:
        yield (carry,)


def assert_states(carry: Any, expected: tuple[Any, ...]) -> None:
    found = list(states(carry))
    assert len(found) == len(expected[0])
    for index, leaves in enumerate(found):
        assert len(leaves) == len(expected)
        for leaf, torch_leaf in zip(leaves, expected, strict=True):
            np.testing.assert_allclose(leaf, torch_leaf[index], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_golden_numbers_of_torch_are_met_without_torch(name):
    with np.load(GOLDEN) as file:
        arrays = {key.removeprefix(f"{name}/"): file[key] for key in file.files if key.startswith(f"{name}/")}
    prefix = "weights/"
    weights = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    model, params = from_torch(weights, str(arrays["mode"]))
    carry, ys = jit(lambda xs: run(model, params, xs, arrays["lengths"]))(arrays["xs"])
    np.testing.assert_allclose(ys, arrays["ys"], rtol=1e-5, atol=1e-5)
    assert_states(carry, tuple(arrays[key] for key in ("h_n", "c_n") if key in arrays))


def torch_module(kind: str, **options: Any) -> Any:
    import torch

    torch.manual_seed(3)
    module = getattr(torch.nn, kind)(3, 4, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2.0)  # away from the linear range of the gates
    return module


def torch_run(module: Any) -> tuple[Any, tuple[Any, ...], Any]:
    """Outputs [T, B, O], final states, and the gradient of <outputs, weights> + sum(states ** 2) over the inputs."""
    import torch

    xs = torch.tensor(XS, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(xs, torch.tensor(LENGTHS), enforce_sorted=False)
    out, final = module(packed)
    ys, _ = torch.nn.utils.rnn.pad_packed_sequence(out)
    final = final if isinstance(final, tuple) else (final,)
    loss = (ys * torch.arange(ys.numel()).reshape(ys.shape).sin()).sum() + sum((s**2).sum() for s in final)
    loss.backward()
    return ys.detach().numpy(), tuple(s.detach().numpy() for s in final), xs.grad.numpy()


NETWORKS = [
    ("LSTM", {}),
    ("LSTM", {"num_layers": 3}),
    ("LSTM", {"bidirectional": True, "bias": False}),
    ("LSTM", {"num_layers": 2, "bidirectional": True}),
    ("LSTM", {"num_layers": 2, "proj_size": 2}),
    ("LSTM", {"num_layers": 2, "proj_size": 2, "bidirectional": True}),
    ("GRU", {"bias": False}),
    ("GRU", {"num_layers": 3}),
    ("GRU", {"num_layers": 2, "bidirectional": True}),
    ("RNN", {"num_layers": 3}),
    ("RNN", {"num_layers": 2, "bidirectional": True}),
    ("RNN", {"nonlinearity": "relu", "bidirectional": True}),
]


@needs_torch
@pytest.mark.parametrize(("kind", "options"), NETWORKS)
def test_torch_with_ragged_lengths_has_equal_outputs_states_and_gradients(kind, options):
    module = torch_module(kind, **options)
    expected_ys, expected_states, expected_gradient = torch_run(module)
    model, params = from_torch(module.state_dict(), module.mode)

    def loss(xs):
        carry, ys = run(model, params, xs, jnp.array(LENGTHS))
        weights = jnp.sin(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape)
        return (ys * weights).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(carry)), (carry, ys)

    gradient, (carry, ys) = jit(jax.grad(loss, has_aux=True))(jnp.asarray(XS))
    np.testing.assert_allclose(ys, expected_ys, rtol=1e-5, atol=1e-5)
    assert_states(carry, expected_states)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


@needs_torch
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_torch_started_from_given_states_and_batch_first_has_equal_numbers(kind):
    import torch

    module = torch_module(kind, num_layers=2, batch_first=True)
    start = np.random.default_rng(47).normal(size=(2, 2, 4, 4)).astype(np.float32)
    given = (torch.tensor(start[0]), torch.tensor(start[1])) if kind == "LSTM" else torch.tensor(start[0])
    with torch.no_grad():
        expected, final = module(torch.tensor(XS.swapaxes(0, 1)), given)
    cell, params = from_torch(module.state_dict(), module.mode)
    ours = tuple(LSTMCarry(h=h, c=c) for h, c in zip(*start, strict=True)) if kind == "LSTM" else tuple(start[0])
    carry, ys = jit(lambda xs: unroll(cell, params, xs, ours))(jnp.asarray(XS))
    np.testing.assert_allclose(ys.swapaxes(0, 1), expected.numpy(), rtol=1e-5, atol=1e-5)
    assert_states(carry, tuple(s.numpy() for s in final) if kind == "LSTM" else (final.numpy(),))


@needs_torch
@pytest.mark.parametrize(("kind", "options"), NETWORKS)
def test_networks_of_ours_have_equal_numbers_in_torch(kind, options, tmp_path):
    import torch

    safetensors = pytest.importorskip("safetensors.numpy")
    first = torch_module(kind, **options)
    model, params = from_torch(first.state_dict(), first.mode)
    exported = to_torch(model, params)
    assert exported.kind == kind
    safetensors.save_file(exported.weights, tmp_path / "weights.safetensors")
    weights = safetensors.load_file(tmp_path / "weights.safetensors")
    module = getattr(torch.nn, kind)(**exported.options)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    assert module.mode == first.mode
    carry, ys = jit(lambda xs: run(model, params, xs, jnp.array(LENGTHS)))(jnp.asarray(XS))
    expected_ys, expected_states, _ = torch_run(module)
    np.testing.assert_allclose(ys, expected_ys, rtol=1e-5, atol=1e-5)
    assert_states(carry, expected_states)
    again = from_torch({f"encoder.{name}": value for name, value in weights.items()}, module.mode, prefix="encoder.")
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            gru(3, reset="before"),
            "`model` is a GRU that resets before the recurrent product and that of torch after it",
        ),
        (lstm(3, peephole=True), "an lstm without peepholes for torch"),
        (lstm(3, layer_norm=True), "an lstm without layer norm for torch"),
        (lstm(3, coupled=True), "an lstm without coupled gates for torch"),
        (stack(gru(3), gru(4)), "layers of one kind and size for torch, got another in layer 1"),
        (stack(gru(3), lstm(3)), "layers of one kind and size for torch, got another in layer 1"),
        (
            stack(elman(3), elman(3, activation=jax.nn.relu)),
            "one activation, the one `nonlinearity` of torch, .* got tanh first and another in layer 1",
        ),
        (layer(gru(3), reverse=True), "walk forwards or both ways in all layers for torch, layer 0 does not"),
        (serial(layer(gru(3)), bidirectional(gru(3), gru(3))), "both ways in all layers for torch, layer 1 does not"),
        (elman(3, activation=jnp.sin), "`model` must compute what plain lstm, gru or elman"),
        (dense(3), "`params` must be of lstm, gru or elman cells"),
    ],
)
def test_what_torch_does_not_have_is_refused_with_the_reason(model, text):
    with pytest.raises(ValueError, match=text):
        to_torch(model, model.init(jax.random.key(0), 2))


@needs_torch
def test_a_tensor_that_numpy_cannot_read_is_refused():
    weights = {name: value.bfloat16() for name, value in torch_module("GRU").state_dict().items()}
    with pytest.raises(ValueError, match=r"`weights\['weight_ih_l0'\]` must be a float32 tensor on the CPU or a NumPy"):
        from_torch(weights, "GRU")


def test_the_package_never_imports_torch():
    files = list(Path(rnn_jax.__file__).parent.rglob("*.py"))
    assert any(file.name == "torch_weights.py" for file in files)
    for file in files:
        imports = [line for line in file.read_text().splitlines() if line.lstrip().startswith(("import ", "from "))]
        assert not any(line.split()[1].split(".")[0] == "torch" for line in imports), file.name


def test_converted_cells_are_those_of_the_library():
    weights = {"weight_ih_l0": np.zeros((16, 3)), "weight_hh_l0": np.zeros((16, 4))}
    assert from_torch(weights, "LSTM").model is lstm(4)
    weights = {"weight_ih_l0": np.zeros((12, 3)), "weight_hh_l0": np.zeros((12, 4))}
    assert from_torch(weights, "GRU").model is gru(4)
    weights = {"weight_ih_l0": np.zeros((4, 3)), "weight_hh_l0": np.zeros((4, 4))}
    assert from_torch(weights, "RNN_TANH").model is elman(4)
    assert from_torch(weights, "RNN_RELU").model is elman(4, activation=jax.nn.relu)


LINEAR = {"weight_ih_l0": np.zeros((4, 3)), "weight_hh_l0": np.zeros((4, 4))}


@pytest.mark.parametrize(
    ("weights", "mode", "text"),
    [
        (LINEAR, "RNN", r"`mode` must be one of 'LSTM', 'GRU', 'RNN_TANH', 'RNN_RELU', got 'RNN'"),
        ([1], "GRU", r"`weights` must be a mapping such as module.state_dict\(\), got list"),
        ({}, "GRU", r"`weights` must have 'weight_ih_l0', got "),
        ({"weight_ih_l0": LINEAR["weight_ih_l0"]}, "GRU", r"`weights` must have 'weight_hh_l0'"),
        (LINEAR, "LSTM", r"`weights\['weight_ih_l0'\]` must have shape \(16, 3\), got \(4, 3\)"),
        (LINEAR | {"bias_ih_l0": np.zeros(3)}, "RNN_TANH", r"`weights\['bias_ih_l0'\]` must have shape \(4,\)"),
        (LINEAR | {"weight_hh_l0": np.zeros(4)}, "RNN_TANH", r"`weights\['weight_hh_l0'\]` must have 2 axes"),
        (LINEAR | {"weight_ih_l2": np.zeros((4, 4))}, "RNN_TANH", r"`weights` must have 'weight_ih_l1', got"),
        (LINEAR | {"linear.weight": np.zeros((4, 4))}, "RNN_TANH", r"names that RNN_TANH does not: 'linear"),
        (LINEAR | {"weight_hr_l0": np.zeros((2, 4))}, "RNN_TANH", r"does not: 'weight_hr_l0'"),
    ],
)
def test_weights_that_are_no_such_network_are_refused(weights, mode, text):
    with pytest.raises(ValueError, match=text):
        from_torch(weights, mode)
