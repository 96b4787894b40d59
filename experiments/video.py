r"""What is someone doing? (Motion as points over time.)

A recurrent network reads a video as the places of a few points in each frame, in both directions of time; the mean and
the greatest value over time of each of its outputs decide.

`--dataset libras` (default): 360 hand movements of Brazilian sign language, 15 classes, 45 frames of one point (UCI, CC
BY 4.0), embedded. 30 are copies of others; copies are always in the same fold.

`--dataset skeletons`: 272 videos that a robot took of people, 6 actions, 92 frames of 25 key points found by OpenPose
(data AR.data of the R package dbcsp, GPL >= 2; Rodriguez-Moreno et al. 2020). The file comes through `RNN_JAX_DATA`.

Accuracy over five stratified folds, each video tested once. In a fold an eighth of the other four chooses the best
state; nothing was chosen by a test fold. Mean and standard deviation of three seeds: 93.4 and 0.6 % on Libras, 87.1 and
0.4 % on skeletons. Baseline, on the same folds: ridge regression on all coordinates, 62.8 and 68.0 %.

    python -m experiments.video                          # 3 to 6 minutes on one core, three seeds
    python -m experiments.video --dataset skeletons

Networks for all folds and seeds train side by side in one program. Training videos are stretched in time and space,
turned and shaken a little. `seen_25`, ...: accuracy from the first 25 % of the frames alone, by the same networks.

It leaves in the run directory: the confusion matrix, accuracy against frames seen, learning curves, report.md.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes

from experiments.claims import at_least
from experiments.cli import main
from rnn_jax import Cell, Layer, bidirectional, dense, make_cell, serial, with_dropout
from rnn_jax.data.motions import KEY_POINTS, Motions, load_libras, load_skeletons, stratified_folds
from rnn_jax.losses import token_nll
from rnn_jax.metrics import mean_value, tally
from rnn_jax.plotting import FAINT, PALETTE, confusion_map, finish, learning_curves, new_axes, save
from rnn_jax.report import write_report
from rnn_jax.training import (
    Validation,
    create_states,
    describe_fit,
    fit,
    make_train_steps,
    open_checkpoints,
    run_logger,
)

_TARGET = "ours: 93 % on Libras, 87 % on skeletons; ridge regression has 63 and 68 %"
CLAIMS = (
    at_least("accuracy", 0.8, source=_TARGET),
    at_least("accuracy_over_ridge", 0.1, source="wide margin over ridge regression, in parts of all videos"),
)
SEEN = (0.25, 0.5, 0.75, 1.0)
UPPER_BODY = (
    "nose", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist", "mid hip",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """The defaults serve both data sets."""

    dataset: Literal["libras", "skeletons"] = "libras"
    cell: str = "gru"
    """A name in rnn_jax.CELLS."""
    hidden_size: int = 48
    """In each direction."""
    num_layers: int = 1
    dropout: float = 0.3
    """Of what enters a layer, one mask a sequence."""
    smoothing: float = 0.1
    """Of labels."""
    augment: float = 1.0
    """How strongly training videos are changed."""
    batch_size: int = 32
    learning_rate: float = 4e-3
    """Falls to a hundredth along a cosine."""
    num_steps: int = 500
    eval_every: int = 50
    max_seconds: float = 1200.0
    num_folds: int = 5
    seeds: int = 3
    seed: int = 0


SMOKE = Config(hidden_size=4, batch_size=4, num_steps=2, eval_every=2, num_folds=2, seeds=1)


class Fold(NamedTuple):
    """Which videos a network learns from, which choose its best state, and which test it: arrays of numbers."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def load(config: Config) -> tuple[Motions, list[Fold]]:
    """The videos and their folds, the same for every seed of a network."""
    motions = load_libras() if config.dataset == "libras" else load_skeletons()
    labels, groups, folds = motions.labels, motions.groups, []
    tested_in = stratified_folds(labels, config.num_folds, 0, groups)
    for fold in range(config.num_folds):
        rest = np.flatnonzero(tested_in != fold)
        eighth = stratified_folds(labels[rest], 8, 0, groups[rest])
        folds.append(Fold(rest[eighth != 0], rest[eighth == 0], np.flatnonzero(tested_in == fold)))
    return motions, folds


