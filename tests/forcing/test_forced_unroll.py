"""`forced_unroll` is `unroll` where all is forced, and a loop over `stream_step` where it is not."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from comparing import jit
from decoders import (
    CELLS,
    EXTRA,
    OUT,
    STEPS,
    by_loop,
    call,
    forced,
    forced_everything,
    same,
    scene,
    shifted,
)

from rnn_jax import unroll
from rnn_jax.forcing import argmax, expected, identity, sample

kinds = pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "vectors"])
cells = pytest.mark.parametrize("name", CELLS)
ranks = pytest.mark.parametrize("batch", [(), (4,), (2, 2)], ids=["row", "batch", "two batch axes"])
run = jit(unroll, static_argnames=("cell",))


def check_ends(cell: Any, tokens: bool, batch: tuple[int, ...], ragged: bool) -> None:
    s = scene(cell, tokens, batch, ragged=ragged)
    feedback = sample(0.8) if tokens else identity
    ones, zeros = np.ones((STEPS, *batch)), np.zeros((STEPS, *batch))
    full = forced(cell, feedback, s, ones)
    same(full, run(cell, s.params, shifted(s), s.carry, lengths=s.lengths), 0)
    same(full, by_loop(cell, feedback, s, ones))
    free = forced(cell, feedback, s, zeros)
    same(free, by_loop(cell, feedback, s, zeros))
    assert ragged or not batch or not np.allclose(free[1][1:], full[1][1:])  # the ends of the mask are far apart


@cells
@kinds
def test_all_ones_are_unroll_and_all_zeros_a_free_run(name: str, tokens: bool, x64: None) -> None:
    check_ends(CELLS[name], tokens, (4,), True)


@ranks
@kinds
def test_any_batch_axes_without_padding(batch: tuple[int, ...], tokens: bool, x64: None) -> None:
    check_ends(CELLS["lstm"], tokens, batch, False)


def test_ragged_rows_in_two_batch_axes(x64: None) -> None:
    check_ends(CELLS["lstm"], True, (2, 2), True)


def test_eager_calls_are_the_compiled_ones(x64: None) -> None:
    cell = CELLS["gru"]
    s = scene(cell, True)
    same(call(cell, expected, s, 1.0), unroll(cell, s.params, shifted(s), s.carry, lengths=s.lengths), 0)
    mask = np.random.default_rng(1).uniform(size=(STEPS, 4))
    same(call(cell, expected, s, mask), forced(cell, expected, s, mask))


@cells
def test_the_two_ways_through_the_program_give_equal_numbers_and_gradients(name: str, x64: None) -> None:
    """At a mask of ones but for 1e-15 the loop is taken, over the same numbers."""
    cell = CELLS[name]
    for tokens in (True, False) if name == "gru" else (name == "stack",):
        s = scene(cell, tokens)
        feedback = expected if tokens else identity
        ones = np.ones((STEPS, 4))
        nearly = ones.copy()
        nearly[2, 0] = np.nextafter(1, 0)
        at_once, stepwise = (forced_everything(cell, feedback, s, mask) for mask in (ones, nearly))
        same(stepwise, at_once, 1e-12)


@pytest.mark.parametrize("axes", [(), (STEPS,), (1, 4), (STEPS, 4, 1)], ids=str)
def test_a_mask_has_leading_axes_and_a_step_zero_that_does_not_count(axes: tuple[int, ...], x64: None) -> None:
    cell = CELLS["gru"]
    s = scene(cell, True)
    mask = np.random.default_rng(2).uniform(size=axes)
    full = np.array(np.broadcast_to(mask.reshape(axes + (1,) * (3 - len(axes))), (STEPS, 4, 1))[..., 0])
    reference = forced(cell, expected, s, full)
    same(forced(cell, expected, s, mask), reference, 0)
    full[0] = 1 - full[0]
    same(forced(cell, expected, s, full), reference, 0)


def test_booleans_and_integers_are_masks_as_well(x64: None) -> None:
    cell = CELLS["gru"]
    s = scene(cell, True)
    coins = np.random.default_rng(3).integers(2, size=(STEPS, 4))
    reference = forced(cell, expected, s, coins.astype(float))
    for dtype in (bool, np.int32):
        same(forced(cell, expected, s, coins.astype(dtype)), reference, 0)


@kinds
def test_one_start_for_all_rows_the_initial_carry_and_no_inputs(tokens: bool, x64: None) -> None:
    cell = CELLS["gru"]
    s, feedback = scene(cell, tokens), argmax if tokens else identity
    least = s._replace(start=s.start[0], carry=None, inputs=None, lengths=None)
    least = least._replace(params=s.params._replace(w_x=s.params.w_x[:-EXTRA]))
    alike = s._replace(
        start=np.stack([s.start[0]] * 4), carry=0 * s.carry, inputs=0 * s.inputs, lengths=0 * s.lengths + STEPS
    )
    for mask in (np.ones(()), np.zeros(())):
        same(forced(cell, feedback, least, mask), forced(cell, feedback, alike, mask))


@kinds
def test_no_steps_give_no_outputs_and_the_carry_back(tokens: bool, x64: None) -> None:
    cell = CELLS["gru"]
    s, feedback = scene(cell, tokens), argmax if tokens else identity
    empty = s._replace(targets=s.targets[:0], inputs=s.inputs[:0], lengths=jnp.zeros(4, jnp.int32))
    for carry, ys in (
        forced(cell, feedback, empty, np.zeros(())),
        forced(cell, feedback, empty._replace(lengths=None), np.ones((0, 4))),
        call(cell, feedback, empty, 0.0),
    ):
        same(carry, s.carry, 0)
        assert ys.shape == (0, 4, OUT)


def test_low_precision_inputs_keep_a_wide_carry() -> None:
    cell = CELLS["gru"]
    s = scene(cell, True)
    half = s._replace(embedding=s.embedding.astype(jnp.bfloat16), inputs=s.inputs.astype(jnp.bfloat16))
    for mask in (np.ones(()), np.zeros(())):
        carry, ys = forced(cell, expected, half, mask)
        assert (carry.dtype, ys.dtype) == (jnp.float32, jnp.bfloat16)
        np.testing.assert_allclose(ys.astype(jnp.float32), forced(cell, expected, s, mask)[1], atol=0.05)
