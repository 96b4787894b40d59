"""Lists the experiments; checks their claims; keeps their results.

python -m experiments                            the list: question, claim, last result
python -m experiments check NAME                 exit code 1 where a claim does not hold
python -m experiments save RUN_DIR [--label L]   copy a result to experiments/results/
python -m experiments table                      the committed results as Markdown, for the README
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments import catalogue
from experiments.claims import applies, check_claim, claim_text

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      args: the command line without the program; `sys.argv[1:]` if None.

    Returns:
      the exit code: 0; 1 where a claim does not hold or has no result; 2 where the command itself
      was wrong, with an explanation on standard error.

    Example:
      >>> main(["check", "no_such_experiment"])
      2
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    check = commands.add_parser("check", help="compare the claims with the committed results")
    check.add_argument("name", help="name of the experiment")
    save = commands.add_parser("save", help="copy the result of a run to experiments/results/")
    save.add_argument("run_dir", help="directory of a finished run")
    save.add_argument("--label", default="", help="tells several results of one experiment apart")
    save.add_argument("--overwrite", action="store_true", help="replace the file that is there")
    commands.add_parser("table", help="print the committed results as Markdown")
    parsed = parser.parse_args(args)
    try:
        if parsed.command == "table":
            print(catalogue.results_table(), end="")
            return 0
        if parsed.command == "check":
            return _check(parsed.name)
        if parsed.command == "save":
            path = catalogue.save_result(parsed.run_dir, label=parsed.label, overwrite=parsed.overwrite)
            _say(f"saved {path}")
            return 0
        return _list()
    except (ValueError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _list() -> int:
    """Prints every experiment with its claims and the committed numbers."""
    table = Table("experiment", "question", "claim", "last result", title_justify="left")
    table.add_column("time", justify="right")
    for name in catalogue.experiment_names():
        experiment = catalogue.load_experiment(name)
        results = catalogue.load_results(name)
        first = True
        for claim in experiment.claims or (None,):
            shown = [result for result in results.values() if claim is None or applies(claim, result["config"])]
            table.add_row(
                name if first else "",
                experiment.question if first else "",
                "none" if claim is None else claim_text(claim),
                "\n".join(_verdict(claim, result) for result in shown) or "[dim]none yet[/]",
                "\n".join(_duration(result["seconds"]) for result in shown),
            )
            first = False
        table.add_section()
    Console().print(table)
    return 0


def _verdict(claim: Any, result: dict[str, Any]) -> str:
    """The claimed number of a result, green where the claim holds."""
    if claim is None:
        return result["start_time"][:10]
    value = result["metrics"].get(claim.metric)
    style = "green" if check_claim(claim, result["metrics"]).holds else "bold red"
    return f"[{style}]{value:.5g}[/]" if isinstance(value, float) else f"[{style}]{value}[/]"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _check(name: str) -> int:
    """Prints one line for each claim and result."""
    checks = catalogue.check_experiment(catalogue.load_experiment(name))
    if not checks:
        _say(f"{name} makes no claim")
    for check in checks:
        _say(f"{'ok  ' if check.holds else 'FAIL'} {check.text}")
    return 0 if all(check.holds for check in checks) else 1


def _say(line: str) -> None:
    Console().print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
