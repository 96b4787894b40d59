"""A process that keeps its memory does not touch new pages at every step."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from rnn_jax.training import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
import jax, jax.numpy as jnp
program = jax.jit(lambda x: jnp.cumsum(jnp.sort(x[::-1]))[::2].sum())
x = jnp.arange(4_000_000, dtype=jnp.float32)
faults = []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))  # the least: the system itself may take pages from a process now and then
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_new_pages_are_touched_once() -> None:
    def faults(how: str) -> int:
        command = [sys.executable, "-c", SCRIPT, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    kept, given_back = faults("keep"), faults("give back")
    assert given_back > 3000  # of 4 KB: most of 16 MB
    assert kept < given_back / 20


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from rnn_jax.training import keep_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_memory()
