"""Can a small recurrent network learn to write four-part chorales?

A stacked cell reads a chorale frame by frame and predicts the next one (teacher forcing); then it composes.

`--dataset chorales` (default): 361 chorales of J. S. Bach, embedded in the package, on a grid of eighth notes. For each
of the four voices a frame says whether it rests, holds its note or strikes one; the voices are predicted one after
another, each given those above it. Training pieces are transposed at random within the ranges of the voices.

`--dataset jsb`: the official JSB benchmark (Boulanger-Lewandowski et al. 2012), 88 independent notes a frame, a quarter
note each. Published test numbers, in nats per frame: GRU 8.54, LSTM 8.67, tanh 9.10 (Chung et al. 2014, arXiv:1412.3555,
table 2, about 20,000 parameters); LSTM 8.45, GRU 8.43 (Bai et al. 2018, arXiv:1803.01271, table 1, 300,000 parameters).

Numbers are negative log-likelihoods in nats per frame: summed over voices or notes, averaged over all frames of a split;
the first frame of a piece is not counted. They stand against two baselines: `unigram` knows how often each note occurs,
`repeat` plays the last frame again with fitted confidence.

    python -m experiments.bach_chorales                  # at most 3 minutes on 2 cores
    python -m experiments.bach_chorales --dataset jsb
    python -m experiments.bach_chorales --cell min_gru --hidden-size 300 --temperature 0.9

It leaves in the run directory: composed chorales as MIDI, WAV and pictures, one from nothing and one that continues the
opening of a held-out piece; learning curves; the best parameters; report.md.
"""

from collections.abc import Sequence
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
    Piece,
    PieceSet,
    chorale_pieces,
    make_clock,
    roll_pieces,
    training_batches,
    whole_batches,
)
from rnn_jax.frames import FrameModel, repeat_nll, roll_frames, unigram_nll, voice_frames
from rnn_jax.metrics import Mean, mean_value, tally
from rnn_jax.plotting import learning_curves, piano_roll, save
from rnn_jax.report import write_report
from rnn_jax.training import Validation, create_state, describe_fit, fit, make_evaluate, make_train_step, run_logger

CLAIMS = (
    at_most("test_nll", 8.7, source="Chung et al. 2014, table 2: LSTM 8.67, GRU 8.54", when={"dataset": "jsb"}),
    at_most("test_nll_over_repeat", 0.75, source="measured here", when={"dataset": "chorales"}),
)


@dataclass(frozen=True)
class Config:
    """The defaults serve both data sets."""

    dataset: Literal["chorales", "jsb"] = "chorales"
    cell: str = "lstm"
    """A name in rnn_jax.CELLS."""
    hidden_size: int = 200
    num_layers: int = 2
    dropout: float = 0.2
    """Variational dropout on the input of every layer."""
    batch_size: int = 16
    window: int = 128
    """Steps in a training example; longer pieces are cut at a random place."""
    learning_rate: float = 3e-3
    """Falls to a hundredth along a cosine."""
    clip: float = 1.0
    """The largest norm of a gradient."""
    num_steps: int = 600
    eval_every: int = 50
    max_seconds: float = 130.0
    """Training stops there on a slow machine; the report says so."""
    temperature: float = 0.8
    """Of the composed music: below 1 is safer, above 1 wilder."""
    bars: int = 12
    """Length of the composed music."""
    opening_bars: int = 3
    """How much of a held-out piece is given before the model goes on."""
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


