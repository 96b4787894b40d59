"""What is measured: the cases, their sizes, and the arithmetic and traffic that they cannot do without."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Case(NamedTuple):
    """One row of the benchmark.

    Attributes:
        name: its name on the command line and in results.
        family: which network: "lstm", "gru", "gru_before", "elman", "diagonal", "lru", "bidirectional", "decoder" or
            "char_lm".
        program: what is timed: "gradient" (value and gradients of parameters and inputs), "forward" (outputs alone),
            "update" (a step of an optimizer), "seeds" (gradients of eight networks), "stream" (one step of a stream),
            "compile" (tracing and compiling "gradient") or "import" (a process that imports the library).
        sizes: T steps, B batch, I input, H hidden, N units, L layers, S source steps, E source features, A attention,
            V vocabulary, K networks; `forced`, the share of steps at which a decoder reads the truth.
        cores: on how many cores it is measured.
    """

    name: str
    family: str
    program: str
    sizes: dict[str, Any]
    cores: tuple[int, ...] = (1, 2)


GRID = ((100, 32, 64, 128), (256, 16, 128, 256), (64, 64, 256, 512), (1000, 8, 2, 64), (784, 64, 1, 128))
"""T, B, I, H of the training steps of LSTM and GRU."""

GRID_CELLS = ("lstm", "gru")
GATES = {"lstm": 4, "gru": 3, "gru_before": 3, "elman": 1}
FLOAT = 4
"""Bytes of a float32."""


def _step(cell: str, sizes: Sequence[int]) -> Case:
    name = "-".join([cell.replace("_", "-"), *map(str, sizes)])
    return Case(name, cell, "gradient", dict(zip("TBIH", sizes, strict=True)))


LINEAR = {"T": 4096, "B": 8, "N": 128}
STREAM = {"T": 32, "B": 1, "I": 64, "H": 256}
DECODER = {"T": 30, "B": 32, "I": 128, "H": 256, "S": 30, "E": 256, "A": 128, "V": 2000}

CASES = (
    *(_step(cell, sizes) for cell in GRID_CELLS for sizes in GRID),
    _step("gru_before", GRID[0]),
    _step("elman", GRID[0]),
    _step("elman", GRID[4]),
    Case("diagonal-forward", "diagonal", "forward", LINEAR),
    Case("diagonal-gradient", "diagonal", "gradient", LINEAR),
    Case("lru", "lru", "gradient", LINEAR),
    Case("bidirectional", "bidirectional", "gradient", {"T": 128, "B": 32, "I": 64, "H": 128, "L": 2}),
    Case("decoder-forced", "decoder", "gradient", {**DECODER, "forced": 1.0}),
    Case("decoder-sampled", "decoder", "gradient", {**DECODER, "forced": 0.75}),
    Case("char-lm", "char_lm", "update", {"T": 128, "B": 32, "I": 64, "H": 256, "V": 96}),
    Case("eight-seeds", "lstm", "seeds", {"T": 100, "B": 16, "I": 32, "H": 64, "K": 8}),
    Case("stream", "lstm", "stream", STREAM, cores=(1,)),
    Case("compile-lstm", "lstm", "compile", dict(zip("TBIH", GRID[0], strict=True)), cores=(1,)),
    Case("compile-gru", "gru", "compile", dict(zip("TBIH", GRID[0], strict=True)), cores=(1,)),
    Case("import", "", "import", {}, cores=(1,)),
)
"""All cases, in the order in which they run."""

TINY = {"T": 12, "B": 4, "I": 3, "H": 8, "N": 8, "L": 2, "S": 7, "E": 6, "A": 5, "V": 11, "K": 2}
"""Sizes of `--quick`."""


def select(names: Sequence[str] | None, quick: bool) -> tuple[Case, ...]:
    """The cases of one run.

    Args:
        names: names of cases, or beginnings of them; all cases if None.
        quick: tiny sizes, and of each cell only the first training step.

    Returns:
        the cases in their order.

    Raises:
        ValueError: a name that no case begins with.
    """
    for name in names or ():
        if not any(case.name.startswith(name) for case in CASES):
            raise ValueError(
                f"`--only` must be the beginning of {', '.join(case.name for case in CASES)}; got {name!r}"
            )
    chosen, seen = [], set()
    for case in CASES:
        if names and not any(case.name.startswith(name) for name in names):
            continue
        if quick:
            kind = case.program if case.program == "compile" else (case.family, case.program, case.sizes.get("forced"))
            if kind in seen:
                continue
            seen.add(kind)
            tiny = {key: TINY.get(key, value) for key, value in case.sizes.items()}
            case = case._replace(sizes=tiny | ({"B": 1} if case.program == "stream" else {}))
        chosen.append(case)
    return tuple(chosen)


def work(case: Case, real_steps: float = 1.0) -> tuple[float, float]:
    """What a case cannot do without: operations of its matrix products, and bytes to and from memory.

    Only matrix products are counted, or, where there are none, the arrays that must be read and written once: reality
    has element-wise work on top. A gradient has three products for each one of the forward pass.

    Args:
        case: the case.
        real_steps: the share of steps that are not padding.

    Returns:
        `(flops, bytes)` of one timed call; zeros where no limit is known.
    """
    s = case.sizes
    if case.program in ("compile", "import"):
        return 0.0, 0.0
    if case.program == "stream":
        return 0.0, FLOAT * GATES[case.family] * s["H"] * (s["I"] + s["H"] + 1)
    if case.family == "diagonal":
        # Forward: reads a and b, writes h. Backward: reads a, h and the loss weights, writes gradients of a and b.
        return 0.0, FLOAT * s["T"] * s["B"] * s["N"] * (3 if case.program == "forward" else 8)
    steps = s["T"] * s["B"] * s.get("K", 1)
    if case.family == "lru":
        forward = 2 * steps * s["N"] * s["N"] * 4  # B and C, real and imaginary
    elif case.family == "bidirectional":
        widths = [s["I"], *[2 * s["H"]] * (s["L"] - 1)]
        forward = real_steps * sum(2 * 2 * steps * 4 * s["H"] * (width + s["H"]) for width in widths)
    elif case.family == "decoder":
        cell = 3 * s["H"] * (s["I"] + 2 * s["H"])
        attention = s["H"] * s["A"] + s["S"] * (s["A"] + s["E"]) + s["S"] * s["E"] * s["A"] / s["T"]
        forward = 2 * steps * (cell + attention + (s["E"] + s["H"]) * s["H"] + s["H"] * s["V"])
    else:
        gates = GATES["lstm" if case.family == "char_lm" else case.family]
        forward = 2 * steps * (gates * s["H"] * (s["I"] + s["H"]) + s["H"] * s.get("V", 0))
    return 3.0 * forward, 0.0
