"""The problem of a case: seeded weights, inputs and loss weights in NumPy, in the layout of rnn_jax."""

from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import GATES, Case

Tree = dict[str, Any]
"""Names to arrays, or to trees."""


class Problem(NamedTuple):
    """What every peer computes.

    Attributes:
        case: the case.
        params: parameters, under the names of rnn_jax: gates i, f, g, o or r, z, n side by side; nested where there
            are several networks ("0f" is the first layer forwards).
        inputs: sequences [T, B, ...] that are differentiated too.
        data: what is not: `weights` of the outputs in the loss (zero on padding), `lengths` [B], tokens, masks.
    """

    case: Case
    params: Tree
    inputs: Tree
    data: Tree


def make_problem(case: Case, seed: int = 0) -> Problem:
    """Draws the problem of a case.

    Args:
        case: a case with a network, not "import".
        seed: the same seed draws the same numbers.

    Returns:
        the problem, float32 and int32.
    """
    rng = np.random.default_rng(seed)
    s = case.sizes
    steps, batch = s["T"], s["B"]
    size = s["N"] if "N" in s else s["H"]
    params: Tree = {}
    inputs: Tree = {}
    data: Tree = {}
    if case.family == "diagonal":
        inputs = {"a": rng.uniform(0.9, 1.0, (steps, batch, size)), "b": rng.normal(size=(steps, batch, size))}
    elif case.family == "lru":
        params, inputs = _lru(rng, size), {"xs": rng.normal(size=(steps, batch, size))}
    elif case.family == "bidirectional":
        widths = [s["I"], *[2 * size] * (s["L"] - 1)]
        params = {f"{i}{way}": _cell(rng, "lstm", width, size) for i, width in enumerate(widths) for way in "fb"}
        inputs = {"xs": rng.normal(size=(steps, batch, s["I"]))}
        data = {"lengths": rng.integers(steps // 4, steps, batch, endpoint=True)}
        data["lengths"][0] = steps
    elif case.family == "decoder":
        params, inputs, data = _decoder(rng, s)
    elif case.family == "char_lm":
        tokens = rng.integers(0, s["V"], (steps + 1, batch))
        params = {
            "embedding": rng.normal(size=(s["V"], s["I"])),
            "cell": _cell(rng, "lstm", s["I"], size),
            **_dense(rng, size, s["V"]),
        }
        data = {"tokens": tokens[:-1], "targets": tokens[1:]}
    else:
        count = s.get("K", 1)
        several = [_cell(rng, case.family, s["I"], size) for _ in range(count)]
        params = {str(i): one for i, one in enumerate(several)} if case.program == "seeds" else several[0]
        inputs = {"xs": rng.normal(size=(steps, batch, s["I"]))}
    if case.family != "char_lm":
        output = {"bidirectional": 2 * size, "decoder": s.get("V", 0)}.get(case.family, size)
        weights = rng.normal(size=(steps, batch, output))
        if "lengths" in data and case.family == "bidirectional":
            weights *= (np.arange(steps)[:, None] < data["lengths"])[..., None]
        data["weights"] = weights
    return Problem(case, *(cast(part, np.float32) for part in (params, inputs, data)))


def seeds(problem: Problem) -> list[Problem]:
    """The problems of the networks of a case "seeds", one by one."""
    return [problem._replace(params=one) for one in problem.params.values()]


def real_steps(problem: Problem) -> float:
    """The share of steps that are not padding."""
    if problem.case.family != "bidirectional":
        return 1.0
    return float(problem.data["lengths"].mean() / problem.case.sizes["T"])


def cast(tree: Tree, dtype: Any) -> Tree:
    """The tree with its floating arrays in another dtype; integers become int32, booleans stay."""

    def one(value: Any) -> Any:
        if isinstance(value, dict):
            return cast(value, dtype)
        value = np.asarray(value)
        kinds = {"f": dtype, "i": np.int32}
        return value.astype(kinds[value.dtype.kind]) if value.dtype.kind in kinds else value

    return {name: one(value) for name, value in tree.items()}


def flat(tree: Tree, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a tree under names such as `params/0f/w_x`."""
    arrays = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        arrays |= flat(value, f"{path}/") if isinstance(value, dict) else {path: np.asarray(value)}
    return arrays


def _cell(rng: np.random.Generator, cell: str, width: int, size: int) -> Tree:
    """Weights as torch draws them. `b_hn` starts at zero, as nnx cannot have another; its gradient is compared."""
    gates, bound = GATES[cell], size**-0.5
    weights = {
        "w_x": rng.uniform(-bound, bound, (width, gates * size)),
        "w_h": rng.uniform(-bound, bound, (size, gates * size)),
        "b": rng.uniform(-bound, bound, gates * size),
    }
    return weights | ({"b_hn": np.zeros(size)} if cell == "gru" else {})


def _dense(rng: np.random.Generator, width: int, size: int) -> Tree:
    return {"w_o": rng.normal(size=(width, size)) * width**-0.5, "b_o": 0.1 * rng.normal(size=size)}


def _lru(rng: np.random.Generator, n: int) -> Tree:
    radius = rng.uniform(0.9, 0.99, n)
    return {
        "nu_log": np.log(-np.log(radius)),
        "theta_log": np.log(rng.uniform(0.01, np.pi / 2, n)),
        "gamma_log": 0.5 * np.log(1 - radius**2),
        "b_re": rng.normal(size=(n, n)) * (2 * n) ** -0.5,
        "b_im": rng.normal(size=(n, n)) * (2 * n) ** -0.5,
        "c_re": rng.normal(size=(n, n)) * n**-0.5,
        "c_im": rng.normal(size=(n, n)) * n**-0.5,
        "d": rng.normal(size=n),
    }


def _decoder(rng: np.random.Generator, s: dict[str, Any]) -> tuple[Tree, Tree, Tree]:
    """A GRU that reads an embedded token and the last attentional vector, and attends additively."""
    steps, batch, size = s["T"], s["B"], s["H"]
    params = {
        "embedding": rng.normal(size=(s["V"], s["I"])),
        "cell": _cell(rng, "gru", s["I"] + size, size),
        "attention": {
            "w_q": rng.normal(size=(size, s["A"])) * size**-0.5,
            "w_m": rng.normal(size=(s["E"], s["A"])) * s["E"] ** -0.5,
            "v": rng.normal(size=s["A"]) * s["A"] ** -0.5,
        },
        "w_c": rng.normal(size=(s["E"] + size, size)) * (s["E"] + size) ** -0.5,
        **_dense(rng, size, s["V"]),
    }
    lengths = rng.integers(s["S"] // 2, s["S"], batch, endpoint=True)
    data = {
        "targets": rng.integers(0, s["V"], (steps, batch)),
        "forced": (rng.random((steps, batch)) < s["forced"]).astype(float),
        "lengths": lengths,
    }
    return params, {"memory": rng.normal(size=(s["S"], batch, s["E"]))}, data
