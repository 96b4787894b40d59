"""Finds the experiments, and keeps and checks their committed results."""

import difflib
import importlib
import json
import pkgutil
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import experiments
from experiments.claims import Claim, ClaimCheck, applies, check_claim, claim_text

__all__ = [
    "Experiment",
    "check_experiment",
    "experiment_names",
    "load_experiment",
    "load_results",
    "results_table",
    "save_result",
]

RESULTS_DIR = Path(__file__).parent / "results"
FRAME = frozenset({"catalogue", "claims", "cli"})


class Experiment(NamedTuple):
    """What the list shows of an experiment module.

    Args:
      name: name of the module.
      question: first line of its docstring.
      claims: its `CLAIMS`.

    Example:
      >>> Experiment("copy_memory", "How long can a gated cell remember?", ()).name
      'copy_memory'
    """

    name: str
    question: str
    claims: tuple[Claim, ...]


def experiment_names() -> list[str]:
    """Names of all experiment modules: those of this package that are no part of the frame.

    Returns:
      sorted names, without private modules, packages and `__main__`.

    Example:
      >>> "cli" in experiment_names()
      False
    """
    return sorted(
        module.name
        for module in pkgutil.iter_modules(experiments.__path__)
        if not (module.ispkg or module.name.startswith("_") or module.name in FRAME)
    )


def load_experiment(name: str) -> Experiment:
    """Imports an experiment and reads its card.

    Args:
      name: one of `experiment_names()`.

    Returns:
      the experiment.

    Raises:
      ValueError: there is no such experiment (the text lists close names), or its module lacks
        `CLAIMS` or a docstring.

    Example:
      >>> load_experiment("no_such_experiment")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ValueError: `name` must be an experiment, got 'no_such_experiment'...
    """
    names = experiment_names()
    if name not in names:
        close = difflib.get_close_matches(name, names)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(names)}"
        raise ValueError(f"`name` must be an experiment, got {name!r}; {hint}")
    module = importlib.import_module(f"experiments.{name}")
    card = (module.__doc__ or "").strip()
    claims = vars(module).get("CLAIMS")
    if not card or claims is None:
        raise ValueError(f"experiments/{name}.py must have a docstring card and CLAIMS")
    return Experiment(name=name, question=card.splitlines()[0], claims=tuple(claims))


def load_results(name: str) -> dict[str, dict[str, Any]]:
    """Reads the committed results of an experiment.

    Args:
      name: name of the experiment.

    Returns:
      `{file stem: result}` for `NAME.json` and every `NAME-LABEL.json`; empty if there is none.

    Example:
      >>> load_results("no_such_experiment")
      {}
    """
    paths = [RESULTS_DIR / f"{name}.json", *sorted(RESULTS_DIR.glob(f"{name}-*.json"))]
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()}


def check_experiment(experiment: Experiment) -> list[ClaimCheck]:
    """Checks every claim of an experiment against the committed results it applies to.

    Args:
      experiment: the experiment.

    Returns:
      one check for each pair of claim and result; a claim without any result is a check that
      does not hold. Empty where the experiment makes no claim.

    Example:
      >>> claim = Claim("nll", 0.0, 8.7, "paper")
      >>> check_experiment(Experiment("no_such_experiment", "?", (claim,)))[0].text
      '0 <= nll <= 8.7: no committed result'
    """
    results = load_results(experiment.name)
    checks: list[ClaimCheck] = []
    for claim in experiment.claims:
        found = [
            (stem, check_claim(claim, result["metrics"]))
            for stem, result in results.items()
            if applies(claim, result["config"])
        ]
        if not found:
            checks.append(ClaimCheck(False, f"{claim_text(claim)}: no committed result"))
        checks += [ClaimCheck(check.holds, f"{stem}: {check.text}") for stem, check in found]
    return checks


def save_result(run_dir: str | Path, *, label: str = "", overwrite: bool = False) -> Path:
    """Copies the result of a run to `experiments/results/NAME[-LABEL].json`, to be committed.

    Args:
      run_dir: directory of a finished run.
      label: tells several results of one experiment apart, for example the cell or data set.
      overwrite: replace the file that is there.

    Returns:
      the path of the copy.

    Raises:
      ValueError: the run has no result (it did not finish), was a smoke run, or `label` is not
        made of letters, digits, `_`, `.` and `-`.
      FileExistsError: there is such a file and `overwrite` is False.

    Example:
      >>> save_result("runs/none")
      Traceback (most recent call last):
      ValueError: `run_dir` must hold a result.json, got 'runs/none'
    """
    source = Path(run_dir) / "result.json"
    if not source.is_file():
        raise ValueError(f"`run_dir` must hold a result.json, got {str(run_dir)!r}")
    if not re.fullmatch(r"[\w.-]*", label):
        raise ValueError(f"`label` must be made of letters, digits, _, . and -, got {label!r}")
    result = json.loads(source.read_text(encoding="utf-8"))
    if result["smoke"]:
        raise ValueError(f"`run_dir` must be a full run, got the smoke run {str(run_dir)!r}")
    stem = f"{result['experiment']}-{label}" if label else result["experiment"]
    target = RESULTS_DIR / f"{stem}.json"
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target.name} exists; pass --overwrite to replace it")
    RESULTS_DIR.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def results_table() -> str:
    """The committed results of all experiments as Markdown, one row for each claim and result: what the README shows.

    Returns:
      a table, ending in a newline.

    Example:
      >>> results_table().splitlines()[0]
      '| result | claim | measured | source of the claim | training and all, on |'
    """
    lines = ["| result | claim | measured | source of the claim | training and all, on |", "|---|---|---|---|---|"]
    for name in experiment_names():
        for claim in load_experiment(name).claims:
            for stem, result in load_results(name).items():
                if applies(claim, result["config"]):
                    device = f"{result['device']['cpu_count']} cores" if result["device"]["backend"] == "cpu" else ""
                    where = device or f"{result['device']['count']} x {result['device']['kind']}"
                    value = result["metrics"][claim.metric]
                    lines.append(
                        f"| `{stem}` | {claim_text(claim)} | **{value:.3f}** | {claim.source} | "
                        f"{result['seconds']:.0f} s, {where} |"
                    )
    return "\n".join(lines) + "\n"
