"""Our cells as modules of linen and nnx: equal to unroll, trained by flax's own means."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from rnn_jax import Scan, bidirectional, gru, layer, lru, lstm, stack, unroll, with_dropout
from rnn_jax.interop import LinenRNN, NnxRNN, linen_cell

XS = jnp.asarray(np.random.default_rng(6).normal(size=(6, 4, 3)), jnp.float32)
LENGTHS = jnp.array([4, 6, 0, 3])
CELL = stack(gru(4), lru(5))


class Tagger(nn.Module):
    """A compact module with a recurrence in it."""

    @nn.compact
    def __call__(self, xs, lengths):
        hs = nn.tanh(nn.Dense(4)(xs))
        hs = LinenRNN(CELL, strategy=Scan())(hs, lengths=lengths)
        return nn.Dense(1)(hs)[..., 0]


def assert_equal(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_a_linen_module_is_unroll_with_the_parameters_of_init():
    module = LinenRNN(CELL)
    variables = jax.jit(module.init)(jax.random.key(0), XS)
    params = variables["params"]["cell"]
    assert set(variables) == {"params"}
    assert jax.tree.structure(params) == jax.tree.structure(jax.eval_shape(lambda: CELL.init(jax.random.key(0), 3)))
    run = jax.jit(lambda v, c, xs: module.apply(v, xs, c, lengths=LENGTHS, method="unroll"))
    expected = unroll(CELL, params, XS, lengths=LENGTHS)
    carry, ys = run(variables, None, XS)
    assert_equal((carry, ys), expected)
    assert_equal(module.apply(variables, XS, lengths=LENGTHS), expected[1])  # eagerly
    assert_equal(run(variables, carry, XS), unroll(CELL, params, XS, carry, lengths=LENGTHS))


def test_a_compact_linen_module_is_trained():
    model = Tagger()
    variables = model.init(jax.random.key(0), XS, LENGTHS)
    assert variables["params"]["LinenRNN_0"]["cell"][0].w_x.shape == (4, 12)
    tx = optax.sgd(0.1, momentum=0.9)
    targets, real = jnp.cumsum(XS[..., 0], axis=0) * 0.3, jnp.arange(6)[:, None] < LENGTHS[None]

    def loss(variables):
        return jnp.square(model.apply(variables, XS, LENGTHS) - targets).mean(where=real)

    @jax.jit
    def train(variables, opt_state):
        value, gradients = jax.value_and_grad(loss)(variables)
        updates, opt_state = tx.update(gradients, opt_state)
        return optax.apply_updates(variables, updates), opt_state, value, gradients

    opt_state, losses = tx.init(variables), []
    for _ in range(60):
        variables, opt_state, value, gradients = train(variables, opt_state)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradients["params"]["LinenRNN_0"]))


def test_layers_go_into_a_linen_sequential():
    both = bidirectional(lstm(3), gru(2))
    model = nn.Sequential([LinenRNN(both), nn.relu, LinenRNN(layer(gru(4), reverse=True))])
    variables = jax.jit(model.init)(jax.random.key(0), XS)
    first, second = (variables["params"][f"layers_{i}"]["cell"] for i in (0, 2))
    expected = unroll(gru(4), second, nn.relu(both.apply(first, XS)[1]), reverse=True)[1]
    assert_equal(jax.jit(model.apply)(variables, XS), expected)


def test_an_nnx_module_is_unroll_with_its_parameters():
    model = NnxRNN(CELL, 3, rngs=nnx.Rngs(0))
    params = model.cell_params()
    variables = jax.tree.leaves(nnx.state(model), is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    assert all(isinstance(one, nnx.Param) for one in variables)
    assert len(variables) == len(jax.tree.leaves(params))
    expected = unroll(CELL, params, XS, lengths=LENGTHS)
    carry, ys = nnx.jit(lambda m, xs: m.unroll(xs, lengths=LENGTHS))(model, XS)
    assert_equal((carry, ys), expected)
    graph, state = nnx.split(model)
    again = nnx.merge(graph, jax.tree.map(lambda leaf: 2 * leaf, state))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
    assert_equal(again(XS, carry), unroll(CELL, doubled, XS, carry)[1])  # eagerly


def test_an_nnx_model_is_trained():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(NnxRNN(CELL, 3, strategy=Scan(), rngs=rngs), nnx.Linear(5, 1, rngs=rngs))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)
    targets = jnp.cumsum(XS[..., :1], axis=0) * 0.3

    def loss(model):
        return jnp.square(model(XS) - targets).mean()

    @nnx.jit
    def train(model, optimizer):
        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    def pure(params, kernel, bias):
        return jnp.square(unroll(CELL, params, XS)[1] @ kernel + bias.reshape(1, 1, 1) - targets).mean()

    rnn, head = model.layers[0], model.layers[1]
    gradients = nnx.merge(nnx.graphdef(model), nnx.jit(nnx.grad(loss))(model)).layers[0].cell_params()
    expected = jax.jit(jax.grad(pure))(rnn.cell_params(), head.kernel[...], head.bias[...])
    assert_equal(gradients, expected)
    losses = [float(train(model, optimizer)) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_cell_of_flax_may_be_wrapped_inside_a_compact_module():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, xs):
            return LinenRNN(linen_cell(nn.MGUCell(4)))(xs)

    variables = jax.jit(Model().init)(jax.random.key(0), XS)
    assert set(variables["params"]) == {"LinenRNN_0"}
    params = variables["params"]["LinenRNN_0"]["cell"]
    assert_equal(jax.jit(Model().apply)(variables, XS), unroll(linen_cell(nn.MGUCell(4)), params, XS)[1])


def test_noise_is_drawn_from_the_stream_dropout_and_only_then():
    cell = with_dropout(gru(4), inputs=0.5)
    key = jax.random.key(5)
    module = LinenRNN(cell)
    variables = module.init(jax.random.key(0), XS)
    params = variables["params"]["cell"]
    assert_equal(module.apply(variables, XS), unroll(cell, params, XS)[1])
    first, same, other = (module.apply(variables, XS, rngs={"dropout": k}) for k in (key, key, jax.random.key(6)))
    assert_equal(first, same)
    assert not np.allclose(first, other)

    model = NnxRNN(cell, 3, rngs=nnx.Rngs(0))
    params = model.cell_params()
    assert_equal(model(XS), unroll(cell, params, XS)[1])
    noisy = cell.perturb(nnx.Rngs(dropout=key).dropout(), params, XS.shape)
    assert_equal(model(XS, rngs=nnx.Rngs(dropout=key)), unroll(cell, noisy, XS)[1])


def test_bad_arguments_are_refused():
    for make in (lambda: LinenRNN("gru").init(jax.random.key(0), XS), lambda: NnxRNN("gru", 3, rngs=nnx.Rngs(0))):
        with pytest.raises(ValueError, match=r"`cell` must be a Cell or a LinearCell, got str 'gru'"):
            make()
    with pytest.raises(ValueError, match="`input_size` must be an integer of at least 1, got int 0"):
        NnxRNN(gru(4), 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"`xs` must be \[T, ..., features\] with at least 2 axes"):
        LinenRNN(gru(4)).init(jax.random.key(0), jnp.zeros(3))
    with pytest.raises(ValueError, match="`xs` must have 3 features on its last axis"):
        NnxRNN(gru(4), 3, rngs=nnx.Rngs(0))(jnp.zeros((5, 4)))
    with pytest.raises(ValueError, match="`lengths` must lie in"):
        NnxRNN(gru(4), 3, rngs=nnx.Rngs(0))(XS, lengths=jnp.array([1, 2, 3, 9]))
