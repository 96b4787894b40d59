"""Conducts a run: workers build, their results are held against the reference, and they take turns."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import Case, work
from benchmarks.machine import busy_seconds
from benchmarks.peers import OURS, PEERS, Entry, entries, is_there
from benchmarks.problems import make_problem, real_steps
from benchmarks.processes import ROOT, Failed, Workers
from benchmarks.ratios import TOLERANCE, block_ratios, blocks, difference, middle

REFERENCE = Entry("lax.scan", "float64")
SLOW_S = 2.0
"""Of longer calls one a turn is enough."""
Row = dict[str, Any]
"""What is known of one entry in one case: `status` and what belongs to it."""


class Settings(NamedTuple):
    """How thoroughly to measure.

    Attributes:
        rounds: rounds of turns.
        turn_s: how long one turn should last.
        smoke: nobody looks at the times: workers build at the same time, spread over the cores, optimise little, and
            rates that are not needed are not measured.
    """

    rounds: int
    turn_s: float
    smoke: bool


def available_cpus() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def conduct(
    cases: Sequence[Case],
    cores: Sequence[int],
    settings: Settings,
    note: Callable[[dict[str, Any]], None],
    say: Callable[[str], None] = print,
) -> None:
    """Measures all cases.

    Args:
        cases: what to measure.
        cores: numbers of cores, one setting after another.
        settings: how thoroughly.
        note: is given each measurement when it is complete.
        say: is given lines about the progress.
    """
    todo = [(number, case) for number in cores for case in cases if number in case.cores]
    expected = [estimate(case, number, settings) for number, case in todo]
    say(f"{len(todo)} measurements, about {sum(expected) / 60:.0f} minutes")
    started, done = time.perf_counter(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in cores:
            with started_workers(number, settings) as workers:
                for (_, case), seconds in [pair for pair in zip(todo, expected, strict=True) if pair[0][0] == number]:
                    note(measure(case, number, workers, settings, Path(folder)))
                    done += seconds
                    passed = time.perf_counter() - started
                    left = passed * (sum(expected) - done) / done / 60
                    say(f"{case.name}, {number} core(s): done; {passed / 60:.1f} minutes so far, about {left:.1f} left")


@contextmanager
def started_workers(cores: int, settings: Settings) -> Iterator[Workers]:
    """The workers of a setting, on the last cores there are."""
    cpus = available_cpus()
    workers = Workers(cpus if settings.smoke else cpus[-cores:], smoke=settings.smoke)
    try:
        yield workers
    finally:
        workers.end()


def estimate(case: Case, cores: int, settings: Settings) -> float:
    """About how many seconds a case takes: at 60 GFLOP/s and 3 GB/s a core, and some seconds to compile."""
    count = sum(is_there(entry.peer) for entry in entries(case, cores))
    flops, size = work(case)
    call = max(flops / (60e9 * cores), size / 3e9, 0.5 if case.program == "compile" else 0.0)
    turn = max(2 * call, settings.turn_s) + 0.05
    turns = 2 * count if cores > 1 else 1.5 * count
    build = (0.4 if settings.smoke else 1.2) + 3 * call
    if case.program == "import":
        return 1.0 * count * (settings.rounds + (not settings.smoke))
    return (count + 1) * build + settings.rounds * turns * turn


def measure(case: Case, cores: int, workers: Workers, settings: Settings, folder: Path) -> dict[str, Any]:
    """One case on some cores.

    Args:
        case: the case.
        cores: how many.
        workers: the workers of this setting.
        settings: how thoroughly.
        folder: for results of workers; references stay there for the next setting.

    Returns:
        the measurement: case, cores, `busy`, the cores that other processes kept busy meanwhile, limit, rates, seconds
        spent, and a row for each entry.
    """
    others = _busy_others(workers)
    started = time.perf_counter()
    rows: dict[str, Row] = {}
    for peer, known in PEERS.items():
        if case.family in known.refusals and case.program in known.programs:
            rows[peer] = {"status": "not the same", "why": known.refusals[case.family]}
    present = []
    for entry in entries(case, cores):
        if is_there(entry.peer):
            present.append(entry)
        else:
            rows[entry.label] = {"status": "not installed"}
    found: dict[str, Any] = {"case": case._asdict(), "cores": cores, "rows": rows}
    if case.program == "import":
        _time_imports(present, workers, settings, rows)
        return found | {"limit_s": rows.get("lax.scan", {}).get("seconds"), "busy": None}
    ready = _build(case, present, workers, settings, folder, rows)
    found["rates"] = _rates(case, ready, workers, settings)
    found["limit_s"] = limit(case, found["rates"])
    built = time.perf_counter()
    _take_turns(ready, workers, settings, rows)
    done = time.perf_counter()
    found["spent_s"] = {"building": built - started, "turns": done - built}
    found["busy"] = max(_busy_others(workers) - others, 0.0) / (done - started) if busy_seconds() else None
    return found


def _busy_others(workers: Workers) -> float:
    """The CPU seconds that other processes than these have had."""
    return (busy_seconds() or 0.0) - workers.busy_seconds()


def limit(case: Case, rates: dict[str, float]) -> float | None:
    """The least seconds that a case can take at the measured rates; None where nothing is known."""
    if case.program == "stream":
        return rates["empty_s"] + rates["read_s"] if "empty_s" in rates else None
    share = real_steps(make_problem(case)) if case.family == "bidirectional" else 1.0
    flops, size = work(case, share)
    needs = [(flops, rates.get("gemm_flops")), (size, rates.get("copy_bytes"))]
    seconds = [amount / rate for amount, rate in needs if amount and rate]
    return max(seconds) if seconds else None


def _build(
    case: Case, present: list[Entry], workers: Workers, settings: Settings, folder: Path, rows: dict[str, Row]
) -> list[Entry]:
    """Builds all entries and checks their results; returns those that may be timed."""
    expected = folder / f"{case.name}.npz"
    paths = {entry: folder / f"{entry.label}.npz" for entry in present}
    asked: dict[Entry, Path] = {} if expected.exists() else {REFERENCE: expected}
    asked |= paths
    failures: dict[Entry, str] = {}
    answers: dict[Entry, dict[str, Any]] = {}
    for entry in asked:
        workers.get(entry)  # they start together
    order = list(asked)
    for group in [order] if settings.smoke else [[entry] for entry in order]:
        told = [entry for entry in group if _tried(failures, entry, lambda e: workers.get(e).facts) is not None]
        for entry in told:
            _tried(
                failures, entry, lambda e: workers.get(e).tell("build", case=case._asdict(), path=str(asked[e])) or {}
            )
        for entry in told:
            if entry not in failures:
                answers[entry] = _tried(failures, entry, lambda e: workers.get(e).hear()) or {}
    if not expected.exists():
        reason = f"no reference: {failures.get(REFERENCE, 'unknown')}"
        rows |= {entry.label: {"status": "failed", "why": reason} for entry in present}
        return []
    reference, ready = _load(expected), []
    for entry in present:
        if entry in failures:
            rows[entry.label] = {"status": "failed", "why": failures[entry]}
            continue
        lacks = PEERS[entry.peer].lacks.get(case.family, ())
        wanted = {name: value for name, value in reference.items() if name not in lacks}
        error, name = difference(wanted, _load(paths[entry]))
        facts = answers[entry]["facts"] | workers.get(entry).facts
        row = {"difference": error if np.isfinite(error) else None, "of": name, "lacks": list(lacks), "facts": facts}
        if error <= TOLERANCE:
            rows[entry.label] = {"status": "timed", **row}
            ready.append(entry)
        else:
            rows[entry.label] = {"status": "differs", "why": f"{name} is off by {error:.1e}", **row}
        paths[entry].unlink()
    return ready


def _tried(failures: dict[Entry, str], entry: Entry, call: Callable[[Entry], Any]) -> Any:
    """The result of a call about an entry; None, and a failure, if it fails."""
    try:
        return call(entry)
    except Failed as error:
        failures[entry] = str(error)
        return None


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def _rates(case: Case, ready: list[Entry], workers: Workers, settings: Settings) -> dict[str, float]:
    """The best rates that our process and torch's reach now; in a smoke run only where a stream needs them."""
    streamed = case.program == "stream"
    size = int(work(case)[1])
    best: dict[str, float] = {}
    for entry in ready:
        if entry not in (Entry(OURS), Entry("torch")) or (settings.smoke and not streamed):
            continue
        try:
            rates = workers.get(entry).ask("rates", copied=0 if streamed else size, read=size if streamed else 0)
        except Failed:
            continue
        for name, value in rates.items():
            choose = min if name.endswith("_s") else max
            best[name] = choose(best.get(name, value), value)
    return best


