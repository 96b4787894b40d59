r"""When should a decoder read the truth? (Schedules of teacher forcing, side by side.)

A bidirectional GRU reads the melody of a chorale of J. S. Bach; a second GRU writes the bass, note by note, reading the
last bass note: a sequence-to-sequence model on real data in which forcing matters, since the last note says much about
the next, but only as long as it is right. In training the true last note is read with a probability that follows a
schedule. All schedules and seeds train together in one compiled program: forcing is an array, its rate a number.

Bengio et al. (2015, arXiv:1506.03099) found on three tasks that a decaying schedule beats both forcing throughout and
never forcing (TIMIT, frame error free-running: forced 46.0, never 35.8, decaying 34.5 %). Claimed here is the first
half, that forcing throughout is clearly worst, and every number is shown.

    python -m experiments.forcing_schedules           # 10 to 15 minutes on 2 cores

`accuracy` is the part of the test frames whose bass note is right when the model reads its own notes only;
`accuracy_forced` when it reads the true ones. Each training step of one model is timed forced and free-running.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._many import fit_many
from experiments._melodies import Melodies, Task, collate, load_melodies, windows
from experiments.claims import at_least, at_most
from experiments.cli import main
from rnn_jax import bidirectional, dense, forced_unroll, forcing_mask, forcing_schedule, gru, stack
from rnn_jax.exposure import ExposureReport, Scores, exposure_report, exposure_rows, token_scores
from rnn_jax.forcing import argmax, sample
from rnn_jax.metrics import mean_value, tally
from rnn_jax.plotting import FAINT, PALETTE, exposure_curves, finish, new_axes, save
from rnn_jax.report import write_report
from rnn_jax.training import create_states, make_train_step, make_train_steps

SCHEDULES = {
    "always": ("constant", 1.0, 1.0),
    "half": ("constant", 0.5, 0.5),
    "never": ("constant", 0.0, 0.0),
    "linear": ("linear", 1.0, 0.0),
    "exponential": ("exponential", 1.0, 0.0),
    "inverse_sigmoid": ("inverse_sigmoid", 1.0, 0.0),
    "cosine": ("cosine", 1.0, 0.0),
    "linear_to_half": ("linear", 1.0, 0.5),
    "linear_up": ("linear", 0.0, 1.0),
}
"""Name: kind, rate at the start and at the end."""

CLAIMS = (
    at_least("best_minus_always", 0.03, source="Bengio et al. 2015, table 3: 46.0 - 34.5 % on TIMIT"),
    at_most("programs", 1, source="one compilation serves every schedule"),
)


@dataclass(frozen=True)
class Config:
    """All schedules and seeds train side by side."""

    seeds: int = 4
    hidden_size: int = 64
    """Of the decoder; the encoder has half of it in each direction."""
    embedding_size: int = 16
    batch_size: int = 16
    window: int = 64
    num_steps: int = 1000
    learning_rate: float = 5e-3
    """Falls to a hundredth along a cosine."""
    schedule_part: float = 0.75
    """The part of training over which rates move."""
    seed: int = 0


SMOKE = Config(seeds=1, hidden_size=4, embedding_size=2, batch_size=2, window=8, num_steps=2)


class Params(NamedTuple):
    """Parameters of encoder and decoder, and the table that notes are looked up in."""

    encoder: Any
    decoder: Any
    embedding: jax.Array  # [V, E]


class Harmoniser(NamedTuple):
    """The encoder's output at a step is an input of the decoder at that step: melody and bass go together."""

    encoder: Any
    decoder: Any
    init: Any


def build(config: Config, melodies: Melodies) -> Harmoniser:
    """The model."""
    half = config.hidden_size // 2
    encoder = bidirectional(gru(half), gru(half))
    decoder = stack(gru(config.hidden_size), dense(melodies.num_classes))

    def init(key: jax.Array) -> Params:
        keys = jax.random.split(key, 3)
        size = config.embedding_size
        return Params(
            encoder=encoder.init(keys[0], melodies.train[0].inputs.shape[1]),
            decoder=decoder.init(keys[1], size + config.hidden_size),
            embedding=jax.random.normal(keys[2], (melodies.num_classes, size)) * size**-0.5,
        )

    return Harmoniser(encoder, decoder, init)


