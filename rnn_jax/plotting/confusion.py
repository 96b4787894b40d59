"""What a classifier takes for what."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from rnn_jax.plotting.style import INK, finish, new_axes

__all__ = ["confusion_map"]


def confusion_map(counts: ArrayLike, names: Sequence[str], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draws a confusion matrix: what is true down, what was said across, each row in per cent.

    Args:
      counts: [C, C], how often each class (row) was taken for which (column).
      names: C names. The share that a class has of all is beside its name.
      title: text above the picture.
      ax: where to draw; a new figure if None.

    Returns:
      the axes.

    Raises:
      ValueError: the shapes do not fit.

    Example:
      >>> ax = confusion_map([[3, 1], [0, 4]], ["a", "b"])
      >>> [text.get_text() for text in ax.texts]
      ['75', '25', '100']
    """
    table = np.asarray(counts, float)
    if table.shape != (len(names),) * 2:
        raise ValueError(f"`counts` must be [{len(names)}, {len(names)}] for as many names, got shape {table.shape}")
    parts = table / np.maximum(table.sum(1, keepdims=True), 1e-12)
    ax = new_axes((3.4 + 0.38 * len(names), 2.2 + 0.36 * len(names))) if ax is None else ax
    ax.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    for (row, column), part in np.ndenumerate(parts):
        if part >= 0.005:
            colour = "white" if part > 0.6 else INK
            ax.text(column, row, f"{100 * part:.0f}", ha="center", va="center", fontsize=8, color=colour)
    slanted = max(map(len, names)) > 3
    turn: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    ax.set_xticks(range(len(names)), names, **turn)
    shares = table.sum(1) / max(table.sum(), 1e-12)
    ax.set_yticks(range(len(names)), [f"{name}  ({100 * n:.1f} %)" for name, n in zip(names, shares, strict=True)])
    ax.set(xlabel="said", ylabel="true (share of all)")
    finish(ax, title)
    return ax
