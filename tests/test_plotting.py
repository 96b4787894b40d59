"""Pictures of arrays, checked by what was drawn."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rnn_jax.plotting import (
    PALETTE,
    attention_map,
    exposure_curves,
    learning_curves,
    new_axes,
    piano_roll,
    save,
)

PITCHES = np.array([[72, 67, 60, 48]] * 4 + [[74, 67, 0, 50]] * 2 + [[74, 65, 59, 50]] * 2)
HISTORY = [{"step": s, "seconds": s / 9, "train/nll": 8 + 40 / s} for s in range(10, 101, 10)]
HISTORY += [{"step": s, "valid/nll": 8.5 + 30 / s} for s in (50, 100)]


def drawn_notes(ax):
    return sorted(
        (patch.get_x(), patch.get_width(), round(patch.get_y() + patch.get_height() / 2))
        for patch in ax.patches
        if patch.get_gid() == "note"
    )


def test_held_notes_become_one_bar_and_silence_none():
    expected = [(0, 4, 48), (0, 4, 60), (0, 4, 72), (0, 6, 67)]
    expected += [(4, 4, 50), (4, 4, 74), (6, 2, 59), (6, 2, 65)]
    assert drawn_notes(piano_roll(PITCHES)) == expected


def test_a_roll_draws_the_same_notes_as_pitches():
    roll = np.zeros((len(PITCHES), 88), bool)
    for step, pitches in enumerate(PITCHES):
        roll[step, pitches[pitches > 0] - 21] = True
    assert drawn_notes(piano_roll(roll)) == drawn_notes(piano_roll(PITCHES))


def test_each_voice_has_its_colour_and_its_name():
    ax = piano_roll(PITCHES)
    colours = {patch.get_facecolor() for patch in ax.patches if patch.get_gid() == "note"}
    assert len(colours) == 4
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["soprano", "alto", "tenor", "bass"]
    pair = piano_roll(PITCHES[:, :2])
    assert [text.get_text() for text in pair.get_legend().get_texts()] == ["voice 1", "voice 2"]


def test_bars_are_numbered_and_notes_named():
    ax = piano_roll(np.tile(PITCHES, (3, 1)), steps_per_beat=2, beats_per_bar=3)
    assert list(ax.get_xticks()) == [0, 6, 12, 18]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "3", "4"]
    names = dict(zip(ax.get_yticks(), (t.get_text() for t in ax.get_yticklabels()), strict=True))
    assert names[60] == "C4"
    assert names[67] == "G4"


def test_the_given_opening_is_marked():
    texts = [text.get_text() for text in piano_roll(PITCHES, prefix_steps=4).texts]
    assert texts == ["given"]
    assert not piano_roll(PITCHES).texts


def test_silence_alone_can_be_drawn():
    assert drawn_notes(piano_roll(np.zeros((8, 4), int))) == []


@pytest.mark.parametrize(
    ("notes", "options", "message"),
    [
        (PITCHES[0], {}, r"`notes` must be pitches \[T, V\] or a roll \[T, 88\], got \(4,\)"),
        (PITCHES[:0], {}, r"got \(0, 4\)"),
        (PITCHES.astype(float), {}, "must be integers, got float64"),
        (PITCHES + 100, {}, "must be MIDI numbers up to 127, got 174"),
        (np.full((3, 88), 2), {}, "must hold zeros and ones only"),
        (PITCHES, {"prefix_steps": 9}, r"`prefix_steps` must be in \[0, T=8\], got 9"),
        (PITCHES, {"steps_per_beat": 0}, "`steps_per_beat` must be at least 1, got 0"),
        (PITCHES, {"beats_per_bar": 0}, "`beats_per_bar` must be at least 1, got 0"),
    ],
)
def test_notes_that_cannot_be_drawn_are_refused(notes, options, message):
    with pytest.raises(ValueError, match=message):
        piano_roll(notes, **options)


def test_learning_curves_show_both_curves_and_the_baselines():
    baselines = {"paper": 8.54, "close": 8.55}
    ax = learning_curves(HISTORY, "nll", baselines=baselines)
    training, validation, *dashed = ax.get_lines()
    np.testing.assert_allclose(training.get_ydata(), [8 + 40 / s for s in range(10, 101, 10)])
    np.testing.assert_array_equal(validation.get_xdata(), [50, 100])
    assert [line.get_ydata()[0] for line in dashed] == [8.54, 8.55]
    assert [text.get_text() for text in ax.texts] == ["paper: 8.54", "close: 8.55"]
    heights = [text.xy[1] for text in ax.texts]
    low, high = ax.get_ylim()
    assert heights[1] - heights[0] > 0.05 * (high - low)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "validation"]


def test_the_first_steps_do_not_flatten_the_rest():
    history = [{"step": s, "train/nll": 9.0 if s > 5 else 500.0} for s in range(1, 101)]
    assert learning_curves(history, "nll").get_ylim()[1] < 10


def test_a_metric_nobody_logged_is_refused():
    with pytest.raises(ValueError, match="`history` must hold train/accuracy or valid/accuracy"):
        learning_curves(HISTORY, "accuracy")


def test_given_axes_are_used_and_returned():
    ax = new_axes((5.0, 3.0))
    assert learning_curves(HISTORY, "nll", ax=ax) is ax
    other = new_axes()
    assert piano_roll(PITCHES, ax=other) is other


def test_saving_makes_directories_and_a_picture(tmp_path):
    path = save(piano_roll(PITCHES, title="A title").figure, tmp_path / "new" / "roll.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_colours_stand_out_from_paper():
    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    contrasts = [1.05 / (luminance(colour) + 0.05) for colour in PALETTE]
    assert min(contrasts) > 2.5


def test_nothing_imports_pyplot():
    code = "import sys, rnn_jax.plotting; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_an_attention_map_shows_each_weight_at_its_tokens() -> None:
    weights = np.array([[0.7, 0.2, 0.1], [0.0, 0.4, 0.6]])
    ax = attention_map(weights, ["der", "Hund", "bellt"], ["a", "dog"], title="read")
    np.testing.assert_array_equal(ax.images[0].get_array(), weights)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["der", "Hund", "bellt"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "dog"]
    with pytest.raises(ValueError, match=r"`weights` must be \[T, S\] = \(2, 3\), got shape \(3, 2\)"):
        attention_map(weights.T, ["der", "Hund", "bellt"], ["a", "dog"])


def test_exposure_curves_leave_out_positions_that_few_reach() -> None:
    by_position = np.array([[1.0, 0.5, 0.2], [1.0, 2.0, 9.0]])
    ax = exposure_curves([1.0, 0.0], by_position, counts=[9, 5, 1], least=2, ylabel="nats")
    assert [line.get_label() for line in ax.get_lines()] == ["forcing 1", "forcing 0"]
    np.testing.assert_array_equal(ax.get_lines()[1].get_xydata(), [[1, 1.0], [2, 2.0]])
    with pytest.raises(ValueError, match=r"`by_position` must be \[R=2, T\], got shape \(3, 2\)"):
        exposure_curves([1.0, 0.0], by_position.T)
