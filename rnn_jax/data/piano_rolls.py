"""The four polyphonic music data sets of Boulanger-Lewandowski et al. as piano rolls."""

from typing import Literal, get_args

import numpy as np
import scipy.io

from rnn_jax.data.fetch import fetch
from rnn_jax.data.splits import Splits

__all__ = ["LOWEST_KEY", "RollName", "load_piano_rolls"]

RollName = Literal["jsb", "nottingham", "muse", "piano"]

LOWEST_KEY = 21  # the MIDI number of column 0: the lowest key of a piano, A0


def load_piano_rolls(name: RollName) -> Splits[np.ndarray]:
    """One of the four data sets in its official split.

    A held note cannot be told from a repeated one. In `jsb` a step is a quarter note, repeats are
    written out, and the pieces are transposed to C major or C minor and lie an octave above concert
    pitch (subtract 12). The file comes through `fetch`, which says what to do where it is missing or
    damaged.

    Args:
        name: "jsb" (Bach chorales), "nottingham" (folk tunes with chords), "muse" (MuseData,
            orchestral and piano works) or "piano" (Piano-midi.de, classical piano).

    Returns:
        `Splits(train, valid, test)` of piano rolls, each [T, 88] bool, True where a key sounds.

    Raises:
        ValueError: if the name is none of the four.
        FileNotFoundError: if the file is nowhere to be found.
        DamagedFileError: if it was found but is not the published one.

    Example:
        >>> load_piano_rolls("organ")
        Traceback (most recent call last):
        ...
        ValueError: `name` must be one of jsb, nottingham, muse, piano, got 'organ'

    References:
        Boulanger-Lewandowski, Bengio and Vincent, "Modeling Temporal Dependencies in
        High-Dimensional Sequences", ICML 2012.
    """
    names = get_args(RollName)
    if name not in names:
        raise ValueError(f"`name` must be one of {', '.join(names)}, got {name!r}")
    file = scipy.io.loadmat(fetch(name))
    return Splits(
        *(
            tuple(np.asarray(roll, dtype=bool) for roll in file[key][0])
            for key in ("traindata", "validdata", "testdata")
        )
    )
