import numpy as np
import pytest

from rnn_jax.data import DamagedFileError, load_piano_rolls


@pytest.fixture(scope="module")
def jsb():
    try:
        return load_piano_rolls("jsb")
    except FileNotFoundError as error:
        pytest.skip(f"the JSB Chorales file cannot be found: {error}")


def test_jsb_has_the_published_number_of_pieces_and_frames(jsb):
    assert [len(split) for split in jsb] == [229, 76, 77]
    assert [sum(len(roll) for roll in split) for split in jsb] == [13807, 4602, 4725]


def test_rolls_are_boolean_with_a_column_per_piano_key(jsb):
    assert {(roll.dtype.name, roll.shape[1]) for split in jsb for roll in split} == {("bool", 88)}


def test_at_most_four_voices_sound_in_jsb_and_nearly_always_three_or_four(jsb):
    voices = np.concatenate([roll.sum(axis=1) for split in jsb for roll in split])
    assert voices.max() == 4
    assert np.isin(voices, (3, 4)).mean() > 0.95


@pytest.mark.parametrize(
    ("name", "pieces"),
    [("nottingham", [694, 173, 170]), ("muse", [524, 135, 124]), ("piano", [87, 12, 25])],
)
def test_the_other_sets_have_the_published_number_of_pieces(name, pieces):
    try:
        rolls = load_piano_rolls(name)
    except FileNotFoundError as error:
        pytest.skip(f"the file cannot be found: {error}")
    assert [len(split) for split in rolls] == pieces


def test_a_damaged_file_is_named_with_the_remedy(tmp_path, monkeypatch):
    path = tmp_path / "poly_music" / "JSB_Chorales.mat"
    path.parent.mkdir()
    path.write_bytes(b"MATLAB 5.0 MAT-file, cut off")
    monkeypatch.setenv("RNN_JAX_DATA", str(tmp_path))
    with pytest.raises(DamagedFileError, match=r"JSB_Chorales\.mat is damaged.*Remedy: copy the published file"):
        load_piano_rolls("jsb")
    assert path.read_bytes() == b"MATLAB 5.0 MAT-file, cut off"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"`name` must be one of jsb, nottingham, muse, piano, got 'bach'"):
        load_piano_rolls("bach")
