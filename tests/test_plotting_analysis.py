"""Pictures of measurements show the numbers they were given."""

import numpy as np
import pytest

from rnn_jax.plotting import bifurcation_diagram, gradient_map, named_curves, saturation_map, save, sweep_map


def test_every_curve_is_there_under_its_name(tmp_path) -> None:
    rows = np.array([[1.0, 0.1, np.inf], [2.0, np.nan, 0.02]])
    many = {f"network {i}": ([1, 2, 3], np.ones(3) / (i + 1)) for i in range(7)}
    ax = named_curves({"lstm": ([0, 1, 2], rows), **many}, log=True, lines={"chance": 0.5}, ylabel="size")
    first, second = ax.get_lines()[:2]
    np.testing.assert_array_equal(first.get_ydata(), [1.0, 0.1, np.nan])
    np.testing.assert_array_equal(second.get_ydata(), [2.0, np.nan, 0.02])
    assert first.get_color() == second.get_color()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["lstm", *many]
    looks = {(line.get_color(), str(line.get_linestyle())) for line in ax.get_lines()[1:9]}
    assert len(looks) == 8
    assert [text.get_text() for text in ax.texts] == ["chance"]
    assert save(ax.figure, tmp_path / "curves.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"`curves\['gru'\]` must be xs \[K\] and ys .* got shapes \(2,\) and \(3,\)"):
        named_curves({"gru": ([0, 1], [1, 2, 3])})


def test_a_map_of_gradients_has_geometric_means_of_rows(tmp_path) -> None:
    rows = np.array([[1.0, 4.0], [0.0, 3.0], [1e-9, 1e-5]])
    ax = gradient_map({"0.h": rows, "1": [2.0, np.inf, 8.0]}, decades=3, title="gradients")
    shown = ax.images[0].get_array()
    np.testing.assert_allclose(shown.filled(-1), [[2.0, -1, 1e-7], [2.0, -1, 8.0]], rtol=1e-12)
    assert ax.images[0].get_clim() == pytest.approx((8e-3, 8.0))
    assert [text.get_text() for text in ax.get_yticklabels()] == ["0.h", "1"]
    bar = ax.figure.axes[1]
    assert (bar.get_ylabel(), bar.get_yscale(), ax.get_xlabel()) == ("|dL/dh_t|", "log", "t, step")
    assert save(ax.figure, tmp_path / "map.png").stat().st_size > 5_000
    save(gradient_map({"0": [0.0, 0.0]}).figure, tmp_path / "nothing.png")
    for wrong in ({}, {"0": [1.0, 2.0], "1": [1.0]}, {"0": 1.0}):
        with pytest.raises(ValueError, match=r"`norms` must be \[T\] or \[T, B\] for each of one or more layers"):
            gradient_map(wrong)


def test_each_unit_is_a_dot_of_its_gate(tmp_path) -> None:
    ax = saturation_map({"i": ([0.1, 0.2], [0.3, 0.4]), "f": ([0.0, 0.0], [1.0, 0.9])})
    np.testing.assert_array_equal(ax.collections[1].get_offsets(), [[0.0, 1.0], [0.0, 0.9]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["i", "f"]
    assert save(ax.figure, tmp_path / "map.png").stat().st_size > 10_000


def test_a_branch_is_dashed_where_it_is_unstable(tmp_path) -> None:
    branch = ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [0, 0, 2, 1, 0])
    ax = bifurcation_diagram([branch], bifurcations=[("fold", 1.5, 6.5), ("flip", 3.5, 8.5), ("fold", 0.0, 5.0)])
    lines = ax.get_lines()
    parts = [line.get_xdata().tolist() for line in lines[:3]]
    assert parts == [[0, 1, 2], [2, 3, 4], [4]]
    assert [line.get_linestyle() for line in lines[:3]] == ["-", "--", "-"]
    assert [(line.get_label(), line.get_xdata().tolist()) for line in lines[3:]] == [
        ("flip", [3.5]),
        ("fold", [1.5, 0.0]),
    ]
    assert save(ax.figure, tmp_path / "branch.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"`branches\[0\]` must be three arrays of one length"):
        bifurcation_diagram([([0, 1], [0, 1], [0])])


def test_sweeps_have_their_values_at_their_settings(tmp_path) -> None:
    table = np.array([[1.0, 10.0, np.inf], [0.1, np.nan, 100.0]])
    ax = sweep_map(table, ("gain", [0.5, 2]), ("bias", [0, 1, 3]), label="size", log=True)
    np.testing.assert_array_equal(ax.images[0].get_array().filled(-1), [[1.0, 10.0, -1], [0.1, -1, 100.0]])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1", "3"]
    assert ax.figure.axes[1].get_ylabel() == "size"
    save(ax.figure, tmp_path / "sweep.png")
    blank = sweep_map([[np.nan]], ("gain", [1]), ("bias", [0]), label="size", log=True)
    save(blank.figure, tmp_path / "nothing.png")
    with pytest.raises(ValueError, match=r"`values` must be \[1, 2\] for these settings, got shape \(1, 1\)"):
        sweep_map([[1.0]], ("gain", [1]), ("bias", [0, 1]), label="size")
