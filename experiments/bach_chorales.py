r"""Can a small recurrent network learn to write four-part chorales?

A recurrent network reads a chorale frame by frame and predicts the next one (teacher forcing); then it composes.

`--dataset chorales` (default): 361 chorales of J. S. Bach, embedded in the package, on a grid of eighth notes. For each
of the four voices a frame says whether it rests, holds its note or strikes one; the voices are predicted one after
another, each given those above it. Training pieces are transposed at random within the ranges of the voices.

`--dataset jsb`: the official JSB benchmark (Boulanger-Lewandowski et al. 2012), 88 independent notes a frame, one frame
a quarter note. Published test numbers: GRU 8.54, LSTM 8.67, tanh 9.10 (Chung et al. 2014, arXiv:1412.3555, table 2,
about 20,000 parameters); LSTM 8.45, GRU 8.43 (Bai et al. 2018, arXiv:1803.01271, table 1, 300,000 parameters).

Numbers are negative log-likelihoods in nats per frame: summed over voices or notes, averaged over all frames of a
split; the first frame of a piece is not counted. They stand against two baselines: `unigram` knows how often each note
occurs, `repeat` plays the last frame again with fitted confidence.

    python -m experiments.bach_chorales                  # at most 3 minutes on 2 cores
    python -m experiments.bach_chorales --cell lstm --num-layers 2 --temperature 0.8

The benchmark wants more steps, more dropout and whole pieces, about 5 minutes (85,000 parameters):

    python -m experiments.bach_chorales --dataset jsb --hidden-size 150 --dropout 0.5 \
        --window 160 --batch-size 20 --num-steps 2000 --max-seconds 1200

It leaves in the run directory: composed chorales as MIDI, WAV and pictures, one from nothing and one that continues the
opening of a held-out piece; learning curves; the best parameters; report.md.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from experiments.claims import at_most
from experiments.cli import main
from rnn_jax import Cell, make_cell, stack, stream_step, tree, unroll, with_dropout
from rnn_jax.data import audio
from rnn_jax.data.batching import Batch
from rnn_jax.data.pieces import (
    PieceSet,
    chorale_pieces,
    heard,
    make_clock,
    roll_pieces,
    training_batches,
    whole_batch,
)
from rnn_jax.frames import FrameModel, repeat_nll, roll_frames, unigram_nll, voice_frames
from rnn_jax.metrics import Mean, mean_value, tally
from rnn_jax.plotting import learning_curves, piano_roll, save
from rnn_jax.report import write_report
from rnn_jax.training import Validation, create_state, describe_fit, fit, make_evaluate, make_train_step, run_logger

CLAIMS = (
    at_most("test_nll", 8.7, source="Chung et al. 2014, table 2: LSTM 8.67, GRU 8.54", when={"dataset": "jsb"}),
    at_most("test_nll_over_repeat", 0.5, source="wide margin over the better baseline", when={"dataset": "chorales"}),
)


@dataclass(frozen=True)
class Config:
    """The defaults serve both data sets."""

    dataset: Literal["chorales", "jsb"] = "chorales"
    cell: str = "gru"
    """A name in rnn_jax.CELLS."""
    hidden_size: int = 256
    num_layers: int = 1
    dropout: float = 0.3
    """One mask a sequence, on what each layer hands to the next and the last one to the output."""
    batch_size: int = 16
    window: int = 128
    """Steps in a training example; longer pieces are cut at a random place."""
    learning_rate: float = 3e-3
    """Falls to a hundredth along a cosine."""
    clip: float = 1.0
    """The largest norm of a gradient."""
    num_steps: int = 450
    eval_every: int = 50
    max_seconds: float = 120.0
    """Training stops there on a slow machine; the report says so."""
    temperature: float = 0.6
    """Of the composed music: below 1 is safer, above 1 wilder."""
    bars: int = 12
    """Length of the composed music."""
    opening_bars: int = 3
    """How much of a held-out piece is given before the model goes on."""
    piece: int = 0
    """Which test piece that is."""
    seed: int = 0


SMOKE = Config(hidden_size=8, num_layers=1, num_steps=4, eval_every=2, window=32, bars=4, opening_bars=1)


class Params(NamedTuple):
    """All that is trained."""

    rnn: Any
    head: Any


class Model(NamedTuple):
    """The recurrent part, and how frames enter and leave it."""

    cell: Cell
    frames: FrameModel

    def features(self, before: jax.Array, clock: jax.Array) -> jax.Array:
        """What the cell reads: the frame before, and the clock of the step to predict."""
        return jnp.concatenate([self.frames.encode(before), clock], axis=-1)


def log_likelihood(
    model: Model, params: Params, batch: Batch, keep: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of every frame given all before it, and which frames are real: both [T, B]."""
    piece: Any = batch.data
    xs = model.features(piece.before, piece.clock)
    _, ys = unroll(model.cell, params.rnn, xs, lengths=jnp.asarray(batch.lengths))
    features = jnp.concatenate([ys * keep, xs], -1)
    log_p = model.frames.head.log_prob(params.head, features, model.frames.tokens(piece.frames))
    return log_p, jnp.arange(len(log_p))[:, None] < batch.lengths


