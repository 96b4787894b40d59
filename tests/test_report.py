"""The report of a run."""

import dataclasses
import re

import pytest

from rnn_jax.report import markdown_table, write_report
from rnn_jax.training import start_run


@dataclasses.dataclass(frozen=True)
class Optimizer:
    learning_rate: float = 0.001


@dataclasses.dataclass(frozen=True)
class Config:
    cell: str = "gru"
    sizes: tuple[int, ...] = (8, 4)
    optimizer: Optimizer = Optimizer()


ROWS = [{"model": "GRU", "nll": 8.54321, "steps": 2000}, {"model": "a|b", "nll": 9.0, "steps": 1}]
NOTHING = {"title": "T", "intro": "I", "metrics_rows": [], "figures": {}, "links": {}}


@pytest.fixture
def run_dir(tmp_path):
    run_dir = start_run("toy", Config(), root=tmp_path)
    (run_dir / "figures").mkdir()
    (run_dir / "figures" / "the curve.png").write_bytes(b"picture")
    (run_dir / "song.mid").write_bytes(b"music")
    return run_dir


def test_a_report_has_the_table_pictures_links_configuration_and_environment(run_dir):
    path = write_report(
        run_dir,
        title="Bach",
        intro="What comes next?",
        metrics_rows=ROWS,
        figures={"Learning": run_dir / "figures" / "the curve.png"},
        links={"A chorale (MIDI)": "song.mid"},
        notes=["Cut short at step 812."],
    )
    assert path == run_dir / "report.md"
    text = path.read_text()
    order = [
        "# Bach",
        "What comes next?",
        "> Cut short at step 812.",
        "## Result",
        "| GRU | 8.543 |",
    ]
    order += ["![Learning](figures/the%20curve.png)", "[A chorale (MIDI)](song.mid)"]
    order += ["## Configuration", "| optimizer.learning_rate | 0.001 |", "## Environment"]
    order += ["| versions.jax | "]
    positions = [text.index(piece) for piece in order]
    assert positions == sorted(positions)
    assert "| sizes | [8, 4] |" in text
    links = re.findall(r"\]\((.*?)\)", text)
    assert all((run_dir / link.replace("%20", " ")).is_file() for link in links)


def test_a_table_aligns_numbers_and_escapes_bars():
    assert markdown_table(ROWS).splitlines() == [
        "| model | nll | steps |",
        "| --- | ---: | ---: |",
        "| GRU | 8.543 | 2000 |",
        "| a\\|b | 9 | 1 |",
    ]


def test_rows_with_different_keys_are_refused():
    with pytest.raises(ValueError, match=r"`rows\[1\]` must have the keys \['a'\], got \['b'\]"):
        markdown_table([{"a": 1}, {"b": 1}])
    with pytest.raises(ValueError, match="`rows` must hold at least one row"):
        markdown_table([])


def test_missing_and_foreign_files_are_refused(run_dir, tmp_path):
    with pytest.raises(ValueError, match=r"`figures` must be existing files, got 'no.png'"):
        write_report(run_dir, **NOTHING | {"figures": {"None": "no.png"}})
    (tmp_path / "elsewhere.mid").write_bytes(b"music")
    with pytest.raises(ValueError, match="`links` must lie inside `run_dir`"):
        write_report(run_dir, **NOTHING | {"links": {"Other": tmp_path / "elsewhere.mid"}})
    assert not (run_dir / "report.md").exists()


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`run_dir` must hold config\.json"):
        write_report(tmp_path, **NOTHING)


def test_a_report_is_never_overwritten(run_dir):
    write_report(run_dir, **NOTHING)
    with pytest.raises(FileExistsError):
        write_report(run_dir, **NOTHING)


def test_paths_relative_to_the_working_directory_are_found_too(run_dir, monkeypatch):
    monkeypatch.chdir(run_dir.parent)
    path = write_report(run_dir.name, **NOTHING | {"links": {"Song": f"{run_dir.name}/song.mid"}})
    assert "[Song](song.mid)" in path.read_text()
