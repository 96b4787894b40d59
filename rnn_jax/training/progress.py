"""What a person sees during training: a live bar in a terminal, lines now and then elsewhere."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

__all__ = ["LINE_SECONDS", "Show", "progress"]

Show = Callable[[int, Mapping[str, float]], None]
"""`show(step, values)`: `step` steps are done, these are the latest numbers."""

LINE_SECONDS = 10.0
"""Seconds between two lines where the output is not a terminal."""


@contextmanager
def progress(
    first_step: int,
    num_steps: int,
    *,
    max_seconds: float | None = None,
    console: Console | None = None,
) -> Generator[Show]:
    """Opens the display and yields the function that updates it.

    In a terminal it is one live line: the bar, the values, steps per second and the time left.
    Where the console is not a terminal (a file, a pipe, a notebook, CI) plain lines with the same
    content are printed: the first step, the last, and one every `LINE_SECONDS` between.

    Args:
      first_step: steps already done when training starts.
      num_steps: step at which training ends.
      max_seconds: wall-clock limit, which bounds the time left; None for no limit.
      console: where to write; a new `Console()`, so standard output, if None. Pass
        `Console(quiet=True)` to show nothing.

    Yields:
      `show(step, values)`.

    Example:
      >>> with progress(0, 2, console=Console(quiet=True)) as show:
      ...     show(1, {"loss": 0.5})
    """
    console = Console() if console is None else console
    describe = _describer(num_steps, max_seconds)
    if console.is_terminal:
        with Progress(
            SpinnerColumn(),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
            console=console,
            expand=True,
        ) as bar:
            task = bar.add_task("training", total=num_steps, completed=first_step, text="compiling")
            yield lambda step, values: bar.update(task, completed=step, text=describe(step, values))
    else:
        show, close = _line_printer(console, num_steps, describe)
        yield show
        close()


def _line_printer(
    console: Console, num_steps: int, describe: Callable[[int, Mapping[str, float]], str]
) -> tuple[Show, Callable[[], None]]:
    """Prints a plain line for the first step, every `LINE_SECONDS`, and for the last at `close`."""
    next_line = time.monotonic()
    waiting: str | None = None

    def write(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(step: int, values: Mapping[str, float]) -> None:
        nonlocal next_line, waiting
        line, now = f"step {step}/{num_steps} · {describe(step, values)}", time.monotonic()
        if now < next_line:
            waiting = line
            return
        write(line)
        next_line, waiting = now + LINE_SECONDS, None

    def close() -> None:
        if waiting is not None:
            write(waiting)

    return show, close


def _describer(num_steps: int, max_seconds: float | None) -> Callable[[int, Mapping[str, float]], str]:
    """Writes "loss 0.52 · 41.2 steps/s · 0:21 left"; the rate leaves the first step out."""
    opened = time.monotonic()
    origin: tuple[int, float] | None = None

    def describe(step: int, values: Mapping[str, float]) -> str:
        nonlocal origin
        now = time.monotonic()
        parts = [f"{name} {value:.4g}" for name, value in values.items()]
        if origin is None:
            origin = (step, now)
        elif step > origin[0]:
            rate = (step - origin[0]) / max(now - origin[1], 1e-9)
            left = (num_steps - step) / rate
            if max_seconds is not None:
                left = min(left, max(max_seconds - (now - opened), 0.0))
            parts += [f"{rate:.3g} steps/s", f"{_clock(left)} left"]
        return " · ".join(parts)

    return describe


def _clock(seconds: float) -> str:
    """Writes a duration as m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
