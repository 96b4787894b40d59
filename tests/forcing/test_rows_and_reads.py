"""Rows do not see each other, and what is not read has no effect: no value, no NaN, no gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import jit
from decoders import CELLS, OUT, STEPS, Scene, forced, forced_everything, same, scene

from rnn_jax import dense, unroll
from rnn_jax.forcing import detached, expected, forced_unroll, identity

CELL = CELLS["gru"]
COINS = np.random.default_rng(8).integers(2, size=(STEPS, 4)).astype(float)
PADDING = np.arange(STEPS)[:, None] >= np.array([STEPS, 3, 0, 1])
"""Of the scene of four rows."""


def spoilt(s: Scene, unread: np.ndarray) -> Scene:
    """Nonsense in unread targets and in the inputs of padding."""
    nonsense = np.where(np.arange(STEPS)[:, None] % 2, 99, -99)
    targets = jnp.where(unread, nonsense, s.targets) if s.embedding is not None else spoil(s.targets, unread)
    return s._replace(targets=targets, inputs=spoil(s.inputs, PADDING))


def spoil(xs: Any, where: np.ndarray) -> Any:
    return jnp.where(where[..., None], jnp.nan, xs)


def unread_targets(mask: np.ndarray) -> np.ndarray:
    """A target is read one step later, if that step is real and its weight is not 0; the last one never."""
    read = (mask[1:] != 0) & ~PADDING[1:]
    return ~np.concatenate([read, np.zeros((1, 4), bool)])


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "vectors"])
def test_changing_one_row_changes_no_bit_of_another(tokens: bool, x64: None) -> None:
    feedback = expected if tokens else identity
    s, other = scene(CELL, tokens, ragged=False), scene(CELL, tokens, ragged=False, seed=7)
    mask = COINS.copy()
    mask[2] = [0, 1, 0, 1]  # mixed with and without the row
    before = forced(CELL, feedback, s, mask)
    row = 1
    flipped = mask.copy()
    flipped[:, row] = 1 - mask[:, row]
    changes = {
        "mask": (s, flipped),
        "targets": (s._replace(targets=s.targets.at[:, row].set(other.targets[:, row])), mask),
        "start": (s._replace(start=s.start.at[row].set((s.start[row] + 1) % OUT)), mask),
        "inputs": (s._replace(inputs=s.inputs.at[:, row].set(jnp.nan)), mask),
        "lengths": (s._replace(lengths=s.lengths.at[row].set(2)), mask),
    }
    for name, (scene_after, mask_after) in changes.items():
        after = forced(CELL, feedback, scene_after, mask_after)
        for pair in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            one, two = map(np.asarray, pair)
            axis = one.ndim - 2
            np.testing.assert_array_equal(np.delete(one, row, axis), np.delete(two, row, axis), err_msg=name)
            assert not np.array_equal(np.take(one, row, axis), np.take(two, row, axis)), name


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "vectors"])
@pytest.mark.parametrize("mask", [COINS, np.ones((STEPS, 4)), np.zeros((STEPS, 4))], ids=["coins", "ones", "zeros"])
def test_nonsense_in_what_is_not_read_harms_neither_values_nor_gradients(
    mask: np.ndarray, tokens: bool, x64: None
) -> None:
    s, feedback = scene(CELL, tokens), expected if tokens else identity
    clean = forced_everything(CELL, feedback, s, mask)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
    same(forced_everything(CELL, feedback, spoilt(s, unread_targets(mask)), mask), clean, 0)


def test_gradients_by_targets_are_zero_exactly_where_they_are_not_read(x64: None) -> None:
    s = scene(CELL, False)
    for mask in (COINS, np.ones((STEPS, 4)), np.zeros((STEPS, 4))):
        *_, by_inputs, by_targets, by_start = forced_everything(CELL, identity, s, mask)[1]
        np.testing.assert_array_equal((by_targets == 0).all(-1), unread_targets(mask))
        np.testing.assert_array_equal((by_inputs == 0).all(-1), PADDING)
        np.testing.assert_array_equal((by_start == 0).all(-1), PADDING[0])


def test_detached_cuts_exactly_what_flows_from_step_to_step(x64: None) -> None:
    """Without a memory, the first input reaches later outputs through feedback alone."""
    cell = dense(OUT)
    params = scene(cell, False).params._replace(w=jnp.asarray(np.random.default_rng(0).normal(size=(OUT, OUT))))
    targets = scene(cell, False).targets

    def later(feedback: Any, mask: Any) -> Any:
        def loss(start: Any) -> Any:
            return forced_unroll(cell, params, targets, mask, start=start, feedback=feedback)[1][1:].sum()

        return jax.grad(loss)(targets[0])

    through = later(identity, 0.0)
    w = np.asarray(params.w)
    powers = sum(np.linalg.matrix_power(w, t + 1) for t in range(1, STEPS))
    same(through, np.broadcast_to(powers.sum(1), through.shape), 1e-10)
    assert (later(detached(identity), 0.0) == 0).all()
    half = later(detached(identity), 0.5)
    assert (half == 0).all()
    forced_carry, ys = forced_unroll(cell, params, targets, 1.0, start=targets[0], feedback=identity)
    assert forced_carry == ()
    same(ys, jit(unroll, static_argnums=0)(cell, params, jnp.concatenate([targets[:1], targets[:-1]]))[1])
