"""Make `bach_chorales.npz` from the Bach scores that the package music21 ships.

    pip install music21==10.5.1
    python make_bach_chorales.py SPLIT_JSON OUTPUT_NPZ

`SPLIT_JSON` maps the official JSB Chorales split to BWV numbers: `train`, `valid` and `test` map a
score name to its index in that split of the official file, `extra_train` lists further scores for
training. The same inputs and versions (music21, NumPy, zlib) give the same bytes.

Rules:

- Voices are the parts named Soprano, Alto, Tenor and Bass; `Soprano 1` is the soprano of the one
  five-voice score and instrumental parts are left out. Pitches are sounding pitches (MIDI numbers).
- The grid is the sixteenth note. A frame holds the note that sounds at its beginning, 0 for a rest,
  and `onset` marks the first frame of each note. Notes shorter than a frame that begin and end
  between two grid points are therefore left out (32nd-note ornaments); so are grace notes. Tied
  notes are one note. Repeats are written out once, as in the score.
- A frame is under a fermata while a soprano note that carries one sounds.
- `position` is the sixteenth inside the bar. A first bar that is too short is an upbeat and ends its
  bar; a later bar that is too short and follows another one (a repeat sign inside a bar) goes on
  where that one stopped. Two bars without a bar line between them are two bars.
- `beats_per_bar` is the length of the commonest bar in quarter notes (a 3/2 bar has 6).
- The key is music21's analysis (`analyze("key")`, Krumhansl-Schmuckler) of the four voices.
- A chord, a second voice in a part, voices of different lengths, a missing part, or a bar that does
  not begin on a quarter of the piece stop the script.
"""

import argparse
import json
import pathlib
import re
from typing import Any

import numpy as np

VOICES = ("Soprano", "Alto", "Tenor", "Bass")
SPLITS = ("train", "valid", "test")
PER_QUARTER = 4


def voice_parts(score: Any) -> list[Any]:
    """The parts of soprano, alto, tenor and bass, in this order."""
    found = []
    for voice in VOICES:
        parts = [part for part in score.parts if part.partName in (voice, f"{voice} 1")]
        if len(parts) != 1:
            raise ValueError(f"expected one part {voice}, found {len(parts)}")
        found.append(parts[0])
    return found


