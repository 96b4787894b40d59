"""Pictures and sound files of `experiments/music.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rnn_jax.data.audio import synthesize, write_midi, write_wav
from rnn_jax.data.pieces import PieceSet, heard
from rnn_jax.plotting import FAINT, PALETTE, finish, new_axes, piano_roll, save
from rnn_jax.plotting.style import legend_above
from rnn_jax.training import FitInfo


def write_piece(
    run_dir: Path, name: str, caption: str, pieces: PieceSet, frames: np.ndarray, tempo: float, given: int
) -> tuple[Path, dict[str, Path]]:
    """A piece [T, 88] as a picture, MIDI and sound; the first `given` steps are shaded."""
    roll, notes = heard(pieces, frames)
    ax = piano_roll(roll, steps_per_beat=pieces.steps_per_beat, title=caption, prefix_steps=given)
    midi, wav = run_dir / f"{name}.mid", run_dir / f"{name}.wav"
    write_midi(midi, notes, steps_per_beat=pieces.steps_per_beat, tempo=tempo)
    write_wav(wav, synthesize(notes, steps_per_beat=pieces.steps_per_beat, tempo=tempo))
    picture = save(ax.figure, run_dir / "figures" / f"{name}.png")
    return picture, {f"{caption}: sound": wav, f"{caption}: MIDI": midi}


def draw_published(ours: Mapping[str, float], published: Mapping[str, float], folder: Path) -> Path:
    """Numbers on test as bars, the best at the top: ours in colour, published ones grey."""
    bars = sorted(
        [(nll, name, True) for name, nll in ours.items()] + [(n, name, False) for name, n in published.items()]
    )
    ax = new_axes((8.0, 0.6 + 0.3 * len(bars)))
    for place, (nll, _, own) in enumerate(reversed(bars)):
        ax.barh(place, nll, color=PALETTE[3] if own else "#B9C3CD", height=0.7)
        ax.annotate(f"{nll:.2f}", (nll, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_yticks(range(len(bars)), [name for _, name, _ in reversed(bars)])
    values = [nll for nll, _, _ in bars]
    ax.set_xlim(max(0.0, min(values) - 1.0), max(values) + 0.3)
    finish(ax, "Test: blue ours, grey published")
    ax.set_xlabel("nats per frame (axis does not start at 0)")
    return save(ax.figure, folder / "published.png")


def draw_learning(infos: Mapping[str, FitInfo], folder: Path) -> Path:
    """Validation numbers of each network over training."""
    ax = new_axes()
    tops = []
    for (name, info), colour in zip(infos.items(), PALETTE, strict=False):
        points = np.array([(row["step"], row["valid/nll"]) for row in info.history if "valid/nll" in row])
        ax.plot(*points.T, label=name, color=colour, lw=1.8)
        tops.append(points[len(points) // 5 :, 1].max())
    ax.set_ylim(top=max(tops))
    ax.grid(axis="y", color=FAINT, lw=0.7)
    finish(ax, "Validation while training")
    ax.set(xlabel="training step", ylabel="nats per frame")
    ax.legend(frameon=False, fontsize=9)
    return save(ax.figure, folder / "learning.png")


def draw_memory(
    pieces: PieceSet, alone: Sequence[np.ndarray], remembered: Sequence[np.ndarray], folder: Path, longest: int = 128
) -> Path:
    """The test piece that gains most from the memory, and what each of its frames costs with and without."""
    gains = [
        float(np.log(b).sum() - np.log(a).sum()) / len(a) if len(a) <= longest else -np.inf
        for a, b in zip(alone, remembered, strict=True)
    ]
    index = int(np.argmax(gains))
    figure = Figure(figsize=(11, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    frames = pieces.splits.test[index].frames[:longest]
    piano_roll(heard(pieces, frames)[0], ax=top, steps_per_beat=pieces.steps_per_beat, title="A test piece")
    for label, values, colour in (
        ("network", alone[index], PALETTE[5]),
        ("with the memory of the piece", remembered[index], PALETTE[0]),
    ):
        nll = -np.log(values[1:longest]).sum(-1)  # the first frame is not counted
        bottom.step(1 + np.arange(len(nll)), nll, where="post", label=label, color=colour, lw=1.6)
    bottom.grid(axis="y", color=FAINT, lw=0.7)
    bottom.set_ylim(bottom=0)
    finish(bottom, "How surprising each frame is")
    bottom.set(xlabel="bar", ylabel="nats")
    legend_above(bottom, bottom.get_lines())
    return save(figure, folder / "memory.png")
