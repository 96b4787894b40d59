"""Several processes that train one model: how they find each other, who writes, and how they come to one decision.

Every process runs the same program. Arrays of all processes, and the collectives of jax between them, do the training;
what is left is what programs do besides: files, clocks, signals.
"""

import json
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnn_jax.training.fingerprint import fingerprint

__all__ = ["Poll", "agree", "by_writer", "failure", "is_writer", "same_everywhere", "start_processes", "together"]

T = TypeVar("T")

MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""What MPI launchers set."""

_started: list[bool] = []


def start_processes(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Connects the processes of a run; with one process it does nothing. Call it before anything touches a device.

    Under Slurm, Open MPI, Kubernetes (with the package `kubernetes`) and on TPU pods no argument is needed: what jax
    finds out by itself is taken (`jax.distributed.initialize`). Other MPI launchers need the package `mpi4py`.
    Elsewhere give all three, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    A process that is told to stop (SIGTERM) outside of `fit` dies of it: the preemption notice of jax, which would
    catch the signal, is turned off, and `fit` has its own. A process that ends with an exception ends at once, and the
    others with it as soon as they miss it, so that none waits for one that is gone.

    Args:
      coordinator: "HOST:PORT" of process 0, where the others reach it.
      num_processes: how many there are.
      process_id: which of them this is, from 0.

    Raises:
      ValueError: only some of the arguments are given, or they make no sense.
      RuntimeError: a device was used before, the processes are connected otherwise already, or the others were not
        reached.

    Example:
      >>> start_processes(num_processes=1)
      >>> is_writer()
      True
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    num_processes = _number("num_processes", num_processes, "JAX_NUM_PROCESSES")
    process_id = _number("process_id", process_id, "JAX_PROCESS_ID")
    if num_processes is not None and num_processes < 1:
        raise ValueError(f"`num_processes` must be at least 1, got {num_processes}")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ValueError(f"`process_id` must be at least 0 and less than {num_processes}, got {process_id}")
    if _started or jax.distributed.is_initialized():
        if num_processes not in (None, jax.process_count()):
            raise RuntimeError(
                f"`num_processes` must be what this process was started with, {jax.process_count()}, "
                f"got {num_processes}"
            )
        return
    if num_processes == 1:
        return
    found = (coordinator, num_processes, process_id)
    options: dict[str, Any] = {}
    if None not in found:
        options["cluster_detection_method"] = "deactivate"
    elif found == (None, None, None) and (size := _mpi_size()) > 1 and "OMPI_MCA_orte_hnp_uri" not in os.environ:
        if find_spec("mpi4py") is None:
            raise RuntimeError(
                f"MPI started {size} processes, which need the package mpi4py to find each other: pip install mpi4py, "
                "or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
            )
        options["cluster_detection_method"] = "mpi4py"
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(*found, **options)
    except ValueError as error:
        named = zip(("coordinator", "num_processes", "process_id"), found, strict=True)
        missing = [name for name, value in named if value is None]
        if len(missing) == 3 and "coordinator_address" in str(error):
            _started.append(True)  # no launcher: one process
            return
        if missing:
            raise ValueError(f"`{missing[0]}` must be given with the other two, since no launcher was found") from error
        raise
    except RuntimeError as error:
        if "before" in str(error):
            raise RuntimeError("start_processes must be called before anything that uses a device of jax") from error
        raise RuntimeError(f"the processes could not be connected: {error}") from error
    _started.append(True)
    if jax.process_count() > 1:
        sys.excepthook = _leave


def is_writer() -> bool:
    """Whether this process writes logs, run directories and plots: process 0 does.

    Returns:
      True in one process of all.

    Example:
      >>> is_writer()
      True
    """
    return jax.process_index() == 0


def agree(value: T) -> T:
    """What process 0 says, in every process. All must call it, at the same place of the program.

    Args:
      value: plain data, as JSON holds it.

    Returns:
      the value of process 0.

    Example:
      >>> agree("runs/demo/20260102-030405")
      'runs/demo/20260102-030405'
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value if is_writer() else None).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    room = np.zeros(-(-size // 256) * 256, np.uint8)  # few lengths, so that few programs are compiled
    if is_writer():
        room[:size] = text
    return json.loads(multihost_utils.broadcast_one_to_all(room)[:size].tobytes())


def by_writer(make: Callable[[], T]) -> T:
    """Lets process 0 do something for all, such as making a directory. All must call it.

    Args:
      make: called in process 0 only; returns plain data, as JSON holds it.

    Returns:
      what it returned, in every process.

    Raises:
      RuntimeError: in the other processes, where it failed in process 0.

    Example:
      >>> by_writer(lambda: {"seed": 3})
      {'seed': 3}
    """
    return agree(together(lambda: make() if is_writer() else None))  # type: ignore[return-value]


def together(work: Callable[[], T]) -> T:
    """Does something in every process, and where one of them fails, none goes on.

    Args:
      work: called in every process.

    Returns:
      what it returned here.

    Raises:
      Exception: what it raised here.
      RuntimeError: it failed in another process.

    Example:
      >>> together(lambda: 3)
      3
    """
    if jax.process_count() == 1:
        return work()
    failure: Exception | None = None
    value: Any = None
    try:
        value = work()
    except Exception as error:
        failure = error
    failed = np.flatnonzero(multihost_utils.process_allgather(np.int32(failure is not None)))
    if failure is not None:
        raise failure
    if len(failed):
        raise RuntimeError(f"process {failed[0]} failed; its own message says why")
    return value


def same_everywhere(name: str, tree: Any) -> None:
    """Checks that all processes hold equal arrays. All must call it.

    Args:
      name: of the argument, for the error.
      tree: a pytree of arrays of this process.

    Raises:
      ValueError: they differ; in every process.
    """
    if jax.process_count() == 1:
        return
    mark = np.array([int(fingerprint(tree)[start : start + 8], 16) for start in (0, 8)], np.uint32)
    marks = multihost_utils.process_allgather(mark)
    other = [process for process, theirs in enumerate(marks) if (theirs != marks[0]).any()]
    if other:
        raise ValueError(f"`{name}` must be the same in every process, got another one in process {other[0]} than in 0")


class Poll:
    """Votes on whole numbers, once a step: the largest of all processes counts.

    With one process a vote counts at once. With several it counts one step later, in all of them at the same step: the
    devices exchange votes while they train, and nobody waits for the answer.

    Args:
      size: on how many questions is voted.

    Example:
      >>> poll = Poll(2)
      >>> poll(0, 15)
      (0, 15)
    """

    def __init__(self, size: int) -> None:
        self.size, self.several = size, jax.process_count() > 1
        self.asked: jax.Array | None = None
        if self.several:
            mesh = Mesh(np.array(jax.devices()), ("all",))
            self.split = NamedSharding(mesh, P("all"))
            self.largest = jax.jit(lambda votes: votes.max(axis=0), out_shardings=NamedSharding(mesh, P()))

    def __call__(self, *votes: int) -> tuple[int, ...]:
        """Votes, and says how the last vote came out.

        Args:
          votes: one number for each question, 0 for nothing.

        Returns:
          one number for each question; zeros where none was asked yet.
        """
        if not self.several:
            return votes
        mine = np.array([votes], np.int32)
        shape = (jax.device_count(), self.size)
        before = self.asked
        self.asked = self.largest(jax.make_array_from_callback(shape, self.split, lambda index: mine))
        return (0,) * self.size if before is None else tuple(int(vote) for vote in np.asarray(before))


def _number(name: str, given: int | None, variable: str) -> int | None:
    """An argument, or a variable of the environment in its place."""
    if given is not None or variable not in os.environ:
        return given
    try:
        return int(os.environ[variable])
    except ValueError:
        raise ValueError(f"`{name}` must be an integer in {variable}, got {os.environ[variable]!r}") from None


def failure(text: str) -> SystemExit:
    """The end of a program that failed, to raise. One of several processes ends here, so that no other waits for it.

    Args:
      text: what a person should know.

    Returns:
      an exit with code 1 that says it.
    """
    if jax.process_count() > 1:
        print(text, file=sys.stderr, flush=True)
        os._exit(1)
    return SystemExit(text)


def _leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Says what happened and ends, without the farewell of jax, for which all processes would have to come."""
    sys.__excepthook__(kind, error, trace)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _mpi_size() -> int:
    return max(int(os.environ.get(name, "1")) for name in MPI_SIZES)
