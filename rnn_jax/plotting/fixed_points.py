"""Fixed points in the space of a network's states, and the eigenvalues of their Jacobians."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import ArrayLike

from rnn_jax.plotting.style import FAINT, INK, PALETTE, PAPER, finish, new_axes

__all__ = ["eigenvalue_plane", "fixed_point_map"]

_COLOURS = (PALETTE[2], PALETTE[1], PALETTE[0], INK)


def fixed_point_map(
    points: ArrayLike,
    num_unstable: ArrayLike,
    *,
    trajectories: ArrayLike | None = None,
    directions: Sequence[tuple[int, ArrayLike]] = (),
    title: str = "",
    elevation: float = 20.0,
    azimuth: float = -62.0,
) -> Figure:
    """Draws fixed points in three dimensions (such as principal components), coloured by their unstable directions.

    Args:
      points: [N, 3].
      num_unstable: [N] integers; 3 and more have one colour.
      trajectories: [K, T, 3], drawn as thin lines; None for none.
      directions: pairs (number of a point, [3] vector v): a rod from the point minus v to the point plus v.
      title: text above.
      elevation, azimuth: from where one looks, in degrees.

    Returns:
      the figure.

    Raises:
      ValueError: a shape does not fit.

    Example:
      >>> figure = fixed_point_map([[0, 0, 0], [1, 0, 0]], [1, 0], directions=[(0, [0.2, 0, 0])])
      >>> len(figure.axes)
      1
    """
    points, unstable = np.asarray(points, float), np.asarray(num_unstable)
    if points.ndim != 2 or points.shape[1] != 3 or unstable.shape != points.shape[:1]:
        raise ValueError(
            f"`points` must be [N, 3] and `num_unstable` [N], got shapes {points.shape} and {unstable.shape}"
        )
    figure = Figure(figsize=(7.0, 6.0), layout="constrained", facecolor=PAPER)
    ax = figure.add_subplot(projection="3d")
    for path in () if trajectories is None else np.asarray(trajectories, float):
        ax.plot(*path.T, lw=0.5, color="#93A1AE", alpha=0.6)
    for number, vector in directions:
        ends = points[number] + np.outer([-1, 1], np.asarray(vector, float))
        ax.plot(*ends.T, lw=2.2, color=_COLOURS[min(int(unstable[number]), 3)], alpha=0.85)
    for count in range(4):
        mine = unstable == count if count < 3 else unstable >= 3
        if mine.any():
            label = ("stable", "1 unstable", "2 unstable", "3 or more")[count]
            kind = {"s": 46, "color": _COLOURS[count], "edgecolor": PAPER, "depthshade": False}
            ax.scatter(*points[mine].T, label=f"{label} ({int(mine.sum())})", **kind)
    ax.view_init(elev=elevation, azim=azimuth)
    ax.set(xlabel="PC 1", ylabel="PC 2", zlabel="PC 3")
    ax.tick_params(colors=INK, labelsize=7.5)
    ax.set_box_aspect(None, zoom=0.92)
    ax.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=INK)
    ax.set_title(title, fontsize=11.5, fontweight="bold", color=INK)
    return figure


def eigenvalue_plane(groups: Mapping[str, ArrayLike], *, ax: Axes | None = None, title: str = "") -> Axes:
    """Draws eigenvalues in the complex plane, with the unit circle.

    Args:
      groups: `{label: complex numbers of any shape}`, each in a colour of its own.
      ax: where to draw; a new figure if None.
      title: text above.

    Returns:
      the axes.

    Example:
      >>> ax = eigenvalue_plane({"saddle": [1.5, 0.2 + 0.1j, 0.2 - 0.1j]})
      >>> ax.get_xlabel()
      'real part'
    """
    ax = new_axes((5.2, 5.4)) if ax is None else ax
    ax.add_patch(Circle((0, 0), 1, fill=False, color="#93A1AE", lw=1.2))
    handles = []
    for number, (label, values) in enumerate(groups.items()):
        values = np.asarray(values, complex).ravel()
        colour = _COLOURS[number % 4]
        kind = {"s": 16, "color": colour, "edgecolor": PAPER, "linewidth": 0.4, "zorder": 3}
        handles.append(ax.scatter(values.real, values.imag, label=label, **kind))
    ax.grid(color=FAINT, lw=0.7, zorder=0)
    ax.set_aspect("equal")
    finish(ax, title)
    ax.set(xlabel="real part", ylabel="imaginary part")
    if len(handles) > 1:
        ax.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.1),
            ncols=4,
            columnspacing=1.0,
            handletextpad=0.2,
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
        )
    return ax
