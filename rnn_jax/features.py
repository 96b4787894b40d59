"""What a network hears: log-mel energies of sound, at once or as it arrives; their slopes; and them less their mean.

Frames look back only: frame t is of the `window` samples up to (t + 1) `hop`, with silence before the first. So N
samples are N // hop frames, frame t is known when its last sample is, and sound that comes in pieces gives the same.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks, tree
from rnn_jax.caching import cached
from rnn_jax.types import Array, Carry, Cell, Params

__all__ = ["Mel", "check_mel", "deltas", "log_mel", "log_mel_cell", "mean_normalize", "mel_filters"]


class Mel(NamedTuple):
    """How sound becomes frames. The default: 25 ms every 10 ms, 40 bands up to half of a rate of 8 kHz.

    Attributes:
        sample_rate: of the sound, in Hz.
        window: samples a frame is made of, weighted by a periodic Hann window.
        hop: samples between frames.
        fft_size: samples of the Fourier transform; zeros are added after the window.
        num_bands: M.
        low, high: where the lowest band begins and the highest one ends, in Hz.
        floor: is added to the energies, so that silence is finite.
    """

    sample_rate: int = 8000
    window: int = 200
    hop: int = 80
    fft_size: int = 256
    num_bands: int = 40
    low: float = 50.0
    high: float = 4000.0
    floor: float = 1e-6


def mel_filters(mel: Mel) -> np.ndarray:
    """Triangles of height 1, equally wide on the scale 2595 log10(1 + f / 700), each from the peak before to the next.

    Args:
        mel: what they are for.

    Returns:
        [fft_size // 2 + 1, M] float64, weights of the energies of the Fourier transform.

    Raises:
        ValueError: `mel` is inconsistent, or has so many bands that one falls between all frequencies of the transform.

    Example:
        >>> filters = mel_filters(Mel())
        >>> filters.shape, float(filters.max()) <= 1
        ((129, 40), True)
    """
    check_mel(mel)
    ends = 2595 * np.log10(1 + np.array([mel.low, mel.high]) / 700)
    peaks = 700 * (10 ** (np.linspace(ends[0], ends[1], mel.num_bands + 2) / 2595) - 1)
    frequencies = np.arange(mel.fft_size // 2 + 1) * mel.sample_rate / mel.fft_size
    rises = (frequencies[:, None] - peaks[None, :-2]) / np.diff(peaks)[:-1]
    falls = (peaks[None, 2:] - frequencies[:, None]) / np.diff(peaks)[1:]
    filters = np.maximum(0, np.minimum(rises, falls))
    if not filters.any(0).all():
        raise ValueError(
            f"`mel` must have fewer bands, or a longer transform: band {int(np.argmin(filters.any(0)))} of "
            f"{mel.num_bands} has no frequency of fft_size={mel.fft_size}"
        )
    return filters


def log_mel(samples: Array, mel: Mel = Mel()) -> Array:  # noqa: B008 - a NamedTuple of numbers
    """The logarithms of the energies in bands, for all frames at once.

        log(floor + sum_f filters[f, m] |DFT(hann * samples)_f|^2)

    Args:
        samples: [N, *batch], floating, usually in [-1, 1].
        mel: how.

    Returns:
        [N // hop, *batch, M] in the dtype of the samples; what is left over after the last frame is not heard.

    Raises:
        ValueError: names the argument, what was expected and what came.

    Example:
        >>> log_mel(jnp.zeros((8000, 2))).shape  # a second
        (100, 2, 40)
    """
    check_mel(mel)
    if samples.ndim < 1 or not jnp.issubdtype(samples.dtype, jnp.floating):
        raise ValueError(f"`samples` must be floating [N, *batch], got {checks.describe(samples)}")
    num_frames = len(samples) // mel.hop
    rest = [(0, 0)] * (samples.ndim - 1)
    heard = jnp.pad(samples[: num_frames * mel.hop], [(mel.window - mel.hop, 0), *rest])
    return _energies(_frames(jnp.moveaxis(heard, 0, -1), num_frames, mel), mel)


@cached
def log_mel_cell(mel: Mel = Mel(), frames_per_step: int = 1) -> Cell:  # noqa: B008
    """`log_mel` as a cell, so that what follows it in a `stack` can be streamed from sound itself.

    A step reads the samples that are new, `frames_per_step` times `hop` of them, and gives as many frames, side by
    side. The carry is the sound that the next frame still needs. There are no parameters.

    Args:
        mel: how.
        frames_per_step: k; several make the steps that follow fewer.

    Returns:
        A cell from xs [T, *batch, k hop] to [T, *batch, k M].

    Raises:
        ValueError: names the argument, what was expected and what came.

    Example:
        >>> from rnn_jax import unroll
        >>> cell, sound = log_mel_cell(Mel(), 2), jnp.sin(jnp.arange(1600.0))
        >>> ys = unroll(cell, cell.init(jax.random.key(0), 160), sound.reshape(10, 160))[1]
        >>> bool(jnp.allclose(ys.reshape(20, 40), log_mel(sound), atol=1e-4))
        True
    """
    check_mel(mel)
    checks.positive("frames_per_step", frames_per_step)
    kept, new = mel.window - mel.hop, frames_per_step * mel.hop

    def init(key: Array, input_size: int) -> tuple[()]:
        checks.prng_key(key)
        if input_size != new:
            raise ValueError(f"`input_size` must be frames_per_step * hop = {new} samples, got {input_size}")
        return ()

    def init_carry(params: Params, batch_shape: tuple[int, ...] = ()) -> Carry:
        del params
        return jnp.zeros((*batch_shape, kept), jnp.float32)

    def step(params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        del params
        heard = jnp.concatenate([carry, x.astype(carry.dtype)], axis=-1)
        return heard[..., new:], heard

    def readout(params: Params, hs: Array, xs: Array) -> Array:
        del params
        ys = jnp.moveaxis(_energies(_frames(hs, frames_per_step, mel), mel), 0, -2)
        return ys.reshape(*ys.shape[:-2], -1).astype(xs.dtype)

    return Cell(init=init, init_carry=init_carry, step=step, readout=readout)


def deltas(xs: Array, width: int = 2) -> Array:
    """The slope of each feature over time: of the straight line that fits it best from t - width to t + width.

        d_t = sum_n n (x_{t+n} - x_{t-n}) / (2 sum_n n^2),  n = 1 ... width; outside of 0 ... T - 1 the ends go on

    It looks `width` steps ahead, so it is not for what is to be heard as it arrives.

    Args:
        xs: [T, *batch, F], floating.
        width: at least 1.

    Returns:
        [T, *batch, F].

    Raises:
        ValueError: names the argument, what was expected and what came.

    Example:
        >>> print(deltas(jnp.array([0.0, 2.0, 4.0, 6.0, 8.0])[:, None])[:, 0])
        [1.  1.6 2.  1.6 1. ]
    """
    checks.sequence("xs", xs)
    checks.positive("width", width)
    num_steps = len(xs)
    if not num_steps:
        return xs
    rest = [(0, 0)] * (xs.ndim - 1)
    longer = jnp.pad(xs, [(width, width), *rest], mode="edge")
    ahead = (longer[width + n : width + n + num_steps] for n in range(1, width + 1))
    behind = (longer[width - n : width - n + num_steps] for n in range(1, width + 1))
    total = sum((n * (a - b) for n, (a, b) in enumerate(zip(ahead, behind, strict=True), start=1)), jnp.zeros_like(xs))
    return total / (2 * sum(n * n for n in range(1, width + 1)))


def mean_normalize(frames: Array, *, lengths: Array | None = None) -> Array:
    """Log energies less their mean over time, so less what a voice or a microphone adds to each band of all frames.

        y_t = x_t - sum_s w_s x_s / sum_s w_s,  w_s = exp(mean_m x_{s,m} / 2)

    It is cepstral mean normalisation, in bands. Frames count by their amplitude, so that it matters little how long
    silences are and what noise is in them. It needs the whole sound: it is not for what is to be heard as it arrives.

    Args:
        frames: [T, *batch, M], as from `log_mel`.
        lengths: [*batch] integers, how many frames are real; None: all.

    Returns:
        [T, *batch, M]; zeros after the length.

    Raises:
        ValueError: names the argument, what was expected and what came.

    References:
        Atal, Effectiveness of linear prediction characteristics of the speech wave for automatic speaker
        identification and verification, JASA 1974.

    Example:
        >>> frames = jnp.array([[0.0, 2.0], [1.0, 3.0], [-9.0, -9.0]])
        >>> bool(jnp.allclose(mean_normalize(frames), mean_normalize(frames + jnp.array([[3.0, -1.0]])), atol=1e-6))
        True
    """
    checks.sequence("frames", frames)
    if not len(frames):
        return frames
    loudness = frames.mean(-1)
    real = jnp.ones(frames.shape[:-1], bool)
    if lengths is not None:
        lengths = checks.lengths(lengths, len(frames), frames.shape[1:-1])
        before_end = jnp.arange(len(frames), dtype=lengths.dtype).reshape(-1, *[1] * lengths.ndim) < lengths[None]
        real = jnp.broadcast_to(tree.expand(before_end, loudness), loudness.shape)
    loudness = jnp.where(real, loudness, -jnp.inf)
    peak = jax.lax.stop_gradient(loudness.max(0, keepdims=True))
    weights = jnp.exp((loudness - jnp.where(jnp.isfinite(peak), peak, 0)) / 2)[..., None]
    total = weights.sum(0, keepdims=True)
    mean = (weights * jnp.where(real[..., None], frames, 0)).sum(0, keepdims=True) / jnp.where(total > 0, total, 1)
    return jnp.where(real[..., None], frames - mean, 0)


def check_mel(mel: Mel) -> None:
    """Checks that frames can be made so."""
    for name in ("sample_rate", "window", "hop", "fft_size", "num_bands"):
        checks.positive(f"mel.{name}", getattr(mel, name))
    if not mel.hop <= mel.window <= mel.fft_size:
        raise ValueError(f"`mel` must have hop <= window <= fft_size, got {mel.hop}, {mel.window}, {mel.fft_size}")
    if not 0 <= mel.low < mel.high <= mel.sample_rate / 2:
        raise ValueError(f"`mel` must have 0 <= low < high <= {mel.sample_rate / 2}, got {mel.low}, {mel.high}")
    if not mel.floor > 0:
        raise ValueError(f"`mel.floor` must be above 0, got {mel.floor}")


def _frames(heard: Array, num_frames: int, mel: Mel) -> Array:
    """[num_frames, *batch, window] of sound [*batch, window - hop + num_frames hop]."""
    places = np.arange(num_frames)[:, None] * mel.hop + np.arange(mel.window)
    return jnp.moveaxis(heard[..., places], -2, 0)


@partial(jax.jit, static_argnames="mel")
def _energies(frames: Array, mel: Mel) -> Array:
    """[..., M] of frames [..., window]. Products are exact on every platform: energies differ by powers of ten."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(mel.window) / mel.window)
    dtype = tree.wide(frames.dtype)
    weights = jnp.asarray(hann, dtype).reshape(*[1] * (frames.ndim - 1), -1)
    spectrum = jnp.fft.rfft(frames.astype(dtype) * weights, mel.fft_size)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    filters = jnp.asarray(mel_filters(mel), dtype)
    energies = jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)
    return jnp.log(mel.floor + energies).astype(frames.dtype)
