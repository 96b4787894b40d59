"""What a decoder reads when it is not forced: functions `(y, key, embedding) -> x` of its own last output.

For sequences of tokens `y` holds logits [*batch, V] and `embedding` [V, E] turns tokens into inputs; for sequences of
vectors `embedding` is None. `key` is None unless `forced_unroll` got one; step t gets `fold_in(key, t)`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks
from rnn_jax.products import align, product
from rnn_jax.types import Array

Feedback = Callable[[Array, Array | None, Array | None], Array]


def identity(y: Array, key: Array | None, embedding: Array | None) -> Array:
    """The output itself, for sequences of vectors. Gradients flow through it."""
    del key
    if embedding is not None:
        raise ValueError("`feedback` identity is for sequences of vectors; for tokens use argmax, sample() or expected")
    return y


def argmax(y: Array, key: Array | None, embedding: Array | None) -> Array:
    """The embedding of the likeliest token. No gradient to y."""
    del key
    return _table(embedding, y)[jnp.argmax(y, axis=-1)]


def expected(y: Array, key: Array | None, embedding: Array | None) -> Array:
    """The mean embedding under the predicted distribution, `softmax(y) @ embedding`. Gradients flow through it."""
    del key
    table = _table(embedding, y)
    return product(jax.nn.softmax(y), table).astype(table.dtype)


def straight_through(y: Array, key: Array | None, embedding: Array | None) -> Array:
    """The value of `argmax`, with the gradient of `expected` to y. The embedding gets that of the row it gave.

    References:
        Bengio, Léonard & Courville, Estimating or propagating gradients through stochastic neurons, 2013,
        arXiv:1308.3432.
    """
    soft = expected(y, key, lax.stop_gradient(embedding))
    return argmax(y, key, embedding) + (soft - lax.stop_gradient(soft))


def sample(temperature: float | Array = 1.0) -> Feedback:
    """The embedding of a token drawn from the predicted distribution. No gradient to y.

    Args:
        temperature: logits are divided by it; may be traced.

    Returns:
        A feedback that needs a key. Equal numbers give the same function, so that it may be a static argument.
    """
    if isinstance(temperature, int | float):
        if not temperature > 0:
            raise ValueError(f"`temperature` must be greater than 0, got {temperature}")
        return _sample(float(temperature))
    return _sample.__wrapped__(temperature)


@functools.cache
def _sample(temperature: float | Array) -> Feedback:
    def draw(y: Array, key: Array | None, embedding: Array | None) -> Array:
        if key is None:
            raise ValueError("`key` must be a PRNG key where feedback is sample(), got None")
        table = _table(embedding, y)
        return table[jax.random.categorical(key, y / align(jnp.asarray(temperature), y))]

    return draw


@functools.cache
def detached(feedback: Feedback) -> Feedback:
    """A feedback through which no gradient flows back to the output, as in the DAgger reading of scheduled sampling.

    Args:
        feedback: any feedback.

    Returns:
        The same values; the embedding still gets its gradient.
    """

    def cut(y: Array, key: Array | None, embedding: Array | None) -> Array:
        return feedback(lax.stop_gradient(y), key, embedding)

    return cut


def _table(embedding: Array | None, y: Array) -> Array:
    """The embedding, checked against the logits."""
    if embedding is None:
        raise ValueError("`feedback` of tokens needs an `embedding` [V, E]; for sequences of vectors use identity")
    checks.features("y", y, embedding.shape[0])
    return embedding
