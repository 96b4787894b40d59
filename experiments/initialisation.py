r"""What do the first weights and the first state of a recurrent network decide?

Closed forms first, in float64. A linear network with an orthogonal kernel keeps all lengths: each singular value of its
Jacobian products is 1 (Saxe, McClelland & Ganguli 2014). The exponents of a Gaussian kernel are the logarithms of its
eigenvalues, which fill a disk (Girko 1985). Eigenvalues on a ring, |lambda| from 0.9 to 0.99, make the state larger
than what is put in by ln((1 - 0.9^2) / (1 - 0.99^2)) / (0.99^2 - 0.9^2) = 13.26, and by 1 where inputs are normalised
(Orvieto et al. 2023, arXiv:2303.06349). The kernel of a GRU or LSTM that is orthogonal as one matrix has gates of
spectral radius sqrt(1/3) and sqrt(1/4) (Zyczkowski & Sommers 2000). Products of fresh Gaussian matrices are in
`lyapunov`.

Then networks of 32 units learn to add two numbers in 50 steps (the task of `adding_problem`; who always says 1 has a
squared error of 1/6), with recurrent gains from 0.5 to 1.7 (tanh, ReLU), forget biases of -1, 0, 1, 3 and chrono
(Jozefowicz, Zaremba & Sutskever 2015; Tallec & Ollivier 2018, arXiv:1804.11188), and both kinds of orthogonal kernel
(LSTM, GRU). All starts and seeds of a cell train in one program.

At last the state before the first step: how fast two of them come together, before and after training; zeros, learned
numbers and noise for a GRU that predicts windows out of the middle of Lorenz 63, of which it sees x every 0.05 units of
time; and noise in the first state of a ReLU network that begins with the identity and learns to add, which holds down
dh_T/dh_0 (Wang, Balestriero & Baraniuk 2019).

    python -m experiments.initialisation                 # 4 to 6 minutes on 2 cores

`error` is the squared error on test sequences at the end; `half` and `tenth` the update at which the mean training loss
of 10 updates is first below a half and a tenth of 1/6 (the last update if never); `forget` the step after which less
than a tenth is left of the distance of two states; `memory` the size of dh_T/dh_0; `first` and `later` the errors of
steps 1 to 5 and of those after.

Not all that is said comes true. An LSTM with a forget bias of 1 is not at half sooner than one with 0; it is at a
tenth, but by less than seeds differ, and ends lower. A bias of 3 is slower than both, chrono much faster; a GRU hardly
minds. A learned first state helps the first steps in windows of all three lengths, and most in the longest, of whose
loss they are the smallest part.

It leaves in the run directory: seven figures and report.md.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import _initialisation_pictures as pictures
from experiments._initialisation import (
    LAYERS,
    Kind,
    Outcome,
    Start,
    Task,
    forgotten,
    memory_of_start,
    train_adding,
    train_windows,
)
from experiments._linear_networks import exact_checks
from experiments.adding_problem import BASELINE, adding
from experiments.claims import at_least, at_most, within
from experiments.cli import main
from rnn_jax.data.dynamical import load_lorenz63
from rnn_jax.initializers import chrono, forget_bias
from rnn_jax.report import write_report
from rnn_jax.training import is_writer, run_logger

SOLVED = BASELINE / 10
FIRST = 5
"""Steps of a window that count as its first."""

_T50 = {"length": 50, "seeds": 5, "cells": ["tanh", "relu", "lstm", "gru"]}
_JOZEFOWICZ = "Jozefowicz, Zaremba & Sutskever 2015: the sooner, the larger, up to 1"
_WANG = "Wang, Balestriero & Baraniuk 2019: noise is a penalty on dh_T/dh_0"
CLAIMS = (
    within("ring_gain", 13.26, 0.2, source="Orvieto et al. 2023, proposition 3.3"),
    within("ring_gain_normalised", 1.0, 0.02, source="Orvieto et al. 2023: what the normalisation is for"),
    at_most("orthogonal_largest_log", 1e-10, source="Saxe, McClelland & Ganguli 2014: an isometry"),
    at_most("spectra_largest_error", 0.01, source="the exponents of a linear network are ln |eigenvalues|"),
    within("radius_fused_gru", 3**-0.5, 0.04, source="Zyczkowski & Sommers 2000, of infinite size"),
    within("radius_fused_lstm", 4**-0.5, 0.04, source="Zyczkowski & Sommers 2000, of infinite size"),
    at_least("half_bias_1_over_chrono", 1.3, source="Tallec & Ollivier 2018: chrono is the first", when=_T50),
    at_least("half_bias_-1_over_bias_0", 1.15, source=_JOZEFOWICZ, when=_T50),
    at_least("error_bias_0_over_bias_1", 1.1, source=_JOZEFOWICZ, when=_T50),
    at_least("half_fused_over_gates_lstm", 1.1, source="ours: gates of a fused kernel forget sooner", when=_T50),
    at_least("error_relu_gain_1.7_over_0.75", 3, source="ours: ReLU networks that explode learn worse", when=_T50),
    at_most("memory_noise_0.1_over_none", 0.85, source=_WANG, when=_T50),
    at_most("memory_noise_1_over_none", 0.6, source=_WANG, when=_T50),
    at_least("error_noise_3_over_none", 2, source="Wang, Balestriero & Baraniuk 2019: too much hurts", when=_T50),
    at_most("first_learned_over_zero_20", 0.96, source="ours: a learned state helps the first steps", when=_T50),
    at_most("first_learned_over_zero_100", 0.92, source="ours: in long windows, too", when=_T50),
    within("later_learned_over_zero_100", 1, 0.06, source="ours: and not later", when=_T50),
)


@dataclass(frozen=True)
class Config:
    """Four cells, five seeds of every start."""

    cells: tuple[str, ...] = ("tanh", "relu", "lstm", "gru")
    hidden_size: int = 32
    length: int = 50
    """T of the adding problem."""
    batch_size: int = 32
    tanh_steps: int = 1500
    relu_steps: int = 800
    lstm_steps: int = 600
    gru_steps: int = 300
    plain_rate: float = 2e-3
    """Learning rate of tanh and ReLU networks."""
    gated_rate: float = 5e-3
    gains: tuple[float, ...] = (0.5, 0.75, 1.0, 1.2, 1.4, 1.7)
    biases: tuple[float, ...] = (-1.0, 0.0, 1.0, 3.0)
    """Of gates that keep the memory."""
    noises: tuple[float, ...] = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Standard deviations of the first state of a ReLU network that begins with the identity as its kernel."""
    windows: tuple[int, ...] = (10, 20, 100)
    """Lengths T of windows of Lorenz 63."""
    window_noises: tuple[float, ...] = (0.1, 0.3, 1.0)
    window_steps: int = 600
    num_tests: int = 1000
    exact_size: int = 64
    """Units of the networks that are compared with closed forms; the ring has 256 times as many, kernels 4 times."""
    exact_steps: int = 1000
    seeds: int = 5
    seed: int = 0


