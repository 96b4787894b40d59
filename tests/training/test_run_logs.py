"""Run directories and the logs in them."""

import dataclasses
import json
import struct
import subprocess
from datetime import datetime
from pathlib import Path

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from rnn_jax.training import read_metrics, run_dir, run_logger, start_run, to_plain, write_json


@dataclasses.dataclass(frozen=True)
class Data:
    name: str = "jsb"
    splits: tuple[str, ...] = ("train", "valid")


@dataclasses.dataclass(frozen=True)
class Config:
    hidden_size: int = 8
    learning_rate: float = 1e-3
    data: Data = Data()
    cache: Path | None = None


def test_a_run_directory_says_how_the_run_was_made(tmp_path):
    path = start_run("toy", Config(hidden_size=3), root=tmp_path / "runs")
    assert path.parent == tmp_path / "runs" / "toy"
    assert datetime.strptime(path.name, "%Y%m%d-%H%M%S")
    assert json.loads((path / "config.json").read_text()) == {
        "hidden_size": 3,
        "learning_rate": 0.001,
        "data": {"name": "jsb", "splits": ["train", "valid"]},
        "cache": None,
    }
    environment = json.loads((path / "environment.json").read_text())
    assert environment["versions"]["jax"] == jax.__version__
    assert environment["device_count"] == jax.device_count()
    assert datetime.fromisoformat(environment["start_time"]).tzinfo is not None
    assert {"commit", "dirty", "command", "cpu_count", "device_kind"} <= set(environment)


def test_runs_started_in_the_same_second_never_share_a_directory(tmp_path, monkeypatch):
    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(run_dir.datetime, "datetime", Frozen)
    names = [start_run("toy", Config(), root=tmp_path).name for _ in range(3)]
    assert names == ["20260102-030405", "20260102-030405-2", "20260102-030405-3"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_a_name_that_is_not_one_path_component_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="`name` must be a single path component"):
        start_run(name, Config(), root=tmp_path)


@pytest.mark.parametrize("config", [Config, {"hidden_size": 8}])
def test_a_configuration_that_is_no_dataclass_instance_is_refused(tmp_path, config):
    with pytest.raises(ValueError, match="`config` must be a dataclass instance"):
        start_run("toy", config, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_commit_is_that_of_the_checkout_or_none(tmp_path, monkeypatch):
    def git(*args):
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert run_dir._git_commit(tmp_path) == (None, None)
    git("init")
    (tmp_path / "a.py").write_text("A = 1\n")
    assert run_dir._git_commit(tmp_path) == (None, None)
    git("add", "a.py")
    git("commit", "-m", "first")
    assert run_dir._git_commit(tmp_path) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "a.py").write_text("A = 2\n")
    assert run_dir._git_commit(tmp_path) == (git("rev-parse", "HEAD"), True)


def test_json_files_are_never_overwritten(tmp_path):
    write_json(tmp_path / "a.json", {"x": np.arange(3)})
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "a.json", {"x": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [0, 1, 2]}


def test_what_json_cannot_hold_is_refused_by_its_type():
    with pytest.raises(ValueError, match="must hold plain data, got a set"):
        to_plain({"x": [1, {2}]})


def test_metrics_come_back_as_they_were_logged(tmp_path):
    rows = [
        {"step": 5, "seconds": 0.5, "train/loss": 1 / 3},
        {"step": 10, "seconds": 1.5, "train/loss": np.float32(0.25), "train/grad_norm": 1e-12},
        {"step": 10, "seconds": 2.0, "valid/nll": 8.54},
    ]
    with run_logger(tmp_path) as log:
        for row in rows:
            log(row)
            assert read_metrics(tmp_path)[-1]["seconds"] == row["seconds"]  # flushed at once
    read = read_metrics(tmp_path)
    assert [{k: v for k, v in row.items() if k != "wall_time"} for row in read] == rows
    times = [row["wall_time"] for row in read]
    assert times == sorted(times)


def test_opening_the_log_again_appends(tmp_path):
    for step in (1, 2):
        with run_logger(tmp_path) as log:
            log({"step": step, "train/loss": float(step)})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_tensorboard_events_hold_the_same_numbers(tmp_path):
    with run_logger(tmp_path) as log:
        log({"step": 3, "seconds": 0.1, "train/loss": 0.75})
        log({"step": 6, "seconds": 0.2, "valid/nll": 8.5})
    (path,) = (tmp_path / "tensorboard").iterdir()
    data, found, offset = path.read_bytes(), [], 0
    while offset < len(data):  # a record is: length (8 bytes), checksum (4), data, checksum (4)
        (length,) = struct.unpack_from("<Q", data, offset)
        event = Event.FromString(data[offset + 12 : offset + 12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        offset += 16 + length
    assert found == [(3, "train/loss", 0.75), (6, "valid/nll", 8.5)]


def test_an_error_while_training_leaves_readable_logs(tmp_path):
    def train():
        with run_logger(tmp_path) as log:
            log({"step": 1, "train/loss": 2.0})
            raise FloatingPointError("the loss is nan")

    with pytest.raises(FloatingPointError, match="the loss is nan"):
        train()
    assert read_metrics(tmp_path)[0]["train/loss"] == 2.0


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 of .* is not JSON"):
        read_metrics(tmp_path)


def test_logging_without_step_or_directory_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="`row` must hold a `step`, got"),
        run_logger(tmp_path) as log,
    ):
        log({"train/loss": 1.0})
    with (
        pytest.raises(ValueError, match="`run_dir` must be an existing directory"),
        run_logger(tmp_path / "nowhere"),
    ):
        pass


def test_rows_after_a_step_are_taken_back_and_kept_elsewhere(tmp_path):
    with run_logger(tmp_path) as log:
        for step in (2, 4, 6):
            log({"step": step, "train/loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "train/lo')  # a process was killed here
    with run_logger(tmp_path) as log:
        stayed = log.rewind(4)
        log({"step": 6, "train/loss": 6.5})
    assert [(row["step"], row["train/loss"]) for row in stayed] == [(2, 2.0), (4, 4.0)]
    assert [(row["step"], row["train/loss"]) for row in read_metrics(tmp_path)] == [(2, 2.0), (4, 4.0), (6, 6.5)]
    superseded = (tmp_path / "metrics.superseded.jsonl").read_text().splitlines()
    assert [json.loads(line)["train/loss"] for line in superseded] == [6.0]


def test_rows_of_many_runs_hold_lists(tmp_path):
    with run_logger(tmp_path) as log:
        log({"step": 1, "train/loss": np.array([0.5, 0.25]), "seconds": 2.0})
    assert read_metrics(tmp_path)[0]["train/loss"] == [0.5, 0.25]
