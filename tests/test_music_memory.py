"""The parts of `experiments/music.py` against loops by hand."""

import itertools
import math
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments._music import (
    Memory,
    batches_by_length,
    frequency_likelihoods,
    gated_linear,
    key_likelihoods,
    pooled_nll,
    recollect,
    remember,
    roll_model,
    tune_memory,
)
from experiments.music import Config, Networks, run
from rnn_jax import unroll
from rnn_jax.data.batching import pad
from rnn_jax.data.pieces import Piece, roll_pieces
from rnn_jax.music import init_music, log_likelihood

RANDOM = np.random.default_rng(0)


def piece(num_steps: int, num_keys: int = 88, rate: float = 0.2) -> Piece:
    frames = (RANDOM.random((num_steps, num_keys)) < rate).astype(np.int32)
    before = np.concatenate([np.zeros_like(frames[:1]), frames[:-1]])
    return Piece(before, frames, np.zeros((num_steps, 0), np.float32), np.arange(num_steps) > 0)


PIECES = [piece(n) for n in (9, 70, 5, 64, 130)]


def votes_by_hand(frames: np.ndarray, decay: float, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Every moment with every earlier one, in float64."""
    steps, keys = frames.shape
    traces = [
        [sum(decay ** (j - 1) * frames[t - j, k] for j in range(1, t + 1)) for k in range(keys)] for t in range(steps)
    ]
    agreeing, total = np.zeros((steps, keys)), np.zeros((steps, 1))
    for t in range(steps):
        for i in range(t):
            weight = math.exp(-sharpness * sum((a - b) ** 2 for a, b in zip(traces[t], traces[i], strict=True)))
            total[t] += weight
            for k in range(keys):
                agreeing[t, k] += weight * (frames[i, k] == frames[t, k])
    return agreeing, total


@pytest.mark.parametrize("rows", [3, 8, 512])
def test_earlier_moments_vote_as_in_a_loop(rows: int) -> None:
    frames = piece(11, 4, 0.4).frames
    for found, expected in zip(recollect(frames, 0.6, 0.7, rows), votes_by_hand(frames, 0.6, 0.7), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_remembered_is_a_probability_that_knows_nothing_of_the_future() -> None:
    memory, one = Memory(0.5, 0.1, 0.3), piece(12, 5, 0.4)
    other = one._replace(frames=one.frames.copy())
    other.frames[8] = 1 - other.frames[8]
    network = RANDOM.uniform(0.1, 0.9, (12, 5))  # for 1 at the last frame of either; the rest is the same
    flipped = network.copy()
    flipped[8] = 1 - network[8]
    a, b = remember([network, flipped], [one, other], memory)
    np.testing.assert_array_equal(a[:8], b[:8])
    np.testing.assert_allclose(a[8] + b[8], np.ones(5), rtol=1e-5)
    assert not np.allclose(a[9:], b[9:])


def test_nothing_is_remembered_at_the_first_frame_and_a_repeated_piece_is_known() -> None:
    verse = piece(20).frames
    song = Piece(*(np.concatenate([verse, verse])[:, :n] for n in (88, 88, 0)), counted=np.arange(40) > 0)
    network = np.full((40, 88), 0.5)
    (found,) = remember([network], [song], Memory(0.5, 4.0, 0.1))
    np.testing.assert_allclose(found[0], network[0])
    assert found[25:].min() > 0.9


def test_the_likelihoods_of_the_keys_make_those_of_frames() -> None:
    model = roll_model("lru", 6, 0.1)
    params = init_music(model, jax.random.key(0), 0)
    few = PIECES[:3]
    found = key_likelihoods(model, params, few)
    batch = pad(few)
    log_p, real = jax.jit(partial(log_likelihood, model))(params, batch)
    for index, (own, one) in enumerate(zip(found, few, strict=True)):
        assert own.shape == one.frames.shape
        np.testing.assert_allclose(np.log(own).sum(-1), log_p[: len(own), index], rtol=1e-4)
    counted = np.asarray(real) & batch.data.counted  # as music_nll has it
    assert pooled_nll(found) == pytest.approx(-float(log_p[counted].mean()), rel=1e-5)


@pytest.mark.parametrize("num_frames", [64, 300, 4096])
def test_batches_of_few_shapes_hold_every_piece_once(num_frames: int) -> None:
    seen = []
    for ids, batch in batches_by_length(PIECES, num_frames):
        steps, rows = batch.data.frames.shape[:2]
        assert (steps & (steps - 1), rows) == (0, max(1, num_frames // steps))
        assert batch.lengths.tolist() == [len(PIECES[i].frames) for i in ids] + [0] * (rows - len(ids))
        for row, index in enumerate(ids):
            np.testing.assert_array_equal(batch.data.frames[: len(PIECES[index].frames), row], PIECES[index].frames)
        seen += ids.tolist()
    assert sorted(seen) == list(range(len(PIECES)))


def test_the_memory_of_each_model_is_the_best_of_all_combinations() -> None:
    models = {name: [RANDOM.uniform(0.3, 0.9, one.frames.shape) for one in PIECES] for name in ("a", "b")}
    decays, sharpnesses, priors = (0.2, 0.8), (0.05, 1.0), (0.1, 2.0)
    best = tune_memory(models, PIECES, decays, sharpnesses, priors)
    for name, own in models.items():
        everything = [Memory(*values) for values in itertools.product(decays, sharpnesses, priors)]
        assert best[name] == min(everything, key=lambda memory: pooled_nll(remember(own, PIECES, memory)))


def test_the_layer_after_an_lru_gates_itself() -> None:
    layer = gated_linear(3)
    params = layer.init(jax.random.key(1), 4)
    xs = RANDOM.normal(size=(5, 2, 4)).astype(np.float32)
    both = xs @ np.asarray(params.w) + np.asarray(params.b)
    expected = both[..., :3] / (1 + np.exp(-both[..., 3:]))
    np.testing.assert_allclose(unroll(layer, params, xs)[1], expected, rtol=1e-5, atol=1e-6)


def test_frequencies_are_counted_in_training_and_clipped() -> None:
    train = [
        Piece(*([np.array([[1, 0], [1, 0], [0, 0], [1, 0]])] * 2), clock=np.zeros((4, 0)), counted=np.arange(4) > 0)
    ]
    (found,) = frequency_likelihoods(train, train)
    np.testing.assert_allclose(found, [[0.75, 0.999], [0.75, 0.999], [0.25, 0.999], [0.75, 0.999]])


@pytest.mark.parametrize(("name", "floor"), [("jsb", 11.13), ("nottingham", 10.30), ("muse", 11.52), ("piano", 11.06)])
def test_the_bernoulli_floor_is_the_one_of_the_official_splits(name: str, floor: float) -> None:
    try:
        splits = roll_pieces(name).splits
    except FileNotFoundError as error:
        pytest.skip(f"the file cannot be found: {error}")
    assert pooled_nll(frequency_likelihoods(splits.train, splits.test)) == pytest.approx(floor, abs=0.005)


def test_networks_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`hidden_sizes` must have one for each of \('gru', 'lru'\), got \(8,\)"):
        Networks(("gru", "lru"), (8,), 10, 1e-3, 0.1, 0.1)
    twice = Config(compared=Networks(("gru", "gru"), (8, 9), 10, 1e-3, 0.1, 0.1))
    with pytest.raises(ValueError, match=r"`compared.cells` must be different cells, got \('gru', 'gru'\)"):
        run(twice, tmp_path)
