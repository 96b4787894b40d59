"""Output distributions over a frame of several variables: their log-probability, and samples from them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.initializers import lecun_normal
from rnn_jax.products import affine, align, product
from rnn_jax.types import Array, Params

__all__ = ["BernoulliParams", "ChainParams", "Head", "bernoulli_head", "chain_head"]


class Head(NamedTuple):
    """A distribution over frames [..., N] of integers, given features [..., F].

    Attributes:
        init: `(key, input_size) -> params`.
        log_prob: `(params, hs [..., F], targets [..., N]) -> [...]`, in nats, at least float32.
        sample: `(params, key, h [..., F], temperature=1.0) -> frame [..., N]`, int32.
    """

    init: Callable[[Array, int], Params]
    log_prob: Callable[[Params, Array, Array], Array]
    sample: Callable[..., Array]


class BernoulliParams(NamedTuple):
    """Parameters of `bernoulli_head`."""

    w: Array  # [F, N]
    b: Array  # [N]


def bernoulli_head(num_outputs: int) -> Head:
    """Independent binary outputs: the keys of a piano roll.

        log p(y) = sum_n log sigmoid((2 y_n - 1) (h W + b)_n)

    Args:
        num_outputs: N.

    Returns:
        A head over frames of 0 and 1.

    Example:
        >>> head = bernoulli_head(3)
        >>> params = BernoulliParams(w=jnp.zeros((2, 3)), b=jnp.zeros(3))
        >>> print(head.log_prob(params, jnp.zeros(2), jnp.array([0, 1, 1])))  # 3 log(1/2)
        -2.0794415
    """
    checks.positive("num_outputs", num_outputs)

    def init(key: Array, input_size: int) -> BernoulliParams:
        checks.prng_key(key)
        return BernoulliParams(w=lecun_normal(key, (input_size, num_outputs)), b=jnp.zeros(num_outputs))

    def logits(params: BernoulliParams, hs: Array) -> Array:
        out = product(hs, params.w)
        return out + align(params.b, out)

    def log_prob(params: BernoulliParams, hs: Array, targets: Array) -> Array:
        checks.features("targets", targets, num_outputs)
        z = logits(params, hs)
        return jax.nn.log_sigmoid(jnp.where(targets == 1, z, -z)).sum(-1)

    def sample(params: BernoulliParams, key: Array, h: Array, temperature: float | Array = 1.0) -> Array:
        return jax.random.bernoulli(key, jax.nn.sigmoid(logits(params, h) / temperature)).astype(jnp.int32)

    return Head(init=init, log_prob=log_prob, sample=sample)


class ChainParams(NamedTuple):
    """Parameters of `chain_head`."""

    w_h: Array  # [F, N K]
    w_y: Array  # [N C, N K], of which only the blocks from earlier to later variables count
    b: Array  # [N K]
    w_o: Array  # [N, K, C]
    b_o: Array  # [N, C]


def chain_head(num_variables: int, num_classes: int, hidden_size: int) -> Head:
    """Categorical variables one after another, each given those before it: the voices of a choir.

        log p(y) = sum_n log p(y_n | h, y_1 .. y_{n-1})
        p(y_n | ...) = softmax(relu(h W_n + sum_{m<n} onehot(y_m) U_mn + b_n) V_n + c_n)

    All of them are computed at once where y is known (teacher forcing), one by one where it is sampled.

    Args:
        num_variables: N.
        num_classes: C, the same for every variable.
        hidden_size: K, hidden units for each variable.

    Returns:
        A head over frames of integers in [0, C).

    References:
        Larochelle & Murray, The neural autoregressive distribution estimator, 2011.
    """
    for name, value in (
        ("num_variables", num_variables),
        ("num_classes", num_classes),
        ("hidden_size", hidden_size),
    ):
        checks.positive(name, value)
    earlier = np.triu(np.ones((num_variables, num_variables), np.float32), 1)
    blocks = np.kron(earlier, np.ones((num_classes, hidden_size), np.float32))

    def init(key: Array, input_size: int) -> ChainParams:
        checks.prng_key(key)
        h_key, y_key, o_key = jax.random.split(key, 3)
        hidden = num_variables * hidden_size
        outputs = [lecun_normal(k, (hidden_size, num_classes)) for k in jax.random.split(o_key, num_variables)]
        return ChainParams(
            w_h=lecun_normal(h_key, (input_size, hidden)),
            w_y=0.1 * jax.random.normal(y_key, (num_variables * num_classes, hidden)),
            b=jnp.zeros(hidden),
            w_o=jnp.stack(outputs),
            b_o=jnp.zeros((num_variables, num_classes)),
        )

    def log_probs(params: ChainParams, base: Array, one_hot: Array) -> Array:
        """Log-probabilities [..., N, C], given the product of h and the classes [..., N C] known so far."""
        known = product(one_hot, params.w_y * jnp.asarray(blocks, params.w_y.dtype))
        hidden = jax.nn.relu(base + known).reshape(*base.shape[:-1], num_variables, hidden_size)
        logits = jnp.einsum("...nk,nkc->...nc", hidden, params.w_o.astype(hidden.dtype))
        return jax.nn.log_softmax(logits + align(params.b_o, logits))

    def log_prob(params: ChainParams, hs: Array, targets: Array) -> Array:
        checks.features("targets", targets, num_variables)
        base = affine(hs, params.w_h, params.b)
        one_hot = jax.nn.one_hot(targets, num_classes, dtype=base.dtype).reshape(*base.shape[:-1], -1)
        table = log_probs(params, base, one_hot)
        return jnp.take_along_axis(table, targets[..., None], axis=-1)[..., 0].sum(-1)

    def sample(params: ChainParams, key: Array, h: Array, temperature: float | Array = 1.0) -> Array:
        base = affine(h, params.w_h, params.b)
        drawn: list[Any] = [jnp.zeros((*h.shape[:-1], num_classes), base.dtype)] * num_variables
        frame = []
        for n, one_key in enumerate(jax.random.split(key, num_variables)):
            table = log_probs(params, base, jnp.concatenate(drawn, axis=-1))
            frame.append(jax.random.categorical(one_key, table[..., n, :] / temperature).astype(jnp.int32))
            drawn[n] = jax.nn.one_hot(frame[n], num_classes, dtype=base.dtype)
        return jnp.stack(frame, axis=-1)

    return Head(init=init, log_prob=log_prob, sample=sample)
