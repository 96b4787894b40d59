"""The recurrent layers in the `.weights.h5` files of Keras 3, read by h5py; Keras itself is not needed."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

Walks = tuple[tuple[np.ndarray, ...], ...]
"""Kernel, recurrent kernel and perhaps bias of one direction, or of two, forward first."""

CELL = "/cell/vars"
SIDES = ("forward_layer", "backward_layer")


def read_layers(path: str) -> dict[str, Walks]:
    """The layers of a file that have a cell of such weights, alone or in both directions, by their paths in it.

    Args:
        path: of the file.

    Raises:
        ImportError: h5py is not installed.
        OSError: there is no such file, or it is no HDF5.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('weights of Keras need h5py: pip install "rnn_jax[interop]"') from error
    cells: dict[str, tuple[np.ndarray, ...]] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Group) and name.endswith(CELL):
            arrays = tuple(_array(node[key]) for key in sorted(node, key=int))
            if len(arrays) in (2, 3) and all(array.ndim == 2 for array in arrays[:2]):
                cells[name.removesuffix(CELL)] = arrays

    with h5py.File(path) as file:
        file.visititems(visit)
    found: dict[str, Walks] = {}
    for name, arrays in cells.items():
        layer, _, side = name.rpartition("/")
        if side not in SIDES:
            found[name] = (arrays,)
        elif side == SIDES[0] and (backward := cells.get(f"{layer}/{SIDES[1]}")):
            found[layer] = (arrays, backward)
    return found


def choose(found: Sequence[str], classes: Sequence[str], paths: Sequence[str]) -> list[str]:
    """The layers of a file that are those of a network, bottom first.

    Args:
        found: the paths of the layers in the file.
        classes: of the layers of the network, in snake case, as Keras names layers in a file.
        paths: what the caller chose; if nothing, the file must have one layer, or just the names of this network.

    Raises:
        ValueError: nothing was chosen and the file has other layers, or what was chosen is not there.
    """
    there = ", ".join(map(repr, found)) or "none"
    if paths:
        missing = [path for path in paths if path not in found]
        if missing:
            raise ValueError(f"`paths` must be of recurrent layers in the file ({there}), got {missing[0]!r}")
        if len(paths) != len(classes):
            raise ValueError(f"`paths` must name the {len(classes)} layers of `model`, got {len(paths)}")
        return list(paths)
    if len(found) == len(classes) == 1:
        return list(found)
    counts = [classes[:index].count(name) for index, name in enumerate(classes)]
    names = [f"{name}_{count}" if count else name for name, count in zip(classes, counts, strict=True)]
    by_name = {path.rpartition("/")[2]: path for path in found}
    if len(found) != len(names) or set(by_name) != set(names):
        raise ValueError(
            f"`paths` must name the layers of `model`, bottom first, as the file has {there}, which are not just the "
            f"{', '.join(map(repr, names))} of `model`"
        )
    return [by_name[name] for name in names]


def _array(value: Any) -> np.ndarray:
    """A dataset as an array; HDF5 has no bfloat16, so Keras says where two bytes are one."""
    return np.array(value).view(jnp.bfloat16) if value.attrs.get("dtype") == "bfloat16" else np.array(value)
