"""A text with a number behind each symbol: surprise, or the activation of a unit."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from rnn_jax.plotting.style import INK, PALETTE, PAPER, finish, new_axes

__all__ = ["text_heat"]

_SIGNED = LinearSegmentedColormap.from_list("signed", [PALETTE[3], PAPER, PALETTE[0]])
_POSITIVE = LinearSegmentedColormap.from_list("positive", [PAPER, PALETTE[1], PALETTE[0]])


def text_heat(
    symbols: Sequence[str], values: ArrayLike, *, label: str, title: str = "", width: int = 90, ax: Axes | None = None
) -> Axes:
    r"""Writes symbols in lines, each on a ground whose colour is its number.

    Numbers of both signs are shown from blue over white to rose, others from white to rose. A line ends where a symbol
    "\n" is, shown as "¶", or where it is full.

    Args:
      symbols: N symbols, usually characters.
      values: [N] finite numbers.
      label: what the numbers are, with their unit.
      title: text above the picture.
      width: characters in a line.
      ax: where to draw; a new figure, as high as the text needs, if None.

    Returns:
      the axes.

    Raises:
      ValueError: there are no symbols, or not as many finite numbers as symbols.

    Example:
      >>> ax = text_heat("to be", [3.0, 0.5, 0.1, 2.0, 0.4], label="bits")
      >>> len(ax.texts)
      5
    """
    numbers = np.asarray(values, float)
    if not len(symbols) or numbers.shape != (len(symbols),) or not np.isfinite(numbers).all():
        raise ValueError(f"`values` must be a finite number for each of {len(symbols)} symbols, got {numbers.shape}")
    places, row, column = [], 0, 0
    for symbol in symbols:
        if column and column + len(symbol) > width:
            row, column = row + 1, 0
        places.append((row, column))
        row, column = (row + 1, 0) if symbol == "\n" else (row, column + len(symbol))
    rows = places[-1][0] + 1
    columns = max(column + len(symbol) for symbol, (_, column) in zip(symbols, places, strict=True))
    ax = new_axes((0.105 * columns + 0.6, 0.21 * rows + 1.0)) if ax is None else ax
    signed = numbers.min() < 0
    top = max(np.abs(numbers).max(), 1e-12)
    scale = ScalarMappable(Normalize(-top if signed else 0, top), _SIGNED if signed else _POSITIVE)
    for symbol, (row, column), number in zip(symbols, places, numbers, strict=True):
        shown = symbol.replace("\n", "¶")
        ax.add_patch(Rectangle((column, row), len(shown), 1, color=scale.to_rgba(number), linewidth=0))
        ax.text(
            column + len(shown) / 2, row + 0.5, shown, ha="center", va="center", family="monospace", size=7.5, color=INK
        )
    ax.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[])
    finish(ax, title)
    for spine in ax.spines.values():
        spine.set_visible(False)
    bar = ax.figure.colorbar(scale, ax=ax, orientation="horizontal", fraction=0.05, pad=0.02, aspect=60)
    bar.set_label(label, color=INK, size=8.5)
    bar.ax.tick_params(colors=INK, labelsize=8)
    return ax