def harmonise(model: Harmoniser, params: Params, task: Task, mask: Any, feedback: Any, key: Any = None) -> jax.Array:
    """Logits of the bass [T, B, V], forced by the mask."""
    lengths = jnp.asarray(task.lengths)
    _, melody = model.encoder.apply(params.encoder, jnp.asarray(task.inputs), lengths=lengths)
    options = {"start": 0, "feedback": feedback, "embedding": params.embedding, "key": key}
    targets = jnp.asarray(task.targets)
    return forced_unroll(model.decoder, params.decoder, targets, mask, inputs=melody, lengths=lengths, **options)[1]


def score(model: Harmoniser, params: Params, task: Task, rate: Any, key: jax.Array, feedback: Any = argmax) -> Scores:
    """Loss and correctness of every frame, forced by coins of the given rate."""
    mask_key, sample_key = jax.random.split(key)
    num_steps, size = task.targets.shape
    mask = forcing_mask(mask_key, rate, num_steps, (size,))
    logits = harmonise(model, params, task, mask, feedback, sample_key)
    return token_scores(logits, jnp.asarray(task.targets), jnp.asarray(task.lengths))


def time_steps(model: Harmoniser, task: Task) -> dict[str, float]:
    """Milliseconds of a training step of one model, forced and free-running: one program, two masks."""
    tx = optax.adam(1e-3)

    def loss_fn(params: Params, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        rate, task = batch
        scores = score(model, params, task, rate, key)
        return mean_value(tally(scores.loss, scores.real)), {}

    train_step, milliseconds = make_train_step(loss_fn, tx), {}
    for name, rate in (("forced", 1.0), ("free", 0.0)):
        states = create_states(model.init, tx, jax.random.split(jax.random.key(0), 1))
        state, times = jax.tree.map(lambda leaf: leaf[0], states), []
        for _ in range(22):
            started = time.perf_counter()
            state, metrics = train_step(state, (jnp.float32(rate), task))
            jax.block_until_ready(metrics["loss"].total)
            times.append(time.perf_counter() - started)
        milliseconds[f"step_ms_{name}"] = 1000 * float(np.median(times[2:]))
    return milliseconds


def train(model: Harmoniser, config: Config, melodies: Melodies, folder: Path) -> tuple[Any, int]:
    """Parameters [schedules x seeds, ...] and how many programs it took."""
    moving = max(1, round(config.schedule_part * config.num_steps))
    rates = [forcing_schedule(kind, moving, start=start, end=end) for kind, start, end in SCHEDULES.values()]

    traced: list[str] = []

    def loss_fn(params: Params, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        traced.append("once for each program")
        which, task = batch
        scores = score(model, params, task, jnp.stack([rate(step) for rate in rates])[which], key, sample())
        return mean_value(tally(scores.loss, scores.real)), {}

    decay = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha=0.01)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(decay))
    which = jnp.repeat(jnp.arange(len(SCHEDULES)), config.seeds)
    seeds = jnp.tile(jax.random.split(jax.random.key(config.seed), config.seeds), len(SCHEDULES))
    states, step = create_states(model.init, tx, seeds), make_train_steps(loss_fn, tx)
    batches = windows(melodies.train, config.batch_size, config.window, config.seed)
    states, _ = fit_many(folder, states, step, which, batches, config.num_steps)
    return states.params, len(traced)


