import gzip

import numpy as np
import pytest

from rnn_jax.data.digits import Digits, load_mnist, load_mnist_5k, load_optdigits, read_idx, split_digits
from rnn_jax.data.fetch import DamagedFileError


def idx(values: np.ndarray, kind: int) -> bytes:
    header = bytes([0, 0, kind, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.tobytes()


def test_the_embedded_digits_are_the_published_ones():
    digits = load_optdigits()
    assert digits.images.shape == (1797, 8, 8)
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert sorted(set(np.round(digits.images.ravel() * (16 / 255)).astype(int))) == list(range(17))
    first_zero = np.round(digits.images[0] * (16 / 255)).astype(int)
    assert digits.labels[0] == 0
    assert first_zero[0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("kind", "dtype"), [(0x08, ">u1"), (0x0B, ">i2"), (0x0D, ">f4")])
def test_an_idx_file_is_read_back(tmp_path, compressed, kind, dtype):
    values = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "values"
    path.write_bytes(gzip.compress(idx(values, kind)) if compressed else idx(values, kind))
    found = read_idx(path)
    np.testing.assert_array_equal(found, values)
    assert found.dtype.isnative


def test_a_damaged_idx_file_is_refused_with_what_was_found(tmp_path):
    whole = idx(np.arange(12, dtype=np.uint8).reshape(3, 4), 0x08)
    path = tmp_path / "digits"
    for content, text in [
        (whole[:-1], r"digits is cut off or too long: its header says 24 bytes for shape \[3, 4\], found 23"),
        (whole + b"!", "cut off or too long"),
        (whole[:9], "cut off or too long"),
        (b"GIF89a", "not an idx file: it starts with 47 49 46 38"),
        (b"", "not an idx file"),
        (gzip.compress(whole)[:-9], "damaged"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DamagedFileError, match=text):
            read_idx(path)


def test_parts_share_no_digit_and_have_equal_shares_of_each_class():
    digits = Digits(np.arange(60, dtype=np.uint8).reshape(60, 1, 1), np.repeat([0, 1, 2], 20).astype(np.uint8))
    parts = split_digits(digits, valid=0.1, test=0.2, seed=5)
    assert [np.bincount(part.labels).tolist() for part in parts] == [[14] * 3, [2] * 3, [4] * 3]
    assert sorted(np.concatenate([part.images.ravel() for part in parts]).tolist()) == list(range(60))
    assert all((part.labels == part.images.ravel() // 20).all() for part in parts)
    assert (np.diff(parts[0].labels.astype(int)) < 0).any()
    again = split_digits(digits, valid=0.1, test=0.2, seed=5)
    assert all((one.images == other.images).all() for one, other in zip(parts, again, strict=True))
    with pytest.raises(ValueError, match=r"`valid` and `test` must be positive with a sum below 1, got 0.5 and 0.5"):
        split_digits(digits, 0.5, 0.5)


def test_the_five_thousand_have_500_of_each_class():
    try:
        digits = load_mnist_5k()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    assert digits.images.shape == (5000, 28, 28)
    assert np.bincount(digits.labels).tolist() == [500] * 10
    assert digits.images.max() == 255
    assert digits.images[0, 14].max() > 200


def test_a_cut_off_mnist_is_named_with_the_remedy(tmp_path, monkeypatch):
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.parent.mkdir()
    path.write_bytes(b"\x1f\x8b")
    monkeypatch.setenv("RNN_JAX_DATA", str(tmp_path))
    with pytest.raises(DamagedFileError, match=r"train-images-idx3-ubyte\.gz is damaged.*Remedy: copy"):
        load_mnist()
