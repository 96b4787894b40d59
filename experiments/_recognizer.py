"""The recognizer of `experiments.speech`: sound to log-mel features, a recurrent network, labels by CTC."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._spoken_strings import Strings
from rnn_jax import Cell, Layer, bidirectional, dense, layer, make_cell, serial, stack, with_dropout
from rnn_jax.ctc import ctc_nll, ctc_steps
from rnn_jax.decoding import ctc_beam_search, ctc_greedy
from rnn_jax.features import Mel, log_mel, log_mel_cell, mean_normalize
from rnn_jax.metrics import edit_distance, mean_value, tally

__all__ = [
    "LABELS",
    "Recognizer",
    "Scores",
    "feature_recognizer",
    "logits_of",
    "loss_of",
    "pooled",
    "score_of",
    "sound_recognizer",
]

LABELS = 11  # the blank and ten digits
LEVEL, SPREAD = -7.0, 4.0
"""About the mean and the spread of the log-mel energies of speech."""
BAND_MASKS, MASKED = 2, 1 / 5
"""How many groups of bands are hidden in training, and how much of all a group may be."""

Direction = Literal["both", "forward"]


class Recognizer(NamedTuple):
    """From sound to logits.

    Attributes:
        hear: `(sound [N, B, ...], steps [B]) -> features [T, B, F]`.
        net: `features -> logits [T, B, 11]`.
        size: F.
        groups: F is so many frames side by side.
        per_step: samples, or frames, that a step reads.
        cell: from the samples of one step to logits, with parameters `((), *params)`; None where it cannot stream.
    """

    hear: Callable[[Any, Any], jax.Array]
    net: Layer
    size: int
    groups: int
    per_step: int
    cell: Cell | None = None


class Scores(NamedTuple):
    """How single strings [B] fared; rows without digits count nothing."""

    counts: Any  # digits
    nll: Any  # nats of the string
    greedy: Any  # edits to the truth
    beam: Any
    steps: Any
    blanks: Any  # steps at which the blank is likeliest


def sound_recognizer(
    mel: Mel, frames_per_step: int, direction: Direction, cell: str, hidden_size: int, num_layers: int, dropout: float
) -> Recognizer:
    """Reads sound; a step is of `frames_per_step` frames. With direction "forward" it can be streamed; with "both" it
    hears a string as a whole, less the mean of its frames, which is the speaker's and the microphone's.
    """
    front = log_mel_cell(mel, frames_per_step)

    def hear(sound: Any, steps: Any) -> jax.Array:
        frames = log_mel(jnp.asarray(sound), mel)
        if direction == "both":
            frames = mean_normalize(frames, lengths=steps * frames_per_step)
        else:
            frames = frames - LEVEL
        groups = frames.reshape(-1, frames_per_step, *frames.shape[1:]) / SPREAD
        return jnp.moveaxis(groups, 1, -2).reshape(len(groups), *frames.shape[1:-1], -1)

    heard = front._replace(readout=lambda params, hs, xs: (front.readout(params, hs, xs) - LEVEL) / SPREAD)
    size, per_step = frames_per_step * mel.num_bands, frames_per_step * mel.hop
    if direction == "both":
        return Recognizer(hear, _both(cell, hidden_size // 2, num_layers, dropout), size, frames_per_step, per_step)
    layers = (*_layers(cell, hidden_size, num_layers, dropout), dense(LABELS))
    return Recognizer(hear, layer(stack(*layers)), size, frames_per_step, per_step, stack(heard, *layers))


def feature_recognizer(
    train: Sequence[np.ndarray], direction: Direction, cell: str, hidden_size: int, num_layers: int, dropout: float
) -> Recognizer:
    """Reads features as they are, scaled by mean and deviation of those for training, each [T, F]."""
    frames = np.concatenate(train)
    mean, scale = frames.mean(0)[None, None], frames.std(0)[None, None]
    if direction == "both":
        net = _both(cell, hidden_size // 2, num_layers, dropout)
    else:
        net = layer(stack(*_layers(cell, hidden_size, num_layers, dropout), dense(LABELS)))
    return Recognizer(lambda xs, steps: (jnp.asarray(xs) - mean) / scale, net, frames.shape[-1], 1, 1)


def _layers(cell: str, hidden_size: int, num_layers: int, dropout: float) -> list[Any]:
    return [
        with_dropout(make_cell(cell, hidden_size), variational=dropout if index else 0.0) for index in range(num_layers)
    ]


def _both(cell: str, hidden_size: int, num_layers: int, dropout: float) -> Layer:
    pairs = zip(*(_layers(cell, hidden_size, num_layers, dropout) for _ in range(2)), strict=True)
    return serial(*(bidirectional(*pair) for pair in pairs), layer(dense(LABELS)))


def loss_of(model: Recognizer, tilt: float, blank_cost: float, blank_steps: int) -> Any:
    """The CTC loss in nats per digit, of features as another voice or microphone might have made them.

    A network that walks forward soon finds that it can say a digit at the very first step, whatever comes, and blanks
    from then on; all paths go through that step, and no other one learns. So blanks cost `blank_cost` at first, falling
    to nothing at `blank_steps`: all steps must say which digit they hear before they may be silent.
    """

    def loss_fn(params: Any, strings: Strings, *, key: jax.Array, step: jax.Array) -> Any:
        noise_key, net_key = jax.random.split(key)
        xs = _disturbed(noise_key, model.hear(strings.sound, strings.steps), model.groups, tilt)
        logits = model.net.apply(model.net.perturb(net_key, params, xs.shape), xs, lengths=strings.steps)[1]
        logits = logits.at[..., 0].add(-blank_cost * jnp.maximum(0, 1 - step / blank_steps))
        nll = ctc_nll(logits, strings.labels, lengths=strings.steps, label_lengths=strings.counts)
        # The weight of a string is its digits; one that is too short for them has none.
        fits = ctc_steps(strings.labels, strings.counts) <= strings.steps
        weights = jnp.where(fits, strings.counts, 0).astype(nll.dtype)
        pair = tally(nll / jnp.maximum(strings.counts, 1).astype(nll.dtype), weights)
        return mean_value(pair), {"nll": pair}

    return loss_fn


def _disturbed(key: jax.Array, xs: jax.Array, groups: int, tilt: float) -> jax.Array:
    """Each row [T, F] gets a smooth offset over the bands, and some groups of bands are hidden (SpecAugment)."""
    num_steps, batch, size = xs.shape
    bands = size // groups
    places = jnp.arange(bands, dtype=jnp.float32)[None]
    offset_key, *mask_keys = jax.random.split(key, 1 + 2 * BAND_MASKS)
    slope, bow = jnp.split(tilt * jax.random.normal(offset_key, (batch, 2)), 2, axis=1)
    offset = slope * (2 * places / bands - 1) + bow * jnp.cos(2 * jnp.pi * places / bands)
    hidden = jnp.zeros((batch, bands), bool)
    for first_key, size_key in zip(mask_keys[::2], mask_keys[1::2], strict=True):
        width = jax.random.uniform(size_key, (batch, 1)) * bands * MASKED
        start = jax.random.uniform(first_key, (batch, 1)) * bands
        hidden |= (places >= start) & (places < start + width)
    frames = xs.reshape(num_steps, batch, groups, bands) + offset[None, :, None]
    return jnp.where(hidden[None, :, None], 0, frames).reshape(xs.shape)


def logits_of(model: Recognizer) -> Callable[[Any, Any], jax.Array]:
    """`(params, sound [N, B, ...]) -> logits [T, B, 11]`, all of the sound real, compiled once for each shape."""

    @jax.jit
    def logits(params: Any, sound: Any) -> jax.Array:
        steps = jnp.full(sound.shape[1:2], len(sound) // model.per_step, jnp.int32)
        return model.net.apply(params, model.hear(sound, steps))[1]

    return logits


def score_of(model: Recognizer, num_beams: int, most_digits: int) -> Callable[[Any, Strings], Scores]:
    """`(params, strings) -> Scores`, compiled once for each shape."""

    @jax.jit
    def score(params: Any, strings: Strings) -> Scores:
        logits = model.net.apply(params, model.hear(strings.sound, strings.steps), lengths=strings.steps)[1]
        one = ctc_greedy(logits, lengths=strings.steps)
        many = ctc_beam_search(
            logits, num_beams=num_beams, num_results=1, max_length=2 * most_digits, lengths=strings.steps
        )
        real = jnp.arange(len(logits), dtype=jnp.int32)[:, None] < strings.steps[None]
        return Scores(
            counts=strings.counts,
            nll=ctc_nll(logits, strings.labels, lengths=strings.steps, label_lengths=strings.counts),
            greedy=edit_distance(one.tokens, one.lengths, strings.labels, strings.counts),
            beam=edit_distance(many.tokens[..., 0], many.lengths[..., 0], strings.labels, strings.counts),
            steps=strings.steps,
            blanks=(real & (jnp.argmax(logits, -1) == 0)).sum(0, dtype=jnp.int32),
        )

    return score


def pooled(score: Callable[[Any, Strings], Scores], params: Any, batches: Sequence[Strings]) -> Scores:
    """The scores of all strings [N] of several batches, on the host."""
    parts = [jax.device_get(score(params, batch)) for batch in batches]
    joined = Scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return Scores(*(column[joined.counts > 0] for column in joined))