def ridge(motions: Motions, folds: list[Fold], strengths: tuple[float, ...] = (1, 10, 100, 1000, 10_000)) -> float:
    """Accuracy of ridge regression on standardised coordinates; the validation part chooses its strength."""
    flat = motions.points.reshape(len(motions.labels), -1).astype(np.float64)
    one_hot, right = np.eye(len(motions.names))[motions.labels], 0
    for train, valid, test in folds:
        scaled = (flat - flat[train].mean(0)) / (flat[train].std(0) + 1e-8)
        mean, gram = one_hot[train].mean(0), scaled[train] @ scaled[train].T
        answers = [
            (scaled @ scaled[train].T @ np.linalg.solve(gram + one * np.eye(len(gram)), one_hot[train] - mean) + mean)
            for one in strengths
        ]
        hits = [answer.argmax(1) == motions.labels for answer in answers]
        right += hits[int(np.argmax([hit[valid].mean() for hit in hits]))][test].sum()
    return float(right / len(flat))


def to_frames(motions: Motions) -> jax.Array:
    """Points [T, N, K, 2] as networks see them: skeletons as means of four frames, which are less noisy."""
    points = motions.points
    if points.shape[2] > 1:
        points = points.reshape(len(points), -1, 4, *points.shape[2:]).mean(2)
    return jnp.asarray(np.moveaxis(points, 0, 1))


def stretched(points: jax.Array, start: jax.Array, length: jax.Array) -> jax.Array:
    """Part of each video, from `start` [B] on and `length` [B] long, both in [0, 1], in as many frames as before."""
    num_frames = len(points)
    times = (start + length * jnp.linspace(0, 1, num_frames)[:, None]) * (num_frames - 1)
    before = jnp.clip(times.astype(jnp.int32), 0, num_frames - 2)
    weight = (times - before)[..., None, None]
    first, second = (jnp.take_along_axis(points, n[..., None, None], axis=0) for n in (before, before + 1))
    return (1 - weight) * first + weight * second


def augmented(key: jax.Array, points: jax.Array, strength: float) -> jax.Array:
    """Videos [T, B, K, 2] as they might also have been: shorter, larger, wider, turned, less exact."""
    keys, batch = jax.random.split(key, 5), points.shape[1]
    length = 1 - 0.3 * strength * jax.random.uniform(keys[0], (batch,))
    points = stretched(points, (1 - length) * jax.random.uniform(keys[1], (batch,)), length)
    centre, spread = points.mean((0, 2), keepdims=True), points.std((0, 2), keepdims=True)
    scale = jnp.exp(0.2 * strength * jax.random.normal(keys[2], (1, batch, 1, 2)))
    angle = 0.15 * strength * jax.random.normal(keys[3], (batch,))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
    points = jnp.einsum("tbkc,bcd->tbkd", (points - centre) * scale, turn) + centre
    return points + 0.02 * strength * spread * jax.random.normal(keys[4], points.shape)


def features(points: jax.Array) -> jax.Array:
    """What a network reads of points [T, B, K, 2]: places and how they change, in units of the video: [T, B, F].

    A single point is seen from the middle of its path, in units of how far it goes. Of skeletons the upper body is seen
    from the neck, in units of the distance from neck to hips; where the neck is and how large that unit is are features
    too.
    """
    if points.shape[2] == 1:
        origin = points.mean((0, 2), keepdims=True)
        unit = jnp.sqrt(jnp.square(points - origin).mean((0, 2, 3), keepdims=True)) + 1e-3
        places, others = (points - origin) / unit, []
    else:
        neck, hips = (points[:, :, KEY_POINTS.index(name), None] for name in ("neck", "mid hip"))
        unit = jnp.sqrt(jnp.square(neck - hips).sum(-1, keepdims=True)).mean(0, keepdims=True) + 1
        places = (points[:, :, jnp.array([KEY_POINTS.index(name) for name in UPPER_BODY])] - neck) / unit
        others = [(neck - 160) / unit, jnp.broadcast_to(unit / 100, neck[..., :1].shape)]
    changes = 4 * jnp.diff(places, axis=0, prepend=places[:1])
    parts = [places, changes, jnp.abs(changes), *others]
    return jnp.concatenate([part.reshape(*points.shape[:2], -1) for part in parts], axis=-1)


class Params(NamedTuple):
    """Parameters of a `Network`."""

    encoder: Any
    answer: Any


