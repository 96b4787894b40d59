import time
import wave

import mido
import numpy as np
import pytest

from rnn_jax.data import Note, load_chorales, read_wav, roll_notes, synthesize, voice_notes, write_midi, write_wav

TUNE = [Note(0, 67, 0, 2), Note(0, 67, 2, 3), Note(0, 69, 5, 8), Note(1, 48, 0, 8)]


def read_notes(path, ticks_per_step) -> list[Note]:
    notes = []
    for voice, track in enumerate(mido.MidiFile(path).tracks[1:]):
        now, sounding = 0, {}
        for message in track:
            now += message.time
            if message.type == "note_on":
                assert message.note not in sounding
                sounding[message.note] = now
            elif message.type == "note_off":
                start = sounding.pop(message.note)
                notes.append(Note(voice, message.note, start // ticks_per_step, now // ticks_per_step))
        assert not sounding
    return sorted(notes)


def dominant_frequency(waveform, sample_rate) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(np.argmax(spectrum) * sample_rate / len(waveform))


def test_voices_become_notes_at_onsets_changes_and_rests():
    pitches = [[60, 50], [60, 50], [60, 0], [0, 0], [62, 52], [64, 52]]
    onsets = [[1, 1], [0, 0], [1, 0], [0, 1], [1, 1], [0, 0]]
    assert voice_notes(pitches, onsets) == [
        Note(0, 60, 0, 2),
        Note(0, 60, 2, 3),
        Note(0, 62, 4, 5),
        Note(0, 64, 5, 6),
        Note(1, 50, 0, 2),
        Note(1, 52, 4, 6),
    ]


def test_notes_of_a_chorale_give_back_its_pitches_and_onsets():
    chorale = load_chorales(steps_per_beat=4).test[3]
    pitches, onsets = np.zeros_like(chorale.pitches), np.zeros_like(chorale.onsets)
    for note in voice_notes(chorale.pitches, chorale.onsets):
        assert (pitches[note.start : note.end, note.voice] == 0).all()
        pitches[note.start : note.end, note.voice] = note.pitch
        onsets[note.start, note.voice] = True
    np.testing.assert_array_equal(pitches, chorale.pitches)
    np.testing.assert_array_equal(onsets, chorale.onsets)


def test_a_held_key_of_a_piano_roll_is_one_note():
    roll = np.zeros((5, 88), bool)
    roll[1:4, 0] = roll[[0, 2], 39] = True
    assert roll_notes(roll) == [Note(0, 21, 1, 4), Note(0, 60, 0, 1), Note(0, 60, 2, 3)]


def test_a_midi_file_read_back_has_the_same_notes_tempo_and_programs(tmp_path):
    path = tmp_path / "tune.mid"
    write_midi(path, TUNE, steps_per_beat=4, tempo=90, programs=[52, 42])
    assert read_notes(path, ticks_per_step=120) == sorted(TUNE)
    file = mido.MidiFile(path)
    assert file.length == pytest.approx(8 / 4 * 60 / 90, rel=1e-4)
    assert [track[0].program for track in file.tracks[1:]] == [52, 42]
    assert [track[0].channel for track in file.tracks[1:]] == [0, 1]


def test_a_whole_chorale_survives_the_midi_file(tmp_path):
    chorale = load_chorales(steps_per_beat=2).valid[0]
    notes = voice_notes(chorale.pitches, chorale.onsets)
    write_midi(tmp_path / "bach.mid", notes, steps_per_beat=2)
    assert read_notes(tmp_path / "bach.mid", ticks_per_step=240) == sorted(notes)


def test_no_voice_plays_on_the_drum_channel(tmp_path):
    notes = [Note(voice, 60 + voice, voice, voice + 1) for voice in range(15)]
    write_midi(tmp_path / "many.mid", notes, steps_per_beat=1)
    channels = [track[0].channel for track in mido.MidiFile(tmp_path / "many.mid").tracks[1:]]
    assert channels == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15]


def test_a_missing_directory_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_midi(tmp_path / "absent" / "tune.mid", TUNE, steps_per_beat=4)
    with pytest.raises(FileNotFoundError):
        write_wav(tmp_path / "absent" / "tune.wav", np.zeros(4))


@pytest.mark.parametrize("pitch", [36, 57, 69, 84])
def test_the_wav_files_strongest_frequency_is_the_pitch(tmp_path, pitch):
    waveform = synthesize([Note(0, pitch, 0, 4)], steps_per_beat=2, tempo=60, sample_rate=16000)
    write_wav(tmp_path / "tone.wav", waveform, sample_rate=16000)
    with wave.open(str(tmp_path / "tone.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
    np.testing.assert_allclose(samples, waveform, atol=1 / 32767)
    expected = 440 * 2 ** ((pitch - 69) / 12)
    assert dominant_frequency(samples, 16000) == pytest.approx(expected, abs=0.5)


def test_a_note_begins_and_ends_when_it_should():
    rate = 8000
    waveform = synthesize([Note(0, 60, 1, 2), Note(0, 72, 3, 4)], steps_per_beat=1, tempo=60, sample_rate=rate)
    assert len(waveform) == 4 * rate + round(0.15 * rate)
    loud = np.abs(waveform).reshape(-1, rate // 20).max(axis=1)  # 20 values a second
    assert loud[:20].max() == 0
    assert loud[21:40].min() > 0.2
    assert loud[43:60].max() == 0
    assert loud[61:80].min() > 0.2


def test_one_note_equals_the_sum_of_its_harmonics_under_the_envelope():
    rate, frequency = 8000, 220.0
    waveform = synthesize([Note(0, 57, 0, 1)], steps_per_beat=1, tempo=120, sample_rate=rate)
    seconds = np.arange(len(waveform)) / rate
    strengths = (1.0, 0.5, 0.25, 0.18, 0.1, 0.07, 0.04, 0.03)
    tone = sum(a * np.sin(2 * np.pi * frequency * k * seconds) for k, a in enumerate(strengths, start=1))
    rise = np.sin(np.clip(seconds / 0.03, 0, 1) * np.pi / 2) ** 2
    fade = np.cos(np.clip((seconds - 0.5) * rate / (0.15 * rate - 1), 0, 1) * np.pi / 2) ** 2
    expected = tone * rise * (0.7 + 0.3 * np.exp(-seconds / 0.6)) * fade
    np.testing.assert_allclose(waveform, 0.9 * expected / np.abs(expected).max(), atol=1e-4)


def test_harmonics_above_half_the_sample_rate_are_left_out():
    waveform = synthesize([Note(0, 96, 0, 2)], steps_per_beat=1, tempo=60, sample_rate=6000)
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    frequencies = np.fft.rfftfreq(len(waveform), 1 / 6000)
    away = np.abs(frequencies - 2093) > 100
    assert spectrum[away].max() < 0.01 * spectrum.max()


def test_a_minute_of_four_voices_is_quick_and_does_not_clip():
    chorale = max(load_chorales(steps_per_beat=4).train, key=lambda chorale: len(chorale.pitches))
    notes = voice_notes(chorale.pitches, chorale.onsets)
    begin = time.process_time()
    waveform = synthesize(notes, steps_per_beat=4, tempo=100)
    assert time.process_time() - begin < 3  # 0.1 s on an idle machine
    assert waveform.dtype == np.float32
    assert len(waveform) > 60 * 22050
    assert np.abs(waveform).max() == pytest.approx(0.9)


def test_no_notes_are_silence_and_an_empty_midi_file(tmp_path):
    assert synthesize([], steps_per_beat=1).shape == (0,)
    write_midi(tmp_path / "empty.mid", [], steps_per_beat=1)
    assert mido.MidiFile(tmp_path / "empty.mid").length == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: voice_notes([[60]], [[1, 0]]), r"same shape \[T, V\], got \[1, 1\] and \[1, 2\]"),
        (lambda: voice_notes([[128]], [[1]]), r"`pitches` must be MIDI numbers 0..127, got 128..128"),
        (lambda: roll_notes([1, 0]), r"`roll` must have shape \[T, K\], got \[2\]"),
        (lambda: roll_notes([[1, 0]], lowest=127), r"`lowest` must put the columns within 1..127, got 127..128"),
        (lambda: write_midi("x", TUNE, steps_per_beat=7), r"`steps_per_beat` must be a divisor of 480, got 7"),
        (lambda: write_midi("x", TUNE, steps_per_beat=1, programs=[128]), r"`programs` must be numbers 0..127"),
        (
            lambda: write_midi("x", [Note(15, 60, 0, 1)], steps_per_beat=1),
            r"`notes` must have voices 0..14, got \[15\]",
        ),
        (lambda: synthesize(TUNE, steps_per_beat=0), r"`steps_per_beat` must be >= 1, got 0"),
        (lambda: synthesize(TUNE, steps_per_beat=1, tempo=0), r"`tempo` must be > 0 beats per minute, got 0"),
        (lambda: synthesize(TUNE, steps_per_beat=1, sample_rate=0), r"`sample_rate` must be >= 1, got 0"),
        (lambda: write_wav("x", np.zeros((2, 2))), r"`waveform` must have shape \[samples\], got \[2, 2\]"),
        (lambda: write_wav("x", np.array([0.5, -1.5])), r"`waveform` must be in \[-1, 1\], got a peak of 1.5"),
        (lambda: write_wav("x", np.zeros(2), sample_rate=0), r"`sample_rate` must be >= 1, got 0"),
    ],
)
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_wav_file_is_read_as_it_was_written(tmp_path):
    waveform = np.random.default_rng(0).uniform(-1, 1, 500)
    write_wav(tmp_path / "a.wav", waveform, sample_rate=8000)
    sound = read_wav(tmp_path / "a.wav", sample_rate=8000)
    assert sound.dtype == np.float32
    np.testing.assert_allclose(sound, waveform, atol=1e-4)
    with (tmp_path / "a.wav").open("rb") as file:
        np.testing.assert_array_equal(read_wav(file, sample_rate=8000), sound)


def test_a_wav_file_of_another_kind_is_refused(tmp_path):
    def write(name, channels=1, width=2, rate=8000):
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(width)
            file.setframerate(rate)
            file.writeframes(bytes(80))
        return tmp_path / name

    with pytest.raises(ValueError, match=r"`source` must have 8000 Hz, got 44100 in .*a.wav; convert it by `ffmpeg"):
        read_wav(write("a.wav", rate=44100), sample_rate=8000)
    with pytest.raises(ValueError, match=r"`source` must have 1 channel, got 2 in .*b.wav"):
        read_wav(write("b.wav", channels=2), sample_rate=8000)
    with pytest.raises(ValueError, match=r"`source` must have 2 bytes a sample, got 1 in .*c.wav"):
        read_wav(write("c.wav", width=1), sample_rate=8000)
    whole = write("d.wav").read_bytes()
    for size, message in (
        (60, "must be a whole WAV file, got 8 of 40 samples"),
        (20, "must be a WAV file"),
        (0, "WAV"),
    ):
        (tmp_path / "d.wav").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=message):
            read_wav(tmp_path / "d.wav", sample_rate=8000)
    (tmp_path / "e.wav").write_text("not sound, and long enough for a header of a file of any kind")
    with pytest.raises(ValueError, match=r"`source` must be a WAV file of whole numbers \(PCM\), got .*e.wav"):
        read_wav(tmp_path / "e.wav", sample_rate=8000)
    with pytest.raises(FileNotFoundError):
        read_wav(tmp_path / "missing.wav", sample_rate=8000)
