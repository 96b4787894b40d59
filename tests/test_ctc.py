"""Connectionist temporal classification against sums over all paths, a float64 loop, and optax."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax.ctc import ctc_align, ctc_nll, ctc_steps

BLANK = 0
LABELS = [[1, 2, 1], [2, 2, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]]  # the last needs five steps
COUNTS = [3, 2, 1, 0, 3]


def random_logits(num_steps: int, num_tokens: int = 3, batch: int = len(COUNTS), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_steps, batch, num_tokens)) * 2


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def collapse(path: tuple[int, ...], blank: int = BLANK) -> list[int]:
    return [token for token, _ in itertools.groupby(path) if token != blank]


def paths_of(log_p: np.ndarray, labels: list[int], blank: int = BLANK) -> dict[tuple[int, ...], float]:
    """Every path [T] that stands for the labels, and its log-probability."""
    num_steps, num_tokens = log_p.shape
    return {
        path: float(sum(log_p[t, token] for t, token in enumerate(path)))
        for path in itertools.product(range(num_tokens), repeat=num_steps)
        if collapse(path, blank) == labels
    }


def by_all_paths(log_p: np.ndarray, labels: list[int], blank: int = BLANK) -> float:
    probabilities = [np.exp(value) for value in paths_of(log_p, labels, blank).values()]
    return -np.log(sum(probabilities)) if probabilities else np.inf


def by_a_loop(log_p: np.ndarray, labels: list[int]) -> float:
    """The forward algorithm of Graves et al. 2006, section 4.1, with probabilities in float64."""
    p, (num_steps, _) = np.exp(log_p), log_p.shape
    spread = [BLANK, *itertools.chain.from_iterable((label, BLANK) for label in labels)]
    alpha = np.zeros((num_steps, len(spread)))
    for t in range(num_steps):
        for s, token in enumerate(spread):
            if t == 0:
                before = float(s < 2)
            else:
                before = alpha[t - 1, s] + (alpha[t - 1, s - 1] if s > 0 else 0)
                if s > 1 and token not in (BLANK, spread[s - 2]):
                    before += alpha[t - 1, s - 2]
            alpha[t, s] = before * p[t, token]
    return -np.log(alpha[-1, -1] + (alpha[-1, -2] if labels else 0))


def columns(labels: list[list[int]]) -> Any:
    return jnp.asarray(labels).T


def test_the_likelihood_is_the_sum_over_all_paths(x64: None) -> None:
    lengths = [5, 4, 5, 3, 4]
    logits = random_logits(5)
    nll = ctc_nll(jnp.asarray(logits), columns(LABELS), lengths=np.array(lengths), label_lengths=np.array(COUNTS))
    assert nll.dtype == jnp.float64
    log_p = log_softmax(logits)
    expected = [by_all_paths(log_p[: lengths[b], b], LABELS[b][: COUNTS[b]]) for b in range(5)]
    np.testing.assert_allclose(nll, expected, rtol=1e-12)
    assert np.isinf(expected[4])


def test_any_token_may_be_the_blank(x64: None) -> None:
    logits = random_logits(4, batch=1)
    nll = ctc_nll(jnp.asarray(logits), jnp.array([[0], [1]]), blank=2)
    np.testing.assert_allclose(nll, [by_all_paths(log_softmax(logits)[:, 0], [0, 1], blank=2)], rtol=1e-12)


def test_its_gradient_is_that_of_a_loop(x64: None) -> None:
    logits = random_logits(6)[:, :3]
    grads = jax.jit(jax.grad(lambda z: ctc_nll(z, columns(LABELS[:3]), label_lengths=np.array(COUNTS[:3])).sum()))
    bumps = np.zeros_like(logits)
    for index in np.ndindex(*logits.shape):
        b, change = index[1], np.zeros_like(logits)
        change[index] = 1e-6
        up, down = (by_a_loop(log_softmax(logits + sign * change)[:, b], LABELS[b][: COUNTS[b]]) for sign in (1, -1))
        bumps[index] = (up - down) / 2e-6
    np.testing.assert_allclose(grads(jnp.asarray(logits)), bumps, atol=1e-8)
    twice = jax.jacfwd(grads)(jnp.asarray(logits))  # the gradient is differentiable too: its own, by differences
    change = np.random.default_rng(4).normal(size=logits.shape) * 1e-5
    expected = (grads(jnp.asarray(logits + change)) - grads(jnp.asarray(logits - change))) / 2
    np.testing.assert_allclose(jnp.tensordot(twice, jnp.asarray(change), 3), expected, atol=1e-12)


def test_long_sequences_stay_exact_in_float32() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(120, 2, 11)) * 3, rng.integers(1, 11, (20, 2))
    ours = ctc_nll(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    slow = [by_a_loop(log_softmax(logits)[:, b], labels[:, b].tolist()) for b in range(2)]
    np.testing.assert_allclose(ours, slow, rtol=2e-6)


def test_optax_agrees() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(12, 4, 6)).astype(np.float32)
    labels, lengths, counts = rng.integers(1, 6, (4, 4)), np.array([12, 9, 12, 8]), np.array([4, 4, 1, 0])

    def ours(z: Any) -> Any:
        return ctc_nll(z, jnp.asarray(labels), lengths=lengths, label_lengths=counts)

    def theirs(z: Any) -> Any:
        paddings = [(np.arange(n)[None] >= c[:, None]).astype(np.float32) for n, c in ((12, lengths), (4, counts))]
        with jax.numpy_dtype_promotion("standard"):
            return optax.ctc_loss(jnp.swapaxes(z, 0, 1), paddings[0], jnp.asarray(labels).T, paddings[1])

    np.testing.assert_allclose(ours(jnp.asarray(logits)), theirs(jnp.asarray(logits)), rtol=1e-5)
    gradients = [jax.grad(lambda z, f=f: f(z).sum())(jnp.asarray(logits)) for f in (ours, theirs)]
    np.testing.assert_allclose(*gradients, atol=1e-5)


def test_padding_may_hold_anything() -> None:
    logits = random_logits(6).astype(np.float32)
    labels, lengths, counts = np.array(LABELS).T, np.array([4, 3, 6, 2, 5]), np.array(COUNTS)
    dirty, strange = logits.copy(), labels.copy()
    for b in range(5):
        dirty[lengths[b] :, b], strange[counts[b] :, b] = np.nan, -7

    def nll(z: Any, y: Any) -> Any:
        return ctc_nll(z, jnp.asarray(y), lengths=lengths, label_lengths=counts)

    for z, y in ((dirty, labels), (dirty, strange)):
        np.testing.assert_array_equal(nll(jnp.asarray(z), y), nll(jnp.asarray(logits), labels))
    clean, unclean = (jax.grad(lambda z: nll(z, labels).sum())(jnp.asarray(z)) for z in (logits, dirty))
    np.testing.assert_array_equal(clean, unclean)
    assert (np.asarray(clean)[4:, 0] == 0).all()


def test_labels_that_do_not_fit_are_infinitely_unlikely_and_give_no_gradient() -> None:
    labels = jnp.array([[1, 1], [1, 2], [2, 1]])  # four steps, and three
    np.testing.assert_array_equal(ctc_steps(labels), [4, 3])
    np.testing.assert_array_equal(ctc_steps(labels, jnp.array([1, 0])), [1, 0])
    logits = jnp.asarray(random_logits(3, batch=2), jnp.float32)
    nll, grads = jax.value_and_grad(lambda z: ctc_nll(z, labels)[0])(logits)
    assert nll == jnp.inf
    np.testing.assert_array_equal(grads, jnp.zeros_like(logits))
    assert np.isfinite(ctc_nll(logits, labels)[1])
    impossible = logits.at[..., 2].set(-jnp.inf)
    nll, grads = jax.value_and_grad(lambda z: ctc_nll(z, labels[:2])[1])(impossible)
    assert nll == jnp.inf
    assert np.isfinite(jax.grad(lambda z: ctc_nll(z, labels[:1]).sum())(impossible)).all()
    align = ctc_align(logits, labels)
    assert align.log_probs[0] == -jnp.inf
    assert (align.places[:, 0] == -1).all()


def test_no_steps_and_no_labels() -> None:
    logits = jnp.zeros((0, 2, 3))
    np.testing.assert_array_equal(ctc_nll(logits, jnp.zeros((0, 2), int)), [0, 0])
    np.testing.assert_array_equal(ctc_nll(logits, jnp.array([[1, 2]]), label_lengths=jnp.array([0, 1])), [0, jnp.inf])
    np.testing.assert_allclose(ctc_nll(jnp.zeros((4, 2, 3)), jnp.zeros((0, 2), int)), 4 * np.log(3), rtol=1e-6)


def test_the_alignment_is_the_likeliest_path(x64: None) -> None:
    logits, lengths = random_logits(5, seed=3), [5, 4, 5, 3, 4]
    places, log_probs = ctc_align(
        jnp.asarray(logits), columns(LABELS), lengths=np.array(lengths), label_lengths=np.array(COUNTS)
    )
    log_p = log_softmax(logits)
    for b in range(4):
        paths = paths_of(log_p[: lengths[b], b], LABELS[b][: COUNTS[b]])
        best = max(paths, key=lambda path: paths[path])
        np.testing.assert_allclose(log_probs[b], paths[best], rtol=1e-12)
        ours = [BLANK if n < 0 else LABELS[b][n] for n in np.asarray(places)[: lengths[b], b]]
        assert tuple(ours) == best
        assert (np.asarray(places)[lengths[b] :, b] == -1).all()


def test_any_batch_axes() -> None:
    logits = jnp.asarray(random_logits(6), jnp.float32)
    labels, counts = columns(LABELS), jnp.array(COUNTS)
    flat, path = ctc_nll(logits, labels, label_lengths=counts), ctc_align(logits, labels, label_lengths=counts)
    for b in range(5):
        alone = {"label_lengths": counts[b]}
        np.testing.assert_allclose(ctc_nll(logits[:, b], labels[:, b], **alone), flat[b], rtol=1e-6)
        np.testing.assert_array_equal(ctc_align(logits[:, b], labels[:, b], **alone).places, path.places[:, b])
    folded = ctc_nll(
        logits[:, None, :4].reshape(6, 2, 2, 3), labels[:, :4].reshape(3, 2, 2), label_lengths=jnp.array([2, 0])
    )
    expected = ctc_nll(logits[:, :4], labels[:, :4], label_lengths=jnp.array([2, 2, 0, 0]))
    np.testing.assert_allclose(folded.reshape(-1), expected, rtol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    logits, labels = jnp.zeros((4, 2, 3)), jnp.ones((2, 2), jnp.int32)
    with pytest.raises(
        ValueError, match=r"`labels` must be integers \(N, \*batch\) with the batch \(2,\), got float32"
    ):
        ctc_nll(logits, labels.astype(jnp.float32))
    with pytest.raises(ValueError, match=r"`labels` must be integers .* got int32 of shape \(2, 3\)"):
        ctc_nll(logits, jnp.ones((2, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"`labels` must be tokens in \[0, 3\) and not the blank 0, got 3"):
        ctc_align(logits, labels.at[0, 0].set(3))
    with pytest.raises(ValueError, match=r"`labels` must be tokens in \[0, 3\) and not the blank 1, got 1"):
        ctc_nll(logits, labels, blank=1)
    with pytest.raises(ValueError, match=r"`blank` must be a token in \[0, 3\), got int 3"):
        ctc_nll(logits, labels, blank=3)
    with pytest.raises(ValueError, match=r"`lengths` must lie in \[0, 4\], got 5"):
        ctc_nll(logits, labels, lengths=jnp.array([5, 1]))
    with pytest.raises(ValueError, match=r"`label_lengths` must be integers, got float32"):
        ctc_nll(logits, labels, label_lengths=jnp.ones(2))
    with pytest.raises(ValueError, match=r"`logits` must be floating"):
        ctc_nll(labels[..., None], labels)
