"""Strings of digits as they are drawn and laid out, streams of sound, and what `experiments.speech` refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import _spoken_strings as strings_module
from experiments import speech
from experiments._listening import Heard, delays, listen, make_pool, stream_test
from experiments._recognizer import Scores, logits_of, pooled
from experiments._speech_report import rate
from experiments._spoken_strings import (
    Data,
    batch_of,
    batches_of,
    covering_strings,
    resampled,
    training_string,
    training_strings,
)
from rnn_jax.data import MfccDigit, SpokenDigit, write_wav

CONFIG = replace(speech.SMOKE, directions=("both", "forward"))


def voice(speaker: str, seed: int) -> tuple[SpokenDigit, ...]:
    rng = np.random.default_rng(seed)
    return tuple(
        SpokenDigit(take % 10, speaker, take, rng.normal(size=rng.integers(1500, 3000)).astype(np.float32) * 0.1)
        for take in range(20)
    )


VOICES = (voice("ada", 0), voice("bob", 1))


def test_a_training_string_depends_on_its_number_only() -> None:
    data = Data(most_digits=5, ramp=1, window=2.4)
    first, again, other = (training_string(VOICES, data, 19200, 3, number) for number in (5, 5, 6))
    np.testing.assert_array_equal(first.sound, again.sound)
    assert first.sound.shape != other.sound.shape or (first.sound != other.sound).any()
    many = [training_string(VOICES, data, 19200, 0, number) for number in range(10, 70)]
    assert all(len(one.sound) <= 19200 and 1 <= len(one.digits) <= 5 for one in many)
    assert {len(one.digits) for one in many} >= {1, 2, 3}


def test_the_first_strings_have_few_digits() -> None:
    data = Data(most_digits=3, ramp=20, window=9.0)
    most = [
        max(len(training_string(VOICES, data, 72000, 0, number).digits) for number in range(start, start + 20))
        for start in (0, 20, 40, 60)
    ]
    assert most == [1, 2, 3, 3]


def test_silence_follows_the_last_digit() -> None:
    data = Data(test_noise=300.0, noise=(300.0, 300.0), tail=0.2)
    strings = covering_strings(VOICES, 3, data, seed=0)
    strings += [training_string(VOICES, data, 12000, 0, number) for number in range(20)]
    for string in strings:
        assert len(string.sound) - string.spans[-1, 1] >= 1600
        assert abs(string.sound[string.spans[-1, 1] :]).max() < 1e-6


def test_a_recording_longer_than_the_window_is_cut_and_stays_alone() -> None:
    long = tuple(one._replace(sound=np.ones(4000, np.float32)) for one in VOICES[0])
    string = training_string((long,), Data(speed=0.0), 2400, 0, 0)
    assert len(string.sound) == 2400
    assert len(string.digits) == 1


def test_batches_for_training_go_on_where_they_were() -> None:
    def batches() -> Any:
        return training_strings(VOICES, Data(window=1.2), batch_size=4, per_step=240, seed=0)

    source, again = batches(), batches()
    first = [next(source) for _ in range(3)]
    assert {one.batch.sound.shape for one in first} == {(9600, 4)}
    again.set_state(source.get_state())
    np.testing.assert_array_equal(next(source).batch.sound, next(again).batch.sound)
    batch = first[0].batch
    for b in range(4):
        assert (batch.labels[: batch.counts[b], b] > 0).all()
        assert (batch.labels[batch.counts[b] :, b] == 0).all()


def test_strings_for_testing_hold_every_recording() -> None:
    data = Data(test_noise=200.0, gap=0.0)
    strings = covering_strings(VOICES, 3, data, seed=0)
    assert len(strings) == 2 * 7
    assert {len(one.digits) for one in strings} == {3}
    for who, recordings in zip((strings[:7], strings[7:]), VOICES, strict=True):
        sounds = [one.sound[start:end] for one in who for start, end in one.spans]
        for recording in recordings:
            same = [
                s for s in sounds if len(s) == len(recording.sound) and np.corrcoef(s, recording.sound)[0, 1] > 0.999
            ]
            assert 1 <= len(same) <= 2


def test_noise_is_as_far_below_the_speech_as_it_says() -> None:
    (clean, *_), (noisy, *_) = (
        covering_strings(VOICES, 5, Data(test_noise=level, gap=0.0), seed=0) for level in (300.0, 20.0)
    )
    noise = noisy.sound - clean.sound
    assert np.sqrt(np.square(clean.sound).mean()) == pytest.approx(0.05, rel=1e-3)
    assert 10 * np.log10(np.square(clean.sound).mean() / np.square(noise).mean()) == pytest.approx(20, abs=0.3)


def test_a_batch_holds_whole_steps_and_empty_rows() -> None:
    strings = covering_strings(VOICES, 2, Data(), seed=0)[:3]
    steps = max(len(one.sound) for one in strings) // 240
    (batch,) = batches_of(strings, per_step=240, num_steps=steps, most_digits=4)
    assert batch.sound.shape == (steps * 240, 64)
    assert batch.steps[:3].tolist() == [len(one.sound) // 240 for one in strings]
    assert batch.counts.tolist() == [2, 2, 2] + 61 * [0]
    assert (batch.sound[batch.steps[0] * 240 :, 0] == 0).all()
    np.testing.assert_array_equal(batch.labels[:, 1], [*(strings[1].digits + 1), 0, 0])


def test_faster_sound_is_shorter_and_the_same_curve() -> None:
    curve = np.sin(np.linspace(0, 3, 400))
    faster = resampled(curve, 1.25)
    assert len(faster) == 320
    np.testing.assert_allclose(faster, np.sin(np.arange(320) * 1.25 * 3 / 399), atol=1e-4)
    assert resampled(np.ones((50, 13), np.float32), 0.9).shape == (55, 13)


def test_features_are_joined_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data(source="mfcc")
    clips = tuple(MfccDigit(digit, np.full((4, 13), digit, np.float32)) for digit in range(10))
    (string,) = covering_strings((clips,), 10, data, seed=0)
    np.testing.assert_array_equal(string.sound[:, 0], np.repeat(string.digits, 4))
    monkeypatch.setattr(strings_module, "load_spoken_digits", _missing)
    monkeypatch.setattr(strings_module, "load_digit_mfccs", lambda: (clips, clips, clips))
    config, voices, notes = speech.voices_for(speech.SMOKE)
    assert config.data.source == "mfcc"
    assert voices.train == (clips,)
    assert notes == ["The recordings are not here: these are MFCCs of them."]
    model = speech.make_model(config, voices.train, "forward")
    params = model.net.init(jax.random.key(0), model.size)
    batch = batch_of([string], 1, num_steps=40, most_digits=10)
    assert logits_of(model)(params, batch.sound).shape == (40, 1, 11)
    monkeypatch.setattr(strings_module, "load_digit_mfccs", _missing)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        speech.voices_for(speech.SMOKE)


def _missing() -> Any:
    raise FileNotFoundError("nowhere")


def test_a_stream_hears_what_is_heard_at_once() -> None:
    model = speech.make_model(CONFIG, VOICES, "forward")
    params = model.net.init(jax.random.key(0), model.size)
    pool = make_pool(model.cell, params, model.per_step)
    strings = covering_strings(VOICES, 2, Data(), seed=0)[:2]
    found = stream_test(pool, model, params, strings)
    assert found["difference_to_unroll"] < 1e-4
    heard = listen(pool, strings[0].sound, model.per_step)
    assert len(heard.logits) == len(strings[0].sound) // model.per_step == len(heard.seconds)
    labels = heard.logits.argmax(-1)
    changes = np.flatnonzero((labels != 0) & (labels != np.concatenate([[0], labels[:-1]])))
    np.testing.assert_array_equal(heard.digits, labels[changes] - 1)
    np.testing.assert_array_equal(heard.at, (changes + 1) * model.per_step)
    assert pool.streams == ()


@pytest.mark.parametrize("direction", ["both", "forward"])
def test_a_string_is_heard_alone_as_beside_longer_ones(direction: Any) -> None:
    model = speech.make_model(CONFIG, VOICES, direction)
    params = model.net.init(jax.random.key(0), model.size)
    short, long = covering_strings(VOICES, 1, Data(), seed=0)[0], covering_strings(VOICES, 4, Data(), seed=0)[0]
    batch = batch_of([short, long], model.per_step, num_steps=len(long.sound) // model.per_step, most_digits=4)
    together = model.net.apply(params, model.hear(batch.sound, batch.steps), lengths=batch.steps)[1]
    steps = int(batch.steps[0])
    alone = logits_of(model)(params, short.sound[: steps * model.per_step, None])
    np.testing.assert_allclose(together[:steps, 0], alone[:, 0], atol=1e-4)
    # Who has the string as a whole does not care how loud it is.
    louder = logits_of(model)(params, 3 * short.sound[: steps * model.per_step, None])
    assert (abs(louder - alone).max() < 1e-2) == (direction == "both")


def test_delays_are_counted_where_the_truth_is_heard() -> None:
    heard = Heard(np.array([3, 1]), np.array([480, 960]), np.zeros((0, 11)), np.zeros(0))
    assert delays(heard, [3, 1], np.array([500, 900])).tolist() == [-20, 60]
    assert delays(heard, [3, 2], np.array([500, 900])).tolist() == []


def test_scores_pool_real_strings_and_rates_are_by_digits() -> None:
    model = speech.make_model(CONFIG, VOICES, "both")
    params = model.net.init(jax.random.key(0), model.size)
    strings = covering_strings(VOICES, 2, Data(), seed=0)[:3]
    steps = max(len(one.sound) for one in strings) // model.per_step
    batches = batches_of(strings, per_step=model.per_step, num_steps=steps, most_digits=3)
    kind = speech.make_kind(CONFIG, VOICES, "both", 2)
    scores = pooled(kind.score, params, batches)
    assert scores.counts.tolist() == [2, 2, 2]
    assert scores.steps.tolist() == batches[0].steps[:3].tolist()
    assert np.isfinite(scores.nll).all()
    zeros = np.zeros(2)
    pair = [Scores(np.array([4, 6]), zeros, np.array(edits), zeros, zeros, zeros) for edits in ([1, 0], [2, 3])]
    assert rate(pair, "greedy") == pytest.approx(6 / 20)


def test_a_wav_that_does_not_fit_is_refused_before_training(tmp_path: Path) -> None:
    def config(size: int, rate: int = 8000, source: Any = "recordings") -> speech.Config:
        write_wav(tmp_path / "a.wav", np.zeros(size), sample_rate=rate)
        return replace(speech.SMOKE, data=Data(wav=tmp_path / "a.wav", source=source))

    assert speech.read_sound(speech.SMOKE) is None
    assert len(speech.read_sound(config(800))) == 800
    with pytest.raises(ValueError, match=r"`source` must have 8000 Hz, got 16000"):
        speech.run(config(800, rate=16000), tmp_path)
    with pytest.raises(ValueError, match=r"`data.wav` must hold at least 480 samples, got 100"):
        speech.run(config(100), tmp_path)
    with pytest.raises(ValueError, match=r"`data.wav` needs networks that read sound, got `data.source` mfcc"):
        speech.run(config(800, source="mfcc"), tmp_path)
    with pytest.raises(ValueError, match=r"`trained` is for recognizing a file: give `data.wav` too"):
        speech.run(replace(speech.SMOKE, trained=tmp_path), tmp_path)
