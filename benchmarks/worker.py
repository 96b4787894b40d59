"""One process with one peer: it builds what it is told to, gives its results, and times it when it is its turn.

    python -m benchmarks.worker PEER [VARIANT] --cpus 1 --devices 1

Reads commands from standard input and answers on standard output, one JSON object a line; the conductor starts it.
"""

import argparse
import gc
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.peers import PEERS
from benchmarks.problems import cast, flat, make_problem

GEMM_SIZE = 1024
COPIED = 128 * 2**20


def main() -> None:
    """Answers commands until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("variant", nargs="?", default="")
    parser.add_argument("--cpus", type=int, nargs="+", default=[], help="cores to run on; any if none are named")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of JAX")
    parsed = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer

    def reply(**answer: Any) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    try:
        worker = Worker(parsed.peer, parsed.variant, parsed.cpus, parsed.devices)
        reply(**worker.facts)
    except Exception as error:
        reply(error=_told(error))
        return
    for line in sys.stdin:
        command = json.loads(line)
        try:
            reply(**getattr(worker, command.pop("do"))(**command))
        except Exception as error:
            reply(error=_told(error))


class Worker:
    """What a worker can do; each method answers a command of its name."""

    def __init__(self, peer: str, variant: str, cpus: list[int], devices: int) -> None:
        if cpus and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cpus)
        self.threads, self.variant = max(len(cpus), 1), variant
        self.uses_jax = peer != "torch"
        self.run: Callable[[], Any] | None = None
        if self.uses_jax:
            self._start_jax(devices)
        self.peer = importlib.import_module(f"benchmarks.peers.{PEERS[peer].file}")
        if not self.uses_jax:
            self.peer.torch.set_num_threads(self.threads)
            self.facts: dict[str, Any] = {"device": self.peer.DEVICE}

    def _start_jax(self, devices: int) -> None:
        import jax

        jax.config.update("jax_num_cpu_devices", devices)
        jax.config.update("jax_enable_x64", self.variant == "float64")
        jax.config.update("jax_enable_compilation_cache", False)
        from benchmarks import programs

        self.programs, self.jax = programs, jax
        self.compilations = programs.COMPILATIONS
        self.facts = {"device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}"}

    def build(self, case: dict[str, Any], path: str) -> dict[str, Any]:
        """Builds a case and writes its results to `path` (npz); answers with its facts and the seconds of a call."""
        self.drop()
        problem = make_problem(Case(**case))
        if self.uses_jax:
            dtype = np.float64 if self.variant == "float64" else np.float32
            if dtype == np.float64:
                problem = problem._replace(
                    params=cast(problem.params, dtype),
                    inputs=cast(problem.inputs, dtype),
                    data=cast(problem.data, dtype),
                )
            kind = self.peer.stream if problem.case.program == "stream" else self.peer.net
            self.run, results, facts = self.programs.build(kind, problem, self.variant, dtype)
        else:
            self.run, results, facts = self.peer.build(problem)
        arrays: dict[str, Any] = flat(results)
        np.savez(path, **arrays)
        if self.variant != "float64":
            started = time.perf_counter()
            self.run()
            facts["second_call_s"] = time.perf_counter() - started
        return {"facts": facts}

    def time(self, repeats: int, warm_up: int) -> dict[str, Any]:
        """Times calls, one by one, after some that do not count."""
        assert self.run is not None, "nothing was built"
        before = self.compilations.count if self.uses_jax else 0
        for _ in range(warm_up):
            self.run()
        gc.disable()
        seconds = np.empty(repeats)
        for number in range(repeats):
            started = time.perf_counter()
            self.run()
            seconds[number] = time.perf_counter() - started
        gc.enable()
        compiled = self.compilations.count - before if self.uses_jax else 0
        middle, late = np.percentile(seconds, (50, 99))
        return {"median_s": float(middle), "p99_s": float(late), "repeats": repeats, "compilations": compiled}

    def rates(self, copied: int, read: int) -> dict[str, Any]:
        """What this process can do at best: matrix products, copies, and, for a stream, an empty call and a read.

        Copies move `copied` bytes, half of them read and half written, or 128 MiB where that is 0. The limit of a
        stream is the dispatch of a compiled function that does nothing, from a sample on the host to an output on the
        host, and reading as many bytes as the weights have, `read`: by a compiled sum or by a copy of as many bytes,
        whichever is faster.
        """
        found = {"gemm_flops": self._gemm_rate(), "copy_bytes": _copy_rate(copied or COPIED, self.threads)}
        if read and self.uses_jax:
            jnp, floats = self.jax.numpy, read // 4
            empty, total = self.jax.jit(lambda x: x + 1), self.jax.jit(jnp.sum)
            one, weights = np.ones(1, np.float32), jnp.ones(floats)
            source = np.ones(floats, np.float32)
            target = np.empty_like(source)
            empty_s, sum_s, copy_s = (
                _median(call)
                for call in (
                    lambda: np.asarray(empty(one)),
                    lambda: np.asarray(total(weights)),
                    lambda: np.copyto(target, source),
                )
            )
            found |= {"empty_s": empty_s, "read_s": max(min(sum_s - empty_s, copy_s / 2), 0.0)}
        return found

    def drop(self) -> dict[str, Any]:
        """Forgets what was built."""
        self.run = None
        if self.uses_jax:
            self.jax.clear_caches()
        gc.collect()
        return {}

    def _gemm_rate(self) -> float:
        if not self.uses_jax:
            return self.peer.gemm_rate(GEMM_SIZE)
        a = self.jax.numpy.ones((GEMM_SIZE, GEMM_SIZE))
        product = self.jax.jit(lambda a: a @ a)
        seconds = []
        for _ in range(8):
            started = time.perf_counter()
            product(a).block_until_ready()
            seconds.append(time.perf_counter() - started)
        return 2 * GEMM_SIZE**3 / min(seconds)


def _median(call: Callable[[], Any], repeats: int = 300) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[repeats // 10 :]))


def _copy_rate(moved: int, threads: int) -> float:
    """Bytes read and written a second, every thread copying its own part."""
    floats = moved // 8 // threads
    parts = [(np.ones(floats, np.float32), np.zeros(floats, np.float32)) for _ in range(threads)]
    seconds = []
    for _ in range(5):
        workers = [threading.Thread(target=np.copyto, args=(target, source)) for source, target in parts]
        started = time.perf_counter()
        for one in workers:
            one.start()
        for one in workers:
            one.join()
        seconds.append(time.perf_counter() - started)
    return moved / min(seconds)


def _told(error: Exception) -> str:
    """The kind of an error and the last line of its text that says anything, without paths."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return text.replace(str(Path.home()), "~")[:300]


if __name__ == "__main__":
    main()
