"""Mechanisms of attention against their equations, one row, one beam and one source step at a time."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import close, jit
from oracles import sigmoid

from rnn_jax.attention import Attention, Memory, additive, dot, general, local, monotonic

STEPS, SOURCE, BATCH, BEAMS, SIZE = 3, 6, 4, 2, 4
RNG = np.random.default_rng(71)
MEMORY = RNG.normal(size=(SOURCE, BATCH, SIZE))
QUERIES = RNG.normal(size=(STEPS, BATCH, BEAMS, SIZE))
REAL = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]], bool).T


def softmax(energies: np.ndarray) -> np.ndarray:
    return np.exp(energies) / np.exp(energies).sum()


def scored(energy: Callable[..., float]) -> Callable[..., Any]:
    """The oracle of a mechanism whose weights are a softmax; its state is the sum of all weights so far."""

    def oracle(p: Any, m: np.ndarray, q: np.ndarray, c: np.ndarray) -> Any:
        a = softmax(np.array([energy(p, m_s, q, c_s) for m_s, c_s in zip(m, c, strict=True)]))
        return a, c + a

    return oracle


def additive_energy(p: Any, m: np.ndarray, q: np.ndarray, c: float) -> float:
    covered = 0 if p.w_coverage is None else c * p.w_coverage
    return p.v @ np.tanh(q @ p.w_q + m @ p.w_m + covered)


def dot_energy(p: Any, m: np.ndarray, q: np.ndarray, c: float) -> float:
    return q @ (m if p.w_coverage is None else m + c * p.w_coverage)


def general_energy(p: Any, m: np.ndarray, q: np.ndarray, c: float) -> float:
    return dot_energy(p, m @ p.w_m, q, c)


def local_oracle(p: Any, m: np.ndarray, q: np.ndarray, c: np.ndarray) -> Any:
    centre = len(m) * sigmoid(p.v_p @ np.tanh(q @ p.w_p))
    window = [s for s in range(len(m)) if abs(s - centre) <= 2]
    a = np.zeros(len(m))
    a[window] = softmax(np.array([q @ (m[s] @ p.w_m) for s in window]))
    return a * np.exp(-((np.arange(len(m)) - centre) ** 2) / (2 * 1.0**2)), c


def stop_probabilities(p: Any, m: np.ndarray, q: np.ndarray) -> np.ndarray:
    v = p.g * p.v / np.linalg.norm(p.v)
    return np.array([sigmoid(v @ np.tanh(q @ p.w_q + m_s @ p.w_m + p.b) + p.r) for m_s in m])


def monotonic_oracle(p: Any, m: np.ndarray, q: np.ndarray, before: np.ndarray) -> Any:
    stop, reached, a = stop_probabilities(p, m, q), 0.0, np.zeros(len(m))
    for j in range(len(m)):
        reached = (1 - stop[j - 1]) * reached + before[j] if j else before[0]
        a[j] = stop[j] * reached
    return a, a


class Case(NamedTuple):
    """A mechanism and its oracle `(params, real memory [S, E], query, state [S]) -> (weights, state)`."""

    attention: Attention
    oracle: Callable[..., Any]


CASES = {
    "additive": Case(additive(5), scored(additive_energy)),
    "additive_coverage": Case(additive(5, coverage=True), scored(additive_energy)),
    "dot": Case(dot(), scored(dot_energy)),
    "dot_scaled": Case(dot(scaled=True), scored(lambda *a: dot_energy(*a) / 2)),
    "dot_coverage": Case(dot(coverage=True), scored(dot_energy)),
    "general": Case(general(), scored(general_energy)),
    "general_coverage": Case(general(coverage=True), scored(general_energy)),
    "local": Case(local(2), local_oracle),
    "monotonic": Case(monotonic(5), monotonic_oracle),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def random_params(attention: Attention, memory_size: int = SIZE, dtype: Any = np.float64) -> Any:
    rng = np.random.default_rng(73)
    shapes = jax.eval_shape(lambda: attention.init(jax.random.key(0), SIZE, memory_size))
    return jax.tree.map(lambda leaf: np.asarray(rng.normal(size=leaf.shape), dtype), shapes)


def attend(attention: Attention, params: Any, memory: Any, real: Any, queries: Any) -> Any:
    """Asks one query after another: contexts, weights, and the last state."""
    prepared = attention.prepare(params, memory, real)
    state, out = attention.init_state(prepared, queries.shape[1:-1]), []
    for query in queries:
        state, *both = attention.apply(params, prepared, state, query)
        out.append(both)
    contexts, weights = zip(*out, strict=True)
    return jnp.stack(contexts), jnp.stack(weights), state


@ALL
@pytest.mark.usefixtures("x64")
def test_every_row_and_beam_equals_the_equations_on_its_real_steps_alone(case):
    params = random_params(case.attention)
    memory = np.where(REAL[..., None], MEMORY, np.nan)
    contexts, weights = np.zeros((STEPS, BATCH, BEAMS, SIZE)), np.zeros((STEPS, BATCH, BEAMS, SOURCE))
    for b, k in itertools.product(range(BATCH), range(BEAMS)):
        m = MEMORY[REAL[:, b], b]
        state = np.eye(1, len(m))[0] if "monotonic" in case.oracle.__name__ else np.zeros(len(m))
        for t in range(STEPS if len(m) else 0):
            a, state = case.oracle(params, m, QUERIES[t, b, k], state)
            weights[t, b, k, REAL[:, b]] = a
            contexts[t, b, k] = a @ m

    run = jit(lambda p, m, q: attend(case.attention, p, m, jnp.asarray(REAL), q))
    for result in (run(params, memory, QUERIES), attend(case.attention, params, memory, REAL, jnp.asarray(QUERIES))):
        assert result[0].dtype == result[1].dtype == jnp.float64
        np.testing.assert_allclose(result[0], contexts, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(result[1], weights, rtol=1e-10, atol=1e-12)
        if "coverage" in str(params):
            covered = jnp.asarray(result[2] if jax.tree.leaves(result[2]) else weights.sum(0))
            np.testing.assert_allclose(covered, weights.sum(0), rtol=1e-10, atol=1e-12)


@ALL
@pytest.mark.usefixtures("x64")
def test_gradients_equal_finite_differences_and_nan_in_padding_harms_none(case):
    arguments = random_params(case.attention), MEMORY, QUERIES

    def loss(params, memory, queries):
        contexts, weights, _ = attend(case.attention, params, memory, jnp.asarray(REAL), queries)
        return sum((jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape) * x).sum() for x in (contexts, weights))

    value, gradient = jit(loss), jit(jax.grad(loss, argnums=(0, 1, 2)))
    ours = gradient(*arguments)
    for leaf in jax.tree.leaves(ours):
        assert (np.asarray(leaf) != 0).any()
    rng = np.random.default_rng(79)
    for _ in range(3):
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), arguments)
        ends = [jax.tree.map(lambda x, d, e=e: x + e * d, arguments, direction) for e in (1e-6, -1e-6)]
        slope = (value(*ends[0]) - value(*ends[1])) / 2e-6
        along = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), ours, direction)))
        np.testing.assert_allclose(along, slope, rtol=1e-6, atol=1e-7)
    assert (np.asarray(ours[1])[~REAL] == 0).all()
    close(gradient(arguments[0], np.where(REAL[..., None], MEMORY, np.nan), QUERIES), ours)


@ALL
def test_beams_and_any_batch_axes_equal_a_tiled_memory(case):
    params = random_params(case.attention, dtype=np.float32)
    memory, queries = jnp.asarray(MEMORY, jnp.float32), jnp.asarray(QUERIES, jnp.float32)
    run = jit(lambda p, m, r, q: attend(case.attention, p, m, r, q))
    expected = run(params, memory, REAL, queries)
    tiled = jnp.repeat(memory[:, :, None], BEAMS, 2), np.repeat(REAL[:, :, None], BEAMS, 2)
    close(run(params, *tiled, queries), expected)
    close(run(params, tiled[0], REAL, queries), expected)  # a mask of leading batch axes
    alone = run(params, memory[:, 1], REAL[:, 1], queries[:, 1])  # a source without batch axes, for all beams
    close(alone, jax.tree.map(lambda leaf: leaf[1] if leaf.ndim == 3 else leaf[:, 1], expected))
    square = [x.reshape(*x.shape[:1], 2, 2, *x.shape[2:]) for x in (memory, REAL, queries)]
    close([x.ravel() for x in jax.tree.leaves(run(params, *square))], [x.ravel() for x in jax.tree.leaves(expected)])


@pytest.mark.usefixtures("x64")
def test_monotonic_attention_is_the_expectation_over_all_hard_paths():
    """A path stops at one j per query, never before the last one; from `SOURCE` on it has passed the end."""
    attention, params = CASES["monotonic"].attention, random_params(CASES["monotonic"].attention)
    memory, queries, end = MEMORY[:4, 0], QUERIES[:, 0, 0], 4
    stop = [stop_probabilities(params, memory, query) for query in queries]
    expected, total = np.zeros((STEPS, end)), 0.0
    for path in itertools.combinations_with_replacement(range(end + 1), STEPS):
        probability, here = 1.0, 0
        for i, j in enumerate(path):
            probability *= np.prod(1 - stop[i][here:j]) * (stop[i][j] if j < end else 1)
            here = j
        total += probability
        for i, j in enumerate(path):
            if j < end:
                expected[i, j] += probability
    np.testing.assert_allclose(total, 1, rtol=1e-12)
    weights = attend(attention, params, memory, None, jnp.asarray(queries))[1]
    np.testing.assert_allclose(weights, expected, rtol=1e-10)


@pytest.mark.parametrize("bias", [-60.0, 60.0])
def test_monotonic_attention_has_finite_gradients_where_it_is_sure(bias):
    attention = monotonic(3)
    params = random_params(attention, dtype=np.float32)._replace(r=np.float32(bias))
    run = lambda p, m: attend(attention, p, m, None, jnp.asarray(QUERIES[:, :, 0], jnp.float32))[0]  # noqa: E731
    memory = jnp.asarray(np.repeat(MEMORY, 20, 0), jnp.float32)
    gradients = jit(jax.grad(lambda p, m: run(p, m).sum(), argnums=(0, 1)))(params, memory)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    if bias > 0:
        np.testing.assert_allclose(run(params, memory), np.repeat(memory[None, 0], STEPS, 0), rtol=1e-5)


@ALL
def test_half_precision_goes_in_and_out_while_weights_stay_float32(case):
    params = random_params(case.attention, dtype=np.float32)
    memory, queries = (jnp.asarray(x, jnp.bfloat16) for x in (MEMORY, QUERIES))
    contexts, weights, state = attend(case.attention, params, memory, REAL, queries)
    assert contexts.dtype == jnp.bfloat16
    assert weights.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))
    expected = attend(case.attention, params, memory.astype(jnp.float32), REAL, queries.astype(jnp.float32))
    if case.attention is not CASES["local"].attention:  # there a rounded position may move a step over the border
        np.testing.assert_allclose(weights, expected[1], atol=0.05)
    mixed = attend(case.attention, params, memory, REAL, queries.astype(jnp.float32))
    np.testing.assert_allclose(mixed[1], expected[1], atol=0.05)
    assert mixed[0].dtype == jnp.float32


def test_a_source_of_one_size_and_a_query_of_another():
    for attention in (additive(5), general(), local(3), monotonic(5)):
        params = random_params(attention, memory_size=3, dtype=np.float32)
        contexts, weights, _ = attend(attention, params, jnp.ones((SOURCE, 3)), None, jnp.ones((2, SIZE)))
        assert contexts.shape == (2, 3)
        assert weights.shape == (2, SOURCE)


def test_initial_parameters_are_drawn_from_different_keys_and_start_as_published():
    params = monotonic(9, offset=-4.0).init(jax.random.key(0), 3, 3)
    assert float(params.r) == -4
    np.testing.assert_allclose(params.g, 1 / 3, rtol=1e-6)
    assert not np.allclose(params.w_q, params.w_m)
    assert (np.asarray(additive(5, coverage=True).init(jax.random.key(0), 3, 3).w_coverage) == 0).all()


def test_equal_calls_give_the_same_object():
    assert additive(5) is additive(size=5, coverage=False)
    assert additive(5) is not additive(5, coverage=True)
    assert dot() is dot(scaled=False)
    assert monotonic(5, offset=-1.0) is monotonic(5)
    with pytest.raises(ValueError, match=r"`size` of additive must be hashable, got \[5\]"):
        additive([5])


def test_what_does_not_fit_is_refused():
    for build, name in ((additive, "size"), (local, "window"), (monotonic, "size")):
        with pytest.raises(ValueError, match=rf"`{name}` must be an integer of at least 1, got int 0"):
            build(0)
    with pytest.raises(ValueError, match=r"`query_size` and `memory_size` must be equal for dot\(\), got 3 and 4; gen"):
        dot().init(jax.random.key(0), 3, 4)
    for case in CASES.values():
        params = random_params(case.attention)
        with pytest.raises(ValueError, match=r"`key` must be a PRNG key"):
            case.attention.init(0, SIZE, SIZE)
        with pytest.raises(ValueError, match=r"`memory` must have at least one source step, got shape \(0, 2, 4\)"):
            case.attention.prepare(params, jnp.zeros((0, 2, SIZE)))
        with pytest.raises(ValueError, match=r"`memory` must be floating"):
            case.attention.prepare(params, jnp.zeros((3, 2, SIZE), int))
        with pytest.raises(ValueError, match=r"`real` must be boolean, got int32"):
            case.attention.prepare(params, jnp.zeros((3, 2, SIZE)), jnp.ones((3, 2), jnp.int32))
        with pytest.raises(ValueError, match=r"`real` must have the shape \(3, 2\) .*, got \(3, 4\)"):
            case.attention.prepare(params, jnp.zeros((3, 2, SIZE)), jnp.ones((3, 4), bool))
        memory = case.attention.prepare(params, jnp.zeros((3, 2, SIZE)))
        assert isinstance(memory, Memory)
        state = case.attention.init_state(memory, (2,))
        with pytest.raises(ValueError, match=r"`query` must have the batch axes \(2,\) of the memory first, got shape"):
            case.attention.apply(params, memory, state, jnp.zeros((3, SIZE)))
        with pytest.raises(ValueError, match=r"`query` must have 4 features on its last axis, got shape \(2, 5\)"):
            case.attention.apply(params, memory, state, jnp.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"`memory` must have 4 features on its last axis, got shape \(3, 2, 5\)"):
        additive(5).prepare(random_params(additive(5)), jnp.zeros((3, 2, 5)))
