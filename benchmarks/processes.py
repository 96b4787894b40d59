"""Processes of workers: started when they are needed, asked one thing at a time, ended by closing their input."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks.machine import busy_seconds
from benchmarks.peers import Entry

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 300.0
"""How long an answer may take."""


class Failed(Exception):
    """A worker that answered with an error, or not at all."""


class Worker:
    """One process; `ask` is a call of a method of `benchmarks.worker.Worker`."""

    def __init__(self, entry: Entry, cpus: list[int], devices: int, smoke: bool) -> None:
        command = [sys.executable, "-m", "benchmarks.worker", entry.peer]
        command += [entry.variant] if entry.variant else []
        command += ["--devices", str(devices), "--cpus", *map(str, cpus)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(len(cpus)))
        environment = os.environ | threads | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(smoke))}
        self._errors = tempfile.TemporaryFile("w+")
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        self._process = subprocess.Popen(command, text=True, cwd=ROOT, env=environment, **pipes)
        self._facts: dict[str, Any] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What the worker says when it is ready."""
        if self._facts is None:
            self._facts = self._answer()
        return self._facts

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def busy_seconds(self) -> float:
        """CPU seconds so far."""
        return busy_seconds(self._process.pid) or 0.0

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer.

        Args:
            do: the name of the command.
            **arguments: what it needs.

        Returns:
            the answer.

        Raises:
            Failed: the worker could not do it, or is gone; the text says what it last said.
        """
        self.tell(do, **arguments)
        return self.hear()

    def tell(self, do: str, **arguments: Any) -> None:
        """Sends a command; `hear` waits for the answer."""
        assert self.facts is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
        except OSError as error:
            raise Failed(self._last_words("is gone")) from error

    def hear(self) -> dict[str, Any]:
        """Waits for the answer to the last command."""
        return self._answer()

    def end(self) -> None:
        """Ends the process: asks it to by closing its input, then insists."""
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except OSError:
                pass
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        timer = threading.Timer(PATIENCE_S, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            line = self._process.stdout.readline()  # type: ignore[union-attr]
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if not line:
            self._process.wait()
            raise Failed(f"no answer within {PATIENCE_S:.0f} s" if late else self._last_words("is gone"))
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _last_words(self, otherwise: str) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1][:300] if lines else otherwise


class Workers:
    """The workers of one setting, by entry."""

    def __init__(self, cpus: list[int], smoke: bool) -> None:
        """Keeps where workers run.

        Args:
            cpus: the cores that each may use.
            smoke: give each worker one of these cores in turn instead, so that they may work at the same time, and let
                compilers optimise little.
        """
        self.cpus, self._smoke = cpus, smoke
        self._workers: dict[Entry, Worker] = {}

    def get(self, entry: Entry) -> Worker:
        """The worker of an entry, started (anew) where there is none."""
        if entry in self._workers and not self._workers[entry].is_alive:
            self._workers.pop(entry).end()
        if entry not in self._workers:
            sharded = entry.variant == "sharded"
            alone = self._smoke and not sharded
            cpus = [self.cpus[len(self._workers) % len(self.cpus)]] if alone else self.cpus
            self._workers[entry] = Worker(entry, cpus, 2 if sharded else 1, self._smoke)
        return self._workers[entry]

    def busy_seconds(self) -> float:
        """CPU seconds of all workers so far."""
        return sum(worker.busy_seconds() for worker in self._workers.values())

    def end(self) -> None:
        """Ends all."""
        while self._workers:
            self._workers.popitem()[1].end()
