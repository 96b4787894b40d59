"""Flat weights of cuDNN give the numbers of torch and of jax's reference of the kernel, both ways."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import close, random_params
from jax.experimental import rnn
from test_torch import LENGTHS, XS, assert_states, jit, needs_torch, run, torch_module, torch_run

from rnn_jax import bidirectional, elman, gru, layer, lstm, serial, stack
from rnn_jax.interop import from_cudnn, to_cudnn
from rnn_jax.unroll.cudnn import weight_blob

SIZES = {"input_size": 3, "hidden_size": 4}
RELU = {"activation": jax.nn.relu}
NETWORKS = [
    ("LSTM", {}),
    ("LSTM", {"num_layers": 2, "bidirectional": True}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "bias": False}),
    ("GRU", {"num_layers": 3}),
    ("GRU", {"num_layers": 2, "bidirectional": True}),
    ("GRU", {"bias": False}),
    ("RNN", {"num_layers": 2, "bidirectional": True}),
    ("RNN", {"num_layers": 2, "bidirectional": True, "nonlinearity": "relu"}),
]


def blob_of(module: Any) -> np.ndarray:
    """The weights of a torch module in the order of cuDNN: torch has them pseudo-layer by pseudo-layer."""
    arrays = [weight.detach().numpy() for weight in module._flat_weights]
    step = 4 if module.bias else 2
    blob: list[float] = []
    for kind in ("matrices", "biases"):
        for start in range(0, len(arrays), step):
            for array in arrays[start : start + 2] if kind == "matrices" else arrays[start + 2 : start + step]:
                for number in array.reshape(-1):
                    blob.append(number)
    return np.array(blob, np.float32)


def fill(module: Any, blob: np.ndarray) -> None:
    """The other way round."""
    import torch

    rest = blob
    for matrices in (True, False):
        for weight in module._flat_weights:
            if (weight.ndim == 2) == matrices:
                with torch.no_grad():
                    weight.copy_(torch.from_numpy(rest[: weight.numel()].reshape(tuple(weight.shape))))
                rest = rest[weight.numel() :]
    assert not rest.size


@needs_torch
@pytest.mark.parametrize(("kind", "options"), NETWORKS)
def test_it_has_the_outputs_states_and_gradients_of_torch_both_ways(kind, options):
    module = torch_module(kind, **options)
    layers = {"num_layers": module.num_layers, "bidirectional": module.bidirectional}
    model, params = from_cudnn(blob_of(module), module.mode, **SIZES, **layers)

    def loss(xs):
        carry, ys = run(model, params, xs, jnp.array(LENGTHS))
        weights = jnp.sin(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape)
        return (ys * weights).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(carry)), (carry, ys)

    gradient, (carry, ys) = jit(jax.grad(loss, has_aux=True))(jnp.asarray(XS))
    blob, mode, exported = to_cudnn(model, params)
    assert mode == module.mode
    assert exported == SIZES | layers
    other = torch_module(kind, **{**options, "bias": True})
    fill(other, blob)
    for one in (module, other):
        expected_ys, expected_states, expected_gradient = torch_run(one)
        np.testing.assert_allclose(ys, expected_ys, rtol=1e-5, atol=1e-5)
        assert_states(carry, expected_states)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("both", [False, True])
def test_it_has_the_numbers_of_the_reference_of_jax(both):
    sizes = (3, 4, 2, both)
    blob = 2 * rnn.init_lstm_weight(jax.random.key(1), *sizes)
    model, params = from_cudnn(blob, "LSTM", *sizes[:2], num_layers=2, bidirectional=both)
    carry, ys = jit(lambda xs: run(model, params, xs, jnp.array(LENGTHS)))(jnp.asarray(XS))
    for one in (blob, to_cudnn(model, params).blob):
        zeros = jnp.zeros((2 * (1 + both), XS.shape[1], 4))
        with jax.numpy_rank_promotion("allow"):
            unpacked = rnn.unpack_lstm_weights(jnp.asarray(one), *sizes)
            lengths = jnp.array(LENGTHS, jnp.int32)
            expected, *states = rnn.lstm_ref(
                jnp.asarray(XS.swapaxes(0, 1)), zeros, zeros, *unpacked, lengths, *sizes[:3], 0.0, both
            )
        np.testing.assert_allclose(ys.swapaxes(0, 1), expected, rtol=1e-5, atol=1e-5)
        assert_states(carry, tuple(states))


OURS = {
    "lstm": lstm(4),
    "gru": stack(gru(4), gru(4)),
    "relu": serial(*(bidirectional(elman(4, **RELU), elman(4, **RELU)) for _ in range(2))),
}


@pytest.mark.parametrize("name", OURS)
def test_networks_of_ours_come_back(name):
    model, params = OURS[name], random_params(OURS[name], 3)
    blob, mode, options = to_cudnn(model, params)
    again = from_cudnn(blob, mode, **options)
    assert type(again.model) is type(model)
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_it_agrees_with_what_the_strategy_gives_to_the_kernel():
    params = random_params(lstm(4), 3)
    np.testing.assert_array_equal(to_cudnn(lstm(4), params).blob, weight_blob(params))
    unpacked = rnn.unpack_lstm_weights(*(found := to_cudnn(lstm(4), params))[:1], **found.options)
    close([part[0] for part in unpacked], [params.w_x.T, params.w_h.T, params.b, jnp.zeros(16)])


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (gru(3, reset="before"), "resets before the recurrent product and that of cuDNN after it"),
        (lstm(3, peephole=True), "an lstm without peepholes for cuDNN"),
        (lstm(3, projection=2), "an lstm without a projection for cuDNN"),
        (lstm(3, layer_norm=True, coupled=True), "an lstm without coupled gates and layer norm for cuDNN"),
        (stack(gru(3), gru(4)), "layers of one kind and size for cuDNN, got another in layer 1"),
        (bidirectional(gru(3), lstm(3)), "layers of one kind and size for cuDNN, got another in layer 0"),
        (stack(elman(3), elman(3, **RELU)), "one activation, .* of cuDNN, .* got tanh first and another in layer 1"),
        (layer(gru(3), reverse=True), "walk forwards or both ways in all layers for cuDNN, layer 0 does not"),
    ],
)
def test_what_cudnn_does_not_have_is_refused_with_the_reason(model, text):
    with pytest.raises(ValueError, match=text):
        to_cudnn(model, model.init(jax.random.key(0), 2))


BLOB = np.zeros(3 * 4 * (3 + 4 + 2), np.float32)


@pytest.mark.parametrize(
    ("blob", "options", "text"),
    [
        (BLOB, {"mode": "RNN"}, "`mode` must be one of 'LSTM', 'GRU', 'RNN_TANH', 'RNN_RELU', got 'RNN'"),
        (BLOB, {"hidden_size": 0}, "`hidden_size` must be an integer of at least 1, got int 0"),
        (BLOB, {"num_layers": 1.0}, "`num_layers` must be an integer of at least 1, got float 1.0"),
        (BLOB, {"mode": "LSTM"}, "`blob` must have 144 numbers for this LSTM, or 112 if it has no biases, got 108"),
        (BLOB, {"bidirectional": True}, "`blob` must have 216 numbers for this GRU, or 168 .*, got 108"),
        (BLOB[:96], {}, "`blob` must have 108 numbers for this GRU, or 84 if it has no biases, got 96"),
        (BLOB[None], {}, r"`blob` must be a floating array of one axis, got float32 of shape \(1, 108\)"),
        (BLOB.astype(int), {}, r"`blob` must be a floating array of one axis, got int64 of shape \(108,\)"),
    ],
)
def test_an_array_that_is_no_such_network_is_refused(blob, options, text):
    with pytest.raises(ValueError, match=text):
        from_cudnn(blob, **{"mode": "GRU", **SIZES, **options})
