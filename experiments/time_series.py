r"""Is a small recurrent network a match for the nearest neighbour under time warping, and for last year's numbers?

Classification: a GRU, or any other cell, reads whole series; the mean of its outputs over all steps gives the label.
All sets and cells have the same settings; nothing is chosen by test series. Data: sets of the UCR and UEA archives in
their official splits (`rnn_jax.data.load_time_series` has sizes, licences, papers). JapaneseVowels is embedded; the
others are downloaded, or come with

    pip install --no-deps aeon==1.6.0

A set that is not found is left out, and the report says so. The number is the share of test series with the right
label, mean over seeds. Baseline, on the same data: the nearest training series under dynamic time warping without a
window. Published for it: JapaneseVowels 0.949 (DTW_D, Bagnall et al. 2018, arXiv:1811.00075); ours must equal it.

Forecasting: passengers of airlines, monthly, 1949 to 1960 (Box & Jenkins, series G; experiments/data/README.md). A GRU
reads how much each month grew over the same month a year before, and says how much each of the next twelve will.
Trained on the months before 1958, stopped by 1958, judged on 1959 and 1960: from each month the next twelve, and the
mean absolute error over all of them, in thousands of passengers. Baselines: the last month, the same month a year
before, and that one with the last growth. Forecasts are the mean of all seeds.

    python -m experiments.time_series                       # some 10 minutes on one core
    python -m experiments.time_series --sets JapaneseVowels --cells elman gru lstm
    python -m experiments.time_series --sets --folder DIR   # DIR/NAME_TRAIN.ts and DIR/NAME_TEST.ts of your own

It leaves in the run directory: report.md with pictures and the table, forecasts.csv.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._dtw import nearest_accuracy
from experiments._time_series_pictures import accuracy_bars, forecast_curves
from experiments.claims import at_least, at_most, within
from experiments.cli import main
from rnn_jax import Cell, dense, gru, make_cell, stack, unroll, with_dropout
from rnn_jax.data.batching import pad
from rnn_jax.data.ts_files import LabelledSeries, load_time_series, read_ts
from rnn_jax.losses import token_nll
from rnn_jax.metrics import mean_value, tally
from rnn_jax.plotting import learning_curves, save
from rnn_jax.report import markdown_table, write_report
from rnn_jax.training import (
    FitInfo,
    Validation,
    averaged_params,
    create_states,
    describe_fit,
    fit,
    make_evaluate,
    make_train_steps,
    open_checkpoints,
    run_logger,
    seed_keys,
    with_ema,
)

PASSENGERS = Path(__file__).parent / "data" / "air_passengers.csv"
YEAR = 12

_DTW = "above warping, 0.949 (Bagnall et al. 2018)"
_SETS = {"sets": ["JapaneseVowels", "BasicMotions", "GunPoint", "ItalyPowerDemand", "ArrowHead"], "cells": ["gru"]}
CLAIMS = (
    within("JapaneseVowels_dtw", 0.949, 0.0005, source="Bagnall et al. 2018: 0.949", when=_SETS),
    at_least("JapaneseVowels_gru", 0.955, source=_DTW, when=_SETS),
    at_most("mae_over_seasonal", 0.6, source="wide margin over the same month a year before"),
    at_most("mae_over_naive", 0.6, source="wide margin over the last month"),
)


@dataclass(frozen=True)
class Forecast:
    """The forecasting network; months are counted from January 1949."""

    hidden_size: int = 16
    num_steps: int = 400
    learning_rate: float = 3e-3
    noise: float = 0.2
    """On the growth that is read, in standard deviations."""
    dropout: float = 0.2
    eval_every: int = 20
    valid_from: int = 108
    test_from: int = 120


@dataclass(frozen=True)
class Config:
    """The defaults are those of the committed result."""

    sets: tuple[str, ...] = ("JapaneseVowels", "BasicMotions", "GunPoint", "ItalyPowerDemand", "ArrowHead")
    folder: Path | None = None
    """Files of the user, NAME_TRAIN.ts and NAME_TEST.ts, to classify besides `sets`."""
    cells: tuple[str, ...] = ("gru",)
    """Names in rnn_jax.CELLS."""
    hidden_size: int = 64
    num_steps: int = 600
    batch_size: int = 64
    learning_rate: float = 3e-3
    """Falls to a hundredth along a cosine."""
    weight_decay: float = 0.01
    noise: float = 0.3
    """On what is read, in standard deviations of the training series."""
    averaging: float = 0.98
    """Decay of the moving average of the parameters, which is what is judged."""
    forecast: Forecast = field(default_factory=Forecast)
    seeds: int = 3
    """Side by side in one program, with the seeds `seed`, `seed + 1`, ..."""
    seed: int = 0


SMOKE = Config(
    sets=("JapaneseVowels",),
    cells=("elman",),
    hidden_size=4,
    num_steps=4,
    seeds=1,
    forecast=Forecast(4, 4, eval_every=2),
)
PRESETS = {"paper": Config(hidden_size=128, num_steps=5000, seeds=5)}
"""More of everything, for accelerators; not run here."""


def prepare(train: LabelledSeries, test: LabelledSeries) -> tuple[LabelledSeries, LabelledSeries]:
    """Every dimension with mean 0 and standard deviation 1 over all steps of the training series."""
    steps = np.concatenate(train.series)
    mean, scale = steps.mean(0), np.maximum(steps.std(0), 1e-6)
    scaled = [one._replace(series=tuple((series - mean) / scale for series in one.series)) for one in (train, test)]
    return scaled[0], scaled[1]


def scores(cell: Cell, params: Any, xs: jax.Array, lengths: jax.Array) -> jax.Array:
    """Logits [B, C]: the mean over the real steps of xs [T, B, D] of what the cell says at each."""
    ys = unroll(cell, params, xs, lengths=lengths)[1]  # zero where a step is not real
    return ys.sum(0) / lengths[:, None].astype(ys.dtype)


def classify(config: Config, name: str, train: LabelledSeries, test: LabelledSeries, folder: Path) -> np.ndarray:
    """Trains one cell with several seeds on one set: the accuracy of each on the test series, [seeds]."""
    cell = stack(make_cell(name, config.hidden_size), dense(len(train.classes)))
    (xs, lengths), labels = pad(train.series), train.labels
    batch_size = min(config.batch_size, len(labels))

    def loss_fn(params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        _, ids = batch
        seen = jnp.asarray(xs)[:, ids]
        seen = seen + config.noise * jax.random.normal(key, seen.shape)
        targets = jnp.asarray(labels)[ids]
        logits = scores(cell, params, seen, jnp.asarray(lengths)[ids])
        nll = tally(token_nll(logits, targets), jnp.ones(targets.shape))
        right = tally(logits.argmax(-1) == targets, jnp.ones(targets.shape))
        return mean_value(nll), {"nll": nll, "accuracy": right}

    def batches() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(config.seed)
        while True:
            yield rng.choice(len(labels), batch_size, replace=False)

    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha=0.01)
    adam = optax.adamw(schedule, weight_decay=config.weight_decay)
    tx = with_ema(optax.chain(optax.clip_by_global_norm(1.0), adam), config.averaging)
    keys = seed_keys(config.seed, config.seeds)
    states = create_states(lambda key: cell.init(key, xs.shape[-1]), tx, keys)
    steps = make_train_steps(loss_fn, tx)
    folder.mkdir(parents=True, exist_ok=True)
    with run_logger(folder) as log, open_checkpoints(folder) as checkpoints:
        final, _ = fit(
            states,
            lambda states, ids: steps(states, (), ids),
            batches(),
            num_steps=config.num_steps,
            log=log,
            log_every=50,
            checkpoints=checkpoints,
        )
    tested, real = (jnp.asarray(part) for part in pad(test.series))
    truth = jnp.asarray(test.labels)
    judge = jax.jit(jax.vmap(lambda params: (scores(cell, params, tested, real).argmax(-1) == truth).mean()))
    return np.asarray(judge(averaged_params(final.opt_state)), float)


class Months(NamedTuple):
    """A monthly series of T months, and what the network reads of it."""

    values: np.ndarray  # [T], thousands of passengers
    growth: np.ndarray  # [T - 12], of the logarithm over a year, from month 12 on
    inputs: np.ndarray  # [T - 12, 3], growth in standard deviations of the training months, season
    mean: float
    scale: float


def load_months(valid_from: int) -> Months:
    """The passengers; mean and standard deviation of their growth are those before validation."""
    values = np.loadtxt(PASSENGERS, delimiter=",", skiprows=1, usecols=1)
    growth = np.log(values[YEAR:] / values[:-YEAR])
    known = growth[: valid_from - YEAR]
    mean, scale = float(known.mean()), float(known.std())
    season = 2 * np.pi * np.arange(len(growth)) / YEAR
    inputs = np.stack([(growth - mean) / scale, np.sin(season), np.cos(season)], 1).astype(np.float32)
    return Months(values, growth, inputs, mean, scale)


def later_growth(inputs: jax.Array) -> jax.Array:
    """What is to be foreseen at each month: the growth of the next twelve, [T', 12] for inputs [T' + 12, 3]."""
    growth = inputs[:, 0]
    return jnp.stack([growth[1 + ahead : len(growth) - YEAR + 1 + ahead] for ahead in range(YEAR)], 1)


def foresee(cell: Cell, params: Any, inputs: jax.Array) -> jax.Array:
    """The growth of the next twelve months, [T, 12], at every month of inputs [T, 3]: the last one and a change."""
    return inputs[:, :1] + unroll(cell, params, inputs)[1]


def fit_forecast(config: Config, months: Months, run_dir: Path) -> tuple[np.ndarray, FitInfo]:
    """Trains several seeds: the growth [seeds, T, 12] that they foresee at every month, and what `fit` says."""
    own = config.forecast
    cell = stack(gru(own.hidden_size), with_dropout(dense(YEAR), variational=own.dropout))
    inputs = jnp.asarray(months.inputs)
    known, valid = inputs[: own.valid_from - YEAR], inputs[: own.test_from - YEAR]

    def loss_fn(params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        noise_key, mask_key = jax.random.split(key)
        noise = own.noise * jax.random.normal(noise_key, known[:, :1].shape)
        noisy = cell.perturb(mask_key, params, known.shape)
        seen = jnp.concatenate([known[:, :1] + noise, known[:, 1:]], 1)
        errors = jnp.square(foresee(cell, noisy, seen)[:-YEAR] - later_growth(known))
        pair = tally(errors, jnp.ones(errors.shape))
        return mean_value(pair), {"squared_error": pair}

    def judge(params: Any, batch: Any) -> Any:
        errors = jnp.square(foresee(cell, params, valid)[:-YEAR] - later_growth(valid))[-YEAR:]
        return {"squared_error": tally(errors, jnp.ones(errors.shape))}

    tx = with_ema(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(own.learning_rate)), 0.95)
    evaluate = make_evaluate(jax.vmap(judge, in_axes=(0, None)))
    states = create_states(lambda key: cell.init(key, 3), tx, seed_keys(config.seed, config.seeds))
    steps = make_train_steps(loss_fn, tx)
    with run_logger(run_dir) as log, open_checkpoints(run_dir) as checkpoints:
        best, info = fit(
            states,
            lambda states, batch: steps(states, (), batch),
            iter(lambda: 0, 1),
            num_steps=own.num_steps,
            validation=Validation(
                lambda params: evaluate(params, [0]),
                own.eval_every,
                "squared_error",
                params_of=lambda state: averaged_params(state.opt_state),
            ),
            log=log,
            checkpoints=checkpoints,
        )
    growth = jax.jit(jax.vmap(lambda params: foresee(cell, params, inputs)))(averaged_params(best.opt_state))
    return np.asarray(growth, float) * months.scale + months.mean, info


def forecasts(months: Months, growth: np.ndarray, test_from: int) -> dict[str, np.ndarray]:
    """What is forecast at every origin for the next twelve months, [origins, 12]; the first one is the truth.

    An origin is the last month that is known: the one before the test months, and each later one that still has twelve
    months after it.
    """
    values = months.values
    origins = np.arange(test_from - 1, len(values) - YEAR)
    ahead = origins[:, None] + 1 + np.arange(YEAR)
    last_year = values[ahead - YEAR]
    return {
        "truth": values[ahead],
        "network": last_year * np.exp(growth[origins - YEAR]),
        "last month": np.repeat(values[origins][:, None], YEAR, 1),
        "year before": last_year,
        "year before, with the last growth": last_year * np.exp(months.growth[origins - YEAR])[:, None],
    }


def forecast(config: Config, run_dir: Path) -> tuple[dict[str, Any], dict[str, Path], list[dict[str, Any]], FitInfo]:
    """Trains and judges the forecasts: metrics, figures, rows of a table, and what `fit` says."""
    months = load_months(config.forecast.valid_from)
    growth, info = fit_forecast(config, months, run_dir)
    found = forecasts(months, growth.mean(0), config.forecast.test_from)
    truth = found.pop("truth")
    errors = {name: float(np.abs(values - truth).mean()) for name, values in found.items()}
    metrics = {
        "forecast_mae": errors["network"],
        "naive_mae": errors["last month"],
        "seasonal_mae": errors["year before"],
        "seasonal_growth_mae": errors["year before, with the last growth"],
        "mae_over_naive": errors["network"] / errors["last month"],
        "mae_over_seasonal": errors["network"] / errors["year before"],
    }
    with (run_dir / "forecasts.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["last_known_month", "months_ahead", "truth", *found])
        for origin, ahead in np.ndindex(truth.shape):
            numbers = [truth[origin, ahead], *(values[origin, ahead] for values in found.values())]
            table.writerow([config.forecast.test_from + origin, ahead + 1, *(f"{number:.1f}" for number in numbers)])
    shown = {name: found[name] for name in ("network", "year before")}
    curves = learning_curves(info.history, "squared_error").figure
    figures = {
        "Two years of forecasts, each made at the end of the year before": save(
            forecast_curves(months.values, shown, config.forecast.test_from), run_dir / "figures" / "forecast.png"
        ),
        "Learning curves of the forecasts, squared error of growth in variances": save(
            curves, run_dir / "figures" / "learning_curves.png"
        ),
    }
    return metrics, figures, [{"forecast": name, "mean absolute error": error} for name, error in errors.items()], info


def find_sets(config: Config) -> tuple[dict[str, tuple[LabelledSeries, LabelledSeries]], list[str]]:
    """The sets that are there, and sentences about those that are not."""
    found, notes = {}, []
    for name in config.sets:
        try:
            found[name] = load_time_series(name)
        except FileNotFoundError:
            notes.append(f"{name} was left out, as it was not found: `pip install --no-deps aeon==1.6.0` brings it.")
    if config.folder is not None:
        for path in sorted(config.folder.glob("*_TRAIN.ts")):
            name = path.name.removesuffix("_TRAIN.ts")
            found[name] = read_ts(path), read_ts(path.with_name(f"{name}_TEST.ts"))
    return found, notes


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Classifies, forecasts and reports."""
    metrics, forecast_figures, forecast_rows, info = forecast(config, run_dir)
    sets, notes = find_sets(config)
    rows = []
    for name, (train, test) in sets.items():
        row: dict[str, Any] = {"set": name, "train": len(train.labels), "test": len(test.labels)}
        row |= {"classes": len(train.classes), "1-NN DTW": nearest_accuracy(train, test)}
        metrics[f"{name}_dtw"] = row["1-NN DTW"]
        train, test = prepare(train, test)
        for cell in config.cells:
            accuracies = classify(config, cell, train, test, run_dir / name / cell)
            row |= {cell: accuracies.mean(), f"{cell}, sd": accuracies.std(ddof=min(1, config.seeds - 1))}
            metrics |= {f"{name}_{cell}": float(accuracies.mean()), f"{name}_{cell}_sd": float(row[f"{cell}, sd"])}
        rows.append(row)
    figures = forecast_figures
    if rows:
        picture = save(accuracy_bars(rows, ["1-NN DTW", *config.cells]), run_dir / "figures" / "accuracy.png")
        figures = {"Right labels of test series": picture} | figures
    write_report(
        run_dir,
        title="Time series: classified, and forecast",
        intro=f"Share of test series with the right label, mean and standard deviation over {config.seeds} seeds.\n\n"
        f"{markdown_table(rows) if rows else 'No set was found.'}\n\nPassengers of airlines, in thousands: the next "
        "twelve months from each month of 1959.",
        metrics_rows=forecast_rows,
        figures=figures,
        links={"Every forecast": run_dir / "forecasts.csv"},
        notes=[*notes, describe_fit(info, config.forecast.num_steps)],
    )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS, presets=PRESETS)
