"""Converted cells of flax linen and nnx give flax's numbers: outputs, final carries, gradients."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from rnn_jax import Cell, bidirectional, elman, gru, lstm, serial, stack, unroll
from rnn_jax.interop import from_linen_cell, from_nnx_cell

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiling is what takes time
RNG = np.random.default_rng(5)
XS = RNG.normal(size=(6, 4, 3)).astype(np.float32)
LENGTHS = jnp.array([4, 6, 1, 3])
REAL = np.arange(6)[:, None, None] < np.asarray(LENGTHS)[None, :, None]
LINEN = {
    "lstm": nn.LSTMCell(4),
    "optimized_lstm": nn.OptimizedLSTMCell(4),
    "gru": nn.GRUCell(4),
    "simple": nn.SimpleCell(4),
    "simple_residual_relu": nn.SimpleCell(4, residual=True, activation_fn=nn.relu),
}
NNX = {
    "lstm": nnx.LSTMCell,
    "optimized_lstm": nnx.OptimizedLSTMCell,
    "gru": nnx.GRUCell,
    "simple": nnx.SimpleCell,
}


def random_like(tree: Any, seed: int) -> Any:
    """Distinct numbers for every leaf: the zero biases of a fresh flax module would hide mistakes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.7 * rng.normal(size=leaf.shape), leaf.dtype), tree)


def linen_params(module: nn.RNNCellBase, input_size: int = 3, seed: int = 41) -> Any:
    def init():
        x = jnp.zeros((1, input_size))
        return module.init(jax.random.key(0), module.initialize_carry(jax.random.key(1), x.shape), x)

    return random_like(jax.eval_shape(init), seed)["params"]


def nnx_module(kind: type, input_size: int = 3, **options: Any) -> Any:
    module = kind(input_size, 4, rngs=nnx.Rngs(0), **options)
    nnx.update(module, random_like(nnx.state(module, nnx.Param), seed=41))
    return module


def nnx_run(module: Any, **options: Any) -> Any:
    """`xs -> (carry, ys)` of `nnx.RNN`, free of the trace that the module was made in."""
    graph, state = nnx.split(nnx.RNN(module, time_major=True, return_carry=True, **options))
    return lambda xs: nnx.merge(graph, state, copy=True)(xs, seq_lengths=LENGTHS)


def assert_carry(ours: Any, flax: Any) -> None:
    """flax's LSTM carries (c, h)."""
    expected = (flax[1], flax[0]) if isinstance(flax, tuple) else (flax,)
    leaves = jax.tree.leaves(ours)
    assert len(leaves) == len(expected)
    for leaf, flax_leaf in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(leaf, flax_leaf, rtol=1e-5, atol=1e-5)


def loss_of(carry: Any, ys: Any) -> Any:
    """A scalar with a different weight for every number, blind to what stands in padding."""
    weights = jnp.asarray(np.sin(np.arange(ys.size)).reshape(ys.shape) * REAL, ys.dtype)
    return (jnp.where(REAL, ys, 0) * weights).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(carry))


def outcome(run: Any) -> Any:
    """Gradient over the inputs, final carry, outputs on real steps."""

    def loss(xs):
        carry, ys = run(xs)
        return loss_of(carry, ys), (carry, jnp.where(REAL, ys, 0))

    gradient, (carry, ys) = jit(jax.grad(loss, has_aux=True))(jnp.asarray(XS))
    return gradient, carry, ys


def assert_equal(run: Any, flax_run: Any) -> None:
    (gradient, carry, ys), (expected_gradient, expected_carry, expected) = outcome(run), outcome(flax_run)
    np.testing.assert_allclose(ys, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-5)
    assert_carry(carry, expected_carry)


@pytest.mark.parametrize(
    ("name", "reverse"),
    [
        ("lstm", False),
        ("optimized_lstm", True),
        ("gru", True),
        ("simple", False),
        ("simple", True),
        ("simple_residual_relu", False),
    ],
)
def test_linen_cells_on_ragged_lengths_have_equal_outputs_carries_and_gradients(name, reverse):
    params = linen_params(LINEN[name])
    cell, ours = from_linen_cell(LINEN[name], {"params": params})
    rnn = nn.RNN(LINEN[name], time_major=True, return_carry=True, reverse=reverse, keep_order=True)
    assert_equal(
        lambda xs: unroll(cell, ours, xs, lengths=LENGTHS, reverse=reverse),
        lambda xs: rnn.apply({"params": {"cell": params}}, xs, seq_lengths=LENGTHS),
    )


@pytest.mark.parametrize(
    ("name", "reverse"),
    [("lstm", True), ("optimized_lstm", False), ("gru", False), ("gru", True), ("simple", True)],
)
def test_nnx_cells_on_ragged_lengths_have_equal_outputs_carries_and_gradients(name, reverse):
    module = nnx_module(NNX[name])
    cell, ours = from_nnx_cell(module)
    rnn = nnx_run(module, reverse=reverse, keep_order=True)
    assert_equal(lambda xs: unroll(cell, ours, xs, lengths=LENGTHS, reverse=reverse), rnn)


