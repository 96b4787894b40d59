"""Pictures of sequence-to-sequence models: what they attend to, and how they fare on their own output."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from rnn_jax.plotting.style import FAINT, INK, PALETTE, PAPER, finish, new_axes


def attention_map(
    weights: ArrayLike,
    source: Sequence[str],
    target: Sequence[str],
    *,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draws attention weights as a grid: what was written at the left, what was read for it above.

    Args:
      weights: [T, S] in [0, 1], rows for written tokens.
      source: S tokens.
      target: T tokens.
      ax: where to draw; a new figure if None.
      title: text above the picture.

    Returns:
      the axes.

    Raises:
      ValueError: the weights do not fit the tokens.

    Example:
      >>> ax = attention_map(np.eye(2), ["ein", "Hund"], ["a", "dog"], title="Attention")
      >>> [label.get_text() for label in ax.get_xticklabels()]
      ['ein', 'Hund']
    """
    weights = np.asarray(weights, float)
    if weights.shape != (len(target), len(source)):
        raise ValueError(f"`weights` must be [T, S] = {(len(target), len(source))}, got shape {weights.shape}")
    if ax is None:
        ax = new_axes((2.0 + 0.34 * max(len(source), 6), 1.6 + 0.28 * max(len(target), 4)))
    colours = colormaps["Blues"].with_extremes(bad=PAPER)
    ax.imshow(weights, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.set_xticks(range(len(source)), source, rotation=50, ha="left", rotation_mode="anchor")
    ax.set_yticks(range(len(target)), target)
    ax.xaxis.tick_top()
    finish(ax, "")
    ax.tick_params(length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_xticks(np.arange(len(source) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(target) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color=FAINT, lw=0.5)
    ax.tick_params(which="minor", length=0)
    ax.set_xlabel(title, fontsize=10, fontweight="bold", color=INK)
    return ax


def exposure_curves(
    rates: ArrayLike,
    by_position: ArrayLike,
    *,
    counts: ArrayLike | None = None,
    least: int = 1,
    ylabel: str = "loss",
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draws a score over the position in the output, one curve a rate of forcing.

    Args:
      rates: [R] in [0, 1].
      by_position: [R, T], for example `ExposureReport.loss_by_position`.
      counts: [T], how many sequences reach a position, or None.
      least: positions with fewer sequences are left out.
      ylabel: what the score is, with its unit.
      ax: where to draw; a new figure if None.
      title: text above the picture.

    Returns:
      the axes.

    Raises:
      ValueError: the shapes do not fit.

    Example:
      >>> ax = exposure_curves([1.0, 0.0], [[1.0, 0.5], [1.0, 2.0]], ylabel="nats")
      >>> [line.get_label() for line in ax.get_lines()]
      ['forcing 1', 'forcing 0']
    """
    rates, by_position = np.asarray(rates, float), np.asarray(by_position, float)
    if by_position.ndim != 2 or len(rates) != len(by_position):
        raise ValueError(f"`by_position` must be [R={len(rates)}, T], got shape {by_position.shape}")
    shown = np.ones(by_position.shape[1], bool) if counts is None else np.asarray(counts) >= least
    ax = new_axes() if ax is None else ax
    ramp = colormaps["viridis"]
    steps = 1 + np.flatnonzero(shown)
    for rate, values in zip(rates, by_position, strict=True):
        ends = rate in (0.0, 1.0)
        colour = {0.0: PALETTE[0], 1.0: PALETTE[3]}.get(float(rate), ramp(0.25 + 0.6 * (1 - rate)))
        ax.plot(steps, values[shown], color=colour, lw=2.2 if ends else 1.2, label=f"forcing {rate:g}", zorder=3)
    ax.grid(axis="y", color=FAINT, lw=0.7, zorder=0)
    ax.margins(x=0.01)
    finish(ax, title)
    ax.set(xlabel="position in the output", ylabel=ylabel)
    ax.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return ax
