"""What a run directory holds, finished or not, and which runs belong together."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rnn_jax.report.fields import differing_fields, field_text, read_object
from rnn_jax.training.logging import read_metrics

__all__ = ["RunGroup", "RunRecord", "group_runs", "read_run", "shared_settings"]

LABEL_FIELDS = 4
"""How many settings the name of a group may hold."""


class RunRecord(NamedTuple):
    """What is known of one run.

    Args:
      path: its directory.
      experiment: name of the experiment.
      config: its configuration as nested plain data.
      environment: what `rnn_jax.training.describe_environment` wrote down; empty if unreadable.
      rows: the logged rows, oldest first; may be none.
      result: what the finished run wrote to `result.json`; None for an unfinished one.
      figures: PNG files in its `figures` folder.
      notes: what could not be read, one sentence each.

    Example:
      >>> RunRecord(Path("runs/a"), "a", {"seed": 3}, {}, (), None, (), ()).result is None
      True
    """

    path: Path
    experiment: str
    config: dict[str, Any]
    environment: dict[str, Any]
    rows: tuple[dict[str, Any], ...]
    result: dict[str, Any] | None
    figures: tuple[Path, ...]
    notes: tuple[str, ...]


class RunGroup(NamedTuple):
    """Runs of one experiment whose configurations differ in the seed only.

    Args:
      letter: a short name: A, B, ...
      label: what sets this group apart from the others, or the name of the experiment.
      settings: the configuration that the runs share.
      runs: the runs.

    Example:
      >>> RunGroup("A", "cell = gru", {"cell": "gru"}, ()).letter
      'A'
    """

    letter: str
    label: str
    settings: dict[str, Any]
    runs: tuple[RunRecord, ...]


def read_run(run_dir: str | Path) -> RunRecord:
    """Reads a run directory. Only its configuration must be there; a killed run may lack the rest.

    Args:
      run_dir: the directory, from `rnn_jax.training.start_run`.

    Returns:
      the record; files that are damaged are as if they were missing, and are named in `notes`.

    Raises:
      ValueError: there is no readable `config.json`.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> _ = (folder / "config.json").write_text('{"seed": 3}')
      >>> read_run(folder).config, read_run(folder).rows, read_run(folder).result
      ({'seed': 3}, (), None)
    """
    run_dir = Path(run_dir)
    config = read_object(run_dir, "config.json")
    notes: list[str] = []
    environment = _optional_object(run_dir, "environment.json", notes) or {}
    result = _optional_object(run_dir, "result.json", notes)
    if result is not None and not isinstance(result.get("metrics"), Mapping):
        notes.append("result.json holds no metrics")
        result = None
    figures = sorted((run_dir / "figures").glob("*.png"))
    pictures = tuple(path for path in figures if path.read_bytes().startswith(b"\x89PNG"))
    notes += [f"figures/{path.name} is not a PNG picture" for path in figures if path not in pictures]
    return RunRecord(
        path=run_dir,
        experiment=str((result or {}).get("experiment") or run_dir.resolve().parent.name),
        config=config,
        environment=environment,
        rows=_rows(run_dir, notes),
        result=result,
        figures=pictures,
        notes=tuple(notes),
    )


def group_runs(runs: Sequence[RunRecord]) -> tuple[RunGroup, ...]:
    """Puts runs together that differ in the seed only.

    Args:
      runs: the runs.

    Returns:
      the groups, in the order of their first runs. A group's label names the settings in which it
      differs from other groups of the experiment, and the experiment where there are several.

    Example:
      >>> runs = [RunRecord(Path("r"), "toy", {"cell": cell, "seed": seed}, {}, (), None, (), ())
      ...         for cell in ("gru", "lstm") for seed in (0, 1)]
      >>> [(group.letter, group.label, len(group.runs)) for group in group_runs(runs)]
      [('A', 'cell = gru', 2), ('B', 'cell = lstm', 2)]
    """
    found: dict[str, list[RunRecord]] = {}
    for run in runs:
        key = json.dumps([run.experiment, shared_settings(run.config)], sort_keys=True)
        found.setdefault(key, []).append(run)
    groups = [RunGroup(_letter(n), "", shared_settings(g[0].config), tuple(g)) for n, g in enumerate(found.values())]
    several = len({group.runs[0].experiment for group in groups}) > 1
    return tuple(group._replace(label=_label(group, groups, several)) for group in groups)


def shared_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without its seed: what repetitions of a run share.

    Args:
      config: a configuration as nested plain data.

    Returns:
      the same without the field `seed` at the top.

    Example:
      >>> shared_settings({"cell": "gru", "seed": 3})
      {'cell': 'gru'}
    """
    return {name: value for name, value in config.items() if name != "seed"}


def _label(group: RunGroup, groups: Sequence[RunGroup], several: bool) -> str:
    """What sets a group apart from the others."""
    experiment = group.runs[0].experiment
    siblings = [other for other in groups if other.runs[0].experiment == experiment]
    differing = differing_fields([other.settings for other in siblings])
    own = [f"{name} = {field_text(values[siblings.index(group)])}" for name, values in differing.items()]
    if len(own) > LABEL_FIELDS:
        own = [*own[: LABEL_FIELDS - 1], f"{len(own) - LABEL_FIELDS + 1} more"]
    settings = ", ".join(own)
    if not settings:
        return experiment
    return f"{experiment}: {settings}" if several else settings


def _letter(number: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    head, last = divmod(number, 26)
    return (_letter(head - 1) if head else "") + chr(ord("A") + last)


def _optional_object(run_dir: Path, name: str, notes: list[str]) -> dict[str, Any] | None:
    """The JSON object of a file that a killed run may lack or have left unfinished."""
    if not (run_dir / name).is_file():
        return None
    try:
        return read_object(run_dir, name)
    except ValueError:
        notes.append(f"{name} is damaged")
        return None


def _rows(run_dir: Path, notes: list[str]) -> tuple[dict[str, Any], ...]:
    """The logged rows; none where nothing was logged."""
    if not (run_dir / "metrics.jsonl").is_file():
        return ()
    try:
        return tuple(row for row in read_metrics(run_dir) if isinstance(row, dict))
    except ValueError as error:
        notes.append(f"metrics.jsonl is damaged: {str(error).partition(' of ')[0]}")
        return ()
