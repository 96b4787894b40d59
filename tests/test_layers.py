"""Layers: both directions and sequences of layers equal what one would write by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import close, jit, random_params

from rnn_jax import (
    Auto,
    Chunked,
    Directions,
    bidirectional,
    elman,
    gru,
    ind_rnn,
    layer,
    learned_carry,
    lru,
    lstm,
    serial,
    stack,
    unroll,
    with_dropout,
)

RNG = np.random.default_rng(23)
XS = jnp.asarray(RNG.normal(size=(6, 4, 3)), jnp.float32)
LENGTHS = np.array([6, 4, 1, 0])
RESETS = jnp.asarray(RNG.random((6, 4)) < 0.4)
MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], axis=-1),
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "mean": lambda a, b: (a + b) / 2,
}


@pytest.mark.parametrize("merge", MERGES)
def test_both_directions_on_ragged_lengths_equal_two_unrolls_of_each_row_by_hand(merge):
    cells = gru(5), elman(5)
    model = bidirectional(*cells, merge=merge)
    params = random_params(model, 3)
    carry, ys = jit(lambda p, xs: model.apply(p, xs, lengths=jnp.asarray(LENGTHS)))(params, XS)
    expected = np.zeros(ys.shape, np.float32)
    runs = [jit(lambda p, xs, cell=cell: unroll(cell, p, xs)) for cell in cells]
    for row, length in enumerate(LENGTHS):
        ahead_carry, ahead = runs[0](params.forward, XS[:length, row])
        behind_carry, behind = runs[1](params.backward, XS[:length, row][::-1])
        expected[:length, row] = MERGES[merge](np.asarray(ahead), np.asarray(behind)[::-1])
        np.testing.assert_allclose(carry.forward[row], ahead_carry, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(carry.backward[row], behind_carry, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ys, expected, rtol=1e-5, atol=1e-6)


def test_both_directions_take_different_cells_carries_masks_and_resets():
    cells = stack(lru(4), lstm(3)), learned_carry(gru(5))
    model = bidirectional(*cells)
    params = random_params(model, 3)
    mask = jnp.asarray(np.random.default_rng(47).random((6, 4)) < 0.7)
    options = {"mask": mask, "resets": RESETS}
    start = Directions(
        forward=jax.tree.map(lambda leaf: leaf + 0.3, cells[0].init_carry(params.forward, (4,))),
        backward=cells[1].init_carry(params.backward, (4,)) - 0.2,
    )

    @jit
    def by_hand(params, start):
        first, ahead = unroll(cells[0], params.forward, XS, start.forward, **options)
        last, behind = unroll(cells[1], params.backward, XS, start.backward, **options, reverse=True)
        return Directions(first, last), jnp.concatenate([ahead, behind], axis=-1)

    for method in (Auto(), Chunked(4)):
        run = jit(lambda p, c, method=method: model.apply(p, XS, carry=c, **options, method=method))
        close(run(params, start), by_hand(params, start))


def test_nan_in_the_padding_of_both_directions_harms_neither_values_nor_gradients():
    model = bidirectional(gru(3), gru(3), merge="sum")
    params = random_params(model, 3)
    real = np.arange(6)[:, None, None] < LENGTHS[None, :, None]
    grad = jit(jax.grad(lambda p, xs: (model.apply(p, xs, lengths=jnp.asarray(LENGTHS))[1] ** 2).sum()))
    close(grad(params, jnp.where(real, XS, jnp.nan)), grad(params, jnp.where(real, XS, 0)))


def test_the_two_directions_start_from_different_keys():
    params = bidirectional(ind_rnn(3), ind_rnn(3)).init(jax.random.key(0), 3)
    assert not np.allclose(params.forward.w_x, params.backward.w_x)


def test_a_layer_is_unroll_in_either_direction():
    cell = stack(gru(4), lru(3))
    params = random_params(cell, 3)
    options = {"lengths": jnp.asarray(LENGTHS), "resets": RESETS}
    for reverse in (False, True):
        model = layer(cell, reverse=reverse)
        result = jit(lambda p, model=model: model.apply(p, XS, **options))(params)
        close(result, jit(lambda p, reverse=reverse: unroll(cell, p, XS, **options, reverse=reverse))(params))
    assert layer(cell).init is cell.init
    assert layer(cell).perturb is cell.perturb


def test_layers_in_series_equal_one_call_after_another():
    middle = bidirectional(gru(4), gru(4), merge="mean")
    model = serial(layer(elman(5)), middle, serial(layer(lru(2)), layer(lstm(3), reverse=True)))
    params = random_params(model, 3)
    assert params[1].forward.w_x.shape[0] == 5
    assert params[2][0].b_re.shape[0] == 4
    options = {"lengths": jnp.asarray(LENGTHS), "resets": RESETS}
    result = jit(lambda p, xs: model.apply(p, xs, **options))(params, XS)

    @jit
    def by_hand(params):
        first, ys = unroll(elman(5), params[0], XS, **options)
        second, ys = middle.apply(params[1], ys, **options)
        third, ys = unroll(lru(2), params[2][0], ys, **options)
        fourth, ys = unroll(lstm(3), params[2][1], ys, **options, reverse=True)
        return (first, second, (third, fourth)), ys

    close(result, by_hand(params))


def test_layers_in_series_continue_from_their_final_carry():
    model = serial(layer(gru(4)), layer(lstm(3)))
    params = random_params(model, 3)
    _, whole = jit(model.apply)(params, XS)
    carry, first = jit(model.apply)(params, XS[:4])
    _, second = jit(lambda p, xs, c: model.apply(p, xs, carry=c))(params, XS[4:], carry)
    close(jnp.concatenate([first, second]), whole)


def test_two_layers_in_series_start_from_different_keys():
    params = serial(layer(ind_rnn(3)), layer(ind_rnn(3))).init(jax.random.key(0), 3)
    assert not np.allclose(params[0].w_x, params[1].w_x)


def test_noise_has_the_shape_of_what_each_layer_sees_and_differs_between_them():
    noisy_gru = with_dropout(gru(4), inputs=0.5)
    model = serial(bidirectional(noisy_gru, noisy_gru), layer(noisy_gru), layer(noisy_gru))
    params = random_params(model, 3)
    noisy = jit(lambda key, p: model.perturb(key, p, XS.shape))(jax.random.key(5), params)
    masks = [p.inputs.value for p in (noisy[0].forward, noisy[0].backward, noisy[1], noisy[2])]
    assert [mask.shape[-1] for mask in masks] == [3, 3, 8, 4]
    assert all(mask.shape[:2] == (6, 4) for mask in masks)
    assert not np.array_equal(masks[0], masks[1])

    @jit
    def by_hand(params):
        _, ahead = unroll(noisy_gru, params[0].forward, XS)
        _, behind = unroll(noisy_gru, params[0].backward, XS, reverse=True)
        _, above = unroll(noisy_gru, params[1], jnp.concatenate([ahead, behind], axis=-1))
        return unroll(noisy_gru, params[2], above)[1]

    ys = jit(model.apply)(noisy, XS)[1]
    close(ys, by_hand(noisy))
    assert not np.allclose(ys, by_hand(params))


@pytest.mark.parametrize("merge", ["sum", "mul", "mean"])
def test_outputs_of_unequal_size_can_only_be_concatenated(merge):
    model = bidirectional(gru(4), lstm(5, projection=2), merge=merge)
    params = random_params(model, 3)
    with pytest.raises(ValueError, match=rf'`merge` "{merge}" needs outputs of equal size, got 4 forward and 2 backw'):
        model.apply(params, XS)
    joined = bidirectional(gru(4), lstm(5, projection=2))
    assert jax.eval_shape(joined.apply, params, XS)[1].shape == (6, 4, 6)


def test_what_is_no_layer_or_cell_is_refused():
    with pytest.raises(ValueError, match=r"`layers` must be at least one layer, got none"):
        serial()
    with pytest.raises(ValueError, match=r"`layers\[1\]` must be a Layer, got Cell; layer\(cell\) makes one of a cell"):
        serial(layer(gru(3)), gru(3))
    with pytest.raises(ValueError, match=r"`layers\[0\]` must be a Layer, got int$"):
        serial(3)
    with pytest.raises(ValueError, match=r"`cell` must be a Cell or a LinearCell, got Layer"):
        layer(layer(gru(3)))
    with pytest.raises(ValueError, match=r"`forward` must be a Cell or a LinearCell, got int 1"):
        bidirectional(1, gru(3))
    with pytest.raises(ValueError, match=r"`backward` must be a Cell or a LinearCell, got int 1"):
        bidirectional(gru(3), 1)
    with pytest.raises(ValueError, match=r"`merge` must be one of 'concat', .*, got 'summ'; did you mean 'sum'\?"):
        bidirectional(gru(3), gru(3), merge="summ")
    for model in (serial(layer(gru(3))), bidirectional(gru(3), gru(3))):
        with pytest.raises(ValueError, match=r"`key` must be a PRNG key"):
            model.init(0, 3)
    model = bidirectional(gru(3), gru(3))
    with pytest.raises(ValueError, match=r"`carry` must have shape \(4, 3\)"):
        model.apply(random_params(model, 3), XS, carry=Directions(jnp.zeros((4, 3)), jnp.zeros((4, 2))))
