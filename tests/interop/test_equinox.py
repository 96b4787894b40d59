"""equinox's cells and ours compute the same, both ways: outputs, final states, gradients."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bidirectional, elman, gru, lru, lstm, stack, unroll
from rnn_jax.interop import from_equinox, to_equinox

eqx = pytest.importorskip("equinox")

XS = np.random.default_rng(4).normal(size=(6, 4, 3)).astype(np.float32)
MODULES = {
    "lstm": lambda: eqx.nn.LSTMCell(3, 5, key=jax.random.key(1)),
    "lstm, no bias": lambda: eqx.nn.LSTMCell(3, 5, use_bias=False, key=jax.random.key(1)),
    "gru": lambda: eqx.nn.GRUCell(3, 5, key=jax.random.key(1)),
    "gru, no bias": lambda: eqx.nn.GRUCell(3, 5, use_bias=False, key=jax.random.key(1)),
}


def walk(module: Any, xs: Any) -> Any:
    """A scan over the rows of a batch, as equinox's users write it."""
    zeros = jnp.zeros((xs.shape[1], 5))

    def step(state, x):
        state = jax.vmap(module)(x, state)
        return state, state[0] if isinstance(state, tuple) else state

    return jax.lax.scan(step, (zeros, zeros) if isinstance(module, eqx.nn.LSTMCell) else zeros, xs)


def assert_equal(module: Any, cell: Any, params: Any) -> None:
    """Outputs, final state, gradient over xs."""

    def loss(run):
        def scalar(xs):
            state, ys = run(xs)
            weights = jnp.sin(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape)
            return (ys * weights).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(state)), (ys, state)

        return scalar

    us, them = loss(lambda xs: unroll(cell, params, xs)), loss(lambda xs: walk(module, xs))
    eager = us(jnp.asarray(XS))[1][0]
    found, expected = (jax.jit(jax.grad(f, has_aux=True))(jnp.asarray(XS)) for f in (us, them))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):  # both carry (h, c)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(eager, expected[1][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_equinox_become_our_cells(name: str) -> None:
    module = MODULES[name]()
    cell, params = from_equinox(module)
    assert cell is (gru(5) if "gru" in name else lstm(5))
    assert_equal(module, cell, params)


@pytest.mark.parametrize("cell", [lstm(5), gru(5)], ids=["lstm", "gru"])
def test_our_cells_become_modules_of_equinox(cell: Any) -> None:
    rng = np.random.default_rng(9)
    like = jax.eval_shape(lambda: cell.init(jax.random.key(0), 3))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype), like)
    module = to_equinox(cell, params)
    assert_equal(module, cell, params)
    jax.tree.map(np.testing.assert_array_equal, from_equinox(module).params, params)
    fresh = type(module)(3, 5, key=jax.random.key(0))
    assert jax.tree.structure(module) == jax.tree.structure(fresh)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (
            gru(4, reset="before"),
            "`cell` is a GRU that resets before the recurrent product and that of equinox after it",
        ),
        (elman(4), "`cell` must be an lstm or gru: equinox has no plain recurrent cell, got an elman"),
        (lstm(4, projection=2), "`cell` must be an lstm without a projection for equinox"),
        (lstm(4, coupled=True), "`cell` must be an lstm without coupled gates for equinox"),
        (
            stack(lstm(4), lstm(4)),
            "`cell` must be an lstm, gru or elman, got a stack of 2; convert its cells one by one",
        ),
        (bidirectional(lstm(4), lstm(4)), "`cell` must be an lstm, gru or elman, got Layer"),
        (lru(4), "`cell` must be an lstm, gru or elman, got LinearCell"),
        (lstm(4, cell_clip=20.0), "`cell` must compute what plain lstm, gru or elman"),
    ],
    ids=["reset", "elman", "projection", "coupled", "stack", "layer", "lru", "clip"],
)
def test_what_equinox_cannot_hold_is_refused_with_the_reason(cell: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        to_equinox(cell, cell.init(jax.random.key(0), 3))


def test_other_modules_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`module` must be an equinox.nn.LSTMCell or GRUCell, got Linear"):
        from_equinox(eqx.nn.Linear(3, 4, key=jax.random.key(0)))


def test_without_equinox_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ImportError, match=r'equinox is not installed: pip install "rnn_jax\[interop\]"'):
        from_equinox(None)
