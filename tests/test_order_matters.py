"""Spoken numbers against loops over frames, and what each kind of model can know of the order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._spoken_numbers import MEL, ORDERS, TASKS, Recordings, hear, places, say
from experiments.order_matters import (
    NUM_CLASSES,
    Config,
    Model,
    batches,
    build,
    contrasts,
    count_params,
    judge,
    run,
)
from rnn_jax.data.spoken_digits import SpokenDigit

SMALL = Config(num_params=500, dilations=(1, 2), num_frames=9)


def numbered(count: int = 6, per_speaker: int = 3) -> Recordings:
    """Recordings of 1 to 3 frames whose values name the recording and the frame."""
    lengths = np.arange(count) % 3 + 1
    names = 10.0 * (np.arange(count) + 1) + np.arange(3)[:, None]
    frames = np.where(np.arange(3)[:, None] < lengths, names, 0)[..., None]
    return Recordings(
        np.repeat(frames, MEL.num_bands, axis=2).astype(np.float32), lengths, np.arange(count), per_speaker
    )


@pytest.mark.parametrize("task", TASKS)
def test_digits_are_said_one_after_another_by_one_speaker(task: str) -> None:
    heard = numbered()
    spoken = say(np.random.default_rng(0), heard, task, 200, 8, noise=0.0)
    assert spoken.xs.shape == (8, 200, MEL.num_bands)
    gaps = set()
    for sequence, digits in zip(spoken.xs[..., 0].T, spoken.digits, strict=True):
        rows = digits if task == "two" else digits[:1]  # the digit of a recording is its number here
        sound = [10.0 * (row + 1) + frame for row in rows for frame in range(heard.lengths[row])]
        assert sequence[sequence != 0].tolist() == sound
        assert len(set(rows // heard.per_speaker)) == 1
        gaps.add(int(np.flatnonzero(sequence)[0]))
    assert len(gaps) > 3


def test_noise_is_added_to_all_frames() -> None:
    quiet, noisy = (say(np.random.default_rng(0), numbered(), "one", 500, 8, noise) for noise in (0.0, 0.5))
    assert (noisy.xs - quiet.xs).std() == pytest.approx(0.5, rel=0.02)


def test_orders_are_permutations_of_time() -> None:
    at = places(np.random.default_rng(0), 7, 50, seed=3)
    assert at.shape == (len(ORDERS), 7, 50)
    np.testing.assert_array_equal(np.sort(at, axis=1), np.broadcast_to(np.arange(7)[:, None], at.shape))
    true, permuted, shuffled = at
    assert (true == np.arange(7)[:, None]).all()
    assert (permuted == permuted[:, :1]).all()
    assert (permuted != true).any()
    assert len(np.unique(shuffled, axis=1).T) > 40
    np.testing.assert_array_equal(places(np.random.default_rng(9), 7, 5, seed=3)[1], permuted[:, :5])


def test_silence_is_zero_and_loudness_does_not_matter() -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, 3 * MEL.hop).astype(np.float32)
    given = [SpokenDigit(4, "b", 0, 0.1 * sound), SpokenDigit(7, "a", 0, sound)]
    heard = hear(given, digit_frames=6)
    assert heard.frames.shape == (6, 2, MEL.num_bands)
    assert heard.digits.tolist() == [7, 4]
    assert heard.lengths.tolist() == [3, 3]
    assert heard.per_speaker == 1
    np.testing.assert_allclose(heard.frames[:, 0], heard.frames[:, 1], atol=1e-3)
    assert (heard.frames[:3] > 1).all()
    np.testing.assert_allclose(heard.frames[4:], 0, atol=1e-5)
    assert hear(given, digit_frames=2).lengths.tolist() == [2, 2]


@pytest.mark.parametrize("name", ["gru", "convolution", "bag", "unshared"])
def test_models_have_one_size(name: str) -> None:
    assert count_params(build(name, Config())) == pytest.approx(Config().num_params, rel=0.1)


def test_only_a_bag_does_not_see_the_order_and_only_shared_weights_run_on_other_lengths() -> None:
    xs = jax.random.normal(jax.random.key(1), (9, 3, MEL.num_bands))
    for name in ("gru", "convolution", "bag", "unshared"):
        model = build(name, SMALL)
        params = model.init(jax.random.key(0))
        logits = model.logits(params, xs)
        assert logits.shape == (3, 2, NUM_CLASSES)
        assert bool(jnp.allclose(model.logits(params, xs[::-1]), logits, atol=1e-5)) == (name == "bag")
        if name == "unshared":
            with pytest.raises(ValueError, match="must have 144 features"):
                model.logits(params, xs[:-1])
        else:
            assert model.logits(params, jnp.concatenate([xs, xs])).shape == logits.shape


def test_the_convolution_is_that_of_a_loop_over_steps() -> None:
    model = build("convolution", SMALL)
    layers, top = model.init(jax.random.key(0))
    xs = np.asarray(jax.random.normal(jax.random.key(1), (9, 1, MEL.num_bands)), float)
    rows = xs[:, 0]
    for number, (layer, dilation) in enumerate(zip(layers, SMALL.dilations, strict=True)):
        seen = lambda t, rows=rows: rows[t] if t >= 0 else np.zeros(rows.shape[1])  # noqa: E731
        windows = [np.concatenate([seen(t - 2 * dilation), seen(t - dilation), seen(t)]) for t in range(9)]
        after = np.maximum(np.array(windows) @ np.asarray(layer.w) + np.asarray(layer.b), 0)
        rows = rows + after if number else after
    expected = rows.max(0) @ np.asarray(top.w) + np.asarray(top.b)
    found = model.logits((layers, top), jnp.asarray(xs, jnp.float32))
    np.testing.assert_allclose(np.asarray(found).reshape(-1), expected, atol=1e-4)


def test_batches_differ_between_seeds_and_are_the_same_again() -> None:
    config = Config(seeds=2, batch_size=5, num_frames=8)
    first, again = (next(batches(config, numbered())) for _ in range(2))
    assert [part.shape for part in first] == [(2, 2, 8, 5, 16), (2, 2, 5, 2), (2, 3, 8, 5)]
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first[0][0] != first[0][1]).any()


def test_a_number_is_understood_where_both_digits_are() -> None:
    config = Config(test_sequences=2000, noise=0.0)
    always = Model(  # says one digit each, whatever it hears
        lambda key: (), lambda params, xs: jnp.broadcast_to(params, (xs.shape[1], *params.shape))
    )
    bias = np.zeros((len(ORDERS), 2, 2, NUM_CLASSES), np.float32)  # [orders, seeds, digits, classes]
    bias[:, 0, :, 3], bias[:, 1, 0, 3], bias[:, 1, 1, 9] = 1, 1, 1
    heard = numbered()
    one = judge(config, always, bias, heard, "one", 8)
    two = judge(config, always, bias, heard, "two", 8)
    assert one.shape == two.shape == (len(ORDERS), 2)
    np.testing.assert_allclose(one, 1 / 6, atol=0.03)
    np.testing.assert_allclose(two[:, 0], 1 / 18, atol=0.02)  # 3 by one of two speakers, and again one of his three
    np.testing.assert_array_equal(two[:, 1], 0)


def test_contrasts_are_differences_of_means() -> None:
    gru = np.array([[[0.9, 0.7], [0.5, 0.5], [0.4, 0.4]], [[0.6, 0.6], [0.3, 0.3], [0.1, 0.1]]])
    found = {"gru": gru, "bag": np.full((2, 3, 2), 0.2)}
    told = contrasts(found, {"gru": np.array([[0.6, 0.6], [0.5, 0.3]])})
    expected = {
        "gru_one_true_minus_shuffled": 0.4,
        "gru_two_true_minus_permuted": 0.3,
        "gru_two_minus_bag": 0.4,
        "bag_one_true_minus_permuted": 0.0,
        "gru_longest_minus_trained": -0.2,
    }
    assert {name: told[name] for name in expected} == pytest.approx(expected)


def test_what_cannot_be_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="`num_frames` must be 2 x 24 or more, got 40"):
        run(Config(num_frames=40), tmp_path)
    with pytest.raises(ValueError, match="`models` must be one of 'gru', 'convolution', 'bag', 'unshared'"):
        build("lstm", Config())
