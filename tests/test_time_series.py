"""Dynamic time warping against a loop over cells, and the forecasts against a loop over months."""

import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments._dtw import dtw_distances, nearest_accuracy
from experiments.time_series import Config, find_sets, forecasts, later_growth, load_months, prepare
from rnn_jax.data.ts_files import LabelledSeries


def warped(query: np.ndarray, reference: np.ndarray) -> float:
    """The definition, one cell after another."""
    best: dict[tuple[int, int], float] = {}
    for i in range(len(query)):
        for j in range(len(reference)):
            before = [best[cell] for cell in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if cell in best]
            cost = sum((float(a) - float(b)) ** 2 for a, b in zip(query[i], reference[j], strict=True))
            best[i, j] = cost + min(before, default=0.0)
    return best[len(query) - 1, len(reference) - 1]


def test_warping_is_that_of_a_loop_over_cells() -> None:
    rng = np.random.default_rng(0)
    queries = [rng.normal(size=(length, 2)) for length in (5, 1, 7)]
    references = [rng.normal(size=(length, 2)) for length in (3, 6, 1, 4)]
    found = dtw_distances(queries, references)
    expected = [[warped(query, reference) for reference in references] for query in queries]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(dtw_distances(queries, queries).diagonal(), 0, atol=1e-12)
    with pytest.raises(ValueError, match="`references` must have 2 dimensions as `queries`, got 3"):
        dtw_distances(queries, [np.zeros((4, 3))])


def test_the_nearest_series_gives_the_label() -> None:
    slow, fast = np.repeat([[0.0], [1.0], [0.0]], 4, 0), np.array([[0.0], [1.0], [0.0]])
    train = LabelledSeries((fast, -fast), np.array([0, 1]), ("up", "down"))
    test = LabelledSeries((slow, -slow, -slow), np.array([0, 1, 0]), ("up", "down"))
    assert nearest_accuracy(train, test) == pytest.approx(2 / 3)
    scaled, _ = prepare(train, test)
    assert np.concatenate(scaled.series).mean() == pytest.approx(0)
    assert np.concatenate(scaled.series).std() == pytest.approx(1)


def test_forecasts_are_those_of_a_loop_over_months() -> None:
    months = load_months(valid_from=108)
    values = months.values
    assert (len(values), values[0], values[-1]) == (144, 112, 432)
    growth = np.random.default_rng(0).normal(size=(132, 12)) / 10
    found = forecasts(months, growth, test_from=120)
    for number, origin in enumerate(range(119, 132)):
        for ahead in range(12):
            month = origin + 1 + ahead
            last = values[month - 12]
            grown = math.log(values[origin] / values[origin - 12])
            assert found["truth"][number, ahead] == values[month]
            assert found["last month"][number, ahead] == values[origin]
            assert found["year before"][number, ahead] == last
            assert found["year before, with the last growth"][number, ahead] == pytest.approx(last * math.exp(grown))
            assert found["network"][number, ahead] == pytest.approx(last * math.exp(growth[origin - 12, ahead]))
    assert len(found["truth"]) == 13


def test_what_is_to_be_foreseen_is_the_growth_of_the_next_twelve_months() -> None:
    inputs = jnp.arange(20.0)[:, None] * jnp.ones((1, 3))
    np.testing.assert_array_equal(later_growth(inputs), [[t + 1 + ahead for ahead in range(12)] for t in range(8)])


def test_the_growth_that_is_read_is_scaled_by_the_training_months_alone() -> None:
    months = load_months(valid_from=108)
    read = months.inputs[:96, 0]
    assert read.mean() == pytest.approx(0, abs=1e-5)
    assert read.std() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(months.inputs[:, 0] * months.scale + months.mean, months.growth, atol=1e-6)
    assert months.growth[0] == pytest.approx(math.log(115 / 112))


def test_sets_of_the_user_are_found_and_those_that_are_nowhere_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(name: str) -> None:
        raise FileNotFoundError(name)

    monkeypatch.setattr("experiments.time_series.load_time_series", nowhere)
    for part in ("TRAIN", "TEST"):
        (tmp_path / f"Own_{part}.ts").write_text("@classLabel true a b\n@data\n1,2:a\n3:b\n")
    sets, notes = find_sets(Config(sets=("GunPoint",), folder=tmp_path))
    assert list(sets) == ["Own"]
    assert [len(part.labels) for part in sets["Own"]] == [2, 2]
    (note,) = notes
    assert note.startswith("GunPoint was left out")
    assert "pip install --no-deps aeon==1.6.0" in note
