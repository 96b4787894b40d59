"""The list of experiments as text: question, claims, what was measured, how long it took."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from experiments import catalogue
from experiments.claims import Claim, applies, check_claim, claim_text
from rnn_jax.report import shared_settings, summarize, summary_text
from rnn_jax.report.numbers import is_number

__all__ = ["Measured", "measured", "print_list", "results_table"]

WIDE = 130
"""From this many columns on, the list also names the result files and their days."""


class Measured(NamedTuple):
    """Committed results that differ in the seed only, held against one claim.

    Args:
      stems: names of the result files.
      text: the measured number; with its spread where there are several.
      holds: for each result whether the claim holds.
      seconds: how long each took.
      day: the day of the last one.

    Example:
      >>> Measured(("scan",), "0.993", (True,), (564.0,), "2026-11-24").holds
      (True,)
    """

    stems: tuple[str, ...]
    text: str
    holds: tuple[bool, ...]
    seconds: tuple[float, ...]
    day: str


def measured(claim: Claim | None, results: dict[str, dict[str, Any]]) -> list[Measured]:
    """Puts the results together that differ in the seed only, or in how long they were allowed to take.

    Args:
      claim: what they are held against; None: nothing.
      results: `{file stem: result}`, from `catalogue.load_results`.

    Returns:
      one item for each configuration that the claim is made about.

    Example:
      >>> claim = Claim("nll", 0.0, 8.7, "paper")
      >>> results = {f"toy-seed{seed}": {"config": {"seed": seed}, "metrics": {"nll": nll}, "seconds": 60.0,
      ...            "start_time": "2026-11-24T10:00:00"} for seed, nll in enumerate((8.4, 8.6))}
      >>> measured(claim, results)[0].text
      '8.50 ± 0.14 (2 seeds)'
    """
    groups: dict[str, list[str]] = {}
    for stem, result in results.items():
        if claim is None or applies(claim, result["config"]):
            settings = {key: value for key, value in shared_settings(result["config"]).items() if key != "max_seconds"}
            groups.setdefault(json.dumps(settings, sort_keys=True), []).append(stem)
    found = []
    for stems in groups.values():
        group = [results[stem] for stem in stems]
        holds = () if claim is None else tuple(check_claim(claim, result["metrics"]).holds for result in group)
        found.append(
            Measured(
                stems=tuple(stems),
                text="" if claim is None else _number([result["metrics"].get(claim.metric) for result in group]),
                holds=holds,
                seconds=tuple(result["seconds"] for result in group),
                day=max(result["start_time"] for result in group)[:10],
            )
        )
    return found


def print_list(console: Console) -> None:
    """Prints every experiment with its claims and the committed numbers.

    Args:
      console: where to; in its width.

    Raises:
      ValueError: a committed result cannot be read.

    Example:
      >>> import io
      >>> console = Console(file=io.StringIO(), width=100)
      >>> print_list(console)
      >>> "bach_chorales" in console.file.getvalue()
      True
    """
    verdicts: list[bool | None] = []
    names = catalogue.experiment_names()
    blocks = []
    for name in names:
        experiment = catalogue.load_experiment(name)
        results = catalogue.load_results(name)
        rows: list[tuple[Text | str, ...]] = []
        for claim in experiment.claims:
            items = measured(claim, results)
            verdicts += [all(item.holds) for item in items] or [None]
            rows += _claim_rows(claim, items)
        unclaimed = {stem: results[stem] for stem in catalogue.unclaimed_results(experiment)}
        for item in measured(None, unclaimed):
            rows.append(("", Text(f"no claim about {_stems(item)}", "dim"), "", *_where(item)))
        if not rows:
            rows.append(("", Text("no claim", "dim"), "", "", "", ""))
        blocks.append((experiment, rows))
    widths = [max(len(row[column]) for _, rows in blocks for row in rows) for column in range(6)]
    for experiment, rows in blocks:
        console.print(Text.assemble((experiment.name, "bold cyan"), "  ", experiment.question))
        console.print(Padding(_table(rows, widths, console.width), (0, 0, 0, 2)))
        console.print()
    console.print(_summary(len(names), verdicts), highlight=False)


def results_table() -> str:
    """The committed results of all experiments as Markdown that unfolds, one row for each claim: what the README shows.

    Returns:
      one block for each experiment that claims something, ending in a newline. A row has no conditions: the claim is
      held against results that meet them.

    Raises:
      ValueError: a committed result cannot be read.

    Example:
      >>> results_table().splitlines()[0].startswith("<details><summary><b>adding_problem</b>: ")
      True
    """
    blocks = []
    for name in catalogue.experiment_names():
        experiment, results = catalogue.load_experiment(name), catalogue.load_results(name)
        items = [(claim, item) for claim in experiment.claims for item in measured(claim, results)]
        if items:
            held = sum(all(item.holds) for _, item in items)
            rows = [
                (claim_text(claim._replace(when={})), f"**{item.text}**", claim.source, _runs(item, results))
                for claim, item in items
            ]
            blocks.append(
                f"<details><summary><b>{name}</b>: {experiment.question} {held} of {len(items)} hold.</summary>\n\n"
                f"{_markdown_row(('claim', 'measured', 'source of the claim', 'training and all'))}"
                f"|---|---|---|---|\n{''.join(map(_markdown_row, rows))}\n</details>\n"
            )
    return "\n".join(blocks)


def _markdown_row(cells: Sequence[str]) -> str:
    """A line of a table; a bar in a cell does not end it."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _runs(item: Measured, results: dict[str, dict[str, Any]]) -> str:
    """File, time and place, for the README."""
    device = results[item.stems[0]]["device"]
    if device["backend"] == "cpu":
        place = f"{device['cpu_count']} core{'s' * (device['cpu_count'] != 1)}"
    else:
        place = f"{device['count']} x {device['kind']}"
    return f"`{_stems(item)}`, {_where(item)[0]}, {place}"


