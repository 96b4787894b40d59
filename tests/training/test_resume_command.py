"""`python -m experiments.NAME --resume RUN_DIR`: what it goes on with, what it refuses, and what it says."""

import dataclasses
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from experiments.cli import main
from rnn_jax.metrics import Mean
from rnn_jax.training import (
    EXIT_CODE,
    CheckpointError,
    create_state,
    fit,
    make_train_step,
    open_checkpoints,
    read_metrics,
    run_logger,
)
from rnn_jax.training.resuming import claim_run

TX = optax.sgd(0.125)


@dataclasses.dataclass(frozen=True)
class Config:
    """What the toy trains."""

    rate: float = 1.0
    stop_at: int = 0
    num_steps: int = 8
    seed: int = 0


def loss_fn(params, batch, *, key, step):
    """The distance of w to noisy numbers."""
    target = batch + jax.random.normal(key)
    return (params["w"] - target) ** 2, {"target": Mean(target, jnp.ones_like(target))}


def run(config: Config, run_dir: Path) -> dict[str, float]:
    """Trains, and sends itself SIGTERM once, while it takes batch `stop_at`."""
    (run_dir / "vocabulary.txt").write_text("written before training")

    def numbers():
        for number in range(1, 100):
            if number == config.stop_at and not (run_dir / "interrupted-1").exists():
                signal.raise_signal(signal.SIGTERM)
            yield np.float32(config.rate * number)

    params = {"w": np.float32(0), "ballast": jax.random.normal(jax.random.key(9), (5000,))}
    state = create_state(params, TX, jax.random.key(config.seed))
    with run_logger(run_dir) as log, open_checkpoints(run_dir, every_steps=3) as checkpoints:
        state, info = fit(
            state,
            make_train_step(loss_fn, TX),
            numbers(),
            num_steps=config.num_steps,
            log=log,
            log_every=2,
            checkpoints=checkpoints,
            console=Console(quiet=True),
        )
    return {"w": float(state.params["w"]), "steps": info.steps}


def command(*args: str) -> Path:
    return main(Config, run, smoke=Config(num_steps=2), args=args)


def result(run_dir: Path) -> dict:
    return json.loads((run_dir / "result.json").read_text())


@pytest.fixture
def interrupted(tmp_path, capsys):
    """A run that was told to stop after five steps of eight."""
    with pytest.raises(SystemExit) as stop:
        command("--run-root", str(tmp_path), "--stop-at", "5", "--rate", "0.5")
    assert stop.value.code == EXIT_CODE
    (run_dir,) = (tmp_path / "test_resume_command").iterdir()
    said = capsys.readouterr().err
    assert "stopped by SIGTERM after step 5; a checkpoint of this step is saved. Go on with: " in said
    assert f"python -m experiments.test_resume_command --resume {run_dir}" in said
    return run_dir


