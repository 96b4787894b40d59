"""The language model against float64 NumPy loops, and what its options do."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from rnn_jax import lstm, stack, with_dropout
from rnn_jax.data import streams, windows
from rnn_jax.data.windows import Window
from rnn_jax.language import LanguageModel, init_language, language_loss, language_step, window_nll
from rnn_jax.metrics import mean_value
from rnn_jax.token_heads import adaptive_head, softmax_head

V, E, H = 9, 5, 4
IDS = np.random.default_rng(2).integers(0, V, 41).astype(np.int32)


def model(**options) -> LanguageModel:
    return LanguageModel(stack(with_dropout(lstm(H))), softmax_head(V), V, E, **options)


def series(batch_size: int = 2, k1: int = 7):
    return windows(streams(IDS[:-1], batch_size), streams(IDS[1:], batch_size), k1=k1)


def oracle_nll(params, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Nats of each target of one stream [T]."""
    embedding, head = np.asarray(params.embedding, np.float64), params.head
    w = embedding.T if head.w is None else np.asarray(head.w, np.float64)
    (layer,) = params.rnn
    ys, _ = oracles.lstm(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), layer.cell), embedding[inputs])
    z = ys @ w + np.asarray(head.b, np.float64)
    return np.log(np.exp(z).sum(-1)) - z[np.arange(len(targets)), targets]


@pytest.mark.parametrize("tied", [False, True])
def test_windows_one_after_another_are_the_whole_stream(tied: bool) -> None:
    net = model(tied=tied)._replace(embedding_size=H if tied else E)
    params = init_language(net, jax.random.key(0))
    params = params._replace(head=params.head._replace(b=jnp.linspace(0, 1, V)))
    step = jax.jit(lambda carry, window: window_nll(net, params, carry, window))
    carry, total, count = net.cell.init_carry(params.rnn, (2,)), 0.0, 0.0
    for window in series():
        carry, pair = step(carry, window)
        total, count = total + float(pair.total), count + float(pair.count)
    inputs, targets = streams(IDS[:-1], 2), streams(IDS[1:], 2)
    expected = np.stack([oracle_nll(params, inputs[:, b], targets[:, b]) for b in range(2)])
    assert count == 40
    assert total == pytest.approx(expected.sum(), rel=2e-6)


def test_a_step_says_what_a_window_is_judged_by() -> None:
    net = model()
    params = init_language(net, jax.random.key(1))
    carry, nats = net.cell.init_carry(params.rnn, ()), []
    for now, after in itertools.pairwise(IDS[:9]):
        carry, log_probs = language_step(net, params, carry, now)
        nats.append(-float(log_probs[after]))
    np.testing.assert_allclose(nats, oracle_nll(params, IDS[:8], IDS[1:9]), atol=2e-6)


def window_of(num_steps: int = 6, batch_size: int = 3) -> Window:
    rng = np.random.default_rng(8)
    tokens = rng.integers(0, V, (num_steps + 1, batch_size)).astype(np.int32)
    weights = rng.integers(0, 2, (num_steps, batch_size)).astype(np.float32)
    return Window(tokens[:-1], tokens[1:], None, weights)


def test_the_penalties_are_those_of_awd_lstm() -> None:
    window, key = window_of(), jax.random.key(3)
    plain = model()
    params = init_language(plain, jax.random.key(0))
    carry = plain.cell.init_carry(params.rnn, (3,))

    def loss(net: LanguageModel) -> float:
        return float(language_loss(net)(params, carry, window, key=key, step=jnp.int32(0))[0])

    (layer,), embedding = params.rnn, np.asarray(params.embedding, np.float64)
    cell = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), layer.cell)
    ys = np.stack([oracles.lstm(cell, embedding[window.inputs[:, b]])[0] for b in range(3)], 1)
    weights = window.weights
    ar = ((ys**2).mean(-1) * weights).sum() / weights.sum()
    tar = (((ys[1:] - ys[:-1]) ** 2).mean(-1) * weights[1:]).sum() / weights[1:].sum()
    base = loss(plain)
    assert loss(plain._replace(activation=2.0)) - base == pytest.approx(2 * ar, rel=1e-3)
    assert loss(plain._replace(difference=50.0)) - base == pytest.approx(50 * tar, rel=1e-3)


def test_dropout_is_for_training_and_each_kind_does_what_it_says() -> None:
    window = window_of()
    net = model(embedding_dropout=0.5, output_dropout=0.5)
    params = init_language(net, jax.random.key(0))
    carry = net.cell.init_carry(params.rnn, (3,))
    bare = float(mean_value(window_nll(net, params, carry, window)[1]))
    loss = jax.jit(lambda net_key: language_loss(net)(params, carry, window, key=net_key, step=jnp.int32(0))[0])
    noisy = [float(loss(key)) for key in jax.random.split(jax.random.key(5), 4)]
    assert len({bare, *noisy}) == 5

    def gradient(**options):
        one = model(**options)
        return jax.grad(lambda p: language_loss(one)(p, carry, window, key=jax.random.key(7), step=jnp.int32(0))[0])(
            params
        )

    dropped = gradient(embedding_dropout=0.5).embedding
    used = np.unique(window.inputs)
    silent = [token for token in used if not np.asarray(dropped[token]).any()]
    assert 0 < len(silent) < len(used)  # whole rows, wherever the token stands
    plain = gradient().embedding
    assert all(np.asarray(plain[token]).any() for token in used)


def test_other_heads_serve_too_and_a_key_may_estimate() -> None:
    window = window_of()
    for head in (adaptive_head(V, (3,)), softmax_head(V, num_sampled=3)):
        net = model()._replace(head=head)
        params = init_language(net, jax.random.key(0))
        carry = net.cell.init_carry(params.rnn, (3,))
        _, pair = window_nll(net, params, carry, window)
        assert np.isfinite(float(mean_value(pair)))
        (loss, (_, metrics)), grads = jax.value_and_grad(language_loss(net), has_aux=True)(
            params, carry, window, key=jax.random.key(0), step=jnp.int32(0)
        )
        assert float(loss) == pytest.approx(float(mean_value(metrics["nll"])))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_bad_models_are_named() -> None:
    with pytest.raises(ValueError, match="`tied` needs a softmax_head and outputs as wide as the embedding, 5, got"):
        init_language(model(tied=True), jax.random.key(0))
    with pytest.raises(ValueError, match=r"`tied` needs a softmax_head .* got AdaptiveParams over 4 features"):
        init_language(model(tied=True)._replace(embedding_size=H, head=adaptive_head(V, (3,))), jax.random.key(0))
    with pytest.raises(ValueError, match="`output_dropout`"):
        init_language(model(output_dropout=1.0), jax.random.key(0))
