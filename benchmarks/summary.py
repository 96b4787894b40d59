"""A run in a few numbers: those by which `rnn_jax` is to be judged."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.cases import GRID, GRID_CELLS
from benchmarks.peers import OURS
from benchmarks.ratios import geometric_mean, middle

NOT_JAX = ("torch",)


class Finding(NamedTuple):
    """One number.

    Attributes:
        what: which ratio.
        cores: on how many cores.
        value: the ratio, or the geometric mean of several.
        worst: the largest of them, and of which case; None for a single one.
        count: of how many cases.
    """

    what: str
    cores: int
    value: float
    worst: tuple[float, str] | None
    count: int


def ratio(measurement: dict[str, Any], label: str, ours: str) -> float | None:
    """The median of the ratios of our entry to another; None where they were not timed together."""
    return middle(measurement["rows"].get(label, {}).get("ratios", {}).get(ours, ()))


def ratio_to_best(measurement: dict[str, Any], ours: str) -> float | None:
    """The ratio to the fastest peer in JAX, in whichever variant: the largest of the ratios."""
    found = [
        ratio(measurement, label, ours) for label in measurement["rows"] if label.split()[0] not in (*NOT_JAX, OURS)
    ]
    return max((value for value in found if value is not None), default=None)


def our_labels(measurement: dict[str, Any]) -> list[str]:
    """Our entries in a measurement that were timed, the plain one first."""
    return [label for label, row in measurement["rows"].items() if label.split()[0] == OURS and row.get("seconds")]


def findings(measurements: list[dict[str, Any]]) -> list[Finding]:
    """The numbers of a run; what was not measured is left out.

    Args:
        measurements: of one run.

    Returns:
        ratios of the training steps of LSTM and GRU over their grid, to the best peer in JAX of each case, to torch and
        to the plain scan; of the diagonal gradient to its forward pass and to the plain scan; of compilation; of the
        stream to its limit; of the import to that of jax.
    """
    return [*_grid(measurements), *_single(measurements)]


def _grid(measurements: list[dict[str, Any]]) -> Iterator[Finding]:
    names = {"-".join([cell, *map(str, sizes)]) for cell in GRID_CELLS for sizes in GRID}
    for cores in (1, 2):
        rows = [one for one in measurements if one["cores"] == cores and one["case"]["name"] in names]
        for ours in (OURS, f"{OURS} sharded"):
            for what, read in (
                ("the fastest peer in JAX", ratio_to_best),
                ("torch", lambda one, ours: ratio(one, "torch", ours)),
                ("lax.scan", lambda one, ours: ratio(one, "lax.scan", ours)),
            ):
                values = {one["case"]["name"]: read(one, ours) for one in rows}
                known = {name: value for name, value in values.items() if value is not None}
                mean = geometric_mean(known.values())
                if mean is not None:
                    worst = max((value, name) for name, value in known.items())
                    yield Finding(f"LSTM and GRU, training step: {ours} / {what}", cores, mean, worst, len(known))


def _single(measurements: list[dict[str, Any]]) -> Iterator[Finding]:
    for cores in (1, 2):
        by_name = {one["case"]["name"]: one for one in measurements if one["cores"] == cores}
        seconds = {name: one["rows"].get(OURS, {}).get("seconds") for name, one in by_name.items()}
        gradient, forward = seconds.get("diagonal-gradient"), seconds.get("diagonal-forward")
        pairs = [
            ("diagonal recurrence: gradient / own forward pass", gradient / forward if gradient and forward else None)
        ]
        if "diagonal-gradient" in by_name:
            pairs.append(
                (
                    "diagonal recurrence: gradient / that of lax.scan",
                    ratio(by_name["diagonal-gradient"], "lax.scan", OURS),
                )
            )
        for name in ("compile-lstm", "compile-gru"):
            if name in by_name:
                pairs.append((f"{name}: rnn_jax / the fastest peer in JAX", ratio_to_best(by_name[name], OURS)))
        for name, what in (("stream", "stream: rnn_jax / limit"), ("import", "import: rnn_jax / jax")):
            bound = by_name.get(name, {}).get("limit_s")
            if bound and seconds.get(name):
                pairs.append((what, seconds[name] / bound))
        for what, value in pairs:
            if value is not None:
                yield Finding(what, cores, value, None, 1)
