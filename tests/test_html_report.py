"""The page that compares runs: its numbers, what it says of damaged runs, and that nothing gets out of its place."""

import base64
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from rnn_jax.plotting import new_axes, save
from rnn_jax.report import (
    Curve,
    RunGroup,
    RunRecord,
    group_runs,
    mean_curve,
    read_run,
    summarize,
    summary_text,
    write_comparison,
)
from rnn_jax.report.curves import draw_series, group_style, series_names

ENVIRONMENT = {"start_time": "2026-01-02T03:04:05+00:00", "backend": "cpu", "versions": {"jax": "0.10"}, "commit": "a1"}


def make_run(root, name, config, *, metrics=None, rows=(), environment=ENVIRONMENT, tail="", claims=(), smoke=False):
    """A run directory; unfinished without metrics."""
    run_dir = Path(root) / "toy" / name
    run_dir.mkdir(parents=True)
    (run_dir / "config.json").write_text(json.dumps(config))
    (run_dir / "environment.json").write_text(json.dumps(environment))
    if rows is not None:
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    if metrics is not None:
        result = {"experiment": "toy", "smoke": smoke, "metrics": metrics, "claims": list(claims), "seconds": 7.2}
        (run_dir / "result.json").write_text(json.dumps(result))
    return run_dir


class Page(HTMLParser):
    """What a browser sees: rows of cells for each heading, addresses, tags, exact numbers."""

    def __init__(self, path):
        super().__init__()
        self.tables, self.addresses, self.tags, self.numbers, self.alts = {}, [], [], [], []
        self.heading, self.inside, self.text = "", None, ""
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        self.alts += [attributes["alt"]] if "alt" in attributes else []
        if tag == "data":
            self.numbers.append((attributes["value"], attributes.get("data-sd")))
        if tag == "tr":
            self.tables.setdefault(self.heading, []).append([])
        if tag in ("th", "td", "h2"):
            self.inside, self.text = tag, ""
        if tag in ("br", "li"):
            self.text += " "

    def handle_endtag(self, tag):
        if tag == self.inside and tag in ("th", "td"):
            self.tables[self.heading][-1].append(" ".join(self.text.split()))
        elif tag == self.inside == "h2":
            self.heading = self.text

    def handle_data(self, data):
        self.text += data


def write(runs, tmp_path, name="page.html"):
    return Page(write_comparison(runs, tmp_path / name))


def test_the_table_holds_the_exact_mean_and_sample_deviation_of_numpy(tmp_path):
    generator = np.random.default_rng(0)
    values = {cell: generator.normal(8.5, 0.1, 3).tolist() for cell in ("gru", "lstm")}
    runs = [
        make_run(tmp_path, f"{cell}{seed}", {"cell": cell, "seed": seed}, metrics={"nll": nll, "parameters": 128732})
        for cell, column in values.items()
        for seed, nll in enumerate(column)
    ]
    page = write(runs, tmp_path)
    expected = [(float(np.mean(column)), float(np.std(column, ddof=1))) for column in values.values()]
    found = [(float(mean), float(sd)) for mean, sd in page.numbers]
    assert found == [*expected, (128732.0, 0.0), (128732.0, 0.0)]
    texts = [f"{mean:.3f} ± {sd:.3f}" if sd < 0.1 else f"{mean:.2f} ± {sd:.2f}" for mean, sd in expected]
    rows = page.tables["Final metrics"]
    assert rows[:3] == [["metric", "A", "B"], ["nll", *texts], ["parameters", "128732", "128732"]]
    assert rows[3] == ["metric", "A1", "A2", "A3", "B1", "B2", "B3"]
    assert rows[4] == ["nll", *(f"{value:.5g}" for column in values.values() for value in column)]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([8.5, 8.6], "8.550 ± 0.071"),
        ([900, 950, 1000], "950 ± 50"),
        ([1234.0, 1534.0], "1384 ± 212"),
        ([0.25], "0.25"),
        ([3], "3"),
        ([2.0, 2.0], "2"),
        ([1e-12, 3e-12], "2e-12 ± 1.4e-12"),
        ([1e20, 3e20], "2e+20 ± 1.4e+20"),
        ([math.nan, 1.0], "nan ± nan"),
        ([math.inf, 1.0], "inf ± nan"),
    ],
)
def test_means_are_written_with_two_digits_of_their_spread(values, text):
    assert summary_text(summarize(values)) == text


def test_nothing_cannot_be_summarized():
    with pytest.raises(ValueError, match="`values` must hold at least one number, got none"):
        summarize([])
    with pytest.raises(ValueError, match="`runs` must hold at least one curve, got none"):
        mean_curve([])


