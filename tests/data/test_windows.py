"""Windows over streams against loops over every step of every window."""

import pickle

import numpy as np
import pytest

from rnn_jax.data.windows import Window, passes, random_lengths, random_windows, streams, windows

RNG = np.random.default_rng(5)
STEPS, BATCH = 11, 3
INPUTS = RNG.integers(1, 100, size=(STEPS, BATCH))
TARGETS = RNG.normal(size=(STEPS, BATCH, 2)).astype(np.float32)
BORDERS = RNG.random((STEPS, BATCH)) < 0.3
WEIGHTS = RNG.random((STEPS, BATCH)).astype(np.float32)


def by_hand(start: int, end: int, lead: int, num_steps: int) -> Window:
    """The window whose targets are those of the steps start ... end - 1, step by step."""
    shape = (num_steps, BATCH)
    inputs, targets = np.zeros(shape, INPUTS.dtype), np.zeros((*shape, 2), np.float32)
    resets, mask, weights = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, np.float32)
    for place in range(num_steps):
        step = start - lead + place
        if not 0 <= step < end:
            continue
        for b in range(BATCH):
            inputs[place, b] = INPUTS[step, b]
            targets[place, b] = TARGETS[step, b]
            mask[place, b] = True
            resets[place, b] = BORDERS[step, b] or step == 0
            weights[place, b] = WEIGHTS[step, b] if step >= start else 0
    return Window(inputs, targets, resets, weights, mask, end - start if lead else None, None)


