"""What only several processes can show, for test_two_processes.py: each prints the name of every check that held.

At the end process 1 fails.

python run_checks.py RUN_DIR
"""

import dataclasses
import itertools
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from rnn_jax.training import (
    agree,
    by_writer,
    create_state,
    fit,
    is_writer,
    load_post_mortem,
    local_rows,
    make_mesh,
    make_train_step,
    on_mesh,
    open_checkpoints,
    place_batch,
    place_state,
    read_metrics,
    run_logger,
    start_processes,
    start_run,
    to_host,
)
from rnn_jax.training.checkpoint import Progress
from rnn_jax.training.processes import Poll, together

TX = optax.sgd(0.25)


def loss_fn(params, batch, *, key, step):
    """The distance of a vector to the mean of a batch."""
    return jnp.square(params["w"] - batch.mean()).sum(), {}


ZEROS = np.zeros(8, np.float32)


def new_state(mesh, w=ZEROS):
    return place_state(create_state({"w": w}, TX, jax.random.key(0)), mesh, "fsdp", min_size=1)


def check_what_process_0_says_holds(run_dir: Path, me: int) -> None:
    assert agree(list(range(1000 * (me + 1)))) == list(range(1000))
    assert by_writer(lambda: {"process": jax.process_index()}) == {"process": 0}
    assert together(jax.process_index) == me


