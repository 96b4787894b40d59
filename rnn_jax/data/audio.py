"""Hear a model: notes to MIDI files and to sound. NumPy, mido and the standard library.

Voices or a piano roll become one list of `Note`s; a list of notes becomes a MIDI file (`write_midi`) or
a waveform (`synthesize`), and a waveform a WAV file (`write_wav`), which `read_wav` reads.
"""

import os
import wave
from collections.abc import Sequence
from typing import IO, NamedTuple

import mido
import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Note", "read_wav", "roll_notes", "synthesize", "voice_notes", "write_midi", "write_wav"]

_TICKS_PER_BEAT = 480
_CHURCH_ORGAN = 19  # General MIDI program, counted from 0
_DRUM_CHANNEL = 9
_VELOCITY = 80

# The timbre: relative strength of the harmonics, like a soft organ stop, and the envelope in seconds.
_HARMONICS = (1.0, 0.5, 0.25, 0.18, 0.1, 0.07, 0.04, 0.03)
_ATTACK = 0.03
_DECAY = 0.6
_SUSTAIN = 0.7
_RELEASE = 0.15
_PEAK = 0.9


class Note(NamedTuple):
    """One note of one voice, from step `start` up to, not including, step `end`."""

    voice: int
    pitch: int  # MIDI number
    start: int
    end: int


def voice_notes(pitches: ArrayLike, onsets: ArrayLike) -> list[Note]:
    """The notes of parallel voices. T steps, V voices.

    A note begins at an onset, and where the pitch changes without one; it lasts while the pitch
    stays and no new onset comes. Pitch 0 is a rest, whatever its onset says.

    Args:
        pitches: [T, V] integers, MIDI numbers, 0 = rest.
        onsets: [T, V] bool.

    Returns:
        Notes ordered by voice, then by start.

    Raises:
        ValueError: if the shapes differ or a pitch is outside 0..127.

    Example:
        >>> voice_notes([[60], [60], [60], [0]], [[True], [False], [True], [False]])
        [Note(voice=0, pitch=60, start=0, end=2), Note(voice=0, pitch=60, start=2, end=3)]
    """
    pitches, onsets = np.asarray(pitches), np.asarray(onsets, bool)
    if pitches.ndim != 2 or pitches.shape != onsets.shape:
        raise ValueError(
            "`pitches` and `onsets` must have the same shape [T, V], "
            f"got {list(pitches.shape)} and {list(onsets.shape)}"
        )
    if pitches.size and (pitches.min() < 0 or pitches.max() > 127):
        raise ValueError(f"`pitches` must be MIDI numbers 0..127, got {pitches.min()}..{pitches.max()}")
    notes = []
    for voice in range(pitches.shape[1]):
        pitch = pitches[:, voice]
        border = onsets[:, voice].copy()
        border[1:] |= pitch[1:] != pitch[:-1]
        border[:1] = True
        starts = np.flatnonzero(border)
        ends = np.append(starts[1:], len(pitch))
        notes += [
            Note(voice, int(pitch[start]), int(start), int(end))
            for start, end in zip(starts, ends, strict=True)
            if pitch[start] > 0
        ]
    return notes


def roll_notes(roll: ArrayLike, lowest: int = 21) -> list[Note]:
    """The notes of a piano roll; all are voice 0, and a key held over steps is one note.

    Args:
        roll: [T, K] bool, or numbers that are not zero where a key sounds.
        lowest: MIDI number of column 0.

    Returns:
        Notes ordered by pitch, then by start.

    Raises:
        ValueError: if the roll is not two-dimensional or a column leaves the MIDI range 1..127.

    Example:
        >>> roll_notes([[0, 1], [1, 1]], lowest=60)
        [Note(voice=0, pitch=60, start=1, end=2), Note(voice=0, pitch=61, start=0, end=2)]
    """
    sounds = np.asarray(roll, bool)
    if sounds.ndim != 2:
        raise ValueError(f"`roll` must have shape [T, K], got {list(sounds.shape)}")
    highest = lowest + sounds.shape[1] - 1
    if lowest < 1 or highest > 127:
        raise ValueError(f"`lowest` must put the columns within 1..127, got {lowest}..{highest}")
    keys = sounds * np.arange(lowest, highest + 1)
    return [note._replace(voice=0) for note in voice_notes(keys, np.zeros_like(sounds))]


