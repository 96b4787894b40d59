"""A recurrent model of music: reads the frame before, predicts the frame, and plays on by itself."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.data.batching import Batch
from rnn_jax.data.pieces import PieceSet
from rnn_jax.frames import FrameModel, repeat_nll, unigram_nll
from rnn_jax.metrics import Mean, mean_value, tally
from rnn_jax.types import Array, Cell
from rnn_jax.unroll import stream_step, unroll
from rnn_jax.unroll.borders import real_steps

__all__ = [
    "MusicModel",
    "MusicParams",
    "compose",
    "features",
    "init_music",
    "log_likelihood",
    "music_baselines",
    "music_loss",
    "music_nll",
]


class MusicParams(NamedTuple):
    """All that is trained."""

    rnn: Any
    head: Any


class MusicModel(NamedTuple):
    """A cell, and how frames enter and leave it.

    The cell reads the frame before and the clock of the step to predict; the head sees what the cell says and what it
    read.
    """

    cell: Cell
    frames: FrameModel


def features(model: MusicModel, before: Array, clock: Array) -> Array:
    """What the cell reads: the encoded frame before [..., F], and the clock of the step [..., K]."""
    return jnp.concatenate([model.frames.encode(before), clock], axis=-1)


def init_music(model: MusicModel, key: Array, clock_size: int) -> MusicParams:
    """Initial parameters.

    Args:
        model: the model.
        key: a PRNG key.
        clock_size: K, the width of the pieces' clock; may be 0.

    Returns:
        `MusicParams`.
    """
    checks.prng_key(key)
    rnn_key, head_key = jax.random.split(key)
    frame = jnp.zeros((1, model.frames.frame_size), jnp.int32)
    xs = features(model, frame, jnp.zeros((1, clock_size)))
    rnn = model.cell.init(rnn_key, xs.shape[-1])
    ys = jax.eval_shape(lambda: unroll(model.cell, rnn, xs)[1])
    return MusicParams(rnn=rnn, head=model.frames.head.init(head_key, ys.shape[-1] + xs.shape[-1]))


def log_likelihood(
    model: MusicModel, params: MusicParams, batch: Batch, *, key: Array | None = None, dropout: float = 0.0
) -> tuple[Array, Array]:
    """Log-probability of every frame given all before it: teacher forcing.

    Args:
        model: the model.
        params: its parameters.
        batch: a batch of `Piece`s [T, B, ...].
        key: draws the masks of the cell, and one mask a sequence on its outputs; None evaluates.
        dropout: rate of the mask on the outputs.

    Returns:
        Log-probabilities [T, B] in nats, and which frames are real [T, B].
    """
    piece: Any = batch.data
    xs = features(model, piece.before, piece.clock)
    keys = None if key is None else jax.random.split(key)
    rnn = params.rnn if keys is None else model.cell.perturb(keys[0], params.rnn, xs.shape)
    lengths = jnp.asarray(batch.lengths)
    _, ys = unroll(model.cell, rnn, xs, lengths=lengths)
    if keys is not None:
        keep = jax.random.bernoulli(keys[1], 1 - dropout, (1, *ys.shape[1:]))
        ys = ys * keep.astype(ys.dtype) / (1 - dropout)
    log_p = model.frames.head.log_prob(params.head, jnp.concatenate([ys, xs], -1), model.frames.tokens(piece.frames))
    real: Any = real_steps(lengths, None, len(log_p), log_p.shape[1:])
    return log_p, real


def music_loss(
    model: MusicModel, dropout: float, params: MusicParams, batch: Batch, *, key: Array, step: Array
) -> tuple[Array, dict[str, Mean]]:
    """Mean negative log-likelihood of a frame, every one counted, with dropout masks drawn in: what training minimises.

    Args:
        model: the model.
        dropout: rate of the mask on the outputs.
        params: its parameters.
        batch: a batch of `Piece`s.
        key: draws the masks.
        step: not used; bound to model and rate by `partial`, it is the loss function of `make_train_step`.

    Returns:
        The loss in nats, and `{"nll": Mean}`.
    """
    del step
    log_p, real = log_likelihood(model, params, batch, key=key, dropout=dropout)
    nll = tally(-log_p, real.astype(log_p.dtype))
    return mean_value(nll), {"nll": nll}


def music_nll(model: MusicModel, params: MusicParams, batch: Batch) -> Mean:
    """Negative log-likelihood in nats per frame as published: the first frame of a piece is not counted.

    Args:
        model: the model.
        params: its parameters.
        batch: a batch of `Piece`s.

    Returns:
        A `Mean` over the counted frames of the batch.
    """
    log_p, real = log_likelihood(model, params, batch)
    return tally(-log_p, (real & batch.data.counted).astype(log_p.dtype))


def compose(
    model: MusicModel,
    params: MusicParams,
    key: Array,
    script: Array,
    num_given: int | Array,
    clock: Array,
    temperature: float | Array = 1.0,
) -> Array:
    """Plays the given frames of a script, then samples frame by frame as long as the clock runs.

        frame_t = script_t if t < num_given else sample(p(. | frames before t))

    Args:
        model: the model.
        params: its parameters.
        key: a PRNG key; step t draws with `fold_in(key, t)`.
        script: [T, F] integers, of which the first `num_given` frames count.
        num_given: how many frames are given; traced, so any number compiles once.
        clock: [T, K], of the whole piece.
        temperature: of the samples: below 1 is safer, above 1 wilder.

    Returns:
        [T, F] int32.
    """
    script = jnp.asarray(script, jnp.int32)
    rnn = model.cell.prepare(params.rnn)

    def step(state: Any, inputs: Any) -> Any:
        carry, before = state
        t, tick, scripted = inputs
        x = features(model, before, tick)
        carry, y = stream_step(model.cell, rnn, carry, x)
        step_key = jax.random.fold_in(key, t)
        tokens = model.frames.head.sample(params.head, step_key, jnp.concatenate([y, x]), temperature)
        frame = jnp.where(t < num_given, scripted, model.frames.advance(before, tokens))
        return (carry, frame), frame

    start = (model.cell.init_carry(rnn), jnp.zeros(model.frames.frame_size, jnp.int32))
    return jax.lax.scan(step, start, (jnp.arange(len(script)), jnp.asarray(clock), script))[1]


def music_baselines(frames: FrameModel, pieces: PieceSet, split: str) -> dict[str, float]:
    """Nats per frame of a split by `unigram_nll` and `repeat_nll`, fitted on the training split.

    Args:
        frames: the frame model, which says what a token is.
        pieces: the data set.
        split: "valid" or "test".

    Returns:
        `{"unigram": ..., "repeat": ...}`.
    """
    checks.one_of("split", split, ("train", "valid", "test"))

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
