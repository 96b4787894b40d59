"""Signals that ask a run to stop: it saves first."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

__all__ = ["EXIT_CODE", "Interrupted", "stop_requests"]

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h, "try again later": what a process exits with that was told to stop and can go on."""


class Interrupted(Exception):
    """A run was told to stop, and saved.

    Args:
      step: the step of the checkpoint.
      name: of the signal, such as "SIGTERM".
    """

    def __init__(self, step: int, name: str) -> None:
        super().__init__(f"stopped by {name} after step {step}; a checkpoint of this step is saved")
        self.step, self.name = step, name


@contextmanager
def stop_requests() -> Generator[Callable[[], int]]:
    """Notes SIGTERM and SIGINT instead of dying of them; a second one acts as it would have without this.

    Outside of the main thread, where Python cannot set handlers, nothing is noted.

    Yields:
      `requested()`: the number of the signal that came, or 0.

    Example:
      >>> with stop_requests() as requested:
      ...     signal.raise_signal(signal.SIGTERM)
      ...     print(signal.Signals(requested()).name)
      SIGTERM
    """
    came: list[int] = []
    before: dict[int, object] = {}

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        came.append(number)
        signal.signal(number, before[number])  # type: ignore[arg-type]

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, note)
    try:
        yield lambda: came[0] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
