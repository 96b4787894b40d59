"""How hard is a recurrence to run in parallel? Newton's iterations over all of its steps at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks
from rnn_jax.types import Array

__all__ = ["NewtonRun", "newton_in_time"]


class NewtonRun(NamedTuple):
    """States [T, H], the number of iterations that were made, and whether the last one changed less than tolerated."""

    states: Array
    iterations: Array
    converged: Array


def newton_in_time(
    step: Callable[[Array, Any], Array],
    start: Array,
    inputs: Any,
    guess: Array,
    *,
    tolerance: float = 1e-4,
    max_iterations: int = 300,
) -> NewtonRun:
    """Solves `h_t = step(h_{t-1}, inputs_t)` for all t at once by Newton's method (DEER).

        h_t <- step(g_{t-1}) + J(g_{t-1}) (h_{t-1} - g_{t-1}),    g: the last iterate

    Every iteration evaluates all steps and their Jacobians in parallel and solves one linear recurrence. A recurrence
    that forgets converges in a few iterations however long it is; a chaotic one needs more the longer it is. Here
    the linear recurrence is solved step by step, which is what a CPU is fast at; the iterates are the same.

    Args:
        step: `(h [H], input) -> h [H]`.
        start: [H], h before the first step.
        inputs: a pytree with leaves [T, ...].
        guess: [T, H], the first iterate.
        tolerance: the largest change of a state, absolute, at which iteration stops. Iterates that are not finite do
            not converge: iteration goes on to its end.
        max_iterations: where it stops at the latest.

    Returns:
        A `NewtonRun`; its fields get batch axes under `vmap`.

    Example:
        >>> xs = jnp.linspace(-1.0, 1.0, 50)[:, None]
        >>> run = newton_in_time(lambda h, x: jnp.tanh(0.5 * h + x), jnp.zeros(1), xs, jnp.zeros((50, 1)))
        >>> int(run.iterations), bool(run.converged)
        (4, True)

    References:
        Lim et al., Parallelizing non-linear sequential models over the sequence length, 2024, arXiv:2309.12252;
        Gonzalez et al., Predictability enables parallelization of nonlinear state space models, 2025.
    """
    if start.ndim != 1 or guess.ndim != 2 or guess.shape[1:] != start.shape:
        raise ValueError(f"`guess` must be [T, H] for a `start` [H], got shapes {guess.shape} and {start.shape}")
    checks.positive("max_iterations", max_iterations)

    def iterate(run: NewtonRun) -> NewtonRun:
        before = jnp.concatenate([start[None], run.states[:-1]])
        values = jax.vmap(step)(before, inputs)
        jacobians = jax.vmap(jax.jacfwd(step))(before, inputs)

        def solve(change: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            value, jacobian, old = now
            new = value + (jacobian * change[None]).sum(-1)
            return new - old, new

        _, states = lax.scan(solve, jnp.zeros_like(start), (values, jacobians, run.states))
        small = jnp.abs(states - run.states) <= tolerance  # False where NaN, which a maximum might not see
        return NewtonRun(states, run.iterations + 1, small.all())

    def unfinished(run: NewtonRun) -> Array:
        return ~run.converged & (run.iterations < max_iterations)

    return lax.while_loop(unfinished, iterate, NewtonRun(guess, jnp.int32(0), jnp.bool_(False)))
