"""One HTML page that compares runs and needs nothing but a browser: pictures are inside, there is no script."""

import base64
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from rnn_jax.report.curves import draw_series, group_style, picture, series_names
from rnn_jax.report.fields import ABSENT, differing_fields, field_text, flatten
from rnn_jax.report.numbers import Curve, curves, is_number, number_text, summarize, summary_text
from rnn_jax.report.runs import RunGroup, RunRecord, group_runs, read_run

__all__ = ["write_comparison"]

OPEN_SERIES = 12
"""How many learning curves are seen at once; the rest is folded away."""


def write_comparison(run_dirs: Sequence[str | Path], output: str | Path, *, overwrite: bool = False) -> Path:
    """Writes one HTML page that compares runs.

    It shows the runs and whether they finished, the final metrics (mean and sample standard
    deviation over runs that differ in the seed only), the claims, a learning curve of every logged
    number, the settings that differ, the pictures of the runs, and where they ran. Unfinished runs
    are shown with what they have logged, and count in no mean.

    Args:
      run_dirs: directories of runs, in the order in which they are shown.
      output: the page; missing directories are made.
      overwrite: replace the file that is there.

    Returns:
      the path of the page.

    Raises:
      ValueError: there is no run, one is named twice, or one has no readable `config.json`.
      FileExistsError: there is such a file and `overwrite` is False.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> _ = (folder / "config.json").write_text('{"cell": "gru", "seed": 3}')
      >>> page = write_comparison([folder], folder / "report.html")
      >>> "unfinished" in page.read_text()
      True
    """
    output = Path(output)
    if not run_dirs:
        raise ValueError("`run_dirs` must hold at least one run, got none")
    seen: set[Path] = set()
    for run_dir in run_dirs:
        if Path(run_dir).resolve() in seen:
            raise ValueError(f"`run_dirs` must be different runs, got {str(run_dir)!r} twice")
        seen.add(Path(run_dir).resolve())
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; pass overwrite=True (on the command line: --overwrite) to replace it")
    html = _render([read_run(run_dir) for run_dir in run_dirs])
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w" if overwrite else "x", encoding="utf-8") as file:
        file.write(html)
    return output


def _render(runs: Sequence[RunRecord]) -> str:
    """Fills the template, which escapes everything that is put into it."""
    groups = group_runs(runs)
    names = {id(run): f"{group.letter}{n}" for group in groups for n, run in enumerate(group.runs, start=1)}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rnn_jax.report", package_path=""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    claims = _claims(groups, names)
    verdicts = [verdict["holds"] for claim in claims for verdict in claim["verdicts"]]
    finished = sum(run.result is not None for run in runs)
    series = series_names(runs)
    drawn = [{"name": name, "source": _svg(draw_series(groups, name))} for name in series]
    return environment.get_template("page.html.jinja").render(
        title=", ".join(dict.fromkeys(run.experiment for run in runs)),
        counts=_counts(len(runs), len(groups), finished, verdicts),
        groups=[_group(index, group, names) for index, group in enumerate(groups)],
        several=len(groups) > 1,
        repeated=any(len(group.runs) > 1 for group in groups),
        bands=any(len(found) > 1 for group in groups for found in _curves_of(group, series)),
        metrics=_metrics(groups),
        each=_each(groups, names),
        claims=claims,
        unfinished=finished < len(runs),
        any_finished=finished > 0,
        any_smoke=any((run.result or {}).get("smoke") for run in runs),
        curves=drawn[:OPEN_SERIES],
        more_curves=drawn[OPEN_SERIES:],
        differing=_by_group(differing_fields([group.settings for group in groups])),
        settings=_by_group(_all_fields([group.settings for group in groups])),
        figures=_figures(groups, names),
        environment=_environment(groups, names),
    )


def _curves_of(group: RunGroup, series: Sequence[str]) -> list[list[Curve]]:
    """For each logged number the curves of a group."""
    return [[each for run in group.runs for each in curves(run.rows, name)] for name in series]


def _counts(runs: int, groups: int, finished: int, verdicts: Sequence[bool]) -> list[str]:
    """The first line of the page, in parts."""
    parts = [_plural(runs, "run"), _plural(groups, "configuration"), f"{finished} finished"]
    if finished < runs:
        parts.append(f"{runs - finished} unfinished")
    if verdicts:
        parts.append(f"{sum(verdicts)} of {_plural(len(verdicts), 'claim check')} hold")
    return parts


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _group(index: int, group: RunGroup, names: Mapping[int, str]) -> dict[str, Any]:
    """A group as the template wants it."""
    colour, dashes = group_style(index)
    rows = [
        {
            "name": names[id(run)],
            "folder": "/".join(run.path.resolve().parts[-2:]),
            "seed": field_text(run.config.get("seed", ABSENT)),
            "state": "unfinished" if run.result is None else "smoke run" if run.result.get("smoke") else "finished",
            "steps": max((int(row["step"]) for row in run.rows if is_number(row.get("step"))), default=0),
            "time": _seconds(run),
            "start": str(run.environment.get("start_time", "unknown")).replace("T", " ")[:16],
            "notes": (*run.notes, *_repeats(run, group, names)),
        }
        for run in group.runs
    ]
    dash = "" if isinstance(dashes, str) else " ".join(str(2 * length) for length in dashes[1])
    return {"letter": group.letter, "label": group.label, "colour": colour, "dash": dash, "runs": rows}


