"""Music as frames: what a model reads at a step, what it predicts, and how a prediction becomes the next frame."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.heads import Head, bernoulli_head, chain_head
from rnn_jax.types import Array

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
    """

    frame_size: int
    head: Head
    encode: Callable[[Array], Array]
    tokens: Callable[[Array], Array]
    advance: Callable[[Array, Array], Array]


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

    return FrameModel(
        frame_size=2 * num_voices,
        head=chain_head(num_voices, num_pitches + 2, hidden_size),
        encode=encode,
        tokens=tokens,
        advance=advance,
    )


def unigram_nll(train: Sequence[np.ndarray], test: Sequence[np.ndarray], num_classes: int) -> float:
    """Negative log-likelihood per frame where every variable has its frequencies in the training set.

    Args:
        train: pieces [T, N] of tokens in [0, num_classes).
        test: pieces to judge; as everywhere, the first frame of each is not predicted.
        num_classes: C. One count is added to each class.

    Returns:
        Nats per frame: summed over variables, averaged over all predicted frames.
    """
    counts = _counts(np.concatenate(train), num_classes) + 1.0
    log_p = np.log(counts / counts.sum(-1, keepdims=True))
    frames = np.concatenate([piece[1:] for piece in test])
    return float(-_pick(log_p, frames).sum(-1).mean())


def repeat_nll(
    train: Sequence[tuple[np.ndarray, np.ndarray]],
    test: Sequence[tuple[np.ndarray, np.ndarray]],
    num_classes: int,
) -> float:
    """Negative log-likelihood per frame of playing the last frame again, with fitted confidence.

    Each variable takes the token that goes on as before with the frequency with which it does so in the training set,
    and otherwise any other token by the unigram frequencies of such changes.

    Args:
        train: pairs of pieces [T, N]: the tokens, and the tokens that would have repeated the frame before.
        test: the same, to judge; the first frame of each is not predicted.
        num_classes: C.

    Returns:
        Nats per frame, as `unigram_nll`.
    """

    def joined(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate([a[1:] for a, _ in pairs]), np.concatenate([b[1:] for _, b in pairs])

    tokens, repeats = joined(train)
    repeated = (tokens == repeats).mean(0)  # [N]
    others = np.stack(
        [
            np.bincount(column[column != again], minlength=num_classes) + 1.0
            for column, again in zip(tokens.T, repeats.T, strict=True)
        ]
    )
    tokens, repeats = joined(test)
    # Among the other tokens, the one that would repeat is impossible: leave it out of the sum.
    change = np.log(_pick(others, tokens)) - np.log(others.sum(-1) - _pick(others, repeats))
    log_p = np.where(tokens == repeats, np.log(repeated), np.log1p(-repeated) + change)
    return float(-log_p.sum(-1).mean())


def _counts(tokens: np.ndarray, num_classes: int) -> np.ndarray:
    return np.stack([np.bincount(column, minlength=num_classes) for column in tokens.T])


def _pick(table: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """table[n, tokens[t, n]] for all t and n."""
    return table[np.arange(tokens.shape[-1]), tokens]