def log_likelihood(model: Model, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Log-probability of every frame given all before it, and which frames are real: both [T, B]."""
    piece: Piece = batch.data
    xs = model.features(piece.before, piece.clock)
    _, ys = unroll(model.cell, params.rnn, xs, lengths=batch.lengths)
    log_p = model.frames.head.log_prob(params.head, jnp.concatenate([ys, xs], -1), model.frames.tokens(piece.frames))
    return log_p, jnp.arange(len(log_p))[:, None] < batch.lengths


def loss_fn(model: Model, params: Params, batch: Batch, *, key: jax.Array, step: jax.Array) -> Any:
    """Mean negative log-likelihood of a frame, with this step's dropout masks drawn in."""
    shape = jax.eval_shape(model.features, batch.data.before, batch.data.clock).shape
    noisy = params._replace(rnn=model.cell.perturb(key, params.rnn, shape))
    log_p, real = log_likelihood(model, noisy, batch)
    nll = tally(-log_p, real.astype(log_p.dtype))
    return mean_value(nll), {"nll": nll}


def nll_metrics(model: Model, params: Params, batch: Batch) -> dict[str, Mean]:
    """What is published: the first frame is not counted."""
    log_p, real = log_likelihood(model, params, batch)
    return {"nll": tally(-log_p, (real & batch.data.counted).astype(log_p.dtype))}


@partial(jax.jit, static_argnums=0)
def compose(
    model: Model, params: Params, key: jax.Array, opening: jax.Array, clock: jax.Array, temperature: float
) -> jax.Array:
    """Plays the opening [S, F], then samples frame by frame as long as the clock runs: [T, F]."""
    given = jnp.arange(len(clock)) < len(opening)
    script = jnp.zeros((len(clock), model.frames.frame_size), jnp.int32).at[: len(opening)].set(opening)

    def step(state: Any, inputs: Any) -> Any:
        carry, before = state
        t, tick, scripted, is_given = inputs
        x = model.features(before, tick)
        carry, y = stream_step(model.cell, params.rnn, carry, x)
        tokens = model.frames.head.sample(
            params.head, jax.random.fold_in(key, t), jnp.concatenate([y, x]), temperature
        )
        frame = jnp.where(is_given, scripted, model.frames.advance(before, tokens))
        return (carry, frame), frame

    start = (model.cell.init_carry(params.rnn), jnp.zeros(model.frames.frame_size, jnp.int32))
    return jax.lax.scan(step, start, (jnp.arange(len(clock)), clock, script, given))[1]


def baselines(model: Model, pieces: PieceSet) -> dict[str, dict[str, float]]:
    """The two baselines on each split."""

    def pair(piece: Piece) -> tuple[np.ndarray, np.ndarray]:
        tokens = model.frames.tokens(piece.frames)
        held = piece.before.copy()  # the frame before with nothing struck anew
        if pieces.steps_per_beat > 1:
            held[:, held.shape[1] // 2 :] = 0
        return np.asarray(tokens), np.asarray(model.frames.tokens(held))

    train = [pair(piece) for piece in pieces.splits.train]
    num_classes = max(int(tokens.max()) for tokens, _ in train) + 1
    results: dict[str, dict[str, float]] = {}
    for name in ("valid", "test"):
        part = [pair(piece) for piece in getattr(pieces.splits, name)]
        results[name] = {
            "unigram": unigram_nll([t for t, _ in train], [t for t, _ in part], num_classes),
            "repeat": repeat_nll(train, part, num_classes),
        }
    return results


def build(config: Config) -> tuple[Model, PieceSet]:
    """The data set and the model for it."""
    if config.dataset == "jsb":
        pieces = roll_pieces("jsb")
        frames = roll_frames(pieces.num_pitches)
    else:
        pieces = chorale_pieces()
        frames = voice_frames(4, pieces.num_pitches)
    layers = [
        with_dropout(make_cell(config.cell, config.hidden_size), variational=config.dropout)
        for _ in range(config.num_layers)
    ]
    return Model(stack(*layers), frames), pieces


def run(config: Config, run_dir: Path) -> dict[str, float | int | str]:
    """Trains, judges and composes."""
    model, pieces = build(config)
    floor = baselines(model, pieces)
    init_key, train_key, compose_key = jax.random.split(jax.random.key(config.seed), 3)
    params = init_params(model, pieces, init_key)
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha=0.01)
    tx = optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(schedule))
    evaluate = make_evaluate(partial(nll_metrics, model))
    splits = {name: whole_batches(getattr(pieces.splits, name), 32) for name in ("valid", "test")}
    with run_logger(run_dir) as log:
        best, info = fit(
            create_state(params, tx, train_key),
            make_train_step(partial(loss_fn, model), tx),
            training_batches(pieces, config.batch_size, config.window, config.seed),
            num_steps=config.num_steps,
            validation=Validation(lambda p: evaluate(p, splits["valid"]), config.eval_every, "nll"),
            log=log,
            max_seconds=config.max_seconds,
        )
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((run_dir / "params").resolve(), best.params)
    nll = {name: evaluate(best.params, split)["nll"] for name, split in splits.items()}
    print(nll, floor)
    return {
        "valid_nll": nll["valid"],
        "test_nll": nll["test"],
        "test_unigram": floor["test"]["unigram"],
        "test_repeat": floor["test"]["repeat"],
        "test_nll_over_repeat": nll["test"] / floor["test"]["repeat"],
        "best_step": info.best_step,
        "parameters": tree.size(params),
    }


def init_params(model: Model, pieces: PieceSet, key: jax.Array) -> Params:
    """Initial parameters for frames and clock of this data set."""
    rnn_key, head_key = jax.random.split(key)
    first = pieces.splits.train[0]
    size = model.features(first.before, first.clock).shape[-1]
    rnn = model.cell.init(rnn_key, size)
    ys = jax.eval_shape(lambda: unroll(model.cell, rnn, jnp.zeros((1, size)))[1])
    return Params(rnn=rnn, head=model.frames.head.init(head_key, ys.shape[-1] + size))


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
