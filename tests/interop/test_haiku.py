"""Weights of haiku's cores and ours compute the same, both ways: outputs, final states, gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bidirectional, elman, gru, layer, lru, lstm, stack, unroll
from rnn_jax.initializers import normal
from rnn_jax.interop import from_haiku, to_haiku

hk = pytest.importorskip("haiku")

XS = np.random.default_rng(3).normal(size=(6, 4, 3)).astype(np.float32)
relu = {"activation": jax.nn.relu, "recurrent_init": normal(0.3)}
CORES = {
    "lstm": lambda: hk.LSTM(4),
    "gru": lambda: hk.GRU(4),
    "vanilla_rnn": lambda: hk.VanillaRNN(4),
    "one bias": lambda: hk.VanillaRNN(4, double_bias=False),
}
DEEP = stack(lstm(4), gru(5, reset="before"), lstm(2), elman(3, **relu))
PATHS = ("lstm", "gru", "lstm_1", "vanilla_rnn")


def network(core: Any) -> Any:
    """`(params, xs) -> (ys, state)` over all steps, time first."""

    def run(xs):
        made = core()
        return hk.dynamic_unroll(made, xs, made.initial_state(xs.shape[1]))

    return hk.without_apply_rng(hk.transform(run))


def randomised(tree: Any, seed: int = 7) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32), tree)


def assert_equal(net: Any, theirs: Any, cell: Any, ours: Any) -> None:
    """Outputs, final state, gradient over xs."""

    def loss(run):
        def scalar(xs):
            ys, state = run(xs)
            weights = jnp.sin(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape)
            return (ys * weights).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(state)), (ys, state)

        return scalar

    them = loss(lambda xs: net.apply(theirs, xs))
    us = loss(lambda xs: unroll(cell, ours, xs)[::-1])
    eager = us(jnp.asarray(XS))[1][0]
    found, expected = (jax.jit(jax.grad(f, has_aux=True))(jnp.asarray(XS)) for f in (us, them))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(eager, expected[1][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CORES)
def test_weights_of_haiku_become_ours(name: str) -> None:
    net = network(CORES[name])
    theirs = randomised(jax.eval_shape(net.init, jax.random.key(0), XS))
    cell, ours = from_haiku(theirs)
    assert_equal(net, theirs, cell, ours)


def test_our_stack_becomes_the_deep_rnn_of_haiku_and_comes_back() -> None:
    net = network(lambda: hk.DeepRNN([hk.LSTM(4), hk.GRU(5), hk.LSTM(2), hk.VanillaRNN(3)]))
    ours = randomised(jax.eval_shape(lambda: DEEP.init(jax.random.key(0), 3)))
    theirs = to_haiku(DEEP, ours)
    like = jax.eval_shape(net.init, jax.random.key(0), XS)
    assert jax.tree.map(jnp.shape, theirs) == jax.tree.map(jnp.shape, dict(like))
    assert_equal(net, theirs, DEEP, ours)
    again = from_haiku(theirs, *PATHS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again.params, ours)


def test_cores_inside_a_module_have_its_name_in_their_path() -> None:
    class Net(hk.Module):
        def __call__(self, xs):
            core = hk.LSTM(4)
            return hk.Linear(8)(hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0])

    net = hk.without_apply_rng(hk.transform(lambda xs: Net()(xs)))
    theirs = randomised(jax.eval_shape(net.init, jax.random.key(0), XS))
    assert set(theirs) == {"net/lstm/linear", "net/linear"}
    cell, ours = from_haiku(theirs, "net/lstm")
    head = theirs["net/linear"]
    ys = unroll(cell, ours, jnp.asarray(XS))[1] @ head["w"] + head["b"].reshape(1, 1, -1)
    np.testing.assert_allclose(ys, net.apply(theirs, jnp.asarray(XS)), rtol=1e-5, atol=1e-5)
    back = to_haiku(cell, ours, "net/lstm")
    np.testing.assert_allclose(back["net/lstm/linear"]["b"], theirs["net/lstm/linear"]["b"], atol=1e-6)
    with pytest.raises(ValueError, match="`paths` must name the cores, bottom first: `params` has net, net/lstm"):
        from_haiku(dict(sorted(theirs.items())))  # a Linear of 8 columns might be an LSTM of 2 units


def test_what_is_no_core_is_refused() -> None:
    theirs = {
        "lstm/linear": {"w": jnp.zeros((7, 16)), "b": jnp.zeros(16)},
        "gru": {"w_i": jnp.zeros((4, 15)), "w_h": jnp.zeros((5, 15)), "b": jnp.zeros(15)},
        "linear": {"w": jnp.zeros((5, 2)), "b": jnp.zeros(2)},
    }
    with pytest.raises(ValueError, match="`paths` must name the cores, bottom first: `params` has lstm, gru"):
        from_haiku(theirs)
    with pytest.raises(ValueError, match=r"`paths` must be of cores in `params` \(lstm, gru\), got 'gru_1'"):
        from_haiku(theirs, "gru_1")
    with pytest.raises(ValueError, match="`paths` must be bottom first: a core of 5 units is below one with 3 inputs"):
        from_haiku(theirs, "gru", "lstm")
    with pytest.raises(ValueError, match=r"`params` must be haiku's .module path: .name: array.., got list"):
        from_haiku([theirs])
    with pytest.raises(ValueError, match="`paths` must name the cores, bottom first: `params` has none"):
        from_haiku({"linear": {"w": jnp.zeros((3, 4)), "b": jnp.zeros(4)}})


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (gru(4), "`model` is a GRU that resets after the recurrent product and that of haiku before it"),
        (elman(4), "`model` must have activation=jax.nn.relu, as hk.VanillaRNN has, got tanh"),
        (lstm(4, peephole=True), "`model` must be an lstm without peepholes for haiku"),
        (stack(lstm(4), lstm(4, layer_norm=True)), "`model` must be an lstm without layer norm for haiku"),
        (bidirectional(lstm(4), lstm(4)), "`model` must walk forwards"),
        (layer(lstm(4), reverse=True), "`model` must walk forwards"),
        (lru(4), "`model` must be a Cell or a Layer"),
    ],
    ids=["reset", "tanh", "peephole", "layer norm", "both", "reverse", "lru"],
)
def test_what_haiku_cannot_hold_is_refused_with_the_reason(model: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        to_haiku(model, model.init(jax.random.key(0), 3))


def test_there_is_a_path_for_every_core() -> None:
    cell = lstm(4)
    with pytest.raises(ValueError, match="`paths` must name 1 cores, got 2: a, b"):
        to_haiku(cell, cell.init(jax.random.key(0), 3), "a", "b")
