"""Bach's four-part chorales, embedded in the package.

361 chorales with note onsets, fermatas and bar positions, split as the official JSB Chorales piano
rolls are; `embedded/README.md` states source, rules and licence.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rnn_jax.data.fetch import embedded
from rnn_jax.data.splits import Splits

__all__ = ["VOICES", "Chorale", "load_chorales", "transpose", "voice_ranges"]

VOICES = ("soprano", "alto", "tenor", "bass")
_STORED_PER_BEAT = 4  # the grid of the embedded file: sixteenth notes
_SHA256 = "67f972121724112514eb7692443ea29983e65dfa4b29ad32cb4fa76387ecc432"


class Chorale(NamedTuple):
    """One chorale on a regular grid. T steps; voices are soprano, alto, tenor, bass.

    A note lasts from its onset until the next onset or rest of its voice, so `pitches` and `onsets`
    together tell a repeated note from a held one.
    """

    name: str  # the BWV number
    pitches: np.ndarray  # [T, 4] int32, MIDI numbers, 0 = rest
    onsets: np.ndarray  # [T, 4] bool, a new note begins
    fermatas: np.ndarray  # [T] bool, the soprano holds a fermata
    position: np.ndarray  # [T] int32, step inside the bar
    beats_per_bar: int  # quarter notes in the commonest bar
    tonic: int  # pitch class of the analysed key, 0 = C
    minor: bool  # mode of the analysed key


def load_chorales(steps_per_beat: int = 2) -> Splits[Chorale]:
    """The chorales on a grid of 1, 2 or 4 steps per quarter note.

    A coarser grid than the stored sixteenths samples every `k = 4 / steps_per_beat`-th frame: the
    pitch of a step is what sounds at its beginning, and a step has an onset if that note began there
    or in the `k - 1` frames just before, that is, since the last step. A note that begins and ends
    between two grid points is left out; no other note is lost, none begins twice, and a note that is
    struck again on the same pitch stays two notes.

    Args:
        steps_per_beat: 1, 2 or 4.

    Returns:
        `Splits(train, valid, test)` of 232, 62 and 67 chorales in the order of their BWV numbers.

    Raises:
        ValueError: if `steps_per_beat` is none of the three.
        DamagedFileError: if the file in the package is missing or is not the one that was shipped.

    Example:
        >>> train, valid, test = load_chorales(steps_per_beat=2)
        >>> len(train), len(valid), len(test)
        (232, 62, 67)
        >>> train[0].name, train[0].pitches[:2].tolist()
        ('bwv1.6', [[65, 60, 57, 53], [65, 60, 57, 53]])

    References:
        Boulanger-Lewandowski, Bengio and Vincent, "Modeling Temporal Dependencies in
        High-Dimensional Sequences", ICML 2012 (the split).
    """
    if steps_per_beat not in (1, 2, _STORED_PER_BEAT):
        raise ValueError(f"`steps_per_beat` must be 1, 2 or 4, got {steps_per_beat!r}")
    with embedded("bach_chorales.npz", _SHA256) as archive:
        stored = dict(archive)
    splits: tuple[list[Chorale], ...] = ([], [], [])
    for piece, split in enumerate(stored["split"]):
        frames = slice(stored["offset"][piece], stored["offset"][piece + 1])
        chorale = Chorale(
            name=str(stored["name"][piece]),
            pitches=stored["pitch"][frames].astype(np.int32),
            onsets=stored["onset"][frames],
            fermatas=stored["fermata"][frames],
            position=stored["position"][frames].astype(np.int32),
            beats_per_bar=int(stored["beats_per_bar"][piece]),
            tonic=int(stored["tonic"][piece]),
            minor=bool(stored["minor"][piece]),
        )
        splits[split].append(_every(chorale, _STORED_PER_BEAT // steps_per_beat))
    return Splits(*(tuple(chorales) for chorales in splits))


def _every(chorale: Chorale, stride: int) -> Chorale:
    """Every `stride`-th frame; an onset counts for the next frame that is kept."""
    pitches = chorale.pitches[::stride]
    onsets = chorale.onsets[::stride].copy()
    for back in range(1, stride):  # frames t - back, for the kept frames t = stride, 2 * stride, ...
        onsets[1:] |= chorale.onsets[stride - back :: stride][: len(onsets) - 1]
    return chorale._replace(
        pitches=pitches,
        onsets=onsets & (pitches > 0),
        fermatas=chorale.fermatas[::stride],
        position=chorale.position[::stride] // stride,
    )


def transpose(chorale: Chorale, semitones: int) -> Chorale:
    """The chorale moved up (or down, if negative) by `semitones`; rests stay rests.

    Args:
        chorale: any chorale.
        semitones: distance in semitones.

    Returns:
        A new chorale; its `tonic` has moved too.

    Raises:
        ValueError: if a note would leave the MIDI range 1..127.

    Example:
        >>> chorale = load_chorales().train[0]
        >>> chorale.tonic, transpose(chorale, -5).tonic
        (5, 0)
    """
    sounding = chorale.pitches > 0
    pitches = np.where(sounding, chorale.pitches + semitones, 0)
    moved = pitches[sounding]
    if moved.size and (moved.min() < 1 or moved.max() > 127):
        raise ValueError(
            f"`semitones` must keep all notes within 1..127, got {moved.min()}..{moved.max()} "
            f"after transposing {chorale.name} by {semitones}"
        )
    return chorale._replace(pitches=pitches, tonic=(chorale.tonic + semitones) % 12)


def voice_ranges(chorales: Sequence[Chorale]) -> np.ndarray:
    """Lowest and highest note of each voice.

    Args:
        chorales: one or more chorales.

    Returns:
        [4, 2] int32: lowest and highest MIDI number of soprano, alto, tenor, bass.

    Raises:
        ValueError: if there is no chorale, or a voice never sounds.

    Example:
        >>> voice_ranges(load_chorales().train).tolist()
        [[57, 81], [53, 74], [48, 69], [36, 64]]
    """
    if not chorales:
        raise ValueError("`chorales` must hold at least one chorale, got none")
    pitches = np.concatenate([chorale.pitches for chorale in chorales])
    silent = [voice for voice, sounds in zip(VOICES, pitches.max(axis=0) > 0, strict=True) if not sounds]
    if silent:
        raise ValueError(f"`chorales` must have notes in all four voices, got none in {', '.join(silent)}")
    lowest = np.where(pitches > 0, pitches, 128).min(axis=0)
    return np.stack([lowest, pitches.max(axis=0)], axis=1)
