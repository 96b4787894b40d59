"""Runs that are killed, told to stop, or find a damaged checkpoint: they end where the undisturbed run ends."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rnn_jax.training import EXIT_CODE, read_metrics

SCRIPT = Path(__file__).parent / "run_to_kill.py"
STEPS = 240


def start(run_dir: Path, **environment: str) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), str(run_dir), str(STEPS)]
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(run_dir: Path) -> str:
    process = start(run_dir)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def wait_for(condition, process: subprocess.Popen) -> bool:
    """True where the condition came true while the process lived."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.0005)
    return False


def complete(run_dir: Path) -> list[int]:
    folder = run_dir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def saving(run_dir: Path) -> bool:
    folder = run_dir / "checkpoints"
    return folder.is_dir() and any("tmp" in path.name for path in folder.iterdir())


def assert_same(run_dir: Path, undisturbed: Path) -> None:
    """Bit for bit: parameters, optimizer, samples, and the log but for its clocks."""
    with np.load(run_dir / "final.npz") as ours, np.load(undisturbed / "final.npz") as theirs:
        assert ours.files == theirs.files
        for name in ours.files:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    rows = [
        [{k: v for k, v in row.items() if k not in ("seconds", "wall_time")} for row in read_metrics(path)]
        for path in (run_dir, undisturbed)
    ]
    assert rows[0] == rows[1]
    seconds = [row["seconds"] for row in read_metrics(run_dir)]
    assert seconds == sorted(seconds)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("undisturbed")
    finish(run_dir)
    steps = [row["step"] for row in read_metrics(run_dir) if "train/error" in row]
    assert steps == list(range(4, STEPS + 1, 4))
    return run_dir


def test_a_run_killed_at_ten_random_moments_ends_as_if_never_killed(tmp_path: Path, undisturbed: Path) -> None:
    moments, within_a_save = random.Random(7), 0
    for number in range(10):
        before = complete(tmp_path)
        process = start(tmp_path, PAUSE="0.02")
        if number % 2:  # within a save: while the temporary directory is there
            assert wait_for(lambda: saving(tmp_path), process), "it ended before it saved"
            within_a_save += 1
        else:  # anywhere after the first new checkpoint, or even before it
            wait_for(lambda before=before: complete(tmp_path) != before, process)
            time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f"kill {number} came too late"
    assert within_a_save == 5
    finish(tmp_path)
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_run_told_to_stop_saves_and_can_go_on(name: str, tmp_path: Path, undisturbed: Path) -> None:
    process = start(tmp_path, PAUSE="0.02")
    assert wait_for(lambda: complete(tmp_path), process)
    process.send_signal(signal.Signals[name])
    out, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_CODE == 75, err
    last = complete(tmp_path)[-1]
    assert f"stopped by {name} after step {last}; a checkpoint of this step is saved" in out
    finish(tmp_path)
    assert_same(tmp_path, undisturbed)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its second checkpoint."""
    run_dir = tmp_path_factory.mktemp("interrupted")
    process = start(run_dir, PAUSE="0.02")
    assert wait_for(lambda: len(complete(run_dir)) == 2, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return run_dir


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: str, tmp_path: Path, undisturbed: Path, interrupted: Path
) -> None:
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    *older, last = complete(tmp_path)
    assert older, "there must be a checkpoint to fall back to"
    files = [path for path in (tmp_path / "checkpoints" / str(last)).rglob("*") if path.is_file()]
    for path in files:
        if path.parent.name == "d":  # array data
            data = bytearray(path.read_bytes())
            if damage == "truncated":
                path.write_bytes(data[: len(data) // 2])
            elif damage == "flipped":
                data[len(data) // 2] ^= 1
                path.write_bytes(data)
            else:
                path.unlink()
    out = finish(tmp_path)
    assert f"The checkpoint of step {last} could not be read and was moved to damaged_checkpoints/{last}: " in out
    assert (tmp_path / "damaged_checkpoints" / str(last)).is_dir()
    assert_same(tmp_path, undisturbed)


def test_nothing_is_started_over_where_no_checkpoint_can_be_read(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    kept = complete(tmp_path)
    for path in itertools.chain(*((tmp_path / "checkpoints" / str(step)).rglob("_METADATA") for step in kept)):
        path.write_text("{")
    process = start(tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "fits this run; nothing was changed there" in err
    assert complete(tmp_path) == kept
    assert read_metrics(tmp_path) == read_metrics(undisturbed)


def test_a_finished_run_is_not_trained_again(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "final.npz").unlink()
    finish(tmp_path)
    assert_same(tmp_path, undisturbed)
    assert (tmp_path / "metrics.jsonl").read_text() == (undisturbed / "metrics.jsonl").read_text()
