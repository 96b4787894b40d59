"""One device for each core, made before JAX starts and never behind its back."""

import os
import subprocess
import sys

import jax
import pytest

from rnn_jax.training import use_cores

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def devices_after(code: str, **environment: str) -> str:
    """What a fresh process prints that runs `code`."""
    kept = {name: value for name, value in os.environ.items() if name not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")}
    script = f"import jax; from rnn_jax.training import use_cores; {code}"
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=True).stdout.strip()


def test_by_default_each_core_is_a_device() -> None:
    assert devices_after("print(use_cores(), jax.device_count())") == f"{CORES} {CORES}"


def test_the_number_can_be_chosen_by_argument_or_environment() -> None:
    assert devices_after("print(use_cores(3), jax.device_count())", JAX_NUM_CPU_DEVICES="5") == "3 3"
    assert devices_after("print(use_cores())", JAX_NUM_CPU_DEVICES="5") == "5"
    assert devices_after("print(use_cores())", XLA_FLAGS="--xla_force_host_platform_device_count=4") == "4"


def test_once_jax_has_started_only_what_is_there_is_accepted() -> None:
    assert use_cores() == jax.device_count("cpu") == use_cores(8)
    with pytest.raises(ValueError, match="`cores` must be set before JAX makes its first array, got 3 where 8 are"):
        use_cores(3)
    assert devices_after("jax.devices(); print(use_cores())") == "1"


@pytest.mark.parametrize("cores", [0, -1, 1.5])
def test_what_is_not_a_number_of_cores(cores: object) -> None:
    with pytest.raises(ValueError, match="`cores` must be"):
        use_cores(cores)  # pyrefly: ignore
