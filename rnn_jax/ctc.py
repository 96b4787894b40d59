"""Connectionist temporal classification: labels without times. Their likelihood, and their likeliest times.

A network says at each of T steps which of V tokens it hears, one of them being the blank. A path of T tokens stands for
the labels that are left when repeats are made one and blanks are taken out; labels are as likely as all of their paths
together. Both functions walk once through a lattice of S = 2 N + 1 states: the N labels, and a blank around each.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks, tree
from rnn_jax.types import Array

__all__ = ["Alignment", "ctc_align", "ctc_nll", "ctc_steps"]

NEVER = -1e30
"""The logarithm of zero: finite, so that gradients of what cannot happen are zero and not NaN."""


class Alignment(NamedTuple):
    """The likeliest path for given labels.

    Attributes:
        places: int32 [T, *batch], which label is said at a step, counted from 0; -1 at blanks and after the end.
        log_probs: [*batch], the log-probability of this one path; -inf where the labels have none (places are -1).
    """

    places: Array
    log_probs: Array


def ctc_nll(logits: Array, labels: Array, *, lengths: Any = None, label_lengths: Any = None, blank: int = 0) -> Array:
    """The negative log-probability of labels, in nats: minus the log of the sum over all paths that stand for them.

    It is differentiable any number of times. optax.ctc_loss gives the same numbers for finite float32 logits whose
    labels fit; here padding may hold anything, float64 stays float64, and labels that cannot be are told apart.

    Args:
        logits: [T, *batch, V], floating; a logit of -inf makes a token impossible.
        labels: integers [N, *batch], none of them the blank where they count.
        lengths: [*batch] or its leading axes, how many steps are real; None: all.
        label_lengths: [*batch] or its leading axes, how many labels count; None: all.
        blank: the token that is no label.

    Returns:
        [*batch], at least float32. Where labels have no path, as they need more steps than there are (see `ctc_steps`)
        or a token that is impossible, it is inf, with a gradient of zero: leave such rows out by their weight.

    Raises:
        ValueError: names the argument, what was expected and what came. Labels that are traced cannot be looked at.

    Example:
        >>> logits = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]))  # two steps; blank, 1, 2
        >>> print(f"{jnp.exp(-ctc_nll(logits, jnp.array([1]))):.2f}")  # 1 1, 1 blank, blank 1: .09 + .18 + .15
        0.42

    References:
        Graves et al., Connectionist temporal classification, ICML 2006.
    """
    return _nll(*_checked(logits, labels, lengths, label_lengths, blank), blank)


def ctc_align(
    logits: Array, labels: Array, *, lengths: Any = None, label_lengths: Any = None, blank: int = 0
) -> Alignment:
    """When the labels were said: the likeliest of their paths (forced alignment by the Viterbi algorithm).

    Of equally likely paths it takes one.

    Args:
        logits, labels, lengths, label_lengths, blank: as in `ctc_nll`.

    Returns:
        `Alignment`.

    Raises:
        ValueError: as `ctc_nll`.

    Example:
        >>> logits = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]))
        >>> places, log_prob = ctc_align(logits, jnp.array([1]))
        >>> print(places, f"{jnp.exp(log_prob):.2f}")  # label 0 is said at the first step, then comes a blank
        [ 0 -1] 0.18
    """
    return _align(*_checked(logits, labels, lengths, label_lengths, blank), blank)


def ctc_steps(labels: Array, label_lengths: Any = None) -> Array:
    """The fewest steps in which labels can be said: one each, and a blank between two equal ones.

    Args:
        labels: integers [N, *batch].
        label_lengths: [*batch] or its leading axes, how many labels count; None: all.

    Returns:
        int32 [*batch]; with fewer steps `ctc_nll` is inf.

    Example:
        >>> print(ctc_steps(jnp.array([3, 3, 5])))
        4
    """
    num_labels, *batch = labels.shape
    label_lengths = _lengths("label_lengths", label_lengths, num_labels, tuple(batch))
    repeats = (labels[1:] == labels[:-1]) & _before(label_lengths, num_labels)[1:]
    return label_lengths + repeats.sum(0, dtype=jnp.int32)


@partial(jax.jit, static_argnames="blank")
def _nll(logits: Array, labels: Array, lengths: Array, label_lengths: Array, blank: int) -> Array:
    lattice = _lattice(logits, labels, lengths, label_lengths, blank)

    def step(alpha: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
        emitted, real = inputs
        moved = jax.nn.logsumexp(_arrivals(alpha, lattice.skips), axis=0) + emitted
        return jnp.where(real[..., None], moved, alpha), None

    alpha, _ = jax.lax.scan(step, lattice.start, (lattice.emitted, lattice.real))
    nll = -jax.nn.logsumexp(_endings(lattice, alpha), axis=0)
    possible = nll < -NEVER / 2
    return jnp.where(possible, jnp.where(possible, nll, 0), jnp.inf)


@partial(jax.jit, static_argnames="blank")
def _align(logits: Array, labels: Array, lengths: Array, label_lengths: Array, blank: int) -> Alignment:
    lattice = _lattice(logits, labels, lengths, label_lengths, blank)

    def forwards(alpha: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        emitted, real = inputs
        arrivals = _arrivals(alpha, lattice.skips)
        here = real[..., None]
        return jnp.where(here, arrivals.max(0) + emitted, alpha), jnp.where(here, jnp.argmax(arrivals, 0), 0)

    def backwards(state: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        moves, real = inputs
        place = jnp.where(real & (state % 2 == 1), state // 2, -1)
        return state - jnp.take_along_axis(moves, state[..., None], axis=-1)[..., 0], place

    alpha, moves = jax.lax.scan(forwards, lattice.start, (lattice.emitted, lattice.real))
    endings = _endings(lattice, alpha)
    last = 2 * lattice.label_lengths - jnp.argmax(endings, axis=0).astype(jnp.int32)
    _, places = jax.lax.scan(backwards, last, (moves.astype(jnp.int32), lattice.real), reverse=True)
    log_probs = endings.max(0)
    possible = log_probs > NEVER / 2
    return Alignment(places=jnp.where(possible[None], places, -1), log_probs=jnp.where(possible, log_probs, -jnp.inf))


class _Lattice(NamedTuple):
    emitted: Array  # [T, *batch, S], log-probabilities of the states' tokens
    real: Array  # [T, *batch]
    skips: Array  # [*batch, S], 0 where a state may be reached from the one before the last, else NEVER
    start: Array  # [*batch, S], where paths are before the first step
    label_lengths: Array  # [*batch]


def _checked(
    logits: Array, labels: Array, lengths: Any, label_lengths: Any, blank: int
) -> tuple[Array, Array, Array, Array]:
    """The arguments as arrays of full shape, the lengths int32 [*batch]."""
    checks.sequence("logits", logits)
    num_steps, *batch, num_tokens = logits.shape
    batch = tuple(batch)
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape[1:] != batch or labels.ndim != logits.ndim - 1:
        expected = f"`labels` must be integers (N, *batch) with the batch {batch}"
        raise ValueError(f"{expected}, got {checks.describe(labels)}")
    if not isinstance(blank, int) or not 0 <= blank < num_tokens:
        raise ValueError(f"`blank` must be a token in [0, {num_tokens}), got {checks.describe(blank)}")
    num_labels = labels.shape[0]
    lengths = _lengths("lengths", lengths, num_steps, batch)
    label_lengths = _lengths("label_lengths", label_lengths, num_labels, batch)
    _check_labels(labels, label_lengths, num_tokens, blank)
    return logits, labels, lengths, label_lengths


def _lattice(logits: Array, labels: Array, lengths: Array, label_lengths: Array, blank: int) -> _Lattice:
    num_steps, *batch, _ = logits.shape
    num_labels = labels.shape[0]
    labels = jnp.where(_before(label_lengths, num_labels), labels, blank).astype(jnp.int32)
    real = _before(lengths, num_steps)
    logits = jnp.where(real[..., None], logits, 0).astype(tree.wide(logits.dtype))
    log_p = jnp.maximum(jax.nn.log_softmax(logits), NEVER)
    states = jnp.full((*batch, 2 * num_labels + 1), blank, jnp.int32)
    states = states.at[..., 1::2].set(jnp.moveaxis(labels, 0, -1))
    emitted = jnp.take_along_axis(log_p, jnp.broadcast_to(states[None], (num_steps, *states.shape)), axis=-1)
    before_last = jnp.pad(states[..., :-2], [(0, 0)] * len(batch) + [(2, 0)], constant_values=blank)[
        ..., : states.shape[-1]
    ]
    skips = jnp.where((states != blank) & (states != before_last), 0, NEVER).astype(log_p.dtype)
    start = jnp.full(states.shape, NEVER, log_p.dtype).at[..., 0].set(0)
    return _Lattice(emitted, real, skips, start, label_lengths)


def _arrivals(alpha: Array, skips: Array) -> Array:
    """[3, *batch, S]: the ways into each state: from itself, from the state before, from the one before that."""
    before = [(0, 0)] * (alpha.ndim - 1)
    size = alpha.shape[-1]
    one, two = (jnp.pad(alpha, [*before, (n, 0)], constant_values=NEVER)[..., :size] for n in (1, 2))
    return jnp.stack([alpha, one, two + skips])


def _endings(lattice: _Lattice, alpha: Array) -> Array:
    """[2, *batch]: the paths that end in the last blank, and those that end in the last label."""
    last = 2 * lattice.label_lengths[..., None]
    in_blank = jnp.take_along_axis(alpha, last, axis=-1)
    in_label = jnp.where(last > 0, jnp.take_along_axis(alpha, jnp.maximum(last - 1, 0), axis=-1), NEVER)
    return jnp.stack([in_blank[..., 0], in_label[..., 0]])


def _lengths(name: str, value: Any, most: int, batch_shape: tuple[int, ...]) -> Array:
    """Lengths [*batch] int32 in [0, most], whatever leading axes came."""
    value = most if value is None else value
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"`{name}` must be integers, got {checks.describe(array)}")
    checks.batch_prefix(name, array.shape, batch_shape)
    if not isinstance(value, jax.core.Tracer):
        wrong = [int(length) for length in np.ravel(value) if not 0 <= length <= most]
        if wrong:
            raise ValueError(f"`{name}` must lie in [0, {most}], got {wrong[0]}")
    array = jnp.clip(array, 0, most).astype(jnp.int32)
    return jnp.broadcast_to(array.reshape(array.shape + (1,) * (len(batch_shape) - array.ndim)), batch_shape)


def _before(lengths: Array, num_steps: int) -> Array:
    """[num_steps, *batch] bool: the first `lengths` of the steps."""
    return jnp.arange(num_steps, dtype=jnp.int32).reshape(-1, *[1] * lengths.ndim) < lengths[None]


def _check_labels(labels: Array, label_lengths: Array, num_tokens: int, blank: int) -> None:
    """Looks at labels that are known: each that counts is a token and not the blank."""
    if isinstance(labels, jax.core.Tracer) or isinstance(label_lengths, jax.core.Tracer):
        return
    known, counts = np.asarray(labels), np.asarray(label_lengths)
    known = known[np.arange(len(known)).reshape(-1, *[1] * counts.ndim) < counts]
    wrong = known[(known < 0) | (known >= num_tokens) | (known == blank)]
    if wrong.size:
        raise ValueError(f"`labels` must be tokens in [0, {num_tokens}) and not the blank {blank}, got {wrong[0]}")