def _repeats(run: RunRecord, group: RunGroup, names: Mapping[int, str]) -> list[str]:
    """Says so where a run is not independent of an earlier one."""
    earlier = itertools.takewhile(lambda other: other is not run, group.runs)
    same = [names[id(other)] for other in earlier if other.config == run.config]
    return [f"same settings and seed as {same[0]}"] if same else []


def _seconds(run: RunRecord) -> str:
    """How long a run took, or how far its log reaches."""
    seconds = run.result.get("seconds") if run.result is not None else run.rows[-1].get("seconds") if run.rows else None
    if not is_number(seconds):
        return "unknown"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _finished(group: RunGroup) -> list[tuple[RunRecord, Mapping[str, Any]]]:
    """The finished runs of a group with their metrics."""
    return [(run, run.result["metrics"]) for run in group.runs if run.result is not None]


def _metric_names(groups: Sequence[RunGroup]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for _, metrics in _finished(group) for name in metrics))


def _metrics(groups: Sequence[RunGroup]) -> list[dict[str, Any]]:
    """One row for each metric, one cell for each group."""
    return [
        {"name": name, "cells": [_cell([metrics.get(name) for _, metrics in _finished(group)]) for group in groups]}
        for name in _metric_names(groups)
    ]


def _cell(values: Sequence[Any]) -> dict[str, Any]:
    """Mean and standard deviation of numbers; anything else is listed."""
    present = [value for value in values if value is not None]
    if not present:
        return {"text": "–", "mean": None, "sd": None, "note": ""}
    note = f"{len(present)} of {len(values)} runs" if len(present) < len(values) else ""
    if not all(map(is_number, present)):
        return {"text": ", ".join(dict.fromkeys(map(field_text, present))), "mean": None, "sd": None, "note": note}
    summary = summarize(present)
    return {"text": summary_text(summary), "mean": summary.mean, "sd": summary.sd, "note": note}


def _each(groups: Sequence[RunGroup], names: Mapping[int, str]) -> dict[str, Any]:
    """The metrics of every finished run by itself."""
    finished = [item for group in groups for item in _finished(group)]
    rows = [
        {"name": name, "cells": [_plain(metrics.get(name, ABSENT)) for _, metrics in finished]}
        for name in _metric_names(groups)
    ]
    return {"runs": [names[id(run)] for run, _ in finished], "rows": rows}


def _plain(value: Any) -> str:
    return number_text(value) if is_number(value) else _exact(value)


def _exact(value: Any) -> str:
    return "–" if value is ABSENT else field_text(value)


def _claims(groups: Sequence[RunGroup], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Every claim that the runs were held to, with the verdict on each run."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for group in groups:
        for run in group.runs:
            for claim in (run.result or {}).get("claims") or ():
                text, source = str(claim.get("claim", "")), str(claim.get("source", ""))
                said = str(claim.get("text", "")).removeprefix(text).removesuffix(f"({source})").strip()
                _, colon, value = said.partition(": ")
                shown = value if colon and not said.startswith("cannot") else said
                verdict = {"run": names[id(run)], "holds": claim.get("holds") is True, "text": shown}
                found.setdefault((text, source), []).append(verdict)
    return [{"text": text, "source": source, "verdicts": verdicts} for (text, source), verdicts in found.items()]


def _all_fields(configs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    flat = [flatten(config) for config in configs]
    return {name: tuple(each.get(name, ABSENT) for each in flat) for name in dict.fromkeys(itertools.chain(*flat))}


def _by_group(fields: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Rows of a table of settings, which are shown with all their digits."""
    return [{"name": name, "cells": [_exact(value) for value in values]} for name, values in fields.items()]


def _figures(groups: Sequence[RunGroup], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """The pictures of all runs, those of the same name together."""
    found: dict[str, list[dict[str, str]]] = {}
    for group in groups:
        for run in group.runs:
            for path in run.figures:
                image = {"run": names[id(run)], "source": _data("image/png", path.read_bytes())}
                found.setdefault(path.stem, []).append(image)
    return [{"name": name, "images": images} for name, images in sorted(found.items())]


def _environment(groups: Sequence[RunGroup], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Where the runs were made: each field once where all agree, else each value with its runs."""
    runs = [run for group in groups for run in group.runs]
    rows = []
    for name, values in _all_fields([run.environment for run in runs]).items():
        if name == "start_time":  # differs always, and stands beside the runs
            continue
        having: dict[str, list[str]] = {}
        for run, value in zip(runs, values, strict=True):
            having.setdefault(_exact(value), []).append(names[id(run)])
        several = len(having) > 1
        items = [{"text": text, "runs": ", ".join(who) if several else ""} for text, who in having.items()]
        rows.append({"name": name, "found": items})
    return rows


def _svg(ax: Any) -> str:
    return _data("image/svg+xml", picture(ax))


def _data(kind: str, content: bytes) -> str:
    """A picture as an address that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
