"""Long streams cut into windows, for truncated backpropagation through time. NumPy only.

    inputs, targets = streams(tokens[:-1], 32), streams(tokens[1:], 32)       # [N, B]
    series = windows(inputs, targets, k1=35, k2=70)                           # series[0], series[1], ...

Time runs on from one window to the next, so their order matters: they go through a network in the order of their index.
Each is a pure function of its index (and of seed and epoch, where lengths are random), so a run that is cut off goes on
anywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rnn_jax.data.batching import epoch_generator, tree_leaves, tree_rebuild

__all__ = ["Passes", "Window", "Windows", "passes", "random_lengths", "random_windows", "streams", "windows"]


class Window(NamedTuple):
    """T steps of B streams. The loss is on the steps that have a weight; those before them only lead up to it.

    None means: no borders (`resets`), all steps are real (`mask`), the next window starts where this one ends
    (`advance`), the update is as the optimizer says (`scale`).
    """

    inputs: Any  # pytree of arrays [T, B, ...], zero where steps are not real
    targets: Any  # pytree of arrays [T, B, ...], zero where steps are not real
    resets: np.ndarray | None  # [T, B] bool: a border before this step
    weights: np.ndarray  # [T, B] float32, of the loss: zero on burn-in, overlap and padding
    mask: np.ndarray | None = None  # [T, B] bool, True = real
    advance: np.ndarray | None = None  # int32 scalar: the next window starts so many steps after this one
    scale: np.ndarray | None = None  # float32 scalar: multiplies the update


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of one pass over streams, by their index; `windows` and `random_windows` make it.

    A sequence: it has a length, `series[index]` is a `Window`, all of one shape, and it can be iterated over, wrapped
    (such as by `grain.MapDataset.source`) and pickled. It holds the streams as they are given, not copies.

    Args:
      inputs, targets: pytrees of arrays [N, B, ...].
      weights: [N, B] float32.
      borders: [N, B] bool.
      ends: [W] the step at which each window's targets end; they start where those of the one before end.
      longest: the largest number of steps with targets in one window.
      lead: steps before those with targets: burn-in and overlap.
      burn_in: how many of these are burn-in.
      scales: [W] float32, or None.
    """

    inputs: Any
    targets: Any
    weights: np.ndarray
    borders: np.ndarray
    ends: np.ndarray
    longest: int
    lead: int
    burn_in: int
    scales: np.ndarray | None

    def __len__(self) -> int:
        """The number of windows."""
        return len(self.ends)

    def __getitem__(self, index: int) -> Window:
        """The window of an index; negative ones count from the end."""
        index = range(len(self))[index]
        start = int(self.ends[index - 1]) if index else 0
        end, first, num_steps = int(self.ends[index]), start - self.lead, self.lead + self.longest
        lo, hi = max(first, 0), end

        def cut(stream: np.ndarray) -> np.ndarray:
            out = np.zeros((num_steps, *stream.shape[1:]), stream.dtype)
            out[lo - first : hi - first] = stream[lo:hi]
            return out

        resets, weights = cut(self.borders), cut(self.weights)
        weights[: self.lead] = 0
        if first <= 0:
            resets[-first] = True
        mask = np.zeros(resets.shape, bool)
        mask[lo - first : hi - first] = True
        return Window(
            inputs=_map(cut, self.inputs),
            targets=_map(cut, self.targets),
            resets=resets,
            weights=weights,
            mask=mask,
            advance=np.asarray(end - start, np.int32) if self.lead else None,
            scale=None if self.scales is None else self.scales[index],
        )


@dataclass(frozen=True, eq=False)
class Passes:
    """Passes over streams one after another, as one sequence of windows; `passes` makes it.

    Args:
      parts: the passes.
      ends: [E] the index after the last window of each.
    """

    parts: tuple[Windows, ...]
    ends: np.ndarray

    def __len__(self) -> int:
        """The number of windows of all passes."""
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Window:
        """The window of an index over all passes; negative ones count from the end."""
        index = range(len(self))[index]
        epoch = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[epoch][index - int(self.ends[epoch])]  # counted from the end of its pass


def passes(build: Callable[[int], Windows], num: int) -> Passes:
    """Passes over streams one after another, by one index: what a pipeline that resumes by a number needs.

    Args:
      build: `build(epoch)` gives the windows of a pass, a pure function; their number may differ.
      num: the number of passes.

    Returns:
      a sequence of the windows of all passes.

    Raises:
      ValueError: `num` is less than 1.

    Example:
      >>> numbers = streams(np.arange(400), 2)
      >>> series = passes(lambda epoch: random_windows(numbers, numbers + 1, 20, seed=0, epoch=epoch), 3)
      >>> sum(int(window.mask.sum()) for window in series)
      1200
    """
    if num < 1:
        raise ValueError(f"`num` must be at least 1, got {num}")
    parts = tuple(build(epoch) for epoch in range(num))
    return Passes(parts=parts, ends=np.cumsum([len(part) for part in parts]))


