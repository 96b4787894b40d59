"""A run as a picture: ratios of all peers, case by case."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.peers import OURS, PEERS
from benchmarks.summary import our_labels, ratio
from rnn_jax.plotting.style import FAINT, INK, PALETTE, PAPER, finish, save

MARKERS = "osD^vP*X"
LEAST = 1 / 16
"""Smaller ratios are drawn here."""
PEER_STYLES: dict[str, dict[str, Any]] = {
    peer: {
        "color": PALETTE[(0, 3, 5, 1, 2, 4, 3, 0)[number]],
        "marker": MARKERS[number],
        "markerfacecolor": PAPER if number > 5 else None,
    }
    for number, peer in enumerate(peer for peer in PEERS if peer != OURS)
}
"""Colour and shape of each peer; the shape alone tells them apart."""


def draw(run: dict[str, Any], path: Path) -> Path | None:
    """Draws the ratios of a run, one panel for each number of cores.

    Args:
        run: as for `benchmarks.table.markdown`.
        path: the file to write.

    Returns:
        the path, or None where there is no ratio to show.
    """
    panels = [cores for cores in (1, 2) if _lines(run, cores)]
    if not panels:
        return None
    height = 1.6 + 0.3 * max(len(_lines(run, cores)) for cores in panels)
    figure = Figure(figsize=(1.5 + 5.5 * len(panels), height), layout="constrained", facecolor=PAPER)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    shown: set[str] = set()
    for cores, ax in zip(panels, axes, strict=True):
        shown |= _panel(ax, run, cores)
    handles = [Line2D([], [], ls="", label=peer, **style) for peer, style in PEER_STYLES.items() if peer in shown]
    columns = len(handles) if len(panels) > 1 else (len(handles) + 1) // 2
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, labelcolor=INK)
    return save(figure, path)


def _lines(run: dict[str, Any], cores: int) -> list[tuple[str, dict[str, Any], str]]:
    """One line for each of our variants in each case that has a ratio."""
    lines = []
    for one in run["measurements"]:
        for ours in our_labels(one) if one["cores"] == cores else []:
            if any(ours in row.get("ratios", {}) for row in one["rows"].values()):
                lines.append((f"{one['case']['name']}{ours.removeprefix(OURS)}", one, ours))
    return lines


def _panel(ax: Axes, run: dict[str, Any], cores: int) -> set[str]:
    lines, shown = _lines(run, cores), set()
    for place, (_, one, ours) in enumerate(lines):
        variant = ours.removeprefix(OURS).strip()
        for peer, style in PEER_STYLES.items():
            label = f"{peer} {variant}" if ratio(one, f"{peer} {variant}", ours) else peer
            value = ratio(one, label, ours)
            if value is None:
                continue
            rounds = one["rows"][label]["ratios"][ours]
            ends = [max(value, LEAST) for value in (min(rounds), max(rounds))]
            ax.plot(ends, [place, place], color=style["color"], lw=1.2, alpha=0.5, zorder=2)
            ax.plot(max(value, LEAST), place, ms=5.5, ls="", zorder=3, **style)
            shown.add(peer)
    ax.axvline(1.0, color=INK, lw=1.2, zorder=1)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks(range(len(lines)), [name for name, _, _ in lines])
    ax.set_ylim(len(lines) - 0.5, -0.5)
    ax.grid(axis="both", color=FAINT, lw=0.7, zorder=0)
    finish(ax, "One core" if cores == 1 else f"{cores} cores")
    ax.set(xlabel="our time / their time (below 1: rnn_jax is faster)", ylabel="case")
    return shown
