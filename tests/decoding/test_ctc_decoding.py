"""CTC decoding against the probabilities of all labels, summed over all paths."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.ctc import ctc_nll
from rnn_jax.decoding import ctc_beam_search, ctc_greedy

NUM_STEPS, NUM_TOKENS = 5, 3
LENGTHS = np.array([5, 4, 1, 0])


def random_logits(seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(NUM_STEPS, len(LENGTHS), NUM_TOKENS)) * scale


def collapse(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != blank)


def by_all_paths(logits: np.ndarray, blank: int = 0) -> dict[tuple[int, ...], float]:
    """The probability of all labels that T steps [T, V] can stand for."""
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(p.shape[1]), repeat=len(p)):
        said = collapse(path, blank)
        labels[said] = labels.get(said, 0.0) + float(np.prod([p[t, token] for t, token in enumerate(path)]))
    return labels


def results(beams: Any, row: int) -> list[tuple[tuple[int, ...], float]]:
    tokens, lengths = np.asarray(beams.tokens)[:, row], np.asarray(beams.lengths)[row]
    found = np.asarray(beams.log_probs)[row]
    return [
        (tuple(tokens[: lengths[n], n].tolist()), float(found[n])) for n in range(len(lengths)) if found[n] > -np.inf
    ]


@pytest.mark.parametrize("blank", [0, 2])
def test_with_room_for_every_beginning_the_search_is_exact(x64: None, blank: int) -> None:
    logits = random_logits()
    beams = ctc_beam_search(jnp.asarray(logits), num_beams=64, lengths=LENGTHS, blank=blank)
    for b, length in enumerate(LENGTHS):
        expected = by_all_paths(logits[:length, b], blank)
        found = results(beams, b)
        assert len(found) == len(expected)
        np.testing.assert_allclose([np.exp(log_p) for _, log_p in found], sorted(expected.values(), reverse=True))
        for labels, log_p in found:
            np.testing.assert_allclose(np.exp(log_p), expected[labels], rtol=1e-10)
    assert (np.asarray(beams.tokens)[-1, 2] == blank).all()


def test_few_beams_give_a_slow_search_with_dictionaries(x64: None) -> None:
    """Beginnings are keys, so that there is nothing to merge; ties do not occur."""

    def slow(log_p: np.ndarray, num_beams: int) -> list[tuple[tuple[int, ...], float]]:
        beams = {(): (1.0, 0.0)}
        for p in np.exp(log_p):
            after: dict[tuple[int, ...], list[float]] = {}
            for said, (in_blank, in_label) in beams.items():
                stays = after.setdefault(said, [0.0, 0.0])
                stays[0] += (in_blank + in_label) * p[0]
                stays[1] += in_label * p[said[-1]] if said else 0.0
                for token in range(1, len(p)):
                    before = in_blank if said and token == said[-1] else in_blank + in_label
                    after.setdefault((*said, token), [0.0, 0.0])[1] += before * p[token]
            best = sorted(after.items(), key=lambda item: -sum(item[1]))[:num_beams]
            beams = {said: (pair[0], pair[1]) for said, pair in best}
        return [(said, np.log(sum(pair))) for said, pair in beams.items()]

    rng = np.random.default_rng(5)
    logits = rng.normal(size=(25, 3, 6)) * 1.5
    log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))
    for num_beams in (1, 4, 9):
        beams = ctc_beam_search(jnp.asarray(logits), num_beams=num_beams)
        for b in range(3):
            expected = slow(log_p[:, b], num_beams)
            assert [said for said, _ in results(beams, b)] == [said for said, _ in expected]
            np.testing.assert_allclose([p for _, p in results(beams, b)], [p for _, p in expected], rtol=1e-9)


def test_what_is_found_is_at_most_as_likely_as_the_loss_says(x64: None) -> None:
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(12, 5, 4)) * 2)
    beams = ctc_beam_search(logits, num_beams=64, num_results=1)
    nll = ctc_nll(logits, beams.tokens[..., 0], label_lengths=beams.lengths[..., 0])
    assert (beams.log_probs[..., 0] <= -nll + 1e-9).all()
    np.testing.assert_allclose(beams.log_probs[..., 0], -nll, atol=0.05)


def test_greedy_is_the_likeliest_path(x64: None) -> None:
    logits = random_logits(3, scale=2.0)
    decoded = ctc_greedy(jnp.asarray(logits), lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(logits[:length, b])))
        path = tuple(log_p.argmax(-1).tolist())
        labels = collapse(path, 0)
        assert tuple(np.asarray(decoded.tokens)[: decoded.lengths[b], b].tolist()) == labels
        assert (np.asarray(decoded.tokens)[len(labels) :, b] == 0).all()
        np.testing.assert_allclose(decoded.log_probs[b], log_p.max(-1).sum() if length else 0, rtol=1e-12)


def test_many_paths_beat_the_likeliest_one() -> None:
    logits = jnp.log(jnp.array([[0.6, 0.4], [0.6, 0.4]]))
    assert ctc_greedy(logits).lengths == 0
    assert ctc_beam_search(logits, num_beams=2).tokens[0, 0] == 1


def test_labels_longer_than_allowed_are_not_found(x64: None) -> None:
    logits = random_logits(4)
    beams = ctc_beam_search(jnp.asarray(logits), num_beams=16, max_length=2)
    assert beams.tokens.shape == (2, 4, 16)
    expected = by_all_paths(logits[:, 0])
    for labels, log_p in results(beams, 0):
        np.testing.assert_allclose(np.exp(log_p), expected[labels], rtol=1e-10)
    assert {labels for labels, _ in results(beams, 0)} == {labels for labels in expected if len(labels) <= 2}


def test_batch_axes_and_padding_do_not_matter() -> None:
    logits = random_logits(6).astype(np.float32)
    dirty = logits.copy()
    for b, length in enumerate(LENGTHS):
        dirty[length:, b] = np.nan
    flat = ctc_beam_search(jnp.asarray(logits), num_beams=4, lengths=LENGTHS)
    folded = ctc_beam_search(
        jnp.asarray(dirty).reshape(NUM_STEPS, 2, 2, NUM_TOKENS), num_beams=4, lengths=LENGTHS.reshape(2, 2)
    )
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.reshape(a.shape)), flat, folded)
    alone = ctc_beam_search(jnp.asarray(logits[:, 0]), num_beams=4)
    np.testing.assert_array_equal(alone.tokens, flat.tokens[:, 0])
    greedy = [ctc_greedy(jnp.asarray(z), lengths=LENGTHS) for z in (logits, dirty)]
    jax.tree.map(np.testing.assert_array_equal, *greedy)


def test_it_compiles_once() -> None:
    traces = []

    @jax.jit
    def search(logits: Any, lengths: Any) -> Any:
        traces.append(None)
        return ctc_beam_search(logits, num_beams=3, lengths=lengths)

    for seed in range(2):
        search(jnp.asarray(random_logits(seed), jnp.float32), jnp.asarray(LENGTHS - LENGTHS * seed))
    assert len(traces) == 1


def test_what_does_not_fit_is_refused() -> None:
    logits = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match=r"`num_beams` must be an integer of at least 1, got int 0"):
        ctc_beam_search(logits, num_beams=0)
    with pytest.raises(ValueError, match=r"`num_results` must be at most num_beams=2, got 3"):
        ctc_beam_search(logits, num_beams=2, num_results=3)
    with pytest.raises(ValueError, match=r"`blank` must be a token in \[0, 3\), got int 3"):
        ctc_greedy(logits, blank=3)
    with pytest.raises(ValueError, match=r"`logits` must be floating"):
        ctc_greedy(jnp.zeros((4, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"`lengths` must lie in \[0, T\] with T=4, got 5"):
        ctc_greedy(logits, lengths=np.array(5))
