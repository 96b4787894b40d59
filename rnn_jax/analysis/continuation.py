"""How a fixed point moves, and where it changes its kind, while an input or a weight is turned."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import checks
from rnn_jax.analysis.vectors import as_vector

__all__ = ["Bifurcation", "Branch", "continue_fixed_point"]

Kind = Literal["fold", "branch", "flip", "neimark_sacker"]


class Bifurcation(NamedTuple):
    """Where eigenvalues of a fixed point leave or enter the unit circle.

    Attributes:
      kind: "fold" (at 1; two points meet, and the branch turns round), "branch" (at 1 too, but the branch goes on:
        a pitchfork or a transcritical bifurcation), "flip" (at -1, a cycle of two is born or dies), or
        "neimark_sacker" (a complex pair; a closed curve is).
      value: of the parameter, interpolated between the two points around it.
      after: the number of the point before it.
    """

    kind: Kind
    value: float
    after: int


class Branch(NamedTuple):
    """What `continue_fixed_point` returns: N points along a branch, in order.

    Attributes:
      points: the carries, leaves [N, ...].
      values: [N] of the parameter.
      eigenvalues: [N, D] complex, of the Jacobian by the carry, in falling modulus.
      num_unstable: [N] how many have a modulus above 1.
      bifurcations: what lies between them.
      ended: why it ends: it left the range ("range"), it had `num_steps` points ("num_steps"), or no next point was
        found at a thousandth of the step size ("lost").
    """

    points: Any
    values: np.ndarray
    eigenvalues: np.ndarray
    num_unstable: np.ndarray
    bifurcations: tuple[Bifurcation, ...]
    ended: Literal["range", "num_steps", "lost"]


def continue_fixed_point(
    step: Callable[[Any, jax.Array], Any],
    point: Any,
    value: float,
    *,
    low: float,
    high: float,
    step_size: float = 0.05,
    num_steps: int = 400,
    upwards: bool = True,
    tolerance: float = 1e-5,
) -> Branch:
    """Follows a fixed point h = F(h, a) while a changes, round folds too (pseudo-arclength continuation).

    Each next point is looked for along the tangent of the curve (h, a), by Newton's method in the plane across it.
    Steps are halved where it fails, and grow again up to `step_size`.

    Args:
      step: F, `(h, a) -> h`; a is a scalar, such as a weight, a gain, or the strength of an input.
      point: a carry near a fixed point.
      value: a there.
      low, high: the range of a.
      step_size: the length of a step in the space of (h, a).
      num_steps: of points at most.
      upwards: whether a rises at first.
      tolerance: |F(h, a) - h| up to which a point is one. With float32 about 1e-6 can be reached, with float64 1e-13.

    Returns:
      the `Branch`. Two bifurcations of one kind within one step are not seen: take smaller steps.

    Raises:
      ValueError: an argument makes no sense, or there is no fixed point near `point`.

    Example:
      >>> pitchfork = lambda h, gain: jnp.tanh(gain * h)
      >>> branch = continue_fixed_point(pitchfork, jnp.zeros(1), 0.5, low=0.5, high=1.5)
      >>> [(one.kind, round(one.value, 2)) for one in branch.bifurcations]
      [('branch', 1.0)]

    References:
      Kuznetsov, Elements of applied bifurcation theory, 2004, chapters 4 and 10.
    """
    if not low <= value <= high:
        raise ValueError(f"`value` must be between `low` = {low} and `high` = {high}, got {value}")
    for name, number in (("step_size", step_size), ("tolerance", tolerance)):
        if not number > 0:
            raise ValueError(f"`{name}` must be above 0, got {number}")
    checks.positive("num_steps", num_steps)
    vector, back = as_vector(point)

    def residual(u: jax.Array) -> jax.Array:
        return as_vector(step(back(u[:-1]), u[-1]))[0].astype(u.dtype) - u[:-1]

    def correct(guess: jax.Array, across: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The fixed point in the plane through the guess, and how far from one it is."""

        def newton(u: jax.Array, _: None) -> tuple[jax.Array, None]:
            matrix = jnp.concatenate([jax.jacfwd(residual)(u), across[None]])
            return u - jnp.linalg.solve(matrix, jnp.append(residual(u), across @ (u - guess))), None

        u = lax.scan(newton, guess, None, length=8)[0]
        return u, jnp.linalg.norm(residual(u))

    def tangent(u: jax.Array, like: jax.Array) -> jax.Array:
        """Along the curve, in the direction of `like`."""
        matrix = jnp.concatenate([jax.jacfwd(residual)(u), like[None]])
        t = jnp.linalg.solve(matrix, jnp.zeros_like(u).at[-1].set(1))
        return t / jnp.linalg.norm(t)

    def advance(state: Any, _: None) -> tuple[Any, Any]:
        u, along, size = state
        after, off = correct(u + size * along, along)
        turned = tangent(after, along)
        # A corrector that has jumped elsewhere is as bad as one that has not converged.
        fine = (off <= tolerance) & (jnp.linalg.norm(after - u) <= 2 * size) & (turned @ along > 0.5)
        fine &= jnp.isfinite(turned).all()
        grown = jnp.minimum(1.5 * size, step_size)
        state = jnp.where(fine, after, u), jnp.where(fine, turned, along), jnp.where(fine, grown, size / 2)
        return state, (state[0], state[1][-1], fine, state[2])

    @jax.jit
    def walk(u: jax.Array) -> Any:
        upright = jnp.zeros_like(u).at[-1].set(1)
        u, off = correct(u, upright)
        along = tangent(u, upright) * (1 if upwards else -1)
        _, rows = lax.scan(advance, (u, along, jnp.asarray(step_size, u.dtype)), None, length=num_steps)
        return (u, off, along[-1]), rows, jax.vmap(jax.jacfwd(residual))(jnp.concatenate([u[None], rows[0]]))

    (first, off, lean), (us, leans, fine, sizes), jacobians = jax.tree.map(
        np.asarray, walk(jnp.append(vector, jnp.asarray(value, vector.dtype)))
    )
    if not off <= tolerance:
        raise ValueError(f"`point` must be near a fixed point at `value` = {value}, got one that moves by {off:.3g}")
    lost = np.flatnonzero(sizes < step_size / 1000)
    keep = np.concatenate([[True], fine])
    keep[1:][slice(lost[0] if len(lost) else None, None)] &= not len(lost)
    us, leans = np.concatenate([first[None], us]), np.concatenate([[lean], leans])
    outside = np.flatnonzero(keep & ((us[:, -1] < low) | (us[:, -1] > high)))
    if len(outside):
        keep[outside[0] :] = False
    us, leans = us[keep], leans[keep]
    jacobians = np.asarray(jacobians[keep][:, :, :-1], np.float64) + np.eye(len(vector))
    eigenvalues = np.linalg.eigvals(jacobians).astype(complex)
    eigenvalues = np.take_along_axis(eigenvalues, np.argsort(-np.abs(eigenvalues), axis=1), axis=1)
    return Branch(
        points=jax.vmap(back)(jnp.asarray(us[:, :-1])),
        values=us[:, -1],
        eigenvalues=eigenvalues,
        num_unstable=(np.abs(eigenvalues) > 1).sum(1),
        bifurcations=_between(us[:, -1], leans, jacobians, eigenvalues),
        ended="range" if len(outside) else "lost" if len(lost) else "num_steps",
    )


