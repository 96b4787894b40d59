"""Two real processes that train one model over loopback end where undisturbed ones end, and nearly where one ends."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_killed_runs import assert_same, complete, saving

from rnn_jax.training import EXIT_CODE, read_metrics

SCRIPT = Path(__file__).parent / "run_processes.py"
CHECKS = Path(__file__).parent / "run_checks.py"
STEPS, EVERY = 48, 7


def start(
    run_dir: Path,
    count: int = 2,
    devices: int = 1,
    args: tuple[str, ...] = (),
    script: Path = SCRIPT,
    **environment: str,
) -> list:
    """Starts the processes of a run; with one, without connecting anything."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | environment
    if count > 1:
        shared |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count)}
    return [
        subprocess.Popen(
            [sys.executable, str(script), str(run_dir), *(args or (str(STEPS), str(EVERY)))],
            env=os.environ | shared | ({"JAX_PROCESS_ID": str(number)} if count > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def finish(run_dir: Path, code: int = 0, **options) -> list[str]:
    processes = start(run_dir, **options)
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), said
    return [out for out, _ in said]


def wait_for(condition, processes: list) -> bool:
    while all(process.poll() is None for process in processes):
        if condition():
            return True
        time.sleep(0.0005)
    return False


def kill(processes: list) -> None:
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the kill came too late"


def seen(run_dir: Path, process: int) -> np.ndarray:
    return np.load(run_dir / f"rows-{process}.npy")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("undisturbed")
    first, second = finish(run_dir)
    assert "fingerprint" in first
    assert first.splitlines()[-1] == second.splitlines()[-1]  # one state
    return run_dir


def test_two_processes_that_are_killed_or_stopped_end_as_if_undisturbed(tmp_path: Path, undisturbed: Path) -> None:
    processes = start(tmp_path, PAUSE="0.05")
    assert wait_for(lambda: complete(tmp_path), processes)
    time.sleep(random.Random(3).uniform(0, 0.5))
    kill(processes)

    before, processes = complete(tmp_path), start(tmp_path, PAUSE="0.05")
    assert wait_for(lambda: complete(tmp_path) != before and saving(tmp_path), processes), "it ended before it saved"
    kill(processes)

    before, processes = complete(tmp_path), start(tmp_path, PAUSE="0.05")
    assert wait_for(lambda: complete(tmp_path) != before, processes)
    processes[1].send_signal(signal.SIGTERM)  # process 0 hears of it from process 1
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [EXIT_CODE] * 2, said
    last = complete(tmp_path)[-1]
    assert last < STEPS
    for out, _ in said:
        assert f"stopped by SIGTERM after step {last}; a checkpoint of this step is saved" in out

    finish(tmp_path)
    assert_same(tmp_path, undisturbed)


def test_each_process_reads_its_own_rows(undisturbed: Path) -> None:
    first, second = (seen(undisturbed, process)[:STEPS] for process in (0, 1))
    assert first.shape == second.shape == (STEPS, 8)
    for epoch in range(0, STEPS, 3):  # 48 examples in batches of 16
        both = np.concatenate([first[epoch : epoch + 3], second[epoch : epoch + 3]])
        assert sorted(both.ravel()) == list(range(48))


def test_they_write_one_log(undisturbed: Path) -> None:
    steps = [row["step"] for row in read_metrics(undisturbed) if "train/error" in row]
    assert steps == list(range(4, STEPS + 1, 4))
    assert complete(undisturbed)[-1] == STEPS


def test_one_process_gives_nearly_the_same_numbers(tmp_path: Path, undisturbed: Path) -> None:
    finish(tmp_path, count=1)
    np.testing.assert_array_equal(
        seen(tmp_path, 0)[:STEPS], np.concatenate([seen(undisturbed, p)[:STEPS] for p in (0, 1)], axis=1)
    )
    for ours, theirs in zip(read_metrics(tmp_path), read_metrics(undisturbed), strict=True):
        assert ours.keys() == theirs.keys()
        for name in set(ours) - {"seconds", "wall_time"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    with np.load(tmp_path / "final.npz") as ours, np.load(undisturbed / "final.npz") as theirs:
        for name in ours.files:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_what_only_several_processes_can_show_and_how_one_that_fails_ends_both(tmp_path: Path) -> None:
    checks = re.findall(r"^def (check_\w+)", CHECKS.read_text(), re.MULTILINE)
    processes = start(tmp_path, script=CHECKS)
    said = [process.communicate(timeout=300) for process in processes]
    for out, err in said:
        assert [line for line in out.splitlines() if line.startswith("check_")] == checks, err
    assert [process.returncode for process in processes] == [1, 1]
    assert "ValueError: bad data" in said[1][1]
