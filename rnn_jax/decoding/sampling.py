"""One sequence a row: the likeliest token at every step, or one drawn from the model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.decoding.task import Step, Task, allow, make_task, next_log_probs, number
from rnn_jax.tree import wide
from rnn_jax.types import Array, Carry


class Decoded(NamedTuple):
    """What `greedy` and `sample` return.

    Attributes:
        tokens: int32 [T, *batch], T = max_length; `end` after the end (0 where nothing ends).
        lengths: int32 [*batch], the end token included.
        log_probs: [*batch], the sum of the model's log-probabilities of these tokens; -inf for a row that got stuck.
    """

    tokens: Array
    lengths: Array
    log_probs: Array


def greedy(
    step: Step,
    carry: Carry,
    *,
    start: Any,
    end: int | None,
    max_length: int,
    min_length: int = 0,
    prefix: Any = None,
    prefix_lengths: Any = None,
) -> Decoded:
    """The likeliest token at every step, of equally likely ones the first, until all rows have ended.

    Args:
        step: `(carry, tokens int32 [*batch]) -> (carry, logits [*batch, V])`, such as `token_step(...)`. A NaN logit
            counts as -inf.
        carry: where to start, leaves [*batch, ...].
        start: integers [*batch], what the first step reads; not part of the output. Its shape is that of the batch.
        end: the token that ends a row, or None: every row has max_length tokens.
        max_length: T, static. 0 gives empty rows.
        min_length: no row ends with fewer tokens, its end included.
        prefix: integers [P, *batch] that the output begins with, P <= T. Its tokens count in the log-probability. It
            goes before `min_length`: a prefix that holds `end` ends there.
        prefix_lengths: [*batch], how many steps of the prefix count in each row; by default all.

    Returns:
        `Decoded`. A row in which no token is possible (all have probability zero or are forbidden) gets stuck: it
        stops there with log-probability -inf, and its length counts the tokens before.

    Raises:
        ValueError: names the argument, what was expected and what came. Values that are traced cannot be checked: there
            a row whose prefix holds no token of the vocabulary gets stuck.

    Example:
        >>> table = jnp.log(jnp.array([[0.2, 0.2, 0.6], [0.9, 0.1, 0.0], [0.1, 0.8, 0.1]]))  # next given last
        >>> decoded = greedy(lambda carry, last: (carry, table[last]), (), start=0, end=0, max_length=5)
        >>> print(decoded.tokens, decoded.lengths, jnp.exp(decoded.log_probs).round(3))
        [2 1 0 0 0] 3 0.432
    """
    task = make_task(
        step,
        carry,
        start,
        end=end,
        max_length=max_length,
        min_length=min_length,
        prefix=prefix,
        prefix_lengths=prefix_lengths,
    )
    return _decode(step, task, lambda t, log_probs: log_probs.argmax(-1))


def sample(
    step: Step,
    carry: Carry,
    key: Array,
    *,
    start: Any,
    end: int | None,
    max_length: int,
    temperature: float | Array = 1.0,
    top_k: int | None = None,
    top_p: float | Array | None = None,
    min_length: int = 0,
    prefix: Any = None,
    prefix_lengths: Any = None,
) -> Decoded:
    """Draws every token from the model's distribution, sharpened and cut off by `filter_logits`.

    Args:
        step, carry, start, end, max_length, min_length, prefix, prefix_lengths: as in `greedy`. What must not come is
            taken out before the filters.
        key: a PRNG key; step t draws with `fold_in(key, t)`.
        temperature, top_k, top_p: as in `filter_logits`.

    Returns:
        `Decoded`; its log-probabilities are those of the model, before any filter.

    Raises:
        ValueError: as `greedy`.

    Example:
        >>> table = jnp.log(jnp.array([[0.2, 0.2, 0.6], [0.9, 0.1, 0.0], [0.1, 0.8, 0.1]]))
        >>> step, start = lambda carry, last: (carry, table[last]), jnp.zeros(1000, jnp.int32)
        >>> decoded = sample(step, (), jax.random.key(0), start=start, end=0, max_length=5, top_k=2)
        >>> bool((decoded.tokens[0] == 1).any())  # equally likely as 0, which comes first
        False
    """
    checks.prng_key(key)
    task = make_task(
        step,
        carry,
        start,
        end=end,
        max_length=max_length,
        min_length=min_length,
        prefix=prefix,
        prefix_lengths=prefix_lengths,
    )

    def draw(t: Array, log_probs: Array) -> Array:
        return jax.random.categorical(jax.random.fold_in(key, t), filter_logits(log_probs, temperature, top_k, top_p))

    jax.eval_shape(draw, 0, jax.ShapeDtypeStruct((task.vocab_size,), task.dtype))  # checks them, also for no steps
    return _decode(step, task, draw)


def filter_logits(
    logits: Array, temperature: float | Array = 1.0, top_k: int | None = None, top_p: float | Array | None = None
) -> Array:
    """Divides logits by the temperature, then keeps the `top_k` largest, then the nucleus of these.

    The nucleus is the smallest set of likeliest tokens whose probability reaches `top_p`, after the division and among
    the `top_k`. Of equal logits the first goes first: exactly top_k are kept, and at least the argmax. With
    `jax.random.categorical` on the result, that is temperature, top-k and nucleus sampling.

    Args:
        logits: [..., V], floating. A NaN counts as -inf.
        temperature: a number above 0; below 1 is safer, above 1 wilder. It may be traced; 0 is then the limit.
        top_k: an integer in [1, V], static, or None for all.
        top_p: a number in (0, 1], or None for all; it may be traced. 1 keeps all.

    Returns:
        [..., V], at least float32, shifted such that the largest is 0; -inf where a token is not kept.

    Raises:
        ValueError: names the argument, what was expected and what came.

    Example:
        >>> print(jnp.exp(filter_logits(jnp.log(jnp.array([0.2, 0.1, 0.4, 0.3])), top_p=0.8)))
        [0.5  0.   1.   0.75]

    References:
        Fan et al., Hierarchical neural story generation, 2018, arXiv:1805.04833 (top-k); Holtzman et al., The curious
        case of neural text degeneration, 2019, arXiv:1904.09751 (nucleus).
    """
    logits = jnp.asarray(logits)
    checks.one_step("logits", logits)
    size, dtype = logits.shape[-1], wide(logits.dtype)
    scale = number("temperature", temperature, dtype, "a number above 0", lambda value: 0 < value < np.inf)
    if top_k is not None and (
        isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or not 0 < top_k <= size
    ):
        raise ValueError(f"`top_k` must be None or an integer in [1, {size}], got {checks.describe(top_k)}")
    z = next_log_probs(logits)
    z = jnp.where(z > -jnp.inf, z - z.max(-1, keepdims=True), z)
    z = jnp.where(z == 0, z, z / scale)
    if top_k is None and top_p is None:
        return z
    kept, ids = jax.lax.top_k(z, size if top_k is None else top_k)
    if top_p is not None:
        mass = number("top_p", top_p, dtype, "a number in (0, 1]", lambda value: 0 < value <= 1)
        until = jnp.cumsum(jax.nn.softmax(kept), axis=-1)
        before = jnp.concatenate([jnp.zeros_like(until[..., :1]), until[..., :-1]], axis=-1)
        in_nucleus = (before < jnp.maximum(mass, jnp.finfo(dtype).tiny)) | (mass >= 1)
        kept = jnp.where(in_nucleus, kept, -jnp.inf)
    return jnp.put_along_axis(jnp.full_like(z, -jnp.inf), ids, kept, axis=-1, inplace=False)


class _State(NamedTuple):
    t: Array
    carry: Carry
    last: Array  # [*batch], what the next step reads
    done: Array  # [*batch]
    decoded: Decoded


def _decode(step: Step, task: Task, choose: Callable[[Array, Array], Array]) -> Decoded:
    """The loop; `choose` maps step t and the allowed log-probabilities [*batch, V] to tokens [*batch]."""
    shape = task.start.shape

    def more(state: _State) -> Array:
        return (state.t < task.max_length) & ~state.done.all()

    def advance(state: _State) -> _State:
        t, _, _, done, decoded = state
        carry, logits = step(state.carry, state.last)
        log_probs = allow(task, t, next_log_probs(logits))
        token = choose(t, log_probs).astype(jnp.int32)
        gain = jnp.take_along_axis(log_probs, token[..., None], axis=-1)[..., 0]
        stuck = gain == -jnp.inf
        token = jnp.where(done | stuck, task.padding, token)
        return _State(
            t=t + 1,
            carry=carry,
            last=token,
            done=done | stuck | (token == task.end),
            decoded=Decoded(
                tokens=decoded.tokens.at[t].set(token),
                lengths=decoded.lengths + (~(done | stuck)).astype(jnp.int32),
                log_probs=decoded.log_probs + jnp.where(done, 0, gain),
            ),
        )

    empty = Decoded(
        tokens=jnp.full((task.max_length, *shape), task.padding, jnp.int32),
        lengths=jnp.zeros(shape, jnp.int32),
        log_probs=jnp.zeros(shape, task.dtype),
    )
    if task.max_length == 0:
        return empty
    begin = _State(t=jnp.int32(0), carry=task.carry, last=task.start, done=jnp.zeros(shape, bool), decoded=empty)
    return jax.lax.while_loop(more, advance, begin).decoded
