"""Pictures of dynamical systems show the numbers they were given, in the box of the data."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from rnn_jax.plotting import save
from rnn_jax.plotting.dynamics import attractors, seed_curves

STEPS = np.linspace(0, 20, 200)
SPIRAL = np.stack([np.sin(STEPS), np.cos(STEPS), STEPS], axis=1)


def test_attractors_share_the_box_of_the_first_and_leave_out_what_escapes(tmp_path):
    escaped = np.where(STEPS[:, None] < 10, SPIRAL, 40.0)
    escaped[3] = np.nan
    figure = attractors({"data": SPIRAL, "free run": escaped, "nothing": np.full((5, 3), np.nan)}, num_steps=150)
    assert [ax.get_title() for ax in figure.axes] == ["data", "free run", "nothing"]
    assert len({(ax.get_xlim(), ax.get_ylim(), ax.get_zlim()) for ax in figure.axes}) == 1
    first, second, third = (np.array(ax.get_lines()[0].get_data_3d()).T for ax in figure.axes)
    np.testing.assert_array_equal(first, SPIRAL[:150])
    shown = np.isfinite(second).all(1)
    np.testing.assert_array_equal(np.flatnonzero(~shown), [3, *np.flatnonzero(STEPS[:150] >= 10)])
    np.testing.assert_array_equal(second[shown], SPIRAL[:150][shown])
    assert len(third) == 5
    assert save(figure, tmp_path / "a.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"`trajectories\['flat'\]` must be \[T, 3\], got shape \(200, 2\)"):
        attractors({"flat": SPIRAL[:, :2]})


def test_curves_go_through_medians_with_a_dot_for_each_seed(tmp_path):
    rows = np.array([[9.0, 1.0, np.inf], [7.0, 4.0, np.nan], [8.0, 2.0, 30.0]])
    axes = Figure(figsize=(8, 3)).subplots(1, 2)
    lines, marks = {"floor": 0.5}, {"theory": 3.0}
    series = {"a": rows, "b": [[np.nan, 5.0, 6.0]]}
    ax = seed_curves([0, 0.5, 1], series, ax=axes[0], x_linear_below=0.1, lines=lines, marks=marks, ylabel="D")
    median_a, dots_a, median_b, *_ = ax.get_lines()
    np.testing.assert_array_equal(median_a.get_xydata(), [[0, 8], [0.5, 2], [1, 30]])
    np.testing.assert_array_equal(median_b.get_xydata(), [[0.5, 5], [1, 6]])
    np.testing.assert_array_equal(dots_a.get_xdata(), [0, 0.5, 1] * 3)
    np.testing.assert_array_equal(dots_a.get_ydata()[[0, 4, 8]], [9, 4, 30])
    assert np.isnan(dots_a.get_ydata()[[2, 5]]).all()
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_ylabel()) == ("symlog", "log", "D")
    assert [text.get_text() for text in ax.texts] == ["floor"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.5", "1"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b", "theory"]
    assert seed_curves([1, 2, 3], {"a": rows}, ax=axes[1]).get_xscale() == "log"
    assert axes[1].get_legend() is None
    assert save(axes[0].figure, tmp_path / "b.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"`series\['a'\]` must be \[R, 2\], got shape \(3, 3\)"):
        seed_curves([1, 2], {"a": rows})
