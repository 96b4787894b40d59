"""Strings of spoken digits for `experiments.speech`: drawn for training, laid out for testing, put into batches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rnn_jax.data import (
    SPOKEN_DIGITS_RATE,
    DigitString,
    Splits,
    join_digits,
    load_digit_mfccs,
    load_spoken_digits,
    split_takes,
    stream,
)

__all__ = [
    "MFCC_RATE",
    "SPEAKERS",
    "Data",
    "Strings",
    "Voice",
    "all_takes",
    "batch_of",
    "batches_of",
    "covering_strings",
    "joined",
    "leveled",
    "load_voices",
    "training_strings",
]

MFCC_RATE = 40
"""Frames a second of the features that a package ships."""
LEVEL = 0.05
"""The root mean square of strings over their whole length, silence included."""
EPOCH = 1024
ROWS = 64
"""Strings in a batch for testing."""

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")

Voice = tuple[Any, ...]
"""The recordings of one speaker, or of all where the speaker is not known."""


@dataclass(frozen=True)
class Data:
    """What is heard. Times in seconds, levels in decibels."""

    source: Literal["recordings", "mfcc"] = "recordings"
    """mfcc: features that a package ships, for where the recordings are not to be had; without speakers and sound."""
    wav: Path | None = None
    """A file of one's own to be recognized too: mono, 16 bits, 8 kHz."""
    most_digits: int = 3
    """A string for training has 1 to so many, all by one speaker, as far as they fit into the window."""
    ramp: int = 2000
    """The first so many strings have one digit, as many more at most two, and so on: ends are learned from those."""
    window: float = 1.8
    test_digits: tuple[int, int] = (3, 7)
    """How many digits the strings have whose error rate is claimed, the least and the most."""
    longest: int = 8
    """Errors are counted for strings of 1 to so many digits."""
    takes: int = 5
    """How many of the five takes for testing, and for choosing, are used."""
    gap: float = 0.3
    """Before, between and after digits is silence, uniformly 0 to so long ..."""
    tail: float = 0.3
    """... and so much more after the last one: who only listens forward knows a digit when it is over."""
    noise: tuple[float, float] = (25.0, 40.0)
    """White noise over the whole string, so far below its mean power; for training uniform between the two."""
    test_noise: float = 30.0
    gain: float = 4.0
    """All strings are brought to one level, `LEVEL`; those for training are then louder or softer by up to so much."""
    speed: float = 0.05
    """Training strings are faster or slower, and so higher or lower, by a factor of up to exp(this)."""


class Strings(NamedTuple):
    """B strings side by side; rows beyond the last string have no steps and no digits."""

    sound: Any  # [N, B] at 8 kHz, or [T, B, 13]
    steps: Any  # [B] int32, real steps of the network
    labels: Any  # [M, B] int32, digit + 1; 0 is the blank
    counts: Any  # [B] int32, digits


def load_voices(data: Data) -> Splits[Voice]:
    """The recordings for training, choosing and testing, by speaker in the order of their names.

    Returns:
        For each part a tuple of voices; a single one for features.

    Raises:
        FileNotFoundError: the recordings, or features, are nowhere to be found.
    """
    if data.source == "mfcc":
        return Splits(*((part,) for part in load_digit_mfccs()))
    recordings = load_spoken_digits()
    by_speaker = [
        split_takes([one for one in recordings if one.speaker == speaker])
        for speaker in sorted({one.speaker for one in recordings})
    ]
    first = {"valid": 5, "test": 0}
    return Splits(
        train=tuple(splits.train for splits in by_speaker),
        **{
            name: tuple(
                tuple(one for one in getattr(splits, name) if one.take < start + data.takes) for splits in by_speaker
            )
            for name, start in first.items()
        },
    )


