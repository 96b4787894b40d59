"""`StreamPool`: many sequences that come and go, served by a fixed number of compiled programs."""

import itertools
import threading
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from rnn_jax import checks
from rnn_jax.streaming.arguments import (
    chunk_lengths,
    fill,
    inputs,
    one_row,
    program_sizes,
    step_output,
    stream_numbers,
    streaming_cell,
)
from rnn_jax.streaming.slots import Program, compile_program, initial_rows
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params

__all__ = ["Stream", "StreamPool"]

Stream: TypeAlias = int
"""A stream of a pool: a number that no other stream of this process has or had."""

_numbers = itertools.count(1)


class StreamPool:
    """S slots for sequences that arrive step by step. Streams join and leave, and nothing is compiled anew.

    The carry of all slots is one tree of arrays [S, ...] that stays on a device and is updated in place. A call reads
    the rows of its streams, steps them and writes them back, so its time depends on how many streams it steps, hardly
    on how many there are. Each stream gets the numbers of `unroll` over all that it was given, to rounding, whatever
    the sizes of its chunks and whoever is stepped beside it. Other streams keep their carry bit for bit.

    There is one program for every pair of `row_sizes` and `chunk_sizes`, one that reads a slot and one that writes it.
    A call takes the smallest row size that holds its streams, and cuts a chunk into the largest sizes that fit. Each
    program is compiled when it is first needed, or all of them by `warm_up`; none can be compiled twice.

    NaN in an input stays in its stream, until that is reset or restored. Calls from several threads take turns. A call
    that is refused changes nothing.

    Args:
        cell: a `Cell`, a `LinearCell` or a `stack`. A `Layer` needs whole sequences and is refused.
        params: its parameters, not perturbed. They are prepared once; the pool is on the device where they are.
        slots: S, the most streams at a time.
        input_size: I.
        space: spatial axes of a step, for cells such as `conv_lstm`.
        dtype: of inputs and outputs, floating.
        row_sizes: for how many streams at once there are programs; by default 1, 4, 16, ... S is always one of them.
        chunk_sizes: for how many steps at once there are programs; 1 is always one of them.

    Raises:
        ValueError: names the argument, what was expected and what came.

    Example:
        >>> from rnn_jax import dense, gru, stack
        >>> cell = stack(gru(8), dense(2))
        >>> pool = StreamPool(cell, cell.init(jax.random.key(0), 3), slots=10, input_size=3)
        >>> a, b = pool.join(), pool.join()
        >>> pool.step(a, [0.1, 0.2, 0.3]).shape
        (2,)
        >>> pool.step([b, a], np.zeros((2, 3))).shape
        (2, 2)
        >>> saved = pool.snapshot(a)
        >>> ys = pool.unroll(a, np.ones((7, 3)))
        >>> pool.restore(a, saved)
        >>> bool(np.allclose(pool.unroll(a, np.ones((7, 3))), ys))
        True
        >>> pool.leave(b)
        >>> pool.streams == (a,)
        True
    """

    def __init__(
        self,
        cell: Cell | LinearCell,
        params: Params,
        *,
        slots: int,
        input_size: int,
        space: tuple[int, ...] = (),
        dtype: Any = jnp.float32,
        row_sizes: Sequence[int] | None = None,
        chunk_sizes: Sequence[int] = (1, 4, 16, 64),
    ) -> None:
        streaming_cell(cell, params)
        checks.positive("slots", slots)
        checks.positive("input_size", input_size)
        if row_sizes is None:
            row_sizes = [4**power for power in range(slots.bit_length()) if 4**power < slots]
        self.slots = slots
        self.row_sizes = program_sizes("row_sizes", row_sizes, slots, most=slots)
        self.chunk_sizes = program_sizes("chunk_sizes", chunk_sizes, 1)
        self._cell = cell
        self._x = jax.ShapeDtypeStruct((*space, input_size), jax.dtypes.canonicalize_dtype(dtype))
        self._device = _device(params)
        params = jax.device_put(params, self._device)
        self._params = jax.jit(cell.prepare)(params) if isinstance(cell, Cell) else params
        self._y = step_output(cell, self._params, self._x)
        start = jax.jit(partial(initial_rows, cell), static_argnums=(1, 2))
        self._initial = jax.device_put(start(self._params, space, self._x.dtype), self._device)
        self._carry = jax.device_put(start(self._params, (slots, *space), self._x.dtype), self._device)
        self._programs: dict[Program, Any] = {}
        self._slots: dict[Stream, np.ndarray] = {}  # each [1] int32, as programs take them
        self._free = list(np.arange(slots, dtype=np.int32)[::-1, None])
        self._lock = threading.Lock()

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that have joined and not left, the oldest first."""
        return tuple(self._slots)

    @property
    def num_programs(self) -> int:
        """How many programs there can be."""
        return len(self.row_sizes) * len(self.chunk_sizes) + 2

    @property
    def num_compiled(self) -> int:
        """How many of them were compiled so far."""
        return len(self._programs)

    def warm_up(self) -> None:
        """Compiles all programs that there can be, so that no later call has to wait for that."""
        with self._lock:
            for key in ("read", "write", *itertools.product(self.row_sizes, self.chunk_sizes)):
                self._program(key)

    def join(self, carry: Carry | None = None) -> Stream:
        """Takes a free slot.

        Args:
            carry: where the stream starts: from `snapshot`, or from `unroll` over xs without batch axes; None: the
                initial carry of the cell.

        Returns:
            The stream.

        Raises:
            ValueError: all slots are taken, or the carry is not that of a single row of this cell.
        """
        with self._lock:
            row = self._initial if carry is None else self._row(carry)
            if not self._free:
                raise ValueError(
                    f"`slots` must be enough for all streams, got one more than {self.slots}; one must leave"
                )
            self._write(self._free[-1], row)
            stream = next(_numbers)
            self._slots[stream] = self._free.pop()
            return stream

    def leave(self, stream: Stream) -> None:
        """Gives the slot of a stream back.

        Raises:
            ValueError: the pool has no such stream.
        """
        with self._lock:
            self._slot(stream)
            self._free.append(self._slots.pop(stream))

    def reset(self, stream: Stream) -> None:
        """Puts a stream back to the initial carry of the cell.

        Raises:
            ValueError: the pool has no such stream.
        """
        with self._lock:
            self._write(self._slot(stream), self._initial)

    def snapshot(self, stream: Stream) -> Carry:
        """The carry of a stream as it is now, a copy on the device without an axis of slots.

        It is for `join` and `restore` of any pool over the same cell, and for `unroll` over xs without batch axes.
        `jax.device_get` brings it to the host.

        Raises:
            ValueError: the pool has no such stream.
        """
        with self._lock:
            return self._program("read")(self._carry, self._slot(stream))

    def restore(self, stream: Stream, carry: Carry) -> None:
        """Puts a stream to a carry.

        Args:
            stream: the stream.
            carry: as in `join`.

        Raises:
            ValueError: the pool has no such stream, or the carry is not that of a single row of this cell.
        """
        with self._lock:
            self._write(self._slot(stream), self._row(carry))

    def step(self, streams: Stream | Sequence[Stream] | np.ndarray, xs: ArrayLike) -> np.ndarray:
        """One step of one stream or of several.

        Args:
            streams: one stream, or K different ones.
            xs: [*space, I] for one stream, [K, *space, I] for several; real numbers.

        Returns:
            The outputs on the host, [*space, O] or [K, *space, O]; they may be read-only.

        Raises:
            ValueError: the pool has no such stream, one is named twice, or xs has another shape.
        """
        with self._lock:
            single, slots = self._find(streams)
            array = inputs(xs, self._x.shape if single else (len(slots), *self._x.shape), self._x.dtype)
            if not len(slots):
                return np.zeros((0, *self._y.shape), self._y.dtype)
            ys = self._run(slots, array[None, None] if single else array[None])
        return np.asarray(ys)[0, 0] if single else np.asarray(ys)[0, : len(slots)]

    def unroll(
        self,
        streams: Stream | Sequence[Stream] | np.ndarray,
        xs: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
    ) -> np.ndarray:
        """Several steps of one stream or of several: what has arrived since the last call.

        Args:
            streams: one stream, or K different ones.
            xs: [C, *space, I] for one stream, [C, K, *space, I] for several; real numbers. C may be any number.
            lengths: [K] integers in [0, C]: how many of the steps each stream makes; None: all.

        Returns:
            The outputs on the host, [C, *space, O] or [C, K, *space, O], zero beyond the lengths.

        Raises:
            ValueError: as `step`; lengths have another shape, or are not such integers.
        """
        with self._lock:
            (single, slots), steps = self._find(streams), np.shape(xs)[:1]
            shape = self._x.shape if single else (len(slots), *self._x.shape)
            array = inputs(xs, (*steps, *shape), self._x.dtype)
            lengths = chunk_lengths(lengths, len(array), len(slots))
            pieces = self._chunk(slots, array[:, None] if single else array, lengths)
        ys = np.zeros((len(array), len(slots), *self._y.shape), self._y.dtype)
        for start, rows, part in pieces:
            ys[start : start + len(part), rows] = np.asarray(part)[:, : len(rows)]
        return ys[:, 0] if single else ys

    def _chunk(self, slots: np.ndarray, xs: np.ndarray, lengths: np.ndarray) -> list[tuple[int, np.ndarray, Array]]:
        """Runs a chunk [C, K, ...] in pieces for which there are programs: first step, rows and ys of each."""
        pieces, start = [], 0
        while (rows := np.flatnonzero(lengths > start)).size:
            left = lengths[rows] - start
            size = max(size for size in self.chunk_sizes if size <= left.max())
            part = self._run(slots[rows], xs[start : start + size, rows], np.minimum(left, size).astype(np.int32))
            pieces.append((start, rows, part))
            start += size
        return pieces

    def _run(self, slots: np.ndarray, xs: np.ndarray, lengths: np.ndarray | None = None) -> Array:
        """Steps slots [K]: xs [C, K, ...] with C a chunk size, lengths if C > 1. ys [C, at least K, ...]."""
        steps, count = xs.shape[:2]
        rows = self.row_sizes[bisect_left(self.row_sizes, count)]
        ragged = () if steps == 1 or lengths is None else (fill(lengths, rows),)
        if rows > count:
            beyond = np.arange(self.slots, self.slots + rows - count, dtype=np.int32)
            slots, xs = np.concatenate([slots, beyond]), fill(xs, rows, axis=1)
        self._carry, ys = self._program((rows, steps))(self._params, self._carry, slots, xs, *ragged)
        return ys

    def _row(self, carry: Carry) -> Carry:
        return jax.device_put(one_row(carry, self._initial), self._device)

    def _write(self, slot: np.ndarray, row: Carry) -> None:
        self._carry = self._program("write")(self._carry, slot, row)

    def _program(self, key: Program) -> Any:
        if key not in self._programs:
            self._programs[key] = compile_program(key, self._cell, self._params, self._carry, self._initial, self._x)
        return self._programs[key]

    def _find(self, streams: Stream | Sequence[Stream] | np.ndarray) -> tuple[bool, np.ndarray]:
        """Whether it is a single stream, and the slots [K] int32 of all."""
        # The processor's caches are cold after a step, so that a single stream would feel each call made for it.
        if type(streams) is int and streams in self._slots:
            return True, self._slots[streams]
        single, numbers = stream_numbers(streams)
        strange = [number for number in numbers if number not in self._slots]
        if strange:
            raise ValueError(f"`streams` must have joined this pool and not left it, got {strange}")
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"`streams` must be different from each other, got {numbers}")
        return single, np.array([self._slots[number] for number in numbers], np.int32).reshape(-1)

    def _slot(self, stream: Stream) -> np.ndarray:
        """The slot [1] of a single stream."""
        single, slots = self._find(stream)
        if not single:
            raise ValueError(f"`stream` must be a single stream, got {checks.describe(stream)}")
        return slots


def _device(params: Params) -> jax.Device | None:
    """The device for a pool: one on which the parameters are, None for the default."""
    found = [leaf.devices() for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
    return min(found[0], key=lambda device: device.id) if found else None
