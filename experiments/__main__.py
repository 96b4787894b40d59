"""Lists the experiments; checks their claims; keeps, compares and reports their results.

python -m experiments                              the list: question, claims, last results
python -m experiments check NAME ...               committed results against claims; exit code 1 where one misses
python -m experiments check --all                  the same for every experiment
python -m experiments check RUN_DIR ...            a fresh run against the claims about its configuration
python -m experiments diff RUN_DIR RUN_DIR         the settings in which two runs differ
python -m experiments report RUN_DIR ...           one HTML page that compares runs, finished or not
python -m experiments save RUN_DIR [--label L]     copy a result to experiments/results/
python -m experiments table                        the committed results as Markdown, for the README
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments import catalogue
from experiments.claims import ClaimCheck
from experiments.configuration import diff_configs
from experiments.listing import print_list, results_table
from rnn_jax.report import write_comparison
from rnn_jax.report.fields import field_text, read_object

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
    parsed = _parser().parse_args(args)
    try:
        match parsed.command:
            case "check":
                return _check(parsed.targets, parsed.all)
            case "diff":
                _diff(parsed.a, parsed.b)
            case "report":
                output = parsed.output or _page_path(parsed.run_dirs)
                # A pattern such as runs/NAME/* also matches the page of the last time.
                run_dirs = [run_dir for run_dir in parsed.run_dirs if Path(run_dir).resolve() != output.resolve()]
                _say(f"wrote {write_comparison(run_dirs, output, overwrite=parsed.overwrite)}")
            case "save":
                path = catalogue.save_result(parsed.run_dir, label=parsed.label, overwrite=parsed.overwrite)
                _say(f"saved {path}")
            case "table":
                print(results_table(), end="")
            case _:
                print_list(Console())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    check = commands.add_parser("check", help="hold committed results or fresh runs against the claims")
    check.add_argument("targets", nargs="*", metavar="NAME|RUN_DIR", help="an experiment, or the directory of a run")
    check.add_argument("--all", action="store_true", help="every experiment")
    diff = commands.add_parser("diff", help="print the settings in which two runs differ")
    diff.add_argument("a", metavar="RUN_DIR")
    diff.add_argument("b", metavar="RUN_DIR")
    report = commands.add_parser("report", help="write one HTML page that compares runs")
    report.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="directory of a run, finished or not")
    report.add_argument("--output", type=Path, help="the page; report.html in the folder that holds the runs if absent")
    report.add_argument("--overwrite", action="store_true", help="replace the page that is there")
    save = commands.add_parser("save", help="copy the result of a run to experiments/results/")
    save.add_argument("run_dir", help="directory of a finished run")
    save.add_argument("--label", default="", help="tells several results of one experiment apart")
    save.add_argument("--overwrite", action="store_true", help="replace the file that is there")
    commands.add_parser("table", help="print the committed results as Markdown")
    return parser


def _check(targets: Sequence[str], everything: bool) -> int:
    """Prints one line for each claim and result."""
    if everything == bool(targets):
        raise ValueError("`check` must be given names, run directories or --all, and not both")
    found = catalogue.check_all() if everything else {target: _check_target(target) for target in targets}
    for target, checks in found.items():
        for check in checks:
            _say(f"{'ok  ' if check.holds else 'FAIL'} {check.text}")
        if not checks:
            _say(f"     {target}: no claim is made about it")
    failed = {target: sum(not check.holds for check in checks) for target, checks in found.items()}
    if everything or len(found) > 1:
        missing = [f"{target} ({count})" for target, count in failed.items() if count]
        total = sum(map(len, found.values()))
        if missing:
            _say(f"{sum(failed.values())} of {total} checks fail: {', '.join(missing)}")
        else:
            _say(f"all {total} checks hold")
    return 1 if any(failed.values()) else 0


def _check_target(target: str) -> list[ClaimCheck]:
    """An experiment's name comes first; a directory of the same name is `./NAME`."""
    if target not in catalogue.experiment_names() and Path(target).is_dir():
        return catalogue.check_run(target)
    return catalogue.check_experiment(catalogue.load_experiment(target))


def _diff(a: str, b: str) -> None:
    """Prints the fields that differ, one a row."""
    differing = diff_configs(*(read_object(Path(run_dir), "config.json") for run_dir in (a, b)))
    if not differing:
        _say("the configurations are equal")
        return
    table = Table("setting")
    for run_dir in (a, b):
        table.add_column(Text(run_dir), overflow="fold")
    for name, values in differing.items():
        table.add_row(*map(Text, (name, *map(field_text, values))))
    Console().print(table)


def _page_path(run_dirs: Sequence[str]) -> Path:
    """Where the page goes by itself: into the folder that holds all runs; for one run, into its directory."""
    return Path(os.path.commonpath([Path(run_dir).resolve() for run_dir in run_dirs])) / "report.html"


def _say(line: str) -> None:
    Console().print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