def curve_rows(values, every=10, name="train/nll"):
    return [{"step": every * n, "seconds": 0.5 * n, name: value} for n, value in enumerate(values, start=1)]


def test_the_mean_curve_and_its_band_are_those_of_numpy(tmp_path):
    values = np.random.default_rng(1).normal(9, 1, (3, 20))
    runs = [make_run(tmp_path, f"r{n}", {"seed": n}, metrics={}, rows=curve_rows(v)) for n, v in enumerate(values)]
    ax = draw_series(group_runs([read_run(run) for run in runs]), "train/nll")
    (mean,) = [line for line in ax.get_lines() if line.get_gid() == "mean"]
    np.testing.assert_array_equal(mean.get_xdata(), np.arange(10, 201, 10))
    np.testing.assert_allclose(mean.get_ydata(), values.mean(0), rtol=1e-14)
    thin = [line.get_ydata() for line in ax.get_lines() if line.get_gid() == "run"]
    np.testing.assert_array_equal(thin, values)
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    for step, column in zip(range(10, 201, 10), values.T, strict=True):
        heights = corners[corners[:, 0] == step][:, 1]
        np.testing.assert_allclose(heights.min(), column.mean() - column.std(ddof=1), rtol=1e-12)
        np.testing.assert_allclose(heights.max(), column.mean() + column.std(ddof=1), rtol=1e-12)


def test_the_mean_ends_with_the_shortest_finished_run_and_leaves_unfinished_ones_out(tmp_path):
    runs = [
        make_run(tmp_path, "a", {"seed": 0}, metrics={}, rows=curve_rows([8.0, 7.0, 6.0])),
        make_run(tmp_path, "b", {"seed": 1}, metrics={}, rows=curve_rows([6.0, 5.0])),
        make_run(tmp_path, "c", {"seed": 2}, rows=curve_rows([90.0])),
    ]
    ax = draw_series(group_runs([read_run(run) for run in runs]), "train/nll")
    (mean,) = [line for line in ax.get_lines() if line.get_gid() == "mean"]
    assert (mean.get_xdata().tolist(), mean.get_ydata().tolist()) == ([10, 20], [7.0, 6.0])
    assert len([line for line in ax.get_lines() if line.get_gid() == "run"]) == 3
    spread = mean_curve([Curve(np.array([1, 2]), np.ones(2)), Curve(np.array([3]), np.ones(1))])
    assert [len(part) for part in spread] == [0, 0, 0]


def test_models_that_train_side_by_side_in_one_run_are_curves_of_their_own(tmp_path):
    rows = [{"step": step, "train/nll": [1.0 * step, 3.0 * step, math.nan]} for step in (1, 2)]
    run = read_run(make_run(tmp_path, "a", {"seed": 0}, metrics={}, rows=rows))
    assert series_names([run]) == ["train/nll"]
    ax = draw_series(group_runs([run]), "train/nll")
    lines = [line.get_ydata().tolist() for line in ax.get_lines() if line.get_gid() == "run"]
    assert lines[:2] == [[1.0, 2.0], [3.0, 6.0]]


def test_unfinished_damaged_and_empty_runs_are_shown_and_named(tmp_path):
    half = make_run(tmp_path, "half", {"seed": 0}, rows=curve_rows([8.0, 7.0]), tail='{"step": 30, "tra')
    empty = make_run(tmp_path, "empty", {"seed": 1}, rows=[])
    nothing = make_run(tmp_path, "nothing", {"seed": 2}, rows=None)
    (nothing / "environment.json").unlink()
    damaged = make_run(tmp_path, "damaged", {"seed": 3}, rows=[], tail='{"step"\n{"step": 2}\n3\n')
    (damaged / "result.json").write_text('{"metr')
    odd = make_run(tmp_path, "odd", {"seed": 4}, rows=[{"step": 1, "note": "x"}, 3, {"train/nll": 2.0}])
    (odd / "result.json").write_text('{"metrics": 3}')
    (odd / "figures").mkdir()
    (odd / "figures" / "broken.png").write_bytes(b"not a picture")
    page = write([half, empty, nothing, damaged, odd], tmp_path)
    rows = {row[-1].split()[0]: row for row in page.tables["Runs"][1:]}
    assert rows["toy/half"][1:5] == ["0", "unfinished", "20", "1 s"]
    assert rows["toy/empty"][1:5] == ["1", "unfinished", "0", "unknown"]
    assert rows["toy/nothing"][1:6] == ["2", "unfinished", "0", "unknown", "unknown"]
    assert rows["toy/damaged"][-1] == "toy/damaged result.json is damaged metrics.jsonl is damaged: line 1"
    assert rows["toy/odd"][-1] == "toy/odd result.json holds no metrics figures/broken.png is not a PNG picture"
    html = (tmp_path / "page.html").read_text()
    assert "5 runs · 1 configuration · 0 finished · 5 unfinished" in html
    assert "No run has finished yet." in html
    assert "Claims are checked when a run ends." in html
    assert "train/nll over training steps" in page.alts


