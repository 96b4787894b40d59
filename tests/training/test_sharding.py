"""Many devices give the numbers of one and hold their part; checkpoints go on on any number of them."""

import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_two_processes import EVERY, STEPS, finish

from rnn_jax import dense, gru, lru, stack, unroll
from rnn_jax.data.batching import Batch
from rnn_jax.data.windows import streams, windows
from rnn_jax.metrics import masked_mean
from rnn_jax.training import (
    EXIT_CODE,
    create_state,
    data_mesh,
    fingerprint,
    gathered,
    local_rows,
    make_mesh,
    make_tbptt_step,
    make_train_step,
    on_mesh,
    place_batch,
    place_state,
    read_metrics,
    state_sharding,
    to_host,
    unroll_window,
)
from rnn_jax.unroll import Scan, Sharded

P = jax.P
CELL = stack(gru(16), dense(2))
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
RULES = ("replicated", "fsdp")
SPLIT = (str(STEPS), str(EVERY), "--rule", "fsdp")


def make_batch(seed: int, rows: int = 16, steps: int = 6) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(rng.normal(size=(steps, rows, 3)).astype(np.float32), rng.integers(1, steps + 1, rows, np.int32))


def make_loss(cell: Any, method: Any = None) -> Any:
    def loss_fn(params, batch, *, key, step):
        noise = 0.1 * jax.random.normal(key, batch.data.shape)
        ys = unroll(cell, params, batch.data + noise, lengths=batch.lengths, method=method or Scan())[1]
        return jnp.square(ys - batch.data.sum(-1, keepdims=True)).mean(), {}

    return loss_fn


def new_state(cell: Any = CELL, tx: Any = TX) -> Any:
    return create_state(cell.init(jax.random.key(0), 3), tx, jax.random.key(1))


def arrays(tree: Any) -> list[np.ndarray]:
    return [np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x) for x in tree]


def assert_near(got: Any, wanted: Any, rtol: float = 1e-4) -> None:
    for one, other in zip(arrays(jax.tree.leaves(got)), arrays(jax.tree.leaves(wanted)), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-6)


def specs(state: Any) -> list[Any]:
    return [leaf.sharding.spec for leaf in jax.tree.leaves(state)]