def draw(accuracy: np.ndarray, forced: np.ndarray, reports: dict[str, ExposureReport], folder: Path) -> dict[str, Path]:
    """Figures by caption."""
    order = np.argsort(-accuracy.mean(1))
    ax = new_axes((7.4, 4.0))
    for place, i in enumerate(order):
        ax.plot(accuracy[i], np.full(accuracy.shape[1], place), "o", color=PALETTE[0], alpha=0.5, ms=5)
        ax.plot(accuracy[i].mean(), place, "|", color=PALETTE[0], ms=16, mew=2.5, label="" if place else "free-running")
        ax.plot(forced[i].mean(), place, "|", color=PALETTE[3], ms=16, mew=2.5, label="" if place else "forced")
    ax.set_yticks(range(len(order)), [list(SCHEDULES)[i].replace("_", " ") for i in order])
    ax.invert_yaxis()
    ax.set(xlabel="part of test frames with the right bass note (dots: seeds, bars: means)")
    ax.grid(axis="x", color=FAINT, lw=0.7)
    ax.legend(frameon=False)
    finish(ax, "Read the truth in training: how often?")
    figures = {"Free-running accuracy of every schedule": save(ax.figure, folder / "schedules.png")}
    for name, report in reports.items():
        box = np.ones(8)
        share = np.convolve(np.ones(report.accuracy_by_position.shape[1]), box, "same")
        smooth = np.stack([np.convolve(row, box, "same") / share for row in report.accuracy_by_position])
        ax = exposure_curves(
            report.rates,
            smooth,
            counts=report.count_by_position,
            least=20,
            ylabel="part of bass notes right (mean of 8)",
            title=f"Trained with schedule: {name.replace('_', ' ')}",
        )
        ax.set_ylim(0, 0.8)
        figures[f"Exposure report, schedule {name}"] = save(ax.figure, folder / f"exposure_{name}.png")
    return figures


def run(config: Config, run_dir: Path) -> dict[str, float]:
    """Trains all, then judges all."""
    melodies = load_melodies()
    model = build(config, melodies)
    test = collate(melodies.test)
    metrics: dict[str, float] = time_steps(model, next(windows(melodies.train, config.batch_size, config.window, 0)))
    params, metrics["programs"] = train(model, config, melodies, run_dir)

    def accuracy_at(params: Params, rate: jax.Array) -> jax.Array:
        scores = score(model, params, test, rate, jax.random.key(0))
        return mean_value(tally(scores.correct, scores.real))

    judge = jax.jit(jax.vmap(accuracy_at, in_axes=(0, None)))
    free, forced = (np.asarray(judge(params, jnp.float32(r))).reshape(len(SCHEDULES), -1) for r in (0, 1))
    rows = []
    for i, name in enumerate(SCHEDULES):
        spread = free[i].std(ddof=min(1, config.seeds - 1))
        metrics |= {f"accuracy_{name}": float(free[i].mean()), f"accuracy_{name}_sd": float(spread)}
        metrics[f"accuracy_forced_{name}"] = float(forced[i].mean())
        rows.append(
            {
                "schedule": name.replace("_", " "),
                "free-running": f"{free[i].mean():.3f} ± {spread:.3f}",
                "forced": f"{forced[i].mean():.3f}",
            }
        )
    means = dict(zip(SCHEDULES, free.mean(1).tolist(), strict=True))
    decaying = max(means[name] for name in ("linear", "exponential", "inverse_sigmoid", "cosine"))
    metrics["best_minus_always"] = max(means.values()) - means["always"]
    metrics["decaying_minus_never"] = decaying - means["never"]
    reports = {}
    for name in ("always", "never", "linear"):
        first = list(SCHEDULES).index(name) * config.seeds
        one = jax.tree.map(lambda leaf, n=first: leaf[n], params)
        reports[name] = exposure_report(partial(score, model, one), [test], jax.random.key(1))
    notes = [
        f"Schedule {name}, loss in nats: "
        + "; ".join(f"{row['loss']:.2f} at forcing {row['forcing']:g}" for row in exposure_rows(report))
        for name, report in reports.items()
    ]
    write_report(
        run_dir,
        title="Schedules of teacher forcing",
        intro=f"Part of test frames with the right bass note, mean and standard deviation of {config.seeds} seeds.",
        metrics_rows=rows,
        figures=draw(free, forced, reports, run_dir / "figures"),
        links={},
        notes=notes,
    )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
