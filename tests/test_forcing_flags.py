"""What `--teacher-forcing-ratio` and its companions do in the experiments with encoder-decoder models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._seq2seq import ForcingConfig, decode_all, pair_loss
from rnn_jax import forcing_mask
from rnn_jax.data.sentence_pairs import PairBatch
from rnn_jax.data.vocabulary import END
from rnn_jax.losses import token_nll
from rnn_jax.seq2seq import forced_logits, init_seq2seq, rnn_seq2seq

MODEL = rnn_seq2seq(6, 5, hidden_size=4, attention="dot")


def make() -> tuple:
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_seq2seq(MODEL, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)
    ids = lambda steps, size: rng.integers(1, size, (steps, 3)).astype(np.int32)  # noqa: E731
    batch = PairBatch(ids(4, 6), np.array([4, 2, 3], np.int32), ids(6, 5), np.array([6, 3, 5], np.int32))
    return params, batch


def mean_nll(params, batch: PairBatch, mask) -> float:
    nll = np.asarray(token_nll(forced_logits(MODEL, params, batch, mask), jnp.asarray(batch.target)))
    return float(np.mean(np.concatenate([nll[:length, b] for b, length in enumerate(batch.target_lengths)])))


@pytest.mark.parametrize(
    ("config", "step", "rate"),
    [
        (ForcingConfig(), 0, 1.0),
        (ForcingConfig(teacher_forcing_ratio=0.5), 70, 0.5),
        (ForcingConfig(teacher_forcing_ratio=0.0), 0, 0.0),
        (ForcingConfig(teacher_forcing_ratio=0.5, forcing_per="sequence"), 0, 0.5),
        (ForcingConfig(teacher_forcing_ratio=0.8, forcing_schedule="linear", forcing_end=0.2), 50, 0.5),
    ],
)
def test_the_ratio_is_the_probability_of_the_truth(config: ForcingConfig, step: int, rate: float) -> None:
    params, batch = make()
    key = jax.random.key(11)
    loss, metrics = jax.jit(pair_loss(MODEL, config, 100))(params, batch, key=key, step=jnp.int32(step))
    mask = forcing_mask(jax.random.split(key)[0], rate, 6, (3,), per=config.forcing_per)
    expected = mean_nll(params, batch, mask)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["nll"].total / metrics["nll"].count, expected, rtol=1e-5)
    assert int(metrics["nll"].count) == 14
    if 0 < rate < 1:
        assert abs(expected - mean_nll(params, batch, 1.0)) > 1e-4
        assert abs(expected - mean_nll(params, batch, 0.0)) > 1e-4


def test_a_ratio_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"`teacher_forcing_ratio` must lie in \[0, 1\], got 1.5"):
        pair_loss(MODEL, ForcingConfig(teacher_forcing_ratio=1.5), 100)


def test_outputs_come_back_in_the_order_of_their_sources() -> None:
    seen = []

    def decode(source: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        seen.append(source.shape)
        ends = np.full((1, source.shape[1]), END)
        return np.concatenate([source[:1] * 10, lengths[None], ends, ends + 7])

    outputs = decode_all(decode, [[5, 2, 2], [3], [4, 2], [7, 7, 7, 7, 7]], batch_size=2, multiple=2)
    assert outputs == [[50, 3], [30], [40, 2], [70, 5]]  # END is 1, and so is the length of the second
    assert seen == [(2, 2), (6, 2)]
