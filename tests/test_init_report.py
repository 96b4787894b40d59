"""Initialisation reports against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import elman, gru, init_report, irnn, lru, lstm, orthogonal_rnn, s_lstm, stack, with_dropout
from rnn_jax.initializers import chrono, identity, unit_forget_bias


def test_a_linear_network_has_the_eigenvalues_of_its_kernel() -> None:
    cell = elman(3, activation=lambda u: u)
    w = jnp.array([[0.5, 0.3, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, -0.2]])
    report = init_report(cell, cell.init(jax.random.key(0), 2)._replace(w_h=w))
    assert report.radius == pytest.approx(0.9, rel=1e-5)
    assert report.memory == pytest.approx([-1 / np.log(a) for a in (0.2, 0.5, 0.9)], rel=1e-5)
    assert report.gates[0].radius == pytest.approx(0.9, rel=1e-5)
    assert report.gates[0].norm == pytest.approx(np.linalg.norm(np.asarray(w), 2), rel=1e-5)


def test_orthogonal_gates_have_radius_one_each() -> None:
    cell = gru(16)
    report = init_report(cell, cell.init(jax.random.key(1), 4))
    assert [gate.name for gate in report.gates] == ["r", "z", "n"]
    assert all(gate.radius == pytest.approx(1, abs=1e-5) for gate in report.gates)


def test_an_lru_reports_the_radii_of_its_eigenvalues() -> None:
    cell = lru(8, r_min=0.5, r_max=0.99)
    params = cell.init(jax.random.key(2), 3)
    radii = np.exp(-np.exp(np.asarray(params.nu_log, np.float64)))
    report = init_report(cell, params)
    assert report.gates == ()
    assert report.radius == pytest.approx(radii.max(), rel=1e-5)
    assert report.memory[2] == pytest.approx(-1 / np.log(radii.max()), rel=1e-3)


def test_nothing_fades_in_an_orthogonal_network() -> None:
    cell = orthogonal_rnn(6)
    report = init_report(cell, cell.init(jax.random.key(0), 3))
    assert report.radius == pytest.approx(1, abs=1e-5)
    assert report.memory[0] > 1e4


def test_identity_start_and_its_scale_are_seen() -> None:
    for scale in (1.0, 0.5):
        cell = irnn(6, scale=scale)
        report = init_report(cell, cell.init(jax.random.key(0), 3))
        assert report.radius == pytest.approx(scale, abs=1e-5)


def test_chrono_remembers_longer_than_a_unit_forget_bias() -> None:
    def longest(bias_init) -> float:
        cell = lstm(32, bias_init=bias_init, recurrent_init=identity(0.0))
        return init_report(cell, cell.init(jax.random.key(0), 3)).memory[1]

    assert 3 * longest(unit_forget_bias) < longest(chrono(200.0)) < 400


def test_heads_projections_coupled_gates_and_wrapped_cells_are_named() -> None:
    def gates(cell) -> list[str]:
        return [gate.name for gate in init_report(cell, cell.init(jax.random.key(0), 3)).gates]

    assert gates(s_lstm(8, num_heads=2)) == ["i", "f", "g", "o"]
    assert gates(lstm(8, coupled=True)) == ["f", "g", "o"]
    assert gates(lstm(8, projection=4)) == ["i", "f", "g", "o"]
    assert gates(with_dropout(lstm(8), weights=0.5)) == ["i", "f", "g", "o"]
    assert gates(stack(gru(4), lru(4))) == []


def test_it_prints_as_a_table() -> None:
    cell = gru(4)
    lines = str(init_report(cell, cell.init(jax.random.key(0), 3))).splitlines()
    assert lines[0].split() == ["gate", "radius", "norm", "bias"]
    assert [line.split()[0] for line in lines[1:4]] == ["r", "z", "n"]
    assert lines[4].startswith("one step: spectral radius ")


def test_inputs_of_another_rank_are_refused_and_unknown_sizes_asked_for() -> None:
    cell = gru(4)
    params = cell.init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"`xs` must be \[T, I\] with T at least 1, got shape \(5, 2, 3\)"):
        init_report(cell, params, xs=jnp.zeros((5, 2, 3)))
    with pytest.raises(ValueError, match="`xs` must be given"):
        init_report(cell, {"w": jnp.zeros(3)})