def _between(
    values: np.ndarray, leans: np.ndarray, jacobians: np.ndarray, eigenvalues: np.ndarray
) -> tuple[Bifurcation, ...]:
    """Looks where the signs of det(J - 1), det(J + 1) and |pair| - 1 change."""
    eye = np.eye(jacobians.shape[-1])
    at_one, at_minus_one = (np.linalg.det(jacobians + sign * eye) for sign in (-1, 1))
    pairs = [np.abs(row[row.imag > 0]) for row in eigenvalues]
    found = []
    for i in range(len(values) - 1):

        def between(test: np.ndarray, i: int = i) -> float:
            part = test[i] / (test[i] - test[i + 1])
            return float(values[i] + part * (values[i + 1] - values[i]))

        if at_one[i] * at_one[i + 1] < 0:
            turned = leans[i] * leans[i + 1] < 0
            # The parameter stands still at a fold, so its value is that of the further of both points.
            value = float(values[i : i + 2].max() if leans[i] > 0 else values[i : i + 2].min())
            found.append(Bifurcation("fold", value, i) if turned else Bifurcation("branch", between(at_one), i))
        if at_minus_one[i] * at_minus_one[i + 1] < 0:
            found.append(Bifurcation("flip", between(at_minus_one), i))
        outside = [(one > 1).sum() for one in pairs[i : i + 2]]
        if len(pairs[i]) == len(pairs[i + 1]) and outside[0] != outside[1]:
            nearest = np.array([one[np.argmin(np.abs(one - 1))] - 1 for one in pairs[i : i + 2]])
            value = float(values[i] + nearest[0] / (nearest[0] - nearest[1]) * (values[i + 1] - values[i]))
            found.append(Bifurcation("neimark_sacker", value, i))
    return tuple(found)
