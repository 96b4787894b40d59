"""The spoken digits: what is in the archive, its split, and strings made of recordings."""

import io
import tarfile

import numpy as np
import pytest

from rnn_jax.data import (
    DamagedFileError,
    SpokenDigit,
    fetch,
    join_digits,
    load_digit_mfccs,
    load_spoken_digits,
    split_takes,
    write_wav,
)
from rnn_jax.data import spoken_digits as module


def recording(digit: int, size: int, take: int = 0) -> SpokenDigit:
    return SpokenDigit(digit, "theo", take, np.linspace(0.1, 0.9, size, dtype=np.float32))


def archive(tmp_path, names):
    path = tmp_path / "recordings.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for number, name in enumerate(names):
            write_wav(tmp_path / "a.wav", np.full(10 + number, 0.25), sample_rate=8000)
            content = (tmp_path / "a.wav").read_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def test_the_published_recordings() -> None:
    try:
        fetch("fsdd")
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    recordings = load_spoken_digits()
    assert {one.speaker for one in recordings} == {"george", "jackson", "lucas", "nicolas", "theo", "yweweler"}
    assert {(one.digit, one.take) for one in recordings} == {(d, t) for d in range(10) for t in range(50)}
    assert sum(len(one.sound) for one in recordings) == 10_498_424
    assert all(one.sound.dtype == np.float32 and abs(one.sound).max() <= 1 for one in recordings)
    splits = split_takes(recordings)
    assert [len(part) for part in splits] == [2400, 300, 300]
    assert {one.take for one in splits.test} == set(range(5))


def test_an_archive_is_read_by_its_names(tmp_path, monkeypatch) -> None:
    path = archive(tmp_path, ["recordings/3_theo_11.wav", "recordings/3_theo_2.wav", "recordings/README.md"])
    monkeypatch.setattr(module, "fetch", lambda name: path)
    with pytest.raises(DamagedFileError, match="must hold 3000 recordings, got 2"):
        load_spoken_digits()
    monkeypatch.setattr(module, "_COUNT", 2)
    first, second = load_spoken_digits()
    assert (first.digit, first.speaker, first.take, len(first.sound)) == (3, "theo", 2, 11)
    assert (second.take, len(second.sound)) == (11, 10)
    np.testing.assert_allclose(first.sound, 0.25, atol=1e-4)


def test_where_there_is_no_archive_the_error_says_how_to_make_it(tmp_path, monkeypatch) -> None:
    for name in ("RNN_JAX_DATA", "RNN_JAX_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"(?s)'fsdd' was not found.*git archive --format=tar.gz -9 26eb9aa"):
        load_spoken_digits()
    (tmp_path / "fsdd").mkdir()
    (tmp_path / "fsdd" / "recordings.tar.gz").write_bytes(b"half of it")
    with pytest.raises(DamagedFileError):
        load_spoken_digits()


def test_features_are_split_within_each_digit(tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    digits = rng.permutation(np.repeat(np.arange(10), 300))
    lengths = rng.integers(1, 4, 3000)
    frames = np.repeat(np.arange(3000), lengths)[:, None] * np.ones(13)
    np.savez(tmp_path / "digits.npz", X=frames, y=digits, lengths=lengths)
    monkeypatch.setattr(module, "fetch", lambda name: tmp_path / "digits.npz")
    splits = load_digit_mfccs()
    for part, count in zip(splits, (240, 30, 30), strict=True):
        assert np.bincount([one.digit for one in part]).tolist() == [count] * 10
    numbers = [int(one.sound[0, 0]) for part in splits for one in part]
    assert sorted(numbers) == list(range(3000))
    for one in splits.test:
        number = int(one.sound[0, 0])
        assert one.sound.shape == (lengths[number], 13)
        assert one.digit == digits[number]


def test_a_string_is_its_recordings_and_what_is_between_them() -> None:
    recordings = [recording(3, 5), recording(1, 2), recording(4, 4)]
    hiss = np.arange(10, dtype=np.float32)
    string = join_digits(recordings, [2, 0, 3, 1], silence=hiss)
    assert string.digits.tolist() == [3, 1, 4]
    expected = [hiss[:2], recordings[0].sound, recordings[1].sound, hiss[:3], recordings[2].sound, hiss[:1]]
    np.testing.assert_array_equal(string.sound, np.concatenate(expected))
    for one, (start, end) in zip(recordings, string.spans, strict=True):
        np.testing.assert_array_equal(string.sound[start:end], one.sound)
    assert (join_digits(recordings[:1], [4, 0]).sound[:4] == 0).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="`recordings` must hold at least one recording, got none"):
        join_digits([], [0])
    with pytest.raises(ValueError, match=r"`gaps` must be 2 lengths of at least 0, got \[1\]"):
        join_digits([recording(1, 3)], [1])
    with pytest.raises(ValueError, match=r"`gaps` must be 2 lengths of at least 0, got \[1, -1\]"):
        join_digits([recording(1, 3)], [1, -1])
    with pytest.raises(ValueError, match=r"`silence` must be at least 5 long and like a sound, got shape \(3,\)"):
        join_digits([recording(1, 3)], [1, 5], silence=np.zeros(3, np.float32))