def write_midi(
    path: str | os.PathLike[str],
    notes: Sequence[Note],
    *,
    steps_per_beat: int,
    tempo: float = 80.0,
    programs: Sequence[int] = (_CHURCH_ORGAN,),
) -> None:
    """Write notes as a MIDI file with one track and one channel per voice.

    An existing file is overwritten; the directory must exist.

    Args:
        path: of the file, usually `.mid`.
        notes: from `voice_notes` or `roll_notes`; at most 15 voices.
        steps_per_beat: a divisor of 480.
        tempo: beats per minute.
        programs: General MIDI programs (0..127) of the voices, repeated if there are fewer.

    Raises:
        ValueError: if an argument is outside what is said above.

    Example:
        >>> import io, pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "scale.mid"
        ...     write_midi(path, [Note(0, 60, 0, 2), Note(0, 62, 2, 4)], steps_per_beat=2, tempo=60)
        ...     mido.MidiFile(path).length
        2.0
    """
    _check_time(steps_per_beat, tempo)
    if _TICKS_PER_BEAT % steps_per_beat:
        raise ValueError(f"`steps_per_beat` must be a divisor of {_TICKS_PER_BEAT}, got {steps_per_beat}")
    if not programs or min(programs) < 0 or max(programs) > 127:
        raise ValueError(f"`programs` must be numbers 0..127, got {list(programs)}")
    channels = [channel for channel in range(16) if channel != _DRUM_CHANNEL]
    voices = sorted({note.voice for note in notes})
    if voices and (voices[0] < 0 or voices[-1] >= len(channels)):
        raise ValueError(f"`notes` must have voices 0..{len(channels) - 1}, got {voices}")

    file = mido.MidiFile(ticks_per_beat=_TICKS_PER_BEAT)
    ticks_per_step = _TICKS_PER_BEAT // steps_per_beat
    set_tempo = mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo))
    file.tracks.append(mido.MidiTrack([set_tempo]))
    for voice in voices:
        channel, program = channels[voice], programs[voice % len(programs)]
        track = mido.MidiTrack([mido.Message("program_change", channel=channel, program=program)])
        events = [
            event
            for note in notes
            if note.voice == voice
            # At one moment notes end (0) before notes begin (1).
            for event in ((note.start, 1, note.pitch), (note.end, 0, note.pitch))
        ]
        now = 0
        for step, begins, pitch in sorted(events):
            track.append(
                mido.Message(
                    "note_on" if begins else "note_off",
                    channel=channel,
                    note=pitch,
                    velocity=_VELOCITY,
                    time=(step - now) * ticks_per_step,
                )
            )
            now = step
        file.tracks.append(track)
    file.save(os.fspath(path))


def synthesize(
    notes: Sequence[Note],
    *,
    steps_per_beat: int,
    tempo: float = 80.0,
    sample_rate: int = 22050,
) -> np.ndarray:
    """The sound of notes: sums of harmonics, like a soft organ.

    Each note is `envelope(t) * sum_k a_k sin(2 pi k f t)` with equal-tempered `f` (A4 = 440 Hz) and the
    harmonics below half the sample rate. The envelope rises, decays to a sustained level and fades out
    after the note's end, so the next note overlaps it a little. The whole is scaled to a peak of 0.9:
    nothing clips.

    Args:
        notes: from `voice_notes` or `roll_notes`.
        steps_per_beat: steps in one beat.
        tempo: beats per minute.
        sample_rate: samples per second.

    Returns:
        [samples] float32 in [-0.9, 0.9], mono, up to the end of the last note and its fading.

    Raises:
        ValueError: if a number is not positive.

    Example:
        >>> synthesize([Note(0, 69, 0, 1)], steps_per_beat=1, tempo=60, sample_rate=8000).shape
        (9200,)
    """
    _check_time(steps_per_beat, tempo)
    if sample_rate < 1:
        raise ValueError(f"`sample_rate` must be >= 1, got {sample_rate}")
    samples_per_step = sample_rate * 60.0 / (tempo * steps_per_beat)
    release = round(_RELEASE * sample_rate)
    starts = [round(note.start * samples_per_step) for note in notes]
    held = [round(note.end * samples_per_step) - start for note, start in zip(notes, starts, strict=True)]
    longest: dict[int, int] = {}
    for note, count in zip(notes, held, strict=True):
        longest[note.pitch] = max(longest.get(note.pitch, 0), count + release)
    # All notes of one pitch begin alike: its tone is made once, and each note is a beginning of it.
    tones = {pitch: _tone(pitch, count, sample_rate) for pitch, count in longest.items()}
    fade = np.cos(np.linspace(0, np.pi / 2, release, dtype=np.float32)) ** 2

    end = max((start + count + release for start, count in zip(starts, held, strict=True)), default=0)
    waveform = np.zeros(end, np.float32)
    for note, start, count in zip(notes, starts, held, strict=True):
        tone = tones[note.pitch]
        waveform[start : start + count] += tone[:count]
        waveform[start + count : start + count + release] += tone[count : count + release] * fade
    peak = float(np.abs(waveform).max(initial=0.0))
    return waveform * np.float32(_PEAK / peak) if peak > 0 else waveform