def _take_turns(ready: list[Entry], workers: Workers, settings: Settings, rows: dict[str, Row]) -> None:
    """Times all entries in rounds of turns, and notes times and ratios in their rows."""
    by_label = {entry.label: entry for entry in ready}
    for label in by_label:
        rows[label] |= {"times": [], "p99": [], "ratios": {}, "recompiled": 0}
    for number in range(settings.rounds):
        ours = [label for label in by_label if by_label[label].peer == OURS and rows[label]["status"] == "timed"]
        others = [label for label in by_label if label not in ours and rows[label]["status"] == "timed"]
        for block in blocks(ours, others, number):
            times = {}
            for label in block:
                seconds = _turn(by_label[label], workers, settings, rows[label])
                if seconds is not None:
                    times[label] = seconds
            for label, ratios in block_ratios(times, ours).items():
                for name, value in ratios.items():
                    rows[label]["ratios"].setdefault(name, []).append(value)
    for label in by_label:
        rows[label]["seconds"] = middle(rows[label]["times"])


def _turn(entry: Entry, workers: Workers, settings: Settings, row: Row) -> float | None:
    """One turn: the median of some calls, or None where the worker fails."""
    once = max(row["facts"]["second_call_s"], 1e-6)
    least = 1 if settings.smoke or once > SLOW_S else 2
    repeats = int(np.clip(settings.turn_s / once, least, 2000))
    try:
        answer = workers.get(entry).ask("time", repeats=repeats, warm_up=int(np.clip(0.05 / once, 0, 20)))
    except Failed as error:
        row |= {"status": "failed", "why": str(error)}
        return None
    row["times"].append(answer["median_s"])
    row["p99"].append(answer["p99_s"])
    row["recompiled"] += answer["compilations"]
    return answer["median_s"]


