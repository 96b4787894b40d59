"""Where a network stands still: its fixed and slow points, and how trajectories pass them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import checks
from rnn_jax.analysis.vectors import as_vector, vector_step

__all__ = ["FixedPoints", "Linearisation", "find_fixed_points", "implicit_fixed_point", "linearise"]


class FixedPoints(NamedTuple):
    """What `find_fixed_points` returns, for N candidates: distinct points first, in rising speed.

    Attributes:
      points: the carries, leaves [N, ...].
      speed: [N] q = |F(h) - h|^2 / 2 there.
      distinct: [N] whether it is slow enough and far from every slower one that is.
      converged: [N] whether it is slow enough.
      candidate: [N] the number of the candidate that came there.
    """

    points: Any
    speed: jax.Array
    distinct: jax.Array
    converged: jax.Array
    candidate: jax.Array


def find_fixed_points(
    step: Callable[[Any], Any],
    candidates: Any,
    *,
    tolerance: float = 1e-10,
    apart: float = 1e-3,
    adam_steps: int = 0,
    learning_rate: float = 0.05,
    newton_steps: int = 60,
) -> FixedPoints:
    """Fixed points F(h) = h, from many starts at once.

    First Adam goes down on the speed q(h) = |F(h) - h|^2 / 2, then Newton's method with a damping that grows when a
    step would not lower q and shrinks when it does (Levenberg and Marquardt), so it goes nowhere uphill and takes
    lines of fixed points as well. Without Newton's steps and with a large tolerance these are slow points.

    Args:
      step: F, `h -> h`, at a fixed input (close over it).
      candidates: carries to start from, leaves [N, ...]: states that a network visits, and mixtures of them. They are
        not changed.
      tolerance: a point is slow enough where q is at most that. With float32 about 1e-10 can be reached, with float64
        1e-25.
      apart: two points nearer than that (Euclidean) are one.
      adam_steps, learning_rate: of Adam.
      newton_steps: of Newton's method.

    Returns:
      the `FixedPoints`. A candidate that runs off to NaN or does not slow down is there with `converged` False.

    Raises:
      ValueError: an argument makes no sense.

    Example:
      >>> found = find_fixed_points(lambda h: jnp.tanh(2 * h), jnp.linspace(-2, 2, 8)[:, None])
      >>> [f"{point:.3f}" for point in sorted(found.points[found.distinct][:, 0].tolist())]
      ['-0.958', '-0.000', '0.958']

    References:
      Sussillo & Barak, Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural networks,
      2013; Golub & Sussillo, FixedPointFinder, 2018. Both define speed as here; some others divide by D.
    """
    for name, value in (("tolerance", tolerance), ("apart", apart), ("learning_rate", learning_rate)):
        if not value > 0:
            raise ValueError(f"`{name}` must be above 0, got {value}")
    for name, steps in (("adam_steps", adam_steps), ("newton_steps", newton_steps)):
        checks.positive(name, steps, least=0)
    one = jax.tree.map(lambda leaf: leaf[0], candidates)
    f, _ = vector_step(step, one)
    _, back = as_vector(one)
    starts = jax.vmap(lambda carry: as_vector(carry)[0])(candidates)

    def search(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        v = _newton(f, _adam(f, v, adam_steps, learning_rate), newton_steps)
        return v, _speed(f, v)

    points, speed = jax.jit(jax.vmap(search))(starts)
    speed = jnp.where(jnp.isfinite(speed), speed, jnp.inf)
    order = jnp.argsort(speed)
    points, speed = points[order], speed[order]
    converged = speed <= tolerance
    distinct = _distinct(points, converged, apart)
    first = jnp.argsort(~distinct, stable=True)
    return FixedPoints(
        points=jax.vmap(back)(points[first]),
        speed=speed[first],
        distinct=distinct[first],
        converged=converged[first],
        candidate=order[first],
    )


def _speed(f: Any, v: jax.Array) -> jax.Array:
    return jnp.square(f(v) - v).sum() / 2


def _adam(f: Any, v: jax.Array, num_steps: int, learning_rate: float) -> jax.Array:
    """Goes down on the speed; the learning rate falls to zero along a cosine."""
    rates = learning_rate * (1 + np.cos(np.pi * np.arange(num_steps) / max(num_steps, 1))) / 2
    times = np.arange(1, num_steps + 1)
    corrections = np.sqrt(1 - 0.999**times) / (1 - 0.9**times)

    def one(state: tuple[jax.Array, ...], rate: jax.Array) -> tuple[tuple[jax.Array, ...], None]:
        v, mean, square = state
        gradient = jax.grad(partial(_speed, f))(v)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * jnp.square(gradient)
        return (v - rate * mean / (jnp.sqrt(square) + 1e-12), mean, square), None

    zeros = jnp.zeros_like(v)
    return lax.scan(one, (v, zeros, zeros), jnp.asarray(rates * corrections, v.dtype))[0][0]


def _newton(f: Any, v: jax.Array, num_steps: int) -> jax.Array:
    """Solves f(v) - v = 0; every step lowers the speed or is not made."""
    eye = jnp.eye(len(v), dtype=v.dtype)

    def one(state: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        v, damping = state
        residual = f(v) - v
        a = jax.jacfwd(f)(v) - eye
        delta = jnp.linalg.solve(a.T @ a + damping * eye, -a.T @ residual)
        after = v + delta
        better = _speed(f, after) < jnp.square(residual).sum() / 2
        damping = jnp.clip(jnp.where(better, damping / 10, damping * 10), jnp.finfo(v.dtype).eps, 1e6)
        return (jnp.where(better, after, v), damping), None

    return lax.scan(one, (v, jnp.asarray(1e-3, v.dtype)), None, length=num_steps)[0][0]


def _distinct(points: jax.Array, converged: jax.Array, apart: float) -> jax.Array:
    """Of points in rising speed, those that are far from every kept one before them."""
    numbers = jnp.arange(len(points))

    def one(number: jax.Array, kept: jax.Array) -> jax.Array:
        near = jnp.sqrt(jnp.square(points - points[number][None]).sum(-1)) < apart
        return kept.at[number].set(converged[number] & ~(near & kept & (numbers < number)).any())

    return lax.fori_loop(0, len(points), one, jnp.zeros(len(points), bool))


class Linearisation(NamedTuple):
    """The dynamics near a fixed point: `linearise` makes it. NumPy arrays.

    Attributes:
      jacobian: [D, D], of the carry as a vector (`as_vector`).
      eigenvalues: [D] complex, in falling modulus.
      right: [D, D] complex; column k is the direction that eigenvalue k multiplies.
      left: [D, D] complex; row k reads how much of it a state has; `left @ right` = 1 where eigenvalues are distinct.
      num_unstable: how many eigenvalues have a modulus above 1.
      marginal: how many are within `margin` of modulus 1: there the linear part does not decide.
      index: the sign of det(1 - J), 0 where an eigenvalue is 1 within `margin`.
      time_constants: [D] steps after which a mode has shrunk to 1/e; negative where it grows, inf at modulus 1.
    """

    jacobian: np.ndarray
    eigenvalues: np.ndarray
    right: np.ndarray
    left: np.ndarray
    num_unstable: int
    marginal: int
    index: int
    time_constants: np.ndarray


def linearise(step: Callable[[Any], Any], point: Any, *, margin: float = 1e-6) -> Linearisation:
    """Jacobian and modes of a step at a point.

    If a map takes a ball into itself, the indices of its fixed points add up to 1 (Lefschetz): another sum means that
    some are missing.

    Args:
      step: `h -> h`.
      point: a carry.
      margin: see `Linearisation`.

    Returns:
      the `Linearisation`; with repeated eigenvalues without enough eigenvectors `left` is the pseudo-inverse.

    Example:
      >>> there = linearise(lambda h: jnp.array([[0.5, 0.0], [0.0, -2.0]]) @ h, jnp.zeros(2))
      >>> there.eigenvalues.real.tolist(), there.num_unstable, there.index
      ([-2.0, 0.5], 1, 1)
    """
    f, v = vector_step(step, point)
    jacobian = np.asarray(jax.jacfwd(f)(v), np.float64)
    if not np.isfinite(jacobian).all():
        raise ValueError("`point` must have a finite Jacobian, got NaN or infinity in it")
    values, right = np.linalg.eig(jacobian)
    order = np.argsort(-np.abs(values), kind="stable")
    values, right = values[order].astype(complex), right[:, order].astype(complex)
    well = np.linalg.cond(right) < 1 / np.finfo(float).eps
    left = np.linalg.inv(right) if well else np.linalg.pinv(right)
    modulus = np.abs(values)
    near_one = np.abs(values - 1) <= margin
    with np.errstate(divide="ignore"):
        time_constants = np.where(modulus == 1, np.inf, -1 / np.log(modulus))
    sign = np.linalg.slogdet(np.eye(len(jacobian)) - jacobian)[0]
    return Linearisation(
        jacobian=jacobian,
        eigenvalues=values,
        right=right,
        left=left,
        num_unstable=int((modulus > 1 + margin).sum()),
        marginal=int((np.abs(modulus - 1) <= margin).sum()),
        index=0 if near_one.any() else int(sign),
        time_constants=time_constants,
    )


def implicit_fixed_point(step: Callable[[Any, Any], Any], params: Any, guess: Any, *, num_steps: int = 60) -> Any:
    """The fixed point h = F(params, h) near a guess, differentiable in the parameters.

        dh = (1 - dF/dh)^-1 dF/dparams dparams

    The derivative is that of the exact point, whatever the iterations were, and takes no memory for them.

    Args:
      step: `(params, h) -> h`.
      params: a tree; gradients flow to it and not to the guess.
      guess: a carry.
      num_steps: of Newton's method, as in `find_fixed_points`.

    Returns:
      the carry. Where there is no fixed point near, it is the slowest point found: look at how fast it moves.

    Example:
      >>> root = lambda a: implicit_fixed_point(lambda a, h: (h + a / h) / 2, a, jnp.array([1.0]))[0]
      >>> a = jnp.float32(4.0)
      >>> print(root(a), jax.grad(root)(a))  # sqrt(a) and 1 / (2 sqrt(a))
      2.0 0.25
    """
    start, back = as_vector(lax.stop_gradient(guess))

    def residual(v: jax.Array) -> jax.Array:
        return as_vector(step(params, back(v)))[0].astype(v.dtype) - v

    def solve(residual: Any, v: jax.Array) -> jax.Array:
        return _newton(lambda v: residual(v) + v, v, num_steps)

    def tangent_solve(linear: Any, y: jax.Array) -> jax.Array:
        return jnp.linalg.solve(jax.jacfwd(linear)(y), y)

    return back(lax.custom_root(residual, start, solve, tangent_solve))
