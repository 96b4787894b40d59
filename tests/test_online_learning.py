"""What the experiment on online learning measures, against loops and known estimators."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._gradient_likeness import cosine, likeness
from experiments._online_learning import Estimator, Learned, Stream, build, costs, estimators, go_on, rounds, train
from experiments.online_learning import CHANCE

SIZE, DELAY = 3, 2


def test_a_round_asks_for_its_marked_value_after_the_delay() -> None:
    xs, (targets, tell) = (jax.tree.map(np.asarray, one) for one in rounds(jax.random.key(0), 5, 3, 4))
    assert xs.shape == (25, 4, 3)
    for t in range(25):
        place = t % 5
        np.testing.assert_array_equal(abs(xs[t, :, 0]), 1)
        np.testing.assert_array_equal(xs[t, :, 1], place == 0)
        np.testing.assert_array_equal(xs[t, :, 2], place == 3)
        np.testing.assert_array_equal(tell[t], place == 3)
        np.testing.assert_array_equal(targets[t], xs[t - place, :, 0])
    assert abs(xs[..., 0].mean()) < 0.5
    with pytest.raises(ValueError, match="`delay` must be at least 1 step, got 0"):
        rounds(jax.random.key(0), 1, 0, 1)


def test_the_loss_is_the_cross_entropy_of_the_answer(x64: None) -> None:
    network = build("gru", SIZE)
    params = network.init(jax.random.key(0))
    h = jnp.asarray([0.3, -0.2, 0.9])
    logit = float(np.asarray(h) @ np.asarray(params.w) + params.b)
    for value in (1.0, -1.0):
        found = network.loss(params, h, (jnp.asarray(value), jnp.ones(())))
        assert found == pytest.approx(np.log1p(np.exp(-value * logit)))
        assert network.loss(params, h, (jnp.asarray(value), jnp.zeros(()))) == 0


def test_rtrl_goes_on_as_backpropagation_does(x64: None) -> None:
    network = build("gru", SIZE)
    params = network.init(jax.random.key(1))
    batch = rounds(jax.random.key(2), 2, DELAY, 3)
    found = {}
    for name, one in estimators(("bptt", "rtrl"), (), network).items():
        held = (network.cell.init_carry(params.cell, ()), one.memory(network))
        carry, memory = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (3, *leaf.shape)), held)
        found[name] = jax.jit(
            lambda carry, memory, one=one: go_on(network, one.online, params, carry, memory, batch, jax.random.key(3))
        )(carry, memory)
    for at in (0, 2, 3):
        for one, other in zip(jax.tree.leaves(found["rtrl"][at]), jax.tree.leaves(found["bptt"][at]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    xs, targets = batch
    total = 0.0
    for row in range(3):
        h = network.cell.init_carry(params.cell, ())
        for t in range(len(xs)):
            h = network.step(params, h, xs[t, row])
            total += float(network.loss(params, h, [leaf[t, row] for leaf in targets]))
    assert found["bptt"][3] == pytest.approx(total / 3)


def test_likeness_knows_blind_and_noisy_estimators(x64: None) -> None:
    network = build("elman", SIZE)
    made = estimators(("bptt", "uoro", "truncated"), (2, 9), network)
    params = jax.jit(jax.vmap(network.init))(jax.random.split(jax.random.key(5), 3))
    found = likeness(network, made, params, DELAY, 300, jax.random.key(6), num_rounds=2)
    assert list(found.whole) == list(found.far) == list(made)
    for name in ("bptt", "truncated_9"):
        np.testing.assert_allclose(found.whole[name], 1, atol=1e-12)
        np.testing.assert_allclose(found.far[name], 1, atol=1e-12)
    np.testing.assert_array_equal(found.far["truncated_2"], 0)
    assert (found.whole["truncated_2"] < 0.9999).all()
    assert found.of_means.shape == (3, len(found.draws))
    assert found.draws[-1] == 300
    assert ((found.off > 0.5) & (found.off < 1.6)).all()
    np.testing.assert_allclose(found.of_means[:, -1], 1 / np.sqrt(1 + found.variance / 300), atol=0.05)


def test_cosines_are_those_of_vectors() -> None:
    a = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(cosine(a, np.array([[4.0, 3.0], [1.0, 0.0]])), [24 / 25, 0])


def test_costs_are_counted_for_one_step(x64: None) -> None:
    network = build("elman", SIZE)
    num_params = 3 * SIZE + SIZE * SIZE + SIZE + SIZE + 1
    kinds = ("bptt", "rtrl", "snap1", "uoro", "truncated")
    price = {name: costs(network, one, 7) for name, one in estimators(kinds, (1, 5), network).items()}
    assert {name: held for name, (_, held) in price.items()} == {
        "bptt": 7 * (SIZE + 3),
        "rtrl": SIZE * num_params,
        "snap1": num_params,
        "uoro": SIZE + num_params,
        "truncated_1": SIZE + 3,
        "truncated_5": 5 * (SIZE + 3),
    }
    assert 2 * SIZE * SIZE * num_params < price["rtrl"][0] < 6 * SIZE * SIZE * num_params
    forward = 2 * (3 * SIZE + SIZE * SIZE)
    assert 2 * forward < price["bptt"][0] < 5 * forward
    assert 2 < (price["truncated_5"][0] - price["truncated_1"][0]) / 4 / forward < 5


def test_training_with_rtrl_follows_backpropagation(tmp_path: Path) -> None:
    """Streams begin with states of zero, so the first updates are the same, and later ones nearly so."""
    network = build("elman", SIZE)
    params = jax.jit(jax.vmap(network.init))(jax.random.split(jax.random.key(5), 2))
    stream = Stream(delay=1, streams=2, num_updates=20, learning_rate=1e-2)
    made = estimators(("bptt", "rtrl"), (), network)
    losses = {name: train(network, one, params, stream, 0, tmp_path / name).losses for name, one in made.items()}
    assert losses["rtrl"].shape == (2, 2)
    np.testing.assert_allclose(losses["rtrl"], losses["bptt"], rtol=0.05)


def test_what_is_learned_is_read_from_the_log() -> None:
    losses = np.array([[0.7, 0.7], [0.05, 0.6], [0.04, 0.5], [0.02, 0.3]])
    learned = Learned(np.array([10, 20, 30, 40]), losses, 1.0)
    np.testing.assert_array_equal(learned.first(CHANCE / 10), [20, 40])
    np.testing.assert_allclose(learned.final(), [0.02, 0.3])


def test_other_estimators_are_refused() -> None:
    network = build("gru", SIZE)
    for kinds in (("rtrl",), ("bptt", "dni")):
        with pytest.raises(ValueError, match="`estimators` must be bptt and any others of rtrl, snap1"):
            estimators(kinds, (), network)
    assert list(estimators(("bptt", "truncated"), (3, 1), network)) == ["bptt", "truncated_3", "truncated_1"]
    assert Estimator(None).memory(network) == ()
    with pytest.raises(ValueError, match="`cell` must be one of elman, gru, lstm, got 'lru'"):
        build("lru", SIZE)
