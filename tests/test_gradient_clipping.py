"""Clipping inside backpropagation through time against a backward pass written out step by step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparing import close, jit, random_params

from rnn_jax import (
    Associative,
    Cell,
    Chunked,
    Scan,
    as_cell,
    attention_decoder,
    conv_lstm,
    dense,
    elman,
    gru,
    lru,
    lstm,
    m_lstm,
    residual,
    stack,
    stream_step,
    unroll,
    with_clipped_gradient,
    with_dropout,
)
from rnn_jax.attention import additive
from rnn_jax.training import create_state, make_train_step

RNG = np.random.default_rng(23)
STEPS, BATCH = 5, 3
XS = jnp.asarray(RNG.normal(size=(STEPS, BATCH, 4)), jnp.float32)
VIDEO = jnp.asarray(RNG.normal(size=(STEPS, BATCH, 2, 4)), jnp.float32)
LIMIT = {"norm": 1.0, "value": 0.3}
CELLS = {
    "gru": (gru(5), XS),
    "lstm_projection": (lstm(5, projection=3), XS),
    "lru": (lru(4), XS),
    "conv_lstm": (conv_lstm(2, kernel_size=(3,)), VIDEO),
    "m_lstm": (m_lstm(4, num_heads=2), XS),
    "dropout_around_stack": (with_dropout(stack(gru(3), lstm(2)), inputs=0.1), XS),
}


def weights_like(ys: Any) -> Any:
    """Large weights on some rows and small ones on others, so that some are clipped and some are not."""
    scale = np.array([30.0, 0.01, 1.0]).reshape(1, 3, *(1,) * (ys.ndim - 2))
    return jnp.asarray(scale * np.cos(1 + np.arange(ys.size)).reshape(ys.shape), ys.dtype)


def clip_by_hand(carry_gradient: Any, features: list[int], by: str, counts: list[int]) -> Any:
    """Each row of the batch by itself, over all leaves, in NumPy."""
    leaves, structure = jax.tree.flatten(carry_gradient)
    leaves = [np.array(leaf) for leaf in leaves]
    limit = LIMIT[by]
    for row in np.ndindex(leaves[0].shape[: leaves[0].ndim - features[0]]):
        if by == "norm":
            norm = np.sqrt(sum(np.sum(np.abs(leaf[row].astype(complex)) ** 2) for leaf in leaves))
            counts[int(norm > limit)] += 1
            for leaf in leaves:
                leaf[row] *= min(1.0, limit / norm) if norm > 0 else 1.0
        else:
            for leaf in leaves:
                real, imaginary = np.clip(leaf[row].real, -limit, limit), np.clip(leaf[row].imag, -limit, limit)
                counts[int(np.abs(leaf[row].real).max() > limit)] += 1
                leaf[row] = real + 1j * imaginary if np.iscomplexobj(leaf) else real
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in leaves])


def backward_by_hand(cell: Any, params: Any, xs: Any, carry: Any, by: str, counts: list[int]) -> Any:
    """The gradients of sum(weights * ys) + sum(|final carry|^2), one step at a time from the end."""
    cell = cell if isinstance(cell, Cell) else as_cell(cell)
    features = [leaf.ndim for leaf in jax.tree.leaves(jax.eval_shape(lambda: cell.init_carry(params, ())))]
    step = functools.partial(stream_step, cell)
    pullback = jit(lambda p, c, x, cotangent: jax.vjp(step, p, c, x)[1](cotangent))
    carries, ys = [carry], []
    for x in xs:
        after, y = step(params, carries[-1], x)
        carries.append(after)
        ys.append(y)
    weights = weights_like(jnp.stack(ys))
    back = jax.grad(lambda c: sum((jnp.abs(leaf) ** 2).sum() for leaf in jax.tree.leaves(c)))(carries[-1])
    by_params, by_xs = jax.tree.map(jnp.zeros_like, params), []
    for t in reversed(range(len(xs))):
        p, c, x = pullback(params, carries[t], xs[t], (back, weights[t]))
        by_params = jax.tree.map(jnp.add, by_params, p)
        by_xs.insert(0, x)
        back = clip_by_hand(c, features, by, counts)
    return by_params, jnp.stack(by_xs), back


def gradients(cell: Any, **options: Any) -> Any:
    def loss(params, xs, carry):
        after, ys = unroll(cell, params, xs, carry, **options)
        return (ys * weights_like(ys)).sum() + sum((jnp.abs(leaf) ** 2).sum() for leaf in jax.tree.leaves(after))

    return jit(jax.grad(loss, argnums=(0, 1, 2)))


def random_carry(cell: Any, params: Any, xs: Any) -> Any:
    rng = np.random.default_rng(43)

    def one(leaf: Any) -> Any:
        value = rng.normal(size=leaf.shape)
        return jnp.asarray(value + 1j * rng.normal(size=leaf.shape) if jnp.iscomplexobj(leaf) else value, leaf.dtype)

    return jax.tree.map(one, cell.init_carry(params, xs.shape[1:-1]))


@pytest.mark.parametrize("by", ["norm", "value"])
@pytest.mark.parametrize("name", CELLS)
def test_the_gradient_equals_a_backward_pass_by_hand(name, by):
    cell, xs = CELLS[name]
    clipped = with_clipped_gradient(cell, LIMIT[by], by=by)
    assert isinstance(clipped, Cell)
    params = random_params(cell)
    carry = random_carry(cell, params, xs)
    counts = [0, 0]
    expected = backward_by_hand(cell, params, xs, carry, by, counts)
    assert min(counts) > 0, "the test needs rows that are clipped and rows that are not"
    close(gradients(clipped)(params, xs, carry), expected)
    close(gradients(clipped, method=Chunked(2))(params, xs, carry), expected)


@pytest.mark.parametrize("name", CELLS)
def test_values_and_streaming_do_not_change(name):
    cell, xs = CELLS[name]
    clipped = with_clipped_gradient(cell, 1e-3)
    params = random_params(cell)
    carry = random_carry(cell, params, xs)
    close(
        jit(functools.partial(unroll, clipped))(params, xs, carry),
        jit(functools.partial(unroll, cell))(params, xs, carry),
    )
    one, other = (jit(functools.partial(stream_step, c))(params, carry, xs[0]) for c in (clipped, cell))
    close(one, other)
    close(stream_step(clipped, params, carry, xs[0]), one)
    close(clipped.init(jax.random.key(0), xs.shape[-1]), cell.init(jax.random.key(0), xs.shape[-1]))


@pytest.mark.parametrize("by", ["norm", "value"])
def test_a_limit_that_is_never_reached_leaves_the_gradient_as_it_is(by):
    for cell in (lstm(5), lru(4), stack(gru(5), lru(3))):
        params = random_params(cell)
        carry = random_carry(cell, params, XS)
        expected = gradients(cell, method=Scan())(params, XS, carry)
        close(gradients(with_clipped_gradient(cell, 1e6, by=by))(params, XS, carry), expected)


@pytest.mark.parametrize("by", ["norm", "value"])
def test_every_layer_of_a_stack_is_clipped_by_itself(by):
    cells = (gru(3), lru(4), stack(lstm(2), dense(3)))
    params = random_params(stack(*cells))
    carry = random_carry(stack(*cells), params, XS)
    whole = with_clipped_gradient(stack(*cells), LIMIT[by], by=by)
    apart = stack(*(with_clipped_gradient(cell, LIMIT[by], by=by) for cell in cells))
    expected = gradients(apart)(params, XS, carry)
    close(gradients(whole)(params, XS, carry), expected)
    close(gradients(whole._replace(layers=()))(params, XS, carry), expected)  # all layers at every step
    assert not np.allclose(gradients(stack(*cells))(params, XS, carry)[2][0], expected[2][0])
    # A combinator that keeps the layers of a stack keeps their clipping, in either order.
    around = [with_clipped_gradient(residual(stack(gru(3), gru(4))), LIMIT[by], by=by)]
    around.append(residual(with_clipped_gradient(stack(gru(3), gru(4)), LIMIT[by], by=by)))
    params = random_params(around[0])
    start = random_carry(around[0], params, XS)
    close(gradients(around[0])(params, XS, start), gradients(around[1])(params, XS, start))


@pytest.mark.parametrize("by", ["norm", "value"])
def test_steps_that_are_not_real_are_passed_over_and_resets_cut(by):
    cell = with_clipped_gradient(lstm(4), LIMIT[by], by=by)
    params = random_params(cell)
    carry = random_carry(cell, params, XS)
    mask = jnp.array([True, False, True, False, True])
    weights = weights_like(jnp.zeros((STEPS, BATCH, 4)))

    def loss(params, xs, carry, resets, steps, real):
        after, ys = unroll(cell, params, xs, carry, resets=resets, mask=real)
        return (ys * weights[steps]).sum() + (jax.tree.leaves(after)[0] ** 2).sum()

    gradient = jax.grad(loss, (0, 1, 2))
    steps = np.arange(STEPS)
    padded = jit(lambda p, xs, c: gradient(p, xs, c, None, steps, mask))(params, XS, carry)
    dense_ones = jit(lambda p, xs, c: gradient(p, xs, c, None, steps[mask], None))(params, XS[mask], carry)
    close((padded[0], padded[1][mask], padded[2]), dense_ones)
    assert np.all(np.asarray(padded[1][~mask]) == 0)
    resets = jnp.zeros((STEPS, BATCH), bool).at[2, 1].set(True)
    by_carry = jit(lambda p, xs, c: gradient(p, xs, c, resets, steps, None))(params, XS, carry)[2]
    alone = jit(lambda p, xs, c: gradient(p, xs, c, None, steps, None))(params, XS, carry)[2]
    np.testing.assert_array_equal(by_carry.c[0], alone.c[0])
    assert not np.allclose(by_carry.c[1], alone.c[1])


def test_a_gradient_that_explodes_beyond_the_square_of_float32_is_clipped():
    cell = with_clipped_gradient(elman(2, activation=lambda u: 1e12 * u), 1.0)
    params = random_params(cell)
    xs = jnp.zeros((3, 2, 4))

    def last(carry):
        return unroll(cell, params, 0 * xs, carry)[0].sum()

    gradient = np.asarray(jit(jax.grad(last))(jnp.full((2, 2), 1e-30)))
    np.testing.assert_allclose(np.linalg.norm(gradient, axis=-1), 1.0, rtol=1e-5)
    far = with_clipped_gradient(elman(2, activation=lambda u: 1e25 * u), 1.0)
    gradient = np.asarray(jit(jax.grad(lambda c: unroll(far, params, 0 * xs, c)[0].sum()))(jnp.full((2, 2), 1e-30)))
    np.testing.assert_allclose(np.linalg.norm(gradient, axis=-1), 1.0, rtol=1e-5)


def test_a_gradient_of_zero_stays_zero():
    cell = with_clipped_gradient(gru(3), 0.5)
    params = random_params(cell)
    by_params = jax.grad(lambda p: 0.0 * unroll(cell, p, XS)[1].sum())(params)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(by_params))


def test_float64_complex_and_integer_leaves_keep_their_types():
    counting = Cell(
        init=lambda key, input_size: {"w": jnp.ones(())},
        init_carry=lambda params, batch_shape=(): {"h": jnp.zeros((*batch_shape, 4)), "n": jnp.zeros(batch_shape, int)},
        step=lambda params, carry, z: ({"h": 3 * carry["h"] + z, "n": carry["n"] + 1}, carry["h"]),
    )
    for by, bound in (("norm", 1.0), ("value", 0.3)):
        cell = with_clipped_gradient(counting, LIMIT[by], by=by)

        def loss(h, cell=cell):
            carry, _ = unroll(cell, {"w": jnp.ones(())}, XS, {"h": h, "n": jnp.zeros(BATCH, jnp.int32)})
            return carry["h"].sum(), carry["n"]

        gradient, count = jax.grad(loss, has_aux=True)(jnp.zeros((BATCH, 4)))
        assert count.tolist() == [STEPS] * BATCH
        row = np.full(4, 0.5 if by == "norm" else bound)
        np.testing.assert_allclose(gradient, np.broadcast_to(row, (BATCH, 4)), rtol=1e-6)
    with jax.enable_x64(True):
        cell = lru(4)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), random_params(cell))
        xs = jnp.asarray(XS, jnp.float64)
        carry = cell.init_carry(params, (BATCH,))
        got = gradients(with_clipped_gradient(cell, 1.0))(params, xs, carry)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(got)} == {"float64", "complex128"}


def test_a_decoder_clips_the_cell_inside_it():
    params_of = {}
    for name, inner in (("clipped", with_clipped_gradient(gru(4), 0.01)), ("plain", gru(4))):
        decoder = attention_decoder(inner, additive(3), 5, memory_size=2)
        params = random_params(decoder.cell)
        memory = jnp.asarray(np.random.default_rng(1).normal(size=(6, BATCH, 2)), jnp.float32)

        def loss(params, decoder=decoder, memory=memory):
            ys = unroll(decoder.cell, decoder.attend(params, memory), XS)[1]
            return (ys * weights_like(ys)).sum(), ys

        params_of[name] = jit(jax.grad(loss, has_aux=True))(params)
    close(params_of["clipped"][1], params_of["plain"][1])
    assert not np.allclose(params_of["clipped"][0].cell.w_h, params_of["plain"][0].cell.w_h)
    np.testing.assert_allclose(params_of["clipped"][0].w_o, params_of["plain"][0].w_o, rtol=1e-5, atol=1e-5)


def test_a_decoder_clipped_from_outside_says_what_to_do():
    decoder = attention_decoder(gru(4), additive(3), 5, memory_size=2)
    attended = decoder.attend(random_params(decoder.cell), jnp.ones((6, BATCH, 2)))
    with pytest.raises(ValueError, match=r"`cell` must have an initial carry for one row .* inside a decoder ins"):
        unroll(with_clipped_gradient(decoder.cell, 1.0), attended, XS)
    unroll(with_clipped_gradient(decoder.cell, 1.0, by="value"), attended, XS)


def test_new_values_do_not_compile_again():
    cell = with_clipped_gradient(stack(gru(3), lru(2)), 0.5)
    run = gradients(cell)
    for seed in range(3):
        params = jax.tree.map(lambda leaf, seed=seed: leaf + seed, random_params(cell))
        run(params, XS + seed, random_carry(cell, params, XS))
    assert run._cache_size() == 1


def test_the_gradient_of_parameters_is_clipped_by_optax_in_the_step():
    target = np.array([3.0, -4.0, 0.5], np.float32)

    def loss_fn(params, batch, *, key, step):
        return (params["w"] * target).sum(), {}  # the gradient is the target

    for clip, expected in (
        (optax.clip_by_global_norm(1.0), target / np.linalg.norm(target)),
        (optax.clip(1.0), np.array([1.0, -1.0, 0.5])),
    ):
        tx = optax.chain(clip, optax.sgd(0.1))
        state = create_state({"w": np.zeros(3, np.float32)}, tx, jax.random.key(0))
        state, metrics = make_train_step(loss_fn, tx)(state, None)
        np.testing.assert_allclose(state.params["w"], -0.1 * expected, rtol=1e-6)
        np.testing.assert_allclose(metrics["grad_norm"].total, np.linalg.norm(target), rtol=1e-6)
        np.testing.assert_allclose(metrics["update_norm"].total, 0.1 * np.linalg.norm(expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((gru, 1.0), r"`cell` must be a Cell or a LinearCell, got the function gru; call it first"),
        ((gru(2), 0.0), r"`limit` must be a positive number, got float 0.0"),
        ((gru(2), -1), r"`limit` must be a positive number, got int -1"),
        ((gru(2), float("nan")), r"`limit` must be a positive number, got float nan"),
        ((gru(2), True), r"`limit` must be a positive number, got bool True"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        with_clipped_gradient(*arguments)


def test_an_unknown_way_and_a_parallel_scan_are_refused():
    with pytest.raises(ValueError, match=r"`by` must be one of 'norm', 'value', got 'norms'; did you mean 'norm'\?"):
        with_clipped_gradient(gru(2), 1.0, by="norms")
    cell = with_clipped_gradient(lru(4), 1.0)
    with pytest.raises(ValueError, match=r"`method` Associative\(\) needs a LinearCell"):
        unroll(cell, random_params(cell), XS, method=Associative())
