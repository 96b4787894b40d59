"""Pictures of `experiments.speech`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rnn_jax.features import Mel, mel_filters
from rnn_jax.plotting import FAINT, PALETTE, finish, new_axes
from rnn_jax.plotting.style import INK, PAPER

__all__ = ["alignment_picture", "length_picture"]

COLOURS = tuple(colormaps["tab10"](digit) for digit in range(10))


def alignment_picture(
    frames: np.ndarray,
    mel: Mel,
    posteriors: Mapping[str, np.ndarray],
    said: Sequence[int],
    places: np.ndarray,
    spans: np.ndarray | None,
) -> Figure:
    """A spectrogram with the digits where they were aligned, and what networks thought at every step.

    Args:
        frames: [T, M] log-mel energies.
        mel: how they were made.
        posteriors: by title, probabilities [S, 11] of the blank and the digits.
        said: [D] digits.
        places: [S], which of these digits a step is aligned to, -1 for the blank.
        spans: [D, 2], seconds at which the recordings of the digits begin and end, or None where that is not known.

    Returns:
        The figure.
    """
    seconds = len(frames) * mel.hop / mel.sample_rate
    step = seconds / len(places)
    figure = Figure(figsize=(10.0, 2.6 + 1.3 * len(posteriors)), layout="constrained", facecolor=PAPER)
    above, *below = figure.subplots(
        1 + len(posteriors), 1, sharex=True, height_ratios=[2.2] + [1.0] * len(posteriors), squeeze=False
    )[:, 0]
    above.imshow(
        frames.T, origin="lower", aspect="auto", cmap="Greys", extent=(0, seconds, -0.5, mel.num_bands - 0.5),
        vmin=np.percentile(frames, 5), vmax=frames.max(),
    )  # fmt: skip
    peaks = mel_filters(mel).argmax(0) * mel.sample_rate / mel.fft_size
    shown = np.linspace(0, mel.num_bands - 1, 5).astype(int)
    above.set_yticks(shown, [f"{peaks[band]:.0f} Hz" for band in shown])
    top = mel.num_bands - 0.5
    for number, digit in enumerate(said):
        (steps,) = np.nonzero(places == number)
        if spans is not None:
            above.axvspan(*spans[number], ymin=0.0, ymax=0.04, color=PALETTE[5], lw=0)
        if len(steps):
            begin, end = steps[0] * step, (steps[-1] + 1) * step
            above.axvspan(begin, end, color=COLOURS[digit], alpha=0.55, lw=0)
            above.text((begin + end) / 2, top + 0.6, str(digit), ha="center", color=COLOURS[digit], weight="bold")
    finish(above, "")
    truth = "" if spans is None else "; bars at the bottom: the recordings"
    above.set_title(f"The digits where they are aligned{truth}", loc="left", fontsize=10.5, color=INK, pad=16)
    for ax, (title, rows) in zip(below, posteriors.items(), strict=True):
        _posterior(ax, rows, step, title)
    below[-1].set_xlabel("seconds")
    return figure


def _posterior(ax: Axes, rows: np.ndarray, step: float, title: str) -> None:
    """Probabilities [S, 11] over time, each in the middle of its step."""
    times = (np.arange(len(rows)) + 0.5) * step
    ax.fill_between(times, rows[:, 0], color=FAINT, lw=0, step="mid")
    before = np.concatenate([np.zeros((1, 11)), rows[:-1]])
    after = np.concatenate([rows[1:], np.zeros((1, 11))])
    for digit, column in enumerate(range(1, 11)):
        if rows[:, column].max() > 0.1:
            ax.plot(times, rows[:, column], color=COLOURS[digit], lw=1.6)
        peaks = (rows > 0.1) & (rows >= before) & (rows > after)
        for peak in np.flatnonzero(peaks[:, column]):
            ax.text(times[peak], rows[peak, column] + 0.04, str(digit), color=COLOURS[digit], ha="center")
    finish(ax, "")
    ax.set_title(f"{title} (grey: the blank)", loc="left", fontsize=10.5, color=INK)
    ax.set(ylim=(0, 1.25), yticks=(0, 1))


def length_picture(errors: Mapping[str, Mapping[int, Any]], most_trained: int) -> Axes:
    """Error rates in per cent over the number of digits, one curve a network; each point a mean over seeds.

    Args:
        errors: by name, by number of digits, rates of the seeds.
        most_trained: how many digits training strings have at most.

    Returns:
        The axes.
    """
    ax = new_axes((8.0, 3.6))
    ax.axvspan(0.6, most_trained + 0.5, color=FAINT, alpha=0.45, lw=0, zorder=0)
    ax.text(
        most_trained + 0.4, 0.02, "trained", ha="right", color=INK, fontsize=8.5, transform=ax.get_xaxis_transform()
    )
    for (name, by_length), colour in zip(errors.items(), PALETTE, strict=False):
        lengths = sorted(by_length)
        rates = np.array([np.atleast_1d(by_length[length]) for length in lengths]) * 100
        ax.plot(lengths, rates.mean(1), color=colour, marker="o", ms=4, lw=1.8, label=name)
        ax.fill_between(lengths, rates.min(1), rates.max(1), color=colour, alpha=0.15, lw=0)
    finish(ax, "")
    ax.set(xlabel="digits in a string", ylabel="errors, % of digits", xticks=lengths, ylim=(0, None))
    ax.set_xlim(0.6, max(lengths) + 0.4)
    ax.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return ax
