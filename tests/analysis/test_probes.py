"""Components, probes and correlations against numpy's own and plain loops."""

import numpy as np
import pytest

from rnn_jax.analysis import flow_field, linear_probe, principal_components, unit_features

RNG = np.random.default_rng(0)


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    states = RNG.normal(size=(6, 5, 4)) * np.array([3.0, 2.0, 1.0, 0.5]) + 1
    found = principal_components(states, 2)
    flat = states.reshape(-1, 4) - states.reshape(-1, 4).mean(0)
    _, values, axes = np.linalg.svd(flat, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.axes), np.abs(axes[:2]), atol=1e-10)
    np.testing.assert_allclose(found.explained, (values**2 / (values**2).sum())[:2], rtol=1e-10)
    coordinates = found.project(states)
    np.testing.assert_allclose(coordinates, (states - found.mean) @ found.axes.T)
    np.testing.assert_allclose(found.project(found.lift(coordinates)), coordinates, atol=1e-10)
    still = principal_components(np.ones((5, 3)), 2)
    assert (still.explained == 0).all()


def test_probes_read_what_is_there_when_it_is_there() -> None:
    labels = RNG.integers(0, 3, 150)
    numbers = RNG.normal(size=150)
    states = RNG.normal(size=(4, 150, 6))
    states[1] += 3 * np.eye(6)[labels]
    states[2, :, 3] = 0.5 * numbers
    classes = linear_probe(states, labels)
    assert classes.score[1] > 0.85
    assert (classes.score[[0, 3]] < classes.chance + 0.15).all()
    assert classes.chance == pytest.approx(np.bincount(labels).max() / 150)
    values = linear_probe(states, numbers)
    assert values.score[2] > 0.98
    assert (values.score[[0, 3]] < 0.1).all()
    moving = np.stack([labels, labels, labels, np.roll(labels, 1)])
    assert linear_probe(states, moving).score.shape == (4,)
    alone = linear_probe(states[1], labels)
    assert alone.score == pytest.approx(classes.score[1])


def test_a_probe_is_ridge_regression_on_the_other_folds() -> None:
    x, y = RNG.normal(size=(20, 3)), RNG.normal(size=20)
    got = linear_probe(x, y, num_folds=4, ridge=0.1, seed=3)
    folds = np.array_split(np.random.default_rng(3).permutation(20), 4)
    scores = []
    for fold in folds:
        rest = [row for row in range(20) if row not in fold]
        mean_x, mean_y = x[rest].mean(0), y[rest].mean()
        gram = sum(np.outer(x[row] - mean_x, x[row] - mean_x) for row in rest)
        w = np.linalg.inv(gram + 0.1 * np.trace(gram) / 3 * np.eye(3)) @ sum(
            (x[row] - mean_x) * (y[row] - mean_y) for row in rest
        )
        wrong = sum(((x[row] - mean_x) @ w + mean_y - y[row]) ** 2 for row in fold)
        scores.append(1 - wrong / sum((y[row] - y[fold].mean()) ** 2 for row in fold))
    assert got.score == pytest.approx(np.mean(scores))
    assert got.spread == pytest.approx(np.std(scores))


def test_correlations_are_numpys() -> None:
    states, features = RNG.normal(size=(50, 3)), RNG.normal(size=(50, 2))
    expected = [[np.corrcoef(states[:, h], features[:, f])[0, 1] for f in range(2)] for h in range(3)]
    np.testing.assert_allclose(unit_features(states, features), expected, atol=1e-12)


def test_a_flow_field_is_the_map_in_the_plane() -> None:
    w = np.array([[0.5, 0.2, 0.0], [-0.2, 0.5, 0.0], [0.0, 0.0, 0.1]])
    states = RNG.normal(size=(100, 3)) * np.array([3, 2, 0.1])
    plane = principal_components(states, 3)
    field = flow_field(lambda h: h @ w.T, plane, [-1, -1], [1, 1], 5)
    for i, j in np.ndindex(5, 5):
        h = plane.mean + field.places[i, j] @ plane.axes[:2]
        np.testing.assert_allclose(field.moves[i, j], (w @ h - plane.mean) @ plane.axes[:2].T - field.places[i, j])


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"`labels` must be \[B\] or \[T, B\]"):
        linear_probe(np.ones((2, 5, 3)), np.ones(4))
    with pytest.raises(ValueError, match=r"`num_folds` must be in \[2, 5\]"):
        linear_probe(np.ones((2, 5, 3)), np.ones(5), num_folds=6)
    with pytest.raises(ValueError, match="`states` must be finite"):
        principal_components(np.full((3, 2), np.nan), 1)
    with pytest.raises(ValueError, match=r"`features` must be \[N, F\]"):
        unit_features(np.ones((3, 2)), np.ones((4, 1)))
    with pytest.raises(ValueError, match="`components` must have two axes, got 1"):
        flow_field(lambda h: h, principal_components(RNG.normal(size=(9, 3)), 1), [0, 0], [1, 1])
