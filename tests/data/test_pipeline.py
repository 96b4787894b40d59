"""Endless batches: their order, and going on from any place."""

import itertools
import json

import numpy as np
import pytest

from rnn_jax.data.batching import batches
from rnn_jax.data.pipeline import side_by_side, stream
from rnn_jax.data.sentence_pairs import pair_batches, pair_stream

LENGTHS = np.arange(1, 12)
HALVES = (lambda size: slice(0, size // 2), lambda size: slice(size // 2, size))


def plan(epoch):
    return batches(LENGTHS, 4, seed=3, epoch=epoch)


def numbers(**options):
    return stream(plan, lambda ids: ids * 10, **options)


def test_batches_come_in_the_order_of_the_plan_epoch_after_epoch():
    expected = [ids for epoch in range(3) for ids in plan(epoch)]
    assert len(expected) == 9
    for item, ids in zip(numbers(), expected, strict=False):
        np.testing.assert_array_equal(item.ids, ids)
        np.testing.assert_array_equal(item.batch, ids * 10)


@pytest.mark.parametrize("options", [{"num_threads": 0}, {"num_threads": 3, "prefetch": 7}])
def test_threads_do_not_change_the_order(options):
    for one, other in itertools.islice(zip(numbers(), numbers(**options), strict=False), 20):
        np.testing.assert_array_equal(one.batch, other.batch)


@pytest.mark.parametrize("place", [0, 1, 3, 8, 1000])
def test_a_fresh_stream_goes_on_from_any_place(place):
    walked = numbers()
    for _ in range(place):
        next(walked)
    state = json.loads(json.dumps(walked.get_state()))
    fresh = numbers()
    fresh.set_state(state)
    for one, other in itertools.islice(zip(walked, fresh, strict=False), 5):
        np.testing.assert_array_equal(one.ids, other.ids)


def test_a_stream_of_pairs_holds_the_batches_of_every_epoch():
    rng = np.random.default_rng(0)
    sources, targets = ([rng.integers(2, 9, rng.integers(1, 12)) for _ in range(10)] for _ in range(2))
    pairs = pair_stream(sources, targets, 4, 5, bucket=2, multiple=4)
    for epoch in range(2):
        for expected in pair_batches(sources, targets, 4, 5, epoch, bucket=2, multiple=4):
            for ours, theirs in zip(next(pairs).batch, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_processes_that_build_their_rows_of_pairs_build_the_batch_together():
    rng = np.random.default_rng(1)
    sources, targets = ([rng.integers(2, 9, rng.integers(1, 12)) for _ in range(10)] for _ in range(2))
    whole = pair_stream(sources, targets, 4, 5, bucket=2, multiple=4)
    parts = [pair_stream(sources, targets, 4, 5, bucket=2, multiple=4, rows=rows) for rows in HALVES]
    for _ in range(7):
        expected, halves = next(whole), [next(part) for part in parts]
        for name in expected.batch._fields:
            axis = 0 if name.endswith("lengths") else 1
            both = np.concatenate([getattr(half.batch, name) for half in halves], axis)
            np.testing.assert_array_equal(both, getattr(expected.batch, name))


def test_plans_that_cannot_be_followed_are_refused():
    with pytest.raises(ValueError, match="`plan` must give at least one batch, got none in epoch 0"):
        stream(lambda epoch: [], lambda ids: ids)
    grows = stream(lambda epoch: [epoch] * (2 + epoch), lambda ids: ids, num_threads=0)
    next(grows), next(grows)
    with pytest.raises(ValueError, match="`plan` must give every epoch 2 batches, got 3 in epoch 1"):
        next(grows)


def test_streams_side_by_side_are_the_streams():
    def one(seed):
        return stream(lambda epoch: batches(np.full(12, 3), 4, seed, epoch), lambda ids: {"x": ids, "y": (ids * 0.5,)})

    both, alone = side_by_side([one(0), one(1)]), [one(0), one(1)]
    for _ in range(4):
        item, items = next(both), [next(single) for single in alone]
        for run in range(2):
            np.testing.assert_array_equal(item.ids[run], items[run].ids)
            np.testing.assert_array_equal(item.batch["x"][run], items[run].batch["x"])
            np.testing.assert_array_equal(item.batch["y"][0][run], items[run].batch["y"][0])
    fresh = side_by_side([one(0), one(1)])
    fresh.set_state(json.loads(json.dumps(both.get_state())))
    np.testing.assert_array_equal(next(fresh).ids, next(both).ids)
    with pytest.raises(ValueError, match="`streams` must hold at least one stream, got none"):
        side_by_side([])
