"""Run directories: one new folder for each run that says how it was made."""

import dataclasses
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnn_jax.training.processes import by_writer

__all__ = ["describe_environment", "start_run", "to_plain", "write_json"]

PACKAGES = ("rnn_jax", "jax", "jaxlib", "flax", "optax", "numpy")


def start_run(name: str, config: Any, root: str | Path = "runs") -> Path:
    """Creates the directory of a new run and writes down how the run is made.

    The directory is `ROOT/NAME/YYYYmmdd-HHMMSS`, with `-2`, `-3`, ... appended where that one
    exists: a directory is never used twice. It holds `config.json` (the resolved configuration)
    and `environment.json` (see `describe_environment`). Several processes all call it, and all get the one directory
    that process 0 made.

    Args:
      name: name of the experiment; a single path component.
      config: a dataclass instance.
      root: where runs are kept; created where it is missing.

    Returns:
      the path of the new directory.

    Raises:
      ValueError: `name` is not one path component, or `config` is not a dataclass instance.

    Example:
      >>> import tempfile
      >>> config = dataclasses.make_dataclass("Config", [("hidden_size", int, 8)])()
      >>> run_dir = start_run("demo", config, root=tempfile.mkdtemp())
      >>> sorted(path.name for path in run_dir.iterdir())
      ['config.json', 'environment.json']
    """
    if not name or name in (".", "..") or Path(name).name != name:
        raise ValueError(f"`name` must be a single path component, got {name!r}")
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ValueError(f"`config` must be a dataclass instance, got {config!r}")

    def make() -> str:
        environment = describe_environment()
        run_dir = _new_directory(Path(root) / name, f"{datetime.datetime.now():%Y%m%d-%H%M%S}")
        write_json(run_dir / "config.json", config)
        write_json(run_dir / "environment.json", environment)
        return str(run_dir)

    return Path(by_writer(make))


def describe_environment() -> dict[str, Any]:
    """Collects what a number depends on besides the code and the configuration.

    Returns:
      a dict with `python`, `versions` (of rnn_jax, jax, flax, ...; None where a package is not
      installed), `platform`, `backend`, `device_kind`, `device_count`, `cpu_count` (cores it may use), `commit` and
      `dirty` (of the checkout rnn_jax is imported from; None outside of one), `start_time` (ISO
      8601 with offset) and `command`.

    Example:
      >>> describe_environment()["versions"]["jax"] == jax.__version__
      True
    """
    devices = jax.devices()
    commit, dirty = _git_commit(Path(__file__).resolve().parent)
    return {
        "start_time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "backend": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "cpu_count": _usable_cores(),
        "commit": commit,
        "dirty": dirty,
    }


def write_json(path: Path, value: Any) -> Path:
    """Writes a value as indented JSON to a file that must not exist yet: whole, or not at all.

    Args:
      path: the new file.
      value: anything `to_plain` understands.

    Returns:
      the path.

    Raises:
      FileExistsError: there is such a file.

    Example:
      >>> import tempfile
      >>> path = write_json(Path(tempfile.mkdtemp()) / "numbers.json", {"nll": np.float32(8.5)})
      >>> json.loads(path.read_text())
      {'nll': 8.5}
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(to_plain(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.link(beside, path)  # which never replaces a file
    finally:
        beside.unlink(missing_ok=True)
    return path


def to_plain(value: Any) -> Any:
    """Turns dataclasses, tuples, paths and arrays into what JSON can hold.

    Args:
      value: None, a bool, number, string, path, NumPy or JAX array, dataclass instance, or a
        mapping or sequence of these.

    Returns:
      the same with dicts, lists, strings, numbers, booleans and None only.

    Raises:
      ValueError: something else is inside; the text names its type.

    Example:
      >>> to_plain({"sizes": (1, 2), "rate": np.float32(0.5), "where": Path("runs")})
      {'sizes': [1, 2], 'rate': 0.5, 'where': 'runs'}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return np.asarray(value).tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): to_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    raise ValueError(f"`value` must hold plain data, got a {type(value).__name__}: {value!r}")


def _new_directory(parent: Path, stamp: str) -> Path:
    """Makes `parent/stamp`, or `parent/stamp-2`, ...; `mkdir` decides, so two runs never share."""
    parent.mkdir(parents=True, exist_ok=True)
    count = 1
    while True:
        path = parent / (stamp if count == 1 else f"{stamp}-{count}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            count += 1


def _usable_cores() -> int | None:
    """The cores this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit(package: Path) -> tuple[str | None, bool | None]:
    """The commit of the checkout that tracks this package, and whether files differ from it."""

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(package), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if not git("ls-files", "."):  # some other repository around an installed package
            return None, None
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None
