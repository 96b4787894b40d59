"""Bridges from encoder carries to decoder carries, for every structure a carry may have."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import close, jit, random_params

from rnn_jax import Directions, bidirectional, gru, layer, lru, lstm, m_lstm, serial, stack, unroll
from rnn_jax.attention import additive, attention_decoder, concat_bridge, last_bridge, learned_bridge
from rnn_jax.cells.lstm import LSTMCarry

BATCH, INPUT = 3, 2
RNG = np.random.default_rng(97)
XS = jnp.asarray(RNG.normal(size=(4, BATCH, INPUT)), jnp.float32)


def both(cell: Any) -> Any:
    return bidirectional(cell, cell)


def final(encoder: Any) -> Any:
    """The carry of an encoder over a batch, and its shapes over a single sequence."""
    params = random_params(encoder, INPUT)
    carry = jit(lambda p, xs: encoder.apply(p, xs)[0])(params, XS)
    return carry, jax.eval_shape(lambda: encoder.apply(params, XS[:, 0])[0])


def initial(cell: Any) -> Any:
    params = random_params(cell, INPUT)
    return cell.init_carry(params, (BATCH,)), jax.eval_shape(lambda: cell.init_carry(params))


DOUBLED = {
    "gru": (both(gru(3)), gru(6)),
    "lstm": (both(lstm(3)), lstm(6)),
    "projected_lstm": (both(lstm(3, projection=2)), lstm(6, projection=4)),
    "lru": (both(lru(3)), lru(6)),
    "m_lstm": (both(m_lstm(4, num_heads=2)), m_lstm(8, num_heads=4)),
    "stack": (both(stack(gru(2), lstm(3))), stack(gru(4), lstm(6))),
    "deep": (serial(both(gru(2)), both(lru(3))), stack(gru(4), lru(6))),
}
PAIRS = DOUBLED | {
    "gru_to_lstm": (layer(gru(3)), lstm(4)),
    "lru_to_gru": (layer(lru(3)), gru(4)),
    "gru_to_lru": (both(gru(3)), lru(2)),
    "m_lstm_to_m_lstm": (layer(m_lstm(4, num_heads=2)), m_lstm(3)),
    "deeper": (serial(both(lstm(3)), layer(gru(4)), layer(lru(2))), stack(m_lstm(4), gru(2))),
}


@pytest.mark.parametrize("name", DOUBLED)
def test_concatenation_is_leaf_by_leaf_with_the_forward_half_first(name):
    encoder, cell = DOUBLED[name]
    (carry, shapes), (start, start_shapes) = final(encoder), initial(cell)
    bridge = concat_bridge()
    assert bridge.init(jax.random.key(0), shapes, start_shapes) == ()
    made = bridge.apply((), carry, start)
    assert jax.tree.structure(made) == jax.tree.structure(start)
    pairs = [carry] if isinstance(carry, Directions) else carry
    halves = [jax.tree.leaves([pair[i] for pair in pairs]) for i in (0, 1)]
    for leaf, ahead, behind in zip(jax.tree.leaves(made), *halves, strict=True):
        half = ahead.shape[1]
        assert leaf.shape[:2] == (BATCH, 2 * half)
        assert (leaf[:, :half] == ahead).all()
        assert (leaf[:, half:] == behind).all()
        assert not (ahead == behind).all()
    params = random_params(cell, INPUT)
    assert np.isfinite(jit(lambda p, c: unroll(cell, p, XS, c)[1])(params, made)).all()


def test_concatenated_heads_are_two_memories_side_by_side():
    """An m_lstm of four heads that starts from two of two goes on as each of them would have."""
    (carry, _), (start, _) = final(DOUBLED["m_lstm"][0]), initial(DOUBLED["m_lstm"][1])
    made = concat_bridge().apply((), carry, start)
    query = jnp.asarray(RNG.normal(size=(BATCH, 4, 2)), jnp.float32)
    expected = [jnp.einsum("bnvk,bnk->bnv", c.c, q) for c, q in zip(carry, jnp.split(query, 2, 1), strict=True)]
    close(jnp.einsum("bnvk,bnk->bnv", made.c, query), jnp.concatenate(expected, axis=1))


def test_the_last_carry_is_handed_on_as_it_is():
    for encoder, cell in ((layer(lstm(3)), lstm(3)), (serial(layer(gru(3)), layer(lru(2))), stack(gru(3), lru(2)))):
        (carry, shapes), (start, start_shapes) = final(encoder), initial(cell)
        assert last_bridge().init(jax.random.key(0), shapes, start_shapes) == ()
        close(last_bridge().apply((), carry, start), carry)
    for encoder, cell in ((both(lstm(3)), lstm(3)), (serial(both(gru(3)), both(lru(2))), stack(gru(3), lru(2)))):
        (carry, shapes), (start, start_shapes) = final(encoder), initial(cell)
        for direction in ("forward", "backward"):
            bridge = last_bridge(direction)
            assert bridge.init(jax.random.key(0), shapes, start_shapes) == ()
            made = bridge.apply((), carry, start)
            pairs = (carry,) if isinstance(carry, Directions) else carry
            close(jax.tree.leaves(made), jax.tree.leaves([getattr(pair, direction) for pair in pairs]))


def features(carry: Any, row: int) -> np.ndarray:
    """All numbers that a row carries."""
    flat = [np.asarray(leaf[row]) for leaf in jax.tree.leaves(carry)]
    parts = [part.ravel() for leaf in flat for part in ((leaf.real, leaf.imag) if np.iscomplexobj(leaf) else (leaf,))]
    return np.concatenate(parts)


@pytest.mark.parametrize("name", PAIRS)
def test_a_learned_bridge_is_an_affine_map_of_all_features_of_a_row(name):
    encoder, cell = PAIRS[name]
    (carry, shapes), (start, start_shapes) = final(encoder), initial(cell)
    bridge = learned_bridge()
    params = bridge.init(jax.random.key(0), shapes, start_shapes)._replace(b=None)
    params = params._replace(b=jnp.asarray(RNG.normal(size=params.w.shape[1]), jnp.float32))
    made = jit(bridge.apply)(params, carry, start)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), made) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), start
    )
    for row in range(BATCH):
        expected = np.tanh(features(carry, row) @ np.asarray(params.w) + np.asarray(params.b))
        np.testing.assert_allclose(features(made, row), expected, rtol=1e-5, atol=1e-6)

    def loss(params, carry):
        return sum((jnp.abs(leaf) ** 2).sum() for leaf in jax.tree.leaves(bridge.apply(params, carry, start)))

    for leaf in jax.tree.leaves(jit(jax.grad(loss, argnums=(0, 1)))(params, carry)):
        assert (leaf != 0).any()
        assert np.isfinite(leaf).all()


def test_batches_of_any_rank_of_one_row_or_of_none_go_across():
    encoder, cell, bridge = layer(lru(3)), lstm(4), learned_bridge()
    (carry, shapes), (start, start_shapes) = final(encoder), initial(cell)
    params = bridge.init(jax.random.key(0), shapes, start_shapes)
    expected = bridge.apply(params, carry, start)
    for shape in ((3, 1), (1, 3), (1, 1, 3)):
        many = jax.tree.map(lambda leaf, shape=shape: leaf.reshape(*shape, -1), (carry, start))
        made = bridge.apply(params, *many)
        close(made, jax.tree.map(lambda leaf, shape=shape: leaf.reshape(*shape, -1), expected))
    for rows in (0, slice(0, 1), slice(0, 0)):
        some = jax.tree.map(lambda leaf, rows=rows: leaf[rows], (carry, start, expected))
        close(bridge.apply(params, *some[:2]), some[2])


@pytest.mark.usefixtures("x64")
def test_the_decoder_says_the_precision():
    narrow, wide = jnp.ones((2, 3), jnp.float32), jnp.ones((2, 4), jnp.float64)
    bridge = learned_bridge(jnp.sin)
    params = bridge.init(jax.random.key(0), narrow[0], wide[0])
    assert bridge.apply(params, narrow, wide).dtype == jnp.float64
    assert bridge.apply(params, wide[:, :3], narrow.repeat(2, 1)[:, :4]).dtype == jnp.float32
    mixed = LSTMCarry(narrow[:, :1], wide[:, :2])
    close(bridge.apply(params, mixed, wide), jnp.sin(jnp.ones((2, 3)) @ params.w))
    assert last_bridge().apply((), wide, jnp.ones((2, 4), jnp.float32)).dtype == jnp.float32


def test_a_decoder_with_attention_starts_from_its_encoder():
    encoder, cell, bridge = both(gru(3)), gru(4), learned_bridge()
    decoder = attention_decoder(cell, additive(5), 6, memory_size=6)
    (_, shapes), (_, start_shapes) = final(encoder), initial(cell)
    params = random_params(encoder, INPUT), random_params(decoder.cell, INPUT)
    bridge_params = bridge.init(jax.random.key(0), shapes, start_shapes)

    def run(params, xs):
        encoder_params, decoder_params, bridge_params = params
        encoded, memory = encoder.apply(encoder_params, xs)
        attended = decoder.attend(decoder_params, memory)
        carry = decoder.cell.init_carry(attended, (BATCH,))
        carry = carry._replace(cell=bridge.apply(bridge_params, encoded, carry.cell))
        return (unroll(decoder.cell, attended, XS, carry)[1] ** 2).sum()

    gradients = jit(jax.grad(run))((*params, bridge_params), XS)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradients))


def test_equal_calls_give_the_same_bridge():
    assert concat_bridge() is concat_bridge()
    assert last_bridge() is last_bridge(direction=None)
    assert learned_bridge() is learned_bridge(jnp.tanh)


def test_a_carry_that_does_not_fit_is_refused_before_and_while_running():
    (pair, pair_shapes), (single, single_shapes) = final(both(gru(3))), final(layer(gru(3)))
    (start, start_shapes), (wide_start, _) = initial(gru(3)), initial(gru(6))
    key = jax.random.key(0)
    fits = r"`encoder_carry` does not fit the decoder: .*\({}\).* but `decoder_carry` is .*\({}\)"
    cases = (
        (concat_bridge(), pair, start, fits.format("3, 6", "3, 3")),
        (concat_bridge(), single, start, r"`encoder_carry` must have Directions to concatenate"),
        (concat_bridge(), Directions(start, (start,)), start, r"`encoder_carry` must have equal structures in both"),
        (concat_bridge(), Directions(start, start[:2]), start, r"`encoder_carry` must have directions that can be"),
        (concat_bridge(), pair, jnp.zeros((6, 6)), fits.format("3, 6", "6, 6")),
        (concat_bridge(), pair, jnp.zeros((6, 3)), fits.format("3, 6", "6, 3")),
        (last_bridge(), single, wide_start, fits.format("3, 3", "3, 6")),
        (last_bridge(), single, (start,), fits.format("3, 3", "3, 3")),
        (last_bridge(), single, start.astype(jnp.complex64), fits.format("3, 3", "3, 3")),
        (last_bridge("forward"), pair, wide_start, fits.format("3, 3", "3, 6")),
        (last_bridge(), pair, start, r"`direction` must be 'forward' or 'backward' for .* with Directions, got None"),
        (last_bridge("backward"), single, start, r"`direction` must be None .* with no Directions, got 'backward'"),
    )
    for bridge, carry, target, text in cases:
        for call in (lambda b, c, t: b.init(key, c, t), lambda b, c, t: b.apply((), c, t)):
            with pytest.raises(ValueError, match=text):
                call(bridge, carry, target)
    with pytest.raises(ValueError, match=r"`direction` must be one of 'forward', 'backward', got 'forwards'; did you"):
        last_bridge("forwards")
    bridge = learned_bridge()
    params = bridge.init(key, pair_shapes, start_shapes)
    for carry, target in ((single, start), (pair, wide_start), (pair, start[:2]), (pair, start[0])):
        with pytest.raises(ValueError, match=r"`params` are of a bridge from 6 to 3 features for each row, got `enc"):
            bridge.apply(params, carry, target)
    with pytest.raises(ValueError, match=r"`key` must be a PRNG key"):
        bridge.init(0, single_shapes, start_shapes)
    counted = LSTMCarry(h=start, c=jnp.ones(3, jnp.int32))
    with pytest.raises(ValueError, match=r"`decoder_carry.c` must be floating or complex, got int32 of shape \(3,\)"):
        bridge.init(key, single, counted)
    with pytest.raises(ValueError, match=r"`encoder_carry\[1\].c` must be floating or complex, got int32"):
        bridge.apply(params, (single, counted), start)
    with pytest.raises(ValueError, match=r"`encoder_carry` must have leaves, got \(\)"):
        bridge.init(key, (), start)
