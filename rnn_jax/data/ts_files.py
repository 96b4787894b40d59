"""Labelled time series in the `.ts` format of the UCR and UEA archives, in their official splits."""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from rnn_jax.data.fetch import embedded, fetch

__all__ = ["TIME_SERIES", "LabelledSeries", "load_time_series", "read_ts"]

TIME_SERIES = ("JapaneseVowels", "BasicMotions", "GunPoint", "ItalyPowerDemand", "ArrowHead")
"""The data sets that `load_time_series` knows; the first one is embedded."""

_VOWELS_SHA256 = "d3d0ab4f2c3326180574e63abee11a987dd603f76fb4cbb51b487c81433e8a9a"


class LabelledSeries(NamedTuple):
    """N series with a label each."""

    series: tuple[np.ndarray, ...]  # N arrays [T, D] float32
    labels: np.ndarray  # [N] int32, places in classes
    classes: tuple[str, ...]


def load_time_series(name: str) -> tuple[LabelledSeries, LabelledSeries]:
    """One data set of the archives in its official split.

    - JapaneseVowels: nine men say /ae/; 12 cepstrum coefficients, 7 to 29 steps; 270 and 370 series (Kudo, Toyama and
      Shimbo 1999; UCI, CC BY 4.0). It is embedded, with the six decimals of the published file.
    - BasicMotions: four activities, accelerometer and gyroscope of a watch, 6 x 100; 40 and 40.
    - GunPoint: a hand draws a gun or points, its height, 150 steps; 50 and 150.
    - ItalyPowerDemand: a day of electrical power in Italy, in winter or summer, 24 steps; 67 and 1,029.
    - ArrowHead: outlines of arrowheads of three kinds, 251 steps; 36 and 175.

    All but the first come through `fetch`, as files of the package aeon, to which the archives gave them (its licence
    is BSD-3; the archives state none for the data).

    Args:
        name: one of `TIME_SERIES`.

    Returns:
        `(train, test)`.

    Raises:
        ValueError: if the name is none of these.
        FileNotFoundError: if a file is nowhere to be found; says what to do.
        DamagedFileError: if one was found but is not the published one.

    References:
        Dau et al., "The UCR Time Series Archive", 2018, arXiv:1810.07758; Bagnall et al., "The UEA multivariate time
        series classification archive, 2018", arXiv:1811.00075.
    """
    if name not in TIME_SERIES:
        raise ValueError(f"`name` must be one of {', '.join(TIME_SERIES)}, got {name!r}")
    if name == TIME_SERIES[0]:
        return _load_vowels("train"), _load_vowels("test")
    return read_ts(fetch(f"{name}_TRAIN")), read_ts(fetch(f"{name}_TEST"))


def _load_vowels(part: str) -> LabelledSeries:
    with embedded("japanese_vowels.npz", _VOWELS_SHA256) as file:
        values = (file[f"{part}_values"] / 1e6).astype(np.float32)
        ends = np.cumsum(file[f"{part}_lengths"], dtype=np.int64)[:-1]
        labels = file[f"{part}_labels"].astype(np.int32)
    return LabelledSeries(tuple(np.split(values, ends)), labels, tuple("123456789"))


def read_ts(path: str | os.PathLike[str]) -> LabelledSeries:
    r"""A file of labelled series: `#` comments, `@` settings, and after `@data` a series a line.

    The dimensions of a series stand between colons and its label after the last one; values stand between commas.

    Args:
        path: the file.

    Returns:
        The series, float32, and their labels, in the order of the file; lengths may differ.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no `@classLabel true ...` or no series, a label is not in it, the dimensions of a series
            differ in length, those of all in number, or a value is no finite number (`?` is a missing one).

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "two.ts"
        >>> _ = path.write_text("@classLabel true up down\n@data\n1,2,3:0,0,1:up\n3,2:1,1:down\n")
        >>> series, labels, classes = read_ts(path)
        >>> [one.shape for one in series], [classes[i] for i in labels]
        ([(3, 2), (2, 2)], ['up', 'down'])
    """
    classes: tuple[str, ...] = ()
    series, labels, in_data = [], [], False
    for number, line in enumerate(pathlib.Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not in_data:
            setting, *values = line.split()
            in_data = setting.lower() == "@data"
            if setting.lower() == "@classlabel" and values[:1] == ["true"]:
                classes = tuple(values[1:])
            continue
        *dimensions, label = line.split(":")
        if label not in classes:
            raise ValueError(f"`path`: line {number} must end in one of the labels {classes}, got {label[:40]!r}")
        series.append(_parse(dimensions, number))
        labels.append(classes.index(label))
    if not series:
        raise ValueError(f"`path` must hold series after @data, got none: {path}")
    widths = sorted({one.shape[1] for one in series})
    if len(widths) > 1:
        raise ValueError(f"`path` must hold series with one number of dimensions, got {widths}")
    return LabelledSeries(tuple(series), np.array(labels, np.int32), classes)


def _parse(dimensions: list[str], number: int) -> np.ndarray:
    """A series [T, D] from its dimensions as text."""
    try:
        columns = [np.array(dimension.split(","), np.float32) for dimension in dimensions]
    except ValueError as error:
        raise ValueError(f"`path`: line {number} must hold numbers, {error}") from None
    if len({len(column) for column in columns}) != 1 or not all(np.isfinite(column).all() for column in columns):
        lengths = [len(column) for column in columns]
        raise ValueError(f"`path`: line {number} must hold finite numbers, as many for each dimension, got {lengths}")
    return np.stack(columns, axis=1)
