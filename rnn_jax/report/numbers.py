"""Means and spreads over runs that differ in their seed only."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

__all__ = [
    "Curve",
    "Spread",
    "Summary",
    "curves",
    "is_number",
    "mean_curve",
    "number_text",
    "numbers",
    "summarize",
    "summary_text",
]


class Summary(NamedTuple):
    """Several measurements of one number.

    Args:
      mean: their mean.
      sd: sample standard deviation (n - 1 below the sum); None for a single measurement.
      count: how many there are.

    Example:
      >>> Summary(8.5, None, 1).sd is None
      True
    """

    mean: float
    sd: float | None
    count: int


class Curve(NamedTuple):
    """One logged number of one run over training steps.

    Args:
      steps: [T], ascending, each once.
      values: [T].

    Example:
      >>> len(Curve(np.array([10, 20]), np.array([9.5, 9.0])).steps)
      2
    """

    steps: np.ndarray
    values: np.ndarray


class Spread(NamedTuple):
    """Curves of several runs as one.

    Args:
      steps: [T], the steps at which every run has a value.
      mean: [T].
      sd: [T], sample standard deviation over runs; None for a single run.

    Example:
      >>> Spread(np.array([10]), np.array([9.5]), None).sd is None
      True
    """

    steps: np.ndarray
    mean: np.ndarray
    sd: np.ndarray | None


def summarize(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation.

    Args:
      values: at least one number.

    Returns:
      the summary; NaN where a value is NaN or infinite.

    Raises:
      ValueError: there is no value.

    Example:
      >>> summarize([8.0, 9.0, 10.0])
      Summary(mean=9.0, sd=1.0, count=3)
    """
    if not len(values):
        raise ValueError("`values` must hold at least one number, got none")
    array = np.asarray(values, float)
    with np.errstate(invalid="ignore", over="ignore"):
        return Summary(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None, len(array))


def summary_text(summary: Summary) -> str:
    """Writes a mean and its spread with two digits of the spread.

    Args:
      summary: what `summarize` returned.

    Returns:
      for example `8.589 ± 0.012`; the mean alone, with five digits, where there is no spread to show.

    Example:
      >>> summary_text(summarize([8.6023, 8.58033, 8.58524]))
      '8.589 ± 0.012'
      >>> summary_text(summarize([128732, 128732]))
      '128732'
    """
    mean, sd, _ = summary
    if sd is None or sd == 0:
        return number_text(mean)
    if not (math.isfinite(mean) and math.isfinite(sd)):
        return f"{number_text(mean)} ± {number_text(sd)}"
    decimals = 1 - math.floor(math.log10(sd))
    if decimals > 8 or abs(mean) >= 1e9:
        return f"{mean:.5g} ± {sd:.2g}"
    return f"{mean:.{max(decimals, 0)}f} ± {sd:.{max(decimals, 0)}f}"


def number_text(value: float) -> str:
    """Writes a number: whole ones in full, others with five significant digits.

    Args:
      value: the number.

    Returns:
      the text.

    Example:
      >>> number_text(128732.0), number_text(8.541234), number_text(float("nan"))
      ('128732', '8.5412', 'nan')
    """
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.5g}"


def curves(rows: Sequence[Mapping[str, Any]], name: str) -> list[Curve]:
    """One column of the rows of a run over steps.

    Args:
      rows: what `rnn_jax.training.read_metrics` returns; each may lack the column. A list of
        numbers holds one for each of the models that train side by side.
      name: for example `valid/nll`.

    Returns:
      one curve for each model, usually one; none without the column. Where a step was logged
      twice, the later row counts.

    Example:
      >>> rows = [{"step": 1, "train/nll": 9.5}, {"step": 2}, {"step": 2, "train/nll": 9.0}]
      >>> curves(rows, "train/nll")[0].steps
      array([1, 2])
      >>> len(curves([{"step": 1, "train/nll": [9.5, 9.0]}], "train/nll"))
      2
    """
    points: dict[int, dict[int, float]] = {}
    for row in rows:
        if is_number(row.get("step")):
            for index, value in enumerate(numbers(row.get(name))):
                points.setdefault(index, {})[int(row["step"])] = float(value)
    found = []
    for values in points.values():
        steps = sorted(values)
        found.append(Curve(np.array(steps, int), np.array([values[step] for step in steps], float)))
    return found


def numbers(value: Any) -> list[int | float]:
    """The numbers in a logged value.

    Args:
      value: a number, a nested list, or anything else.

    Returns:
      one number, those of the list, or none.

    Example:
      >>> numbers(8.5), numbers([[8.5, 9.0], [7.5]]), numbers("high")
      ([8.5], [8.5, 9.0, 7.5], [])
    """
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if is_number(value) else []


def mean_curve(runs: Sequence[Curve]) -> Spread:
    """Mean and sample standard deviation over runs, where all of them have a value.

    A mean over runs of unequal length would jump where a run ends, so it ends there.

    Args:
      runs: a curve of each, at least one.

    Returns:
      the spread; it has no steps where the runs share none. NaN in one run is NaN in the mean.

    Raises:
      ValueError: there is no curve.

    Example:
      >>> long, short = Curve(np.array([1, 2]), np.array([4.0, 2.0])), Curve(np.array([1]), np.array([6.0]))
      >>> mean_curve([long, short]).mean
      array([5.])
    """
    if not runs:
        raise ValueError("`runs` must hold at least one curve, got none")
    steps = runs[0].steps
    for each in runs[1:]:
        steps = np.intersect1d(steps, each.steps)
    values = np.stack([each.values[np.searchsorted(each.steps, steps)] for each in runs])
    with np.errstate(invalid="ignore", over="ignore"):
        return Spread(steps, values.mean(0), values.std(0, ddof=1) if len(runs) > 1 else None)


def is_number(value: Any) -> TypeGuard[int | float]:
    """True for int and float, which bool is not.

    Args:
      value: anything.

    Returns:
      whether it is a number.

    Example:
      >>> is_number(3), is_number(True), is_number("3")
      (True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)
