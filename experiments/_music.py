"""What `experiments/music.py` is made of: its networks, their likelihoods, and a memory of the piece that is played.

The memory has no parameters of the network and needs no training. At every moment of a piece it looks back at the
moments before, and those that sounded alike vote for what came after them:

    k_t = sum_{j >= 1} decay^(j - 1) x_{t - j}                          what has just sounded, fading
    w_ti = exp(-sharpness |k_t - k_i|^2),  i < t                        how much moment i was like this one
    p(x_t) = (prior p_network(x_t) + sum_i w_ti [x_i = x_t]) / (prior + sum_i w_ti)      for each key on its own

It is the continuous cache of Grave, Joulin & Usunier (2017, arXiv:1612.04426) with the frames themselves as keys, and
counts mixed as under a Dirichlet prior, so that the network is heard where nothing similar was.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import dense, make_cell, stack, unroll, with_dropout
from rnn_jax.caching import cached
from rnn_jax.data.batching import Batch, pad
from rnn_jax.data.pieces import Piece
from rnn_jax.frames import roll_frames
from rnn_jax.music import MusicModel, MusicParams, features
from rnn_jax.products import affine
from rnn_jax.types import Cell

NUM_KEYS = 88


class Memory(NamedTuple):
    """How much the piece so far has to say."""

    decay: float  # gamma in [0, 1): how fast what has sounded fades
    sharpness: float  # theta: how alike moments must be
    prior: float  # epsilon: how many moments the network counts for


def gated_linear(size: int) -> Cell:
    """A layer without memory, `y = (x W + b) sigmoid(x V + c)`, which follows an LRU as published."""
    both = dense(2 * size)

    def readout(params: object, hs: jax.Array, xs: jax.Array) -> jax.Array:
        value, gate = jnp.split(hs, 2, axis=-1)
        return value * jax.nn.sigmoid(gate)

    return both._replace(readout=readout)


@cached
def roll_model(cell: str, hidden_size: int, dropout: float) -> MusicModel:
    """One recurrent layer that reads a frame of a piano roll and predicts the next, key by key.

    Args:
        cell: a name in rnn_jax.CELLS; an `lru` is followed by a gated linear layer.
        hidden_size: H.
        dropout: rate on what the layer reads, one mask a sequence.

    Returns:
        The model.
    """
    layers = [with_dropout(make_cell(cell, hidden_size), variational=dropout)]
    if cell == "lru":
        layers.append(gated_linear(hidden_size))
    return MusicModel(stack(*layers), roll_frames(NUM_KEYS))


def batches_by_length(pieces: Sequence[Piece], num_frames: int = 4096) -> list[tuple[np.ndarray, Batch]]:
    """All pieces in batches of few shapes: a power of two of steps, and as many rows as make `num_frames` together.

    Args:
        pieces: any number of pieces of T steps.
        num_frames: frames in a batch, padding included; a longer piece is a batch of its own.

    Returns:
        For each batch the numbers of its pieces [n], and a batch whose first n rows they are; other rows are empty.
    """
    steps = np.array([max(64, 1 << (len(piece.frames) - 1).bit_length()) for piece in pieces])
    nothing = jax.tree.map(lambda leaf: leaf[:0], pieces[0])
    groups = []
    for size in np.unique(steps):
        own, rows = np.flatnonzero(steps == size), max(1, num_frames // int(size))
        for ids in np.split(own, range(rows, len(own), rows)):
            filled = [pieces[i] for i in ids] + [nothing] * (rows - len(ids))
            groups.append((ids, pad(filled, int(size))))
    return groups


@jax.jit(static_argnums=0)
def _key_likelihoods(model: MusicModel, params: MusicParams, batch: Batch) -> jax.Array:
    piece = batch.data
    xs = features(model, piece.before, piece.clock)
    _, ys = unroll(model.cell, params.rnn, xs, lengths=jnp.asarray(batch.lengths))
    logits = affine(jnp.concatenate([ys, xs], axis=-1), params.head.w, params.head.b)
    return jax.nn.sigmoid(jnp.where(piece.frames == 1, logits, -logits))


def key_likelihoods(model: MusicModel, params: MusicParams, pieces: Sequence[Piece]) -> list[np.ndarray]:
    """The probability that a model gave to what each key did.

    Args:
        model: of `roll_model`.
        params: its parameters.
        pieces: N pieces.

    Returns:
        For each piece [T, 88] numbers in (0, 1]; their product over the keys is the likelihood of a frame.
    """
    found: list[np.ndarray] = [np.empty(0)] * len(pieces)
    for ids, batch in batches_by_length(pieces):
        values = np.asarray(_key_likelihoods(model, params, batch))
        for row, index in enumerate(ids):
            found[index] = values[: len(pieces[index].frames), row]
    return found


def frequency_likelihoods(train: Sequence[Piece], pieces: Sequence[Piece], clip: float = 1e-3) -> list[np.ndarray]:
    """As `key_likelihoods`, of a model that knows only how often each key sounds in training: the Bernoulli floor.

    Args:
        train: the pieces in which keys are counted.
        pieces: N pieces to judge.
        clip: no frequency is nearer to 0 or 1.

    Returns:
        For each piece [T, 88].
    """
    often = np.clip(np.concatenate([piece.frames for piece in train]).mean(0), clip, 1 - clip)
    return [np.where(piece.frames == 1, often, 1 - often) for piece in pieces]


def pooled_nll(likelihoods: Sequence[np.ndarray]) -> float:
    """Nats per frame as published: summed over keys, averaged over the frames of all pieces but the first of each.

    Args:
        likelihoods: of each piece [T, 88].

    Returns:
        The negative log-likelihood of a frame.

    Example:
        >>> print(f"{pooled_nll([np.array([[0.1, 0.1], [0.5, 0.5]])]):.4f}")  # 2 ln 2
        1.3863
    """
    total = -sum(float(np.log(piece[1:]).sum()) for piece in likelihoods)
    return total / sum(len(piece) - 1 for piece in likelihoods)


def recollect(frames: np.ndarray, decay: float, sharpness: float, rows: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """What earlier moments of a piece say about each frame.

    Args:
        frames: [T, K] zeros and ones.
        decay: see `Memory`.
        sharpness: see `Memory`.
        rows: moments that are compared with all earlier ones at a time.

    Returns:
        The weight [T, K] of those moments after which each key did what it does now, and that of all moments [T, 1].
    """
    frames = np.asarray(frames, np.float32)
    traces = np.zeros_like(frames)
    for t in range(1, len(frames)):
        traces[t] = decay * traces[t - 1] + frames[t - 1]
    norms = (traces**2).sum(-1)
    agreeing, total = np.empty_like(frames), np.empty((len(frames), 1), np.float32)
    for first in range(0, len(frames), rows):
        last = min(first + rows, len(frames))
        own, past = slice(first, last), slice(0, last)
        distances = norms[own, None] + norms[None, past] - 2 * traces[own] @ traces[past].T
        earlier = np.tri(last - first, last, first - 1, dtype=np.float32)  # moment i < t
        weights = earlier * np.exp(-sharpness * np.maximum(distances, 0))
        sounding, total[own] = weights @ frames[past], weights.sum(-1, keepdims=True)
        agreeing[own] = np.where(frames[own] == 1, sounding, np.maximum(total[own] - sounding, 0))
    return agreeing, total


def remember(likelihoods: Sequence[np.ndarray], pieces: Sequence[Piece], memory: Memory) -> list[np.ndarray]:
    """Likelihoods of a model that also remembers the piece so far.

    Args:
        likelihoods: of each piece [T, 88], from the model alone.
        pieces: the pieces.
        memory: how much it remembers.

    Returns:
        For each piece [T, 88].
    """
    recollected = (recollect(piece.frames, memory.decay, memory.sharpness) for piece in pieces)
    return [_mixed(own, past, memory.prior) for own, past in zip(likelihoods, recollected, strict=True)]


def _mixed(likelihood: np.ndarray, past: tuple[np.ndarray, np.ndarray], prior: float) -> np.ndarray:
    agreeing, total = past
    return (prior * likelihood + agreeing) / (prior + total)


def tune_memory(
    likelihoods: dict[str, list[np.ndarray]],
    pieces: Sequence[Piece],
    decays: Sequence[float],
    sharpnesses: Sequence[float],
    priors: Sequence[float],
) -> dict[str, Memory]:
    """Chooses the memory of each model that predicts some pieces best.

    Args:
        likelihoods: of each model, of each piece [T, 88].
        pieces: those of the validation split.
        decays: what to try.
        sharpnesses: what to try.
        priors: what to try.

    Returns:
        For each model the best of all combinations.
    """
    best = dict.fromkeys(likelihoods, (np.inf, Memory(0.0, 0.0, 1.0)))
    for decay, sharpness in itertools.product(decays, sharpnesses):
        past = [recollect(piece.frames, decay, sharpness) for piece in pieces]
        for (name, own), prior in itertools.product(likelihoods.items(), priors):
            nll = pooled_nll([_mixed(one, votes, prior) for one, votes in zip(own, past, strict=True)])
            best[name] = min(best[name], (nll, Memory(decay, sharpness, prior)))
    return {name: memory for name, (_, memory) in best.items()}
