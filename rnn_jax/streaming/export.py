"""`export_cell`: a cell and its parameters as one file that runs without the code that made it."""

import hashlib
import inspect
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from rnn_jax import checks
from rnn_jax.streaming import loading
from rnn_jax.streaming.arguments import step_output, streaming_cell
from rnn_jax.streaming.slots import initial_rows
from rnn_jax.types import Array, Cell, LinearCell, Params
from rnn_jax.unroll import Scan, stream_step, unroll

__all__ = ["export_cell"]


def export_cell(
    cell: Cell | LinearCell,
    params: Params,
    path: str | os.PathLike[str],
    *,
    input_size: int,
    space: tuple[int, ...] = (),
    dtype: Any = jnp.float32,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> None:
    """Writes one step and the whole sequence function of a cell, with its parameters, into one file.

    `load_exported` runs it in a process that needs JAX but neither the cell nor rnn_jax; `rnn_jax.streaming.loading`
    says what is in it. Batch size and number of steps are open. The state is a dict of arrays by name, such as "0/h"
    and "0/c" for an LSTM at the bottom of a stack, or "carry" where the carry is a single array; the two functions hand
    it to each other. The parameters are members of their own, prepared.

    Args:
        cell: a `Cell`, a `LinearCell` or a `stack`.
        params: its parameters, not perturbed.
        path: the file, which must not exist yet.
        input_size: I.
        space: spatial axes of a step, for cells such as `conv_lstm`.
        dtype: of inputs and outputs, floating.
        platforms: what it will run on, among "cpu", "cuda", "rocm" and "tpu". None of them has to be here.

    Raises:
        ValueError: names the argument, what was expected and what came.
        FileExistsError: there is such a file.

    Notes:
        Sequences go step by step on all platforms (`Scan`): an associative scan needs to know the number of steps.
    """
    streaming_cell(cell, params)
    checks.positive("input_size", input_size)
    if not platforms:
        raise ValueError("`platforms` must name at least one platform, got none")
    for platform in platforms:
        checks.one_of("platforms", platform, ("cpu", "cuda", "rocm", "tpu"))
    x = jax.ShapeDtypeStruct((*space, input_size), jax.dtypes.canonicalize_dtype(dtype))
    params = jax.jit(cell.prepare)(params) if isinstance(cell, Cell) else jax.tree.map(jnp.asarray, params)
    y = step_output(cell, params, x)
    row = initial_rows(cell, params, space, x.dtype)
    named_params, named_row = _named(params, "params"), _named(row, "carry")
    to_params, to_carry = _unname(params, named_params), _unname(row, named_row)

    def step(params: dict[str, Array], carry: dict[str, Array], x: Array) -> Any:
        after, y = stream_step(cell, to_params(params), to_carry(carry), x)
        return _named(after, "carry"), y

    def sequence(params: dict[str, Array], carry: dict[str, Array], xs: Array, lengths: Array) -> Any:
        after, ys = unroll(cell, to_params(params), xs, to_carry(carry), lengths=lengths, method=Scan())
        return _named(after, "carry"), ys

    steps, batch = export.symbolic_shape("T, B")
    rows = {name: jax.ShapeDtypeStruct((batch, *leaf.shape), leaf.dtype) for name, leaf in named_row.items()}
    one = jax.ShapeDtypeStruct((batch, *x.shape), x.dtype)
    all_steps = jax.ShapeDtypeStruct((steps, batch, *x.shape), x.dtype)
    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
    functions = {loading.STEP: (step, (rows, one)), loading.UNROLL: (sequence, (rows, all_steps, lengths))}
    members = {
        name: bytes(export.export(jax.jit(function), platforms=platforms)(named_params, *arguments).serialize())
        for name, (function, arguments) in functions.items()
    }
    for kind, leaves in (("params", named_params), ("carry", named_row)):
        members |= {f"{kind}/{name}": np.asarray(leaf).tobytes() for name, leaf in leaves.items()}
    members["rnn_jax_export.py"] = inspect.getsource(loading).encode()
    manifest = {
        "format": loading.FORMAT,
        "version": loading.VERSION,
        "jax": jax.__version__,
        "platforms": [*platforms],
        "input": _spec(x),
        "output": _spec(y),
        "carry": {name: _spec(leaf) for name, leaf in named_row.items()},
        "params": {name: _spec(leaf) for name, leaf in named_params.items()},
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in members.items()},
    }
    _write(path, {loading.MANIFEST: json.dumps(manifest, indent=1).encode(), **members})


def _named(tree: Any, alone: str) -> dict[str, Array]:
    """The leaves of a tree by their paths; `alone` is the name of a tree that is a leaf."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/") or alone: leaf for path, leaf in leaves}


def _unname(tree: Any, named: dict[str, Array]) -> Callable[[dict[str, Array]], Any]:
    """The way back, to the structure of `tree`."""
    structure, names = jax.tree.structure(tree), [*named]
    return lambda named: jax.tree.unflatten(structure, [named[name] for name in names])


def _spec(leaf: Any) -> dict[str, Any]:
    return {"shape": [*leaf.shape], "dtype": leaf.dtype.name}


def _write(path: str | os.PathLike[str], members: dict[str, bytes]) -> None:
    """Writes a zip file; one that cannot be finished is taken away."""
    if os.path.exists(path):
        raise FileExistsError(f"{path} exists; export_cell overwrites nothing")
    with open(path, "xb") as target:
        try:
            with zipfile.ZipFile(target, "w") as file:
                for name, data in members.items():
                    file.writestr(zipfile.ZipInfo(name), data)  # without the time, so equal members make equal files
        except BaseException:
            os.unlink(path)
            raise
