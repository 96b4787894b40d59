"""Runs a cell that `export_cell` wrote, without the code that made it.

All it needs is JAX, with flatbuffers, by which `jax.export` reads its files. No other part of rnn_jax is imported here,
and every artefact holds a copy of this file, so an artefact runs by itself:

    import sys
    sys.path.insert(0, "model.zip")
    from rnn_jax_export import load_exported
    model = load_exported("model.zip")
    carry = model.init_carry(batch_size)            # {name: array [B, ...]}
    carry, y = model.step(carry, x)                 # x [B, *space, I], y [B, *space, O]
    carry, ys = model.unroll(carry, xs, lengths)    # xs [T, B, *space, I], ys [T, B, *space, O]

An artefact is a zip file with the members

    manifest.json        names, shapes and dtypes of parameters, carry, input and output; SHA-256 of the other members
    step.jaxexport       (params, carry, x) -> (carry, y), written by jax.export
    unroll.jaxexport     (params, carry, xs, lengths) -> (carry, ys), likewise
    params/NAME          the values of a parameter in C order, little-endian
    carry/NAME           the initial carry of one row, likewise
    rnn_jax_export.py    this file

where `params` and `carry` are dicts of arrays by name: `jax.export.deserialize(member).call(params, carry, x)`.
"""

import hashlib
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

__all__ = ["FORMAT", "MANIFEST", "STEP", "UNROLL", "VERSION", "ExportedCell", "load_exported"]

FORMAT, VERSION = "rnn_jax cell", 1
MANIFEST, STEP, UNROLL = "manifest.json", "step.jaxexport", "unroll.jaxexport"

NamedCarry = Mapping[str, Any]
"""The leaves of a carry [B, ...] by name."""


class ExportedCell(NamedTuple):
    """A cell that was exported; B is any batch size. Its functions are compiled once for each shape they are given.

    Attributes:
        init_carry: `(batch_size) -> carry`, a dict of arrays [B, ...] by name.
        step: `(carry, x) -> (carry, y)`, x [B, *space, I], y [B, *space, O].
        unroll: `(carry, xs, lengths=None) -> (carry, ys)`, xs [T, B, *space, I], lengths [B] integers,
            ys [T, B, *space, O], zero beyond the lengths.
        manifest: what the artefact says of itself.
    """

    init_carry: Callable[[int], NamedCarry]
    step: Callable[[NamedCarry, Any], tuple[NamedCarry, jax.Array]]
    unroll: Callable[..., tuple[NamedCarry, jax.Array]]
    manifest: dict[str, Any]


