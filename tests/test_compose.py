"""Combinators of cells: each equals what one would write by hand with `unroll` and NumPy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import close, jit, random_params

from rnn_jax import (
    Associative,
    Auto,
    Cell,
    Chunked,
    LinearCell,
    Scan,
    conv_lstm,
    elman,
    gru,
    ind_rnn,
    learned_carry,
    lru,
    lstm,
    m_lstm,
    output_size,
    residual,
    rg_lru,
    stack,
    stream_step,
    unroll,
    unroll_carries,
    with_layer_norm,
)
from rnn_jax.cells.lstm import LSTMCarry

RNG = np.random.default_rng(17)
XS = jnp.asarray(RNG.normal(size=(7, 3, 4)), jnp.float32)
LENGTHS = jnp.array([7, 3, 0])
RESETS = jnp.asarray(RNG.random((7, 3)) < 0.4)
STACKS = {
    "gru_projected_lstm": stack(gru(5), lstm(6, projection=3)),
    "linear_between": stack(lru(5), elman(4), rg_lru(3)),
    "nested": stack(stack(gru(5), lru(4)), stack(elman(3), stack(gru(2)))),
}


def one_after_another(cell: Cell, params: Any, xs: Any, carry: Any = None, **options: Any) -> Any:
    """The definition of a stack: unroll the first cell, feed its outputs to the second, and so on."""
    carries = []
    for index, (one, one_params) in enumerate(zip(cell.layers, params, strict=True)):
        run = one_after_another if isinstance(one, Cell) and one.layers else unroll
        final, xs = run(one, one_params, xs, None if carry is None else carry[index], **options)
        carries.append(final)
    return tuple(carries), xs


def random_carry(cell: Any, params: Any, batch_shape: tuple[int, ...] = (3,)) -> Any:
    rng = np.random.default_rng(43)

    def one(leaf: Any) -> Any:
        value = rng.normal(size=leaf.shape)
        return jnp.asarray(value + 1j * value[::-1] if jnp.iscomplexobj(leaf) else value, leaf.dtype)

    return jax.tree.map(one, cell.init_carry(params, batch_shape))


def with_gradients(run: Any, *arguments: Any) -> Any:
    """Carry, outputs, and the gradients of a scalar that weighs every number differently."""

    def loss(*arguments):
        carry, ys = run(*arguments)
        total = (ys * jnp.sin(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape)).sum()
        return total + sum((jnp.abs(leaf) ** 2).sum() for leaf in jax.tree.leaves(carry)), (carry, ys)

    positions = tuple(range(len(arguments)))
    return jit(jax.grad(loss, argnums=positions, has_aux=True))(*arguments)


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_equals_its_cells_one_after_another_and_streaming(name):
    cell = STACKS[name]
    params = random_params(cell)
    carry, ys = jit(functools.partial(unroll, cell))(params, XS)
    close((carry, ys), jit(functools.partial(one_after_another, cell))(params, XS))
    start = cell.init_carry(params, (3,))
    streamed = jit(lambda p, c, xs: jax.lax.scan(functools.partial(stream_step, cell, p), c, xs))
    close((carry, ys), streamed(params, start, XS))
    assert ys.shape[-1] == output_size(cell, params, 4)


@pytest.mark.parametrize(
    ("name", "reverse"), [("gru_projected_lstm", True), ("linear_between", False), ("nested", True)]
)
def test_a_stack_on_ragged_lengths_with_resets_and_a_carry_equals_its_cells_with_equal_gradients(name, reverse):
    cell = STACKS[name]
    params = random_params(cell)
    carry = random_carry(cell, params)
    options = {"lengths": LENGTHS, "resets": RESETS, "reverse": reverse}
    stacked = with_gradients(lambda p, xs, c: unroll(cell, p, xs, c, **options), params, XS, carry)
    close(stacked, with_gradients(lambda p, xs, c: one_after_another(cell, p, xs, c, **options), params, XS, carry))
    # All layers at every step, as streaming does, but with padding and resets.
    as_one = cell._replace(layers=())
    close(stacked[1], jit(lambda p, xs, c: unroll(as_one, p, xs, c, **options))(params, XS, carry))


def test_a_stack_is_equal_layer_by_layer_under_every_strategy():
    cell = STACKS["linear_between"]
    params = random_params(cell)
    options = {"lengths": LENGTHS, "resets": RESETS}
    runs = [
        jit(lambda p, xs, method=method: unroll(cell, p, xs, **options, method=method))
        for method in (Scan(), Chunked(2, remat=False), Auto())
    ]
    for run in runs[1:]:
        close(run(params, XS), runs[0](params, XS))
    plain = with_gradients(lambda p, xs: unroll(cell, p, xs, **options), params, XS)
    close(with_gradients(lambda p, xs: unroll(cell, p, xs, **options, method=Chunked(3)), params, XS), plain)


def test_a_stack_of_linear_cells_runs_associatively_and_a_mixed_one_says_which_cannot():
    cell = stack(lru(5), residual(rg_lru(5)))
    params = random_params(cell)
    options = {"lengths": LENGTHS, "resets": RESETS}
    plain = with_gradients(lambda p, xs: unroll(cell, p, xs, **options, method=Scan()), params, XS)
    close(with_gradients(lambda p, xs: unroll(cell, p, xs, **options, method=Associative()), params, XS), plain)
    mixed = STACKS["linear_between"]
    with pytest.raises(ValueError, match=r"`method` Associative\(\) needs a LinearCell"):
        unroll(mixed, random_params(mixed), XS, method=Associative())


def test_the_carries_of_a_stack_after_every_step_end_in_its_final_carry():
    cell = STACKS["nested"]
    params = random_params(cell)
    carry, ys, carries = jit(lambda p, xs: unroll_carries(cell, p, xs))(params, XS)
    close(jax.tree.map(lambda leaf: leaf[-1], carries), carry)
    half, _ = jit(lambda p, xs: unroll(cell, p, xs))(params, XS[:4])
    close(jax.tree.map(lambda leaf: leaf[3], carries), half)
    np.testing.assert_array_equal(carries[1][1][0], ys)


def test_two_layers_of_a_stack_start_from_different_keys():
    params = stack(ind_rnn(4), ind_rnn(4)).init(jax.random.key(0), 4)
    assert not np.allclose(params[0].w_x, params[1].w_x)


def test_the_output_size_is_found_from_shapes_alone():
    cells = {
        lstm(8, projection=5): 5,
        lru(6, state_size=9): 6,
        conv_lstm(7, kernel_size=(3,)): 7,
        STACKS["nested"]: 2,
        with_layer_norm(residual(gru(4))): 4,
    }
    for cell, size in cells.items():
        params = jax.eval_shape(lambda cell=cell: cell.init(jax.random.key(0), 4))
        assert output_size(cell, params, 4) == size
    with pytest.raises(ValueError, match=r"`cell` must be a Cell or a LinearCell, got int 3"):
        output_size(3, (), 4)


@pytest.mark.parametrize("inner", [gru(4), lru(4), stack(lstm(6), elman(4))], ids=["gru", "lru", "stack"])
def test_a_residual_cell_adds_its_input_on_real_steps(inner):
    cell = residual(inner)
    assert isinstance(cell, type(inner))
    params = random_params(cell)
    carry, ys = jit(lambda p, xs: unroll(cell, p, xs, lengths=LENGTHS))(params, XS)
    expected_carry, expected = jit(lambda p, xs: unroll(inner, p, xs, lengths=LENGTHS))(params, XS)
    real = np.arange(7)[:, None, None] < np.asarray(LENGTHS)[None, :, None]
    close((carry, ys), (expected_carry, expected + np.where(real, XS, 0)))
    start = cell.init_carry(params, (3,))
    both = jit(lambda p, c, x: [stream_step(one, p, c, x)[1] for one in (cell, inner)])
    y, expected_y = both(params, start, XS[0])
    close(y, expected_y + XS[0])


def test_a_residual_cell_inside_a_stack_keeps_its_layers_apart():
    cell = stack(gru(4), residual(stack(elman(5), gru(4))), lru(2))
    params = random_params(cell)

    @jit
    def by_hand(params):
        _, first = unroll(gru(4), params[0], XS)
        _, second = unroll(stack(elman(5), gru(4)), params[1], first)
        return unroll(lru(2), params[2], first + second)[1]

    expected = by_hand(params)
    close(jit(lambda p, xs: unroll(cell, p, xs)[1])(params, XS), expected)
    start = cell.init_carry(params, (3,))
    streamed = jit(lambda p, c, xs: jax.lax.scan(functools.partial(stream_step, cell, p), c, xs)[1])
    close(streamed(params, start, XS), expected)


def test_a_residual_cell_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"`cell` of residual must keep .* got input_size=4 and output 3"):
        residual(stack(ind_rnn(5), ind_rnn(3))).init(jax.random.key(0), 4)


def normalised(params: Any, xs: Any) -> Any:
    xs = np.asarray(xs, np.float64)
    xs = (xs - xs.mean(-1, keepdims=True)) / np.sqrt(xs.var(-1, keepdims=True) + 1e-6)
    return jnp.asarray(xs * np.asarray(params.scale) + np.asarray(params.shift), jnp.float32)


@pytest.mark.parametrize("inner", [lstm(5), lru(5), stack(gru(4), elman(3))], ids=["lstm", "lru", "stack"])
def test_a_layer_norm_normalises_what_the_cell_sees(inner):
    cell = with_layer_norm(inner)
    assert isinstance(cell, type(inner))
    params = random_params(cell)
    result = jit(lambda p, xs: unroll(cell, p, xs, lengths=LENGTHS))(params, XS)
    expected = jit(lambda p, xs: unroll(inner, p, xs, lengths=LENGTHS))(params.cell, normalised(params, XS))
    close(result, expected)


def test_a_fresh_layer_norm_neither_scales_nor_shifts():
    params = with_layer_norm(ind_rnn(5)).init(jax.random.key(0), 4)
    np.testing.assert_array_equal(params.scale, np.ones(4))
    np.testing.assert_array_equal(params.shift, np.zeros(4))
    close(params.cell, ind_rnn(5).init(jax.random.key(0), 4))


def test_a_layer_norm_around_each_layer_equals_two_unrolls_by_hand():
    cell = stack(with_layer_norm(gru(5)), with_layer_norm(lru(3)))
    params = random_params(cell)
    _, hs = jit(functools.partial(unroll, gru(5)))(params[0].cell, normalised(params[0], XS))
    _, expected = jit(functools.partial(unroll, lru(3)))(params[1].cell, normalised(params[1], hs))
    close(jit(lambda p, xs: unroll(cell, p, xs)[1])(params, XS), expected)


def test_a_layer_norm_for_another_number_of_features_is_refused():
    cell = with_layer_norm(ind_rnn(5))
    with pytest.raises(ValueError, match=r"`xs` must have 3 features on its last axis, got shape \(7, 3, 4\)"):
        unroll(cell, cell.init(jax.random.key(0), 3), XS)


VIDEO = jnp.asarray(RNG.normal(size=(5, 2, 3, 4)), jnp.float32)
CARRIED = {
    "gru": (gru(5), XS),
    "lstm": (lstm(5, projection=3), XS),
    "complex_lru": (lru(5), XS),
    "conv_lstm": (conv_lstm(2, kernel_size=(3,)), VIDEO),
    "m_lstm": (m_lstm(4, num_heads=2), XS),
    "stack": (stack(gru(5), lru(3)), XS),
}


def complex_of(value: Any, like: Any) -> Any:
    value = np.asarray(value)
    return (value[..., 0] + 1j * value[..., 1]).astype(like.dtype) if jnp.iscomplexobj(like) else value


@pytest.mark.parametrize("name", CARRIED)
def test_a_learned_carry_starts_every_row_from_the_parameter_and_gets_the_sum_of_their_gradients(name):
    inner, xs = CARRIED[name]
    cell = learned_carry(inner)
    assert isinstance(cell, type(inner))
    params = random_params(cell)
    batch_shape = xs.shape[1:-1]
    bare = inner.init_carry(params.cell, batch_shape)
    start = jax.tree.map(
        lambda v, like: jnp.asarray(np.broadcast_to(complex_of(v, like), like.shape)), params.carry, bare
    )
    close(cell.init_carry(params, batch_shape), start)
    gradients, result = with_gradients(lambda p: unroll(cell, p, xs), params)
    by_hand, expected = with_gradients(lambda p, c: unroll(inner, p, xs, c), params.cell, start)
    close(result, expected)
    close(gradients[0].cell, by_hand[0])

    def summed(gradient: Any, value: Any) -> Any:
        # The gradient of a complex leaf by JAX is d/d real - i d/d imaginary.
        if jnp.iscomplexobj(gradient):
            gradient = jnp.stack([gradient.real, -gradient.imag], axis=-1)
        return gradient.sum(axis=tuple(range(gradient.ndim - value.ndim)))

    close(gradients[0].carry, jax.tree.map(summed, by_hand[1], params.carry))
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(gradients[0].carry))


@pytest.mark.parametrize("name", ["gru", "complex_lru", "stack"])
def test_a_reset_restores_the_learned_carry(name):
    inner, xs = CARRIED[name]
    cell = learned_carry(inner)
    params = random_params(cell)
    resets = jnp.zeros(7, bool).at[3].set(True)
    run = jit(lambda p, xs, resets: unroll(cell, p, xs, resets=resets))
    carry, ys = run(params, xs, resets)
    _, first = run(params, xs[:3], resets[:3])
    second_carry, second = run(params, xs[3:], resets[:4] & False)
    close((carry, ys), (second_carry, jnp.concatenate([first, second])))


def test_a_learned_carry_starts_at_the_cells_own_or_scattered_around_it():
    inner = Cell(
        init=lambda key, input_size: jax.random.normal(key, (input_size,)),
        init_carry=lambda params, batch_shape=(): LSTMCarry(*jnp.full((2, *batch_shape, 400), 0.25)),
        step=lambda params, carry, z: (carry, carry.h),
    )
    plain = learned_carry(inner).init(jax.random.key(0), 4)
    close(plain.carry, inner.init_carry(plain.cell))
    scattered = learned_carry(inner, stddev=0.5).init(jax.random.key(0), 4)
    for leaf in jax.tree.leaves(scattered.carry):
        assert leaf.shape == (400,)
        np.testing.assert_allclose(np.std(leaf), 0.5, atol=0.07)
        np.testing.assert_allclose(np.mean(leaf), 0.25, atol=0.1)
    assert not np.allclose(scattered.carry.h, scattered.carry.c)
    assert jax.eval_shape(lambda: learned_carry(lru(6)).init(jax.random.key(0), 4)).carry.shape == (6, 2)
    close(scattered.cell, plain.cell)


def test_a_learned_carry_streams_and_runs_associatively():
    cell = learned_carry(lru(5))
    params = random_params(cell)
    options = {"lengths": LENGTHS, "resets": RESETS}
    scan, parallel = (
        jit(lambda p, method=method: unroll(cell, p, XS, **options, method=method))(params)
        for method in (Scan(), Associative())
    )
    close(parallel, scan)
    start = cell.init_carry(params, (3,))
    assert np.any(np.asarray(start))
    _, ys = jit(functools.partial(unroll, cell))(params, XS)
    streamed = jit(lambda p, c, xs: jax.lax.scan(functools.partial(stream_step, cell, p), c, xs)[1])
    close(streamed(params, start, XS), ys)


def test_combinators_refuse_what_is_no_cell():
    with pytest.raises(ValueError, match=r"`cells` must be at least one cell, got none"):
        stack()
    with pytest.raises(ValueError, match=r"`cells\[1\]` must be a Cell or a LinearCell, got str 'gru'; make_cell"):
        stack(gru(3), "gru")
    for combinator in (residual, with_layer_norm, learned_carry):
        with pytest.raises(ValueError, match=r"`cell` must be a Cell or a LinearCell, got type <class"):
            combinator(Cell)
    with pytest.raises(ValueError, match=r"`key` must be a PRNG key such as jax.random.key\(0\), got int 0"):
        stack(gru(3)).init(0, 4)
    cell = stack(gru(3), gru(2))
    params = random_params(cell)
    with pytest.raises(ValueError, match=r"`carry` must have shape \(3, 2\) at \[1\], got \(3, 5\)"):
        unroll(cell, params, XS, (jnp.zeros((3, 3)), jnp.zeros((3, 5))))
    assert isinstance(residual(lru(3)), LinearCell)
