import importlib.resources

import numpy as np
import pytest
import scipy.io

from rnn_jax.data import Chorale, DamagedFileError, fetch, load_chorales, transpose, voice_ranges
from rnn_jax.data.chorales import _every


@pytest.fixture(scope="module")
def sixteenths():
    return load_chorales(steps_per_beat=4)


def small(pitches, onsets, tonic=2) -> Chorale:
    steps = len(pitches)
    return Chorale(
        name="small",
        pitches=np.array(pitches, np.int32),
        onsets=np.array(onsets, bool),
        fermatas=np.zeros(steps, bool),
        position=np.arange(steps, dtype=np.int32),
        beats_per_bar=4,
        tonic=tonic,
        minor=True,
    )


@pytest.mark.parametrize("steps_per_beat", [1, 2, 4])
def test_every_grid_has_all_pieces_with_agreeing_shapes_and_dtypes(steps_per_beat):
    splits = load_chorales(steps_per_beat)
    assert [len(split) for split in splits] == [196 + 36, 62, 67]
    frames = [sum(len(chorale.pitches) for chorale in split) for split in splits]
    assert frames == [total * steps_per_beat // 4 for total in (50856, 13048, 14996)]
    for chorale in (chorale for split in splits for chorale in split):
        steps = len(chorale.pitches)
        assert (chorale.pitches.shape, chorale.pitches.dtype) == ((steps, 4), np.int32)
        assert (chorale.onsets.shape, chorale.onsets.dtype) == ((steps, 4), np.bool_)
        assert (chorale.fermatas.shape, chorale.fermatas.dtype) == ((steps,), np.bool_)
        assert (chorale.position.shape, chorale.position.dtype) == ((steps,), np.int32)


def test_names_are_distinct_across_the_splits(sixteenths):
    names = [chorale.name for split in sixteenths for chorale in split]
    assert len(set(names)) == len(names) == 361


@pytest.mark.parametrize("steps_per_beat", [1, 2, 4])
def test_a_note_begins_wherever_the_pitch_changes_and_never_on_a_rest(steps_per_beat):
    for chorale in (chorale for split in load_chorales(steps_per_beat) for chorale in split):
        before = np.vstack([np.zeros((1, 4), np.int32), chorale.pitches[:-1]])
        changed = (chorale.pitches != before) & (chorale.pitches > 0)
        assert not (changed & ~chorale.onsets).any(), chorale.name
        assert not (chorale.onsets & (chorale.pitches == 0)).any(), chorale.name


def test_voices_stay_in_their_ranges_and_the_bass_below_the_soprano(sixteenths):
    everything = [chorale for split in sixteenths for chorale in split]
    np.testing.assert_array_equal(voice_ranges(everything), [[57, 81], [53, 74], [48, 69], [36, 64]])
    pitches = np.concatenate([chorale.pitches for chorale in everything])
    both = (pitches[:, 0] > 0) & (pitches[:, 3] > 0)
    assert (pitches[both, 0] > pitches[both, 3]).mean() > 0.999
    assert (pitches == 0).mean() < 0.01


def test_positions_count_through_the_bar_and_upbeats_end_it(sixteenths):
    starts = set()
    for chorale in (chorale for split in sixteenths for chorale in split):
        starts.add(int(chorale.position[0]))
        step = np.diff(chorale.position)
        assert ((step == 1) | (chorale.position[1:] == 0)).all(), chorale.name
        full = chorale.position[:-1][chorale.position[1:] == 0] + 1
        assert (full == 4 * chorale.beats_per_bar).mean() > 0.4, chorale.name
    assert starts == {0, 8, 12}


def test_all_scores_but_two_have_fermatas_and_they_lie_on_notes_of_the_soprano(sixteenths):
    pieces = [chorale for split in sixteenths for chorale in split]
    assert [chorale.name for chorale in pieces if not chorale.fermatas.any()] == ["bwv1.6", "bwv112.5"]
    for chorale in pieces:
        assert (chorale.pitches[chorale.fermatas, 0] > 0).all(), chorale.name


@pytest.mark.parametrize("steps_per_beat", [1, 2])
def test_a_coarser_grid_equals_a_slow_walk_over_the_sixteenths(sixteenths, steps_per_beat):
    stride = 4 // steps_per_beat
    coarse = load_chorales(steps_per_beat)
    for fine, got in zip(sixteenths.valid[:12], coarse.valid[:12], strict=True):
        for step, t in enumerate(range(0, len(fine.pitches), stride)):
            for voice in range(4):
                sounding = fine.pitches[t, voice]
                struck = any(fine.onsets[u, voice] for u in range(max(0, t - stride + 1), t + 1))
                assert got.pitches[step, voice] == sounding
                assert got.onsets[step, voice] == (struck and sounding > 0)
            assert got.position[step] == fine.position[t] // stride
            assert got.fermatas[step] == fine.fermatas[t]


def test_a_passing_note_is_lost_and_a_repeated_note_stays_two_notes():
    # Voice 0: a passing sixteenth. Voice 1: the same pitch struck twice. Voice 2: struck late, then
    # held. Voice 3: struck late, and silent at the grid point.
    fine = small(
        [[60, 50, 40, 30], [62, 50, 41, 31], [64, 50, 41, 0], [64, 50, 41, 0]],
        [[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]],
    )
    got = _every(fine, 2)
    assert got.pitches.tolist() == [[60, 50, 40, 30], [64, 50, 41, 0]]
    assert got.onsets.tolist() == [[True, True, True, True], [True, True, True, False]]
    assert got.position.tolist() == [0, 1]


def test_a_grid_that_is_not_offered_is_refused():
    with pytest.raises(ValueError, match=r"`steps_per_beat` must be 1, 2 or 4, got 3"):
        load_chorales(3)


def test_transposing_moves_notes_and_key_but_not_rests():
    moved = transpose(small([[60, 0, 50, 40]], [[1, 0, 1, 1]], tonic=2), -3)
    assert moved.pitches.tolist() == [[57, 0, 47, 37]]
    assert moved.pitches.dtype == np.int32
    assert moved.tonic == 11
    assert moved.onsets.tolist() == [[True, False, True, True]]


def test_transposing_there_and_back_is_the_identity(sixteenths):
    chorale = sixteenths.test[5]
    back = transpose(transpose(chorale, 7), -7)
    np.testing.assert_array_equal(back.pitches, chorale.pitches)
    assert back.tonic == chorale.tonic


def test_transposing_out_of_the_midi_range_is_refused():
    chorale = small([[60, 55, 50, 40]], [[1, 1, 1, 1]])
    with pytest.raises(ValueError, match=r"`semitones` must keep all notes within 1..127, got 0..20"):
        transpose(chorale, -40)


def test_voice_ranges_ignore_rests_and_name_silent_voices():
    chorales = [small([[70, 65, 0, 40]], [[1] * 4]), small([[72, 60, 55, 0]], [[1] * 4])]
    assert voice_ranges(chorales).tolist() == [[70, 72], [60, 65], [55, 55], [40, 40]]
    with pytest.raises(ValueError, match=r"four voices, got none in tenor"):
        voice_ranges(chorales[:1])
    with pytest.raises(ValueError, match=r"at least one chorale"):
        voice_ranges([])


def test_pieces_agree_with_the_official_piano_rolls():
    try:
        rolls = scipy.io.loadmat(fetch("jsb"))
    except FileNotFoundError as error:
        pytest.skip(f"the official rolls cannot be found: {error}")
    path = importlib.resources.files("rnn_jax.data") / "embedded" / "bach_chorales.npz"
    with path.open("rb") as file, np.load(file) as archive:
        index = dict(zip(archive["name"].tolist(), archive["official_index"].tolist(), strict=True))

    equal = frames = compared = 0
    keys = ("traindata", "validdata", "testdata")
    for key, split in zip(keys, load_chorales(steps_per_beat=1), strict=True):
        for chorale in split:
            if index[chorale.name] < 0:
                continue
            roll = rolls[key][0, index[chorale.name]] != 0
            if len(roll) - len(chorale.pitches) not in (0, 1):
                continue  # the official file writes repeats out
            compared += 1
            matches = []
            for shift in range(6, 18):  # the official pieces are in C, an octave up
                ours = np.zeros((len(chorale.pitches), 128), bool)
                steps, voices = np.nonzero(chorale.pitches)
                ours[steps, chorale.pitches[steps, voices] + shift] = True
                matches.append((ours[:, 21:109] == roll[: len(ours)]).all(axis=1).sum())
            equal += max(matches)
            frames += len(chorale.pitches)
    assert compared == 222
    assert equal / frames > 0.94


@pytest.mark.parametrize(("change", "state"), [(lambda file: file.write_bytes(b"PK"), "damaged"), (None, "missing")])
def test_a_damaged_or_missing_file_is_named_with_the_remedy(tmp_path, monkeypatch, change, state) -> None:
    folder = tmp_path / "embedded"
    folder.mkdir()
    if change is not None:
        change(folder / "bach_chorales.npz")
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(DamagedFileError, match=rf"bach_chorales.npz is {state}: .* Remedy: install rnn_jax again"):
        load_chorales()
