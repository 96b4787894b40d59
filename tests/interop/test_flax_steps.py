"""Cells of flax with their own step in our unroll: as flax runs them, with every strategy, resets and streaming."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from rnn_jax import Cell, Chunked, Newton, Recursive, Scan, bidirectional, gru, stack, stream_step, unroll
from rnn_jax.interop import from_nnx_cell, linen_cell, nnx_cell
from rnn_jax.streaming import StreamPool

RNG = np.random.default_rng(6)
XS = jnp.asarray(RNG.normal(size=(6, 4, 3)), jnp.float32)
LENGTHS = jnp.array([4, 6, 1, 3])
REAL = np.arange(6)[:, None, None] < np.asarray(LENGTHS)[None, :, None]
LSTM = nnx.LSTMCell(3, 4, rngs=nnx.Rngs(1))


class LinenLeaky(nn.RNNCellBase):
    """A cell of a user: its carry is a dictionary."""

    features: int

    @nn.compact
    def __call__(self, carry, x):
        h = 0.7 * carry["h"] + 0.3 * jnp.tanh(nn.Dense(self.features)(jnp.concatenate([x, carry["h"]], axis=-1)))
        return {"h": h}, nn.Dense(2, use_bias=False)(h)

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        del rng
        return {"h": jnp.full((*input_shape[:-1], self.features), 0.1)}

    @property
    def num_feature_axes(self):
        return 1


class CountsInputs(LinenLeaky):
    """A carry as large as the input."""

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        del rng
        return {"h": jnp.zeros(input_shape)}


class Noisy(nnx.GRUCell):
    """A cell with a stream of random numbers."""

    def __init__(self, *sizes: int, rngs: nnx.Rngs) -> None:
        super().__init__(*sizes, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def random_like(tree: Any, seed: int = 3) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.6 * rng.normal(size=leaf.shape), leaf.dtype), tree)


def outcome(run: Any, params: Any, xs: Any, real: Any) -> Any:
    """Gradients over params and inputs, final carry, outputs on real steps."""

    def loss(params, xs):
        carry, ys = run(params, xs)
        ys = jnp.where(real, ys, 0)
        weights = jnp.sin(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape)
        return (ys * weights).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(carry)), (carry, ys)

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, xs)


def assert_equal(found: Any, expected: Any) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "reverse"),
    [(nn.MGUCell(4), False), (LinenLeaky(4), True), (nn.OptimizedLSTMCell(4), False)],
    ids=["mgu", "a user's", "lstm"],
)
def test_cells_of_linen_run_as_in_flax(module: Any, reverse: bool) -> None:
    cell = linen_cell(module)
    params = random_like(jax.eval_shape(lambda: cell.init(jax.random.key(0), 3)))
    rnn = nn.RNN(module, time_major=True, return_carry=True, reverse=reverse, keep_order=True)
    expected = outcome(lambda p, xs: rnn.apply({"params": {"cell": p}}, xs, seq_lengths=LENGTHS), params, XS, REAL)
    found = outcome(lambda p, xs: unroll(cell, p, xs, lengths=LENGTHS, reverse=reverse), params, XS, REAL)
    assert_equal(found, expected)
    assert_equal(unroll(cell, params, XS, lengths=LENGTHS, reverse=reverse), found[1])  # eagerly


def test_a_convolutional_lstm_of_linen_mixes_its_spatial_axes() -> None:
    module = nn.ConvLSTMCell(2, (3, 3))
    cell = linen_cell(module)
    assert cell.spatial_axes == 2
    params = random_like(jax.eval_shape(lambda: cell.init(jax.random.key(0), 1)))
    xs, lengths = jnp.asarray(RNG.normal(size=(4, 2, 5, 4, 1)), jnp.float32), jnp.array([4, 2])
    real = (np.arange(4)[:, None] < np.asarray(lengths)).reshape(4, 2, 1, 1, 1)
    rnn = nn.RNN(module, time_major=True, return_carry=True)
    expected = outcome(lambda p, xs: rnn.apply({"params": {"cell": p}}, xs, seq_lengths=lengths), params, xs, real)
    assert_equal(outcome(lambda p, xs: unroll(cell, p, xs, lengths=lengths), params, xs, real), expected)


def test_cells_of_nnx_run_as_in_flax_and_go_back_trained() -> None:
    cell, params = nnx_cell(LSTM)
    graph, _, rest = nnx.split(nnx.RNN(LSTM, time_major=True, return_carry=True), nnx.Param, ...)

    def flax_run(p, xs):
        return nnx.merge(graph, nnx.State({"cell": p}), rest, copy=True)(xs, seq_lengths=LENGTHS)

    found = outcome(lambda p, xs: unroll(cell, p, xs, lengths=LENGTHS), params, XS, REAL)
    assert_equal(found, outcome(flax_run, params, XS, REAL))
    assert_equal(unroll(cell, params, XS, lengths=LENGTHS), found[1])  # eagerly
    trained = jax.tree.map(lambda p, g: p - 0.1 * g, params, found[0][0])
    before = np.asarray(LSTM.ii.kernel[...])
    module = nnx.clone(LSTM)
    nnx.update(module, trained)
    np.testing.assert_array_equal(module.ii.kernel[...], jax.tree.leaves(trained["ii"])[0])
    np.testing.assert_array_equal(LSTM.ii.kernel[...], before)
    ours, weights = from_nnx_cell(module)
    carry, ys = unroll(ours, weights, XS)
    (c, h), their_ys = unroll(cell, trained, XS)
    assert_equal((carry.h, carry.c, ys), (h, c, their_ys))


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_every_strategy_resets_and_streaming_agree(kind: str) -> None:
    if kind == "nnx":
        cell, params = nnx_cell(LSTM)
    else:
        cell = linen_cell(nn.MGUCell(4))
        params = random_like(jax.eval_shape(lambda: cell.init(jax.random.key(0), 3)))
    resets = jnp.zeros((6, 4), bool).at[3, 1].set(True)
    run = lambda method: jax.jit(lambda p: unroll(cell, p, XS, resets=resets, method=method))(params)  # noqa: E731
    expected = run(Scan())
    for method in (Chunked(4), Recursive(4), Newton()):
        assert_equal(run(method), expected)
    after = jax.jit(lambda p: unroll(cell, p, XS[3:, 1:2]))(params)[1]
    np.testing.assert_allclose(expected[1][3:, 1:2], after, rtol=1e-5, atol=1e-5)
    pool = StreamPool(cell, params, slots=2, input_size=3)
    stream = pool.join()
    carry, step = cell.init_carry(params, ()), jax.jit(lambda c, x: stream_step(cell, params, c, x))
    for t in range(6):
        carry, y = step(carry, XS[t, 0])
        np.testing.assert_allclose(y, expected[1][t, 0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(pool.step(stream, np.asarray(XS[t, 0])), y, rtol=1e-5, atol=1e-5)


def test_they_go_into_stacks_and_both_directions() -> None:
    mgu = linen_cell(nn.MGUCell(4))
    assert isinstance(mgu, Cell)
    assert mgu is linen_cell(nn.MGUCell(4))
    model = bidirectional(stack(mgu, gru(5)), mgu)
    params = random_like(jax.eval_shape(lambda: model.init(jax.random.key(0), 3)))
    _, ys = jax.jit(lambda p: model.apply(p, XS, lengths=LENGTHS))(params)
    _, behind = jax.jit(lambda p: unroll(mgu, p, XS, lengths=LENGTHS, reverse=True))(params.backward)
    np.testing.assert_allclose(ys[..., 5:], behind, rtol=1e-5, atol=1e-5)


def test_low_precision_has_a_wide_carry() -> None:
    cell = linen_cell(nn.MGUCell(4, dtype=jnp.bfloat16))
    with jax.numpy_dtype_promotion("standard"):  # flax promotes by itself
        params = cell.init(jax.random.key(0), 3)
        carry, ys = unroll(cell, params, XS.astype(jnp.bfloat16))
    assert (carry.dtype, ys.dtype) == (jnp.float32, jnp.bfloat16)


def test_what_is_no_pure_cell_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`module` must be a flax.linen RNNCellBase, got Dense"):
        linen_cell(nn.Dense(3))
    with pytest.raises(ValueError, match=r"`module` must be a flax.nnx RNNCellBase, got GRUCell"):
        nnx_cell(nn.GRUCell(3))
    with pytest.raises(ValueError, match="`module` must have a carry that does not depend on the input size"):
        linen_cell(CountsInputs(4)).init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match="`module` Noisy must have parameters and no other variables, got also Rng"):
        nnx_cell(Noisy(3, 4, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="`module` LSTMCell was initialised when it was made: take the params"):
        nnx_cell(LSTM).model.init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match="`key` must be a PRNG key"):
        linen_cell(nn.MGUCell(4)).init(0, 3)
