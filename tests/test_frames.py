"""Frames of music, and the two baselines."""

import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.data.chorales import load_chorales
from rnn_jax.frames import HOLD, REST, repeat_nll, roll_frames, unigram_nll, voice_frames


def test_a_voice_rests_holds_or_strikes() -> None:
    model = voice_frames(2, num_pitches=5)
    frames = jnp.array([[3, 0, 1, 0], [3, 5, 0, 1], [3, 5, 1, 0]])  # pitches of two voices, then onsets
    assert model.tokens(frames).tolist() == [[HOLD + 3, REST], [HOLD, HOLD + 5], [HOLD + 3, HOLD]]
    features = model.encode(frames)
    assert features.shape == (3, 12)
    assert features[0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert (model.encode(jnp.zeros(4, jnp.int32)) == 0).all()


def test_playing_the_tokens_of_real_chorales_gives_the_chorales_back() -> None:
    model = voice_frames(4, num_pitches=60)
    for chorale in load_chorales(2).train[:2]:
        pitches = np.where(chorale.pitches > 0, chorale.pitches - 30, 0)
        frames = jnp.asarray(np.concatenate([pitches, chorale.onsets], axis=1, dtype=np.int32))
        tokens = model.tokens(frames)
        before = jnp.zeros(8, jnp.int32)
        for t in range(24):
            before = model.advance(before, tokens[t])
            assert before.tolist() == frames[t].tolist()


def test_sustaining_a_frame_strikes_nothing() -> None:
    model = voice_frames(2, num_pitches=5)
    frame = jnp.array([3, 0, 1, 0])
    assert model.tokens(model.sustain(frame)).tolist() == [HOLD, REST]
    roll = roll_frames(3)
    assert roll.sustain(jnp.array([1, 0, 1])).tolist() == roll.advance(jnp.zeros(3), jnp.array([1, 0, 1])).tolist()


def test_the_unigram_baseline_equals_a_loop() -> None:
    random = np.random.default_rng(0)
    train, test = random.integers(0, 4, (30, 2)), random.integers(0, 4, (11, 2))
    expected = 0.0
    for frame in test:
        for n in range(2):
            expected -= np.log((1 + sum(train[:, n] == frame[n])) / (len(train) + 4))
    assert unigram_nll(train, test, 4) == pytest.approx(expected / len(test))


def test_the_repeat_baseline_equals_a_loop_and_is_a_distribution() -> None:
    random = np.random.default_rng(1)
    tokens, repeats = random.integers(0, 3, (40, 2)), random.integers(0, 3, (40, 2))
    repeats[::2] = tokens[::2]

    def probability(n: int, token: int, repeat: int) -> float:
        same = tokens[:, n] == repeats[:, n]
        here = repeats[:, n] == repeat
        p = (1 + (same & here).sum()) / (2 + here.sum())
        if token == repeat:
            return p
        instead = {c: 1 + ((tokens[:, n] == c) & ~same).sum() for c in range(3)}
        return (1 - p) * instead[token] / sum(count for c, count in instead.items() if c != repeat)

    for n in range(2):
        for repeat in range(3):
            assert sum(probability(n, c, repeat) for c in range(3)) == pytest.approx(1)
    test = random.integers(0, 3, (9, 2)), random.integers(0, 3, (9, 2))
    expected = -np.mean([sum(np.log(probability(n, y[n], r[n])) for n in range(2)) for y, r in zip(*test, strict=True)])
    assert repeat_nll((tokens, repeats), test, 3) == pytest.approx(expected)
