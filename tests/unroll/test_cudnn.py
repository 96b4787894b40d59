"""What goes into the kernel of cuDNN and comes out, and all that is refused; without a GPU jax's reference stands in.

JAX_PLATFORMS=cuda JAX_DEFAULT_MATMUL_PRECISION=highest python -m pytest tests/unroll/test_cudnn.py
"""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import BATCH, HIDDEN, INPUT, MAIN, STEPS, assert_close, everything, make_carry, make_params, make_xs
from jax.experimental import rnn
from test_lengths_masks_resets import SCENES, real_steps, spoil

from rnn_jax.cells import gru, lru, lstm
from rnn_jax.compose import dense, learned_carry, stack
from rnn_jax.dropout import with_dropout
from rnn_jax.layers import bidirectional
from rnn_jax.unroll import Cudnn, Scan, unroll, unroll_carries
from rnn_jax.unroll.cudnn import weight_blob

CASE = {case.name: case for case in MAIN}["lstm"]
CELL = CASE.cell


def reference(
    x: Any,
    h_0: Any,
    c_0: Any,
    weights: Any,
    seq_lengths: Any,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    dropout: float,
    bidirectional: bool,
    precision: Any = None,
) -> Any:
    """`rnn.lstm` by its own reference."""
    sizes = (input_size, hidden_size, num_layers, bidirectional)
    assert weights.size == rnn.get_num_params_in_lstm(*sizes)
    assert seq_lengths.dtype == jnp.int32
    unpacked = rnn.unpack_lstm_weights(weights, *sizes)
    return rnn.lstm_ref(x, h_0, c_0, *unpacked, seq_lengths, *sizes[:3], dropout, bidirectional)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, or one that looks like it to `Cudnn()`."""
    if jax.default_backend() == "gpu":
        return
    assert list(inspect.signature(rnn.lstm).parameters) == list(inspect.signature(reference).parameters)
    monkeypatch.setattr(rnn, "lstm", reference)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def test_the_blob_holds_the_parameters_gate_by_gate() -> None:
    params = make_params(CASE, jnp.float32)
    w_ih, w_hh, b_ih, b_hh = rnn.unpack_lstm_weights(weight_blob(params), INPUT, HIDDEN, 1, False)
    for gate in range(4):
        rows = slice(gate * HIDDEN, (gate + 1) * HIDDEN)
        np.testing.assert_array_equal(w_ih[0][rows], params.w_x[:, rows].T)
        np.testing.assert_array_equal(w_hh[0][rows], params.w_h[:, rows].T)
        np.testing.assert_array_equal(b_ih[0][rows], params.b[rows])
    assert not b_hh[0].any()


def test_gradients_flow_through_the_blob_to_the_parameters() -> None:
    params = make_params(CASE, jnp.float32)
    blob = weight_blob(params)
    by_blob = jnp.arange(blob.size, dtype=jnp.float32)
    (grads,) = jax.vjp(weight_blob, params)[1](by_blob)
    w_ih, w_hh, b_ih, _ = rnn.unpack_lstm_weights(by_blob, INPUT, HIDDEN, 1, False)
    assert_close((grads.w_x, grads.w_h, grads.b), (w_ih[0].T, w_hh[0].T, b_ih[0]), rtol=0)


def test_it_equals_the_oracle(gpu: None) -> None:
    params, xs = make_params(CASE, jnp.float32), make_xs(CASE, jnp.float32)
    carry, ys = unroll(CELL, params, xs, method=Cudnn())
    params, xs = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, xs))
    for b in range(BATCH):
        expected_ys, expected = oracles.lstm(params, xs[:, b])
        for got, by_hand in ((ys[:, b], expected_ys), (carry.h[b], expected[0]), (carry.c[b], expected[1])):
            np.testing.assert_allclose(got, by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", ["none", "lengths", "mask", "all"])
def test_values_and_gradients_equal_the_scan(name: str, reverse: bool, gpu: None) -> None:
    params, xs = make_params(CASE, jnp.float32), make_xs(CASE, jnp.float32)
    carry = make_carry(CASE, params, jnp.float32)
    scene: dict[str, Any] = {}
    if name != "none":
        scene = {key: SCENES[name][key] for key in ("lengths", "mask")}
        xs = spoil(xs, real_steps(SCENES[name]))
    got = everything(CELL, params, xs, carry, reverse=reverse, method=Cudnn(), **scene)
    expected = everything(CELL, params, xs, carry, reverse=reverse, method=Scan(), **scene)
    assert_close(got, expected, rtol=2e-5)
    if name == "lengths":
        assert_close(got.carry.c[3], carry.c[3], rtol=0)  # of length 0


@pytest.mark.parametrize("batch", [(), (2, 3), (0,)], ids=repr)
def test_any_batch_axes(batch: tuple[int, ...], gpu: None) -> None:
    params = make_params(CASE, jnp.float32)
    shape = (STEPS, *batch, INPUT)
    xs = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    lengths = jnp.asarray([3, 6], jnp.int32) if batch == (2, 3) else None
    got, expected = (unroll(CELL, params, xs, lengths=lengths, method=method) for method in (Cudnn(), Scan()))
    assert_close(got, expected, rtol=1e-5)


def test_without_steps_nothing_happens(gpu: None) -> None:
    params = make_params(CASE, jnp.float32)
    carry = make_carry(CASE, params, jnp.float32)
    after, ys = unroll(CELL, params, jnp.zeros((0, BATCH, INPUT)), carry, method=Cudnn())
    assert_close(after, carry, rtol=0)
    assert ys.shape == (0, BATCH, HIDDEN)


def test_stacks_and_both_directions_hand_it_on(gpu: None) -> None:
    xs, lengths = make_xs(CASE, jnp.float32), jnp.asarray(SCENES["lengths"]["lengths"])
    stacked = stack(lstm(HIDDEN), lstm(5), dense(2))
    params = stacked.init(jax.random.key(0), INPUT)
    got, expected = (unroll(stacked, params, xs, lengths=lengths, method=method) for method in (Cudnn(), Scan()))
    assert_close(got, expected, rtol=1e-5)
    both = bidirectional(lstm(HIDDEN), lstm(HIDDEN))
    params = both.init(jax.random.key(0), INPUT)
    got, expected = (both.apply(params, xs, lengths=lengths, method=method) for method in (Cudnn(), Scan()))
    assert_close(got, expected, rtol=1e-5)


def test_a_readout_of_its_own_is_applied(gpu: None) -> None:
    cell = CELL._replace(readout=lambda params, hs, xs: hs.sum(-1, keepdims=True) + xs)
    params, xs = make_params(CASE, jnp.float32), make_xs(CASE, jnp.float32)
    got, expected = (unroll(cell, params, xs, method=method) for method in (Cudnn(), Scan()))
    assert_close(got, expected, rtol=1e-5)


OTHERS = {
    "gru": gru(4),
    "lru": lru(4),
    "peephole": lstm(4, peephole=True),
    "projection": lstm(4, projection=2),
    "coupled": lstm(4, coupled=True),
    "layer_norm": lstm(4, layer_norm=True),
    "cell_clip": lstm(4, cell_clip=1.0),
    "variational": with_dropout(lstm(4), variational=0.5),
    "weights": with_dropout(lstm(4), weights=0.5),
    "zoneout": with_dropout(lstm(4), zoneout_c=0.5),
    "learned_carry": learned_carry(lstm(4)),
    "another projection": lstm(4)._replace(project=lambda params, xs: 2 * lstm(4).project(params, xs)),
    "another step": lstm(4)._replace(step=lambda params, carry, z: lstm(4).step(params, carry, z)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_cells_and_options_are_refused(name: str, gpu: None) -> None:
    cell = OTHERS[name]
    params = cell.init(jax.random.key(0), INPUT)
    kind = type(params).__name__
    with pytest.raises(ValueError, match=rf"`method` Cudnn\(\) needs a plain lstm.*parameters {kind}, is another one"):
        unroll(cell, params, jnp.zeros((STEPS, BATCH, INPUT)), method=Cudnn())


def test_what_the_kernel_cannot_do_is_refused(gpu: None) -> None:
    params, xs = make_params(CASE, jnp.float32), jnp.zeros((STEPS, BATCH, INPUT))
    with pytest.raises(ValueError, match=r"`method` Cudnn\(\) has no carry but the last one"):
        unroll_carries(CELL, params, xs, method=Cudnn())
    with pytest.raises(ValueError, match="`resets` are more than the kernel"):
        unroll(CELL, params, xs, resets=SCENES["resets"]["resets"], method=Cudnn())
    with pytest.raises(ValueError, match=r"`xs` must be float32 .* got bfloat16 of shape \(6, 4, 3\)"):
        unroll(CELL, params, xs.astype(jnp.bfloat16), method=Cudnn())
    half = params._replace(w_h=params.w_h.astype(jnp.bfloat16))
    with pytest.raises(ValueError, match=r"`params` must be float32 .* got bfloat16 of shape \(4, 16\)"):
        unroll(CELL, half, xs, method=Cudnn())
    none = params._replace(w_x=params.w_x[:0])
    with pytest.raises(ValueError, match=r"`xs` must have features .* got float32 of shape \(6, 4, 0\)"):
        unroll(CELL, none, xs[..., :0], method=Cudnn())


def test_float64_is_refused(gpu: None, x64: None) -> None:
    with pytest.raises(ValueError, match=r"`xs` must be float32 .* got float64"):
        unroll(CELL, make_params(CASE), make_xs(CASE), method=Cudnn())


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is one")
def test_there_must_be_a_gpu() -> None:
    params, xs = make_params(CASE, jnp.float32), make_xs(CASE, jnp.float32)
    with pytest.raises(ValueError, match=r"`method` Cudnn\(\) needs an NVIDIA GPU, got the backend 'cpu'"):
        unroll(CELL, params, xs, method=Cudnn())