SMOKE = Config(
    cells=("tanh",),
    hidden_size=3,
    length=6,
    batch_size=2,
    tanh_steps=2,
    gains=(0.5, 1.0),
    windows=(),
    num_tests=4,
    exact_size=4,
    exact_steps=20,
    seeds=1,
)


def starts_of(cell: str, config: Config) -> tuple[Start, ...]:
    """How the networks of a cell begin."""
    gains = tuple(Start(f"gain_{gain:g}", gain=gain) for gain in config.gains)
    if cell == "tanh":
        return gains
    if cell == "relu":
        return (*gains, *(Start(f"noise_{noise:g}", "identity", noise=noise) for noise in config.noises))
    biases = tuple(Start(f"bias_{value:g}", bias=forget_bias(value)) for value in config.biases)
    fused = tuple(Start(f"fused_bias_{value:g}", "fused", bias=forget_bias(value)) for value in (0.0, 1.0))
    return (*biases, Start("chrono", bias=chrono(float(config.length))), *fused)


class Weights(NamedTuple):
    """What came of the networks of one cell.

    Attributes:
        starts: how they began, S of them.
        outcome: of training.
        before: [S, R, 2 T + 1] distances of two states before training.
        after: the same after training.
    """

    starts: tuple[Start, ...]
    outcome: Outcome
    before: np.ndarray
    after: np.ndarray

    def rows(self, values: np.ndarray, prefix: str = "") -> dict[str, np.ndarray]:
        """Rows of an array [S, ...] by the names of the starts."""
        named = zip(self.starts, values, strict=True)
        return {start.name: row for start, row in named if start.name.startswith(prefix)}


