r"""Can a small network foresee a heartbeat while it arrives, one sample at a time?

A GRU reads an electrocardiogram sample by sample and says what it will be 50 ms later. It is trained on the first
minutes; then the last one arrives in four pieces as if from four patients, who come and go, at the rate of the sensor.
One `StreamPool` serves them, and the terminal shows truth and forecast as they come.

    python -m experiments.streaming                # a minute: training, then 21 seconds of signals at 120 Hz
    python -m experiments.streaming --rate 0       # as fast as it can

The signal: five minutes at 360 Hz, record 208 of the MIT-BIH Arrhythmia Database, with many premature beats; see
experiments/data/README.md. Means of three samples, so 120 Hz. Errors are root mean squares over all pieces, after the
first 64 samples of each. Baselines: the last value, and a linear forecast from 64 samples (least squares).

What is claimed is that the forecasts in the stream are those of `unroll` over the whole piece, that serving compiles
nothing, and that they are better than both baselines by a wide margin. Latencies are those of one call for all streams
that are there, from samples on the host to forecasts on the host.

It leaves in the run directory: report.md with a picture, learning curves, and the trained model as model.zip, from
`export_cell`: a program that has JAX can run it without this package.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import monitoring

from experiments._live import Show, live_display
from experiments.claims import at_most
from experiments.cli import main
from rnn_jax import Cell, dense, gru, residual, stack, unroll
from rnn_jax.metrics import mean_value, tally
from rnn_jax.plotting import learning_curves, save
from rnn_jax.plotting.style import PALETTE, finish, new_axes
from rnn_jax.report import write_report
from rnn_jax.streaming import StreamPool, export_cell, load_exported
from rnn_jax.training import (
    Validation,
    create_state,
    describe_fit,
    fit,
    make_train_step,
    open_checkpoints,
    run_logger,
)

CLAIMS = (
    at_most("difference_to_unroll", 1e-5, source="the same numbers, to rounding, in standard deviations"),
    at_most("difference_of_export", 1e-5, source="the same numbers, to rounding, in standard deviations"),
    at_most("compilations_while_streaming", 0, source="all programs were compiled before"),
    at_most("error_over_last_value", 0.5, source="wide margin"),
    at_most("error_over_linear", 0.65, source="wide margin"),
)

DATA = Path(__file__).parent / "data" / "ecg.npz"
SAMPLE_RATE = 120.0  # Hz, after means of three
TRAIN, VALID = 0.7, 0.8  # where validation and test begin


@dataclass(frozen=True)
class Config:
    """Times are in samples of 1/120 s."""

    horizon: int = 6
    """How far ahead the forecast is."""
    hidden_size: int = 64
    num_steps: int = 400
    batch_size: int = 32
    window: int = 384
    burn_in: int = 64
    """Samples at the start of windows and streams whose forecasts do not count; the linear baseline reads as many."""
    learning_rate: float = 5e-3
    """Falls to a hundredth along a cosine."""
    clip: float = 1.0
    eval_every: int = 50
    max_seconds: float = 120.0
    patients: int = 4
    """Into how many pieces the last minute is cut; each is a stream."""
    apart: int = 240
    """Time from one patient's coming to the next one's."""
    rate: float = SAMPLE_RATE
    """Samples a second; 0: as fast as it can."""
    seed: int = 0


SMOKE = Config(hidden_size=8, num_steps=4, batch_size=4, window=80, eval_every=2, apart=20, rate=0.0)


class Served(NamedTuple):
    """What came of streaming: forecasts of each piece, and the seconds of each call with how many streams it served."""

    forecasts: list[np.ndarray]
    seconds: np.ndarray
    streams: np.ndarray


def load_ecg() -> np.ndarray:
    """The signal in millivolts: float32 [36000] at 120 Hz."""
    samples = (np.load(DATA)["ecg"].astype(np.float32) - 1024) / 200
    return samples.reshape(-1, 3).mean(1)


def make_cell(config: Config) -> Cell:
    """Reads x_t, and adds to it what it expects to change until t + horizon."""
    return residual(stack(gru(config.hidden_size), dense(1)))


def train(config: Config, cell: Cell, signal: np.ndarray, valid: np.ndarray, run_dir: Path) -> tuple[Any, Any]:
    """Trains on windows of the signal: the best parameters, and what `fit` says."""
    ahead, length = config.horizon, config.window + config.horizon
    data = jnp.asarray(signal)

    def errors(params: Any, xs: jax.Array) -> jax.Array:
        return jnp.square(unroll(cell, params, xs[:-ahead])[1] - xs[ahead:])[config.burn_in :]

    def loss_fn(params: Any, batch: jax.Array, *, key: jax.Array, step: jax.Array) -> Any:
        windows = jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(data, start, length), out_axes=1)(batch)
        pair = tally(error := errors(params, windows[..., None]), jnp.ones_like(error))
        return mean_value(pair), {"squared_error": pair}

    def batches() -> Generator[np.ndarray]:
        rng = np.random.default_rng(config.seed)
        while True:
            yield rng.integers(0, len(signal) - length, config.batch_size)

    judge = jax.jit(lambda params: errors(params, jnp.asarray(valid)[:, None, None]).mean())
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha=0.01)
    tx = optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(schedule))
    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    state = create_state(cell.init(init_key, 1), tx, train_key)
    with run_logger(run_dir) as log, open_checkpoints(run_dir) as checkpoints:
        best, info = fit(
            state,
            make_train_step(loss_fn, tx),
            batches(),
            num_steps=config.num_steps,
            validation=Validation(lambda p: {"squared_error": judge(p)}, config.eval_every, "squared_error"),
            log=log,
            checkpoints=checkpoints,
            max_seconds=config.max_seconds,
        )
    return best.params, info


def serve(pool: StreamPool, pieces: list[np.ndarray], starts: list[int], rate: float, show: Show) -> Served:
    """Lets pieces [T] of a signal arrive, each as a stream that joins when it starts and leaves when it ends."""
    ends = [start + len(piece) for start, piece in zip(starts, pieces, strict=True)]
    forecasts = [np.zeros(len(piece), np.float32) for piece in pieces]
    streams: dict[int, int] = {}
    seconds, served = [], []
    began = time.perf_counter()
    for now in range(max(ends)):
        streams |= {number: pool.join() for number, start in enumerate(starts) if start == now}
        xs = np.array([pieces[number][now - starts[number]] for number in streams], np.float32)[:, None]
        clock = time.perf_counter()
        ys = pool.step(list(streams.values()), xs)
        seconds.append(time.perf_counter() - clock)
        served.append(len(streams))
        for number, y in zip(streams, ys, strict=True):
            forecasts[number][now - starts[number]] = y[0]
        show(now, forecasts)
        for number in [number for number in streams if ends[number] == now + 1]:
            pool.leave(streams.pop(number))
        if rate:
            time.sleep(max(0.0, began + (now + 1) / rate - time.perf_counter()))
    return Served(forecasts, np.array(seconds), np.array(served))


def rms(errors: list[np.ndarray]) -> float:
    """The root mean square of errors in several pieces."""
    return float(np.sqrt(np.square(np.concatenate(errors)).mean()))


def linear_weights(signal: np.ndarray, lags: int, ahead: int) -> np.ndarray:
    """Least squares: [lags + 1] weights of the last samples, the newest last, and a constant."""
    return np.linalg.lstsq(_lagged(signal[:-ahead], lags), signal[lags - 1 + ahead :], rcond=None)[0]


def _lagged(signal: np.ndarray, lags: int) -> np.ndarray:
    rows = np.lib.stride_tricks.sliding_window_view(signal, lags)
    return np.concatenate([rows, np.ones((len(rows), 1), signal.dtype)], axis=1)


@contextmanager
def count_compilations() -> Generator[list[str]]:
    """What XLA compiles meanwhile."""
    seen: list[str] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    yield seen
    monitoring.unregister_event_duration_listener(listen)


def picture(truth: np.ndarray, curves: dict[str, np.ndarray], title: str) -> Any:
    """A few seconds of a stream and of what was expected of it."""
    ax, seconds = new_axes((10.0, 3.6)), np.arange(len(truth)) / SAMPLE_RATE
    ax.plot(seconds, truth, color=PALETTE[5], lw=3.5, alpha=0.5, label="arrived")
    for (label, curve), colour in zip(curves.items(), (PALETTE[0], PALETTE[1]), strict=True):
        ax.plot(seconds, curve, color=colour, lw=1.2, alpha=0.9 if label == "GRU" else 0.45, label=label)
    finish(ax, title)
    ax.set(xlabel="seconds", ylabel="mV")
    ax.legend(frameon=False, fontsize=8.5, ncols=3)
    return ax.figure


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains, streams, and compares with what was to be expected."""
    millivolts = load_ecg()
    borders = [int(share * len(millivolts)) for share in (TRAIN, VALID)]
    mean, scale = millivolts[: borders[0]].mean(), millivolts[: borders[0]].std()
    signal, valid, test = np.split((millivolts - mean) / scale, borders)
    cell, ahead, burn = make_cell(config), config.horizon, config.burn_in
    params, info = train(config, cell, signal, valid, run_dir)
    params = jax.device_get(params)

    pieces = np.array_split(test, config.patients)
    pool = StreamPool(cell, params, slots=config.patients, input_size=1, row_sizes=(1,), chunk_sizes=(1,))
    pool.warm_up()
    starts = [config.apart * number for number in range(config.patients)]
    with (
        live_display(pieces, starts, ahead=ahead, sample_rate=SAMPLE_RATE, scale=float(scale), unit="mV") as show,
        count_compilations() as compiled,
    ):
        served = serve(pool, pieces, starts, config.rate, show)

    export_cell(cell, params, run_dir / "model.zip", input_size=1)
    model = load_exported(run_dir / "model.zip")
    offline = [np.asarray(unroll(cell, params, jnp.asarray(piece)[:, None])[1])[:, 0] for piece in pieces]
    exported = [np.asarray(model.unroll(model.init_carry(1), piece[:, None, None])[1])[:, 0, 0] for piece in pieces]
    weights = linear_weights(signal, burn, ahead)
    expected = {
        f"GRU-{config.hidden_size}": [f[burn - 1 : -ahead] for f in served.forecasts],
        "last value": [piece[burn - 1 : -ahead] for piece in pieces],
        f"linear, {burn} samples": [_lagged(piece[:-ahead], burn) @ weights for piece in pieces],
    }
    came = [piece[burn - 1 + ahead :] for piece in pieces]
    errors = {name: rms([a - b for a, b in zip(values, came, strict=True)]) for name, values in expected.items()}
    ours, last, linear = errors.values()
    p50, p99 = np.percentile(served.seconds, (50, 99)) * 1e6
    metrics = {
        "error_mV": ours * float(scale),
        "last_value_error_mV": last * float(scale),
        "linear_error_mV": linear * float(scale),
        "error_over_last_value": ours / last,
        "error_over_linear": ours / linear,
        "difference_to_unroll": max(float(abs(a - b).max()) for a, b in zip(served.forecasts, offline, strict=True)),
        "difference_of_export": max(float(abs(a - b).max()) for a, b in zip(exported, offline, strict=True)),
        "compilations_while_streaming": len(compiled),
        "latency_p50_us": float(p50),
        "latency_p99_us": float(p99),
        "stream_steps_per_second": float(served.streams.sum() / served.seconds.sum()),
    }
    shown = slice(0, int(4 * SAMPLE_RATE))
    curves = {"GRU": served.forecasts[0][burn - 1 : -ahead], "last value": pieces[0][burn - 1 : -ahead]}
    title = f"What arrived, and what was expected {1000 * ahead / SAMPLE_RATE:.0f} ms before"
    figure = picture(
        came[0][shown] * scale + mean, {name: c[shown] * scale + mean for name, c in curves.items()}, title
    )
    learning = learning_curves(info.history, "squared_error").figure
    write_report(
        run_dir,
        title="A heartbeat, foreseen while it arrives",
        intro=f"Errors of forecasts {1000 * ahead / SAMPLE_RATE:.0f} ms ahead, in millivolts, over {config.patients} "
        f"streams of {len(pieces[0]) / SAMPLE_RATE:.0f} s. One call for all streams took {p50:.0f} us (median), "
        f"{p99:.0f} us (99 %).",
        metrics_rows=[{"forecast": name, "error, mV": error * float(scale)} for name, error in errors.items()],
        figures={
            "Four seconds of the first stream": save(figure, run_dir / "figures" / "stream.png"),
            "Learning curves, squared error in variances": save(learning, run_dir / "figures" / "learning_curves.png"),
        },
        links={"The model, for any program with JAX": run_dir / "model.zip"},
        notes=[describe_fit(info, config.num_steps)],
    )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