def loss_fn(config: Config, model: Model, params: Params, batch: Batch, *, key: jax.Array, step: jax.Array) -> Any:
    """Mean negative log-likelihood of a frame, with this step's dropout masks drawn in."""
    rnn_key, keep_key = jax.random.split(key)
    shape = jax.eval_shape(model.features, batch.data.before, batch.data.clock).shape
    noisy = params._replace(rnn=model.cell.perturb(rnn_key, params.rnn, shape))
    keep = jax.random.bernoulli(keep_key, 1 - config.dropout, (1, shape[1], config.hidden_size))
    log_p, real = log_likelihood(model, noisy, batch, keep.astype(jnp.float32) / (1 - config.dropout))
    nll = tally(-log_p, real.astype(log_p.dtype))
    return mean_value(nll), {"nll": nll}


def nll_metrics(model: Model, params: Params, batch: Batch) -> dict[str, Mean]:
    """What is published: the first frame is not counted."""
    log_p, real = log_likelihood(model, params, batch)
    return {"nll": tally(-log_p, (real & batch.data.counted).astype(log_p.dtype))}


@partial(jax.jit, static_argnums=0)
def compose(
    model: Model,
    params: Params,
    key: jax.Array,
    script: jax.Array,
    num_given: int,
    clock: jax.Array,
    temperature: float,
) -> jax.Array:
    """Plays the first `num_given` frames of the script [T, F], then samples frame by frame: [T, F]."""

    def step(state: Any, inputs: Any) -> Any:
        carry, before = state
        t, tick, scripted = inputs
        x = model.features(before, tick)
        carry, y = stream_step(model.cell, params.rnn, carry, x)
        step_key = jax.random.fold_in(key, t)
        tokens = model.frames.head.sample(params.head, step_key, jnp.concatenate([y, x]), temperature)
        frame = jnp.where(t < num_given, scripted, model.frames.advance(before, tokens))
        return (carry, frame), frame

    start = (model.cell.init_carry(params.rnn), jnp.zeros(model.frames.frame_size, jnp.int32))
    return jax.lax.scan(step, start, (jnp.arange(len(clock)), clock, script))[1]


def baselines(frames: FrameModel, pieces: PieceSet, split: str) -> dict[str, float]:
    """Nats per frame of the two baselines on a split."""

    def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
        before, after, _, counted = (np.concatenate(leaf) for leaf in zip(*getattr(pieces.splits, name), strict=True))
        tokens, repeats = frames.tokens(jnp.asarray(after)), frames.tokens(frames.sustain(jnp.asarray(before)))
        return np.asarray(tokens)[counted], np.asarray(repeats)[counted]

    train, part = pair("train"), pair(split)
    num_classes = 1 + max(int(tokens.max()) for tokens, _ in (train, part))
    return {
        "unigram": unigram_nll(train[0], part[0], num_classes),
        "repeat": repeat_nll(train, part, num_classes),
    }


def build(config: Config) -> tuple[Model, PieceSet]:
    """The data set and the model for it."""
    if config.dataset == "jsb":
        pieces = roll_pieces("jsb")
        frames = roll_frames(pieces.num_pitches)
    else:
        pieces = chorale_pieces()
        frames = voice_frames(4, pieces.num_pitches)
    layers = [
        with_dropout(make_cell(config.cell, config.hidden_size), variational=config.dropout if index else 0.0)
        for index in range(config.num_layers)
    ]
    return Model(stack(*layers), frames), pieces


def init_params(model: Model, pieces: PieceSet, key: jax.Array) -> Params:
    """Initial parameters for frames and clock of this data set."""
    rnn_key, head_key = jax.random.split(key)
    piece: Any = pieces.splits.train[0]
    size = model.features(piece.before, piece.clock).shape[-1]
    rnn = model.cell.init(rnn_key, size)
    ys = jax.eval_shape(lambda: unroll(model.cell, rnn, jnp.zeros((1, size)))[1])
    return Params(rnn=rnn, head=model.frames.head.init(head_key, ys.shape[-1] + size))


