"""A run as Markdown."""

from collections.abc import Iterator
from typing import Any

from benchmarks.peers import OURS, PEERS
from benchmarks.ratios import TOLERANCE
from benchmarks.summary import findings, our_labels, ratio

HOW = f"""Every ratio is **our time / their time: below 1, rnn_jax is faster**; in brackets their time. Each peer runs
in a process of its own on the same weights and inputs, in turns with ours. A ratio compares turns side by side; shown
is the median over rounds, and `~` marks ratios that differ by more than half between rounds. A training step gives the
loss (a weighted sum of outputs) and the gradients of all parameters and inputs, float32. Before, outputs and gradients
were compared with those of a plain scan in float64 (within {TOLERANCE:.0e} of the largest entry of each array); what
differs is not timed. `limit` cannot be avoided: matrix products at the rate of a product of 1024 x 1024 in these
processes, or bytes at the rate of a copy of as many; for a stream an empty call and reading the weights; for an import
that of jax."""
UNSTEADY = 1.5
"""A ratio whose rounds differ by more than this factor is marked."""


def markdown(run: dict[str, Any]) -> str:
    """The report of a run.

    Args:
        run: `machine`, `settings` and `measurements`, as the JSON file has them.

    Returns:
        Markdown: machine, summary, a table of ratios for each number of cores, what could not be timed, and what
        compilers say.
    """
    machine, settings = run["machine"], run["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    dirty = ", with changes" if machine["dirty"] else ""
    busy = [one["busy"] for one in run["measurements"] if one["busy"] is not None]
    lines = [
        "# Benchmark",
        "",
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, {versions}, "
        f"commit {machine['commit']}{dirty}. "
        f"{settings['rounds']} round(s){', TINY SIZES: a smoke run' if settings['quick'] else ''}. "
        f"Other processes kept {min(busy, default=0):.1f} to {max(busy, default=0):.1f} cores busy meanwhile.",
        "",
        HOW,
        "",
        *_summary(run["measurements"]),
    ]
    for cores in sorted({one["cores"] for one in run["measurements"]}):
        lines += _ratios(cores, [one for one in run["measurements"] if one["cores"] == cores])
    return "\n".join([*lines, *_left_out(run["measurements"]), *_facts(run["measurements"])]) + "\n"


def duration(seconds: float | None) -> str:
    """Seconds in a unit that fits.

    Example:
        >>> duration(0.0123), duration(2.5), duration(4.2e-5), duration(None)
        ('12.3 ms', '2.5 s', '42 us', '')
    """
    if seconds is None:
        return ""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= factor or unit == "us":
            return f"{seconds / factor:.3g} {unit}"
    return ""


def _summary(measurements: list[dict[str, Any]]) -> list[str]:
    found = findings(measurements)
    if not found:
        return []
    lines = ["| in short | cores | ratio | largest | cases |", "|---|---|---|---|---|"]
    for one in found:
        worst = f"{one.worst[0]:.2f} ({one.worst[1]})" if one.worst else ""
        lines.append(f"| {one.what} | {one.cores} | **{one.value:.2f}** | {worst} | {one.count} |")
    return [*lines, ""]


def _ratios(cores: int, measurements: list[dict[str, Any]]) -> list[str]:
    """One row for each of our variants: plain beside plain, sharded beside sharded where a peer has it."""
    shown = {label.split()[0] for one in measurements for label, row in one["rows"].items() if row.get("seconds")}
    peers = [peer for peer in PEERS if peer in shown and peer != OURS]
    title = "One core, pinned" if cores == 1 else f"{cores} cores"
    note = "" if cores == 1 else "; `sharded`: rows of the batch (or networks) over one CPU device per core"
    lines = [f"## {title}{note}", "", f"| case | limit | rnn_jax | / limit | {' | '.join(peers)} |"]
    lines.append("|---" * (4 + len(peers)) + "|")
    for one in measurements:
        for ours in our_labels(one):
            variant = ours.removeprefix(OURS).strip()
            seconds, bound = one["rows"][ours]["seconds"], one.get("limit_s")
            cells = [_cell(one, peer, variant, ours) for peer in peers]
            above = f"{seconds / bound:.2f}" if bound else ""
            if one["case"]["program"] == "stream":
                late = sorted(one["rows"][ours]["p99"])[len(one["rows"][ours]["p99"]) // 2]
                time = f"{duration(seconds)} (p99 {duration(late)})"
            else:
                time = duration(seconds)
            name = f"{one['case']['name']} {variant}".strip()
            lines.append(f"| {name} | {duration(bound)} | {time} | {above} | {' | '.join(cells)} |")
    return [*lines, ""]


def _cell(measurement: dict[str, Any], peer: str, variant: str, ours: str) -> str:
    """The ratio to a peer, in the same variant where it has that."""
    rows = measurement["rows"]
    label = f"{peer} {variant}" if rows.get(f"{peer} {variant}", {}).get("seconds") else peer
    row = rows.get(label, {})
    value = ratio(measurement, label, ours)
    if value is None:
        return {"timed": ""}.get(row.get("status", ""), row.get("status", ""))
    rounds = row["ratios"][ours]
    mark = "~" if max(rounds) > UNSTEADY * min(rounds) else ""
    return f"{mark}**{value:.2f}** ({duration(row['seconds'])})"


def _left_out(measurements: list[dict[str, Any]]) -> list[str]:
    """What was not timed and why, and results that a timed peer lacks."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for one in measurements:
        for label, row in one["rows"].items():
            if row["status"] != "timed":
                key = (label, row["status"], row.get("why", ""))
            elif row.get("lacks"):
                key = (label, "timed, but lacks", ", ".join(row["lacks"]))
            else:
                continue
            reasons.setdefault(key, []).append(f"{one['case']['name']} ({one['cores']})")
    if not reasons:
        return []
    lines = ["## Not timed, or not quite the same", "", "| peer | what | why | cases (cores) |", "|---|---|---|---|"]
    for (label, status, why), names in reasons.items():
        lines.append(f"| {label} | {status} | {why.replace('|', '/')} | {', '.join(names)} |")
    return [*lines, ""]


def _facts(measurements: list[dict[str, Any]]) -> list[str]:
    """What does not depend on the machine, and seconds of the first call."""
    lines = [
        "## What the compiler says",
        "",
        "`GFLOP`: of matrix products, with all iterations of loops; `depth`: loop iterations that wait for each other; "
        "`accessed`: bytes as XLA's cost model counts them, the inside of a loop once; `temporary`: memory beside "
        "arguments and results; `programs`: compiled again while timed (0 is right). On two cores only what is "
        "sharded.",
        "",
        "| case | cores | peer | largest difference | GFLOP | depth | accessed, MB | temporary, MB | trace, s "
        "| compile, s | first call, s | programs |",
        "|---" * 12 + "|",
    ]
    for one in measurements:
        for label, row in one["rows"].items():
            if "facts" in row and (one["cores"] == 1 or " " in label):
                lines.append(
                    f"| {one['case']['name']} | {one['cores']} | {label} | {' | '.join(_fact_cells(one, row))} |"
                )
    return [*lines, ""]


def _fact_cells(measurement: dict[str, Any], row: dict[str, Any]) -> Iterator[str]:
    facts = row["facts"]

    def number(name: str, scale: float = 1.0, form: str = ".3g") -> str:
        return "" if facts.get(name) is None else f"{facts[name] / scale:{form}}"

    yield "" if row["difference"] is None else f"{row['difference']:.0e}"
    yield number("flops", 1e9)
    yield str(facts.get("depth", ""))
    yield number("cost_bytes", 1e6)
    yield number("temp_bytes", 1e6)
    yield number("trace_s", form=".2f")
    yield number("compile_s", form=".2f")
    yield number("first_call_s", form=".3f")
    yield "" if measurement["case"]["program"] == "compile" or "device" not in facts else str(row.get("recompiled", ""))