def test_a_run_without_anything_logged_is_a_page_too(tmp_path):
    page = write([make_run(tmp_path, "a", {}, rows=None)], tmp_path)
    assert page.tables["Runs"][1][1] == "absent"
    assert "Nothing has been logged." in (tmp_path / "page.html").read_text()


def test_no_text_from_outside_becomes_markup_or_mathematics(tmp_path):
    evil = "<script>alert('x')</script>"
    claim = {"claim": evil, "source": evil, "holds": False, "text": f"{evil} cannot be checked: {evil}"}
    run = make_run(
        tmp_path,
        "<b>a",
        {"cell": evil, evil.replace("/", ""): {evil: [evil]}, "seed": evil},
        metrics={evil: evil, "</td><script>": 1.0, "nll": 2.0},
        rows=curve_rows([3.0, 2.0], name=f"train/{evil}") + curve_rows([3.0, 2.0], name=r"valid/$\frac{"),
        environment={"start_time": evil, evil: evil, "versions": {evil: evil}},
        claims=[claim],
    )
    save(new_axes().figure, run / "figures" / "<img onerror=x>.png")
    other = make_run(tmp_path, "b", {"cell": "gru", "seed": 1}, metrics={"nll": 2.0})
    page = write([run, other], tmp_path)
    html = (tmp_path / "page.html").read_text()
    assert not {"script", "b", "link", "iframe", "object", "base"} & set(page.tags)
    assert "<script" not in html.lower()
    assert "onerror=x>" not in html
    assert html.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") >= 10
    assert ["cell", evil, "gru"] in page.tables["Settings"]
    assert page.tables["Claims"][1] == [evil, evil, f"A1 ✗ cannot be checked: {evil}"]


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    run = make_run(tmp_path, "a", {"seed": 0}, metrics={"nll": 1.0}, rows=curve_rows([3.0, 2.0]))
    picture = save(new_axes().figure, run / "figures" / "curve.png")
    page = write([run], tmp_path)
    html = (tmp_path / "page.html").read_text()
    assert not re.search(r"https?:|url\(|@import|//", re.sub(r'src="data:[^"]*"', "", html))
    assert len(page.addresses) == 2
    svg, png = (address.partition(";base64,") for address in page.addresses)
    assert (svg[0], png[0]) == ("data:image/svg+xml", "data:image/png")
    assert ElementTree.fromstring(base64.b64decode(svg[2])).tag.endswith("svg")
    assert base64.b64decode(png[2]) == picture.read_bytes()
    assert {"script", "link"}.isdisjoint(page.tags)


def test_runs_that_share_all_but_the_seed_are_one_group_with_a_name(tmp_path):
    configs = [
        {"cell": cell, "data": {"size": size}, "seed": s}
        for cell, size in (("gru", 1), ("lstm", 1), ("gru", 2))
        for s in (0, 1)
    ]
    groups = group_runs([read_run(make_run(tmp_path, str(n), config)) for n, config in enumerate(configs)])
    assert [(group.letter, group.label, len(group.runs)) for group in groups] == [
        ("A", "cell = gru, data.size = 1", 2),
        ("B", "cell = lstm, data.size = 1", 2),
        ("C", "cell = gru, data.size = 2", 2),
    ]
    many = [read_run(make_run(tmp_path, f"many{n}", {f"f{k}": n for k in range(9)})) for n in range(30)]
    assert group_runs(many)[1].label == "f0 = 1, f1 = 1, f2 = 1, 6 more"
    assert [group.letter for group in group_runs(many)][25:28] == ["Z", "AA", "AB"]
    other = many[0]._replace(experiment="other")
    assert [group.label for group in group_runs([many[0], other])] == ["toy", "other"]
    assert len({group_style(index) for index in range(18)}) == 18


