"""The exposure report against plain loops over sequences."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import dense, elman, forced_unroll, forcing_mask, stack
from rnn_jax.exposure import exposure_report, exposure_rows, token_scores, vector_scores
from rnn_jax.forcing import argmax

VOCABULARY = 5


class Batch(NamedTuple):
    targets: jax.Array
    lengths: jax.Array


def make_batches() -> list[Batch]:
    rng = np.random.default_rng(0)
    shapes, lengths = [(6, 4), (3, 2)], [[6, 0, 3, 5], [1, 3]]
    return [
        Batch(jnp.asarray(rng.integers(0, VOCABULARY, shape), jnp.int32), jnp.asarray(row, jnp.int32))
        for shape, row in zip(shapes, lengths, strict=True)
    ]


def make_model():
    rng = np.random.default_rng(1)
    embedding = jnp.asarray(rng.normal(size=(VOCABULARY, 3)), jnp.float32)
    cell = stack(elman(4), dense(VOCABULARY))
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), 3))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)

    def run(batch: Batch, mask: jax.Array) -> jax.Array:
        options = {"start": 0, "feedback": argmax, "embedding": embedding, "lengths": batch.lengths}
        return forced_unroll(cell, params, batch.targets, mask, **options)[1]

    return run


def test_the_report_equals_a_loop_over_sequences() -> None:
    run, traces = make_model(), []

    def score(batch: Batch, rate: jax.Array, key: jax.Array):
        traces.append(1)
        return token_scores(run(batch, forcing_mask(key, rate, *batch.targets.shape)), *batch)

    def forcing_mask(key: jax.Array, rate: jax.Array, num_steps: int, batch_size: int) -> jax.Array:
        return jax.random.uniform(key, (num_steps, batch_size)) < rate

    batches, rates, key = make_batches(), (1.0, 0.4, 0.0), jax.random.key(7)
    report = exposure_report(score, batches, key, rates=rates)
    assert len(traces) == 2, "one compilation a shape, whatever the rate"
    assert report.lengths.tolist() == [6, 3, 5, 1, 3]
    for i, rate in enumerate(rates):
        nll, hits, first, whole = [[] for _ in range(6)], [[] for _ in range(6)], [], []
        for index, batch in enumerate(batches):
            mask = forcing_mask(jax.random.fold_in(key, index), jnp.float32(rate), *batch.targets.shape)
            logits = np.asarray(run(batch, mask), np.float64)
            for b, length in enumerate(batch.lengths.tolist()):
                right = []
                for t in range(length):
                    row, token = logits[t, b], int(batch.targets[t, b])
                    nll[t].append(np.log(np.exp(row).sum()) - row[token])
                    right.append(int(row.argmax()) == token)
                    hits[t].append(right[-1])
                if length:
                    first.append(right.index(False) if False in right else length)
                    whole.append(all(right))
        np.testing.assert_allclose(report.loss_by_position[i], [np.mean(x) for x in nll], rtol=1e-5)
        np.testing.assert_allclose(report.accuracy_by_position[i], [np.mean(x) for x in hits], rtol=1e-6)
        np.testing.assert_allclose(report.loss[i], np.mean(np.concatenate(nll)), rtol=1e-5)
        np.testing.assert_allclose(report.accuracy[i], np.mean(np.concatenate(hits)), rtol=1e-6)
        assert report.count_by_position.tolist() == [len(x) for x in nll]
        assert report.divergence[i].tolist() == first
        assert report.exact[i] == pytest.approx(np.mean(whole))
    rows = exposure_rows(report)
    assert [row["forcing"] for row in rows] == list(rates)
    assert rows[2]["loss more than forced"] == pytest.approx(report.loss[2] - report.loss[0])
    assert rows[1]["median first wrong step"] == np.median(report.divergence[1])


def test_the_rate_reaches_the_mask() -> None:
    run = make_model()

    def score(batch: Batch, rate: jax.Array, key: jax.Array):
        return token_scores(
            run(batch, forcing_mask(key, rate, *batch.targets.shape[:1], batch.targets.shape[1:])), *batch
        )

    report = exposure_report(score, make_batches(), jax.random.key(0), rates=(1.0, 0.0))
    assert report.loss[0] != report.loss[1]
    np.testing.assert_allclose(report.loss_by_position[0][0], report.loss_by_position[1][0])  # nothing is fed back yet


def test_vectors_are_correct_within_the_tolerance() -> None:
    ys = jnp.asarray([[[0.0, 0.0]], [[3.0, 4.1]], [[9.0, 9.0]]])
    targets = jnp.zeros_like(ys)
    scores = vector_scores(ys, targets, jnp.asarray([2]), tolerance=5.05)
    assert scores.correct[:2, 0].tolist() == [True, False]
    assert scores.real[:, 0].tolist() == [True, True, False]
    np.testing.assert_allclose(scores.loss[1, 0], (9 + 4.1**2) / 2, rtol=1e-6)
    assert vector_scores(ys, targets, tolerance=5.1).correct[1, 0]


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"`rates` must be numbers in \[0, 1\], got \[1.0, 1.5\]"):
        exposure_report(lambda *args: args, [], jax.random.key(0), rates=(1.0, 1.5))
    with pytest.raises(ValueError, match="`batches` must hold at least one batch, got none"):
        exposure_report(lambda *args: args, [], jax.random.key(0))
    with pytest.raises(ValueError, match=r"`targets` must be \[T, B\] = \(3, 2\), got shape \(2, 3\)"):
        token_scores(jnp.zeros((3, 2, 5)), jnp.zeros((2, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"`targets` must be \[T, B, F\] = \(3, 2, 5\), got shape \(3, 2\)"):
        vector_scores(jnp.zeros((3, 2, 5)), jnp.zeros((3, 2)), tolerance=1.0)
