"""Our cells as cells of flax, linen and nnx: equal outputs and final carries, and back to the same weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from rnn_jax import bidirectional, elman, gru, lru, lstm, stack, unroll
from rnn_jax.initializers import chrono
from rnn_jax.interop import from_linen_cell, from_nnx_cell, to_linen_cell, to_nnx_cell

RNG = np.random.default_rng(8)
XS = jnp.asarray(RNG.normal(size=(6, 4, 3)), jnp.float32)
LENGTHS = jnp.array([4, 6, 1, 3])
REAL = np.arange(6)[:, None, None] < np.asarray(LENGTHS)[None, :, None]
CELLS = {
    "lstm": lstm(4),
    "chrono": lstm(4, bias_init=chrono(9.0)),
    "gru": gru(4),
    "elman": elman(4),
    "relu": elman(4, activation=jax.nn.relu),
}


def random_params(cell: Any, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    like = jax.eval_shape(lambda: cell.init(jax.random.key(0), 3))
    return jax.tree.map(lambda leaf: jnp.asarray(0.6 * rng.normal(size=leaf.shape), leaf.dtype), like)


def assert_equal(ours: Any, theirs: Any) -> None:
    """Carries, of which flax's LSTM has (c, h), and the outputs on real steps: flax leaves padding as it comes."""
    (carry, ys), (their_carry, their_ys) = ours, theirs
    expected = their_carry[::-1] if isinstance(their_carry, tuple) else (their_carry,)
    for leaf, other in zip(jax.tree.leaves(carry), expected, strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ys, np.where(REAL, their_ys, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CELLS)
def test_our_cells_become_cells_of_linen(name: str) -> None:
    cell, params = CELLS[name], random_params(CELLS[name])
    module, variables = to_linen_cell(cell, params)
    start = module.initialize_carry(jax.random.key(0), XS[0].shape)
    fresh = jax.eval_shape(module.init, jax.random.key(0), start, XS[0])
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, fresh)
    rnn = nn.RNN(module, time_major=True, return_carry=True)
    theirs = jax.jit(rnn.apply)({"params": {"cell": variables["params"]}}, XS, seq_lengths=LENGTHS)
    assert_equal(jax.jit(lambda p: unroll(cell, p, XS, lengths=LENGTHS))(params), theirs)
    carry, _ = module.apply(variables, start, XS[0])  # eagerly, one step
    expected = unroll(cell, params, XS[:1])[0]
    np.testing.assert_allclose(jax.tree.leaves(carry)[-1], jax.tree.leaves(expected)[0], rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, from_linen_cell(module, variables).params, params)


@pytest.mark.parametrize("name", ["lstm", "gru", "relu"])
def test_our_cells_become_cells_of_nnx(name: str) -> None:
    cell, params = CELLS[name], random_params(CELLS[name])
    if name == "gru":
        params = params._replace(b_hn=jnp.zeros(4))
    module = to_nnx_cell(cell, params)
    graph, state = nnx.split(nnx.RNN(module, time_major=True, return_carry=True))
    theirs = jax.jit(lambda: nnx.merge(graph, state, copy=True)(XS, seq_lengths=LENGTHS))()
    assert_equal(jax.jit(lambda p: unroll(cell, p, XS, lengths=LENGTHS))(params), theirs)
    again = from_nnx_cell(module)
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_both_directions_as_flax_has_them() -> None:
    cell = gru(4)
    model = bidirectional(cell, cell)
    params = random_params(model)
    module, forward = to_linen_cell(cell, params.forward)
    backward = to_linen_cell(cell, params.backward)[1]
    rnns = [nn.RNN(module.copy(), time_major=True, return_carry=True) for _ in range(2)]
    both = nn.Bidirectional(*rnns, time_major=True, return_carry=True)
    variables = {"params": {"forward_rnn": {"cell": forward["params"]}, "backward_rnn": {"cell": backward["params"]}}}
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(both.init, jax.random.key(0), XS))
    assert shapes == jax.tree.map(jnp.shape, variables)
    (there, back), their_ys = jax.jit(both.apply)(variables, XS, seq_lengths=LENGTHS)
    carry, ys = jax.jit(lambda p: model.apply(p, XS, lengths=LENGTHS))(params)
    np.testing.assert_allclose(ys, np.where(REAL, their_ys, 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(carry.forward, there, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(carry.backward, back, rtol=1e-5, atol=1e-5)


def test_the_gru_of_nnx_has_no_place_for_b_hn() -> None:
    params = random_params(gru(4))._replace(b_hn=jnp.array([0.0, -0.25, 0.0, 0.0]))
    with pytest.raises(ValueError, match=r"`params` must have b_hn = 0, .*; got values up to 0.25. .* to_linen_cell"):
        to_nnx_cell(gru(4), params)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (gru(4, reset="before"), r"`cell` is a GRU that resets before .* flax after it: they are different functions"),
        (lstm(4, peephole=True, projection=2), "`cell` must be an lstm without peepholes and a projection for flax"),
        (
            lstm(4, coupled=True, layer_norm=True),
            "`cell` must be an lstm without coupled gates and layer norm for flax",
        ),
        (elman(4, activation=jnp.sin), r"`cell` must compute what plain lstm, gru or elman \(tanh, relu\) cells do"),
        (
            stack(lstm(4), gru(4)),
            "`cell` must be an lstm, gru or elman, got a stack of 2; convert its cells one by one",
        ),
        (lru(4), "`cell` must be an lstm, gru or elman, got LinearCell"),
    ],
    ids=["reset", "peephole, projection", "coupled, layer norm", "sin", "stack", "lru"],
)
def test_what_flax_cannot_hold_is_refused_with_the_reason(cell: Any, reason: str) -> None:
    params = cell.init(jax.random.key(0), 3)
    for convert in (to_linen_cell, to_nnx_cell):
        with pytest.raises(ValueError, match=reason):
            convert(cell, params)
