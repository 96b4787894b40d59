"""What a result depends on besides the code: machine, versions, commit. No user, host or folder is named."""

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("rnn_jax", "jax", "jaxlib", "numpy", "torch", "flax", "dm-haiku", "equinox", "keras", "optax")


def describe() -> dict[str, Any]:
    """The machine, the versions, the commit and the date.

    Returns:
        plain values for JSON; `versions` has None for what is not installed, `commit` None outside of a checkout.
    """
    commit = _git("rev-parse", "HEAD")
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain")) if commit else None,
    }


def busy_seconds(pid: int | None = None) -> float | None:
    """CPU seconds since the machine, or the process `pid`, started; None where the system does not say."""
    try:
        if pid is None:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
            ticks = sum(map(int, fields[:3])) + sum(map(int, fields[5:8]))  # all but idle and waiting
        else:
            ticks = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    family = f"family {named.get('cpu family')}, model {named.get('model')}"
    wide = [flag for flag in ("avx2", "avx512f", "amx_tile") if flag in named.get("flags", "").split()]
    return f"{named.get('model name', platform.processor())} ({family}; {', '.join(wide)})"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(*args: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *args]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
