"""Given the same coins, scheduled sampling equals a decoder written out by hand, in values and gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import jit
from decoders import EMBEDDED, HIDDEN, OUT, STEPS, Scene, everything, forced, forced_everything, same, scene

from rnn_jax import dense, elman, gru, stack
from rnn_jax.forcing import argmax, detached, expected, identity, sample, straight_through

GRU, ELMAN = stack(gru(HIDDEN), dense(OUT)), stack(elman(HIDDEN), dense(OUT))
FEEDBACKS = {
    "argmax": argmax,
    "expected": expected,
    "straight_through": straight_through,
    "sample": sample(0.7),
    "identity": identity,
    "detached expected": detached(expected),
    "detached identity": detached(identity),
}
feedbacks = pytest.mark.parametrize("name", FEEDBACKS)
MASKS = {
    "coins": np.random.default_rng(5).integers(2, size=(STEPS, 4)).astype(float),
    "fractions": np.random.default_rng(6).uniform(size=(STEPS, 4)),
    "free": np.zeros((STEPS, 4)),
    "forced": np.ones((STEPS, 4)),
}


def sigmoid(xp: Any, x: Any) -> Any:
    return 1 / (1 + xp.exp(-x))


def softmax(xp: Any, y: Any) -> Any:
    e = xp.exp(y - y.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def one_hot(xp: Any, tokens: Any) -> Any:
    return (tokens[..., None] == xp.arange(OUT).reshape((1,) * tokens.ndim + (OUT,))).astype(float)


def gru_step(xp: Any, p: Any, h: Any, x: Any) -> Any:
    of_x, of_h = xp.split(x @ p.w_x + p.b[None], 3, -1), xp.split(h @ p.w_h, 3, -1)
    r, z = (sigmoid(xp, a + b) for a, b in zip(of_x[:2], of_h[:2], strict=True))
    n = xp.tanh(of_x[2] + r * (of_h[2] + p.b_hn[None]))
    return (1 - z) * n + z * h


def elman_step(xp: Any, p: Any, h: Any, x: Any) -> Any:
    return xp.tanh(x @ p.w_x + h @ p.w_h + p.b[None])


def fed_back(xp: Any, name: str, y: Any, key: Any, t: int, embedding: Any) -> Any:
    """What a step reads of its own, by the textbook: distributions times the embedding."""
    stopped = (lambda a: a) if xp is np else jax.lax.stop_gradient
    if name.startswith("detached "):
        return fed_back(xp, name.removeprefix("detached "), stopped(y), key, t, embedding)
    if name == "identity":
        return y
    soft, hard = softmax(xp, y), one_hot(xp, y.argmax(-1))
    if name == "sample":
        drawn = jax.random.categorical(jax.random.fold_in(key, t), jnp.asarray(y) / 0.7)
        hard = one_hot(xp, xp.asarray(drawn))
    if name == "straight_through":
        hard = hard + soft - stopped(soft)
    return (soft if name == "expected" else hard) @ embedding


def by_hand(xp: Any, step: Any, name: str, scene: Scene, mask: Any) -> Any:
    """A decoder without scan, without cond, without the library."""
    (p, head), (h, nothing) = scene.params, scene.carry
    tokens = scene.embedding is not None
    truth = one_hot(xp, scene.targets) @ scene.embedding if tokens else scene.targets
    x, ys = one_hot(xp, scene.start) @ scene.embedding if tokens else scene.start, []
    for t in range(STEPS):
        after = step(xp, p, h, xp.concatenate([x, scene.inputs[t]], -1))
        y, real = after @ head.w + head.b[None], (t < scene.lengths)[:, None]
        h = xp.where(real, after, h)
        ys.append(xp.where(real, y, 0))
        if t + 1 < STEPS:
            weight = mask[t + 1][:, None]
            x = weight * truth[t] + (1 - weight) * fed_back(xp, name, y, scene.key, t + 1, scene.embedding)
    return (h, nothing), xp.stack(ys)


def in_numpy(scene: Scene) -> Scene:
    return jax.tree.map(np.asarray, scene._replace(key=None))._replace(key=scene.key)


hand_everything = jit(
    lambda name, scene, mask: everything(lambda s: by_hand(jnp, gru_step, name, s, mask), scene), static_argnums=0
)


@feedbacks
def test_values_and_gradients_are_those_of_a_decoder_written_by_hand(name: str, x64: None) -> None:
    s, feedback = scene(GRU, not name.endswith("identity")), FEEDBACKS[name]
    outputs = []
    for mask in MASKS.values():
        out, grads = forced_everything(GRU, feedback, s, mask)
        same(out, by_hand(np, gru_step, name, in_numpy(s), mask))
        expected_out, expected_grads = hand_everything(name, s, mask)
        same(out, expected_out)
        same(grads, expected_grads, 1e-11)
        outputs.append(np.asarray(out[1]))
    assert all(np.abs(a - b).max() > 1e-4 for i, a in enumerate(outputs) for b in outputs[:i])


@pytest.mark.parametrize("name", ["straight_through", "sample", "identity"])
def test_an_elman_decoder_equals_numpy(name: str, x64: None) -> None:
    s = scene(ELMAN, name != "identity", seed=3)
    for mask in MASKS.values():
        same(forced(ELMAN, FEEDBACKS[name], s, mask), by_hand(np, elman_step, name, in_numpy(s), mask))


def test_each_step_draws_with_its_own_key_and_equal_keys_give_equal_numbers(x64: None) -> None:
    s = scene(GRU, True)
    runs = [
        np.asarray(forced(GRU, sample(0.7), s._replace(key=jax.random.key(i)), MASKS["free"])[1]) for i in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2])[1:].max() > 1e-3


def test_feedbacks_give_the_rows_they_promise(x64: None) -> None:
    rng = np.random.default_rng(9)
    y, table = jnp.asarray(rng.normal(size=(3, 2, OUT))), jnp.asarray(rng.normal(size=(OUT, EMBEDDED)))
    best = np.asarray(table)[np.asarray(y).argmax(-1)]
    key = jax.random.key(4)
    np.testing.assert_array_equal(argmax(y, None, table), best)
    np.testing.assert_array_equal(straight_through(y, None, table), best)
    np.testing.assert_array_equal(sample(1e-6)(y, key, table), best)
    np.testing.assert_allclose(expected(y, None, table), softmax(np, np.asarray(y)) @ np.asarray(table), rtol=1e-12)
    assert identity(y, None, None) is y
    many = jit(jax.vmap(lambda k, temperature: sample(temperature)(y[0, 0], k, jnp.eye(OUT)), (0, None)))
    for temperature in (0.5, 2.0):
        drawn = many(jax.random.split(key, 4000), temperature)
        chance = softmax(np, np.asarray(y[0, 0]) / temperature)
        assert (np.abs(drawn.mean(0) - chance) < 4.5 * np.sqrt(chance * (1 - chance) / 4000)).all()
    assert many._cache_size() == 1
    assert sample(0.5) is sample(0.5)
    assert detached(argmax) is detached(argmax)


def test_gradients_of_feedbacks_reach_what_they_say(x64: None) -> None:
    rng = np.random.default_rng(9)
    y, table = jnp.asarray(rng.normal(size=(6, OUT))), jnp.asarray(rng.normal(size=(OUT, EMBEDDED)))
    weights = jnp.asarray(rng.normal(size=(6, EMBEDDED)))

    def grads(feedback: Any) -> Any:
        def loss(y: Any, table: Any) -> Any:
            return (feedback(y, jax.random.key(0), table) * weights).sum()

        return jit(jax.grad(loss, (0, 1)))(y, table)

    hard, soft, through = grads(argmax), grads(expected), grads(straight_through)
    same(through, (soft[0], hard[1]), 1e-13)
    for feedback in (argmax, sample(1.0), detached(expected), detached(straight_through)):
        assert (grads(feedback)[0] == 0).all()
    same(grads(detached(expected))[1], soft[1], 0)
    assert min(np.abs(g).max() for g in (*soft, hard[1])) > 0.1


def test_a_feedback_of_ones_own_sees_real_outputs_only(x64: None) -> None:
    """Its derivative may be infinite at zero, which is what outputs on padding are set to."""

    def onto_the_sphere(y: Any, key: Any, embedding: Any) -> Any:
        return y / jnp.sqrt((y * y).sum(-1, keepdims=True))

    s = scene(GRU, False)
    (_, ys), grads = forced_everything(GRU, onto_the_sphere, s, MASKS["coins"])
    assert all(np.isfinite(leaf).all() for leaf in grads)
    row = s._replace(targets=s.targets[:, :1], start=s.start[:1], carry=(s.carry[0][:1], ()), inputs=s.inputs[:, :1])
    x, h = np.asarray(row.start), np.asarray(row.carry[0])
    p, head = jax.tree.map(np.asarray, s.params)
    for t in range(STEPS):
        h = gru_step(np, p, h, np.concatenate([x, row.inputs[t]], -1))
        y = h @ head.w + head.b
        np.testing.assert_allclose(ys[t, :1], y, rtol=1e-12)
        if t + 1 < STEPS:
            x = np.asarray(row.targets[t]) if MASKS["coins"][t + 1, 0] else y / np.sqrt((y**2).sum(-1, keepdims=True))
