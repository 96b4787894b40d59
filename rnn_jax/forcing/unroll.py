"""`forced_unroll`: a cell that reads the truth, its own outputs, or a mixture, as an array says."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks, tree
from rnn_jax.forcing.carry import blend, shift
from rnn_jax.forcing.feedback import Feedback, identity
from rnn_jax.forcing.masks import unit_weights
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params, as_cell
from rnn_jax.unroll import unroll
from rnn_jax.unroll.borders import blank, real_steps


def forced_unroll(
    cell: Cell | LinearCell,
    params: Params,
    targets: Array,
    mask: float | Array,
    carry: Carry | None = None,
    *,
    start: int | Array,
    feedback: Feedback,
    embedding: Array | None = None,
    inputs: Array | None = None,
    lengths: Array | None = None,
    key: Array | None = None,
) -> tuple[Carry, Array]:
    """Runs a decoder over its targets. Equal to

        x = encode(start)
        for t in range(T):
            carry, ys[t] = stream_step(cell, params, carry, concatenate([x, inputs[t]]))
            x = mask[t + 1] * encode(targets[t]) + (1 - mask[t + 1]) * feedback(ys[t])

    where `encode` looks tokens up in `embedding` and leaves vectors as they are. The outputs are the predictions before
    forcing, so a loss on them never rewards copying. One array serves for teacher forcing (1), free running (0),
    scheduled sampling (`forcing_mask`), sparse forcing (`sparse_forcing_mask`) and mixtures (a constant in between),
    and its values may change without a compilation.

    Where all that counts of the mask is 1, the program takes a shorter way by itself: `unroll` over the shifted
    targets, with projection and readout for all steps at once.

    Args:
        cell: a cell that reads encoded targets (and inputs) and gives logits [V] or vectors. A `stack` may end in
            `dense(V)`.
        params: its parameters; perturbed ones train with noise.
        targets: integers [T, *batch], or floating [T, *batch, F].
        mask: weights of the truth in [0, 1], boolean or floating, with the leading axes of [T, *batch]: a number, [T],
            [1, B], [T, B], ... That of step 0 does not count: the first input is `start`. Its gradient is meant
            for weights inside (0, 1): at exactly 0 and 1 what is not read counts as zero. Under `jit` masks of one
            dtype share a program; `jnp.full(shape, 0.3)` has a weak one and a program of its own, so give it a dtype.
        carry: where to start; by default the cell's initial carry.
        start: the token before the first, a number or [*batch]; or the vector, [F] or [*batch, F].
        feedback: `identity` for vectors; `argmax`, `sample(temperature)`, `expected`, `straight_through` for tokens; or
            any `(y, key, embedding) -> x`. `detached(feedback)` cuts its gradient.
        embedding: [V, E] for tokens, None for vectors.
        inputs: [T, *batch, K] or None: known inputs of each step, such as a clock, put after x.
        lengths: as in `unroll`. Targets on padding may hold anything.
        key: for a feedback that samples.

    Returns:
        `(carry, ys)`: the carry after the last real step, and ys [T, *batch, O], zero on padding.

    Raises:
        ValueError: names the argument, what was expected and what came. Masks that are traced are not looked at.

    Example:
        >>> from rnn_jax import dense, gru, stack
        >>> from rnn_jax.forcing import argmax, forcing_mask
        >>> embedding = jax.random.normal(jax.random.key(0), (10, 4))  # 10 tokens
        >>> cell = stack(gru(8), dense(10))
        >>> params = cell.init(jax.random.key(1), 4)
        >>> targets = jnp.array([[3, 5], [1, 2], [7, 0]])
        >>> mask = forcing_mask(jax.random.key(2), 0.5, 3, (2,))
        >>> forced_unroll(cell, params, targets, mask, start=0, feedback=argmax, embedding=embedding)[1].shape
        (3, 2, 10)

    References:
        Williams & Zipser, A learning algorithm for continually running fully recurrent neural networks, 1989 (teacher
        forcing); Bengio et al., 2015, arXiv:1506.03099 (scheduled sampling).
    """
    plan = _plan(cell, params, targets, mask, start, feedback, embedding, inputs, lengths)
    carry = _start_carry(plan, carry)

    def all_at_once(carry: Carry) -> tuple[Carry, Array]:
        return unroll(plan.cell, params, plan.read(plan.xs), carry, lengths=lengths)

    def step_by_step(carry: Carry) -> tuple[Carry, Array]:
        return _run(plan, carry, feedback, embedding, key)

    forced = plan.weights == 1
    if not isinstance(forced, jax.core.Tracer):
        return (all_at_once if bool(forced.all()) else step_by_step)(carry)
    return lax.cond(_everywhere(forced), all_at_once, step_by_step, carry)


def parallel_forced_unroll(
    cell: Cell | LinearCell,
    params: Params,
    targets: Array,
    mask: float | Array,
    carry: Carry | None = None,
    *,
    start: int | Array,
    feedback: Feedback,
    embedding: Array | None = None,
    inputs: Array | None = None,
    lengths: Array | None = None,
    key: Array | None = None,
    num_passes: int = 2,
) -> tuple[Carry, Array]:
    """Scheduled sampling in whole passes: what is fed back comes from the outputs of the pass before.

    The first pass is forced everywhere. Each further one mixes, by the mask, the truth with feedback on the last
    pass's outputs, and no gradient flows from one pass into another. So every pass projects and reads out all steps at
    once, and linear cells run in parallel over time. After n passes the first n outputs are those of `forced_unroll`;
    with T passes all are.

    Args:
        cell, params, targets, mask, carry, start, feedback, embedding, inputs, lengths, key: as in `forced_unroll`.
        num_passes: 1 is teacher forcing, 2 the published method.

    Returns:
        `(carry, ys)` of the last pass.

    Raises:
        ValueError: as `forced_unroll`.

    References:
        Duckworth et al., Parallel scheduled sampling, 2019, arXiv:1906.04331.
    """
    checks.positive("num_passes", num_passes)
    plan = _plan(cell, params, targets, mask, start, feedback, embedding, inputs, lengths)
    carry = _start_carry(plan, carry)
    steps = jnp.arange(plan.xs.shape[0], dtype=jnp.int32)
    keys = None if key is None else jax.vmap(jax.random.fold_in, (None, 0))(key, steps + 1)
    xs = plan.xs
    feed = jax.vmap(lambda y, key, like: _feed(feedback, y, key, embedding, like), (0, None if keys is None else 0, 0))
    for _ in range(num_passes - 1):
        _, ys = unroll(plan.cell, params, plan.read(xs), carry, lengths=lengths)
        own = jnp.roll(feed(lax.stop_gradient(ys), keys, plan.xs), 1, axis=0)
        xs = blend(plan.xs, own, plan.weights)
    return unroll(plan.cell, params, plan.read(xs), carry, lengths=lengths)


class _Plan(NamedTuple):
    """A checked call: what each step would read if all of them were forced, and how much of it."""

    cell: Cell | LinearCell
    params: Params
    xs: Array  # [T, *batch, E], zero on padding
    weights: Array  # [T, *batch or 1, 1], in the dtype of xs; 1 at step 0 and on padding
    inputs: Array | None  # [T, *batch, K], zero on padding
    real: Array | None

    def read(self, xs: Array) -> Array:
        """xs with the known inputs after them."""
        return xs if self.inputs is None else jnp.concatenate([xs, self.inputs], axis=-1)


def _plan(
    cell: Cell | LinearCell,
    params: Params,
    targets: Array,
    mask: float | Array,
    start: int | Array,
    feedback: Feedback,
    embedding: Array | None,
    inputs: Array | None,
    lengths: Array | None,
) -> _Plan:
    checks.is_cell(cell)
    if not callable(feedback):
        raise ValueError(f"`feedback` must be a function (y, key, embedding) -> x, got {checks.describe(feedback)}")
    xs = _encode(targets, start, feedback, embedding)
    shape = xs.shape[:-1]
    checks.noise_steps(tree.per_step(params), shape[0])
    real = real_steps(lengths, None, shape[0], shape[1:])
    weights = unit_weights("mask", mask, shape).astype(xs.dtype)
    weights = jnp.broadcast_to(weights, (shape[0], *weights.shape[1:])).at[:1].set(1)[..., None]
    if real is not None:
        weights = jnp.where(tree.expand(real, weights), weights, 1)
    if inputs is not None:
        inputs = jnp.asarray(inputs)
        if inputs.shape[:-1] != shape:
            raise ValueError(f"`inputs` must be [T, *batch, K] with {shape}, got shape {inputs.shape}")
        inputs = blank(real, inputs.astype(xs.dtype))
    return _Plan(cell=cell, params=params, xs=blank(real, xs), weights=weights, inputs=inputs, real=real)


def _encode(targets: Array, start: int | Array, feedback: Feedback, embedding: Array | None) -> Array:
    """What every step reads under full forcing: [T, *batch, E]."""
    targets = jnp.asarray(targets)
    if jnp.issubdtype(targets.dtype, jnp.floating):
        if embedding is not None:
            raise ValueError("`embedding` must be None where targets are vectors; pass integer targets for tokens")
        checks.sequence("targets", targets)
        return shift(targets, jnp.asarray(start))
    if not jnp.issubdtype(targets.dtype, jnp.integer) or targets.ndim < 1:
        raise ValueError(
            f"`targets` must be integers [T, *batch] or floating [T, *batch, F], got {checks.describe(targets)}"
        )
    if feedback is identity:
        raise ValueError("`feedback` identity does not fit integer targets; use argmax, sample() or expected")
    if embedding is None or embedding.ndim != 2:
        raise ValueError(f"`embedding` must be [V, E] where targets are tokens, got {checks.describe(embedding)}")
    start = jnp.asarray(start)
    if not jnp.issubdtype(start.dtype, jnp.integer) or start.shape not in ((), targets.shape[1:]):
        raise ValueError(f"`start` must be a token or tokens {targets.shape[1:]}, got {checks.describe(start)}")
    return jnp.asarray(embedding)[shift(targets, jnp.broadcast_to(start, targets.shape[1:]))]


def _start_carry(plan: _Plan, carry: Carry | None) -> Carry:
    initial = tree.widen(plan.cell.init_carry(plan.params, plan.xs.shape[1:-1]), plan.xs.dtype)
    if carry is None:
        return initial
    checks.carry_like(carry, initial)
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf).astype(like.dtype), carry, initial)


def _run(
    plan: _Plan, carry: Carry, feedback: Feedback, embedding: Array | None, key: Array | None
) -> tuple[Carry, Array]:
    """One step after another, each reading the mixture."""
    cell = as_cell(plan.cell) if isinstance(plan.cell, LinearCell) else plan.cell
    params = cell.prepare(plan.params)

    def body(state: tuple[Carry, Array], step: Any) -> tuple[Any, Array]:
        before, own = state
        t, truth, weight, real, extra, noise = step
        x = blend(truth, own, weight)
        x = x if extra is None else jnp.concatenate([x, extra], axis=-1)
        now = tree.with_per_step(params, noise)
        after, h = cell.step(now, before, cell.project(now, x))
        y = cell.readout(now, h, x)
        # Fed back at once: feedback sees outputs only, never a zero that stands for none.
        own = _feed(feedback, y, None if key is None else jax.random.fold_in(key, t + 1), embedding, truth)
        if real is not None:
            after, y = tree.where(real, after, before), blank(real, y)
        return (after, own), y

    steps = jnp.arange(plan.xs.shape[0], dtype=jnp.int32)
    sequence = (steps, plan.xs, plan.weights, plan.real, plan.inputs, tree.per_step(params))
    (carry, _), ys = lax.scan(body, (carry, jnp.zeros(plan.xs.shape[1:], plan.xs.dtype)), sequence)
    return carry, ys


def _feed(feedback: Feedback, y: Array, key: Array | None, embedding: Array | None, like: Array) -> Array:
    """What is fed back of y, as an input like `like`."""
    own = feedback(y, key, embedding)
    if own.shape != like.shape:
        raise ValueError(f"`feedback` must give inputs of shape {like.shape}, got {own.shape}")
    return own.astype(like.dtype)


@jax.custom_batching.custom_vmap
def _everywhere(flags: Array) -> Array:
    """`flags.all()`; under vmap over all rows, so that one branch runs and not both."""
    return flags.all()


@_everywhere.def_vmap
def _everywhere_batched(axis_size: int, in_batched: list[bool], flags: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return _everywhere(flags), False
