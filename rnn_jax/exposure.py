"""What teacher forcing costs: how a trained decoder fares as it has to read more and more of its own output."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.losses import token_nll
from rnn_jax.types import Array
from rnn_jax.unroll.borders import real_steps

__all__ = ["ExposureReport", "Scores", "exposure_report", "exposure_rows", "token_scores", "vector_scores"]


class Scores(NamedTuple):
    """How good each step of a batch is."""

    loss: Any  # [T, B]
    correct: Any  # [T, B], boolean
    real: Any  # [T, B], boolean


def token_scores(logits: Array, targets: Array, lengths: Array | None = None) -> Scores:
    """Scores of predicted tokens.

    Args:
        logits: [T, B, V].
        targets: integers [T, B].
        lengths: [B] or None.

    Returns:
        The negative log-probability of each target in nats, and whether it is the likeliest token.
    """
    checks.features("logits", logits, logits.shape[-1])
    if logits.shape[:-1] != targets.shape or targets.ndim != 2:
        raise ValueError(f"`targets` must be [T, B] = {logits.shape[:-1]}, got shape {targets.shape}")
    return Scores(loss=token_nll(logits, targets), correct=logits.argmax(-1) == targets, real=_real(targets, lengths))


def vector_scores(ys: Array, targets: Array, lengths: Array | None = None, *, tolerance: float) -> Scores:
    """Scores of predicted vectors.

    Args:
        ys: [T, B, F].
        targets: [T, B, F].
        lengths: [B] or None.
        tolerance: the largest Euclidean distance that counts as correct.

    Returns:
        The mean squared error of each step over features, and whether it is within the tolerance.
    """
    if ys.shape != targets.shape or ys.ndim != 3:
        raise ValueError(f"`targets` must be [T, B, F] = {ys.shape}, got shape {targets.shape}")
    squared = jnp.square(ys - targets)
    near = squared.sum(-1) <= tolerance**2
    return Scores(loss=squared.mean(-1), correct=near, real=_real(targets[..., 0], lengths))


def _real(targets: Array, lengths: Array | None) -> Array:
    real = real_steps(lengths, None, targets.shape[0], targets.shape[1:])
    return jnp.ones(targets.shape, bool) if real is None else real


class ExposureReport(NamedTuple):
    """How a decoder fares at each rate of forcing; numbers are averages over all sequences.

    Attributes:
        rates: [R], first to last as asked for.
        loss: [R], mean over all real steps.
        accuracy: [R], part of the real steps that are correct.
        exact: [R], part of the sequences that are correct throughout.
        loss_by_position: [R, T].
        accuracy_by_position: [R, T].
        count_by_position: [T], real steps.
        divergence: [R, N], for each sequence the first step that is not correct; its length where all are.
        lengths: [N].
    """

    rates: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    exact: np.ndarray
    loss_by_position: np.ndarray
    accuracy_by_position: np.ndarray
    count_by_position: np.ndarray
    divergence: np.ndarray
    lengths: np.ndarray


def exposure_report(
    score: Callable[[Any, Array, Array], Scores],
    batches: Iterable[Any],
    key: Array,
    *,
    rates: Sequence[float] = (1.0, 0.75, 0.5, 0.25, 0.0),
) -> ExposureReport:
    """Judges a trained decoder under forcing from all of the truth to none of it.

    The rate reaches `score` as a traced number, so all of them share one compilation per shape of batch.

    Args:
        score: `(batch, rate, key) -> Scores` for one batch, for example

            def score(batch, rate, key):
                mask = forcing_mask(key, rate, *batch.target.shape)
                _, logits = forced_unroll(cell, params, batch.target, mask, ...)
                return token_scores(logits, batch.target, batch.lengths)

        batches: an iterable of batches; they may differ in size.
        key: for the coins; batch n gets `fold_in(key, n)` at every rate, so that the coins are nested.
        rates: the rates of forcing, 1 is teacher forcing and 0 runs freely.

    Returns:
        An `ExposureReport`.

    Raises:
        ValueError: for rates outside [0, 1], or no batch.
    """
    checks.prng_key(key)
    if not rates or any(not 0 <= rate <= 1 for rate in rates):
        raise ValueError(f"`rates` must be numbers in [0, 1], got {list(rates)}")
    compiled = jax.jit(score)
    parts: list[list[Scores]] = [[] for _ in rates]
    for index, batch in enumerate(batches):
        for rate, part in zip(rates, parts, strict=True):
            part.append(jax.device_get(compiled(batch, jnp.float32(rate), jax.random.fold_in(key, index))))
    if not parts[0]:
        raise ValueError("`batches` must hold at least one batch, got none")
    steps = max(len(scores.loss) for scores in parts[0])
    joined = [Scores(*(_join([getattr(s, name) for s in part], steps) for name in Scores._fields)) for part in parts]
    real, lengths = joined[0].real, joined[0].real.sum(0)
    real, kept = real[:, lengths > 0], lengths > 0  # rows of length 0 only fill up a batch
    lengths = lengths[kept]
    loss = np.stack([np.where(real, s.loss[:, kept], 0) for s in joined])
    correct = np.stack([s.correct[:, kept] & real for s in joined])
    count = real.sum(1)
    wrong = real & ~correct
    return ExposureReport(
        rates=np.asarray(rates),
        loss=loss.sum((1, 2)) / count.sum(),
        accuracy=correct.sum((1, 2)) / count.sum(),
        exact=(~wrong.any(1)).mean(-1),
        loss_by_position=loss.sum(2) / np.maximum(count, 1),
        accuracy_by_position=correct.sum(2) / np.maximum(count, 1),
        count_by_position=count,
        divergence=np.where(wrong.any(1), wrong.argmax(1), lengths),
        lengths=lengths,
    )


def exposure_rows(report: ExposureReport) -> list[dict[str, float]]:
    """The report as rows of a table, one a rate, for `write_report`.

    Args:
        report: from `exposure_report`.

    Returns:
        For each rate the loss, how much worse it is than under full forcing (the first rate), accuracy, sequences that
        are right throughout, and the median of the first wrong step.
    """
    return [
        {
            "forcing": float(rate),
            "loss": float(report.loss[i]),
            "loss more than forced": float(report.loss[i] - report.loss[0]),
            "accuracy": float(report.accuracy[i]),
            "sequences all right": float(report.exact[i]),
            "median first wrong step": float(np.median(report.divergence[i])),
        }
        for i, rate in enumerate(report.rates)
    ]


def _join(parts: list[np.ndarray], steps: int) -> np.ndarray:
    """Arrays [T_n, B_n] side by side, zero (False) after their ends."""
    return np.concatenate([np.pad(part, ((0, steps - len(part)), (0, 0))) for part in parts], axis=1)
