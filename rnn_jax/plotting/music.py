"""Notes over time."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from rnn_jax.plotting.style import INK, PALETTE, finish, legend_above, new_axes

LOWEST_KEY, NUM_KEYS = 21, 88  # a piano: MIDI 21 (A0) to 108 (C8)
NOTE_NAMES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")
BLACK_KEYS = frozenset({1, 3, 6, 8, 10})
LABELLED_KEYS = frozenset({0, 4, 7})  # C, E, G
CHOIR = ("soprano", "alto", "tenor", "bass")


def piano_roll(
    notes: ArrayLike,
    *,
    ax: Axes | None = None,
    steps_per_beat: int = 4,
    beats_per_bar: int = 4,
    title: str = "",
    prefix_steps: int = 0,
) -> Axes:
    """Draws notes over time: bars numbered below, note names at the left, black keys shaded.

    Equal pitches in neighbouring steps of a voice are drawn as one held note.

    Args:
      notes: either the pitch of each voice, integers [T, V] with V < 88 (MIDI numbers, 60 is
        middle C; 0 or less is silence; highest voice first), drawn in one colour a voice; or a
        roll [T, 88] of zeros and ones (key 0 is MIDI 21, A0), drawn in one colour.
      ax: where to draw; a new figure if None.
      steps_per_beat: time steps in one beat.
      beats_per_bar: beats in one bar; bar 1 starts at step 0.
      title: text above the picture.
      prefix_steps: number of opening steps to shade as given, not generated.

    Returns:
      the axes.

    Raises:
      ValueError: a shape, pitch or number is not as described.

    Example:
      >>> ax = piano_roll(np.array([[72, 48], [72, 50], [71, 0]]), title="Three steps")
      >>> [bar.get_width() for bar in ax.patches if bar.get_gid() == "note"]
      [2, 1, 1, 1]
    """
    notes = _check_notes(notes)
    num_steps = len(notes)
    for name, value in (("steps_per_beat", steps_per_beat), ("beats_per_bar", beats_per_bar)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    if not 0 <= prefix_steps <= num_steps:
        raise ValueError(f"`prefix_steps` must be in [0, T={num_steps}], got {prefix_steps}")
    is_roll = notes.shape[1] == NUM_KEYS
    voices = _roll_segments(notes) if is_roll else [_segments(notes[:, v]) for v in range(notes.shape[1])]
    pitches = [pitch for voice in voices for _, _, pitch in voice] or [60]
    low, high = min(pitches) - 2, max(pitches) + 2
    if ax is None:
        ax = new_axes((min(4.0 + 0.09 * num_steps, 14.0), 1.6 + 0.1 * (high - low)))

    _draw_keyboard(ax, low, high)
    _draw_bars(ax, num_steps, steps_per_beat, beats_per_bar)
    if prefix_steps:
        ax.axvspan(0, prefix_steps, color="#F3D9A4", alpha=0.38, lw=0, zorder=1.1)
        ax.axvline(prefix_steps, color=INK, lw=1.2, ls=(0, (4, 2)), zorder=2.5)
        ax.annotate(
            "given",
            (prefix_steps, high + 0.5),
            xytext=(-3, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color=INK,
            style="italic",
            clip_on=True,
        )
    for voice, segments in enumerate(voices):
        colour = PALETTE[3] if is_roll else PALETTE[voice % len(PALETTE)]
        _draw_notes(ax, segments, colour, onset_width=0.004 * num_steps)
    if not is_roll:
        _voice_legend(ax, len(voices))
    ax.set(xlim=(0, num_steps), ylim=(low - 0.5, high + 0.5))
    finish(ax, title)
    ax.set_xlabel("bar")
    return ax


def _check_notes(notes: ArrayLike) -> np.ndarray:
    """Checks the shape and range of pitches [T, V] or a roll [T, 88]."""
    array = np.asarray(notes)
    if array.ndim != 2 or 0 in array.shape or array.shape[1] > NUM_KEYS:
        raise ValueError(f"`notes` must be pitches [T, V] or a roll [T, 88], got {array.shape}")
    if array.shape[1] == NUM_KEYS:
        if not np.isin(array, (0, 1)).all():
            raise ValueError("`notes` as a roll [T, 88] must hold zeros and ones only")
    elif not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"`notes` as pitches [T, V] must be integers, got {array.dtype}")
    elif array.max() > 127:
        raise ValueError(f"`notes` must be MIDI numbers up to 127, got {array.max()}")
    return array


def _segments(pitches: np.ndarray) -> list[tuple[int, int, int]]:
    """Splits one voice [T] into held notes `(start, length, pitch)`, without the silences."""
    starts = np.flatnonzero(np.diff(pitches, prepend=pitches[0] - 1))
    ends = np.append(starts[1:], len(pitches))
    return [
        (int(start), int(end - start), int(pitches[start]))
        for start, end in zip(starts, ends, strict=True)
        if pitches[start] > 0
    ]


def _roll_segments(roll: np.ndarray) -> list[list[tuple[int, int, int]]]:
    """The held notes of each key of a roll [T, 88]."""
    return [_segments(np.where(roll[:, key] > 0, key + LOWEST_KEY, 0)) for key in range(NUM_KEYS)]


def _draw_keyboard(ax: Axes, low: int, high: int) -> None:
    """Shades the rows of black keys and names C, E and G at the left."""
    for pitch in range(low, high + 1):
        if pitch % 12 in BLACK_KEYS:
            ax.axhspan(pitch - 0.5, pitch + 0.5, color="#F1F3F6", lw=0, zorder=0)
        if pitch % 12 == 0:
            ax.axhline(pitch - 0.5, color="#B9C3CD", lw=0.8, zorder=1)
    named = [pitch for pitch in range(max(low, 0), high + 1) if pitch % 12 in LABELLED_KEYS]
    ax.set_yticks(named, [f"{NOTE_NAMES[pitch % 12]}{pitch // 12 - 1}" for pitch in named])


def _draw_bars(ax: Axes, num_steps: int, steps_per_beat: int, beats_per_bar: int) -> None:
    """Draws a line at each beat, a stronger one at each bar, and numbers the bars."""
    steps_per_bar = steps_per_beat * beats_per_bar
    for step in range(0, num_steps, steps_per_beat):
        strong = step % steps_per_bar == 0
        colour, width = ("#93A1AE", 1.0) if strong else ("#E3E7EC", 0.6)
        ax.axvline(step, color=colour, lw=width, zorder=1.2)
    bars = list(range(0, num_steps, steps_per_bar))
    every = -(-len(bars) // 20)
    ax.set_xticks(bars[::every], [str(1 + bar // steps_per_bar) for bar in bars[::every]])


def _draw_notes(ax: Axes, segments: list[tuple[int, int, int]], colour: str, onset_width: float) -> None:
    """One bar a note, darker where it starts."""
    dark = tuple(0.6 * channel for channel in to_rgb(colour))
    for start, length, pitch in segments:
        corner, height = (start, pitch - 0.43), 0.86
        ax.add_patch(Rectangle(corner, length, height, color=colour, lw=0, zorder=3, gid="note"))
        ax.add_patch(Rectangle(corner, onset_width, height, color=dark, lw=0, zorder=3.1, gid="onset"))


def _voice_legend(ax: Axes, num_voices: int) -> None:
    """Names the voices by their colours."""
    names = CHOIR if num_voices == 4 else [f"voice {voice + 1}" for voice in range(num_voices)]
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=PALETTE[voice % len(PALETTE)], label=name) for voice, name in enumerate(names)
    ]
    legend_above(ax, handles)