def write_music(
    config: Config, run_dir: Path, model: Model, params: Params, pieces: PieceSet
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Composes a new piece and continues a held-out one: pictures and sound files by caption."""
    per_bar = 4 * pieces.steps_per_beat
    held_out = pieces.splits.test[config.piece]
    steps = max(config.bars * per_bar, len(held_out.frames))
    script = np.zeros((steps, model.frames.frame_size), np.int32)
    script[: len(held_out.frames)] = held_out.frames
    clocks = np.zeros((2, steps, held_out.clock.shape[1]), np.float32)
    clocks[0, : len(held_out.frames)] = held_out.clock
    clocks[1, : config.bars * per_bar] = make_clock(np.arange(config.bars * per_bar) % per_bar, 4)[:, : clocks.shape[2]]
    opening = config.opening_bars * per_bar
    jobs = {  # name: caption, clock, frames given, length
        "composed": ("Composed from nothing", clocks[1], 0, config.bars * per_bar),
        "continued": ("A held-out opening (shaded), continued", clocks[0], opening, len(held_out.frames)),
        "original": ("The held-out piece itself", clocks[0], steps, len(held_out.frames)),
    }
    figures, files = {}, {}
    for index, (name, (caption, clock, given, length)) in enumerate(jobs.items()):
        key = jax.random.fold_in(jax.random.key(config.seed), index)
        frames = compose(model, params, key, script, given, clock, config.temperature)
        picture, notes = heard(pieces, np.asarray(frames)[:length])
        shaded = opening if name == "continued" else 0
        ax = piano_roll(picture, steps_per_beat=pieces.steps_per_beat, title=caption, prefix_steps=shaded)
        figures[caption] = save(ax.figure, run_dir / "figures" / f"{name}.png")
        audio.write_midi(run_dir / f"{name}.mid", notes, steps_per_beat=pieces.steps_per_beat)
        sound = audio.synthesize(notes, steps_per_beat=pieces.steps_per_beat)
        audio.write_wav(run_dir / f"{name}.wav", sound)
        files |= {f"{caption}: sound": run_dir / f"{name}.wav", f"{caption}: MIDI": run_dir / f"{name}.mid"}
    return figures, files


def run(config: Config, run_dir: Path) -> dict[str, float | int]:
    """Trains, judges and composes."""
    model, pieces = build(config)
    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    params = init_params(model, pieces, init_key)
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha=0.01)
    tx = optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(schedule))
    evaluate = make_evaluate(partial(nll_metrics, model))
    splits = {"valid": whole_batch(pieces.splits.valid), "test": whole_batch(pieces.splits.test)}
    with run_logger(run_dir) as log:
        best, info = fit(
            create_state(params, tx, train_key),
            make_train_step(partial(loss_fn, config, model), tx),
            training_batches(pieces, config.batch_size, config.window, config.seed),
            num_steps=config.num_steps,
            validation=Validation(lambda p: evaluate(p, [splits["valid"]]), config.eval_every, "nll"),
            log=log,
            max_seconds=config.max_seconds,
        )
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((run_dir / "params").resolve(), best.params)
    metrics: dict[str, float] = {}
    floors = {split: baselines(model.frames, pieces, split) for split in splits}
    rows = []
    for split, batch in splits.items():
        nll = evaluate(best.params, [batch])["nll"]
        rows.append({"split": split, f"{config.num_layers} x {config.cell}-{config.hidden_size}": nll, **floors[split]})
        metrics |= {f"{split}_nll": nll, **{f"{split}_{name}": value for name, value in floors[split].items()}}
    metrics["test_nll_over_repeat"] = metrics["test_nll"] / metrics["test_repeat"]
    figures, files = write_music(config, run_dir, model, best.params, pieces)
    curves = learning_curves(info.history, "nll", baselines=floors["valid"])
    figures["Learning curves, nats per frame"] = save(curves.figure, run_dir / "figures" / "learning_curves.png")
    write_report(
        run_dir,
        title=f"Chorales by a recurrent network ({config.dataset})",
        intro="Negative log-likelihood in nats per frame; lower is better. The first frame of a piece is not counted.",
        metrics_rows=rows,
        figures=figures,
        links=files,
        notes=[describe_fit(info, config.num_steps)],
    )
    return metrics | {"best_step": info.best_step, "parameters": tree.size(params)}


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
