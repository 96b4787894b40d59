"""The weights of the recurrent cores of haiku, as ours and back: dictionaries by module path, haiku is not imported."""

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells import elman, gru, lstm
from rnn_jax.cells.elman import ElmanParams
from rnn_jax.cells.gru import GRUParams
from rnn_jax.cells.lstm import LSTMParams
from rnn_jax.interop.converted import Converted
from rnn_jax.interop.one_cell import refuse_options
from rnn_jax.interop.plain import Walk, assemble, take_apart
from rnn_jax.types import Array, Cell, Params

SUFFIXES = ("/linear", "/linear_1", "")
"""What the modules inside a core add to its path."""


def from_haiku(params: Mapping[str, Mapping[str, Any]], *paths: str) -> Converted:
    """The cell of an `hk.LSTM`, `hk.GRU` or `hk.VanillaRNN`, or the stack of an `hk.DeepRNN` of them.

    Args:
        params: what `hk.transform(...).init` returned: `{module path: {name: array}}`. It may hold other modules too.
        *paths: the paths of the cores, bottom first, as in `from_haiku(params, "lstm", "lstm_1")`. None if `params` has
            one core. What each of them is, its arrays say.

    Returns:
        `Converted(cell, params)`: `lstm`, `gru(reset="before")` or `elman` with ReLU; a `stack` of several. haiku's
        carry of an LSTM is `LSTMState(hidden, cell)`, ours `LSTMCarry(h, c)`.

    Raises:
        ValueError: if `params` has no core at a path, or none or several and no path was given; if a core does not read
            what the one below it writes, as with skip connections.

    Example:
        >>> arrays = {"w": jnp.ones((3 + 4, 16)), "b": jnp.zeros(16)}
        >>> cell, params = from_haiku({"lstm/linear": arrays})
        >>> cell is lstm(4), params.w_x.shape, params.b[4:8].tolist()  # the 1 that haiku adds to f is in b
        (True, (3, 16), [1.0, 1.0, 1.0, 1.0])

    Notes:
        hk.LSTM has one matrix on [x, h], gates i, g, f, o, and adds 1 to f when it runs. hk.GRU has gates z, r, a,
        resets before the product, and its z is our 1 - z. The two biases of hk.VanillaRNN become their sum.
    """
    if not isinstance(params, Mapping) or not all(isinstance(leaf, Mapping) for leaf in params.values()):
        raise ValueError(f"`params` must be haiku's {{module path: {{name: array}}}}, got {type(params).__name__}")
    found = [path for path in dict.fromkeys(map(_core_of, params)) if _is_core(params, path)]
    if not paths and len(found) != 1:
        raise ValueError(f"`paths` must name the cores, bottom first: `params` has {', '.join(found) or 'none'}")
    for path in paths:
        if path not in found:
            raise ValueError(f"`paths` must be of cores in `params` ({', '.join(found) or 'none'}), got {path!r}")
    walks = [_read(params, path) for path in paths or found]
    for below, above in pairwise(walks):
        size, reads = below.params.b.shape[0] // len(below.params.GATES), above.params.w_x.shape[0]
        if size != reads:
            raise ValueError(f"`paths` must be bottom first: a core of {size} units is below one with {reads} inputs")
    return assemble([(walk,) for walk in walks])


def to_haiku(model: Cell, params: Params, *paths: str) -> dict[str, dict[str, Array]]:
    """The parameters with which haiku's cores compute what `model` does.

    Args:
        model: an `lstm`, a `gru(reset="before")`, an `elman` with ReLU, or a `stack` of them, however initialised.
        params: its parameters.
        *paths: the module paths of the cores, bottom first; by default those that haiku gives to cores made in this
            order outside of other modules: "lstm", "lstm_1", "gru", "vanilla_rnn", ...

    Returns:
        `{module path: {name: array}}` for `hk.LSTM(H)`, `hk.GRU(H)` or `hk.VanillaRNN(H)`, or an `hk.DeepRNN` of them.

    Raises:
        ValueError: for another cell, tanh, `gru(reset="after")`, the options of `lstm`, both directions, and if there
            is not a path for every cell.

    Example:
        >>> cell = lstm(4)
        >>> list(to_haiku(cell, cell.init(jax.random.key(0), 3)))
        ['lstm/linear']

    Notes:
        The second bias of hk.VanillaRNN is zero.
    """
    rows = take_apart(model, params)
    if any(len(row) > 1 or row[0].reverse for row in rows):
        raise ValueError(
            "`model` must walk forwards, all that haiku has; convert the cells of both directions one by one"
        )
    walks = [row[0] for row in rows]
    if paths and len(paths) != len(walks):
        raise ValueError(f"`paths` must name {len(walks)} cores, got {len(paths)}: {', '.join(paths)}")
    seen: Counter[str] = Counter()
    theirs = {}
    for index, walk in enumerate(walks):
        refuse_options(walk, "model", "haiku", reset="before")
        name, modules = _write(walk)
        path = paths[index] if paths else f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1
        theirs |= {path + suffix: jax.tree.map(jnp.asarray, arrays) for suffix, arrays in modules.items()}
    return theirs


