"""Lyapunov exponents: how fast neighbouring trajectories part, direction by direction."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks
from rnn_jax.analysis.vectors import Step, as_vector, vector_step

__all__ = ["LyapunovSpectrum", "flossing_penalty", "kaplan_yorke_dimension", "lyapunov_spectrum"]

_BLOCKS = 10


class LyapunovSpectrum(NamedTuple):
    """What `lyapunov_spectrum` returns.

    Attributes:
      exponents: [K] nats per step, in falling order as far as they have converged; -inf where a direction is lost.
      errors: [K] their standard errors, from the means of ten blocks of steps; NaN with fewer than ten steps.
      growth: [T, K] ln of how much each direction grew at each step: finite-time exponents are means of these.
      carry: the last carry.
      finite: whether all states were finite. If not, the exponents are NaN.
    """

    exponents: jax.Array
    errors: jax.Array
    growth: jax.Array
    carry: Any
    finite: jax.Array


def lyapunov_spectrum(
    step: Step,
    carry: Any,
    xs: Any = None,
    *,
    num_steps: int | None = None,
    num_exponents: int | None = None,
    burn_in: int = 0,
) -> LyapunovSpectrum:
    """The exponents of a trajectory, by QR decompositions along it.

        J_t Q_{t-1} = Q_t R_t,    exponent_k = mean_t ln (R_t)_kk

    Args:
      step: `h -> h`, or `(h, x) -> h` with inputs.
      carry: where the trajectory starts; a tree of D real numbers in all (complex ones count twice).
      xs: inputs, leaves [burn_in + T, ...]; None: an autonomous system.
      num_steps: T, without inputs.
      num_exponents: K, the largest ones; all D if None.
      burn_in: steps before those that count, in which the trajectory and the directions settle.

    Returns:
      the `LyapunovSpectrum`. Float32 is good for exponents near zero; where they are far apart, enable float64.

    Raises:
      ValueError: an argument makes no sense, or both or none of `xs` and `num_steps` are given.

    Example:
      >>> halve = lambda h: jnp.array([[0.5, 1.0], [0.0, 0.25]]) @ h
      >>> spectrum = lyapunov_spectrum(halve, jnp.ones(2), num_steps=100, burn_in=50)
      >>> jnp.exp(spectrum.exponents).round(3).tolist()
      [0.5, 0.25]

    References:
      Benettin et al., 1980; Engelken, Wolf & Abbott, Lyapunov spectra of chaotic recurrent neural networks, 2023,
      arXiv:2006.02427.
    """
    f, v = vector_step(step, carry)
    checks.positive("burn_in", burn_in, least=0)
    count = len(v) if num_exponents is None else num_exponents
    if not 1 <= count <= len(v):
        raise ValueError(f"`num_exponents` must be in [1, {len(v)}], the size of the carry, got {num_exponents}")
    total = _total(xs, num_steps, burn_in)
    q = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (len(v), count), v.dtype))[0]

    def one(state: tuple[jax.Array, jax.Array], x: Any) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        v, q = state
        inputs = () if xs is None else (x,)
        after, tangents = _push(f, v, q, inputs)
        q, r = jnp.linalg.qr(tangents)
        return (after, q), jnp.log(jnp.abs(jnp.diagonal(r)))

    (last, _), growth = lax.scan(one, (v, q), xs, length=total)
    growth = growth[burn_in:]
    finite = jnp.isfinite(last).all()
    exponents = jnp.where(finite, growth.mean(0), jnp.nan)
    size = len(growth) // _BLOCKS
    means = growth[: size * _BLOCKS].reshape(_BLOCKS, size, count).mean(1) if size else jnp.full((2, count), jnp.nan)
    errors = means.std(0, ddof=1) / jnp.sqrt(jnp.asarray(_BLOCKS, v.dtype))
    return LyapunovSpectrum(exponents, errors, growth, as_vector(carry)[1](last), finite)


def _push(f: Any, v: jax.Array, q: jax.Array, inputs: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    """f(v), and J q."""
    after, linear = jax.linearize(lambda v: f(v, *inputs), v)
    return after, jax.vmap(linear, in_axes=1, out_axes=1)(q)


def _total(xs: Any, num_steps: int | None, burn_in: int) -> int:
    """The number of all steps."""
    if (xs is None) == (num_steps is None):
        raise ValueError("either `xs` or `num_steps` must be given, got " + ("none" if xs is None else "both"))
    if num_steps is not None:
        checks.positive("num_steps", num_steps)
        return burn_in + num_steps
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(xs)}
    if len(lengths) != 1 or min(lengths) <= burn_in:
        raise ValueError(f"`xs` must have one number of steps above `burn_in` = {burn_in}, got {sorted(lengths)}")
    return lengths.pop()


def flossing_penalty(
    step: Step, carry: Any, xs: Any = None, *, num_steps: int | None = None, num_exponents: int = 1, burn_in: int = 0
) -> jax.Array:
    """A penalty that pulls the largest exponents to zero, so that gradients neither vanish nor explode.

        sum_k exponent_k^2

    It is differentiable in whatever the step closes over; some hundred steps of it before (and during) training are
    what the paper advises.

    Args:
      step, carry, xs, num_steps, num_exponents, burn_in: as for `lyapunov_spectrum`.

    Returns:
      a scalar.

    Example:
      >>> penalty = lambda a: flossing_penalty(lambda h: a * h, jnp.ones(3), num_steps=5, num_exponents=2)
      >>> a = jnp.float32(0.5)
      >>> print(f"{penalty(a):.4f} {jax.grad(penalty)(a):.4f}")  # 2 ln(a)^2 and 4 ln(a) / a
      0.9609 -5.5452

    References:
      Engelken, Gradient flossing: improving gradient descent through dynamic control of Jacobians, 2023,
      arXiv:2312.17306.
    """
    spectrum = lyapunov_spectrum(step, carry, xs, num_steps=num_steps, num_exponents=num_exponents, burn_in=burn_in)
    return jnp.square(spectrum.exponents).sum()


def kaplan_yorke_dimension(exponents: Any) -> jax.Array:
    """The dimension of an attractor by its exponents: k + (sum of the first k) / |the next one|.

    Args:
      exponents: [D], all of them.

    Returns:
      a scalar in [0, D]: k is the largest number with a sum that is not negative.

    Example:
      >>> print(kaplan_yorke_dimension(jnp.array([0.9056, 0.0, -14.572])).round(3))  # Lorenz 63
      2.062
    """
    values = -jnp.sort(-jnp.asarray(exponents))
    sums = jnp.cumsum(values)
    k = (sums >= 0).sum()
    last = len(values) - 1
    part = sums[jnp.maximum(k - 1, 0)] / jnp.abs(values[jnp.minimum(k, last)])
    dimension = jnp.where(k == 0, 0, k.astype(values.dtype) + jnp.where(k > last, 0, part))
    return dimension