def _claim_rows(claim: Claim, items: Sequence[Measured]) -> list[tuple[Text | str, ...]]:
    """A claim with its number; with several configurations, one line more for each."""
    text = claim_text(claim)
    if not items:
        return [("", text, Text("none yet", "dim"), "", "", "")]
    if len(items) == 1:
        return [(_verdict(items[0]), text, _value(items[0]), *_where(items[0]))]
    rows: list[tuple[Text | str, ...]] = [("", text, "", "", "", "")]
    for item in items:
        rows.append((_verdict(item), Text(f"  {_stems(item)}", "dim"), _value(item), *_where(item)))
    return rows


def _table(rows: Sequence[Sequence[Text | str]], widths: Sequence[int], width: int) -> Table:
    """Rows in columns that are as wide in every block; the claim takes what is left of the width."""
    shown = 6 if width >= WIDE else 4
    left = width - 2 - 2 * (shown - 1) - sum(widths[:shown]) + widths[1]
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(width=widths[0])
    table.add_column(width=max(min(widths[1], left), 12), overflow="fold")
    table.add_column(width=widths[2], no_wrap=True)
    table.add_column(width=widths[3], justify="right", no_wrap=True)
    if shown > 4:
        table.add_column(width=widths[4], style="dim", overflow="fold")
        table.add_column(width=widths[5], style="dim", no_wrap=True)
    for row in rows:
        table.add_row(*row[:shown])
    return table


def _verdict(item: Measured) -> Text:
    return Text("ok", "green") if all(item.holds) else Text("FAIL", "bold red")


def _value(item: Measured) -> Text:
    """The measured number, and how many of several results miss."""
    misses = item.holds.count(False)
    several = f", {misses} of {len(item.holds)} miss" if misses and len(item.holds) > 1 else ""
    return Text(f"{item.text}{several}", "green" if not misses else "bold red")


def _where(item: Measured) -> tuple[str, str, str]:
    """Time, file and day."""
    low, high = _duration(min(item.seconds)), _duration(max(item.seconds))
    number, unit = low.split()
    time = high if low == high else f"{number}-{high}" if high.endswith(unit) else f"{low}-{high}"
    return time, _stems(item), item.day


def _stems(item: Measured) -> str:
    """`toy-seed0 and 2 more` for several files."""
    return item.stems[0] if len(item.stems) == 1 else f"{item.stems[0]} and {len(item.stems) - 1} more"


def _number(values: Sequence[Any]) -> str:
    """A number, or mean and spread of several; what is no number is shown as it is."""
    if not all(map(is_number, values)):
        return ", ".join("missing" if value is None else str(value) for value in values)
    text = summary_text(summarize(values))
    return text if len(values) == 1 else f"{text} ({len(values)} seeds)"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _summary(experiments: int, verdicts: Sequence[bool | None]) -> str:
    """The last line."""
    parts = [f"{verdicts.count(True)} held", f"{verdicts.count(False)} missed", f"{verdicts.count(None)} not measured"]
    counted = ", ".join(part for part in parts if not part.startswith("0 "))
    plurals = ["" if count == 1 else "s" for count in (experiments, len(verdicts))]
    return f"{experiments} experiment{plurals[0]}, {len(verdicts)} claim{plurals[1]}{': ' if counted else ''}{counted}"