def test_it_goes_on_to_the_numbers_of_an_undisturbed_run(interrupted, tmp_path):
    undisturbed = command("--run-root", str(tmp_path / "other"), "--rate", "0.5")
    assert command("--resume", str(interrupted)) == interrupted
    assert result(interrupted)["metrics"] == result(undisturbed)["metrics"]
    rows = [[row["train/target"] for row in read_metrics(path)] for path in (interrupted, undisturbed)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4
    assert (interrupted / "interrupted-1" / "vocabulary.txt").exists()
    assert (interrupted / "vocabulary.txt").exists()
    assert json.loads((interrupted / "environment-2.json").read_text())["start_time"]
    assert result(interrupted)["config"]["rate"] == 0.5


def test_a_finished_run_is_left_alone(interrupted, capsys):
    command("--resume", str(interrupted))
    before = result(interrupted)
    command("--resume", str(interrupted))
    assert result(interrupted) == before
    assert f"{interrupted} is finished; there is nothing to go on with" in capsys.readouterr().err


def test_another_configuration_is_refused_and_named(interrupted):
    with pytest.raises(SystemExit, match=r"--resume goes on with the configuration of .* rate 0\.5 would become 0\.25"):
        command("--resume", str(interrupted), "--rate", "0.25")
    assert command("--resume", str(interrupted), "--rate", "0.5") == interrupted


def test_a_configuration_file_that_was_edited_is_refused(interrupted):
    path = interrupted / "config.json"
    path.write_text(path.read_text().replace('"rate"', '"rat"'))
    with pytest.raises(SystemExit, match=r"cannot go on .*unknown rat \(did you mean rate\?\), missing rate"):
        command("--resume", str(interrupted))


def test_a_directory_that_is_no_run_or_of_another_experiment_is_refused(interrupted, tmp_path):
    with pytest.raises(SystemExit, match="--resume cannot go on with"):
        command("--resume", str(tmp_path))
    path = interrupted / "options.json"
    path.write_text(path.read_text().replace("test_resume_command", "scan"))
    with pytest.raises(SystemExit, match="--resume must name a run of test_resume_command, got one of scan"):
        command("--resume", str(interrupted))


def test_other_versions_of_the_code_are_said(interrupted, capsys):
    path = interrupted / "environment.json"
    then = json.loads(path.read_text())
    then["versions"]["jax"], then["commit"] = "0.1.2", "abc"
    path.write_text(json.dumps(then))
    command("--resume", str(interrupted))
    said = capsys.readouterr().err
    assert f"note: The run goes on with jax {jax.__version__}, it had 0.1.2" in said
    assert "note: The run goes on with commit: " in said


def test_a_changed_model_is_an_error_and_nothing_is_lost(interrupted):
    kept = sorted(path.name for path in (interrupted / "checkpoints").iterdir())
    state = create_state({"w": np.zeros(3, np.float32)}, TX, jax.random.key(0))
    with (
        pytest.raises(
            CheckpointError,
            match=r"(?s)nothing was changed there:.*params\['w'\] is float32\[\] there, float32\[3\] here",
        ),
        open_checkpoints(interrupted) as checkpoints,
    ):
        checkpoints.restore(state)
    assert sorted(path.name for path in (interrupted / "checkpoints").iterdir()) == kept


def hold(run_dir, ready, done):
    """Holds a run directory until told."""
    with claim_run(run_dir):
        ready.set()
        done.wait(30)


def test_two_processes_never_work_in_one_directory(interrupted):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(interrupted, ready, done))
    process.start()
    assert ready.wait(60)
    with pytest.raises(ValueError, match="`run_dir` must not be in use, but another process works in"):
        command("--resume", str(interrupted))
    done.set()
    process.join()
    assert command("--resume", str(interrupted)) == interrupted


LIMITED = """
import resource, sys
sys.path.insert(0, {folder!r})
from test_resume_command import command
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
command(*sys.argv[1:])
"""


@pytest.mark.parametrize("limit", [100, 5000])  # for the first file written, and for arrays of a checkpoint
def test_a_disk_without_room_is_one_clear_message_and_loses_nothing(limit, interrupted):
    """A limit on the size of files stands for the full disk: writing fails in the same places."""
    script = LIMITED.format(folder=str(Path(__file__).parent), limit=limit)
    done = subprocess.run(
        [sys.executable, "-c", script, "--resume", str(interrupted)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_COMPILATION_CACHE_DIR": ""},
    )
    assert done.returncode == 1, done.stderr
    assert "error: " in done.stderr
    assert f"--resume {interrupted}" in done.stderr
    assert "Traceback" not in done.stderr.splitlines()[-1]
    command("--resume", str(interrupted))
    assert result(interrupted)["metrics"]["steps"] == 8


def test_a_directory_that_cannot_be_written_to_is_one_clear_message(interrupted, monkeypatch, capsys):
    def refuse(self, *args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(SystemExit, match=r"error: cannot write to .*Read-only file system"):
            command("--resume", str(interrupted))
    assert command("--resume", str(interrupted)) == interrupted