class Network(NamedTuple):
    """Bidirectional cells, and a layer that reads the mean and the greatest value over time of each output."""

    encoder: Layer
    answer: Cell

    def init(self, key: jax.Array, config: Config, num_features: int) -> Params:
        """Parameters."""
        keys = jax.random.split(key)
        return Params(self.encoder.init(keys[0], num_features), self.answer.init(keys[1], 4 * config.hidden_size))

    def log_probabilities(
        self, params: Params, points: jax.Array, length: jax.Array | None = None, key: jax.Array | None = None
    ) -> jax.Array:
        """Of the classes [B, C], from points [T, B, K, 2]; from their first `length` frames alone; noisy with a key."""
        steps, num_videos = points.shape[:2]
        real = jnp.arange(steps) < (steps if length is None else length)
        if length is not None:  # the last frame that was seen stands still
            points = points[jnp.minimum(jnp.arange(steps), length - 1)]
        xs = features(points)
        encoder, answer = params
        if key is not None:
            keys = jax.random.split(key)
            encoder = self.encoder.perturb(keys[0], encoder, xs.shape)
            answer = self.answer.perturb(keys[1], answer, (1, num_videos, answer.cell.w.shape[0]))
        real = real[:, None]
        hs = self.encoder.apply(encoder, xs, mask=jnp.broadcast_to(real, xs.shape[:2]))[1]
        most = jnp.where(real[..., None], hs, -jnp.inf).max(0)
        pooled = jnp.concatenate([hs.sum(0) / real.sum(), most], axis=-1)
        return jax.nn.log_softmax(self.answer.project(answer, pooled))


def network(config: Config, num_classes: int) -> Network:
    """The network."""

    def cell() -> Any:
        return with_dropout(make_cell(config.cell, config.hidden_size), variational=config.dropout)

    encoder = serial(*(bidirectional(cell(), cell()) for _ in range(config.num_layers)))
    return Network(encoder, with_dropout(dense(num_classes), variational=config.dropout))


class Runs(NamedTuple):
    """What is each network's own, [R, ...]: one for each fold and seed."""

    ids: np.ndarray  # [R, M] the videos it learns from, some of them twice at the end where folds are uneven
    count: np.ndarray  # [R] how many of them are different
    valid: np.ndarray  # [R, N] bool
    test: np.ndarray  # [R, N] bool


def side_by_side(folds: list[Fold], seeds: int, num_videos: int) -> Runs:
    """All folds with each seed; the fold runs fastest."""
    most = max(len(fold.train) for fold in folds)
    masks = [np.isin(np.arange(num_videos), part) for fold in folds for part in (fold.valid, fold.test)]
    each = Runs(
        ids=np.stack([np.resize(fold.train, most) for fold in folds]),
        count=np.array([len(fold.train) for fold in folds]),
        valid=np.stack(masks[::2]),
        test=np.stack(masks[1::2]),
    )
    return Runs(*(np.concatenate([part] * seeds) for part in each))


def train(config: Config, net: Network, motions: Motions, runs: Runs, run_dir: Path) -> tuple[Any, Any]:
    """Parameters of all networks [R, ...], the best by their own validation, and what `fit` says."""
    points, labels = to_frames(motions), jnp.asarray(motions.labels)

    def loss_fn(params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        (ids, count), _ = batch
        pick_key, change_key, noise_key = jax.random.split(key, 3)
        chosen = ids[jax.random.randint(pick_key, (config.batch_size,), 0, count)]
        changed = augmented(change_key, points[:, chosen], config.augment)
        log_p = net.log_probabilities(params, changed, key=noise_key)
        nll = tally(token_nll(log_p, labels[chosen], smoothing=config.smoothing), jnp.ones(config.batch_size))
        return mean_value(nll), {"nll": nll}

    @jax.jit
    def judge(params: Any) -> dict[str, jax.Array]:
        log_p = jax.vmap(lambda one: net.log_probabilities(one, points))(params)
        nll = token_nll(log_p, jnp.broadcast_to(labels, log_p.shape[:-1]))
        share = runs.valid / runs.valid.sum(1, keepdims=True)
        return {"nll": (nll * share).sum(1), "accuracy": ((log_p.argmax(-1) == labels) * share).sum(1)}

    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha=0.01)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-4))
    size = jax.eval_shape(lambda: features(points[:, :1])).shape[-1]
    keys = jax.random.split(jax.random.key(config.seed), len(runs.count))
    own, steps = (jnp.asarray(runs.ids), jnp.asarray(runs.count)), make_train_steps(loss_fn, tx)
    with run_logger(run_dir) as log, open_checkpoints(run_dir) as checkpoints:
        best, info = fit(
            create_states(lambda key: net.init(key, config, size), tx, keys),
            lambda states, batch: steps(states, own, batch),
            itertools.repeat(()),
            num_steps=config.num_steps,
            validation=Validation(judge, config.eval_every, "nll"),
            log=log,
            checkpoints=checkpoints,
            max_seconds=config.max_seconds,
        )
    return best.params, info


