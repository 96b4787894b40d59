"""An experiment that takes no time, in an experiments folder of its own beside the real frame."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import experiments
from experiments import catalogue
from experiments.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
TOY = '''"""Does adding work?

python -m experiments.toy_sum
"""

from dataclasses import dataclass, field
from pathlib import Path

from experiments.claims import at_least, at_most
from experiments.cli import main


@dataclass(frozen=True)
class Model:
    size: int = 4


@dataclass(frozen=True)
class Config:
    seed: int = 0
    """Seed of everything random."""
    terms: tuple[int, ...] = (1, 2, 3)
    rule: str = "sum"
    model: Model = field(default_factory=Model)


SMOKE = Config(terms=(1,), model=Model(size=1))
PRESETS = {"paper": Config(terms=(1, 2, 3, 4, 5), model=Model(size=1000))}
CLAIMS = (
    at_most("total", 6.5, source="Peano 1889", when={"rule": "sum"}),
    at_least("total", 100.0, source="nobody", when={"rule": "boast"}),
)


def run(config: Config, run_dir: Path) -> dict:
    (run_dir / "seen.txt").write_text(repr(config))
    return {"total": float(sum(config.terms)), "size": config.model.size}


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS, presets=PRESETS)
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """An experiments folder of its own beside the real frame, with a results folder."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "toy_sum.py").write_text(TOY)
    (folder / "_private.py").write_text("raise RuntimeError\n")
    monkeypatch.setattr(experiments, "__path__", [str(REPOSITORY / "experiments"), str(folder)])
    monkeypatch.setattr(catalogue, "RESULTS_DIR", tmp_path / "results")
    yield tmp_path
    sys.modules.pop("experiments.toy_sum", None)


def run_toy(toy: Path, *args: str) -> tuple[Path, dict[str, Any]]:
    """Runs the toy's `main` in this process and returns its run directory and result."""
    module = importlib.import_module("experiments.toy_sum")
    run_dir = main(
        module.Config,
        module.run,
        smoke=module.SMOKE,
        claims=module.CLAIMS,
        presets=module.PRESETS,
        args=["--run-root", str(toy / "runs"), *args],
    )
    return run_dir, json.loads((run_dir / "result.json").read_text())
