"""What `experiments.time_series` shows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_jax.plotting import FAINT, PALETTE, finish, new_axes


def accuracy_bars(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> Any:
    """A group of bars for each set, a bar for each method; a line from one standard deviation below to one above."""
    ax = new_axes((10.0, 4.0))
    width = 0.8 / len(methods)
    colours = ("#93A1AE", PALETTE[1], PALETTE[3], PALETTE[0], PALETTE[2], PALETTE[4])
    for number, (method, colour) in enumerate(zip(methods, colours, strict=False)):
        places = np.arange(len(rows)) + (number - (len(methods) - 1) / 2) * width
        heights = [100 * row[method] for row in rows]
        ax.bar(places, heights, width * 0.92, color=colour, label=method)
        spread = [100 * row.get(f"{method}, sd", 0.0) for row in rows]
        ax.errorbar(places, heights, spread, fmt="none", ecolor="#22303C", elinewidth=1)
        for place, height in zip(places.tolist(), heights, strict=True):
            ax.text(place, 2, f"{height:.1f}", ha="center", va="bottom", fontsize=8, color="white", rotation=90)
    ax.set_xticks(np.arange(len(rows)), [row["set"] for row in rows])
    ax.set(ylabel="percent right", ylim=(0, 100))
    finish(ax, "Right labels of test series")
    ax.legend(frameon=False, fontsize=8.5, ncols=len(methods), loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return ax.figure


def forecast_curves(values: np.ndarray, found: Mapping[str, np.ndarray], test_from: int) -> Any:
    """The last years of values [T], and forecasts [origins, 12] of the test years, each made as its year begins."""
    ax, first = new_axes((10.0, 4.0)), test_from - 36
    years = 1949 + np.arange(len(values)) / 12
    ax.plot(years[first:], values[first:], color=PALETTE[5], lw=3.5, alpha=0.5, label="truth")
    for (name, forecasts), colour in zip(found.items(), (PALETTE[0], PALETTE[1], PALETTE[3]), strict=False):
        for start in range(0, len(forecasts), 12):
            place = test_from + start
            label = name if start == 0 else None
            ax.plot(years[place : place + 12], forecasts[start], color=colour, lw=1.6, label=label)
    for place in range(test_from, len(values), 12):
        ax.axvline(years[place], color=FAINT, lw=1, zorder=0)
    ax.set(xlabel="year", ylabel="thousands of passengers")
    ax.margins(x=0.01)
    finish(ax, "The next twelve months, foreseen at the end of each year")
    ax.legend(frameon=False, fontsize=8.5, ncols=3, loc="upper left")
    return ax.figure