def test_a_mesh_takes_what_is_left() -> None:
    assert dict(make_mesh().shape) == {"data": 8, "model": 1, "seq": 1}
    assert dict(make_mesh(data=2, seq=-1).shape) == {"data": 2, "model": 1, "seq": 4}
    mesh = make_mesh(seq=2, model=2, devices=jax.devices()[::-1])
    assert dict(mesh.shape) == {"data": 2, "model": 2, "seq": 2}
    assert list(mesh.devices.flat) == jax.devices()
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"data": 0}, "`data` must be a number of devices, or -1 for what is left, got 0"),
        ({"seq": -1}, "`seq` must be a number of devices where `data` is -1, got -1 for both"),
        ({"model": 3}, "`data` must be left a whole number of 8 devices, got model 3 x seq 1"),
        ({"data": 2, "seq": 2}, "`data` x `model` x `seq` must be the number of devices, 8, got data 2 x .* = 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_mesh(**sizes)


@pytest.mark.parametrize("rule", RULES)
def test_eight_devices_give_the_numbers_and_gradients_of_one(rule: Any) -> None:
    mesh, tx = make_mesh(), optax.sgd(0.1)  # sgd: the difference of parameters is the gradient
    loss_fn, state = make_loss(CELL), new_state(tx=tx)
    placed = place_state(state, mesh, rule, min_size=64)
    alone, many = make_train_step(loss_fn, tx), on_mesh(make_train_step(gathered(loss_fn, mesh), tx), mesh)
    for number in range(3):
        state, metrics = alone(state, make_batch(number))
        placed, theirs = many(placed, make_batch(number))
        assert_near(theirs, metrics)
    assert_near(placed, state)


def test_a_mesh_of_one_device_changes_no_bit() -> None:
    mesh, loss_fn = make_mesh(devices=jax.devices()[:1]), make_loss(CELL)
    state = new_state()
    placed = place_state(state, mesh, "fsdp")
    alone, many = make_train_step(loss_fn, TX), on_mesh(make_train_step(gathered(loss_fn, mesh), TX), mesh)
    for number in range(3):
        state, _ = alone(state, make_batch(number))
        placed, _ = many(placed, make_batch(number))
    assert fingerprint(placed) == fingerprint(state)


def test_the_devices_that_divide_a_batch_are_taken() -> None:
    assert data_mesh(16).size == 8
    assert data_mesh(12).size == 4
    assert data_mesh(7).size == 1


def test_arrays_on_many_devices_come_to_the_host() -> None:
    tree = {"w": np.arange(64, dtype=np.float32).reshape(8, 8), "key": jax.random.key(3)}
    placed = place_state(create_state(tree, optax.sgd(0.1), jax.random.key(0)), make_mesh(), "fsdp", min_size=1)
    found = to_host(placed.params)
    np.testing.assert_array_equal(found["w"], tree["w"])
    np.testing.assert_array_equal(found["key"], jax.random.key_data(tree["key"]))


def test_without_gathering_the_numbers_are_the_same() -> None:
    mesh, state = make_mesh(), new_state()
    placed = place_state(state, mesh, "fsdp", min_size=64)
    step = make_train_step(make_loss(CELL), TX)
    placed, _ = on_mesh(step, mesh)(placed, make_batch(0))
    state, _ = step(state, make_batch(0))
    assert_near(placed, state)


def test_parameters_and_moments_are_split_along_the_largest_axis_that_divides() -> None:
    shapes = {"tall": (32, 8), "wide": (8, 64), "odd": (7, 9), "bias": (16,), "both": (8, 8, 3)}
    params = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    state = place_state(create_state(params, optax.adam(1e-3), jax.random.key(0)), make_mesh(), "fsdp", min_size=17)
    wanted = {"tall": P("data", None), "wide": P(None, "data"), "odd": P(), "bias": P(), "both": P("data", None, None)}
    moments = state.opt_state[0]
    for tree in (state.params, moments.mu, moments.nu):
        assert {name: leaf.sharding.spec for name, leaf in tree.items()} == wanted
        assert [shard.data.size for shard in tree["tall"].addressable_shards] == [32 * 8 // 8] * 8
        assert [shard.data.size for shard in tree["odd"].addressable_shards] == [63] * 8
    assert state.step.sharding.spec == state.key.sharding.spec == moments.count.sharding.spec == P()
    assert_near(state.params, params)


def test_a_carry_is_split_by_rows() -> None:
    state, mesh = new_state(), make_mesh()
    placed = place_state(state.replace(carry=(jnp.zeros((16, 3)), jnp.float32(1))), mesh)
    assert [leaf.sharding.spec for leaf in placed.carry] == [P("data"), P()]
    text = r"`state.carry`\['h'\] must have a first axis, the batch, that 8 devices divide, got \(12, 3\)"
    with pytest.raises(ValueError, match=text):
        state_sharding(state.replace(carry={"h": jnp.zeros((12, 3))}), mesh)


@pytest.mark.parametrize("rule", RULES)
def test_the_state_stays_where_it_is_and_nothing_is_compiled_again(rule: Any) -> None:
    mesh, traces = make_mesh(), []
    loss_fn = gathered(make_loss(CELL), mesh)

    def counted(params, batch, *, key, step):
        traces.append(batch.data.shape)
        return loss_fn(params, batch, key=key, step=step)

    state = place_state(new_state(), mesh, rule, min_size=64)
    before, step = specs(state), on_mesh(make_train_step(counted, TX), mesh)
    state, _ = step(state, make_batch(0))
    held = state
    with jax.log_compiles(False), jax.transfer_guard_device_to_device("disallow"):
        for number in range(1, 4):
            state, _ = step(state, make_batch(number))
    assert len(traces) == 1
    assert specs(state) == before
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(held.params))  # their memory was used again
    if rule == "fsdp":
        large = [leaf for leaf in jax.tree.leaves((state.params, state.opt_state)) if leaf.size >= 64]
        assert len(large) >= 6  # two kernels and two moments of each
        assert all(shard.data.size == leaf.size // 8 for leaf in large for shard in leaf.addressable_shards)
    step(state, make_batch(5, rows=24))
    assert len(traces) == 2


def loops(compiled: Any) -> set[str]:
    """The collectives inside the loops of a program."""
    parts = re.split(r"\n\n", compiled.as_text())
    inner = [part for part in parts if not part.lstrip().startswith("ENTRY")]
    return set(re.findall(r" (all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", "".join(inner)))


def test_gathered_parameters_cross_devices_once_and_not_at_every_step() -> None:
    mesh, batch = make_mesh(), make_batch(0)
    state = place_state(new_state(), mesh, "fsdp", min_size=64)
    placed = place_batch(batch, mesh)
    compiled = [
        make_train_step(loss_fn, TX).lower(state, placed).compile()
        for loss_fn in (make_loss(CELL), gathered(make_loss(CELL), mesh))
    ]
    assert "all-gather" in loops(compiled[0])
    assert loops(compiled[1]) == set()


def test_windows_of_truncated_backpropagation() -> None:
    mesh, cell = make_mesh(), gru(16)

    def loss_fn(params, carry, window, *, key, step):
        carry, ys = unroll_window(cell, params, window.inputs, carry, window)
        return masked_mean(jnp.square(ys[..., 0] - window.targets), window.weights), (carry, {})

    series = np.random.default_rng(2).normal(size=(16 * 20, 3)).astype(np.float32)
    params = cell.init(jax.random.key(0), 3)
    state = create_state(params, TX, jax.random.key(1), cell.init_carry(params, (16,)))
    placed = place_state(state, mesh, "fsdp", min_size=64)
    alone = make_tbptt_step(loss_fn, TX)
    many = on_mesh(make_tbptt_step(gathered(loss_fn, mesh), TX), mesh)
    for window in windows(streams(series, 16), streams(series[:, 0], 16), k1=5):
        state, _ = alone(state, window)
        placed, _ = many(placed, window)
        assert placed.carry.sharding.spec == P("data")
    assert_near(placed, state)


def test_rows_and_steps_are_split_at_once() -> None:
    mesh, cell = make_mesh(data=2, seq=4), stack(lru(8), dense(2))
    batch, state = make_batch(0, steps=8), new_state(cell)
    placed = place_batch(batch, mesh)
    assert placed.data.sharding.spec == P("seq", "data")
    assert placed.lengths.sharding.spec == P("data")
    assert placed.data.addressable_shards[0].data.shape == (2, 8, 3)
    many = on_mesh(make_train_step(make_loss(cell, Sharded(mesh)), TX), mesh)
    theirs, _ = many(place_state(state, mesh), batch)
    ours, _ = make_train_step(make_loss(cell), TX)(state, batch)
    assert_near(theirs, ours)


def test_a_batch_is_placed_by_its_axes() -> None:
    mesh = make_mesh()
    batch = {"xs": np.ones((5, 8, 3), np.float32), "mask": np.ones((5, 8), bool), "lengths": np.arange(8), "rate": 0.5}
    placed = place_batch(batch, mesh)
    wanted = {"xs": P(None, "data"), "mask": P(None, "data"), "lengths": P("data"), "rate": P()}
    assert {name: leaf.sharding.spec for name, leaf in placed.items()} == wanted
    assert_near(placed["lengths"], np.arange(8))
    labels = place_batch((np.ones((5, 8)), np.ones((8, 4))), mesh, batch_axis=(1, 0))
    assert [leaf.sharding.spec for leaf in labels] == [P(None, "data"), P("data")]
    assert local_rows(mesh, 24) == slice(0, 24)


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        ({"xs": np.ones((6, 10))}, r"`batch`\['xs'\] must have a multiple of 4 rows.* got 10"),
        ({"xs": np.ones((6, 8)), "n": np.ones(4)}, r"must hold arrays of one number of rows B, got 4 in .*8 in"),
        ({"xs": np.ones((5, 8))}, r"`batch`\['xs'\] must have a multiple of 2 steps.* got 5; pad it"),
    ],
)
def test_batches_that_do_not_fit_are_refused(batch: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        place_batch(batch, make_mesh(seq=2))


def test_what_is_no_mesh_of_ours_and_states_elsewhere_are_refused() -> None:
    mesh, state = make_mesh(), new_state()
    other = jax.sharding.Mesh(jax.devices(), ("seq",))
    with pytest.raises(ValueError, match=r"`mesh` must have the axes \('data', 'model', 'seq'\).*got axes \('seq',\)"):
        place_batch(np.ones((3, 8)), other)
    with pytest.raises(ValueError, match=r"`mesh` must have the axes .* got int 8"):
        on_mesh(lambda state, batch: (state, {}), 8)
    with pytest.raises(ValueError, match="`state` must lie on the mesh, from place_state, got an array on Single"):
        on_mesh(make_train_step(make_loss(CELL), TX), mesh)(state, make_batch(0))
    with pytest.raises(ValueError, match="`rule` must be one of 'replicated', 'fsdp', got 'fdsp'; did you mean 'fsdp'"):
        place_state(state, mesh, "fdsp")
    with pytest.raises(ValueError, match="`min_size` must be at least 0, got -1"):
        place_state(state, mesh, "fsdp", min_size=-1)
    with pytest.raises(ValueError, match=r"`batch_size` must be a multiple of the 8 devices along 'data'.*, got 12"):
        local_rows(mesh, 12)


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in the middle on 8 devices, its parameters split."""
    run_dir = tmp_path_factory.mktemp("eight")
    (said,) = finish(run_dir, code=EXIT_CODE, count=1, devices=8, args=SPLIT, STOP_AT="24")
    assert "stopped by SIGTERM after step 25" in said
    return run_dir


def continued(run_dir: Path, on_eight: Path, devices: int) -> str:
    shutil.copytree(on_eight, run_dir, dirs_exist_ok=True)
    (said,) = finish(run_dir, count=1, devices=devices, args=SPLIT)
    return said


def test_a_checkpoint_goes_on_with_another_number_of_devices(tmp_path: Path, on_eight: Path) -> None:
    """Each starts from the bits that were written, and ends close to the others: sums are made in another order."""
    said = {devices: continued(tmp_path / str(devices), on_eight, devices) for devices in (8, 1, 2)}
    starts = {re.search("started from (.*)", text).group(1) for text in said.values()}
    assert len(starts) == 1
    with np.load(tmp_path / "8" / "final.npz") as wanted:
        for devices in (1, 2):
            with np.load(tmp_path / str(devices) / "final.npz") as got:
                for name in wanted.files:
                    np.testing.assert_allclose(got[name], wanted[name], rtol=1e-3, atol=1e-5, err_msg=name)
    for rows in zip(*(read_metrics(tmp_path / str(devices)) for devices in (8, 1, 2)), strict=True):
        assert len({row["step"] for row in rows}) == 1
        for name in set(rows[0]) - {"seconds", "wall_time"}:
            assert [row[name] for row in rows[1:]] == pytest.approx([rows[0][name]] * 2, rel=1e-4), name
