"""Recognition of sound while it arrives, for `experiments.speech`."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from experiments._recognizer import Recognizer, logits_of
from experiments._spoken_strings import batch_of
from rnn_jax.data import SPOKEN_DIGITS_RATE, DigitString
from rnn_jax.streaming import StreamPool

__all__ = ["Heard", "delays", "listen", "make_pool", "stream_test"]


class Heard(NamedTuple):
    """What came of a stream.

    Attributes:
        digits: [D], as they were recognized.
        at: [D], after how many samples each was said to be there.
        logits: [T, 11], at every step.
        seconds: [T], what each step took, from samples on the host to logits on the host.
    """

    digits: np.ndarray
    at: np.ndarray
    logits: np.ndarray
    seconds: np.ndarray


def listen(pool: StreamPool, sound: np.ndarray, per_step: int, *, rate: float = 0.0) -> Heard:
    """Gives sound [N] to a stream of its own, step by step, and takes a digit as soon as one is likeliest.

    Args:
        pool: over a cell from the samples of a step to logits.
        sound: as it would come from a microphone.
        per_step: samples of a step; what is left over at the end is not heard.
        rate: samples a second at which it arrives, and digits are then shown in a terminal; 0: as fast as it can.

    Returns:
        `Heard`.
    """
    console, stream, last = Console(), pool.join(), 0
    show = bool(rate) and console.is_terminal
    digits, at, logits, seconds = [], [], [], []
    began = time.perf_counter()
    for number, chunk in enumerate(sound[: len(sound) // per_step * per_step].reshape(-1, per_step), start=1):
        if show:
            time.sleep(max(0.0, began + number * per_step / rate - time.perf_counter()))
        clock = time.perf_counter()
        logits.append(pool.step(stream, chunk))
        label = int(logits[-1].argmax())
        seconds.append(time.perf_counter() - clock)
        if label not in (0, last):
            digits.append(label - 1)
            at.append(number * per_step)
            if show:
                console.print(f"{number * per_step / rate:5.2f} s  {label - 1}")
        last = label
    pool.leave(stream)
    return Heard(np.array(digits, int), np.array(at, int), np.stack(logits), np.array(seconds))


def delays(heard: Heard, digits: Sequence[int], ends: np.ndarray) -> np.ndarray:
    """How many samples after its end each digit was there; nothing where what was heard is not the truth.

    Args:
        heard: from `listen`.
        digits: [D], the truth.
        ends: [D], after how many samples each digit ended.

    Returns:
        [D], negative where a digit was known before its end; or [0].
    """
    return heard.at - ends if list(heard.digits) == list(digits) else np.zeros(0, int)


def make_pool(cell: Any, params: Any, per_step: int) -> StreamPool:
    """A pool for one stream of sound, compiled; `params` are those after the features, which have none."""
    pool = StreamPool(cell, ((), *params), slots=1, input_size=per_step, row_sizes=(1,), chunk_sizes=(1,))
    pool.warm_up()
    return pool


def stream_test(pool: StreamPool, model: Recognizer, params: Any, strings: Sequence[DigitString]) -> dict[str, float]:
    """Streams strings one after another.

    Args:
        pool: over the cell of the model.
        model: a recognizer.
        params: of its network.
        strings: at 8 kHz.

    Returns:
        The largest difference of logits to those of all steps at once; the two parts of the latency: what a chunk takes
        (50 and 99 %), and how long after its end a digit is there (50 and 90 %, of strings that are recognized).
    """
    step = model.per_step
    late, seconds, difference = [], [], 0.0
    num_steps = max(len(string.sound) for string in strings) // step
    together = batch_of(strings, step, num_steps=num_steps, most_digits=max(len(one.digits) for one in strings))
    at_once = np.asarray(logits_of(model)(params, together.sound))
    for number, string in enumerate(strings):
        heard = listen(pool, string.sound, step)
        difference = max(difference, float(abs(heard.logits - at_once[: len(heard.logits), number]).max()))
        late.append(delays(heard, string.digits.tolist(), string.spans[:, 1]) / SPOKEN_DIGITS_RATE)
        seconds.append(heard.seconds)
    times, waits = np.concatenate(seconds), np.concatenate(late)
    found = {"difference_to_unroll": difference, "timed_digits": float(len(waits))}
    found |= {f"chunk_p{q}_us": float(np.percentile(times, q)) * 1e6 for q in (50, 99)}
    if len(waits):
        found |= {f"delay_p{q}_ms": float(np.percentile(waits, q)) * 1e3 for q in (50, 90)}
    return found
