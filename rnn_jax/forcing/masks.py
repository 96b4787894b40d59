"""Forcing as data: how much of the truth each step of each sequence reads."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.types import Array


def forcing_mask(
    key: Array,
    rate: float | Array,
    num_steps: int,
    batch_shape: tuple[int, ...],
    *,
    per: Literal["step", "sequence", "batch"] = "step",
) -> Array:
    """Coins of scheduled sampling: 1 where a step reads the truth, 0 where it reads the model's own output.

    Under one key the coins of a higher rate contain those of a lower one.

    Args:
        key: a PRNG key.
        rate: the probability of the truth, in [0, 1]: a number, or an array with the leading axes of the mask (each 1
            or the full size), such as [T] for a rate of its own at every step. It may be traced: a schedule that is
            evaluated at the step number never recompiles. A traced rate beyond [0, 1] counts as the nearer end.
        num_steps: T.
        batch_shape: the batch axes; `(1,)` shares the coins among all sequences.
        per: what each coin is thrown for: "step" (every step of every sequence), "sequence" (whole sequences) or
            "batch" (all at once).

    Returns:
        float32 [T, *batch_shape].

    Raises:
        ValueError: for a rate that is known and lies outside [0, 1], or does not fit.

    Example:
        >>> mask = forcing_mask(jax.random.key(0), 0.5, 6, (3,), per="sequence")
        >>> mask.shape, bool((mask == mask[:1]).all())
        ((6, 3), True)

    References:
        Bengio et al., Scheduled sampling for sequence prediction with recurrent neural networks, 2015,
        arXiv:1506.03099 (coins per step).
    """
    checks.prng_key(key)
    checks.one_of("per", per, ("step", "sequence", "batch"))
    shape = (num_steps, *batch_shape)
    coins = {"step": shape, "sequence": (1, *batch_shape), "batch": (1,) * len(shape)}[per]
    chance = unit_weights("rate", rate, coins)
    drawn = jax.random.uniform(key, coins, jnp.float32) < chance.astype(jnp.float32)
    return jnp.broadcast_to(drawn, shape).astype(jnp.float32)


def sparse_forcing_mask(interval: int | Array, num_steps: int) -> Array:
    """Reads the truth every `interval` steps (at 0, interval, 2 interval, ...) and runs freely in between.

    Args:
        interval: tau, at least 1; may be traced.
        num_steps: T.

    Returns:
        float32 [T, 1], for any batch.

    Raises:
        ValueError: for an interval that is known and less than 1.

    Example:
        >>> sparse_forcing_mask(3, 7)[:, 0].astype(int).tolist()
        [1, 0, 0, 1, 0, 0, 1]

    References:
        Mikhaeil, Monfared & Durstewitz, On the difficulty of learning chaotic dynamics with RNNs, 2022,
        arXiv:2110.07238: best near ln 2 / (largest Lyapunov exponent).
    """
    if not isinstance(interval, jax.core.Tracer):
        checks.positive("interval", interval if isinstance(interval, int) else np.asarray(interval).item())
    steps = jnp.arange(num_steps, dtype=jnp.int32)
    return (steps % jnp.asarray(interval, jnp.int32) == 0).astype(jnp.float32)[:, None]


SCHEDULES = ("constant", "linear", "exponential", "inverse_sigmoid", "cosine")


def forcing_schedule(kind: str, num_steps: int, *, start: float = 1.0, end: float = 0.0):
    """How the rate of forcing moves from `start` at step 0 to `end` at step `num_steps`, and stays there.

        rate(i) = end + (start - end) w(i / num_steps)

        constant          w(p) = 1
        linear            w(p) = 1 - p
        exponential       w(p) ~ 100^-p              fast first
        inverse_sigmoid   w(p) ~ 1 / (1 + e^(10 p - 5))    slow, fast, slow
        cosine            w(p) = (1 + cos(pi p)) / 2

    `~` means shifted and scaled so that w(0) = 1 and w(1) = 0. These are the shapes of Bengio et al. with the ends
    fixed. Any other function of the step does as well, such as an optax schedule.

    Args:
        kind: one of the names above.
        num_steps: steps from `start` to `end`.
        start: rate at step 0, in [0, 1]; below `end` for a rate that grows.
        end: rate from step `num_steps` on, in [0, 1].

    Returns:
        `rate(step) -> float32 scalar`, for a step that may be traced.

    Raises:
        ValueError: for an unknown kind, or numbers out of range.

    Example:
        >>> rate = forcing_schedule("linear", 100, end=0.2)
        >>> [round(float(rate(step)), 3) for step in (0, 50, 100, 999)]
        [1.0, 0.6, 0.2, 0.2]

    References:
        Bengio et al., 2015, arXiv:1506.03099, section 2.4.
    """
    checks.one_of("kind", kind, SCHEDULES)
    checks.positive("num_steps", num_steps)
    unit_weights("start", start, ())
    unit_weights("end", end, ())

    def shape(p: Array) -> Array:
        if kind == "constant":
            return jnp.ones_like(p)
        if kind == "linear":
            return 1 - p
        if kind == "cosine":
            return (1 + jnp.cos(math.pi * p)) / 2
        curve = (lambda q: 100.0**-q) if kind == "exponential" else (lambda q: jax.nn.sigmoid(5 - 10 * q))
        first, last = curve(jnp.zeros_like(p)), curve(jnp.ones_like(p))
        return (curve(p) - last) / (first - last)

    def rate(step: int | Array) -> Array:
        p = jnp.clip(jnp.asarray(step).astype(jnp.float32) / num_steps, 0, 1)
        return end + (start - end) * shape(p)

    return rate


def unit_weights(name: str, value: float | Array, shape: tuple[int, ...]) -> Array:
    """Checks numbers in [0, 1] whose axes are the leading ones of `shape`, and gives them its rank.

    Args:
        name: of the argument, for the error text.
        value: a number or an array, boolean or floating; each axis is 1 or that of `shape`. Further axes must be 1.
        shape: the shape to fit.

    Returns:
        An array of the rank of `shape` that broadcasts to it.

    Raises:
        ValueError: for a shape that does not fit, and for known values outside [0, 1] (NaN too).
    """
    array = jnp.asarray(value)
    if array.dtype == jnp.bool_ or jnp.issubdtype(array.dtype, jnp.integer):
        array = array.astype(jnp.float32)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"`{name}` must be numbers in [0, 1], got {checks.describe(array)}")
    full = array.shape + (1,) * (len(shape) - array.ndim)
    if any(size not in (1, want) for size, want in zip(full, (*shape, *(1,) * len(full)), strict=False)):
        raise ValueError(f"`{name}` must broadcast to {shape} by its leading axes, got shape {array.shape}")
    if not isinstance(array, jax.core.Tracer):
        known = np.asarray(array)
        outside = known[~((known >= 0) & (known <= 1))]
        if outside.size:
            raise ValueError(f"`{name}` must lie in [0, 1], got {outside.flat[0]:g}")
    return array.reshape(full[: len(shape)])
