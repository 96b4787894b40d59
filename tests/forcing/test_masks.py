"""Coins have the frequencies that were asked for, one set for all rates; schedules follow their formulas."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import jit

from rnn_jax.forcing import SCHEDULES, forcing_mask, forcing_schedule, sparse_forcing_mask

KEY = jax.random.key(2)


def check_frequency(coins: np.ndarray, rate: float) -> None:
    assert abs(coins.mean() - rate) < 4.5 * math.sqrt(rate * (1 - rate) / coins.size)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_coins_come_as_often_as_the_rate_says(rate: float) -> None:
    steps = np.asarray(forcing_mask(KEY, rate, 60, (10, 9)))
    assert steps.shape == (60, 10, 9)
    assert steps.dtype == np.float32
    assert set(np.unique(steps)) == {0.0, 1.0}
    check_frequency(steps, rate)
    for axis in range(3):
        assert (np.ptp(steps, axis=axis) == 1).any()
    sequences = np.asarray(forcing_mask(KEY, rate, 3, (70, 60), per="sequence"))
    np.testing.assert_array_equal(sequences, np.broadcast_to(sequences[:1], (3, 70, 60)))
    check_frequency(sequences[0], rate)
    keys = jax.random.split(KEY, 3000)
    batches = np.asarray(jit(jax.vmap(lambda key: forcing_mask(key, rate, 3, (2,), per="batch")))(keys))
    np.testing.assert_array_equal(batches, np.broadcast_to(batches[:, :1, :1], (3000, 3, 2)))
    check_frequency(batches[:, 0, 0], rate)


@pytest.mark.parametrize("per", ["step", "sequence", "batch"])
def test_the_ends_are_certain_and_higher_rates_contain_lower_ones(per: str) -> None:
    at = jit(lambda rate: forcing_mask(KEY, rate, 20, (15,), per=per))
    masks = [np.asarray(at(np.float32(rate))) for rate in np.linspace(0, 1, 21)]
    assert at._cache_size() == 1
    assert (masks[0] == 0).all()
    assert (masks[-1] == 1).all()
    assert all((low <= high).all() for low, high in itertools.pairwise(masks))
    np.testing.assert_array_equal(at(np.float32(-0.5)), masks[0])  # traced: the nearer end
    np.testing.assert_array_equal(at(np.float32(1.5)), masks[-1])
    np.testing.assert_array_equal(forcing_mask(KEY, 0.5, 20, (15,), per=per), masks[10])


def test_rates_may_differ_by_step_and_row() -> None:
    by_step = np.asarray(forcing_mask(KEY, jnp.array([0.0, 0.3, 0.8, 1.0]), 4, (3000,)))
    assert (by_step[0] == 0).all()
    assert (by_step[3] == 1).all()
    check_frequency(by_step[1], 0.3)
    check_frequency(by_step[2], 0.8)
    by_row = np.asarray(forcing_mask(KEY, jnp.array([[0.0, 0.4, 1.0]]), 3000, (3,)))
    assert (by_row[:, 0] == 0).all()
    assert (by_row[:, 2] == 1).all()
    check_frequency(by_row[:, 1], 0.4)
    each = np.random.default_rng(0).integers(2, size=(6, 5)).astype(np.float32)
    np.testing.assert_array_equal(forcing_mask(KEY, each, 6, (5,)), each)
    np.testing.assert_array_equal(forcing_mask(KEY, each[:1], 6, (5,), per="sequence"), np.tile(each[:1], (6, 1)))


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 0)], ids=str)
def test_shapes(batch: tuple[int, ...]) -> None:
    for per in ("step", "sequence", "batch"):
        for steps in (0, 4):
            mask = jax.eval_shape(lambda key, a=(steps, batch), p=per: forcing_mask(key, 0.5, *a, per=p), KEY)
            assert mask.shape == (steps, *batch)


def test_equal_keys_give_equal_coins_typed_or_raw() -> None:
    coins = forcing_mask(KEY, 0.5, 20, (15,))
    np.testing.assert_array_equal(coins, forcing_mask(jax.random.key_data(KEY), 0.5, 20, (15,)))
    assert (coins != forcing_mask(jax.random.key(3), 0.5, 20, (15,))).any()


def test_sparse_masks_read_the_truth_every_so_many_steps() -> None:
    traced = jit(lambda interval: sparse_forcing_mask(interval, 7))
    for interval in (1, 2, 3, 7, 100):
        expected = np.array([[1.0 if t % interval == 0 else 0.0] for t in range(7)], np.float32)
        for mask in (sparse_forcing_mask(interval, 7), sparse_forcing_mask(np.int64(interval), 7), traced(interval)):
            assert mask.dtype == jnp.float32
            np.testing.assert_array_equal(mask, expected)
    assert traced._cache_size() == 1
    assert sparse_forcing_mask(3, 0).shape == (0, 1)


def weight(kind: str, p: float) -> float:
    """The formulas, with the ends fixed by hand."""
    if kind == "exponential":
        return (100**-p - 0.01) / 0.99
    if kind == "inverse_sigmoid":
        first, last = 1 / (1 + math.exp(-5)), 1 / (1 + math.exp(5))
        return (1 / (1 + math.exp(10 * p - 5)) - last) / (first - last)
    return {"constant": 1.0, "linear": 1 - p, "cosine": (1 + math.cos(math.pi * p)) / 2}[kind]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_follow_their_formulas_in_both_directions(kind: str) -> None:
    for start, end in ((1.0, 0.0), (0.9, 0.25), (0.0, 1.0), (0.1, 0.6)):
        rate = forcing_schedule(kind, 40, start=start, end=end)
        traced = jit(rate)
        for step in (0, 1, 7, 20, 33, 39, 40, 41, 10_000):
            expected = end + (start - end) * weight(kind, min(step / 40, 1))
            assert float(traced(step)) == pytest.approx(expected, abs=2e-6)
        assert float(rate(13)) == pytest.approx(float(traced(13)), abs=1e-6)
        assert traced(jnp.int32(3)).dtype == rate(3).dtype == jnp.float32
        assert traced(3).shape == ()
        assert float(rate(0)) == pytest.approx(start, abs=1e-6)
        if kind != "constant":
            values = np.asarray(jax.vmap(rate)(jnp.arange(60)))
            assert (np.diff(values) * (end - start) >= -1e-6).all()
            assert ((values > -1e-6) & (values < 1 + 1e-6)).all()


def test_a_schedule_drives_a_mask_as_one_of_optax_does(x64: None) -> None:
    for rate in (forcing_schedule("cosine", 10, end=0.3), lambda step: 1.0 - 0.07 * jnp.minimum(step, 10)):
        mean = jit(lambda step, rate=rate: forcing_mask(KEY, rate(step), 100, (50,)).mean())
        values = [float(mean(step)) for step in range(13)]
        assert values[0] == 1
        assert values == sorted(values, reverse=True)
        check_frequency(np.full(5000, values[10]), 0.3)
        assert mean._cache_size() == 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rate": 1.5}, r"`rate` must lie in \[0, 1\], got 1\.5"),
        ({"rate": -0.25}, r"`rate` must lie in \[0, 1\], got -0\.25"),
        ({"rate": float("nan")}, r"`rate` must lie in \[0, 1\], got nan"),
        ({"rate": jnp.array([0.5, 2.0, 0.1, 0.1])}, r"`rate` must lie in \[0, 1\], got 2$"),
        ({"rate": jnp.ones(3)}, r"`rate` must broadcast to \(4, 3\) by its leading axes, got shape \(3,\)"),
        ({"rate": jnp.ones((4, 1)), "per": "sequence"}, r"`rate` must broadcast to \(1, 3\) by its leading axes, got"),
        ({"rate": jnp.ones((1, 3)), "per": "batch"}, r"`rate` must broadcast to \(1, 1\) by its leading axes, got"),
        ({"rate": 1j}, r"`rate` must be numbers in \[0, 1\], got complex64 of shape \(\)"),
        ({"per": "steps"}, r"`per` must be one of 'step', 'sequence', 'batch', got 'steps'; did you mean 'step'"),
        ({"key": 0}, r"`key` must be a PRNG key such as jax\.random\.key\(0\), got int 0"),
    ],
    ids=str,
)
def test_bad_coins_are_refused(change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        forcing_mask(**{"key": KEY, "rate": 0.5, "num_steps": 4, "batch_shape": (3,), **change})


def test_bad_intervals_and_schedules_are_refused() -> None:
    for interval, got in (
        (0, "int 0"),
        (-2, "int -2"),
        (2.5, r"float 2\.5"),
        (True, "bool True"),
        (jnp.int32(0), "int 0"),
    ):
        with pytest.raises(ValueError, match=f"`interval` must be an integer of at least 1, got {got}"):
            sparse_forcing_mask(interval, 5)
    with pytest.raises(ValueError, match=r"`kind` must be one of 'constant', .*, got 'lin'; did you mean 'linear'\?"):
        forcing_schedule("lin", 5)
    with pytest.raises(ValueError, match=r"`num_steps` must be an integer of at least 1, got int 0"):
        forcing_schedule("linear", 0)
    for name in ("start", "end"):
        with pytest.raises(ValueError, match=rf"`{name}` must lie in \[0, 1\], got 1\.25"):
            forcing_schedule("linear", 5, **{name: 1.25})
