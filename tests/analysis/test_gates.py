"""Gates against a loop over steps in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import elman, gru, lstm
from rnn_jax.analysis import gate_values, memory_steps, saturation


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm_gates(params, xs: np.ndarray, h: np.ndarray, c: np.ndarray, coupled: bool) -> dict[str, list[np.ndarray]]:
    rows = {name: [] for name in ("f", "o") if coupled} | ({} if coupled else {"i": [], "f": [], "o": []})
    for x in xs:
        a = np.split(x @ params.w_x + h @ params.w_h + params.b, 3 if coupled else 4, axis=-1)
        f, g, o = sigmoid(a[-3]), np.tanh(a[-2]), sigmoid(a[-1])
        i = 1 - f if coupled else sigmoid(a[0])
        c = f * c + i * g
        h = o * np.tanh(c)
        for name, gate in zip("fo" if coupled else "ifo", (f, o) if coupled else (i, f, o), strict=True):
            rows[name].append(gate)
    return rows


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_gates_of_an_lstm(coupled: bool, reverse: bool) -> None:
    cell = lstm(3, coupled=coupled)
    params = cell.init(jax.random.key(0), 2)
    xs = jax.random.normal(jax.random.key(1), (6, 4, 2))
    carry = jax.tree.map(lambda leaf: leaf + 0.3, cell.init_carry(params, (4,)))
    got = gate_values(cell, params, xs, carry=carry, reverse=reverse)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    steps = np.asarray(xs, np.float64)[:: -1 if reverse else 1]
    expected = lstm_gates(wide, steps, np.full((4, 3), 0.3), np.full((4, 3), 0.3), coupled)
    assert set(got) == set(expected)
    for name, rows in expected.items():
        np.testing.assert_allclose(got[name], np.stack(rows)[:: -1 if reverse else 1], atol=1e-6)


def test_gates_of_a_gru() -> None:
    cell = gru(3)
    params = cell.init(jax.random.key(0), 2)
    xs = jax.random.normal(jax.random.key(1), (6, 2))
    got = gate_values(cell, params, xs)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    h, rows = np.zeros(3), []
    for x in np.asarray(xs, np.float64):
        (xr, xz, xn), (hr, hz, hn) = np.split(x @ p.w_x + p.b, 3), np.split(h @ p.w_h, 3)
        r, z = sigmoid(xr + hr), sigmoid(xz + hz)
        h = (1 - z) * np.tanh(xn + r * (hn + p.b_hn)) + z * h
        rows.append((r, z))
    for name, expected in zip("rz", zip(*rows, strict=True), strict=True):
        np.testing.assert_allclose(got[name], np.stack(expected), atol=1e-6)


def test_memory_is_that_of_a_leaking_unit() -> None:
    keep = np.array([0.9, 0.99])
    tau = np.asarray(memory_steps(jnp.broadcast_to(keep, (50, 3, 2))))
    np.testing.assert_allclose(keep**tau, np.exp(-1), rtol=1e-5)
    assert memory_steps(jnp.zeros((2, 1))).tolist() == [0.0]


def test_saturation_counts_over_all_but_the_last_axis() -> None:
    gates = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 4, 3)))
    shut, opened = saturation(gates, 0.2, 0.7)
    np.testing.assert_allclose(shut, (np.asarray(gates) < 0.2).mean((0, 1)))
    np.testing.assert_allclose(opened, (np.asarray(gates) > 0.7).mean((0, 1)))
    with pytest.raises(ValueError, match="`low` and `high` must satisfy"):
        saturation(gates, 0.9, 0.1)


@pytest.mark.parametrize(
    "cell", [elman(3), gru(3, reset="before"), lstm(3, peephole=True)], ids=["elman", "gru", "lstm"]
)
def test_other_cells_are_refused(cell) -> None:
    with pytest.raises(ValueError, match="`cell` must be lstm"):
        gate_values(cell, cell.init(jax.random.key(0), 2), jnp.zeros((2, 2)))