def same(got: Window, expected: Window) -> None:
    for name, one, other in zip(Window._fields, got, expected, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            np.testing.assert_array_equal(one, other, err_msg=name)
            if name not in ("advance", "scale"):
                assert one.dtype == other.dtype


def test_streams_lie_side_by_side():
    rng = np.random.default_rng(0)
    sequence = {"a": rng.integers(0, 9, size=17), "b": (rng.normal(size=(17, 2)),)}
    cut = streams(sequence, 3)
    assert (cut["a"].shape, cut["b"][0].shape) == ((5, 3), (5, 3, 2))
    for b in range(3):
        for t in range(5):
            assert cut["a"][t, b] == sequence["a"][b * 5 + t]
            np.testing.assert_array_equal(cut["b"][0][t, b], sequence["b"][0][b * 5 + t])


@pytest.mark.parametrize(
    ("k1", "k2", "burn_in"), [(4, 4, 0), (4, None, 0), (2, 5, 0), (1, 4, 0), (3, 4, 2), (5, 5, 7), (11, 11, 0)]
)
def test_windows_equal_a_loop_over_steps_and_every_target_counts_once(k1, k2, burn_in):
    series = windows(INPUTS, TARGETS, k1, k2, burn_in=burn_in, borders=BORDERS, weights=WEIGHTS)
    lead = burn_in + (k2 or k1) - k1
    assert (len(series), series.burn_in) == (-(-STEPS // k1), burn_in)
    counted = np.zeros((STEPS, BATCH), np.float32)
    for index in range(len(series)):
        start, end = index * k1, min((index + 1) * k1, STEPS)
        window = series[index]
        same(window, by_hand(start, end, lead, lead + k1))
        counted[start:end] += window.weights[lead : lead + end - start]
    np.testing.assert_array_equal(counted, WEIGHTS)


def test_the_next_window_starts_where_the_carry_is_handed_on():
    for series in (
        windows(INPUTS, TARGETS, 2, 5, burn_in=1),
        random_windows(INPUTS, TARGETS, 3, seed=0, epoch=1, overlap=4, spread=1.0),
    ):
        for before, after in zip(list(series), list(series)[1:], strict=False):
            shift = int(before.advance)
            shared = before.mask[shift:] & after.mask[: len(before.mask) - shift]
            np.testing.assert_array_equal(before.mask[shift:][: series.lead], after.mask[: series.lead])
            np.testing.assert_array_equal(
                before.inputs[shift:][shared], after.inputs[: len(before.mask) - shift][shared]
            )


def test_structures_are_kept_and_what_is_given_is_not_changed():
    inputs, targets = {"x": INPUTS.copy(), "y": (TARGETS.copy(),)}, [TARGETS.copy()]
    window = windows(inputs, targets, 4)[1]
    np.testing.assert_array_equal(window.inputs["x"], INPUTS[4:8])
    np.testing.assert_array_equal(window.inputs["y"][0], TARGETS[4:8])
    np.testing.assert_array_equal(window.targets[0], TARGETS[4:8])
    window.inputs["x"][:] = -1
    window.weights[:] = -1
    np.testing.assert_array_equal(inputs["x"], INPUTS)
    assert windows(inputs, targets, 4)[1].weights.min() == 1.0


def test_random_windows_cover_every_target_once_with_one_shape():
    num_steps = 900
    inputs = np.arange(1, num_steps * 2 + 1).reshape(num_steps, 2)
    shapes, starts = set(), set()
    for epoch in range(3):
        series = random_windows(inputs, -inputs, 20, seed=3, epoch=epoch, overlap=2, burn_in=3)
        counted = np.zeros(num_steps * 2 + 1)
        end = 0
        for window in series:
            shapes.add((window.inputs.shape, window.mask.shape))
            length = int(window.advance)
            assert window.weights.sum() == 2 * length
            assert window.scale == np.float32(length / 20)
            np.testing.assert_array_equal(window.targets, -window.inputs)
            np.testing.assert_array_equal(window.weights[5 : 5 + length], 1)
            np.add.at(counted, window.inputs[window.weights > 0], 1)
            starts.add(end)
            end += length
        assert counted[0] == 0
        np.testing.assert_array_equal(counted[1:], 1)
    assert shapes == {((5 + 40, 2), (5 + 40, 2))}
    assert len(starts) > 3 * len(series) - 10  # the borders between windows are elsewhere in every epoch


def test_random_windows_are_a_pure_function_of_seed_epoch_and_index():
    def series(seed, epoch):
        return random_windows(INPUTS, TARGETS, 3, seed=seed, epoch=epoch, spread=1.0)

    one, other = series(7, 2), series(7, 2)
    for index in reversed(range(len(one))):
        same(one[index], other[index])
    assert any(
        one.ends.tolist() != series(seed, epoch).ends.tolist() for seed, epoch in ((7, 3), (8, 2), (2, 7), (7, 0))
    )


def test_passes_are_one_sequence_whatever_the_number_of_their_windows():
    inputs = RNG.integers(0, 99, size=(200, 2))

    def build(epoch):
        return random_windows(inputs, -inputs, 12, seed=4, epoch=epoch, short=0.3)

    series = passes(build, 4)
    expected = [window for epoch in range(4) for window in build(epoch)]
    assert len({len(build(epoch)) for epoch in range(4)}) > 1
    assert len(series) == len(expected)
    for index in RNG.permutation(len(expected)):
        same(series[index], expected[index])
    same(series[-1], expected[-1])
    with pytest.raises(IndexError):
        series[len(expected)]
    with pytest.raises(ValueError, match=r"`num` must be at least 1, got 0"):
        passes(build, 0)


def test_random_lengths_have_the_distribution_of_awd_lstm():
    lengths = random_lengths(2_000_000, 70, seed=1, epoch=0)[:-1]
    short = lengths < 52
    assert abs(short.mean() - 0.05) < 0.005
    for part, mean in ((lengths[~short], 70), (lengths[short], 35)):
        # Rounding towards zero takes half a step.
        np.testing.assert_allclose(part.mean(), mean - 0.5, atol=0.35)
        np.testing.assert_allclose(part.std(), 5, atol=0.3)
    assert lengths.min() >= 5
    assert lengths.max() <= 90
    assert random_lengths(100, 7, seed=0, epoch=0, spread=0.0, short=0.0).tolist() == [7] * 14 + [2]
    assert random_lengths(9, 2, seed=0, epoch=0, spread=0.0, short=1.0).tolist() == [2, 2, 2, 2, 1]


def test_windows_are_a_sequence_and_can_be_pickled():
    series = windows(INPUTS, TARGETS, 4)
    assert [window.inputs[0, 0] for window in series] == INPUTS[::4, 0].tolist()
    same(series[-1], series[2])
    same(series[np.int64(1)], series[1])
    same(pickle.loads(pickle.dumps(series))[1], series[1])
    with pytest.raises(IndexError):
        series[3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k1": 0}, r"`k1` and `k2` must satisfy 1 <= k1 <= k2, got 0 and 0"),
        ({"k1": 4, "k2": 3}, r"`k1` and `k2` must satisfy 1 <= k1 <= k2, got 4 and 3"),
        ({"burn_in": -1}, r"`burn_in` must be at least 0, got -1"),
        ({"borders": INPUTS}, r"`borders` must be boolean, got int64"),
        ({"borders": BORDERS[1:]}, r"`borders` must be \[11, 3\], as the inputs, got \[\(10, 3\)\]"),
        ({"weights": TARGETS}, r"`weights` must be \[11, 3\], as the inputs, got \[\(11, 3, 2\)\]"),
        ({"targets": TARGETS[:, :2]}, r"`targets` must be \[11, 3, ...\], as the inputs, got \[\(11, 2, 2\)\]"),
        ({"inputs": INPUTS[:, 0]}, r"`inputs` must be arrays \[N, B, ...\] .* got shapes \[\(11,\)\]"),
        ({"inputs": INPUTS[:0]}, r"`inputs` must be arrays \[N, B, ...\] of at least one step"),
        ({"inputs": (INPUTS, INPUTS[1:])}, r"`inputs` must be \[11, 3, ...\], .* got \[\(11, 3\), \(10, 3\)\]"),
    ],
)
def test_windows_refuse_what_makes_no_sense(change, message):
    arguments = {"inputs": INPUTS, "targets": TARGETS, "k1": 4} | change
    with pytest.raises(ValueError, match=message):
        windows(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bptt": 0}, r"`bptt` must be at least 1, got 0"),
        ({"overlap": -2}, r"`overlap` must be at least 0, got -2"),
        ({"spread": -1.0}, r"`spread` must be at least 0, got -1.0"),
        ({"short": 1.5}, r"`short` must be a probability in \[0, 1\], got 1.5"),
        ({"seed": -1}, r"`seed` and `epoch` must be >= 0, got -1, 0"),
    ],
)
def test_random_windows_refuse_what_makes_no_sense(change, message):
    arguments = {"inputs": INPUTS, "targets": TARGETS, "bptt": 4, "seed": 0, "epoch": 0} | change
    with pytest.raises(ValueError, match=message):
        random_windows(**arguments)


def test_streams_refuse_more_rows_than_steps():
    with pytest.raises(ValueError, match=r"`batch_size` must be in \[1, 5\], the length of the sequence, got 6"):
        streams(np.arange(5), 6)
    with pytest.raises(ValueError, match=r"`num_steps` must be at least 1, got 0"):
        random_lengths(0, 4, seed=0, epoch=0)
