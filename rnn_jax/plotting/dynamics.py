"""Pictures of dynamical systems: attractors, and measurements over a parameter with one point a seed."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from rnn_jax.plotting.style import FAINT, INK, PALETTE, PAPER, finish, legend_above, new_axes

SLATE = PALETTE[5]


def attractors(trajectories: Mapping[str, ArrayLike], *, num_steps: int = 12_000) -> Figure:
    """Draws trajectories in three dimensions side by side, all in the box of the first one.

    Args:
        trajectories: `{title: [T, 3]}`, the data first. What leaves the box of the data by more than half of its size
            is not drawn; NaN neither.
        num_steps: how many of the first steps are drawn.

    Returns:
        The figure.

    Raises:
        ValueError: for a trajectory that is not [T, 3].

    Example:
        >>> steps = np.linspace(0, 9, 50)
        >>> figure = attractors({"data": np.stack([np.sin(steps), np.cos(steps), steps], axis=1)})
        >>> len(figure.axes)
        1
    """
    paths = {title: np.asarray(path, float)[:num_steps] for title, path in trajectories.items()}
    for title, path in paths.items():
        if path.ndim != 2 or path.shape[1] != 3:
            raise ValueError(f"`trajectories[{title!r}]` must be [T, 3], got shape {path.shape}")
    first = next(iter(paths.values()))
    low, high = np.nanmin(first, 0), np.nanmax(first, 0)
    room = (high - low) / 2
    figure = Figure(figsize=(3.2 * len(paths), 2.9), layout="constrained", facecolor=PAPER)
    for number, (title, path) in enumerate(paths.items()):
        ax = figure.add_subplot(1, len(paths), number + 1, projection="3d")
        inside = ((path > low - room) & (path < high + room)).all(1)
        path = np.where(inside[:, None], path, np.nan)
        colour = SLATE if number == 0 else PALETTE[3]
        ax.plot(*path.T, lw=0.35, color=colour, alpha=0.9)
        if inside.any():
            ax.plot(*path[inside][-1:].T, "o", ms=3.5, color=PALETTE[0])
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
        ax.view_init(elev=18, azim=-60)
        ax.set_box_aspect(None, zoom=1.15)
        ax.set_axis_off()
        ax.set_title(title, fontsize=10, color=INK, y=0.93)
    return figure


def seed_curves(
    xs: ArrayLike,
    series: Mapping[str, ArrayLike],
    *,
    ax: Axes | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    x_linear_below: float | None = None,
    lines: Mapping[str, float] | None = None,
    marks: Mapping[str, float] | None = None,
) -> Axes:
    """Draws measurements over a parameter on logarithmic axes: a dot for each seed, a line through the medians.

    Args:
        xs: [P], the values of the parameter; they become the ticks.
        series: `{label: [R, P]}`, one row a seed. What is not finite is left out.
        ax: where to draw; a new figure if None.
        xlabel: text below.
        ylabel: text at the left.
        title: text above.
        x_linear_below: the horizontal axis is linear up to there, so that it may hold 0.
        lines: `{label: y}`, horizontal lines.
        marks: `{label: x}`, vertical lines, named in the legend.

    Returns:
        The axes.

    Raises:
        ValueError: for values that are not [R, P].

    Example:
        >>> ax = seed_curves([1, 10], {"model": [[3.0, 1.0], [4.0, 2.0]]}, lines={"floor": 0.5})
        >>> ax.get_lines()[0].get_ydata().tolist()
        [3.5, 1.5]
    """
    ax = new_axes((6.0, 3.6)) if ax is None else ax
    xs = np.asarray(xs, float)
    handles = []
    for number, (label, rows) in enumerate(series.items()):
        rows = np.asarray(rows, float)
        if rows.ndim != 2 or rows.shape[1] != len(xs):
            raise ValueError(f"`series[{label!r}]` must be [R, {len(xs)}], got shape {rows.shape}")
        rows = np.where(np.isfinite(rows), rows, np.nan)
        seen = np.isfinite(rows).any(0)
        colour = PALETTE[(3, 0, 2, 1)[number % 4]]
        handles += ax.plot(xs[seen], np.nanmedian(rows[:, seen], 0), color=colour, lw=1.8, label=label, zorder=3)
        ax.plot(np.tile(xs, len(rows)), rows.ravel(), "o", ms=4, mec=PAPER, mew=0.5, color=colour, zorder=4)
    ax.set_yscale("log")
    if x_linear_below is None:
        ax.set_xscale("log")
    else:
        ax.set_xscale("symlog", linthresh=x_linear_below, linscale=0.4)
        ax.set_xlim(min(xs) - x_linear_below / 4, max(xs) * 1.1)
    dashes = {"lw": 1.2, "ls": (0, (5, 3)), "zorder": 2}
    for label, y in (lines or {}).items():
        ax.axhline(y, color=SLATE, **dashes)
        at = {"xycoords": ("axes fraction", "data"), "xytext": (3, 3), "textcoords": "offset points"}
        ax.annotate(label, (0, y), color=SLATE, fontsize=8, **at)
    for label, x in (marks or {}).items():
        handles.append(ax.axvline(x, color=PALETTE[1], label=label, **dashes))
    ax.set_xticks(xs, [f"{x:g}" for x in xs], rotation=45 if len(xs) > 7 else 0)
    ax.minorticks_off()
    ax.grid(axis="y", color=FAINT, lw=0.7, zorder=0)
    finish(ax, title)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if len(handles) > 1:
        legend_above(ax, handles)
    return ax
