"""Checkpoints in one process: what is kept, what comes back, what is refused; fingerprints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnn_jax.training import create_state, fingerprint, open_checkpoints
from rnn_jax.training.checkpoint import Progress
from rnn_jax.training.validation import Best, Validation, better

TX = optax.adam(0.1)


def state_of(value, carry=None):
    params = {"w": jnp.full((3, 2), value, jnp.float32), "c": jnp.full(2, value + 2j, jnp.complex64)}
    return create_state(params, TX, jax.random.key(int(value)), carry)


def page(step, **changes):
    values = {"seconds": 1.5 * step, "window": {"loss": [0.1, 3.0]}, "recent": [0.1, 1 / 3], "skipped": 0}
    values |= {"best_step": None, "best_value": None, "waited": 0, "judged": -1, "data": {"next_index": step}}
    return Progress(**values | {"stopped": None} | changes)


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def steps_of(checkpoints):
    return sorted(int(path.name) for path in checkpoints.folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    carry = (jnp.ones((2, 3), jnp.bfloat16), jnp.zeros((2, 0)), jnp.array([True, False]))
    state, best = state_of(1, carry), state_of(2, carry)
    progress = page(7, best_step=5, best_value=0.1 + 0.2)
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(state) is None
        checkpoints.save(7, state, best, progress)
    with open_checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(state_of(9, carry))
    assert (restored.step, restored.notes) == (7, ())
    assert_equal(restored.state, state)
    assert_equal(restored.best, best)
    assert restored.progress == progress


def test_the_newest_and_the_best_are_kept(tmp_path):
    with open_checkpoints(tmp_path, keep=2, keep_best=2, mode="max") as checkpoints:
        best = (0, -np.inf)
        for step, value in enumerate([1.0, 5.0, 2.0, 7.0, 6.0, 9.0, 3.0, 4.0], start=1):
            best = max(best, (step, value), key=lambda pair: pair[1])
            checkpoints.save(step, state_of(step), state_of(1), page(step, best_step=best[0], best_value=best[1]))
        checkpoints.wait()
        assert steps_of(checkpoints) == [4, 6, 7, 8]  # 7 and 9 were the two best when they were made


def test_what_follows_does_not_change_what_is_being_written(tmp_path):
    """Steps donate their state: its memory is reused while a checkpoint is written in the background."""
    twice = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + leaf, state), donate_argnums=0)
    big = {"w": jnp.arange(500_000, dtype=jnp.float32)}
    state = create_state(big, optax.sgd(0.1), jax.random.key(0))
    with open_checkpoints(tmp_path) as checkpoints:
        expected = np.asarray(state.params["w"]).copy()
        checkpoints.save(1, state, None, page(1))
        params = state.params
        for _ in range(5):
            params = twice(params)
        jax.block_until_ready(params)
    with open_checkpoints(tmp_path) as checkpoints:
        np.testing.assert_array_equal(
            checkpoints.restore(create_state(big, optax.sgd(0.1), jax.random.key(0))).state.params["w"], expected
        )


def test_when_the_next_one_is_due(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("rnn_jax.training.checkpoint.time.monotonic", lambda: now[0])
    with open_checkpoints(tmp_path, every_steps=5, every_seconds=60) as checkpoints:
        assert [checkpoints.due(step) for step in (4, 5, 6, 10)] == [False, True, False, True]
        now[0] = 160.0
        assert checkpoints.due(6)
        checkpoints.save(6, state_of(1), None, page(6))
        assert not checkpoints.due(7)
    with open_checkpoints(tmp_path, every_seconds=None) as checkpoints:
        now[0] = 1e9
        assert not checkpoints.due(1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"every_steps": 0}, "`every_steps` must be at least 1 or None, got 0"),
        ({"every_seconds": -1.0}, "`every_seconds` must be at least 0 or None, got -1.0"),
        ({"keep": 0}, "`keep` must be at least 1, got 0"),
        ({"keep_best": -1}, "`keep_best` must be at least 0, got -1"),
        ({"mode": "least"}, "`mode` must be 'min' or 'max', got 'least'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, text, tmp_path):
    with pytest.raises(ValueError, match=text), open_checkpoints(tmp_path, **options):
        pass
    with pytest.raises(ValueError, match="`run_dir` must be an existing directory"), open_checkpoints(tmp_path / "no"):
        pass


LEAVES = {
    "float32": jnp.arange(12, dtype=jnp.float32).reshape(3, 4),
    "bfloat16": jnp.arange(6, dtype=jnp.bfloat16),
    "complex64": jnp.array([1 + 2j, 3 - 1j], jnp.complex64),
    "int32": jnp.arange(5),
    "bool": jnp.array([True, False, True]),
    "key": jax.random.key(3),
}


@pytest.mark.parametrize("name", LEAVES)
def test_a_fingerprint_changes_with_every_element_and_with_their_order(name):
    leaf = LEAVES[name]
    seen = {fingerprint({"x": leaf})}
    if name == "key":
        changed = [jax.random.key(4), jax.random.fold_in(leaf, 0)]
    else:
        flat = leaf.reshape(-1)
        one = jnp.ones((), flat.dtype)
        changed = [
            flat.at[i].set(~flat[i] if name == "bool" else flat[i] + one).reshape(leaf.shape) for i in range(flat.size)
        ]
        changed.append(flat[::-1].reshape(leaf.shape) if name != "bool" else jnp.array([True, True, False]))
    for other in changed:
        mark = fingerprint({"x": other})
        assert mark not in seen
        seen.add(mark)


def test_a_fingerprint_sees_the_smallest_change_and_not_where_arrays_are():
    x = jnp.linspace(0, 1, 64).reshape(8, 8)
    assert fingerprint(x) != fingerprint(x.at[3, 3].set(np.nextafter(np.float32(x[3, 3]), np.float32(2))))
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    for spec in (P(), P("a"), P(None, "b"), P("b", "a"), P(("a", "b"))):
        assert fingerprint(jax.device_put(x, NamedSharding(mesh, spec))) == fingerprint(x)


def test_the_best_of_many_runs_is_chosen_for_each():
    def many(value):
        states = [state_of(value + run) for run in range(3)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    validation = Validation(lambda params: {}, every=1, metric="nll")
    best: Best | None = None
    for step, values in enumerate([[3, 3, 3], [2, 4, 3], [2.5, 1, 3], [9, 9, 9]], start=1):
        best = better(best, many(10 * step), step, {"nll": np.array(values)}, validation)
    assert best is not None
    assert (best.step.tolist(), best.value.tolist(), best.waited) == ([2, 3, 1], [2, 1, 3], 1)
    assert best.state.params["w"][:, 0, 0].tolist() == [20, 31, 12]
    with pytest.raises(ValueError, match=r"`validation.evaluate` must give 'nll' of shape \(3,\), got \(\)"):
        better(best, many(1), 5, {"nll": 1.0}, validation)
