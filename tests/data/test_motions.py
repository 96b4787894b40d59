import numpy as np
import pytest

from rnn_jax.data.motions import KEY_POINTS, load_libras, load_skeletons, stratified_folds


def test_libras_has_24_of_each_class_and_30_copies():
    motions = load_libras()
    assert motions.points.shape == (360, 45, 1, 2)
    assert np.bincount(motions.labels).tolist() == [24] * 15
    assert len(motions.names) == 15
    assert motions.points.min() == 0
    assert motions.points.max() == 1
    np.testing.assert_allclose(motions.points[0, :2, 0], [[0.79691, 0.38194], [0.79691, 0.37731]], atol=6e-6)
    assert len(np.unique(motions.groups)) == 330
    first, second = np.flatnonzero(motions.groups == np.bincount(motions.groups).argmax())[:2]
    assert (motions.points[first] == motions.points[second]).all()


def test_libras_straight_lines_are_what_their_names_say():
    motions = load_libras()
    for name, axis in [("horizontal straight line", 0), ("vertical straight line", 1)]:
        spread = motions.points[motions.labels == motions.names.index(name)][:, :, 0].std(1).mean(0)
        assert spread[axis] > 3 * spread[1 - axis]


def test_skeletons_stand_upright():
    try:
        motions = load_skeletons()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    assert motions.points.shape == (272, 92, 25, 2)
    assert np.bincount(motions.labels).tolist() == [46, 45, 45, 44, 46, 46]
    height = dict(zip(KEY_POINTS, motions.points[..., 1].mean((0, 1)).tolist(), strict=True))
    assert height["nose"] < height["neck"] < height["mid hip"] < height["left knee"] < height["right ankle"]
    travel = motions.points[:, :, 1, 0].std(1)
    assert travel[motions.labels == motions.names.index("ignore")].mean() > 2 * travel.mean()  # they pass by


def test_folds_are_even_in_each_class_and_keep_copies_together():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [20, 31, 12])
    groups = np.arange(63)
    groups[[3, 4, 5]] = 3
    groups[[30, 40]] = 30
    order = rng.permutation(63)
    labels, groups = labels[order], groups[order]
    folds = stratified_folds(labels, 4, seed=1, groups=groups)
    for label in range(3):
        counts = np.bincount(folds[labels == label], minlength=4)
        assert counts.max() - counts.min() <= 2
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 3
    assert all(len(set(folds[groups == group])) == 1 for group in groups)
    assert (stratified_folds(labels, 4, seed=1, groups=groups) == folds).all()
    assert (stratified_folds(labels, 4, seed=2, groups=groups) != folds).any()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([0, 0], 1), "`num_folds` must be at least 2, got 1"),
        (([0, 0, 1], 2), "`labels` must have 2 groups or more of each class, got 1 of 1"),
        (([0, 0, 0], 2, 0, [1, 1, 1]), "2 groups or more of each class, got 1 of 0"),
        (([0, 0, 1, 1], 2, 0, [1, 2, 1, 3]), "`groups` must have one class each, got two in group 1"),
        (([0, 0, 1], 2, 0, [1, 2]), r"must be \[N\], got shapes \(3,\) and \(2,\)"),
    ],
)
def test_folds_that_cannot_be_are_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        stratified_folds(*arguments)
