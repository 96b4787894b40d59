"""What experiments with encoder-decoder models share: the flags of forcing, the loss, batches, decoding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import forcing_mask, forcing_schedule
from rnn_jax.data.sentence_pairs import PairBatch, pair_batches, report_padding
from rnn_jax.data.vocabulary import END, START
from rnn_jax.decoding import Decoded, greedy
from rnn_jax.exposure import ExposureReport, Scores, exposure_report, token_scores
from rnn_jax.forcing.masks import unit_weights
from rnn_jax.losses import token_nll
from rnn_jax.metrics import mean_value, tally
from rnn_jax.seq2seq import Seq2Seq, Seq2SeqParams, decoding_step, forced_logits
from rnn_jax.training import LossFn

Ids = Sequence[Any]
"""One sequence of ids for each sentence."""


@dataclass(frozen=True)
class ForcingConfig:
    """How much of the truth the decoder reads while it trains."""

    teacher_forcing_ratio: float = 1.0
    """The probability that a step reads the true last token: 1 is teacher forcing, 0 runs freely. With a schedule, the
    ratio at the start."""
    forcing_schedule: Literal["constant", "linear", "exponential", "inverse_sigmoid", "cosine"] = "constant"
    """How the ratio moves over training."""
    forcing_end: float = 0.0
    """The ratio at the end of the schedule."""
    forcing_per: Literal["step", "sequence", "batch"] = "step"
    """What a coin is thrown for."""


def pair_loss(model: Seq2Seq, config: ForcingConfig, num_steps: int, *, smoothing: float = 0.0) -> LossFn:
    """The loss of a `PairBatch`: nats per token, forced as the configuration says.

    Args:
        model: the model.
        config: the flags of forcing.
        num_steps: of training, over which a schedule moves.
        smoothing: label smoothing.

    Returns:
        A loss function; its metrics are `nll` without smoothing and `accuracy`, over tokens.

    Raises:
        ValueError: for a ratio outside [0, 1].
    """
    unit_weights("teacher_forcing_ratio", config.teacher_forcing_ratio, ())
    unit_weights("forcing_end", config.forcing_end, ())
    rate_at = forcing_schedule(
        config.forcing_schedule, num_steps, start=config.teacher_forcing_ratio, end=config.forcing_end
    )

    always = config.forcing_schedule == "constant" and config.teacher_forcing_ratio == 1  # spares compiling the rest

    def loss_fn(params: Seq2SeqParams, batch: PairBatch, *, key: jax.Array, step: jax.Array) -> Any:
        mask_key, noise_key = jax.random.split(key)
        num_tokens, size = batch.target.shape
        mask = 1.0 if always else forcing_mask(mask_key, rate_at(step), num_tokens, (size,), per=config.forcing_per)
        logits = forced_logits(model, params, batch, mask, key=noise_key)
        scores = token_scores(logits, jnp.asarray(batch.target), jnp.asarray(batch.target_lengths))
        smooth = token_nll(logits, jnp.asarray(batch.target), smoothing=smoothing) if smoothing else scores.loss
        metrics = {"nll": tally(scores.loss, scores.real), "accuracy": tally(scores.correct, scores.real)}
        return mean_value(tally(smooth, scores.real)), metrics

    return loss_fn


def padding_note(sources: Ids, targets: Ids, batch_size: int, **options: int) -> str:
    """What padding costs: a sentence for a report.

    Args:
        sources, targets, batch_size: as given to `pair_stream`.
        **options: of `pair_stream`.

    Returns:
        How many batches and shapes an epoch has, and how much of them is padding.
    """
    report = report_padding(pair_batches(sources, targets, batch_size, 0, 0, **options))
    return (
        f"An epoch has {report.num_batches} batches of {report.num_shapes} shapes; "
        f"{report.padded_fraction:.1%} of their steps are padding."
    )


def decode_all(
    decode: Callable[[Any, Any], np.ndarray], sources: Ids, batch_size: int, multiple: int
) -> list[list[int]]:
    """Outputs for all sources.

    Args:
        decode: `(source [S, B], lengths [B]) -> tokens [T, B]`, compiled.
        sources: token ids.
        batch_size: B.
        multiple: S is rounded up to a multiple of it.

    Returns:
        For each source the tokens before `END`.
    """
    outputs: list[list[int]] = [[] for _ in sources]
    order = np.argsort([len(source) for source in sources], kind="stable")
    for start in range(0, len(order), batch_size):
        group = order[start : start + batch_size]
        longest = max(len(sources[i]) for i in group)
        source = np.zeros((-(-longest // multiple) * multiple, batch_size), np.int32)
        lengths = np.ones(batch_size, np.int32)
        for row, i in enumerate(group):
            source[: len(sources[i]), row], lengths[row] = sources[i], len(sources[i])
        tokens = np.asarray(decode(source, lengths))
        for row, i in enumerate(group):
            words = tokens[:, row].tolist()
            outputs[i] = words[: words.index(END)] if END in words else words
    return outputs


def greedy_decoder(model: Seq2Seq, max_length: int) -> Callable[[Seq2SeqParams, Any, Any], Decoded]:
    """`(params, source, lengths) -> Decoded`, the likeliest token at every step."""

    def decode(params: Seq2SeqParams, source: Any, lengths: Any) -> Decoded:
        step, carry = decoding_step(model, params, jnp.asarray(source), jnp.asarray(lengths))
        start = jnp.full(source.shape[1], START, jnp.int32)
        return greedy(step, carry, start=start, end=END, max_length=max_length)

    return decode


def pair_exposure(model: Seq2Seq, params: Seq2SeqParams, batches: Any) -> ExposureReport:
    """The exposure report of a model on batches of pairs."""

    def score(batch: PairBatch, rate: jax.Array, key: jax.Array) -> Scores:
        num_tokens, size = batch.target.shape
        mask = forcing_mask(key, rate, num_tokens, (size,))
        logits = forced_logits(model, params, batch, mask)
        return token_scores(logits, jnp.asarray(batch.target), jnp.asarray(batch.target_lengths))

    return exposure_report(score, batches, jax.random.key(0))