def training_strings(
    voices: Sequence[Voice], data: Data, *, batch_size: int, per_step: int, seed: int
) -> Iterator[Any]:
    """Endless batches; string number n is a pure function of the seed and n.

    Args:
        voices: who speaks.
        data: how strings are made.
        batch_size: B.
        per_step: samples (or frames) that a step of the network reads.
        seed: of the run.

    Returns:
        A `stream` of `Strings`, all of one shape.
    """
    num_steps = int(data.window * rate_of(data)) // per_step

    def plan(epoch: int) -> list[np.ndarray]:
        numbers = epoch * EPOCH + np.arange(EPOCH // batch_size * batch_size)
        return list(numbers.reshape(-1, batch_size))

    def build(numbers: np.ndarray) -> Strings:
        strings = [training_string(voices, data, num_steps * per_step, seed, int(number)) for number in numbers]
        return batch_of(strings, per_step, num_steps=num_steps, most_digits=data.most_digits)

    return stream(plan, build)


def training_string(voices: Sequence[Voice], data: Data, size: int, seed: int, number: int) -> DigitString:
    """At most `size` samples, or frames, of one speaker: as many of the drawn digits as fit, at least one."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, number])))
    voice = voices[int(rng.integers(len(voices)))]
    factor = np.exp(rng.uniform(-data.speed, data.speed))
    most = min(data.most_digits, 1 + number // data.ramp)
    picked = [voice[i] for i in rng.integers(0, len(voice), rng.integers(1, most + 1))]
    picked = [one._replace(sound=resampled(one.sound, factor)) for one in picked]
    gaps, tail = draw_gaps(rng, data, len(picked))
    ends = np.cumsum([len(one.sound) + gap for one, gap in zip(picked, gaps[1:], strict=True)]) + gaps[0] + tail
    kept = max(1, int((ends <= size).sum()))
    gaps = gaps[: kept + 1] if ends[kept - 1] <= size else np.zeros(kept + 1, int)
    gaps[-1] += tail
    string = join_digits(picked[:kept], gaps.tolist())
    string = string._replace(sound=string.sound[:size])
    return recorded(rng, string, data, rng.uniform(*data.noise), rng.uniform(-data.gain, data.gain))


def covering_strings(voices: Sequence[Voice], num_digits: int, data: Data, seed: int) -> list[DigitString]:
    """Strings of so many digits, of one speaker each, in which each recording comes once.

    Where the number does not divide those of a speaker, the last string begins anew with the first recordings.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, num_digits])))
    strings = []
    for voice in voices:
        order = rng.permutation(len(voice))
        for group in np.resize(order, (-(-len(order) // num_digits), num_digits)):
            gaps, tail = draw_gaps(rng, data, num_digits)
            gaps[-1] += tail
            string = join_digits([voice[i] for i in group], gaps.tolist())
            strings.append(recorded(rng, string, data, data.test_noise, 0.0))
    return strings


def batches_of(strings: Sequence[DigitString], *, per_step: int, num_steps: int, most_digits: int) -> list[Strings]:
    """Batches of equal shape, for a single program."""
    return [
        batch_of(strings[start : start + ROWS], per_step, num_steps=num_steps, most_digits=most_digits, rows=ROWS)
        for start in range(0, len(strings), ROWS)
    ]


def batch_of(
    strings: Sequence[DigitString], per_step: int, *, num_steps: int, most_digits: int, rows: int = 0
) -> Strings:
    """Strings side by side; what is left over after the last whole step of a string is not heard."""
    rows = max(rows, len(strings))
    sound = np.zeros((num_steps * per_step, rows, *strings[0].sound.shape[1:]), np.float32)
    labels, (steps, counts) = np.zeros((most_digits, rows), np.int32), np.zeros((2, rows), np.int32)
    for b, string in enumerate(strings):
        steps[b], counts[b] = len(string.sound) // per_step, len(string.digits)
        sound[: steps[b] * per_step, b] = string.sound[: steps[b] * per_step]
        labels[: counts[b], b] = string.digits + 1
    return Strings(sound, steps, labels, counts)


def rate_of(data: Data) -> int:
    """Samples, or frames, a second."""
    return MFCC_RATE if data.source == "mfcc" else SPOKEN_DIGITS_RATE


def resampled(sound: np.ndarray, factor: float) -> np.ndarray:
    """Sound that is faster by a factor, by linear interpolation over the first axis."""
    places = np.arange(0, len(sound) - 1, factor)
    low = places.astype(int)
    weight = (places - low).astype(sound.dtype).reshape(-1, *[1] * (sound.ndim - 1))
    return (1 - weight) * sound[low] + weight * sound[low + 1]


def draw_gaps(rng: np.random.Generator, data: Data, num_digits: int) -> tuple[np.ndarray, int]:
    """Silences around digits, and what is added to the last one; none between features, whose silence is not known."""
    rate = rate_of(data) if data.source == "recordings" else 0
    return rng.uniform(0, data.gap * rate, num_digits + 1).astype(int), int(data.tail * rate)


def leveled(sound: np.ndarray) -> np.ndarray:
    """Sound [N] whose root mean square is `LEVEL`; silence stays."""
    power = float(np.sqrt(np.square(sound, dtype=np.float64).mean()))
    return (sound * (LEVEL / power)).astype(np.float32) if power > 0 else sound


def recorded(rng: np.random.Generator, string: DigitString, data: Data, noise: float, gain: float) -> DigitString:
    """As a microphone hears it: at one level, with noise so far below it, and louder by a gain. Features stay."""
    if data.source == "mfcc":
        return string
    sound = leveled(string.sound)
    heard = (sound + LEVEL * 10 ** (-noise / 20) * rng.standard_normal(len(sound))) * 10 ** (gain / 20)
    return string._replace(sound=heard.astype(np.float32))


def joined(groups: Iterable[list[DigitString]]) -> list[DigitString]:
    """The strings of several groups."""
    return [string for group in groups for string in group]


def all_takes(voices: Splits[Voice], speaker: str) -> Voice:
    """Every recording of a speaker."""
    number = SPEAKERS.index(speaker)
    return tuple(one for part in voices for one in part[number])
