"""What `experiments.protein` shows: who is better, what is taken for what, how it goes near the ends, one chain."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rnn_jax.data.proteins import RESIDUES, STATES
from rnn_jax.plotting import FAINT, PALETTE, finish, new_axes

COLOURS: dict[str, str] = dict(
    zip(STATES, ("#C7365F", "#2D5DA8", "#E07B98", "#8C1D40", "#7FA3D6", "#DB8A00", "#0B8A7E", "#AEB7C0"), strict=True)
)
"""Helices are red, strands blue, turns and bends warm and green, the rest grey."""


def accuracy_bars(rows: Mapping[str, tuple[float, float]]) -> Any:
    """Percent right of eight and of three states, a pair of bars for each method."""
    ax = new_axes((8.0, 0.55 * len(rows) + 1.2))
    places = np.arange(len(rows))[::-1]
    for offset, colour, label, column in ((0.2, PALETTE[3], "three states", 1), (-0.2, PALETTE[0], "eight states", 0)):
        values = [100 * row[column] for row in rows.values()]
        ax.barh(places + offset, values, 0.36, color=colour, label=label)
        for place, value in zip(places, values, strict=True):
            ax.text(value + 0.6, place + offset, f"{value:.1f}", va="center", fontsize=8.5)
    ax.set_yticks(places, list(rows))
    ax.set(xlabel="percent of residues", xlim=(0, 100))
    finish(ax, "Right on held-out chains")
    ax.legend(frameon=False, fontsize=8.5, loc="lower right")
    return ax.figure


def end_curves(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Any:
    """Three-state accuracy [D] by distance from the first and from the last residue, a pair for each network."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for (name, (first, last)), colour in zip(curves.items(), (PALETTE[3], PALETTE[1], PALETTE[0]), strict=False):
        left.plot(np.arange(len(first)), 100 * first, color=colour, lw=1.8, label=name)
        right.plot(np.arange(len(last)), 100 * last, color=colour, lw=1.8, label=name)
    right.invert_xaxis()
    for ax, title in ((left, "From the start of the chain"), (right, "To its end")):
        ax.grid(axis="y", color=FAINT, lw=0.7)
        ax.margins(x=0.01)
        finish(ax, title)
    left.set(xlabel="residues after the first", ylabel="three states, percent right")
    right.set_xlabel("residues before the last")
    left.legend(frameon=False, fontsize=8.5, loc="lower right")
    return figure


def probability_strip(probabilities: np.ndarray, residues: np.ndarray, states: np.ndarray | None, title: str) -> Any:
    """Probabilities [T, 8] of the first 120 residues, stacked, above the letters and, where known, the true states."""
    shown = slice(0, 120)
    probabilities, residues = probabilities[shown], residues[shown]
    ax = new_axes((12.0, 3.4))
    places = np.arange(len(residues))
    order = [STATES.index(state) for state in "HGIEBTSC"]
    ax.stackplot(places, probabilities.T[order], colors=[COLOURS[STATES[i]] for i in order], lw=0)
    rows: list[tuple[float, list[str]]] = [(-0.07, [(RESIDUES + "X")[i] for i in residues])]
    if states is not None:
        rows.append((-0.17, [STATES[i] for i in states[shown]]))
    size = min(8.5, 900 / len(residues))
    for height, letters in rows:
        for place, letter in enumerate(letters):
            colour = COLOURS[letter] if height < -0.1 else "#22303C"
            ax.text(place, height, letter, ha="center", va="center", fontsize=size, color=colour, family="monospace")
    ax.set(xlim=(-0.5, len(residues) - 0.5), ylim=(-0.22, 1), ylabel="probability", xlabel="residue (from 0)")
    ax.set_yticks([0, 0.5, 1])
    handles: list[Any] = [ax.fill_between([], [], color=COLOURS[state], label=state) for state in "HGIEBTSC"]
    finish(ax, title)
    ax.legend(handles=handles, ncols=8, frameon=False, fontsize=8.5, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return ax.figure
