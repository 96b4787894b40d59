"""Figures of the experiment on initialisation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rnn_jax.plotting import FAINT, PALETTE, finish, new_axes, save, seed_curves

__all__ = [
    "Curves",
    "forgetting_curves",
    "gain_curves",
    "half_rows",
    "loss_curves",
    "noise_curves",
    "spectra",
    "window_curves",
]

DASHED = (0, (4, 2))
NAMES = {"tanh": "tanh", "relu": "ReLU", "lstm": "LSTM", "gru": "GRU"}

Curves = dict[str, tuple[np.ndarray, np.ndarray]]
"""By name: [T + 1] before training, and after."""


def spectra(found: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path) -> Path:
    """Exponents of linear networks [N] and their closed forms."""
    ax = new_axes((6.4, 3.8))
    for colour, (name, (measured, closed)) in zip((PALETTE[3], PALETTE[2], PALETTE[0]), found.items(), strict=True):
        place = (np.arange(len(measured)) + 0.5) / len(measured)
        ax.plot(place, measured, "o", ms=3.5, color=colour, label=name)
        ax.plot(place, closed, color=colour, lw=1.2, ls=DASHED)
    _finish(ax, "i / N", "exponent, nats per step", "Exponents of linear networks; dashed: closed forms")
    ax.legend(frameon=False, fontsize=8.5, loc="lower left")
    return save(ax.figure, path)


def gain_curves(gains: Sequence[float], errors: Mapping[str, np.ndarray], baseline: float, path: Path) -> Path:
    """The error [S, R] of the end over gains."""
    ax = seed_curves(
        gains,
        {NAMES[cell]: values.T for cell, values in errors.items()},
        xlabel="gain of the orthogonal recurrent kernel",
        ylabel="squared error on test sequences",
        title="Adding: error of the end",
        lines={"always 1": baseline},
    )
    return save(ax.figure, path)


def half_rows(halves: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> Path:
    """Updates to half of the baseline [R], a row for each start, a panel for each cell."""
    figure = _figure((4.4 * len(halves), 3.4))
    for ax, (cell, rows) in zip(_panels(figure, len(halves)), halves.items(), strict=True):
        for place, (name, values) in enumerate(rows.items()):
            colour = PALETTE[3] if not name.startswith("fused") else PALETTE[1]
            ax.plot(values, np.full(len(values), place), "o", color=colour, alpha=0.5, ms=5)
            ax.plot(np.mean(values), place, "|", color=colour, ms=15, mew=2.5)
        ax.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
        ax.invert_yaxis()
        _finish(ax, "updates to half of the baseline (dots: seeds)", "", NAMES[cell])
    return save(figure, path)


def loss_curves(steps: np.ndarray, losses: Mapping[str, np.ndarray], baseline: float, path: Path) -> Path:
    """Training losses [K, R] by start: the mean of the seeds, and a band from the least to the greatest."""
    ax = new_axes((6.8, 3.8))
    for colour, (name, values) in zip(PALETTE, losses.items(), strict=False):
        ax.fill_between(steps, values.min(1), values.max(1), color=colour, alpha=0.18, lw=0)
        ax.plot(steps, values.mean(1), color=colour, lw=1.6, label=name.replace("_", " "))
    for level, text in ((baseline, "always 1"), (baseline / 2, "half of it")):
        ax.axhline(level, color="#5B6670", lw=1.0, ls=DASHED)
        ax.annotate(text, (1.0, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    ax.set(yscale="log", xlim=(0, None))
    ax.set_ylim(top=4 * baseline)
    _finish(ax, "updates", "squared error in training", "Adding with an LSTM, by the bias of its forget gate")
    ax.legend(frameon=False, fontsize=8.5, loc="lower left")
    return save(ax.figure, path)


def forgetting_curves(panels: Mapping[str, Curves], path: Path) -> Path:
    """Distances of two states over steps [T + 1], before training and after (dashed), a panel for each cell."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure((4.6 * columns, 3.3 * rows))
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    for ax, (cell, curves) in zip(axes, panels.items(), strict=False):
        for colour, (name, (first, last)) in zip(PALETTE, curves.items(), strict=False):
            ax.plot(first, color=colour, lw=1.7, label=name.replace("_", " "))
            ax.plot(last, color=colour, lw=1.3, ls=DASHED)
        ax.set(yscale="log", ylim=(1e-4, 30.0), xlim=(0, None))
        _finish(ax, "step", "distance / first distance", NAMES[cell])
        ax.legend(frameon=False, fontsize=7.5, ncols=3, loc="upper right", columnspacing=1.0, handlelength=1.3)
    return save(figure, path)


def window_curves(errors: Mapping[int, np.ndarray], kinds: Sequence[str], shown: int, path: Path) -> Path:
    """Errors [K, R, T] of the first steps by kind of first state, a panel for each length T."""
    figure = _figure((3.6 * len(errors), 3.4))
    axes = _panels(figure, len(errors), sharey=True)
    for ax, (length, values) in zip(axes, errors.items(), strict=True):
        steps = np.arange(1, min(length, shown) + 1)
        colours = (PALETTE[3], PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[4], PALETTE[5])
        for number, (colour, kind, rows) in enumerate(zip(colours, kinds, values, strict=False)):
            look = {"color": colour, "ls": "-" if number < 2 else DASHED, "zorder": 5 - min(number, 2)}
            for row in rows:
                ax.plot(steps, row[: len(steps)], lw=0.6, alpha=0.35, **look)
            ax.plot(steps, rows.mean(0)[: len(steps)], lw=1.8, label=kind.replace("noise_", "noise "), **look)
        ax.set(yscale="log", xticks=steps[:: max(1, len(steps) // 5)])
        _finish(ax, "step of the window", "squared error" if ax is axes[0] else "", f"Windows of {length}")
    axes[0].legend(frameon=False, fontsize=8.5)
    return save(figure, path)


def noise_curves(noises: Sequence[float], memory: np.ndarray, error: np.ndarray, path: Path) -> Path:
    """|dh_T/dh_0| and the error [S, R] over the noise of the first state."""
    figure = _figure((8.8, 3.6))
    labels = {"size of dh_T / dh_0": memory, "squared error on test sequences": error}
    for ax, (label, values) in zip(_panels(figure, 2), labels.items(), strict=True):
        seed_curves(
            noises,
            {label: values.T},
            ax=ax,
            xlabel="standard deviation of the first state",
            ylabel=label,
            title="ReLU, from the identity",
            x_linear_below=float(min((noise for noise in noises if noise > 0), default=1.0)),
        )
        if values is memory:
            ax.set(yscale="linear", ylim=(0, None))
    return save(figure, path)


def _figure(size: tuple[float, float]) -> Figure:
    return Figure(figsize=size, layout="constrained", facecolor="#FFFFFF")


def _panels(figure: Figure, count: int, **options: Any) -> list[Axes]:
    """Axes side by side."""
    return list(np.atleast_1d(figure.subplots(1, count, **options)))


def _finish(ax: Axes, xlabel: str, ylabel: str, title: str) -> None:
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(color=FAINT, lw=0.7, zorder=0)
    finish(ax, title)