def check_a_failure_of_one_is_one_of_all(run_dir: Path, me: int) -> None:
    def fail():
        raise OSError("no room")

    with pytest.raises(RuntimeError if me else OSError, match="process 0 failed" if me else "no room"):
        by_writer(fail)
    with pytest.raises(ZeroDivisionError if me else RuntimeError):
        together(lambda: 1 // (1 - me))


def check_votes_count_one_step_later(run_dir: Path, me: int) -> None:
    poll = Poll(2)
    assert [poll(me * step, 7 - me) for step in range(3)] == [(0, 0), (0, 7), (1, 7)]


def check_there_is_one_run_directory(run_dir: Path, me: int) -> None:
    config = dataclasses.make_dataclass("Config", [("seed", int, 0)])()
    path = start_run("two", config, root=run_dir)
    assert agree(str(path)) == str(path)
    assert [folder.name for folder in (run_dir / "two").iterdir()] == [path.name]


def check_states_that_differ_are_refused(run_dir: Path, me: int) -> None:
    state = create_state({"w": np.float32(me)}, TX, jax.random.key(0))
    with pytest.raises(ValueError, match="`state` must be the same in every process, got another one in process 1"):
        place_state(state, make_mesh())


def check_a_state_of_one_process_is_not_trained(run_dir: Path, me: int) -> None:
    state = create_state({"w": np.zeros(8, np.float32)}, TX, jax.random.key(0))
    with pytest.raises(
        ValueError, match="`state` must lie on a mesh of all processes, from place_state, got arrays of"
    ):
        fit(state, make_train_step(loss_fn, TX), iter(()), num_steps=1)


def check_rows_and_steps_come_together_over_processes(run_dir: Path, me: int) -> None:
    whole = np.arange(6 * 4 * 2).reshape(6, 4, 2)
    mesh = make_mesh()
    assert local_rows(mesh, 4) == slice(2 * me, 2 * me + 2)
    placed = place_batch({"xs": whole[:, local_rows(mesh, 4)], "n": np.arange(2) + 2 * me}, mesh)
    assert [shard.data.shape for shard in placed["xs"].addressable_shards] == [(6, 2, 2)]
    np.testing.assert_array_equal(to_host(placed["xs"]), whole)
    np.testing.assert_array_equal(to_host(placed["n"]), np.arange(4))
    mesh = make_mesh(data=1, seq=-1)  # each process holds half of the steps, and gives all
    assert local_rows(mesh, 4) == slice(0, 4)
    placed = place_batch(whole, mesh)
    assert [shard.data.shape for shard in placed.addressable_shards] == [(3, 4, 2)]
    np.testing.assert_array_equal(to_host(placed), whole)


def check_process_0_keeps_time(run_dir: Path, me: int) -> None:
    mesh = make_mesh()
    folder = Path(by_writer(lambda: str((run_dir / "clock").mkdir() or run_dir / "clock")))

    def numbers():
        for number in itertools.count():
            time.sleep(0.01 + 0.005 * me)
            yield np.float32([number, me])

    with run_logger(folder) as log, open_checkpoints(folder, every_seconds=0.1) as checkpoints:
        state, info = fit(
            new_state(mesh),
            on_mesh(make_train_step(loss_fn, TX), mesh),
            numbers(),
            num_steps=10**6,
            log=log,
            max_seconds=3.0,
            checkpoints=checkpoints,
            console=Console(quiet=True),
        )
    assert info.stopped == "max_seconds"
    assert agree(info.steps) == info.steps == int(state.step)
    assert max(int(path.name) for path in (folder / "checkpoints").iterdir()) == info.steps
    assert read_metrics(folder)[-1]["step"] == info.steps


def check_a_bad_step_is_saved_by_both(run_dir: Path, me: int) -> None:
    mesh = make_mesh()
    folder = Path(by_writer(lambda: str((run_dir / "bad").mkdir() or run_dir / "bad")))
    batches = iter([np.float32([me, 1]), np.float32([me, np.nan if me else 1])])
    state = new_state(mesh)
    step, console = on_mesh(make_train_step(loss_fn, TX), mesh), Console(quiet=True)
    with open_checkpoints(folder, every_seconds=None) as checkpoints:
        text = "the loss is nan at step 2 .*; batch and state are in .*post_mortem-2"
        with pytest.raises(FloatingPointError, match=text):
            fit(state, step, batches, num_steps=9, checkpoints=checkpoints, console=console)
    found = load_post_mortem(folder / "post_mortem-2", state)
    assert found.batch["batch"].tolist() == [0, 1]  # the rows of process 0
    assert found.state.params["w"].sharding == state.params["w"].sharding
    assert to_host(found.state.params["w"])[0] == np.float32(0.375)


def check_damage_in_the_part_of_one_sets_a_checkpoint_aside_for_both(run_dir: Path, me: int) -> None:
    folder = Path(by_writer(lambda: str((run_dir / "torn").mkdir() or run_dir / "torn")))
    noise = np.random.default_rng(0).normal(size=2**14).astype(np.float32)  # what is small, packed, lies in one place
    state = new_state(make_mesh(), noise)
    progress = Progress(0.0, {}, [], 0, None, None, 0, -1, None, None)

    def tear() -> int:
        parts = [path for path in (folder / "checkpoints" / "2" / "state").glob("ocdbt.process_1/d/*")]
        for path in parts:
            path.write_bytes(path.read_bytes()[:10])
        return len(parts)

    with open_checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, None, progress)
    assert by_writer(tear) > 0
    with open_checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(state)
    assert restored is not None
    assert restored.step == 1
    assert "step 2 could not be read and was moved to damaged_checkpoints/2" in restored.notes[0]
    assert ("process 1 failed" in restored.notes[0]) == (me == 0)
    assert (folder / "damaged_checkpoints" / "2" / "state").is_dir()


def fail_in_process_1() -> None:
    """Trains until process 1 has no batch, but an error; process 0 must not wait for it."""

    def numbers():
        for number in range(100):
            if number == 5 and not is_writer():
                raise ValueError("bad data")
            yield np.float32([number, 1])

    mesh = make_mesh()
    step = on_mesh(make_train_step(loss_fn, TX), mesh)
    fit(new_state(mesh), step, numbers(), num_steps=100, console=Console(quiet=True))


if __name__ == "__main__":
    start_processes()
    start_processes()  # once is enough
    assert is_writer() == (jax.process_index() == 0)
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            check(Path(sys.argv[1]), jax.process_index())
            print(name, flush=True)
    fail_in_process_1()
