"""Learning curves of groups of runs: thin lines are runs, a thick line is their mean.

No text from outside goes into a picture: names and labels stand beside it, so that nothing in them is taken for
mathematics, and a reader can search for them.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from rnn_jax.plotting import FAINT, PALETTE, finish, new_axes
from rnn_jax.report.numbers import Curve, curves, mean_curve, numbers
from rnn_jax.report.runs import RunGroup, RunRecord

__all__ = ["draw_series", "group_style", "picture", "series_names"]

NO_SERIES = frozenset({"step", "seconds", "wall_time"})
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
LOG_FROM = 50
"""Curves whose largest value is that many times their smallest get a logarithmic axis."""


def series_names(runs: Sequence[RunRecord]) -> list[str]:
    """All numbers that any of the runs has logged.

    Args:
      runs: the runs.

    Returns:
      their names in the order of first appearance, but `valid/NAME` right behind `train/NAME`.

    Example:
      >>> rows = ({"step": 1, "train/loss": 2.0, "train/nll": 2.0}, {"step": 1, "valid/nll": 2.5})
      >>> from pathlib import Path
      >>> series_names([RunRecord(Path("r"), "toy", {}, {}, rows, None, (), ())])
      ['train/loss', 'train/nll', 'valid/nll']
    """
    names = [name for run in runs for row in run.rows for name, value in row.items() if numbers(value)]
    names = [name for name in dict.fromkeys(names) if name not in NO_SERIES]
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        first.setdefault(_metric(name), number)
    return sorted(names, key=lambda name: (first[_metric(name)], not name.startswith("train/")))


def draw_series(groups: Sequence[RunGroup], name: str, *, ax: Axes | None = None) -> Axes:
    """Draws one logged number of every group over training steps.

    A thin line is a run, or one of the models that train side by side in it; it is dotted while the
    run is unfinished. The thick line is the mean over the runs of a group, the band around it one
    sample standard deviation to either side. Both are drawn where all finished runs have a value
    (all runs, if none is finished). The vertical axis covers what comes after the first tenth of
    training.

    Args:
      groups: the groups; their letters stand at the ends of the curves where there are several.
      name: for example `valid/nll`.
      ax: where to draw; a new figure if None.

    Returns:
      the axes.

    Example:
      >>> from pathlib import Path
      >>> run = RunRecord(Path("r"), "toy", {}, {}, ({"step": 1, "train/nll": 9.0},), {}, (), ())
      >>> ax = draw_series([RunGroup("A", "toy", {}, (run,))], "train/nll")
      >>> ax.get_lines()[0].get_ydata().tolist()
      [9.0]
    """
    ax = new_axes((4.8, 2.9)) if ax is None else ax
    shown: list[Curve] = []
    ends: list[tuple[float, float, str, str]] = []
    for index, group in enumerate(groups):
        found = [(run.result is not None, each) for run in group.runs for each in curves(run.rows, name)]
        if found:
            colour, dashes = group_style(index)
            end = _draw_group(ax, found, colour, dashes)
            shown += [each for _, each in found]
            ends.append((float(end.steps[-1]), float(end.values[-1]), group.letter, colour))
    _set_range(ax, shown)
    if len(groups) > 1:
        _name_ends(ax, ends)
    ax.grid(axis="y", color=FAINT, lw=0.7, zorder=0)
    finish(ax, "")
    ax.set_xlabel("training step")
    return ax


def group_style(index: int) -> tuple[str, str | tuple[float, tuple[float, ...]]]:
    """Colour and dashes of a group; eighteen groups look different.

    Args:
      index: the number of the group.

    Returns:
      `(colour, line style)`.

    Example:
      >>> group_style(0) == group_style(6)
      False
    """
    order = (3, 0, 2, 1, 4, 5)
    return PALETTE[order[index % len(order)]], DASHES[index // len(order) % len(DASHES)]


def picture(ax: Axes) -> bytes:
    """A figure as an SVG file.

    Args:
      ax: its axes.

    Returns:
      the bytes of the file.

    Example:
      >>> picture(new_axes()).startswith(b"<?xml")
      True
    """
    file = io.BytesIO()
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _draw_group(ax: Axes, found: Sequence[tuple[bool, Curve]], colour: str, dashes: Any) -> Curve:
    """Draws `(finished, curve)` of every run of a group; returns the curve at whose end its letter stands."""
    alone = len(found) == 1
    for finished, (steps, values) in found:
        style: dict[str, Any] = {"lw": 1.8, "zorder": 4} if alone else {"lw": 0.7, "alpha": 0.55, "zorder": 3}
        if not finished:
            style |= {"lw": 1.4, "alpha": 1.0}
        line = dashes if finished else (0, (1, 1.2))
        marker = "o" if len(steps) == 1 else ""
        ax.plot(steps, _finite(values), color=colour, ls=line, marker=marker, ms=4, gid="run", **style)
    if alone:
        return found[0][1]
    steps, mean, sd = mean_curve([each for finished, each in found if finished] or [each for _, each in found])
    if not len(steps):
        return max((each for _, each in found), key=lambda each: each.steps[-1])
    mean = _finite(mean)
    ax.plot(steps, mean, color=colour, ls=dashes, lw=2.0, zorder=5, gid="mean")
    if sd is not None:
        spread = _finite(sd)
        ax.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.16, lw=0, zorder=2)
    return Curve(steps, mean)


def _metric(name: str) -> str:
    """The name without `train/` or `valid/`."""
    prefix, _, rest = name.partition("/")
    return rest if prefix in ("train", "valid") else name


def _finite(values: np.ndarray) -> np.ndarray:
    """Infinite values become gaps, as NaN does."""
    return np.where(np.isfinite(values), values, np.nan)


def _set_range(ax: Axes, curves: Sequence[Curve]) -> None:
    """Limits of both axes; the vertical one covers what comes after the first tenth of training."""
    ax.margins(x=0.01)
    last = max((each.steps[-1] for each in curves), default=0)
    late = [each.values[each.steps >= 0.1 * last] for each in curves]
    seen = np.concatenate(late) if late else np.zeros(0)
    seen = seen[np.isfinite(seen)]
    if not seen.size:
        return
    low, high = float(seen.min()), float(seen.max())
    if low > 0 and high > LOG_FROM * low:
        ax.set_yscale("log")
        ax.set_ylim(low / 1.2, high * 1.2)
        return
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    ax.set_ylim(low - margin, high + margin)


def _name_ends(ax: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Letters at the right of the curves' ends; those that would touch are moved apart."""
    last = max((step for step, *_ in ends), default=0.0)
    ax.get_xlim()  # settles the limits, which the transformation below reads
    to_axes = ax.transData + ax.transAxes.inverted()
    placed = []
    for step, value, letter, colour in ends:
        x, y = to_axes.transform((step, value)) if np.isfinite(value) else (1.0, 0.5)
        height = float(np.clip(np.nan_to_num(y), 0.0, 1.0))
        placed.append((1.0 if step >= 0.95 * last else float(x), height, letter, colour))
    lowest = -1.0
    for x, y, letter, colour in sorted(placed, key=lambda item: item[1]):
        lowest = max(y, lowest + 0.075) if x == 1.0 else lowest
        ax.annotate(
            letter,
            (x, lowest if x == 1.0 else y),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            fontweight="bold",
            color=colour,
            annotation_clip=False,
        )
