"""The linear recurrence `h_t = a_t h_{t-1} + b_t`, with a derivative of its own: one recurrence backwards.

The tangent of a linear recurrence is the same recurrence, driven by `da_t h_{t-1} + db_t`. Its transpose is one walk
back, `r_t = g_t + a_{t+1} r_{t+1}`, after which the gradients by b and a are `r_t` and `r_t h_{t-1}`, for all steps at
once. The rule is one of forward mode (`jax.custom_jvp`) over `lax.custom_linear_solve`, which jax transposes, so every
transformation works on it: `grad`, `jvp`, `vmap`, `remat`, and derivatives of derivatives.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.types import Array


@functools.partial(jax.jit, static_argnames=("reverse", "parallel"))
def linear_recurrence(a: Array, b: Array, h: Array, *, reverse: bool, parallel: bool | None = None) -> Array:
    """All `h_t = a_t h_{t-1} + b_t`.

    Args:
        a, b: [T, *batch, N], T at least 1.
        h: [*batch, N], before the first step; all three have one dtype, real or complex.
        reverse: walk from the last step to the first.
        parallel: all steps at once by an associative scan, or one after another by a loop. None leaves it to the
            platform that the program is lowered for: a loop on a CPU, which is faster there, else in parallel.

    Returns:
        [T, *batch, N].

    Notes:
        A factor that is exactly zero forgets h whatever it is, NaN too, in the result and in gradients: what comes
        before a reset stays there. Only tangents of forward mode meet it, as keeping them out makes gradients slower
        by up to a fifth.
    """
    first, on = (-1, -1) if reverse else (0, 1)
    there = functools.partial(_solve, reverse=reverse, offset=0, parallel=parallel)
    back = functools.partial(_solve, reverse=not reverse, offset=on, parallel=parallel)

    @jax.custom_jvp
    def forward(a: Array, b: Array, h: Array) -> Array:
        return there(a, b.at[first].add(times(a[first], h)))

    @forward.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        (a, b, h), (a_dot, b_dot, h_dot) = primals, tangents
        hs = forward(a, b, h)
        hs_dot = lax.custom_linear_solve(
            lambda hs: hs - a * _before(jnp.zeros_like(h), hs, reverse),
            (a_dot * _before(h, hs, reverse) + b_dot).at[first].add(a[first] * h_dot),
            solve=lambda _, drive: there(a, drive),
            transpose_solve=lambda _, hs_bar: back(a, hs_bar),
        )
        return hs, hs_dot

    return forward(a, b, h)


def compose(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
    """The map of two maps h -> a h + b in a row."""
    return times(later[0], earlier[0]), times(later[0], earlier[1]) + later[1]


def times(a: Array, h: Array) -> Array:
    """`a h`, but zero times what is not finite is zero."""
    return a * jnp.where((a == 0) & ~jnp.isfinite(h), 0, h)


def _solve(a: Array, b: Array, *, reverse: bool, offset: int, parallel: bool | None) -> Array:
    """All `h_t = a_{t + offset} h_{t-1} + b_t`, from h before the first step zero."""
    loop = functools.partial(_one_by_one, reverse=reverse, offset=offset)
    at_once = functools.partial(_all_at_once, reverse=reverse, offset=offset)
    if parallel is None:
        return lax.platform_dependent(a, b, cpu=loop, default=at_once)
    return at_once(a, b) if parallel else loop(a, b)


def _one_by_one(a: Array, b: Array, *, reverse: bool, offset: int) -> Array:
    """`_solve` by a loop. Each h_t takes the place of its b_t: memory is what takes the time."""
    num_steps = a.shape[0]

    def one(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        h, hs = state
        t = num_steps - 1 - i if reverse else i
        a_t, b_t = (lax.dynamic_index_in_dim(steps, at, keepdims=False) for steps, at in ((a, t + offset), (hs, t)))
        h = times(a_t, h) + b_t
        return h, lax.dynamic_update_index_in_dim(hs, h, t, 0)

    return lax.fori_loop(1, num_steps, one, (b[-1 if reverse else 0], b))[1]


def _all_at_once(a: Array, b: Array, *, reverse: bool, offset: int) -> Array:
    """`_solve` by an associative scan; the factor of the first step meets nothing."""
    return lax.associative_scan(compose, (jnp.roll(a, -offset, 0), b), reverse=reverse)[1]


def _before(h: Array, hs: Array, reverse: bool) -> Array:
    """What each step meets: h, then hs without the last."""
    return jnp.concatenate([hs[1:], h[None]] if reverse else [h[None], hs[:-1]])