def test_settings_claims_and_environment_are_compared(tmp_path):
    holds = {"claim": "nll <= 8", "source": "paper", "holds": True, "text": "nll <= 8 holds: 7.5 (paper)"}
    misses = holds | {"holds": False, "text": "nll <= 8 DOES NOT HOLD: 8.5 (paper)"}
    a = make_run(
        tmp_path,
        "a",
        {"cell": "gru", "rate": 0.123456789, "seed": 0},
        metrics={"nll": 7.5, "data": "x"},
        claims=[holds],
    )
    b = make_run(
        tmp_path,
        "b",
        {"cell": "lstm", "rate": 0.123456789, "size": 3, "seed": 0},
        metrics={"nll": 8.5},
        claims=[misses],
        environment=ENVIRONMENT | {"commit": "b2"},
    )
    page = write([a, b], tmp_path)
    settings = page.tables["Settings"]
    assert settings[:3] == [["setting", "A", "B"], ["cell", "gru", "lstm"], ["size", "–", "3"]]
    assert settings[4:] == [["cell", "gru", "lstm"], ["rate", "0.123456789", "0.123456789"], ["size", "–", "3"]]
    assert page.tables["Claims"] == [
        ["claim", "source of the number", "measured"],
        ["nll <= 8", "paper", "A1 ✓ 7.5 B1 ✗ 8.5"],
    ]
    assert ["data", "x", "–"] in page.tables["Final metrics"]
    assert page.tables["Environment"] == [["backend", "cpu"], ["versions.jax", "0.10"], ["commit", "a1 (A1) b2 (B1)"]]
    assert "1 of 2 claim checks hold" in (tmp_path / "page.html").read_text()


def test_a_metric_that_some_runs_lack_says_how_many_have_it(tmp_path):
    runs = [
        make_run(tmp_path, "a", {"seed": 0}, metrics={"nll": 1.0, "data": "x"}),
        make_run(tmp_path, "b", {"seed": 1}, metrics={"nll": 2.0, "data": "y"}),
        make_run(tmp_path, "c", {"seed": 1}, metrics={"data": "x", "nan": math.nan}, smoke=True),
    ]
    page = write(runs, tmp_path)
    rows = page.tables["Final metrics"]
    assert rows[1:4] == [["nll", "1.50 ± 0.71 2 of 3 runs"], ["data", "x, y"], ["nan", "nan 1 of 3 runs"]]
    assert page.tables["Runs"][3][2] == "smoke run"
    assert page.tables["Runs"][3][-1] == "toy/c same settings and seed as A2"


def test_series_stand_in_pairs_and_many_are_folded_away(tmp_path):
    row = {"step": 1, "seconds": 1.0, "wall_time": 2.0, "train/loss": 1.0, "train/nll": 1.0, "valid/nll": 2.0}
    row |= {"valid/loss": 3.0} | {f"model {n}/loss": 1.0 for n in range(12)}
    run = make_run(tmp_path, "a", {"seed": 0}, rows=[row])
    assert series_names([read_run(run)])[:5] == ["train/loss", "valid/loss", "train/nll", "valid/nll", "model 0/loss"]
    page = write([run], tmp_path)
    assert len(page.alts) == 16
    assert "<summary>4 more</summary>" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    "values",
    [[math.nan, math.nan], [math.inf, 1.0], [-5.0, 5.0], [0.0, 0.0], [1e-3, 1e3], [1e300, -1e300]],
)
def test_any_numbers_can_be_drawn(values):
    rows = tuple(curve_rows(values))
    run = read_run_of(rows)
    groups = [RunGroup(letter, letter, {}, (run, run)) for letter in "AB"]
    ax = draw_series(groups, "train/nll")
    assert all(map(math.isfinite, ax.get_ylim()))
    ax.get_figure().canvas.draw()


def read_run_of(rows):
    return RunRecord(Path("r"), "toy", {}, {}, rows, {"metrics": {}}, (), ())


def test_existing_pages_repeated_runs_and_foreign_folders_are_refused(tmp_path):
    run = make_run(tmp_path, "a", {"seed": 0})
    page = tmp_path / "new" / "page.html"
    assert write_comparison([run], page) == page
    page.write_text("mine")
    with pytest.raises(FileExistsError, match=r"page\.html exists; pass overwrite=True"):
        write_comparison([run], page)
    assert page.read_text() == "mine"
    write_comparison([run], page, overwrite=True)
    assert page.read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(ValueError, match="`run_dirs` must hold at least one run, got none"):
        write_comparison([], page)
    with pytest.raises(ValueError, match=r"`run_dirs` must be different runs, got .* twice"):
        write_comparison([run, run / ".." / "a"], tmp_path / "b.html")
    with pytest.raises(ValueError, match=r"`run_dir` must hold config\.json, as start_run writes it"):
        write_comparison([tmp_path], tmp_path / "b.html")
    (run / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"config\.json in .* must be a JSON object, got \[1\]"):
        write_comparison([run], tmp_path / "b.html")
    (run / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json in .* must be JSON, got: "):
        write_comparison([run], tmp_path / "b.html")
    assert not (tmp_path / "b.html").exists()