def _tone(pitch: int, count: int, sample_rate: int) -> np.ndarray:
    """`count` samples of a key that is pressed and not let go.

    The harmonics come by sin((k + 1) x) = 2 cos(x) sin(k x) - sin((k - 1) x), one sine for all.
    """
    frequency = 440.0 * 2.0 ** ((pitch - 69) / 12)
    seconds = np.arange(count) / sample_rate
    phase = (2 * np.pi * (frequency * seconds % 1.0)).astype(np.float32)
    twice_cosine = 2 * np.cos(phase)
    before, harmonic = np.zeros_like(phase), np.sin(phase)
    tone = np.zeros_like(phase)
    for number, strength in enumerate(_HARMONICS, start=1):
        if number * frequency >= sample_rate / 2:
            break
        tone += np.float32(strength) * harmonic
        before, harmonic = harmonic, twice_cosine * harmonic - before
    rise = np.sin(np.minimum(seconds / _ATTACK, 1) * (np.pi / 2)) ** 2
    level = _SUSTAIN + (1 - _SUSTAIN) * np.exp(-seconds / _DECAY)
    return tone * (rise * level).astype(np.float32)


def write_wav(path: str | os.PathLike[str], waveform: ArrayLike, sample_rate: int = 22050) -> None:
    """Write a mono waveform as a 16-bit WAV file.

    An existing file is overwritten; the directory must exist.

    Args:
        path: of the file, usually `.wav`.
        waveform: [samples] in [-1, 1].
        sample_rate: samples per second.

    Raises:
        ValueError: if the waveform is not one-dimensional or leaves [-1, 1].

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "a.wav"
        ...     write_wav(path, synthesize([Note(0, 69, 0, 1)], steps_per_beat=1))
        ...     path.stat().st_size > 10_000
        True
    """
    waveform = np.asarray(waveform)
    if waveform.ndim != 1:
        raise ValueError(f"`waveform` must have shape [samples], got {list(waveform.shape)}")
    if not (np.abs(waveform) <= 1).all():
        raise ValueError(f"`waveform` must be in [-1, 1], got a peak of {np.abs(waveform).max()}")
    if sample_rate < 1:
        raise ValueError(f"`sample_rate` must be >= 1, got {sample_rate}")
    with open(path, "wb") as target, wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.round(waveform * 32767).astype("<i2").tobytes())


def read_wav(source: str | os.PathLike[str] | IO[bytes], sample_rate: int) -> np.ndarray:
    """Read a mono 16-bit WAV file, such as `write_wav` writes.

    Args:
        source: the file, or its path.
        sample_rate: samples per second that it must have. Nothing is resampled here; a program such as
            ffmpeg or sox does that well.

    Returns:
        [samples] float32 in [-1, 1).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a whole WAV file of 16-bit numbers, or has another rate or several channels.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "a.wav"
        ...     write_wav(path, [0.0, 0.5, -0.5], sample_rate=8000)
        ...     read_wav(path, sample_rate=8000).round(3).tolist()
        [0.0, 0.5, -0.5]
    """
    name = str(getattr(source, "name", source))
    # `wave` takes text or a file; a path object must become text.
    opened = os.fspath(source) if isinstance(source, os.PathLike) else source
    try:
        with wave.open(opened, "rb") as file:
            rate, channels, width, count = (
                file.getframerate(),
                file.getnchannels(),
                file.getsampwidth(),
                file.getnframes(),
            )
            content = file.readframes(count)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"`source` must be a WAV file of whole numbers (PCM), got {name}: {error}") from error
    for what, value, expected in (("channel", channels, 1), ("bytes a sample", width, 2), ("Hz", rate, sample_rate)):
        if value != expected:
            remedy = f"convert it by `ffmpeg -i IN.wav -ac 1 -ar {sample_rate} -sample_fmt s16 OUT.wav`"
            raise ValueError(f"`source` must have {expected} {what}, got {value} in {name}; {remedy}")
    if len(content) != 2 * count:
        raise ValueError(f"`source` must be a whole WAV file, got {len(content) // 2} of {count} samples in {name}")
    return np.frombuffer(content, "<i2").astype(np.float32) / 32768


def _check_time(steps_per_beat: int, tempo: float) -> None:
    if steps_per_beat < 1:
        raise ValueError(f"`steps_per_beat` must be >= 1, got {steps_per_beat}")
    if not tempo > 0:
        raise ValueError(f"`tempo` must be > 0 beats per minute, got {tempo}")
