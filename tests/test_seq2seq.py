"""One model, every way to run it: forced, free, greedy, by beams, aligned. All must agree."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import close

from rnn_jax.data.sentence_pairs import PairBatch
from rnn_jax.data.vocabulary import END, START
from rnn_jax.decoding import beam_search, greedy
from rnn_jax.losses import token_nll
from rnn_jax.seq2seq import ATTENTIONS, alignment, decoding_step, encode, forced_logits, init_seq2seq, rnn_seq2seq
from rnn_jax.unroll import stream_step

SOURCES, TARGETS = 7, 6


def make(attention: Any = "additive", **options: Any) -> tuple[Any, Any]:
    options = {"hidden_size": 6, "input_feeding": attention == "monotonic", **options}
    model = rnn_seq2seq(SOURCES, TARGETS, attention=attention, **options)
    params = init_seq2seq(model, jax.random.key(0))
    rng = np.random.default_rng(3)
    return model, jax.tree.map(lambda leaf: jnp.asarray(0.7 * rng.normal(size=leaf.shape), leaf.dtype), params)


def make_batch() -> PairBatch:
    rng = np.random.default_rng(5)
    return PairBatch(
        source=rng.integers(0, SOURCES, (5, 3)).astype(np.int32),
        source_lengths=np.array([5, 2, 4], np.int32),
        target=rng.integers(1, TARGETS, (4, 3)).astype(np.int32),
        target_lengths=np.array([3, 4, 0], np.int32),
    )


def nll(model: Any, params: Any, batch: PairBatch, mask: Any, **options: Any) -> jax.Array:
    logits = forced_logits(model, params, batch, mask, **options)
    real = jnp.arange(logits.shape[0])[:, None] < jnp.asarray(batch.target_lengths)[None]
    return jnp.where(real, token_nll(logits, jnp.asarray(batch.target)), 0).sum()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("forced", [1.0, 0.0])
def test_forced_logits_equal_a_loop_over_steps(attention: str, forced: float) -> None:
    model, params = make(attention)
    batch = make_batch()
    ours = forced_logits(model, params, batch, forced)
    for b in range(3):
        source = jnp.asarray(batch.source[: batch.source_lengths[b], b : b + 1])
        encoded = encode(model, params, source)
        carry, token = encoded.carry, jnp.full(1, START)
        for t in range(batch.target_lengths[b]):
            carry, logits = stream_step(model.decoder.cell, encoded.params, carry, params.target[token])
            close(ours[t, b], logits[0])
            token = jnp.asarray(batch.target[t, b : b + 1]) if forced else logits.argmax(-1)
        assert not ours[batch.target_lengths[b] :, b].any()


@pytest.mark.parametrize("options", [{"tied": True}, {"num_layers": 2, "cell": "lstm"}, {"directions": 1}])
def test_every_parameter_is_trained(options: dict[str, Any]) -> None:
    model, params = make("general", dropout=0.2, embedding_size=4, **options)
    grads = jax.jit(jax.grad(lambda p: nll(model, p, make_batch(), 1.0, key=jax.random.key(1))))(params)
    dead = [jax.tree_util.keystr(path) for path, leaf in jax.tree.leaves_with_path(grads) if not np.abs(leaf).max() > 0]
    assert not dead
    assert (params.decoder.w_o is None) == options.get("tied", False)


def test_dropout_is_drawn_where_a_key_is_given() -> None:
    model, params = make("dot", dropout=0.5)
    batch = make_batch()
    quiet, again, noisy = (forced_logits(model, params, batch, 1.0, key=key) for key in (None, None, jax.random.key(0)))
    np.testing.assert_array_equal(quiet, again)
    assert (np.abs(quiet - noisy)[:3, 0] > 1e-3).any(-1).all()


def test_dropout_before_the_logits_drops_and_scales() -> None:
    model, params = make("none", dropout=0.5, cell="elman")
    cell, decoder = model.decoder.cell, encode(model, params, jnp.zeros((1, 2), jnp.int32)).params
    noisy = cell.perturb(jax.random.key(0), decoder, (3, 2, 6))
    keep = noisy.keep.value
    assert keep.shape == (3, 2, 6)
    assert set(np.unique(keep)) == {0.0, 2.0}
    hs = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 6)), jnp.float32)
    expected = (hs * keep) @ decoder.w_o + decoder.b_o[None, None]
    close(cell.readout(noisy, hs, hs), expected)


@pytest.mark.parametrize("attention", ["none", "additive", "monotonic"])
def test_greedy_and_beams_say_what_forcing_scores(attention: str) -> None:
    model, params = make(attention)
    batch = make_batch()
    step, carry = decoding_step(model, params, jnp.asarray(batch.source), jnp.asarray(batch.source_lengths))
    options = {"start": jnp.full(3, START), "end": END, "max_length": 4}
    beams = jax.jit(lambda c: beam_search(step, c, num_beams=3, **options))(carry)
    best = greedy(step, carry, **options)
    hypotheses = [(best.tokens, best.lengths, best.log_probs)]
    hypotheses += [(beams.tokens[..., k], beams.lengths[..., k], beams.log_probs[..., k]) for k in range(3)]
    for tokens, lengths, log_probs in hypotheses:
        forced = PairBatch(batch.source, batch.source_lengths, tokens, lengths)
        logits = forced_logits(model, params, forced, 1.0)
        real = jnp.arange(4)[:, None] < lengths[None]
        close(jnp.where(real, -token_nll(logits, tokens), 0).sum(0), log_probs)
    free = forced_logits(model, params, PairBatch(*batch[:2], best.tokens, best.lengths), 0.0)
    real = np.arange(4)[:, None] < np.asarray(best.lengths)[None]
    np.testing.assert_array_equal(np.asarray(free.argmax(-1))[real], np.asarray(best.tokens)[real])


def test_alignment_reads_real_source_steps_only() -> None:
    batch = make_batch()
    weights = np.asarray(alignment(*make("additive"), batch))
    assert weights.shape == (4, 3, 5)
    real = np.arange(4)[:, None] < batch.target_lengths[None]
    np.testing.assert_allclose(weights.sum(-1), real, atol=1e-6)
    assert (weights[:, 1, 2:] == 0).all()
    with pytest.raises(ValueError, match="`model` must have attention"):
        alignment(*make("none"), batch)


def test_a_source_of_padding_only_is_defined_and_an_empty_one_an_error() -> None:
    model, params = make("general")
    batch = make_batch()._replace(source_lengths=np.array([0, 2, 4], np.int32))
    ours = forced_logits(model, params, batch, 1.0)
    other = forced_logits(model, params, batch._replace(source=(batch.source + 1) % SOURCES), 1.0)
    assert np.isfinite(ours).all()
    np.testing.assert_array_equal(ours[:, 0], other[:, 0])
    assert (np.abs(ours - other)[:4, 1] > 0).any()
    with pytest.raises(ValueError, match=r"`source` must be integers \[S, B\] with at least one step, got int"):
        encode(model, params, jnp.zeros((0, 3), jnp.int32))


def test_bad_models_are_named() -> None:
    with pytest.raises(ValueError, match=r"`attention` must be one of .* did you mean 'additive'"):
        make("aditive")
    with pytest.raises(ValueError, match="`hidden_size` must be even where `directions` is 2, got 5"):
        make(hidden_size=5)
    with pytest.raises(ValueError, match="input_feeding=True"):
        make("monotonic", input_feeding=False)