def test_the_pre_activation_residual_of_nnx_is_converted():
    module = nnx_module(nnx.SimpleCell, residual=True, activation_fn=nnx.relu)
    cell, params = from_nnx_cell(module)
    assert cell is elman(4, activation=nnx.relu)
    h, x = jnp.asarray(XS[1:3, :, 0]), jnp.asarray(XS[0, :2])
    carry, y = cell.step(params, h, cell.project(params, x))
    expected, _ = module(h, x)
    np.testing.assert_allclose(carry, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_two_bidirectional_linen_layers_on_ragged_lengths_are_equal(name):
    module = LINEN[name]
    rnn = nn.Bidirectional(nn.RNN(module), nn.RNN(module.clone()), time_major=True, return_carry=True)
    weights = [[linen_params(module, size, seed) for seed in (size, size + 1)] for size in (3, 8)]
    flax_params = [
        {"params": {"forward_rnn": {"cell": ahead}, "backward_rnn": {"cell": behind}}} for ahead, behind in weights
    ]
    cell = from_linen_cell(module, {"params": weights[0][0]}).model
    both = bidirectional(cell, cell)
    model = serial(both, both)
    like = jax.eval_shape(lambda: model.init(jax.random.key(0), 3))
    leaves = [from_linen_cell(module, {"params": one}).params for row in weights for one in row]
    params = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(leaves))

    @jit
    def flax_run(xs):
        first, xs = rnn.apply(flax_params[0], xs, seq_lengths=LENGTHS)
        second, ys = rnn.apply(flax_params[1], xs, seq_lengths=LENGTHS)
        return [*first, *second], ys

    carries, ys = jit(lambda xs: model.apply(params, xs, lengths=LENGTHS))(jnp.asarray(XS))
    expected_carries, expected = flax_run(jnp.asarray(XS))
    np.testing.assert_allclose(ys, np.where(REAL, expected, 0), rtol=1e-5, atol=1e-5)
    ours = [carry for pair in carries for carry in pair]
    for carry, expected_carry in zip(ours, expected_carries, strict=True):
        assert_carry(carry, expected_carry)


def test_a_stack_of_converted_nnx_cells_equals_three_nnx_layers():
    modules = [nnx_module(NNX["optimized_lstm"]), nnx_module(NNX["gru"], 4), nnx_module(NNX["simple"], 4)]
    converted = [from_nnx_cell(module) for module in modules]
    cell = stack(*(one.model for one in converted))
    rnns = [nnx_run(module) for module in modules]

    def flax_run(xs):
        carries = []
        for rnn in rnns:
            carry, xs = rnn(xs)
            carries.append(carry)
        return carries, xs

    carries, ys = jit(lambda xs: unroll(cell, tuple(one.params for one in converted), xs, lengths=LENGTHS))(XS)
    expected_carries, expected = jit(flax_run)(jnp.asarray(XS))
    np.testing.assert_allclose(ys, np.where(REAL, expected, 0), rtol=1e-5, atol=1e-5)
    for carry, expected_carry in zip(carries, expected_carries, strict=True):
        assert_carry(carry, expected_carry)


def test_converted_cells_are_those_of_the_library():
    for name, expected in {"lstm": lstm(4), "optimized_lstm": lstm(4), "gru": gru(4), "simple": elman(4)}.items():
        assert from_linen_cell(LINEN[name], {"params": linen_params(LINEN[name])}).model is expected
        converted = from_nnx_cell(nnx_module(NNX[name]))
        assert isinstance(converted.model, Cell)
        assert converted.model is expected


def test_what_cannot_be_converted_is_refused():
    with pytest.raises(ValueError, match=r"`module` must be one of flax.linen's LSTMCell, .*, got MGUCell"):
        from_linen_cell(nn.MGUCell(4), {"params": {}})
    with pytest.raises(ValueError, match=r"`variables` must be a mapping with \"params\", got dict"):
        from_linen_cell(LINEN["gru"], {})
    with pytest.raises(ValueError, match=r"`variables\[\"params\"\]` must have ir/kernel, got cell"):
        from_linen_cell(LINEN["gru"], {"params": {"cell": {}}})
    with pytest.raises(ValueError, match=r"`module` must have gate_fn sigmoid and activation_fn tanh, got others"):
        from_linen_cell(nn.LSTMCell(4, activation_fn=nn.relu), {"params": {}})
    with pytest.raises(ValueError, match=r"`module` must be one of flax.nnx's LSTMCell, .*, got Linear"):
        from_nnx_cell(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"`module` must have gate_fn sigmoid"):
        from_nnx_cell(nnx_module(nnx.GRUCell, gate_fn=nnx.relu))
