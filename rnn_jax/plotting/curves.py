"""Numbers over training steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from rnn_jax.plotting.style import FAINT, PALETTE, finish, legend_above, new_axes


def learning_curves(
    history: Sequence[Mapping[str, Any]],
    metric: str,
    *,
    baselines: Mapping[str, float] | None = None,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draws a metric over training steps, with known numbers as dashed lines. Of N runs in one program it draws the
    mean, and a band from the least to the greatest.

    The last part of training is what one looks at, so the vertical axis covers the baselines and
    the curves after their first tenth; what sticks out above is cut off.

    Args:
      history: rows with `step` and numbers (or lists of N) `train/METRIC` and `valid/METRIC`, each in some rows:
        `FitInfo.history`, or what `read_metrics` returns.
      metric: the name without prefix.
      baselines: `{label: value}`, for example a published result; drawn as labelled lines.
      ax: where to draw; a new figure if None.
      title: text above the picture.

    Returns:
      the axes.

    Raises:
      ValueError: no row has the metric.

    Example:
      >>> history = [{"step": 10, "train/nll": 9.5}, {"step": 20, "train/nll": 9.0}]
      >>> ax = learning_curves(history, "nll", baselines={"GRU, Chung et al. 2014": 8.54})
      >>> [line.get_label() for line in ax.get_lines()][:1]
      ['training']
    """
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for prefix, label in (("train", "training"), ("valid", "validation")):
        column = f"{prefix}/{metric}"
        points = [(row["step"], row[column]) for row in history if column in row]
        if points:
            curves[label] = (np.array([p[0] for p in points]), np.array([p[1] for p in points]))
    if not curves:
        raise ValueError(f"`history` must hold train/{metric} or valid/{metric} in some row")
    ax = new_axes() if ax is None else ax
    colours = {"training": "#8FA3B5", "validation": PALETTE[3]}
    for label, (steps, values) in curves.items():
        marker = "o" if len(steps) == 1 else ""
        if values.ndim > 1:
            low, high, values = values.min(1), values.max(1), values.mean(1)
            ax.fill_between(steps, low, high, color=colours[label], alpha=0.25, lw=0, zorder=2)
            curves[label] = steps, values
        ax.plot(steps, values, label=label, color=colours[label], lw=1.8, marker=marker, zorder=3)
    low, high = _visible_range(list(curves.values()), list((baselines or {}).values()))
    ax.set_ylim(low, high)
    _draw_baselines(ax, baselines or {}, low, high)
    ax.grid(axis="y", color=FAINT, lw=0.7, zorder=0)
    ax.margins(x=0.01)
    finish(ax, title)
    ax.set(xlabel="training step", ylabel=metric.replace("_", " "))
    legend_above(ax, ax.get_lines()[: len(curves)])
    return ax


def _draw_baselines(ax: Axes, baselines: Mapping[str, float], low: float, high: float) -> None:
    """Dashed lines with their names at the right; names that would touch are moved apart."""
    lowest_text = -np.inf
    for number, (label, value) in enumerate(sorted(baselines.items(), key=lambda item: item[1])):
        colour = PALETTE[(0, 2, 4, 1)[number % 4]]
        ax.axhline(value, color=colour, lw=1.4, ls=(0, (5, 3)), zorder=2)
        lowest_text = max(value, lowest_text + 0.06 * (high - low))
        ax.annotate(
            f"{label}: {value:.4g}",
            (1.0, lowest_text),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=colour,
            annotation_clip=False,
        )


def _visible_range(curves: list[tuple[np.ndarray, np.ndarray]], baselines: list[float]) -> tuple[float, float]:
    """The range of the curves after their first tenth and of the baselines, with a margin."""
    last = max(steps[-1] for steps, _ in curves)
    late = [values[steps >= 0.1 * last] for steps, values in curves]
    shown = np.concatenate([*late, np.asarray(baselines, float)])
    shown = shown[np.isfinite(shown)]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin
