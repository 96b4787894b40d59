"""`dense` is one matrix product for all steps: no loop, no carry, and the same numbers when streaming."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import jit, random_params
from jax.test_util import check_grads

from rnn_jax import (
    Associative,
    Chunked,
    Scan,
    dense,
    gru,
    lru,
    make_cell,
    output_size,
    stack,
    stream_step,
    unroll,
    unroll_carries,
    with_dropout,
    with_layer_norm,
)
from rnn_jax.initializers import identity
from rnn_jax.tree import at_step

CELL = dense(3)
XS = np.random.default_rng(0).normal(size=(5, 2, 4))
LENGTHS = np.array([5, 2])
RESETS = np.random.default_rng(1).integers(2, size=(5, 2)).astype(bool)


def by_numpy(params: Any, xs: Any) -> Any:
    return np.einsum("...i,io->...o", np.asarray(xs), np.asarray(params.w)) + np.asarray(params.b)


def loops(function: Any, *arguments: Any) -> int:
    text = str(jax.make_jaxpr(function)(*arguments))
    return text.count("scan[") + text.count("while[")


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_it_is_a_matrix_and_a_bias_at_every_step(batch: tuple[int, ...], x64: None) -> None:
    params = random_params(CELL)
    xs = np.random.default_rng(2).normal(size=(5, *batch, 4))
    carry, ys = unroll(CELL, params, jnp.asarray(xs))
    assert carry == ()
    np.testing.assert_allclose(ys, by_numpy(params, xs), rtol=1e-12)
    assert loops(lambda p, x: unroll(CELL, p, x), params, xs) == 0
    streamed = [stream_step(CELL, params, (), jnp.asarray(x)) for x in xs]
    assert all(carry == () for carry, _ in streamed)
    np.testing.assert_allclose(ys, np.stack([y for _, y in streamed]), rtol=1e-13)


def test_the_parameters_it_starts_with() -> None:
    params = CELL.init(jax.random.key(0), 400)
    assert params.w.shape == (400, 3)
    assert params.w.dtype == jnp.float32
    assert abs(float(params.w.std()) * 20 - 1) < 0.1
    assert (params.b == 0).all()
    assert output_size(CELL, params, 400) == 3
    eye = dense(3, kernel_init=identity(2.0)).init(jax.random.key(0), 3).w
    np.testing.assert_array_equal(eye, 2 * np.eye(3))
    assert dense(3) is dense(3) is dense(output_size=3)
    assert dense(3) is not dense(4)


@pytest.mark.parametrize("method", [Scan(), Scan(unroll=2), Chunked(2), Chunked(9)], ids=repr)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_lengths_masks_resets_and_strategies_make_no_difference_to_real_steps(
    method: Any, reverse: bool, x64: None
) -> None:
    params = random_params(CELL)
    real = (np.arange(5)[:, None] < LENGTHS)[..., None]
    xs = jnp.asarray(np.where(real, XS, np.nan))
    options = {"lengths": LENGTHS, "resets": RESETS, "reverse": reverse, "method": method}
    carry, ys, carries = unroll_carries(CELL, params, xs, **options)
    assert carry == carries == ()
    np.testing.assert_allclose(ys, np.where(real, by_numpy(params, XS), 0), rtol=1e-12)
    assert unroll(CELL, params, xs[:0], method=method)[1].shape == (0, 2, 3)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_in_a_stack_it_reads_out_what_is_below(reverse: bool, x64: None) -> None:
    below = gru(3)
    cell = stack(dense(4), below, dense(2), dense(3))
    params = random_params(cell)
    real = (np.arange(5)[:, None] < LENGTHS)[..., None]
    options = {"lengths": LENGTHS, "resets": RESETS, "reverse": reverse}
    carry, ys = unroll(cell, params, jnp.asarray(np.where(real, XS, np.nan)), **options)
    expected_carry, hs = unroll(below, params[1], jnp.asarray(by_numpy(params[0], XS)), **options)
    expected = np.where(real, by_numpy(params[3], by_numpy(params[2], hs)), 0)
    np.testing.assert_allclose(ys, expected, rtol=1e-12)
    np.testing.assert_allclose(carry[1], expected_carry, rtol=1e-12)
    assert carry[0] == carry[2] == carry[3] == ()
    assert loops(lambda p, x: unroll(cell, p, x, **options), params, XS) == 1
    if not reverse:
        streamed, state = [], cell.init_carry(params, (2,))
        step = jit(lambda p, c, x: stream_step(cell, p, c, x))
        for x in XS:
            state, y = step(params, state, x)
            streamed.append(y)
        np.testing.assert_allclose(unroll(cell, params, jnp.asarray(XS))[1], np.stack(streamed), rtol=1e-12)


def test_wrapped_it_still_needs_no_loop(x64: None) -> None:
    for cell in (
        with_layer_norm(stack(dense(4), dense(3))),
        with_dropout(dense(3), inputs=0.5, variational=0.5),
        stack(lru(4), with_dropout(dense(3), inputs=0.5)),
    ):
        params = cell.perturb(jax.random.key(1), random_params(cell), XS.shape)
        carry, ys = unroll(cell, params, jnp.asarray(XS))
        assert loops(lambda p, x, cell=cell: unroll(cell, p, x)[1], params, XS) == len(jax.tree.leaves(carry))
        state = cell.init_carry(params, (2,))
        for t, x in enumerate(XS):
            state, y = stream_step(cell, at_step(params, t), state, jnp.asarray(x))
            np.testing.assert_allclose(ys[t], y, rtol=1e-12)


def test_gradients(x64: None) -> None:
    params = random_params(CELL)

    def loss(params: Any, xs: Any) -> Any:
        return jnp.sin(unroll(CELL, params, xs, lengths=LENGTHS)[1]).sum()

    grads = jit(jax.grad(loss, (0, 1)))(params, XS)
    slope = np.cos(by_numpy(params, XS)) * (np.arange(5)[:, None] < LENGTHS)[..., None]
    np.testing.assert_allclose(grads[0].w, np.einsum("tbi,tbo->io", XS, slope), rtol=1e-11)
    np.testing.assert_allclose(grads[0].b, slope.sum((0, 1)), rtol=1e-11)
    np.testing.assert_allclose(grads[1], slope @ np.asarray(params.w).T, rtol=1e-11)
    check_grads(loss, (params, jnp.asarray(XS)), order=1, modes=["fwd", "rev"])


def test_low_precision_keeps_its_dtype() -> None:
    params = random_params(CELL)
    ys = unroll(CELL, params, jnp.asarray(XS, jnp.bfloat16))[1]
    assert ys.dtype == jnp.bfloat16
    np.testing.assert_allclose(ys.astype(jnp.float32), by_numpy(params, XS), atol=0.05)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"`output_size` must be an integer of at least 1, got int 0"):
        dense(0)
    with pytest.raises(ValueError, match=r"`xs` must have 4 features on its last axis, got shape \(5, 2, 3\)"):
        unroll(CELL, random_params(CELL), jnp.zeros((5, 2, 3)))
    with pytest.raises(ValueError, match=r"`key` must be a PRNG key"):
        CELL.init(0, 3)
    with pytest.raises(ValueError, match=r"`method` Associative\(\) needs a LinearCell"):
        unroll(CELL, random_params(CELL), jnp.asarray(XS, jnp.float32), method=Associative())
    with pytest.raises(ValueError, match="dense"):
        make_cell("dense", 3)
