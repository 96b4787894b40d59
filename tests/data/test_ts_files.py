"""Labelled time series: the format, the embedded set, and what is refused."""

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest

from rnn_jax.data.ts_files import TIME_SERIES, load_time_series, read_ts

HEAD = "#comment\n@problemName Two\n@univariate false\n@classLabel true up down\n@data\n"


def test_series_of_different_lengths_are_read(tmp_path: Path) -> None:
    path = tmp_path / "Two_TRAIN.ts"
    path.write_text(HEAD + "1,2,3:-1.5,2e1,0:down\n\n4:5:up\n")
    series, labels, classes = read_ts(path)
    np.testing.assert_array_equal(series[0], [[1, -1.5], [2, 20], [3, 0]])
    np.testing.assert_array_equal(series[1], [[4, 5]])
    assert [classes[i] for i in labels] == ["down", "up"]
    assert series[0].dtype == np.float32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "1,2:1,2:left\n", r"line 6 must end in one of the labels \('up', 'down'\), got 'left'"),
        (HEAD + "1,2:1:up\n", r"line 6 must hold finite numbers, as many for each dimension, got \[2, 1\]"),
        (HEAD + "1,nan:1,2:up\n", "line 6 must hold finite numbers"),
        (HEAD + "1,?:1,2:up\n", "line 6 must hold numbers"),
        (HEAD + "up\n", r"line 6 must hold finite numbers, as many for each dimension, got \[\]"),
        (HEAD + "1:up\n1:2:up\n", r"one number of dimensions, got \[1, 2\]"),
        (HEAD, "must hold series after @data, got none"),
        ("@classLabel false\n@data\n1:2\n", r"one of the labels \(\), got '2'"),
    ],
)
def test_what_is_not_such_a_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "Two_TRAIN.ts"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_ts(path)


def test_the_embedded_set_is_the_published_one() -> None:
    train, test = load_time_series("JapaneseVowels")
    assert np.bincount(train.labels).tolist() == [30] * 9
    assert np.bincount(test.labels).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    lengths = [len(one) for one in train.series + test.series]
    assert (len(train.series), len(test.series), min(lengths), max(lengths)) == (270, 370, 7, 29)
    np.testing.assert_array_equal(train.series[0][:3, 0], np.float32([1.860936, 1.891651, 1.939205]))
    assert train.series[0][0, 1] == np.float32(-0.207383)
    try:
        folder = Path(str(importlib.metadata.distribution("aeon").locate_file("aeon/datasets/data/JapaneseVowels")))
    except importlib.metadata.PackageNotFoundError:
        return
    for part, ours in (("TRAIN", train), ("TEST", test)):
        theirs = read_ts(folder / f"JapaneseVowels_{part}.ts")
        assert all((a == b).all() for a, b in zip(ours.series, theirs.series, strict=True))


def test_sets_have_their_sizes_where_they_are() -> None:
    sizes = {"BasicMotions": (40, 40, 6), "GunPoint": (50, 150, 1), "ItalyPowerDemand": (67, 1029, 1)}
    for name, size in (sizes | {"ArrowHead": (36, 175, 1)}).items():
        try:
            train, test = load_time_series(name)
        except FileNotFoundError as missing:
            pytest.skip(str(missing))
        assert (len(train.series), len(test.series), train.series[0].shape[1]) == size
        assert train.classes == test.classes


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=f"`name` must be one of {', '.join(TIME_SERIES)}, got 'Vowels'"):
        load_time_series("Vowels")
