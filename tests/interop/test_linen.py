"""flax.linen modules as layers: equal numbers, padding, tokens, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rnn_jax import Associative, gru, layer, serial, unroll, with_dropout
from rnn_jax.interop import from_linen

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiling is what takes time
RNG = np.random.default_rng(2)
XS = RNG.normal(size=(6, 3, 4)).astype(np.float32)
LENGTHS = jnp.array([6, 2, 0])
TOKENS = jnp.asarray(RNG.integers(0, 9, size=(6, 3)))
REAL = np.arange(6)[:, None] < np.asarray(LENGTHS)[None]


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(7)(x)) + 0.5
        return nn.LayerNorm()(nn.Dense(5)(x))


def randomised(layer, input_size):
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), input_size))
    rng = np.random.default_rng(41)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), params)


def test_an_mlp_equals_numpy_and_has_no_carry():
    head = from_linen(MLP())
    params = randomised(head, 4)
    carry, ys = head.apply(params, jnp.asarray(XS))
    p = jax.tree.map(np.asarray, params)
    hidden = np.tanh(XS @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]) + 0.5
    out = hidden @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]
    out = (out - out.mean(-1, keepdims=True)) / np.sqrt(out.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(ys, out * p["LayerNorm_0"]["scale"] + p["LayerNorm_0"]["bias"], rtol=1e-5, atol=1e-5)
    assert carry == ()


def test_initial_parameters_are_those_of_flax():
    head = from_linen(MLP())
    params = jit(lambda key: head.init(key, 4))(jax.random.key(3))
    expected = jit(lambda key: MLP().init(key, jnp.zeros((1, 1, 4))))(jax.random.key(3))["params"]
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_padding_gives_zeros_and_its_nan_harms_neither_values_nor_gradients():
    head = from_linen(MLP())
    params = randomised(head, 4)
    dirty = jnp.asarray(np.where(REAL[..., None], XS, np.nan))

    def loss(params, xs):
        ys = head.apply(params, xs, lengths=LENGTHS)[1]
        return (ys**2).sum(), ys

    (gradients, over_xs), ys = jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, dirty)
    plain = np.asarray(head.apply(params, jnp.asarray(XS))[1])
    np.testing.assert_allclose(ys, np.where(REAL[..., None], plain, 0), rtol=1e-6, atol=1e-6)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((gradients, over_xs)))
    masked = head.apply(params, dirty, mask=jnp.asarray(REAL))[1]
    np.testing.assert_array_equal(masked, head.apply(params, dirty, lengths=LENGTHS)[1])


def test_a_convolution_over_time_does_not_see_padding():
    conv = from_linen(nn.Conv(2, (3, 1)))
    params = randomised(conv, 4)
    ys = conv.apply(params, jnp.asarray(XS), lengths=LENGTHS)[1]
    kernel, bias = np.asarray(params["kernel"]), np.asarray(params["bias"])
    padded = np.pad(np.where(REAL[..., None], XS, 0), ((1, 1), (0, 0), (0, 0)))
    expected = sum(padded[k : k + 6] @ kernel[k, 0] for k in range(3)) + bias
    np.testing.assert_allclose(ys, np.where(REAL[..., None], expected, 0), rtol=1e-5, atol=1e-5)


def test_an_embedding_between_tokens_and_a_cell_and_a_head_equals_the_three_by_hand():
    cell = gru(8)
    model = serial(from_linen(nn.Embed(9, 6)), layer(cell), from_linen(nn.Dense(5)))
    params = randomised(model, 1)
    carry, ys = jit(lambda p, xs: model.apply(p, xs, lengths=LENGTHS))(params, TOKENS)
    embedded = params[0]["embedding"][TOKENS]
    expected_carry, hs = jit(lambda p, xs: unroll(cell, p, xs, lengths=LENGTHS))(params[1], embedded)
    expected = np.asarray(hs) @ np.asarray(params[2]["kernel"]) + np.asarray(params[2]["bias"])
    np.testing.assert_allclose(ys, np.where(REAL[..., None], expected, 0), rtol=1e-5, atol=1e-5)
    assert carry[0] == ()
    assert carry[2] == ()
    np.testing.assert_allclose(carry[1], expected_carry, rtol=1e-5, atol=1e-6)


def test_a_whole_model_continues_from_its_final_carry():
    model = serial(from_linen(nn.Embed(9, 6)), layer(gru(8)), from_linen(nn.Dense(5)))
    params = randomised(model, 1)
    _, whole = jit(model.apply)(params, TOKENS)
    carry, first = jit(model.apply)(params, TOKENS[:4])
    _, second = jit(lambda p, xs, c: model.apply(p, xs, carry=c))(params, TOKENS[4:], carry)
    np.testing.assert_allclose(whole, jnp.concatenate([first, second]), rtol=1e-5, atol=1e-6)


def test_noise_of_a_cell_above_an_embedding_has_the_shape_of_the_embedded_tokens():
    model = serial(from_linen(nn.Embed(9, 6)), layer(with_dropout(gru(8), inputs=0.5)), from_linen(nn.Dense(5)))
    params = randomised(model, 1)
    noisy = model.perturb(jax.random.key(4), params, TOKENS.shape)
    assert noisy[1].inputs.value.shape == (6, 3, 6)
    assert noisy[0] is params[0]
    assert not np.allclose(jit(model.apply)(noisy, TOKENS)[1], jit(model.apply)(params, TOKENS)[1])


def test_tokens_have_no_axis_of_features_so_a_mask_covers_all_their_axes():
    embed = from_linen(nn.Embed(9, 6))
    params = randomised(embed, 1)
    ys = embed.apply(params, TOKENS, mask=jnp.asarray(REAL), resets=jnp.asarray(REAL))[1]
    np.testing.assert_array_equal(ys, np.where(REAL[..., None], np.asarray(params["embedding"])[TOKENS], 0))
    ys = embed.apply(params, TOKENS[:, 0], lengths=jnp.array(2))[1]
    np.testing.assert_array_equal(ys[:2], params["embedding"][TOKENS[:2, 0]])
    assert not np.any(ys[2:])


def test_a_module_that_begins_with_an_embedding_is_given_an_example():
    module = nn.Sequential([nn.Embed(9, 6), nn.Dense(5)])
    head = from_linen(module, example=lambda size: jax.ShapeDtypeStruct((1, 1), jnp.int32))
    params = randomised(head, 1)
    p = jax.tree.map(np.asarray, params)
    expected = p["layers_0"]["embedding"][TOKENS] @ p["layers_1"]["kernel"] + p["layers_1"]["bias"]
    np.testing.assert_allclose(head.apply(params, TOKENS)[1], expected, rtol=1e-5, atol=1e-5)


def test_the_strategy_and_resets_change_nothing_without_a_recurrence():
    head = from_linen(nn.Dense(5))
    params = randomised(head, 4)
    plain = head.apply(params, jnp.asarray(XS))[1]
    other = head.apply(params, jnp.asarray(XS), resets=jnp.asarray(REAL), method=Associative(), carry=())[1]
    np.testing.assert_array_equal(plain, other)


def test_a_module_without_parameters_is_a_layer():
    act = from_linen(nn.Sequential([nn.relu]))
    assert act.init(jax.random.key(0), 4) == {}
    np.testing.assert_array_equal(act.apply({}, jnp.asarray(XS))[1], np.maximum(XS, 0))


def test_what_cannot_be_a_layer_is_refused():
    with pytest.raises(ValueError, match=r"`module` must be a flax.linen module, got str"):
        from_linen("Dense")
    with pytest.raises(ValueError, match=r"`module` BatchNorm must keep its variables .* got also 'batch_stats'"):
        from_linen(nn.BatchNorm(use_running_average=True)).init(jax.random.key(0), 4)
    head = from_linen(nn.Dense(5))
    with pytest.raises(ValueError, match=r"`key` must be a PRNG key"):
        head.init(0, 4)
    with pytest.raises(ValueError, match=r"`input_size` must be an integer of at least 1, got int 0"):
        head.init(jax.random.key(0), 0)
    params = head.init(jax.random.key(0), 4)
    with pytest.raises(ValueError, match=r"`xs` must be an array \[T, ...\], got list"):
        head.apply(params, [1.0])
    with pytest.raises(ValueError, match=r"`xs` must have a time axis, got shape \(\)"):
        head.apply(params, jnp.array(3))
    with pytest.raises(ValueError, match=r"`xs` must be \[T, ..., features\] with at least 2 axes"):
        head.apply(params, jnp.zeros(4))
    with pytest.raises(ValueError, match=r"`lengths` must have the shape \(3,\) of the batch"):
        head.apply(params, jnp.asarray(XS), lengths=jnp.array([1, 2]))
    with pytest.raises(ValueError, match=r"`resets` must have the shape \(6, 3\)"):
        head.apply(params, jnp.asarray(XS), resets=jnp.zeros((5, 3), bool))
    with pytest.raises(ValueError, match=r"`carry` must have the structure"):
        head.apply(params, jnp.asarray(XS), carry=jnp.zeros(3))
    valid = from_linen(
        nn.Conv(2, (3, 1), padding="VALID"), example=lambda size: jax.ShapeDtypeStruct((4, 1, size), jnp.float32)
    )
    params = valid.init(jax.random.key(0), 4)
    assert valid.apply(params, jnp.asarray(XS))[1].shape == (4, 3, 2)
    with pytest.raises(ValueError, match=r"need a module that keeps time and batch \(6, 3\), got outputs \(4, 3, 2\)"):
        valid.apply(params, jnp.asarray(XS), lengths=LENGTHS)
