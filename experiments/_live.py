"""A picture in the terminal of signals that arrive and of what was expected of them."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = ["Show", "chart", "live_display"]

Show = Callable[[int, Sequence[np.ndarray]], None]
"""`show(now, forecasts)`: called at every sample, with what was said so far of each piece."""

FRAMES = 15  # a second


def chart(truth: np.ndarray, forecast: np.ndarray, height: int = 12) -> Text:
    """Two curves [W] as text, NaN where there is nothing: the truth as dots, the forecast as crosses.

    Example:
        >>> print(chart(np.array([0.0, 1.0, np.nan]), np.array([0.0, 0.5, 1.0]), height=3))
         ●x
         x
        ●
    """
    low, high = np.nanmin([truth, forecast]), np.nanmax([truth, forecast])
    canvas = np.full((height, len(truth)), " ")
    for curve, mark in ((forecast, "x"), (truth, "●")):
        columns = np.flatnonzero(np.isfinite(curve))
        rows = (curve[columns] - low) / max(high - low, 1e-6) * (height - 1)
        canvas[height - 1 - np.rint(rows).astype(int), columns] = mark
    text = Text("\n".join("".join(row).rstrip() for row in canvas))
    text.highlight_words(["x"], "cyan")
    return text


@contextmanager
def live_display(
    pieces: Sequence[np.ndarray], starts: Sequence[int], *, ahead: int, sample_rate: float, scale: float, unit: str
) -> Generator[Show]:
    """Shows the first piece that is arriving and a table of all; where there is no terminal, nothing.

    Args:
        pieces: signals [T].
        starts: when each of them begins.
        ahead: the forecast at t is of t + ahead.
        sample_rate: samples a second.
        scale: of errors in the table.
        unit: what they then are in.
    """
    console, drawn = Console(), 0.0
    if not console.is_terminal:
        yield lambda now, forecasts: None
        return
    width = min(console.width, 160)
    with Live(console=console, auto_refresh=False) as live:

        def show(now: int, forecasts: Sequence[np.ndarray]) -> None:
            nonlocal drawn
            if time.perf_counter() - drawn < 1 / FRAMES:
                return
            drawn = time.perf_counter()
            table = Table("stream", "seconds", f"error, {unit}", f"error of the last value, {unit}")
            ages = [min(now - start + 1, len(piece)) for start, piece in zip(starts, pieces, strict=True)]
            for number, (piece, forecast, age) in enumerate(zip(pieces, forecasts, ages, strict=True)):
                if age > ahead:
                    came = piece[ahead:age]
                    errors = [
                        scale * np.sqrt(np.square(said[: age - ahead] - came).mean()) for said in (forecast, piece)
                    ]
                    table.add_row(str(number + 1), f"{age / sample_rate:.1f}", *(f"{error:.3f}" for error in errors))
            first = next((n for n, age in enumerate(ages) if 0 < age < len(pieces[n])), 0)
            caption = (
                f"stream {first + 1}: ● what came, x what was expected of it {1000 * ahead / sample_rate:.0f} ms before"
            )
            curves = _window(pieces[first], forecasts[first], max(ages[first], 1), ahead, width)
            live.update(Group(Text(caption), chart(*curves), table), refresh=True)

        yield show


def _window(piece: np.ndarray, forecast: np.ndarray, age: int, ahead: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The last `width` samples of a piece up to the newest forecast, and the forecasts of them."""
    begin = max(0, age + ahead - width)
    truth, said = np.full((2, width), np.nan)
    truth[: age - begin] = piece[begin:age]
    said[max(0, ahead - begin) : age + ahead - begin] = forecast[max(0, begin - ahead) : age]
    return truth, said
