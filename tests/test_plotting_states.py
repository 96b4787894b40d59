"""Texts with numbers behind them, fixed points, eigenvalues: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from rnn_jax.plotting import confusion_map, eigenvalue_plane, fixed_point_map, text_heat
from rnn_jax.plotting.style import PALETTE, PAPER


def test_every_symbol_stands_in_its_line_on_its_colour() -> None:
    ax = text_heat(["to ", "be", "\n", "or"], [0.0, 4.0, 1.0, 2.0], label="bits", width=10)
    assert [text.get_text() for text in ax.texts] == ["to ", "be", "¶", "or"]
    places = [(patch.get_x(), patch.get_y(), patch.get_width()) for patch in ax.patches]
    assert places == [(0, 0, 3), (3, 0, 2), (5, 0, 1), (0, 1, 2)]
    colours = [np.array(patch.get_facecolor()) for patch in ax.patches]
    np.testing.assert_allclose(colours[0], to_rgba(PAPER), atol=0.01)
    np.testing.assert_allclose(colours[1], to_rgba(PALETTE[0]), atol=0.01)
    wrapped = text_heat("abcdef", np.arange(6.0), label="bits", width=4)
    assert [patch.get_y() for patch in wrapped.patches] == [0, 0, 0, 0, 1, 1]


def test_numbers_of_both_signs_have_two_colours() -> None:
    ax = text_heat("abc", [-2.0, 0.0, 2.0], label="activation")
    colours = [np.array(patch.get_facecolor()) for patch in ax.patches]
    for colour, expected in zip(colours, (PALETTE[3], PAPER, PALETTE[0]), strict=True):
        np.testing.assert_allclose(colour, to_rgba(expected), atol=0.01)


def test_fixed_points_are_counted_by_kind_and_have_their_rods() -> None:
    points = np.arange(12.0).reshape(4, 3)
    figure = fixed_point_map(points, [0, 0, 1, 5], trajectories=np.zeros((2, 6, 3)), directions=[(2, [1.0, 0, 0])])
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "stable (2)",
        "1 unstable (1)",
        "3 or more (1)",
    ]
    assert len(ax.lines) == 3
    rod = np.array(ax.lines[2].get_data_3d())
    np.testing.assert_allclose(rod.T, points[2] + [[-1.0, 0, 0], [1.0, 0, 0]])


def test_eigenvalues_lie_in_the_plane_with_the_unit_circle() -> None:
    values = [0.5 + 0.5j, -1.0]
    ax = eigenvalue_plane({"a": values, "b": [[2.0], [0.1j]]})
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[0.5, 0.5], [-1, 0]])
    np.testing.assert_allclose(ax.collections[1].get_offsets(), [[2, 0], [0, 0.1]])
    assert ax.patches[0].get_radius() == 1
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("real part", "imaginary part")


def test_confusion_is_in_per_cent_of_rows() -> None:
    ax = confusion_map([[3, 1, 0], [0, 0, 0], [1, 2, 5]], ["one", "two", "three"], title="x")
    written = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in ax.texts}
    assert written == {(0, 0): "75", (0, 1): "25", (2, 0): "12", (2, 1): "25", (2, 2): "62"}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one  (33.3 %)", "two  (0.0 %)", "three  (66.7 %)"]
    with pytest.raises(ValueError, match=r"`counts` must be \[2, 2\] for as many names, got shape \(3, 3\)"):
        confusion_map(np.zeros((3, 3)), ["a", "b"])


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="`values` must be a finite number for each of 2 symbols"):
        text_heat("ab", [1.0, np.nan], label="x")
    with pytest.raises(ValueError, match=r"`points` must be \[N, 3\] and `num_unstable` \[N\]"):
        fixed_point_map(np.zeros((2, 2)), [0, 0])
