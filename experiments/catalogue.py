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
from rnn_jax.report.fields import read_object

__all__ = [
    "Experiment",
    "check_all",
    "check_experiment",
    "check_run",
    "experiment_names",
    "load_experiment",
    "load_results",
    "save_result",
    "unclaimed_results",
]

RESULTS_DIR = Path(__file__).parent / "results"
FRAME = frozenset({"catalogue", "claims", "cli", "configuration", "listing"})


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

    Raises:
      ValueError: a file is not the result of a run of this experiment.

    Example:
      >>> load_results("no_such_experiment")
      {}
    """
    return {path.stem: _read_result(path, name) for path in _result_paths(name)}


def check_experiment(experiment: Experiment) -> list[ClaimCheck]:
    """Checks every claim of an experiment against the committed results it applies to.

    Args:
      experiment: the experiment.

    Returns:
      one check for each pair of claim and result; a claim without any result is a check that
      does not hold, a result without any claim one that holds. Empty where there is neither.

    Raises:
      ValueError: a result cannot be read, or a claim names a setting that it lacks.

    Example:
      >>> claim = Claim("nll", 0.0, 8.7, "paper")
      >>> check_experiment(Experiment("no_such_experiment", "?", (claim,)))[0].text
      'no_such_experiment: 0 <= nll <= 8.7: no committed result'
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
            checks.append(ClaimCheck(False, f"{experiment.name}: {claim_text(claim)}: no committed result"))
        checks += [ClaimCheck(check.holds, f"{stem}: {check.text}") for stem, check in found]
    unclaimed = unclaimed_results(experiment)
    return checks + [ClaimCheck(True, f"{stem}: no claim is made about it") for stem in unclaimed]


def check_all() -> dict[str, list[ClaimCheck]]:
    """Checks every claim of every experiment against the committed results.

    Returns:
      `{name: checks}`, as `check_experiment` makes them. An experiment whose results cannot be
      read or judged has one check that does not hold and says why; so has a result file that
      belongs to no experiment.

    Example:
      >>> sorted(check_all()) == experiment_names()
      True
    """
    checks: dict[str, list[ClaimCheck]] = {}
    owned: set[Path] = set()
    for name in experiment_names():
        owned |= set(_result_paths(name))
        try:
            checks[name] = check_experiment(load_experiment(name))
        except ValueError as error:
            checks[name] = [ClaimCheck(False, f"{name}: {error}")]
    for path in sorted(set(RESULTS_DIR.glob("*.json")) - owned):
        checks[path.stem] = [ClaimCheck(False, f"{path.stem}: there is no experiment that this result belongs to")]
    return checks


def unclaimed_results(experiment: Experiment) -> list[str]:
    """The committed results about which the experiment makes no claim.

    Args:
      experiment: the experiment.

    Returns:
      file stems.

    Raises:
      ValueError: a result cannot be read or judged.

    Example:
      >>> unclaimed_results(Experiment("no_such_experiment", "?", ()))
      []
    """
    return [
        stem
        for stem, result in load_results(experiment.name).items()
        if not any(applies(claim, result["config"]) for claim in experiment.claims)
    ]


def check_run(run_dir: str | Path) -> list[ClaimCheck]:
    """Checks a finished run against the claims that its experiment makes today.

    Args:
      run_dir: directory of the run.

    Returns:
      one check for each claim about the configuration of the run; empty if there is none.

    Raises:
      ValueError: the run has no result (it did not finish), was a smoke run, or belongs to no
        experiment.

    Example:
      >>> check_run("runs/none")
      Traceback (most recent call last):
      ValueError: `run_dir` must hold a result.json, got 'runs/none'
    """
    result = _full_result(run_dir)
    name = result["experiment"]
    claims = [claim for claim in load_experiment(name).claims if applies(claim, result["config"])]
    checks = [check_claim(claim, result["metrics"]) for claim in claims]
    return [ClaimCheck(check.holds, f"{name}: {check.text}") for check in checks]


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
    if not re.fullmatch(r"[\w.-]*", label):
        raise ValueError(f"`label` must be made of letters, digits, _, . and -, got {label!r}")
    result = _full_result(run_dir)
    stem = f"{result['experiment']}-{label}" if label else result["experiment"]
    target = RESULTS_DIR / f"{stem}.json"
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target.name} exists; pass --overwrite to replace it")
    RESULTS_DIR.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(run_dir) / "result.json", target)
    return target


def _result_paths(name: str) -> list[Path]:
    """The result files of an experiment."""
    paths = [RESULTS_DIR / f"{name}.json", *sorted(RESULTS_DIR.glob(f"{name}-*.json"))]
    return [path for path in paths if path.is_file()]


def _read_result(path: Path, name: str) -> dict[str, Any]:
    """A result file, which must be one of this experiment."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"results/{path.name} must be JSON, got: {error}") from error
    got = result.get("experiment") if isinstance(result, dict) else result
    if got != name:
        raise ValueError(f"results/{path.name} must be a result of {name}, got one of {got!r}")
    return result


def _full_result(run_dir: str | Path) -> dict[str, Any]:
    """The result of a finished run in full size."""
    source = Path(run_dir) / "result.json"
    if not source.is_file():
        raise ValueError(f"`run_dir` must hold a result.json, got {str(run_dir)!r}")
    result = read_object(Path(run_dir), source.name)
    if result["smoke"]:
        raise ValueError(f"`run_dir` must be a full run, got the smoke run {str(run_dir)!r}")
    return result