def load_exported(path: str | os.PathLike[str]) -> ExportedCell:
    """Loads what `export_cell` wrote.

    Args:
        path: the artefact.

    Returns:
        The cell as functions.

    Raises:
        ValueError: the file is no artefact or is damaged; its version is not known here; it was not exported for the
            platform of this process, or is float64 where JAX has that off.

    Example:
        >>> import pathlib, tempfile
        >>> from rnn_jax import gru
        >>> from rnn_jax.streaming import export_cell
        >>> cell, path = gru(8), pathlib.Path(tempfile.mkdtemp()) / "gru.zip"
        >>> export_cell(cell, cell.init(jax.random.key(0), 3), path, input_size=3)
        >>> model = load_exported(path)
        >>> carry, y = model.step(model.init_carry(2), jnp.ones((2, 3)))
        >>> {name: leaf.shape for name, leaf in carry.items()}, y.shape
        ({'carry': (2, 8)}, (2, 8))
    """
    manifest, members = _read(path)
    _check_process(path, manifest)
    params, rows = (
        {name: jnp.asarray(_array(members[f"{kind}/{name}"], spec)) for name, spec in manifest[kind].items()}
        for kind in ("params", "carry")
    )
    try:
        step, unroll = (jax.jit(export.deserialize(bytearray(members[name])).call) for name in (STEP, UNROLL))
    except ImportError:
        raise
    except Exception as error:  # whatever another version of jax stumbles over
        raise ValueError(
            f"`path` must hold functions that this jax {jax.__version__} can read, got {path} of jax {manifest['jax']}"
        ) from error

    def init_carry(batch_size: int) -> NamedCarry:
        return {name: jnp.broadcast_to(row, (batch_size, *row.shape)) for name, row in rows.items()}

    def run_step(carry: NamedCarry, x: Any) -> tuple[NamedCarry, jax.Array]:
        x = _input("x", x, "[B, ", 1, manifest)
        return step(params, _carry(carry, x.shape[0], manifest), x)

    def run_unroll(carry: NamedCarry, xs: Any, lengths: Any = None) -> tuple[NamedCarry, jax.Array]:
        xs = _input("xs", xs, "[T, B, ", 2, manifest)
        lengths = np.full(xs.shape[1], xs.shape[0]) if lengths is None else np.asarray(lengths)
        if lengths.shape != xs.shape[1:2] or lengths.dtype.kind not in "iu":
            raise ValueError(f"`lengths` must be {xs.shape[1]} integers, got {lengths.dtype} of shape {lengths.shape}")
        return unroll(params, _carry(carry, xs.shape[1], manifest), xs, lengths.astype(np.int32))

    return ExportedCell(init_carry=init_carry, step=run_step, unroll=run_unroll, manifest=manifest)


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the other members."""
    content = pathlib.Path(path).read_bytes()
    damage = f"`path` must be an undamaged artefact of export_cell, got {path}"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            manifest = json.loads(file.read(MANIFEST))
            form, version = manifest["format"], manifest["version"]
            members = {name: file.read(name) for name in manifest["sha256"]} if version == VERSION else {}
    except Exception as error:  # zipfile raises whatever damage makes of a zip file
        raise ValueError(f"{damage}: {error}") from error
    if (form, version) != (FORMAT, VERSION):
        expected = f"`path` must be of the format {FORMAT!r}, version {VERSION}"
        raise ValueError(f"{expected}, got {path} of {form!r}, version {version}")
    for name, digest in manifest["sha256"].items():
        if hashlib.sha256(members[name]).hexdigest() != digest:
            raise ValueError(f"{damage}: {name} is not what was written")
    return manifest, members


def _check_process(path: Any, manifest: dict[str, Any]) -> None:
    """Whether this process can run the artefact."""
    backend = jax.default_backend()
    if not set({"gpu": ("cuda", "rocm")}.get(backend, (backend,))) & {*manifest["platforms"]}:
        raise ValueError(
            f"`path` must be exported for this platform, {backend}, got {path} for {', '.join(manifest['platforms'])}"
        )
    if manifest["input"]["dtype"] == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError(f"`path` must not be float64 unless jax_enable_x64 is set, got {path}")


def _array(values: bytes, spec: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(values, jnp.dtype(spec["dtype"])).reshape(spec["shape"])


def _input(name: str, xs: Any, leading: str, axes: int, manifest: dict[str, Any]) -> Any:
    array, shape = xs if isinstance(xs, jax.Array) else np.asarray(xs), manifest["input"]["shape"]
    if array.ndim != axes + len(shape) or [*array.shape[axes:]] != shape:
        raise ValueError(f"`{name}` must be {leading}{str(shape)[1:]}, got shape {array.shape}")
    dtype = jnp.dtype(manifest["input"]["dtype"])
    return array if array.dtype == dtype else array.astype(dtype)


def _carry(carry: NamedCarry, batch_size: int, manifest: dict[str, Any]) -> dict[str, Any]:
    expected = manifest["carry"]
    if not isinstance(carry, Mapping) or carry.keys() != expected.keys():
        got = [*carry] if isinstance(carry, Mapping) else type(carry).__name__
        raise ValueError(f"`carry` must be a dict of {[*expected]}, got {got}")
    for name, leaf in carry.items():
        if [*np.shape(leaf)] != [batch_size, *expected[name]["shape"]]:
            raise ValueError(
                f"`carry` must have {[batch_size, *expected[name]['shape']]} at {name}, got {[*np.shape(leaf)]}"
            )
    return dict(carry)