def _time_imports(present: list[Entry], workers: Workers, settings: Settings, rows: dict[str, Row]) -> None:
    """Whole processes that import one library each; the first round does not count. Import of jax is the limit."""
    for entry in present:
        rows[entry.label] = {"status": "timed", "times": [], "ratios": {}}
    warm_up = 0 if settings.smoke else 1
    for number in range(settings.rounds + warm_up):
        seconds = {}
        for entry in present:
            if rows[entry.label]["status"] != "timed":
                continue
            started = time.perf_counter()
            error = _import(PEERS[entry.peer].module, workers.cpus)
            if error:
                rows[entry.label] = {"status": "failed", "why": error}
                continue
            seconds[entry.label] = time.perf_counter() - started
        if number < warm_up:
            continue
        for label, value in seconds.items():
            rows[label]["times"].append(value)
        for label, ratios in block_ratios(seconds, [OURS]).items():
            for name, value in ratios.items():
                rows[label]["ratios"].setdefault(name, []).append(value)
    for row in rows.values():
        if "times" in row:
            row["seconds"] = middle(row["times"])


def _import(module: str, cpus: list[int]) -> str:
    """Imports a module in a process of its own; returns the last line of its error, or nothing."""
    pin = f"import os; hasattr(os, 'sched_setaffinity') and os.sched_setaffinity(0, {cpus}); "
    command = [sys.executable, "-c", f"{pin}import {module}"]
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit status {done.returncode}") if done.returncode else ""
