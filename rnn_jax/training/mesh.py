"""The devices of a run in a grid, and which rows of a batch each process needs for its own."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rnn_jax import checks

__all__ = ["check_mesh", "data_mesh", "local_rows", "make_mesh", "places_along_data"]

AXES = ("data", "model", "seq")


def make_mesh(data: int = -1, model: int = 1, seq: int = 1, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges devices as a mesh with the axes "data", "model" and "seq".

    Rows of a batch are split over "data", steps over "seq" (see `Sharded`); "model" is for shardings of your own. The
    devices of one process lie side by side, "data" being the slowest axis.

    Args:
      data: devices along "data"; one of the three sizes may be -1, which takes what is left.
      model: along "model".
      seq: along "seq".
      devices: all that there are, of all processes, if None.

    Returns:
      a mesh whose axes are of the type Auto.

    Raises:
      ValueError: the sizes do not fit the number of devices.

    Example:
      >>> make_mesh(seq=1, devices=jax.devices()[:1]).shape["data"]
      1
    """
    listed = jax.devices() if devices is None else devices
    devices = sorted(listed, key=lambda device: (device.process_index, device.id))
    sizes, count = dict(zip(AXES, (data, model, seq), strict=True)), len(devices)
    for name, size in sizes.items():
        if size < 1 and size != -1:
            raise ValueError(f"`{name}` must be a number of devices, or -1 for what is left, got {size}")
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise ValueError(f"`{free[1]}` must be a number of devices where `{free[0]}` is -1, got -1 for both")
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    fixing = " x ".join(f"{name} {size}" for name, size in sizes.items() if size != -1)
    if free and count % fixed:
        raise ValueError(f"`{free[0]}` must be left a whole number of {count} devices, got {fixing}")
    if not free and fixed != count:
        raise ValueError(f"`data` x `model` x `seq` must be the number of devices, {count}, got {fixing} = {fixed}")
    sizes |= {name: count // fixed for name in free}
    return Mesh(np.array(devices).reshape(*sizes.values()), AXES)


def data_mesh(batch_size: int) -> Mesh:
    """The mesh for a run that splits its batches and nothing else: as many devices as divide the batch.

    In a run of several processes all of them must divide it.

    Args:
      batch_size: B.

    Returns:
      a mesh as `make_mesh` gives it.

    Raises:
      ValueError: there are several processes, and B is not a multiple of all their devices.

    Example:
      >>> data_mesh(8 * jax.device_count()).size == jax.device_count()
      True
    """
    if jax.process_count() == 1:
        return make_mesh(devices=jax.devices()[: math.gcd(batch_size, jax.device_count())])
    mesh = make_mesh()
    local_rows(mesh, batch_size)
    return mesh


def local_rows(mesh: Mesh, batch_size: int) -> slice:
    """Which rows of a batch this process needs for its devices; with one process, all.

    Args:
      mesh: from `make_mesh`.
      batch_size: B, of the whole batch.

    Returns:
      a slice of the rows.

    Raises:
      ValueError: B is not a multiple of the devices along "data".

    Example:
      >>> local_rows(make_mesh(), 8 * jax.device_count()).start
      0
    """
    check_mesh(mesh)
    places, size = places_along_data(mesh), mesh.shape["data"]
    if batch_size % size:
        raise ValueError(
            f"`batch_size` must be a multiple of the {size} devices along 'data', so that each has as many rows, "
            f"got {batch_size}"
        )
    each = batch_size // size
    return slice(places.start * each, places.stop * each)


def places_along_data(mesh: Mesh) -> range:
    """The places along "data" at which this process has devices."""
    here = [device.process_index == jax.process_index() for device in mesh.devices.flat]
    held = np.flatnonzero(np.array(here).reshape(mesh.devices.shape).any(axis=(1, 2)))
    if not len(held):
        raise ValueError(f"`mesh` must hold devices of every process, got none of process {jax.process_index()}")
    if held[-1] - held[0] + 1 != len(held):
        raise ValueError(f"`mesh` must hold the devices of a process side by side along 'data', got {held.tolist()}")
    return range(int(held[0]), int(held[-1]) + 1)


def check_mesh(mesh: Any) -> None:
    """Refuses what `make_mesh` did not make."""
    if not isinstance(mesh, Mesh) or mesh.axis_names != AXES:
        got = f"axes {mesh.axis_names}" if isinstance(mesh, Mesh) else checks.describe(mesh)
        raise ValueError(f"`mesh` must have the axes {AXES}, as make_mesh gives them, got {got}")
