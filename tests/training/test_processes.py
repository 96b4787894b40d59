"""How processes find each other, and what they say where they do not; what one process does alone."""

import jax
import pytest

from rnn_jax.training import agree, by_writer, is_writer, processes, start_processes
from rnn_jax.training.processes import Poll, same_everywhere, together


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_started", [])
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", *processes.MPI_SIZES):
        monkeypatch.delenv(name, raising=False)


def refuse(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list:
    """Puts an error in the place of connecting; notes what was asked for."""
    asked: list = []

    def initialize(*args, **options):
        asked.append((args, options))
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return asked


def test_one_process_needs_nothing_and_shares_with_nobody() -> None:
    start_processes(num_processes=1)
    start_processes(num_processes=1)
    assert is_writer()
    assert agree((1, "a")) == (1, "a")
    assert by_writer(lambda: 3) == together(lambda: 3) == 3
    assert Poll(2)(4, 0) == (4, 0)
    same_everywhere("state", {})
    with pytest.raises(OSError, match="no room"):
        by_writer(lambda: (_ for _ in ()).throw(OSError("no room")))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_processes": 0}, "`num_processes` must be at least 1, got 0"),
        ({"num_processes": 2, "process_id": 2}, "`process_id` must be at least 0 and less than 2, got 2"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(arguments: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        start_processes(**arguments)


def test_variables_stand_for_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    asked = refuse(monkeypatch, RuntimeError("nobody there"))
    with pytest.raises(RuntimeError, match="the processes could not be connected: nobody there"):
        start_processes()
    assert asked == [(("host:1234", 4, 3), {"cluster_detection_method": "deactivate"})]
    monkeypatch.setenv("JAX_PROCESS_ID", "three")
    with pytest.raises(ValueError, match="`process_id` must be an integer in JAX_PROCESS_ID, got 'three'"):
        start_processes()


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refuse(monkeypatch, ValueError("coordinator_address should be defined."))
    start_processes()
    start_processes()
    assert asked == [((None, None, None), {})]


def test_some_arguments_without_a_launcher_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, ValueError("coordinator_address should be defined."))
    with pytest.raises(ValueError, match="`coordinator` must be given with the other two, since no launcher was found"):
        start_processes(num_processes=2, process_id=0)


def test_it_must_come_first() -> None:
    assert jax.devices()
    with pytest.raises(RuntimeError, match="must be called before anything that uses a device of jax"):
        start_processes("localhost:1", 2, 0)


def test_mpi_launchers_that_jax_does_not_know_need_mpi4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    asked = refuse(monkeypatch, RuntimeError("stop here"))
    monkeypatch.setattr(processes, "find_spec", lambda name: None)
    with pytest.raises(
        RuntimeError, match=r"MPI started 2 processes, which need the package mpi4py .* or set JAX_COORD"
    ):
        start_processes()
    monkeypatch.setattr(processes, "find_spec", lambda name: name)
    with pytest.raises(RuntimeError, match="stop here"):
        start_processes()
    assert asked == [((None, None, None), {"cluster_detection_method": "mpi4py"})]


def test_another_number_than_that_of_the_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_started", [True])
    with pytest.raises(RuntimeError, match="`num_processes` must be what this process was started with, 1, got 2"):
        start_processes(num_processes=2)
