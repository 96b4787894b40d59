"""Padding, masks and borders: what `unroll` does at once equals walking over the real steps one by one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import (
    BATCH,
    CASES,
    MAIN,
    STEPS,
    Case,
    assert_close,
    by_hand,
    everything,
    make_carry,
    make_params,
    make_xs,
    over,
    programs,
    run,
    weigh,
)

from rnn_jax.types import Cell
from rnn_jax.unroll import unroll

LENGTHS = np.array([6, 4, 1, 0], np.int32)
FULL = np.full(BATCH, STEPS, np.int32)
ALL = np.ones((STEPS, BATCH), bool)
NONE = np.zeros((STEPS, BATCH), bool)
MASK = np.array([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]], bool).T
RESETS = np.array([[0, 0, 1, 0, 1, 0], [1, 0, 0, 1, 0, 0], [0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 1, 0]], bool).T

SCENES: dict[str, dict[str, Any]] = {
    "nothing": {"lengths": FULL, "mask": ALL, "resets": NONE},
    "lengths": {"lengths": LENGTHS, "mask": ALL, "resets": NONE},
    "mask": {"lengths": FULL, "mask": MASK, "resets": NONE},
    "resets": {"lengths": FULL, "mask": ALL, "resets": RESETS},
    "all": {"lengths": np.array([5, 6, 3, 6], np.int32), "mask": MASK, "resets": RESETS},
}
"""Every scene has the same shapes, so that one compiled program plays them all."""


def real_steps(scene: dict[str, Any]) -> np.ndarray:
    return scene["mask"] & (np.arange(STEPS)[:, None] < scene["lengths"][None])


def spoil(xs: Any, real: np.ndarray) -> Any:
    """NaN wherever a step is not real."""
    return jnp.where(real.reshape(real.shape + (1,) * (xs.ndim - 2)), xs, jnp.nan)


def check_values(case: Case, params: Any, xs: Any, carry: Any, scene: dict[str, Any], got: Any, reverse: bool) -> None:
    """A final carry and outputs equal those by hand; rows without a step keep their carry to the bit."""
    real, (after, ys) = real_steps(scene), got
    assert_close(got, by_hand(case, params, xs, carry, **scene, reverse=reverse), rtol=1e-9)
    assert not np.asarray(ys)[~real].any()
    for b in np.flatnonzero(~real.any(0)):
        for before, later in zip(jax.tree.leaves(carry), jax.tree.leaves(after), strict=True):
            np.testing.assert_array_equal(later[b], before[b])


@over(CASES)
def test_padding_masks_and_resets_equal_walking_over_the_real_steps_alone(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case)
    carry = make_carry(case, params)
    for scene in SCENES.values():
        got = everything(case.cell, params, spoil(xs, real_steps(scene)), carry, **scene)
        check_values(case, params, xs, carry, scene, (got.carry, got.ys), reverse=False)
        assert not np.asarray(got.grads[1])[~real_steps(scene)].any()


@over(MAIN)
def test_walking_backwards_equals_the_same_by_hand(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case)
    carry = make_carry(case, params)
    for scene in SCENES.values():
        got = run(case.cell, params, spoil(xs, real_steps(scene)), carry, reverse=True, **scene)
        check_values(case, params, xs, carry, scene, got, reverse=True)


@over(CASES)
def test_gradients_with_spoiled_padding_equal_finite_differences_by_hand(case: Case, x64: None) -> None:
    params, xs, scene = make_params(case), make_xs(case), SCENES["all"]
    point = (params, xs, make_carry(case, params))
    got = everything(case.cell, params, spoil(xs, real_steps(scene)), point[2], **scene)
    for seed, part in enumerate(["params", "xs", "carry", "all"]):
        rng = np.random.default_rng(seed)
        direction = tuple(
            jax.tree.map(lambda leaf, on=part in (name, "all"), rng=rng: draw(rng, leaf) * on, group)
            for name, group in zip(["params", "xs", "carry"], point, strict=True)
        )

        def loss(epsilon: float, direction: Any = direction) -> float:
            moved = jax.tree.map(lambda leaf, d: leaf + epsilon * d, point, direction)
            return float(weigh(by_hand(case, *moved, **scene)))

        numeric = (loss(1e-6) - loss(-1e-6)) / 2e-6
        # JAX's gradient by a complex number is the conjugate of the direction of ascent.
        products = jax.tree.map(lambda g, d: float((np.asarray(g) * d).sum().real), got.grads, direction)
        exact = sum(jax.tree.leaves(products))
        assert abs(numeric) > 1e-3
        np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-7)


def draw(rng: np.random.Generator, leaf: Any) -> np.ndarray:
    """Normal numbers like a leaf, real or complex."""
    imaginary = 1j * rng.standard_normal(leaf.shape) if jnp.iscomplexobj(leaf) else 0
    return rng.standard_normal(leaf.shape) + imaginary


@over(MAIN)
def test_new_values_of_anything_traced_do_not_compile_again(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case)
    everything(case.cell, params, xs, make_carry(case, params), **SCENES["all"])
    before = programs()
    params, xs = make_params(case, seed=11), make_xs(case, seed=12)
    everything(case.cell, params, xs, make_carry(case, params, seed=13), **SCENES["lengths"])
    everything(case.cell, params, xs, make_carry(case, params, seed=14), **SCENES["resets"])
    assert programs() == before


@over(MAIN)
def test_reverse_equals_flipping_every_row_within_its_length(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case)
    carry = make_carry(case, params)
    index = np.where(
        np.arange(STEPS)[:, None] < LENGTHS, LENGTHS - 1 - np.arange(STEPS)[:, None], np.arange(STEPS)[:, None]
    )
    rows = np.arange(BATCH)
    scene = SCENES["lengths"]
    after, ys = run(case.cell, params, xs, carry, reverse=True, **scene)
    flipped = everything(case.cell, params, xs[index, rows], carry, **scene)
    assert_close((after, ys), (flipped.carry, flipped.ys[index, rows]), rtol=1e-11)


def counter() -> Cell:
    """Its carry counts steps from the parameter on; its output is the count times ten plus x."""

    def step(params: Any, carry: Any, x: Any) -> Any:
        return carry + 1, 10 * (carry + 1) + x

    return Cell(
        init=lambda key, input_size: jnp.zeros(()),
        init_carry=lambda params, batch_shape=(): jnp.broadcast_to(params, (*batch_shape, 1)),
        step=step,
    )


def play(reverse: bool, **options: Any) -> tuple[list[int], list[list[int]]]:
    """A counter over x = 0, 1, 2, ... in three rows: final counts, and rows of outputs."""
    xs = jnp.broadcast_to(jnp.arange(5.0)[:, None, None], (5, 3, 1))
    carry, ys = unroll(counter(), jnp.zeros(()), xs, jnp.full((3, 1), 2.0), reverse=reverse, **options)
    return carry[:, 0].astype(int).tolist(), ys[..., 0].astype(int).T.tolist()


def test_a_counter_shows_lengths_by_hand() -> None:
    lengths = jnp.array([5, 2, 0])
    rows = [[30, 41, 52, 63, 74], [30, 41, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert play(False, lengths=lengths) == ([7, 4, 2], rows)
    rows = [[70, 61, 52, 43, 34], [40, 31, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert play(True, lengths=lengths) == ([7, 4, 2], rows)


def test_a_counter_shows_resets_as_borders_in_either_direction() -> None:
    resets = jnp.array([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1], [0, 0, 0, 0, 0]], bool).T
    rows = [[30, 41, 12, 23, 34], [10, 21, 32, 43, 14], [30, 41, 52, 63, 74]]
    assert play(False, resets=resets) == ([3, 1, 7], rows)
    # Backwards the border at 2 is crossed before step 1; the one at 0 is never crossed.
    rows = [[20, 11, 52, 43, 34], [40, 31, 22, 13, 34], [70, 61, 52, 43, 34]]
    assert play(True, resets=resets) == ([2, 4, 7], rows)


def test_a_counter_shows_that_a_border_on_padding_waits_for_the_next_real_step() -> None:
    resets = jnp.array([[0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]], bool).T
    mask = jnp.array([[1, 1, 0, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]], bool).T
    rows = [[30, 41, 0, 13, 24], [30, 41, 0, 0, 0], [0, 0, 0, 13, 24]]
    assert play(False, mask=mask, resets=resets) == ([2, 4, 2], rows)
    rows = [[20, 11, 0, 43, 34], [20, 11, 0, 0, 0], [0, 0, 0, 43, 34]]
    assert play(True, mask=mask, resets=resets) == ([2, 2, 4], rows)


def test_lengths_masks_and_resets_may_leave_out_trailing_batch_axes(x64: None) -> None:
    case = MAIN[0]
    params, xs = make_params(case), make_xs(case)
    wide = jnp.stack([xs, 2 * xs], axis=2)
    scene = SCENES["all"]
    _, expected_ys = run(case.cell, params, wide, **{k: np.stack([v, v], axis=-1) for k, v in scene.items()})
    _, ys = run(case.cell, params, wide, **scene)
    np.testing.assert_array_equal(ys, expected_ys)
    _, one = run(case.cell, params, xs, lengths=3, mask=MASK[:, 0], resets=RESETS)
    _, same = run(
        case.cell, params, xs, lengths=np.full(BATCH, 3), mask=np.stack([MASK[:, 0]] * BATCH, 1), resets=RESETS
    )
    np.testing.assert_array_equal(one, same)


def test_traced_lengths_beyond_the_end_count_as_the_end_and_negative_ones_as_none() -> None:
    case = MAIN[0]
    params, xs = make_params(case, jnp.float32), make_xs(case, jnp.float32)
    compiled = jax.jit(lambda lengths: unroll(case.cell, params, xs, lengths=lengths))
    got = compiled(jnp.array([9, -1, 6, 0]))
    assert_close(got, compiled(jnp.array([6, 0, 6, 0])), rtol=0)


def test_lengths_known_outside_are_checked_inside_jit_as_well() -> None:
    case = MAIN[0]
    params, xs, lengths = make_params(case, jnp.float32), make_xs(case, jnp.float32), jnp.array([6, 4, 1, 0])
    compiled = jax.jit(lambda params: unroll(case.cell, params, xs, lengths=lengths))
    assert_close(compiled(params), unroll(case.cell, params, xs, lengths=lengths), rtol=1e-6)
