"""One or two digits that are said somewhere in silence, as frames in their true order or in others."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from rnn_jax.data.spoken_digits import SpokenDigit, load_spoken_digits, split_takes
from rnn_jax.features import Mel, log_mel

MEL = Mel(window=320, hop=240, fft_size=512, num_bands=16, floor=1e-3)
"""40 ms every 30 ms."""
ORDERS = ("true", "permuted", "shuffled")
TASKS = ("one", "two")
"""A digit; a number of two digits."""


class Recordings(NamedTuple):
    """N digits as frames, speaker by speaker, as many of each."""

    frames: np.ndarray  # [L, N, D] float32, zero where nothing sounds
    lengths: np.ndarray  # [N], at most L
    digits: np.ndarray  # [N]
    per_speaker: int


class Spoken(NamedTuple):
    """B sequences in which digits are said; of one digit the second is no digit."""

    xs: np.ndarray  # [T, B, D] float32
    digits: np.ndarray  # [B, 2]


def hear(recordings: Sequence[SpokenDigit], digit_frames: int) -> Recordings:
    """Log-mel energies above those of silence, of recordings made as loud as each other and cut off after L frames."""
    ordered = sorted(recordings, key=lambda one: one.speaker)
    sounds = np.zeros((digit_frames * MEL.hop, len(ordered)), np.float32)
    for row, one in enumerate(ordered):
        sound = one.sound[: len(sounds)]
        sounds[: len(sound), row] = sound / max(float(np.abs(sound).max()), 1e-6)
    frames = np.asarray(jax.jit(partial(log_mel, mel=MEL))(sounds)) - math.log(MEL.floor)
    return Recordings(
        frames=frames,
        lengths=np.array([min(digit_frames, -(-len(one.sound) // MEL.hop)) for one in ordered]),
        digits=np.array([one.digit for one in ordered]),
        per_speaker=len(ordered) // len({one.speaker for one in ordered}),
    )


def load_numbers(digit_frames: int) -> tuple[Recordings, Recordings]:
    """Takes for training and for testing, in units of the standard deviation of training frames that sound."""
    split = split_takes(load_spoken_digits())
    train, test = (hear(part, digit_frames) for part in ((*split.train, *split.valid), split.test))
    scale = train.frames[np.arange(digit_frames)[:, None] < train.lengths].std(0)
    return train._replace(frames=train.frames / scale), test._replace(frames=test.frames / scale)


def say(rng: np.random.Generator, heard: Recordings, task: str, size: int, num_frames: int, noise: float) -> Spoken:
    """One digit, or two by one speaker; what is left of the frames is silence before, between and after.

    Args:
        rng: says what is said and when.
        heard: recordings to choose from.
        task: one of TASKS.
        size: B.
        num_frames: T, at least as many as two recordings have.
        noise: standard deviation of what is added to all.
    """
    speakers = rng.integers(0, len(heard.digits) // heard.per_speaker, (size, 1))
    rows = speakers * heard.per_speaker + rng.integers(0, heard.per_speaker, (size, 2))
    lengths = heard.lengths[rows] * (np.array([1, task == "two"]))
    silence = num_frames - lengths.sum(1, keepdims=True)
    starts = np.sort(rng.integers(0, silence + 1, (size, 2)), axis=1)
    starts[:, 1] += lengths[:, 0]
    at = np.arange(num_frames)[:, None, None] - starts  # [T, B, 2]
    sounds = (at >= 0) & (at < lengths)
    xs = (heard.frames[np.clip(at, 0, len(heard.frames) - 1), rows] * sounds[..., None]).sum(2)
    xs += noise * rng.standard_normal(xs.shape, np.float32)
    return Spoken(xs, heard.digits[rows])


def places(rng: np.random.Generator, num_frames: int, size: int, seed: int) -> np.ndarray:
    """Which frame comes at each step in each of ORDERS, [orders, T, B]; `seed` is that of the one permutation."""
    true = np.arange(num_frames)
    permuted = np.random.default_rng(seed).permutation(num_frames)
    shuffled = rng.permuted(np.repeat(true[:, None], size, axis=1), axis=0)
    return np.stack([np.broadcast_to(one[:, None], shuffled.shape) for one in (true, permuted)] + [shuffled])
