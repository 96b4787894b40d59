"""Every experiment runs in its smoke size, by the command a user types."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import scipy.io.wavfile

from experiments.catalogue import experiment_names

ROOT = Path(__file__).parent.parent


def smoke(name: str, tmp_path: Path, *flags: str) -> Path:
    """Runs `python -m experiments.NAME --smoke` and returns its run directory."""
    command = [sys.executable, "-m", f"experiments.{name}", "--smoke", "--run-root", str(tmp_path), *flags]
    environment = os.environ | {"COLUMNS": "120"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    if "FileNotFoundError" in done.stderr and "RNN_JAX_DATA" not in os.environ:
        pytest.skip(f"{name} has no data here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    (run_dir,) = (tmp_path / name).iterdir()
    return run_dir


@pytest.mark.parametrize("name", experiment_names())
def test_the_smoke_run_leaves_a_directory_that_describes_itself(name: str, tmp_path: Path) -> None:
    run_dir = smoke(name, tmp_path)
    result = json.loads((run_dir / "result.json").read_text())
    assert result["smoke"] is True
    for value in result["metrics"].values():
        assert all(isinstance(one, int | float | str) for one in (value if isinstance(value, list) else [value]))
    for file in ("config.json", "environment.json", "metrics.jsonl", "report.md"):
        assert (run_dir / file).stat().st_size > 0, file


def test_the_chorales_can_be_heard_and_seen(tmp_path: Path) -> None:
    run_dir = smoke("bach_chorales", tmp_path, "--cell", "min_gru")
    for name in ("composed", "continued", "original"):
        rate, sound = scipy.io.wavfile.read(run_dir / f"{name}.wav")
        assert rate == 22050
        assert abs(sound.astype(float)).max() > 1000
        assert (run_dir / f"{name}.mid").stat().st_size > 100
        assert (run_dir / "figures" / f"{name}.png").stat().st_size > 10_000
    assert (run_dir / "params").is_dir()


def test_many_runs_in_one_program_are_the_runs_alone(tmp_path: Path) -> None:
    def run(*flags: str) -> tuple[dict[str, Any], str]:
        run_dir = smoke("bach_chorales", tmp_path / "-".join(flags), "--hidden-size", "4", *flags)
        return json.loads((run_dir / "result.json").read_text())["metrics"], (run_dir / "report.md").read_text()

    together, report = run("--seeds", "2", "--learning-rate", "1e-4", "0.03")
    alone, _ = run("--seed", "1", "--learning-rate", "0.03")
    assert together["learning_rate"] == pytest.approx(0.03)
    assert together["test_nll_seeds"][1] == pytest.approx(alone["test_nll"], rel=1e-5)
    assert len(re.findall(r"^\| (0.0001|0.03) \| 1 \|", report, re.MULTILINE)) == 2
