"""Log-mel energies and slopes against loops in float64, scipy and golden numbers of librosa."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from rnn_jax import gru, stack, stream_step, unroll
from rnn_jax.features import Mel, deltas, log_mel, log_mel_cell, mean_normalize, mel_filters

GOLDEN = Path(__file__).parent / "golden" / "librosa.npz"
SMALL = Mel(window=20, hop=8, fft_size=32, num_bands=4, low=100.0, high=3800.0, floor=1e-3)


def slow_filters(mel: Mel) -> np.ndarray:
    def to_mel(hertz: float) -> float:
        return 2595 * np.log10(1 + hertz / 700)

    filters = np.zeros((mel.fft_size // 2 + 1, mel.num_bands))
    step = (to_mel(mel.high) - to_mel(mel.low)) / (mel.num_bands + 1)
    left, peak, right = (
        [700 * (10 ** ((to_mel(mel.low) + (m + n) * step) / 2595) - 1) for m in range(mel.num_bands)] for n in range(3)
    )
    for f, m in np.ndindex(*filters.shape):
        hertz = f * mel.sample_rate / mel.fft_size
        if left[m] < hertz <= peak[m]:
            filters[f, m] = (hertz - left[m]) / (peak[m] - left[m])
        elif peak[m] < hertz < right[m]:
            filters[f, m] = (right[m] - hertz) / (right[m] - peak[m])
    return filters


def slow_log_mel(samples: np.ndarray, mel: Mel) -> np.ndarray:
    """Frame by frame, and the Fourier transform as a sum over samples."""
    padded = np.concatenate([np.zeros(mel.window - mel.hop), samples])
    filters, rows = slow_filters(mel), []
    for t in range(len(samples) // mel.hop):
        frame = padded[t * mel.hop : t * mel.hop + mel.window]
        hann = np.array([np.sin(np.pi * n / mel.window) ** 2 for n in range(mel.window)])
        turns = np.outer(np.arange(mel.fft_size // 2 + 1), np.arange(mel.window)) / mel.fft_size
        power = np.abs((frame * hann * np.exp(-2j * np.pi * turns)).sum(1)) ** 2
        rows.append(np.log(mel.floor + power @ filters))
    return np.array(rows)


def sound(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, size)


@pytest.mark.parametrize("mel", [SMALL, SMALL._replace(window=8, hop=8, low=0.0, high=4000.0, num_bands=3)])
def test_energies_equal_a_loop(x64: None, mel: Mel) -> None:
    np.testing.assert_allclose(mel_filters(mel), slow_filters(mel), atol=1e-12)
    samples = sound(75)
    np.testing.assert_allclose(log_mel(jnp.asarray(samples), mel), slow_log_mel(samples, mel), rtol=1e-10)


def test_energies_equal_scipy(x64: None) -> None:
    mel, samples = Mel(), sound(1000)
    _, _, power = scipy.signal.spectrogram(
        np.pad(samples, (mel.window - mel.hop, 0)),
        window="hann",
        nperseg=mel.window,
        noverlap=mel.window - mel.hop,
        nfft=mel.fft_size,
        detrend=False,
        return_onesided=False,
        scaling="spectrum",
    )
    hann = scipy.signal.get_window("hann", mel.window)
    power = power[: mel.fft_size // 2 + 1].T * hann.sum() ** 2
    np.testing.assert_allclose(log_mel(jnp.asarray(samples)), np.log(1e-6 + power @ mel_filters(mel)), rtol=1e-9)


def test_golden_numbers_of_librosa_are_met() -> None:
    golden = np.load(GOLDEN)
    ours = log_mel(jnp.asarray(golden["samples"]))
    np.testing.assert_allclose(mel_filters(Mel()), golden["filters"], atol=1e-6)
    np.testing.assert_allclose(jnp.exp(ours) - 1e-6, golden["energies"], rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(ours, golden["logs"], atol=2e-3)
    np.testing.assert_allclose(deltas(jnp.asarray(golden["logs"])), golden["slopes"], atol=2e-5)


def test_a_tone_is_in_the_band_of_its_frequency() -> None:
    for hertz in (300.0, 1000.0, 3000.0):
        tone = jnp.sin(2 * jnp.pi * hertz * jnp.arange(800.0) / 8000)
        peaks = 700 * (
            10 ** (np.linspace(2595 * np.log10(1 + 50 / 700), 2595 * np.log10(1 + 4000 / 700), 42) / 2595) - 1
        )
        assert abs(peaks[1:-1][int(jnp.argmax(log_mel(tone)[-1]))] - hertz) < 100


def test_a_frame_does_not_know_what_comes_after_it() -> None:
    samples = jnp.asarray(sound(160), jnp.float32)
    changed = samples.at[80:].set(0.3)
    ours, other = log_mel(samples, SMALL), log_mel(changed, SMALL)
    np.testing.assert_array_equal(ours[:10], other[:10])
    assert (ours[10:] != other[10:]).all()


def test_sound_that_arrives_in_pieces_gives_the_same_frames() -> None:
    samples = jnp.asarray(np.stack([sound(192, seed) for seed in range(3)], axis=1), jnp.float32)
    frames = log_mel(samples, SMALL)
    for k in (1, 3):
        cell = log_mel_cell(SMALL, k)
        params = cell.init(jax.random.key(0), 8 * k)
        xs = jnp.swapaxes(samples.reshape(-1, 8 * k, 3), 1, 2)
        ys = unroll(cell, params, xs)[1]
        expected = jnp.swapaxes(frames.reshape(-1, k, 3, 4), 1, 2).reshape(-1, 3, 4 * k)
        np.testing.assert_allclose(ys, expected, atol=1e-5)
        carry, streamed = cell.init_carry(params, (3,)), []
        step = jax.jit(partial(stream_step, cell, params))
        for x in xs:
            carry, y = step(carry, x)
            streamed.append(y)
        np.testing.assert_allclose(jnp.stack(streamed), expected, atol=1e-5)


def test_dtypes_stay(x64: None) -> None:
    samples = jnp.asarray(sound(160))
    cell = log_mel_cell(SMALL, 2)
    for dtype, tolerance in ((jnp.float64, 1e-12), (jnp.bfloat16, 0.1)):
        frames = log_mel(samples.astype(dtype), SMALL)
        streamed = unroll(cell, (), samples.astype(dtype).reshape(10, 16))[1]
        assert frames.dtype == streamed.dtype == dtype
        np.testing.assert_allclose(streamed.reshape(20, 4).astype(float), frames.astype(float), atol=tolerance)
        np.testing.assert_allclose(frames.astype(float), slow_log_mel(np.asarray(samples), SMALL), atol=tolerance)


def test_a_stack_hears() -> None:
    cell = stack(log_mel_cell(SMALL, 2), gru(5))
    params = cell.init(jax.random.key(0), 16)
    xs = jnp.asarray(sound(160), jnp.float32).reshape(10, 16)
    ys = unroll(cell, params, xs)[1]
    expected = unroll(gru(5), params[1], log_mel(xs.reshape(-1), SMALL).reshape(10, 8))[1]
    np.testing.assert_allclose(ys, expected, atol=1e-5)


def test_slopes_equal_a_loop() -> None:
    xs = np.random.default_rng(1).normal(size=(7, 2, 3))
    for width in (1, 2, 3):
        expected = np.zeros_like(xs)
        for t, n in np.ndindex(7, width):
            ahead, behind = xs[min(t + n + 1, 6)], xs[max(t - n - 1, 0)]
            expected[t] += (n + 1) * (ahead - behind)
        expected /= 2 * sum((n + 1) ** 2 for n in range(width))
        np.testing.assert_allclose(deltas(jnp.asarray(xs, jnp.float32), width), expected, atol=1e-6)
    line = jnp.arange(9.0)[:, None] * jnp.array([[2.0, -1.0]])
    np.testing.assert_allclose(deltas(line)[2:-2], jnp.broadcast_to(jnp.array([[2.0, -1.0]]), (5, 2)), rtol=1e-6)


def slow_mean_normalize(frames: np.ndarray, lengths: list[int]) -> np.ndarray:
    """Row by row."""
    out = np.zeros_like(frames)
    for b, size in enumerate(lengths):
        weights = [np.sqrt(np.exp(sum(frame) / len(frame))) for frame in frames[:size, b]]
        for m in range(frames.shape[-1]):
            mean = sum(w * x for w, x in zip(weights, frames[:size, b, m], strict=True)) / sum(weights or [1])
            out[:size, b, m] = frames[:size, b, m] - mean
    return out


def test_what_a_microphone_adds_is_taken_away(x64: None) -> None:
    frames = np.random.default_rng(2).normal(size=(6, 3, 4)) * 3 - 7
    frames[4:, 1] = 1e3  # what is after the length is not looked at
    for lengths in ([6, 4, 1], [0, 4, 6]):
        expected = slow_mean_normalize(frames, lengths)
        for f in (mean_normalize, jax.jit(mean_normalize)):
            ours = f(jnp.asarray(frames), lengths=jnp.array(lengths, jnp.int32))
            np.testing.assert_allclose(ours, expected, atol=1e-12)
            added = f(jnp.asarray(frames + np.array([3.0, -2.0, 0.5, -1.5])), lengths=jnp.array(lengths, jnp.int32))
            np.testing.assert_allclose(added, ours, atol=1e-10)
    alone = jnp.asarray(frames[:4, 1])
    np.testing.assert_allclose(mean_normalize(alone), expected[:4, 1], atol=1e-12)
    # One length for several microphones, and quiet frames that count nothing.
    np.testing.assert_allclose(
        mean_normalize(jnp.asarray(frames)[:, None, :2], lengths=jnp.array([4], jnp.int32))[:4, 0, 1],
        expected[:4, 1],
        atol=1e-12,
    )
    quiet = jnp.concatenate([alone, jnp.full((50, 4), -200.0)])
    np.testing.assert_allclose(mean_normalize(quiet)[:4], mean_normalize(alone), atol=1e-10)


def test_gradients_of_normalized_frames_are_finite_and_right(x64: None) -> None:
    frames = np.random.default_rng(3).normal(size=(5, 2, 3))
    lengths = jnp.array([4, 0], jnp.int32)
    weights = np.random.default_rng(4).normal(size=frames.shape)

    def loss(frames: jax.Array) -> jax.Array:
        return (weights * mean_normalize(frames, lengths=lengths)).sum()

    grads = jax.grad(loss)(jnp.asarray(frames))
    for t, m in np.ndindex(5, 3):
        up, down = frames.copy(), frames.copy()
        up[t, 0, m], down[t, 0, m] = up[t, 0, m] + 1e-5, down[t, 0, m] - 1e-5
        slow = sum(
            sign * (weights * slow_mean_normalize(one, [4, 0])).sum() / 2e-5 for sign, one in ((1, up), (-1, down))
        )
        np.testing.assert_allclose(grads[t, 0, m], slow, atol=1e-8)
    np.testing.assert_array_equal(grads[:, 1], 0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`mel` must have hop <= window <= fft_size, got 80, 300, 256"):
        log_mel(jnp.zeros(800), Mel(window=300))
    with pytest.raises(ValueError, match=r"`mel` must have 0 <= low < high <= 4000.0, got 50.0, 5000.0"):
        mel_filters(Mel(high=5000.0))
    with pytest.raises(ValueError, match=r"`mel` must have fewer bands, or a longer transform: band \d+ of 120"):
        mel_filters(Mel(num_bands=120))
    with pytest.raises(ValueError, match=r"`mel.floor` must be above 0, got 0"):
        mel_filters(Mel(floor=0))
    with pytest.raises(ValueError, match=r"`mel.hop` must be an integer of at least 1, got int 0"):
        log_mel_cell(Mel(hop=0))
    with pytest.raises(ValueError, match=r"`samples` must be floating \[N, \*batch\], got int32 of shape \(800,\)"):
        log_mel(jnp.zeros(800, jnp.int32))
    with pytest.raises(ValueError, match=r"`input_size` must be frames_per_step \* hop = 160 samples, got 80"):
        log_mel_cell(Mel(), 2).init(jax.random.key(0), 80)
    with pytest.raises(ValueError, match=r"`width` must be an integer of at least 1, got int 0"):
        deltas(jnp.zeros((3, 2)), 0)
    with pytest.raises(ValueError, match=r"`frames` must be \[T, ..., features\] with at least 2 axes"):
        mean_normalize(jnp.zeros(3))
    with pytest.raises(ValueError, match=r"`lengths` must lie in \[0, T\] with T=3, got 4"):
        mean_normalize(jnp.zeros((3, 2, 5)), lengths=jnp.array([1, 4], jnp.int32))


def test_too_little_sound_is_no_frame() -> None:
    assert log_mel(jnp.zeros((79, 2))).shape == (0, 2, 40)
    assert deltas(jnp.zeros((0, 3))).shape == mean_normalize(jnp.zeros((0, 3))).shape == (0, 3)