def streams(sequence: Any, batch_size: int) -> Any:
    """Cuts one long sequence into parallel streams of equal length, time first.

    Args:
      sequence: array [N, ...], or a pytree of such.
      batch_size: B.

    Returns:
      arrays [N // B, B, ...]: stream b holds the steps from `b * (N // B)` on. Up to B - 1 steps at the end are left
      out.

    Raises:
      ValueError: `batch_size` is not in [1, N].

    Example:
      >>> text = np.array([5, 6, 7, 8, 9])
      >>> streams(text[:-1], 2).tolist(), streams(text[1:], 2).tolist()  # the inputs, and what comes next
      ([[5, 7], [6, 8]], [[6, 8], [7, 9]])
    """

    def one(array: np.ndarray) -> np.ndarray:
        if not 1 <= batch_size <= len(array):
            raise ValueError(f"`batch_size` must be in [1, {len(array)}], the length of the sequence, got {batch_size}")
        length = len(array) // batch_size
        return array[: length * batch_size].reshape(batch_size, length, *array.shape[1:]).swapaxes(0, 1)

    return _map(one, sequence)


def windows(
    inputs: Any,
    targets: Any,
    k1: int,
    k2: int | None = None,
    *,
    burn_in: int = 0,
    borders: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Windows:
    """Windows of equal length: a loss on every step once, k1 of them in a window, and gradients k2 steps back.

        burn_in      k2 - k1      k1
        |.........|............|xxxxxx|            one window: no gradient, gradient, gradient and loss
               |.........|............|xxxxxx|     the next one, k1 later

    The first window of the pass begins before the streams do, with steps that are not real; there is a border at their
    first step. So each pass starts afresh, whatever the carry.

    Args:
      inputs: pytree of arrays [N, B, ...].
      targets: pytree of arrays [N, B, ...].
      k1: steps from one window to the next; the last one may have fewer, then padding.
      k2: how far gradients flow, at least k1; k1 by default. The mean distance is (k1 + 1) / 2 + k2 - k1.
      burn_in: steps before those, to refresh a carry that parameters of some updates ago have left.
      borders: [N, B] bool, True where a document begins: the carry is the initial one again.
      weights: [N, B], of the loss; 1 by default.

    Returns:
      the windows, all of T = burn_in + k2 steps.

    Raises:
      ValueError: an argument makes no sense, or the streams do not agree in N and B.

    Example:
      >>> numbers = streams(np.arange(1, 11), 2)  # 1 ... 5 and 6 ... 10
      >>> series = windows(numbers, numbers + 1, k1=2, k2=3)
      >>> len(series)
      3
      >>> series[1].inputs.T.tolist(), series[1].weights[:, 0].tolist()
      ([[2, 3, 4], [7, 8, 9]], [0.0, 1.0, 1.0])
      >>> series[0].mask[:, 0].tolist(), series[0].resets[:, 0].tolist(), int(series[0].advance)
      ([False, True, True], [False, True, False], 2)

    References:
      Williams & Peng, 1990, see `make_tbptt_step`; Kapturowski et al., Recurrent experience replay in distributed
      reinforcement learning, 2019 (burn-in).
    """
    k2 = k1 if k2 is None else k2
    if k1 < 1 or k2 < k1:
        raise ValueError(f"`k1` and `k2` must satisfy 1 <= k1 <= k2, got {k1} and {k2}")
    num_steps = _num_steps(inputs)
    ends = np.minimum(np.arange(k1, num_steps + k1, k1), num_steps)
    return _windows(inputs, targets, ends, k1, k2 - k1, burn_in, borders, weights, None)


def random_windows(
    inputs: Any,
    targets: Any,
    bptt: int,
    *,
    seed: int,
    epoch: int,
    overlap: int = 0,
    burn_in: int = 0,
    borders: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    spread: float = 5.0,
    short: float = 0.05,
) -> Windows:
    """Windows of random lengths, so that the ends of windows are not always at the same words (AWD-LSTM).

    All have the same shape, padded, so that nothing is compiled twice; the update of a window is scaled by its length
    over `bptt`, because its loss is a mean over fewer or more steps.

    Args:
      inputs, targets: pytrees of arrays [N, B, ...].
      bptt: the length around which lengths are drawn.
      seed, epoch: the windows are a pure function of both.
      overlap: steps before those with a loss through which gradients flow too, k2 - k1 of `windows`.
      burn_in, borders, weights: as for `windows`.
      spread, short: as for `random_lengths`.

    Returns:
      the windows of one epoch, of T = burn_in + overlap + bptt + 4 spread steps. Their number differs from epoch to
      epoch.

    Raises:
      ValueError: an argument makes no sense, or the streams do not agree in N and B.

    Example:
      >>> numbers = streams(np.arange(2000), 2)
      >>> series = random_windows(numbers, numbers + 1, 35, seed=0, epoch=0)
      >>> lengths = [int(window.mask[:, 0].sum()) for window in series]
      >>> sum(lengths), series[0].inputs.shape, bool(series[0].scale == np.float32(lengths[0] / 35))
      (1000, (55, 2), True)
    """
    num_steps = _num_steps(inputs)
    lengths = random_lengths(num_steps, bptt, seed, epoch, spread=spread, short=short)
    scales = (lengths / bptt).astype(np.float32)
    longest = _longest(bptt, spread)
    return _windows(inputs, targets, np.cumsum(lengths), longest, overlap, burn_in, borders, weights, scales)


def random_lengths(
    num_steps: int, bptt: int, seed: int, epoch: int, *, spread: float = 5.0, short: float = 0.05
) -> np.ndarray:
    """Random lengths of windows that add up to `num_steps`, drawn as those of AWD-LSTM.

    With probability 1 - short a length is N(bptt, spread), else N(bptt / 2, spread), rounded towards zero; at least 5
    (or bptt, if that is less) and at most bptt + 4 spread. The last one is what is left.

    Args:
      num_steps: N, at least 1.
      bptt: at least 1.
      seed, epoch: the lengths are a pure function of both.
      spread: the standard deviation.
      short: the probability of half the length.

    Returns:
      [W] int64.

    Raises:
      ValueError: an argument makes no sense.

    Example:
      >>> lengths = random_lengths(10_000, 70, seed=0, epoch=1)
      >>> int(lengths.sum()), int(np.median(lengths))
      (10000, 70)

    References:
      Merity, Keskar & Socher, Regularizing and optimizing LSTM language models, 2018, arXiv:1708.02182, "variable
      length backpropagation sequences"; the least length and the rounding are those of the authors' program, the
      greatest is ours.
    """
    for name, value in (("num_steps", num_steps), ("bptt", bptt)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    if not 0 <= short <= 1:
        raise ValueError(f"`short` must be a probability in [0, 1], got {short}")
    if not spread >= 0:
        raise ValueError(f"`spread` must be at least 0, got {spread}")
    generator = epoch_generator(seed, epoch)
    least = min(5, bptt)
    count = -(-num_steps // least)
    centre = np.where(generator.random(count) < short, bptt / 2, bptt)
    drawn = np.clip(np.trunc(generator.normal(centre, spread)).astype(np.int64), least, _longest(bptt, spread))
    ends = np.cumsum(drawn)
    ends = np.append(ends[ends < num_steps], num_steps)
    return np.diff(ends, prepend=0)


def _longest(bptt: int, spread: float) -> int:
    return bptt + int(4 * spread)


def _num_steps(inputs: Any) -> int:
    """N of streams [N, B, ...]."""
    leaves = tree_leaves(inputs)
    if not leaves or leaves[0].ndim < 2 or not leaves[0].size:
        raise ValueError(f"`inputs` must be arrays [N, B, ...] of at least one step, got shapes {_shapes(inputs)}")
    return len(leaves[0])


def _windows(
    inputs: Any,
    targets: Any,
    ends: np.ndarray,
    longest: int,
    overlap: int,
    burn_in: int,
    borders: ArrayLike | None,
    weights: ArrayLike | None,
    scales: np.ndarray | None,
) -> Windows:
    """Checks the streams against each other and puts them together."""
    shape = tree_leaves(inputs)[0].shape[:2]
    for name, value in (("overlap", overlap), ("burn_in", burn_in)):
        if value < 0:
            raise ValueError(f"`{name}` must be at least 0, got {value}")
    borders = np.broadcast_to(np.False_, shape) if borders is None else np.asarray(borders)
    if borders.dtype != np.bool_:
        raise ValueError(f"`borders` must be boolean, got {borders.dtype}")
    weights = np.broadcast_to(np.float32(1), shape) if weights is None else np.asarray(weights, np.float32)
    for name, value in (("inputs", inputs), ("targets", targets), ("borders", borders), ("weights", weights)):
        exact = name in ("borders", "weights")
        if any((leaf.shape if exact else leaf.shape[:2]) != shape for leaf in tree_leaves(value)):
            rest = "" if exact else ", ..."
            raise ValueError(f"`{name}` must be [{shape[0]}, {shape[1]}{rest}], as the inputs, got {_shapes(value)}")
    return Windows(
        inputs=_map(np.asarray, inputs),
        targets=_map(np.asarray, targets),
        weights=weights,
        borders=borders,
        ends=ends,
        longest=longest,
        lead=overlap + burn_in,
        burn_in=burn_in,
        scales=scales,
    )


def _map(function: Callable[[np.ndarray], np.ndarray], tree: Any) -> Any:
    return tree_rebuild(tree, (function(leaf) for leaf in tree_leaves(tree)))


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in tree_leaves(tree)]
