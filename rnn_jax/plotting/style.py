"""The house style of all figures: colours, axes, legends, and saving to a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = ("#C7365F", "#DB8A00", "#0B8A7E", "#2D5DA8", "#7A4FA3", "#6B7480")
"""Rose, amber, teal, blue, violet, slate: told apart in grey and by colour-blind eyes."""

INK, FAINT, PAPER = "#22303C", "#D5DBE1", "#FFFFFF"


def new_axes(size: tuple[float, float] = (8.0, 4.0)) -> Axes:
    """Makes a figure with one pair of axes in the house style.

    Args:
      size: width and height in inches.

    Returns:
      the axes; `ax.figure` is the figure.

    Example:
      >>> [float(length) for length in new_axes((6.0, 3.0)).figure.get_size_inches()]
      [6.0, 3.0]
    """
    return Figure(figsize=size, layout="constrained", facecolor=PAPER).subplots()


def save(figure: Any, path: str | Path) -> Path:
    """Writes a figure to a file; the suffix chooses the format.

    Args:
      figure: a matplotlib figure, for example `ax.figure`.
      path: the file; missing directories are made.

    Returns:
      the path.

    Example:
      >>> import tempfile
      >>> from rnn_jax.plotting import learning_curves
      >>> ax = learning_curves([{"step": 1, "train/nll": 9.0}], "nll")
      >>> save(ax.figure, Path(tempfile.mkdtemp()) / "figures" / "curve.png").name
      'curve.png'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def legend_above(ax: Axes, handles: Sequence[Artist]) -> None:
    """One line above the picture, at the right, where it covers nothing."""
    ax.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        handlelength=1.2,
        handleheight=0.7,
        columnspacing=1.2,
        borderaxespad=0.3,
        labelcolor=INK,
    )


def finish(ax: Axes, title: str) -> None:
    """Quiet spines and ticks, title at the left."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#93A1AE")
    ax.tick_params(colors=INK, labelsize=8.5, color="#93A1AE", length=3)
    ax.xaxis.label.set_color(INK)
    ax.yaxis.label.set_color(INK)
    ax.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK)
