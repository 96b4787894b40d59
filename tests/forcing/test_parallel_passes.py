"""Scheduled sampling in whole passes: against two passes in NumPy, and against the loop that it approaches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import jit
from decoders import CELLS, HIDDEN, OUT, STEPS, Scene, everything, forced, same, scene, shifted

from rnn_jax import dense, gru, lru, stack, unroll
from rnn_jax.forcing import argmax, expected, forced_unroll, identity, parallel_forced_unroll, sample

CELL = CELLS["gru"]
MASK = np.random.default_rng(12).uniform(size=(STEPS, 4)) * np.random.default_rng(13).integers(2, size=(STEPS, 4))


def passes_of(cell: Any, feedback: Any, num_passes: int, s: Scene, mask: Any) -> Any:
    return parallel_forced_unroll(
        cell,
        s.params,
        s.targets,
        mask,
        s.carry,
        start=s.start,
        feedback=feedback,
        embedding=s.embedding,
        inputs=s.inputs,
        lengths=s.lengths,
        key=s.key,
        num_passes=num_passes,
    )


passes = jit(passes_of, static_argnums=(0, 1, 2))


@pytest.mark.parametrize(
    ("tokens", "feedback"),
    [(True, sample(0.8)), (True, expected), (False, identity)],
    ids=["sample", "expected", "identity"],
)
def test_n_passes_have_the_first_n_outputs_of_the_loop(tokens: bool, feedback: Any, x64: None) -> None:
    s = scene(CELL, tokens)
    carry, ys = forced(CELL, feedback, s, MASK)
    for n in (1, 2, STEPS):
        _, got = passes(CELL, feedback, n, s, MASK)
        np.testing.assert_allclose(got[:n], ys[:n], rtol=1e-12, atol=1e-13)
        assert n > 1 or np.abs(got - ys).max() > 1e-2
    same(passes(CELL, feedback, STEPS, s, MASK), (carry, ys))


def test_one_pass_is_teacher_forcing_and_so_are_two_at_a_mask_of_ones(x64: None) -> None:
    s = scene(CELL, True)
    full = jit(unroll, static_argnums=0)(CELL, s.params, shifted(s), s.carry, lengths=s.lengths)
    same(passes(CELL, argmax, 1, s, MASK), full, 0)
    same(passes(CELL, argmax, 2, s, np.ones((STEPS, 4))), full, 0)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def test_two_passes_equal_two_passes_in_numpy(x64: None) -> None:
    cell = stack(gru(HIDDEN), dense(OUT))
    s = scene(cell, True)
    p, head = jax.tree.map(np.asarray, s.params)
    table, targets, inputs = np.asarray(s.embedding), np.asarray(s.targets), np.asarray(s.inputs)

    def one_pass(xs: Any) -> Any:
        h, ys = np.asarray(s.carry[0]), []
        for x, extra, real in zip(xs, inputs, np.arange(STEPS)[:, None] < np.asarray(s.lengths), strict=True):
            (r, z, n), (hr, hz, hn) = (
                np.split(a, 3, -1) for a in (np.concatenate([x, extra], -1) @ p.w_x + p.b, h @ p.w_h)
            )
            z = sigmoid(z + hz)
            after = (1 - z) * np.tanh(n + sigmoid(r + hr) * (hn + p.b_hn)) + z * h
            h = np.where(real[:, None], after, h)
            ys.append(np.where(real[:, None], after @ head.w + head.b, 0))
        return h, np.array(ys)

    truth = table[np.concatenate([np.asarray(s.start)[None], targets[:-1]])]
    _, first = one_pass(truth)
    own = np.concatenate([truth[:1], table[first.argmax(-1)][:-1]])
    weights = np.concatenate([np.ones((1, 4)), MASK[1:]])[..., None]
    h, ys = one_pass(weights * truth + (1 - weights) * own)
    same(passes(cell, argmax, 2, s, MASK), ((h, ()), ys))


def test_no_gradient_flows_from_pass_to_pass(x64: None) -> None:
    """The last pass alone, over what it read as a constant, has the same gradients."""
    s = scene(CELL, False)
    zeros = np.zeros((STEPS, 4))
    _, first = passes(CELL, identity, 1, s, zeros)

    def last_pass(s: Scene) -> Any:
        xs = jnp.concatenate([s.start[None], first[:-1]])
        return unroll(CELL, s.params, jnp.concatenate([xs, s.inputs], -1), s.carry, lengths=s.lengths)

    ours = jit(lambda s: everything(lambda s: passes_of(CELL, identity, 2, s, zeros), s))(s)
    same(ours[0], passes(CELL, identity, 2, s, zeros), 1e-13)
    alone = jit(lambda s: everything(last_pass, s))(s)
    same(ours, alone, 1e-12)
    assert (ours[1][-2] == 0).all()  # targets, at weight 0
    assert np.abs(ours[1][-1][:2]).min() > 0  # start


def test_nonsense_on_padding_harms_nothing(x64: None) -> None:
    s = scene(CELL, False)
    padding = (np.arange(STEPS)[:, None] >= np.asarray(s.lengths))[..., None]
    spoilt = s._replace(
        targets=jnp.where(padding, jnp.nan, s.targets).at[-1].set(jnp.nan), inputs=jnp.where(padding, jnp.nan, s.inputs)
    )
    run = jit(lambda s: everything(lambda s: passes_of(CELL, identity, 3, s, MASK), s))
    clean = run(s)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
    same(run(spoilt), clean, 0)


def test_linear_cells_run_without_a_loop_where_that_is_the_choice(x64: None) -> None:
    cell = lru(OUT)
    s = scene(cell, True)
    program = jit(lambda s: passes_of(cell, expected, 3, s, MASK))
    for platform in ("cpu", "cuda"):
        text = jax.export.export(program, platforms=[platform])(s).mlir_module()
        assert ("stablehlo.while" in text) == (platform == "cpu")
    same(program(s), passes(cell, expected, 3, s, MASK), 1e-11)


def test_no_steps_and_bad_input(x64: None) -> None:
    cell = CELLS["gru"]
    s = scene(cell, False)
    empty = s._replace(targets=s.targets[:0], inputs=s.inputs[:0], lengths=0 * s.lengths)
    carry, ys = passes(cell, identity, 3, empty, np.zeros(()))
    same(carry, s.carry, 0)
    assert ys.shape == (0, 4, OUT)
    options = {"start": s.start, "feedback": identity, "inputs": s.inputs}
    for num in (0, 1.5, True):
        with pytest.raises(ValueError, match=r"`num_passes` must be an integer of at least 1, got"):
            parallel_forced_unroll(cell, s.params, s.targets, 0.5, num_passes=num, **options)
    options["feedback"] = lambda y, key, embedding: y[..., 1:]
    for function in (parallel_forced_unroll, forced_unroll):
        with pytest.raises(ValueError, match=r"`feedback` must give inputs of shape \(4, 4\), got \(4, 3\)"):
            function(cell, s.params, s.targets, 0.5, **options)