def part_frames(part: Any, num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pitch, onset and fermata of one part at every grid point, each [num_frames]."""
    pitch = np.zeros(num_frames, np.uint8)
    onset = np.zeros(num_frames, bool)
    fermata = np.zeros(num_frames, bool)
    previous = (0, 0.0)
    for event in part.flatten().notesAndRests:
        if event.duration.isGrace:
            continue
        if event.isChord:
            raise ValueError(f"chord at quarter {event.offset}")
        start, end = event.offset * PER_QUARTER, (event.offset + event.quarterLength) * PER_QUARTER
        first, last = -int(-start // 1), -int(-end // 1)  # the grid points start <= t < end
        if event.isRest:
            previous = (0, end)
            continue
        if pitch[first:last].any():
            raise ValueError(f"two notes at once at quarter {event.offset}")
        tied = event.tie is not None and event.tie.type in ("stop", "continue")
        pitch[first:last] = event.pitch.midi
        onset[first:last][:1] = not (tied and previous == (event.pitch.midi, start))
        fermata[first:last] = any(type(mark).__name__ == "Fermata" for mark in event.expressions)
        previous = (event.pitch.midi, end)
    return pitch, onset, fermata


def bar_positions(part: Any, num_frames: int) -> tuple[np.ndarray, int]:
    """The step inside the bar [num_frames] and the quarter notes in the commonest bar."""
    position = np.zeros(num_frames, np.uint8)
    bars: dict[int, int] = {}
    stopped = 0  # where the bar before stopped, 0 if it was complete
    frame = 0
    full = 0  # steps of a complete bar under the present time signature
    for index, measure in enumerate(part.getElementsByClass("Measure")):
        if measure.offset * PER_QUARTER != frame:
            raise ValueError(f"bar {measure.number} begins at quarter {measure.offset}")
        if measure.timeSignature is not None:
            full = int(measure.timeSignature.barDuration.quarterLength * PER_QUARTER)
        steps = int(measure.highestTime * PER_QUARTER)
        if steps > full and steps % full:
            raise ValueError(f"bar {measure.number} has {steps} steps of {full}")
        begin = -steps % full if index == 0 else stopped if stopped + steps <= full else 0
        position[frame : frame + steps] = np.arange(begin, begin + steps) % full
        bars[full] = bars.get(full, 0) + steps
        stopped = (begin + steps) % full
        frame += steps
    if frame != num_frames or num_frames % PER_QUARTER:
        raise ValueError(f"bars hold {frame} steps, notes {num_frames}, expected whole quarters")
    if ((position - np.arange(num_frames)) % PER_QUARTER).any():
        raise ValueError("a bar does not begin on a quarter of the piece")
    return position, max(bars, key=lambda full: bars[full]) // PER_QUARTER


def read_score(path: pathlib.Path) -> dict[str, Any]:
    """All arrays of one score."""
    from music21 import converter, stream  # heavy, and needed by nobody who only uses the data

    score = converter.parse(path, forceSource=True).toSoundingPitch()
    parts = voice_parts(score)
    lengths = {part.highestTime * PER_QUARTER for part in parts}
    if len(lengths) != 1:
        raise ValueError(f"{path.name}: voices of {sorted(lengths)} steps")
    num_frames = int(lengths.pop())
    voices = [part_frames(part, num_frames) for part in parts]
    position, beats_per_bar = bar_positions(parts[0], num_frames)
    key = stream.Score(parts).analyze("key")
    return {
        "pitch": np.stack([voice[0] for voice in voices], axis=1),
        "onset": np.stack([voice[1] for voice in voices], axis=1),
        "fermata": voices[0][2],
        "position": position,
        "beats_per_bar": beats_per_bar,
        "tonic": key.tonic.pitchClass,
        "minor": key.mode == "minor",
    }


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key that puts bwv9 before bwv10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def main() -> None:
    """Read the scores and write the archive."""
    import music21

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("split_json", type=pathlib.Path)
    parser.add_argument("output_npz", type=pathlib.Path)
    arguments = parser.parse_args()
    split = json.loads(arguments.split_json.read_text())
    corpus = pathlib.Path(music21.__file__).parent / "corpus" / "bach"

    listed = [
        (number, name, index)
        for number, part in enumerate(SPLITS)
        for name, index in (
            split[part] | ({extra: -1 for extra in split["extra_train"]} if part == "train" else {})
        ).items()
    ]
    listed.sort(key=lambda row: (row[0], natural_order(row[1])))
    scores = [read_score(corpus / f"{name}.mxl") for _, name, _ in listed]

    def column(field: str, dtype: type) -> np.ndarray:
        return np.array([score[field] for score in scores], dtype)

    def frames(field: str) -> np.ndarray:
        # Column-major: the archive is a third smaller when each voice is stored by itself.
        return np.asfortranarray(np.concatenate([score[field] for score in scores]))

    np.savez_compressed(
        arguments.output_npz,
        pitch=frames("pitch"),
        onset=frames("onset"),
        fermata=frames("fermata"),
        position=frames("position"),
        offset=np.cumsum([0] + [len(score["position"]) for score in scores], dtype=np.int32),
        beats_per_bar=column("beats_per_bar", np.uint8),
        tonic=column("tonic", np.uint8),
        minor=column("minor", np.bool_),
        name=np.array([name for _, name, _ in listed]),
        split=np.array([number for number, _, _ in listed], np.uint8),
        official_index=np.array([index for _, _, index in listed], np.int16),
    )


if __name__ == "__main__":
    main()
