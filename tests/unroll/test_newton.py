"""Newton's method in time gives the values and gradients of the scan, for every cell, border and direction.

Six steps never need more than seven iterations, so nothing here falls back on the scan: every row says so.
"""

from typing import Any, NamedTuple

import jax
import pytest
from cases import (
    BATCH,
    CASES,
    LINEAR,
    MAIN,
    STEPS,
    Case,
    Everything,
    assert_close,
    everything,
    make_carry,
    make_params,
    make_xs,
    over,
    weigh,
)
from test_lengths_masks_resets import SCENES, real_steps, spoil

from rnn_jax.unroll import Newton, Scan, unroll_newton

BY_NAME = {case.name: case for case in CASES}
SOLVED = [case for case in CASES if case not in LINEAR]


class Solved(NamedTuple):
    """What `everything` returns, and what Newton's method did."""

    everything: Everything
    info: Any


def _solve(cell: Any, params: Any, xs: Any, carry: Any, scene: Any, reverse: bool, method: Newton) -> Solved:
    def loss(params: Any, xs: Any, carry: Any) -> Any:
        after, ys, _, info = unroll_newton(cell, params, xs, carry, reverse=reverse, method=method, **scene)
        return weigh((after, ys)), (after, ys, info)

    (value, (after, ys, info)), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, xs, carry)
    return Solved(Everything(loss=value, carry=after, ys=ys, grads=grads), info)


solve = jax.jit(_solve, static_argnums=(0, 5, 6))


def compare(case: Case, method: Newton, *, reverse: bool, scenes: tuple[str, ...] = tuple(SCENES)) -> int:
    """Values and gradients with NaN in the padding; returns the largest number of iterations."""
    params, xs = make_params(case), make_xs(case)
    carry, most = make_carry(case, params), 0
    for name in scenes:
        scene = SCENES[name]
        spoiled = spoil(xs, real_steps(scene))
        scanned = everything(case.cell, params, spoiled, carry, reverse=reverse, method=Scan(), **scene)
        got, info = solve(case.cell, params, spoiled, carry, scene, reverse, method)
        assert info.converged.shape == (BATCH,)
        assert info.converged.all(), name
        assert_close(got, scanned, rtol=1e-10)
        most = max(most, int(info.iterations.max()))
    return most


@over(SOLVED)
def test_every_cell_equals_the_scan(case: Case, x64: None) -> None:
    scenes = tuple(SCENES) if case in MAIN else ("nothing", "all")
    assert 1 <= compare(case, Newton(), reverse=False, scenes=scenes) <= STEPS


@over(LINEAR[:2])
def test_a_linear_cell_is_solved_without_iterations(case: Case, x64: None) -> None:
    assert compare(case, Newton(), reverse=True, scenes=("all",)) == 0


@pytest.mark.parametrize("name", ["lstm", "conv_lstm_signal"])
def test_walking_backwards_equals_the_scan(name: str, x64: None) -> None:
    assert 1 <= compare(BY_NAME[name], Newton(), reverse=True) <= STEPS
