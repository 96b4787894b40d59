"""Memory that a process keeps instead of asking the system for it at every step."""

import ctypes
import platform

__all__ = ["keep_memory"]

MALLOPT = {"M_TRIM_THRESHOLD": (-1, -1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}
"""Parameters of `mallopt`, from malloc.h, and their values: never trim, never map, one arena."""


def keep_memory() -> bool:
    """Makes the C library keep memory that is freed for what is allocated next, where that is glibc.

    A compiled program allocates its temporaries at every call. On a CPU glibc takes large ones from the system, page by
    page of zeros, and gives them back: up to a sixth of the time of a large training step. After this the process holds
    as much as it has ever used at once. Call it before JAX makes its first array; arrays on other devices are not
    concerned.

    Returns:
      whether the C library could be told. In the environment the same is said by
      `MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_ARENA_MAX=1`.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(parameter, value) == 1 for parameter, value in MALLOPT.values()])
