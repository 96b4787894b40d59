"""Music as frames: what a model reads at a step, what it predicts, and how a prediction becomes the next frame."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.heads import Head, bernoulli_head, chain_head
from rnn_jax.types import Array

__all__ = ["FrameModel", "repeat_nll", "roll_frames", "unigram_nll", "voice_frames"]

REST, HOLD = 0, 1
"""The first two tokens of a voice; token `HOLD + p` strikes the p-th pitch of the range."""


class FrameModel(NamedTuple):
    """How frames of integers enter and leave a model.

    Attributes:
        frame_size: the number of integers in a frame.
        head: the distribution of the tokens of a frame.
        encode: `(frames [..., frame_size]) -> features [..., F]`, float32. All zeros is the frame before the first.
        tokens: `(frames) -> tokens [..., N]`, what the head predicts.
        advance: `(frame, tokens) -> frame`, the frame that sounds once the tokens are played after `frame`.
        sustain: `(frames) -> frames`, each frame going on with nothing struck anew.
    """

    frame_size: int
    head: Head
    encode: Callable[[Array], Array]
    tokens: Callable[[Array], Array]
    advance: Callable[[Array, Array], Array]
    sustain: Callable[[Array], Array]


def roll_frames(num_keys: int) -> FrameModel:
    """Frames of a piano roll: 0 or 1 for every key, predicted independently of each other.

    Args:
        num_keys: the number of keys.

    Returns:
        Frames, tokens and features are the same numbers.
    """
    return FrameModel(
        frame_size=num_keys,
        head=bernoulli_head(num_keys),
        encode=lambda frames: frames.astype(jnp.float32),
        tokens=lambda frames: frames,
        advance=lambda frame, tokens: tokens,
        sustain=lambda frames: frames,
    )


def voice_frames(num_voices: int, num_pitches: int, hidden_size: int = 128) -> FrameModel:
    """Frames of a choir: for each voice the pitch that sounds and whether it is struck.

    A frame holds, for V voices, V pitches (0 = rest, else 1 .. num_pitches) and then V onsets (0 or 1). A token of a
    voice is `REST`, `HOLD` (the pitch goes on) or `HOLD + pitch` (the pitch is struck).

    Args:
        num_voices: V.
        num_pitches: the size of the common range of pitches.
        hidden_size: hidden units of the head for each voice.

    Returns:
        A frame model with a `chain_head`, first voice first.
    """

    def split(frames: Array) -> tuple[Array, Array]:
        return frames[..., :num_voices], frames[..., num_voices:]

    def encode(frames: Array) -> Array:
        pitches, onsets = split(frames)
        one_hot = jax.nn.one_hot(pitches - 1, num_pitches, dtype=jnp.float32)
        return jnp.concatenate([one_hot.reshape(*frames.shape[:-1], -1), onsets.astype(jnp.float32)], axis=-1)

    def tokens(frames: Array) -> Array:
        pitches, onsets = split(frames)
        return jnp.where(pitches == 0, REST, jnp.where(onsets == 1, HOLD + pitches, HOLD))

    def advance(frame: Array, played: Array) -> Array:
        before, _ = split(frame)
        pitches = jnp.where(played == REST, 0, jnp.where(played == HOLD, before, played - HOLD))
        return jnp.concatenate([pitches, (played > HOLD).astype(frame.dtype)], axis=-1)

    def sustain(frames: Array) -> Array:
        pitches, onsets = split(frames)
        return jnp.concatenate([pitches, jnp.zeros_like(onsets)], axis=-1)

    return FrameModel(
        frame_size=2 * num_voices,
        head=chain_head(num_voices, num_pitches + 2, hidden_size),
        encode=encode,
        tokens=tokens,
        advance=advance,
        sustain=sustain,
    )


def unigram_nll(train: np.ndarray, test: np.ndarray, num_classes: int) -> float:
    """Negative log-likelihood per frame where every variable has its frequencies in the training set.

    Args:
        train: [M, N] tokens in [0, num_classes), frames of all training pieces.
        test: [L, N] tokens to judge.
        num_classes: C. One count is added to each class.

    Returns:
        Nats per frame: summed over variables, averaged over frames.

    Example:
        >>> round(unigram_nll(np.array([[0], [0], [1]]), np.array([[0], [1]]), 2), 4)  # p = 3/5, 2/5
        0.7136
    """
    counts = np.stack([np.bincount(column, minlength=num_classes) for column in train.T]) + 1.0
    return float(-_pick(np.log(counts / counts.sum(-1, keepdims=True)), test).sum(-1).mean())


def repeat_nll(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], num_classes: int) -> float:
    """Negative log-likelihood per frame of playing the last frame again, with fitted confidence.

    Each variable takes the token that lets the last frame go on with the frequency with which it did so in training
    (apart for each such token: a key that is down, a key that is up), and any other token by the frequencies of those
    that came instead.

    Args:
        train: tokens [M, N] of all training frames, and the tokens [M, N] that would have repeated the frame before.
        test: the same, [L, N], to judge.
        num_classes: C. One count is added everywhere.

    Returns:
        Nats per frame, as `unigram_nll`.
    """
    tokens, repeats = train
    num_variables = tokens.shape[-1]
    again, seen, instead = (np.ones((num_variables, num_classes)) for _ in range(3))
    seen += 1  # one repeat and one change
    for n in range(num_variables):
        same = tokens[:, n] == repeats[:, n]
        again[n] += np.bincount(repeats[same, n], minlength=num_classes)
        seen[n] += np.bincount(repeats[:, n], minlength=num_classes)
        instead[n] += np.bincount(tokens[~same, n], minlength=num_classes)
    tokens, repeats = test
    repeated = _pick(again / seen, repeats)
    # Among the other tokens, the one that would repeat is impossible: it is left out of their sum.
    change = _pick(instead, tokens) / (instead.sum(-1) - _pick(instead, repeats))
    p = np.where(tokens == repeats, repeated, (1 - repeated) * change)
    return float(-np.log(p).sum(-1).mean())


def _pick(table: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """table[n, tokens[t, n]] for all t and n."""
    return table[np.arange(tokens.shape[-1]), tokens]
