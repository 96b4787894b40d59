"""The model of music against loops by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import antisymmetric, gru, lru, stack, stream_step, with_dropout
from rnn_jax.data.batching import pad
from rnn_jax.data.pieces import CLOCK_SIZE, chorale_pieces, make_clock
from rnn_jax.frames import voice_frames
from rnn_jax.music import MusicModel, compose, features, init_music, log_likelihood, music_baselines, music_nll

PIECES = chorale_pieces()
MODEL = MusicModel(
    cell=stack(gru(6), with_dropout(lru(5), variational=0.4)), frames=voice_frames(4, PIECES.num_pitches, 7)
)
PARAMS = init_music(MODEL, jax.random.key(0), CLOCK_SIZE)
TWO = pad(
    [
        piece._replace(**{f: v[:n] for f, v in piece._asdict().items()})
        for piece, n in zip(PIECES.splits.valid[:2], (12, 9), strict=True)
    ]
)


def by_hand(piece: int, length: int) -> list[float]:
    """Log-probabilities of the frames of a piece, one step after another."""
    data = PIECES.splits.valid[piece]
    carry = MODEL.cell.init_carry(PARAMS.rnn)
    values = []
    for t in range(length):
        x = features(MODEL, jnp.asarray(data.before[t]), jnp.asarray(data.clock[t]))
        carry, y = stream_step(MODEL.cell, PARAMS.rnn, carry, x)
        tokens = MODEL.frames.tokens(jnp.asarray(data.frames[t]))
        values.append(float(MODEL.frames.head.log_prob(PARAMS.head, jnp.concatenate([y, x]), tokens)))
    return values


def test_the_likelihood_equals_a_loop_over_the_steps_of_each_piece() -> None:
    log_p, real = jax.jit(functools.partial(log_likelihood, MODEL))(PARAMS, TWO)
    for b, length in enumerate((12, 9)):
        expected = by_hand(b, length)
        np.testing.assert_allclose(log_p[:length, b], expected, rtol=1e-4)
        assert real[:, b].tolist() == [True] * length + [False] * (12 - length)
    nll = music_nll(MODEL, PARAMS, TWO)
    assert nll.count == 11 + 8  # the first frame of each piece is not counted
    assert float(nll.total) == pytest.approx(-sum(by_hand(0, 12)[1:]) - sum(by_hand(1, 9)[1:]), rel=1e-4)


def test_dropout_is_drawn_from_the_key_and_absent_without_one() -> None:
    run = jax.jit(lambda key: log_likelihood(MODEL, PARAMS, TWO, key=key, dropout=0.5)[0])
    one, again, other = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2))
    assert (one == again).all()
    assert not jnp.allclose(one, other)
    assert not jnp.allclose(one, log_likelihood(MODEL, PARAMS, TWO)[0])


def test_composing_plays_the_script_then_samples_as_a_loop_would() -> None:
    data, steps, given = PIECES.splits.valid[0], 8, 3
    key = jax.random.key(5)
    play = jax.jit(functools.partial(compose, MODEL, PARAMS))
    frames = np.asarray(play(key, data.frames[:steps], given, data.clock[:steps], 0.7))
    np.testing.assert_array_equal(frames[:given], data.frames[:given])
    carry, before = MODEL.cell.init_carry(PARAMS.rnn), jnp.zeros(8, jnp.int32)
    for t in range(steps):
        x = features(MODEL, before, jnp.asarray(data.clock[t]))
        carry, y = stream_step(MODEL.cell, PARAMS.rnn, carry, x)
        tokens = MODEL.frames.head.sample(PARAMS.head, jax.random.fold_in(key, t), jnp.concatenate([y, x]), 0.7)
        before = jnp.asarray(data.frames[t]) if t < given else MODEL.frames.advance(before, tokens)
        np.testing.assert_array_equal(frames[t], before)

    everything = play(key, data.frames[:steps], steps, data.clock[:steps], 0.7)
    np.testing.assert_array_equal(everything, data.frames[:steps])
    assert play._cache_size() == 1  # how much is given is data


def test_a_model_without_a_clock_has_fewer_inputs() -> None:
    bare = init_music(MODEL, jax.random.key(0), 0)
    assert PARAMS.rnn[0].w_x.shape[0] - bare.rnn[0].w_x.shape[0] == CLOCK_SIZE
    clock = make_clock(np.arange(4), 4)[:, :0]
    assert compose(MODEL, bare, jax.random.key(0), np.zeros((4, 8)), 0, clock).shape == (4, 8)


def test_the_baselines_of_the_chorales_are_these() -> None:
    floor = music_baselines(MODEL.frames, PIECES, "test")
    assert floor["unigram"] == pytest.approx(8.553, abs=0.001)
    assert floor["repeat"] == pytest.approx(8.486, abs=0.001)
    with pytest.raises(ValueError, match="`split` must be one of 'train', 'valid', 'test', got 'tests'; did you mean"):
        music_baselines(MODEL.frames, PIECES, "tests")


def test_work_on_the_parameters_alone_is_done_before_the_loop() -> None:
    inner = antisymmetric(5)

    def step(params, carry, z):
        assert params.w_h is not None, "the parameters were not prepared"
        return inner.step(params, carry, z)

    model = MODEL._replace(cell=inner._replace(step=step))
    params = init_music(model, jax.random.key(0), 0)
    frames = compose(model, params, jax.random.key(1), np.zeros((4, 8)), 0, np.zeros((4, 0), np.float32))
    same = compose(
        MODEL._replace(cell=inner), params, jax.random.key(1), np.zeros((4, 8)), 0, np.zeros((4, 0), np.float32)
    )
    np.testing.assert_array_equal(frames, same)