def _core_of(path: str) -> str:
    return next(path.removesuffix(suffix) for suffix in SUFFIXES if path.endswith(suffix))


def _is_core(params: Mapping[str, Any], path: str) -> bool:
    """Whether the modules of a core are at this path, by name and shape: other modules may have such Linears too."""
    if set(params.get(path, ())) == {"w_i", "w_h", "b"}:
        return True
    linear = params.get(f"{path}/linear", {})
    if set(linear) != {"w", "b"}:
        return False
    below, columns = linear["w"].shape
    if f"{path}/linear_1" in params:
        return params[f"{path}/linear_1"]["w"].shape == (columns, columns)
    return columns % 4 == 0 and below > columns // 4


def _read(params: Mapping[str, Any], path: str) -> Walk:
    """The core at this path."""
    if path in params and "w_i" in params[path]:
        w_x, w_h, b = (_from_zra(jnp.asarray(params[path][name])) for name in ("w_i", "w_h", "b"))
        return Walk(gru(w_h.shape[0], reset="before"), GRUParams(w_x=w_x, w_h=w_h, b=b))
    if f"{path}/linear_1" in params:
        on_x, on_h = params[f"{path}/linear"], params[f"{path}/linear_1"]
        b = jnp.asarray(on_x["b"])
        b = b + jnp.asarray(on_h["b"]) if "b" in on_h else b
        weights = ElmanParams(w_x=jnp.asarray(on_x["w"]), w_h=jnp.asarray(on_h["w"]), b=b)
        return Walk(elman(b.shape[0], activation=jax.nn.relu), weights, activation="relu")
    w, b = (_swap(jnp.asarray(params[f"{path}/linear"][name])) for name in ("w", "b"))
    size = b.shape[0] // 4
    w_x, w_h = jnp.split(w, [w.shape[0] - size])
    return Walk(lstm(size), LSTMParams(w_x=w_x, w_h=w_h, b=b.at[size : 2 * size].add(1)))


def _write(walk: Walk) -> tuple[str, dict[str, dict[str, Array]]]:
    """haiku's name of the core, and the arrays of its modules by what they add to its path."""
    w_x, w_h, b = (jnp.asarray(leaf) for leaf in walk.params[:3])
    if isinstance(walk.params, GRUParams):
        return "gru", {"": {"w_i": _to_zra(w_x), "w_h": _to_zra(w_h), "b": _to_zra(b)}}
    if isinstance(walk.params, ElmanParams):
        if walk.activation != "relu":
            raise ValueError(f"`model` must have activation=jax.nn.relu, as hk.VanillaRNN has, got {walk.activation}")
        on_h = {"w": w_h, "b": jnp.zeros_like(b)}
        return "vanilla_rnn", {"/linear": {"w": w_x, "b": b}, "/linear_1": on_h}
    size = w_h.shape[0]
    b = b.at[size : 2 * size].add(-1)
    return "lstm", {"/linear": {"w": _swap(jnp.concatenate([w_x, w_h])), "b": _swap(b)}}


def _swap(value: Array) -> Array:
    """Gates i, f, g, o as i, g, f, o, and back."""
    i, second, third, o = jnp.split(value, 4, axis=-1)
    return jnp.concatenate([i, third, second, o], axis=-1)


def _to_zra(value: Array) -> Array:
    """Gates r, z, n as z, r, a; haiku's z is our 1 - z, so its sigmoid gets the negative."""
    r, z, n = jnp.split(value, 3, axis=-1)
    return jnp.concatenate([-z, r, n], axis=-1)


def _from_zra(value: Array) -> Array:
    z, r, a = jnp.split(value, 3, axis=-1)
    return jnp.concatenate([r, -z, a], axis=-1)
