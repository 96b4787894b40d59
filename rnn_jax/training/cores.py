"""One device for each core of a CPU."""

import os

import jax

from rnn_jax import checks

__all__ = ["use_cores"]


def use_cores(cores: int | None = None) -> int:
    """Makes a JAX device of each core of the CPU, over which `data_mesh` splits batches.

    One device spreads its large products over all cores, but leaves everything else, which is most of a recurrent
    step, to a single one. JAX makes its devices with the first array: call this before. Devices of another kind stay
    as they are, and go before a CPU.

    Args:
      cores: the number of devices; by default as many as this process may use, unless `JAX_NUM_CPU_DEVICES` or
        `XLA_FLAGS` says how many, or JAX has started.

    Returns:
      the number of CPU devices.

    Raises:
      ValueError: `cores` is not a number above 0, or comes too late.
    """
    if cores is not None:
        checks.positive("cores", cores)
    elif _chosen_already():
        return jax.device_count("cpu")
    try:
        jax.config.update("jax_num_cpu_devices", cores or _usable_cores())
    except RuntimeError:
        pass  # it has started: what is there is told below
    there = jax.device_count("cpu")
    if cores is not None and cores != there:
        raise ValueError(f"`cores` must be set before JAX makes its first array, got {cores} where {there} are in use")
    return there


def _usable_cores() -> int:
    """The cores that this process may run on, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chosen_already() -> bool:
    chosen = jax.config.jax_num_cpu_devices > 0  # pyrefly: ignore[missing-attribute]
    return chosen or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