def seen_curve(accuracy: np.ndarray, ridge_accuracy: float, chance: float) -> Axes:
    """Accuracy [seeds, S] against the part of the frames that was seen."""
    ax = new_axes((6.4, 3.6))
    ax.plot(100 * np.array(SEEN), 100 * accuracy.T, "o", color=PALETTE[0], alpha=0.5, ms=5)
    ax.plot(
        100 * np.array(SEEN), 100 * accuracy.mean(0), color=PALETTE[0], lw=2, label="recurrent network (dots: seeds)"
    )
    ax.axhline(100 * ridge_accuracy, color=PALETTE[3], ls=(0, (5, 3)), lw=1.4, label="ridge regression, all frames")
    ax.axhline(100 * chance, color=PALETTE[5], ls=(0, (1, 2)), lw=1.4, label="chance")
    ax.set(xlabel="part of the frames that was seen, %", ylabel="accuracy, %", ylim=(0, 100), xticks=[25, 50, 75, 100])
    ax.grid(axis="y", color=FAINT, lw=0.7)
    ax.legend(frameon=False, fontsize=8.5, loc="upper left")
    finish(ax, "How soon does it know?")
    return ax


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains all networks and tests each on its fold."""
    motions, folds = load(config)
    points, num = to_frames(motions), len(motions.labels)
    net, runs = network(config, len(motions.names)), side_by_side(folds, config.seeds, num)
    params, info = train(config, net, motions, runs, run_dir)

    @jax.jit
    def answers(length: jax.Array) -> jax.Array:
        return jax.vmap(lambda one: net.log_probabilities(one, points, length).argmax(-1))(params)

    accuracy = np.zeros((config.seeds, len(SEEN)))
    answer = np.zeros(runs.test.shape, int).reshape(config.seeds, config.num_folds, num)
    for column, part in enumerate(SEEN):
        answer = np.asarray(answers(jnp.int32(max(1, round(part * len(points)))))).reshape(answer.shape)
        hits = (answer == motions.labels) & runs.test.reshape(answer.shape)
        accuracy[:, column] = hits.sum((1, 2)) / num
    tested = runs.test[: config.num_folds].argmax(0)  # the fold that tests each video
    counts = np.zeros((len(motions.names),) * 2)
    for one in answer:
        np.add.at(counts, (motions.labels, one[tested, np.arange(num)]), 1)
    baseline, full = ridge(motions, folds), accuracy[:, -1]
    metrics: dict[str, Any] = {
        "accuracy": float(full.mean()),
        "accuracy_sd": float(full.std(ddof=min(1, config.seeds - 1))),
        "accuracy_worst_seed": float(full.min()),
        "ridge": baseline,
        "accuracy_over_ridge": float(full.mean()) - baseline,
        **{f"seen_{100 * part:.0f}": float(value) for part, value in zip(SEEN, accuracy.mean(0), strict=True)},
    }
    curves = {
        "Per cent of each class, all folds and seeds": confusion_map(
            counts, motions.names, title="Per cent of each class"
        ),
        "Accuracy against the part of the frames that was seen": seen_curve(accuracy, baseline, 1 / len(motions.names)),
        "Learning curves of all networks, nats a video": learning_curves(info.history, "nll"),
    }
    name = f"{config.num_layers} x bidirectional {config.cell}-{config.hidden_size}"
    write_report(
        run_dir,
        title=f"What is someone doing? ({config.dataset})",
        intro=f"Accuracy on {num} videos of {len(motions.names)} classes, each tested by the network of its fold; mean "
        f"and standard deviation of {config.seeds} seeds.",
        metrics_rows=[
            {"classifier": name, "accuracy": f"{full.mean():.3f} ± {metrics['accuracy_sd']:.3f}"},
            {"classifier": "ridge regression on all coordinates", "accuracy": f"{baseline:.3f}"},
        ],
        figures={
            caption: save(ax.figure, run_dir / "figures" / f"{file}.png")
            for (caption, ax), file in zip(curves.items(), ("confusion", "seen", "learning_curves"), strict=True)
        },
        links={},
        notes=[describe_fit(info, config.num_steps)],
    )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