def study_weights(cell: str, config: Config, xs: jax.Array, folder: Path) -> Weights:
    """Trains the networks of a cell, and looks at how they forget their first state along xs [2 T, B, 2]."""
    task = Task(
        length=config.length,
        batch_size=config.batch_size,
        num_tests=config.num_tests,
        num_steps=getattr(config, f"{cell}_steps"),
        every=10,
        learning_rate=config.plain_rate if cell in ("tanh", "relu") else config.gated_rate,
    )
    starts = starts_of(cell, config)
    outcome = train_adding(cell, config.hidden_size, starts, task, (config.seed, config.seeds), folder)
    key = jax.random.key(config.seed)
    before, after = (forgotten(outcome.layer, params, xs, key) for params in (outcome.first, outcome.last))
    return Weights(starts, outcome, before, after)


class Windows(NamedTuple):
    """What came of the predictors of Lorenz 63.

    Attributes:
        kinds: of first states, K of them.
        errors: [K, R, T] squared errors of each step, by the length of windows.
        source: where the data is from.
    """

    kinds: tuple[Kind, ...]
    errors: dict[int, np.ndarray]
    source: str


def study_windows(config: Config, run_dir: Path) -> Windows:
    """Trains a predictor with each kind of first state, for each length of windows."""
    train, test, source = load_lorenz63()
    kinds = (
        Kind("zero"),
        Kind("learned", learned=True),
        *(Kind(f"noise_{n:g}", noise=n) for n in config.window_noises),
    )
    errors = {}
    for length in config.windows:
        rate, steps = config.gated_rate, config.window_steps
        task = Task(length, config.batch_size, config.num_tests, steps, max(1, steps // 50), rate)
        series = (train[::5, :1], test[::5, :1])
        seeds = (config.seed, config.seeds)
        errors[length] = train_windows(config.hidden_size, kinds, task, series, seeds, run_dir / f"windows_{length}")
    return Windows(kinds, errors, source)


def steps_to_forget(distances: np.ndarray) -> np.ndarray:
    """The first step at which less than a tenth is left of distances [..., T + 1]; T if there is none."""
    below = distances < 0.1
    return np.where(below.any(-1), below.argmax(-1), distances.shape[-1] - 1)


def put(metrics: dict[str, Any], name: str, values: np.ndarray) -> None:
    """Adds a mean over seeds, and the seeds if there are several."""
    metrics[name] = float(values.mean())
    if len(values) > 1:
        metrics[f"{name}_seeds"] = values.tolist()


def judge_weights(cell: str, study: Weights, metrics: dict[str, Any], config: Config) -> list[dict[str, Any]]:
    """Adds the metrics of a cell, and returns its rows of the table."""
    before, after = (steps_to_forget(distances) for distances in (study.before, study.after))
    halves, tenths = (study.outcome.steps_to(level) for level in (BASELINE / 2, SOLVED))
    rows = []
    for i, start in enumerate(study.starts):
        name, error, half, tenth = f"{cell}_{start.name}", study.outcome.error[i], halves[i], tenths[i]
        put(metrics, f"error_{name}", error)
        put(metrics, f"half_{name}", half)
        put(metrics, f"tenth_{name}", tenth)
        metrics |= {f"forget_{name}": before[i].mean(), f"forget_after_{name}": after[i].mean()}
        rows.append(
            {
                "network": cell,
                "start": start.name.replace("_", " "),
                "error": f"{error.mean():.4f} ({error.min():.4f} to {error.max():.4f})",
                "solved": f"{(error < SOLVED).sum()} of {config.seeds}",
                "updates to half": f"{half.mean():.0f} ({half.min():.0f} to {half.max():.0f})",
                "to a tenth": f"{tenth.mean():.0f} ({tenth.min():.0f} to {tenth.max():.0f})",
                "steps to forget": f"{before[i].mean():.0f}",
                "after training": f"{after[i].mean():.0f}",
            }
        )
    return rows


def judge_noise(study: Weights, metrics: dict[str, Any], xs: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """|dh_T/dh_0| after training and errors, both [S, R], of the networks with noise in their first state."""
    memory = memory_of_start(study.outcome.layer, study.outcome.last, xs)
    memories, errors = (study.rows(values, "noise_") for values in (memory, study.outcome.error))
    for name, values in memories.items():
        put(metrics, f"memory_{name}", values)
    return np.stack([*memories.values()]), np.stack([*errors.values()])


def judge_windows(windows: Windows, metrics: dict[str, Any]) -> None:
    """Adds the errors of the first steps, of later ones and of all by kind of first state."""
    metrics["data"] = windows.source
    for length, of_kinds in windows.errors.items():
        for kind, values in zip(windows.kinds, of_kinds, strict=True):
            for part, steps in (("first", values[:, :FIRST]), ("later", values[:, FIRST:]), ("all", values)):
                put(metrics, f"{part}_{kind.name}_{length}", steps.mean(1))


def ratios(metrics: dict[str, Any], config: Config) -> dict[str, float]:
    """What claims are about: a mean over another, for pairs that are there."""
    pairs = {
        "half_bias_1_over_chrono": ("half_lstm_bias_1", "half_lstm_chrono"),
        "half_bias_0_over_bias_1": ("half_lstm_bias_0", "half_lstm_bias_1"),
        "tenth_bias_0_over_bias_1": ("tenth_lstm_bias_0", "tenth_lstm_bias_1"),
        "error_bias_0_over_bias_1": ("error_lstm_bias_0", "error_lstm_bias_1"),
        "half_bias_-1_over_bias_0": ("half_lstm_bias_-1", "half_lstm_bias_0"),
        "half_fused_over_gates_lstm": ("half_lstm_fused_bias_0", "half_lstm_bias_0"),
        "half_fused_over_gates_gru": ("half_gru_fused_bias_0", "half_gru_bias_0"),
        "error_relu_gain_1.7_over_0.75": ("error_relu_gain_1.7", "error_relu_gain_0.75"),
        "error_noise_3_over_none": ("error_relu_noise_3", "error_relu_noise_0"),
    }
    pairs |= {
        f"memory_noise_{noise:g}_over_none": (f"memory_noise_{noise:g}", "memory_noise_0")
        for noise in config.noises
        if noise
    }
    for length in config.windows:
        for part in ("first", "later", "all"):
            pairs[f"{part}_learned_over_zero_{length}"] = (f"{part}_learned_{length}", f"{part}_zero_{length}")
    return {name: metrics[a] / metrics[b] for name, (a, b) in pairs.items() if a in metrics and metrics.get(b)}


def memories(study: Weights) -> pictures.Curves:
    """Curves of forgetting by gain or bias: geometric means of the seeds, before training and after."""
    means = [np.exp(np.log(distances).mean(1)) for distances in (study.before, study.after)]
    pairs = study.rows(np.stack(means, axis=1))
    return {name: (pair[0], pair[1]) for name, pair in pairs.items() if not name.startswith(("fused", "noise"))}


def draw(config: Config, found: Any, studies: dict[str, Weights], folder: Path) -> dict[str, Path]:
    """Figures on weights, for the cells there are."""
    figures = {"Exponents of linear networks": pictures.spectra(found, folder / "spectra.png")}
    plain = {
        cell: np.stack([*study.rows(study.outcome.error, "gain_").values()])
        for cell, study in studies.items()
        if cell in ("tanh", "relu")
    }
    if plain:
        figures["Final loss by recurrent gain"] = pictures.gain_curves(
            config.gains, plain, BASELINE, folder / "gains.png"
        )
    gated = {
        cell: study.rows(study.outcome.steps_to(BASELINE / 2))
        for cell, study in studies.items()
        if cell in ("lstm", "gru")
    }
    if gated:
        figures["Updates to half of the baseline"] = pictures.half_rows(gated, folder / "halves.png")
    if "lstm" in studies:
        study = studies["lstm"]
        losses = study.rows(study.outcome.losses.swapaxes(0, 1))
        shown = {name: values for name, values in losses.items() if not name.startswith("fused")}
        figures["Training loss of an LSTM by the bias of its forget gate"] = pictures.loss_curves(
            study.outcome.steps, shown, BASELINE, folder / "lstm.png"
        )
    figures["How two first states come together, before training and after (dashed)"] = pictures.forgetting_curves(
        {cell: memories(study) for cell, study in studies.items()}, folder / "forgetting.png"
    )
    return figures


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Closed forms, then training from all kinds of weights and of first states."""
    if not config.cells or set(config.cells) - set(LAYERS):
        raise ValueError(f"`cells` must be some of {', '.join(LAYERS)}, got {config.cells}")
    if min(config.windows, default=FIRST + 1) <= FIRST:
        raise ValueError(f"`windows` must be lengths above {FIRST} steps, got {config.windows}")
    with jax.enable_x64(True):
        metrics, found = exact_checks(config.exact_size, config.exact_steps, jax.random.key(config.seed))
    xs, _ = jax.jit(lambda key: adding(2 * config.length, key, 16))(jax.random.key(20_000))
    studies = {cell: study_weights(cell, config, xs, run_dir / cell) for cell in config.cells}
    rows = [row for cell, study in studies.items() for row in judge_weights(cell, study, metrics, config)]
    noise = (
        judge_noise(studies["relu"], metrics, adding(config.length, jax.random.key(20_001), 16)[0])
        if "relu" in studies
        else None
    )
    windows = study_windows(config, run_dir) if config.windows else None
    if windows is not None:
        judge_windows(windows, metrics)
    metrics |= ratios(metrics, config)
    with run_logger(run_dir) as log:
        log({"step": 0} | {name: value for name, value in metrics.items() if not isinstance(value, str)})
    if is_writer():
        folder = run_dir / "figures"
        figures = draw(config, found, studies, folder)
        if noise is not None:
            figures["Noise in the first state of a ReLU network"] = pictures.noise_curves(
                config.noises, *noise, folder / "noise.png"
            )
        if windows is not None:
            names = [kind.name for kind in windows.kinds]
            path = folder / "windows.png"
            figures["Loss of the first steps of a window"] = pictures.window_curves(windows.errors, names, 20, path)
        write_report(
            run_dir,
            title="What the first weights and the first state decide",
            intro=f"Adding two numbers of {config.length}: squared errors on test sequences and updates to half of "
            f"1/6: means of {config.seeds} seeds, and from the least to the greatest. Solved is below a tenth of 1/6. "
            "Steps to forget: until two random states are a tenth as far apart as at first, before training and after.",
            metrics_rows=rows,
            figures=figures,
            links={},
        )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
