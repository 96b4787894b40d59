"""The weights of the recurrent cells of flax, linen and nnx, as ours and back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from rnn_jax import checks
from rnn_jax.cells import elman, gru, lstm
from rnn_jax.cells.elman import ElmanParams
from rnn_jax.cells.gru import GRUParams
from rnn_jax.cells.lstm import LSTMParams
from rnn_jax.interop.converted import Converted
from rnn_jax.interop.one_cell import one_cell
from rnn_jax.interop.plain import ACTIVATIONS
from rnn_jax.types import Array, Cell, Params


def from_linen_cell(module: nn.RNNCellBase, variables: Mapping[str, Any]) -> Converted:
    """The cell of a flax.linen `LSTMCell`, `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`.

    Args:
        module: the module, for its kind and options.
        variables: what `module.init` returned. For a cell inside `nn.RNN(cell)`, that is
            `{"params": variables["params"]["cell"]}`.

    Returns:
        `Converted(cell, params)`: `lstm`, `gru` or `elman`. The carry of flax's LSTM is `(c, h)`, ours
        `LSTMCarry(h, c)`.

    Raises:
        ValueError: for another module, gates that are not sigmoid or an activation that is not tanh (`SimpleCell` may
            have any), and for variables that lack a kernel of the module.

    Example:
        >>> module = nn.GRUCell(4)
        >>> x = jnp.zeros((2, 3))
        >>> variables = module.init(jax.random.key(0), jnp.zeros((2, 4)), x)
        >>> cell, params = from_linen_cell(module, variables)
        >>> cell is gru(4), params.w_x.shape
        (True, (3, 12))

    Notes:
        The pre-activation residual of `SimpleCell(residual=True)` is the identity added to the recurrent kernel.
    """
    kinds = (nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell, nn.SimpleCell)
    if not isinstance(module, kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"`module` must be one of flax.linen's {names}, got {type(module).__name__}")
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise ValueError(f'`variables` must be a mapping with "params", got {checks.describe(variables)}')
    params = variables["params"]

    def joined(side: str, gates: str, field: str) -> Array:
        return jnp.concatenate([_leaf(params, side + gate, field) for gate in gates], axis=-1)

    if isinstance(module, nn.SimpleCell):
        return _elman(module, _leaf(params, "i", "kernel"), _leaf(params, "h", "kernel"), _leaf(params, "i", "bias"))
    _standard(module)
    if isinstance(module, nn.GRUCell):
        return _gru(
            joined("i", "rzn", "kernel"),
            joined("h", "rzn", "kernel"),
            joined("i", "rzn", "bias"),
            _leaf(params, "hn", "bias"),
        )
    return _lstm(joined("i", "ifgo", "kernel"), joined("h", "ifgo", "kernel"), joined("h", "ifgo", "bias"))


def from_nnx_cell(module: nnx.RNNCellBase) -> Converted:
    """The cell of a flax.nnx `LSTMCell`, `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`.

    Args:
        module: the module, which holds its weights.

    Returns:
        `Converted(cell, params)`, as from `from_linen_cell`.

    Raises:
        ValueError: for another module, gates that are not sigmoid or an activation that is not tanh (`SimpleCell` may
            have any).

    Example:
        >>> cell, params = from_nnx_cell(nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0)))
        >>> cell is lstm(4), params.w_h.shape
        (True, (4, 16))

    Notes:
        The GRU of nnx has no b_hn, so ours gets zeros; trained further, it may leave them.
    """
    kinds = (nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell, nnx.SimpleCell)
    if not isinstance(module, kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"`module` must be one of flax.nnx's {names}, got {type(module).__name__}")
    if isinstance(module, nnx.SimpleCell):
        return _elman(module, _kernel(module.dense_i), _kernel(module.dense_h), _bias(module.dense_i))
    _standard(module)
    if isinstance(module, nnx.GRUCell):
        b = _bias(module.dense_i)
        b_hn = jnp.zeros(b.shape[0] // 3, b.dtype)
        return _gru(_kernel(module.dense_i), _kernel(module.dense_h), b, b_hn)
    if isinstance(module, nnx.OptimizedLSTMCell):
        on_x, on_h = [module.dense_i], [module.dense_h]
    else:
        on_x = [module.ii, module.if_, module.ig, module.io]
        on_h = [module.hi, module.hf, module.hg, module.ho]
    return _lstm(_kernel(*on_x), _kernel(*on_h), _bias(*on_h))


def to_linen_cell(cell: Cell, params: Params) -> tuple[nn.RNNCellBase, dict[str, Any]]:
    """The flax.linen cell that computes what `cell` does, and its variables.

    Args:
        cell: an `lstm`, `gru` or `elman` with tanh or ReLU, however it was initialised.
        params: its parameters.

    Returns:
        `(module, {"params": ...})`: an `OptimizedLSTMCell` (its variables fit an `LSTMCell` as well), a `GRUCell` or a
        `SimpleCell`. Inside `nn.RNN(module)` the variables are `{"params": {"cell": variables["params"]}}`.

    Raises:
        ValueError: for a stack, another cell or activation, `gru(reset="before")` and the options of `lstm`, which
            flax does not have.

    Example:
        >>> cell = lstm(4)
        >>> module, variables = to_linen_cell(cell, cell.init(jax.random.key(0), 3))
        >>> type(module).__name__, variables["params"]["ii"]["kernel"].shape
        ('OptimizedLSTMCell', (3, 4))
    """
    walk = one_cell(cell, params, "flax", reset="after")
    ours = jax.tree.map(jnp.asarray, walk.params)
    size = ours.w_h.shape[0]
    if isinstance(ours, ElmanParams):
        module = nn.SimpleCell(size, activation_fn=ACTIVATIONS[walk.activation])
        return module, {"params": {"i": {"kernel": ours.w_x, "bias": ours.b}, "h": {"kernel": ours.w_h}}}
    gates, biased = ("rzn", "i") if isinstance(ours, GRUParams) else ("ifgo", "h")
    theirs: dict[str, Any] = {}
    for side, kernel in (("i", ours.w_x), ("h", ours.w_h)):
        for gate, columns in zip(gates, jnp.split(kernel, len(gates), axis=1), strict=True):
            theirs[side + gate] = {"kernel": columns}
    for gate, bias in zip(gates, jnp.split(ours.b, len(gates)), strict=True):
        theirs[biased + gate]["bias"] = bias
    if isinstance(ours, GRUParams):
        theirs["hn"]["bias"] = ours.b_hn
        return nn.GRUCell(size), {"params": theirs}
    return nn.OptimizedLSTMCell(size), {"params": theirs}


def to_nnx_cell(cell: Cell, params: Params) -> nnx.RNNCellBase:
    """The flax.nnx cell that computes what `cell` does, with its weights.

    Args:
        cell: an `lstm`, `gru` or `elman` with tanh or ReLU, however it was initialised.
        params: its parameters.

    Returns:
        An `OptimizedLSTMCell`, a `GRUCell` or a `SimpleCell`.

    Raises:
        ValueError: as `to_linen_cell`; and for a GRU whose b_hn is not zero, for which the one of nnx has no place.

    Example:
        >>> cell = gru(4)
        >>> module = to_nnx_cell(cell, cell.init(jax.random.key(0), 3))
        >>> module.dense_i.kernel.shape
        (3, 12)
    """
    walk = one_cell(cell, params, "flax", reset="after")
    ours = jax.tree.map(jnp.asarray, walk.params)
    sizes = ours.w_x.shape[0], ours.w_h.shape[0]
    options: dict[str, Any] = {"param_dtype": ours.b.dtype, "rngs": nnx.Rngs(0)}
    if isinstance(ours, ElmanParams):
        module = nnx.SimpleCell(*sizes, activation_fn=ACTIVATIONS[walk.activation], **options)
    elif isinstance(ours, LSTMParams):
        module = nnx.OptimizedLSTMCell(*sizes, **options)
    else:
        most = float(jnp.abs(ours.b_hn).max())
        if most:
            raise ValueError(
                "`params` must have b_hn = 0, because the GRU of flax.nnx has no bias in the recurrent product; got "
                f"values up to {most:.3g}. That of flax.linen has one: to_linen_cell"
            )
        module = nnx.GRUCell(*sizes, **options)
    biased: Any = module.dense_h if isinstance(ours, LSTMParams) else module.dense_i
    module.dense_i.kernel[...], module.dense_h.kernel[...], biased.bias[...] = ours.w_x, ours.w_h, ours.b
    return module


def _kernel(*dense: Any) -> Array:
    """The kernels of nnx Linears side by side."""
    return jnp.concatenate([one.kernel[...] for one in dense], axis=-1)


def _bias(*dense: Any) -> Array:
    """The biases of nnx Linears side by side."""
    return jnp.concatenate([one.bias[...] for one in dense], axis=-1)


def _leaf(params: Mapping[str, Any], name: str, field: str) -> Array:
    try:
        return params[name][field]
    except KeyError as error:
        raise ValueError(f'`variables["params"]` must have {name}/{field}, got {", ".join(sorted(params))}') from error


def _standard(module: Any) -> None:
    """Checks that the gates are sigmoids and the activation is tanh, the only ones our cells have."""
    if module.gate_fn is not jax.nn.sigmoid or module.activation_fn is not jnp.tanh:
        raise ValueError("`module` must have gate_fn sigmoid and activation_fn tanh, got others")


def _lstm(w_x: Array, w_h: Array, b: Array) -> Converted:
    return Converted(lstm(w_h.shape[0]), LSTMParams(w_x=w_x, w_h=w_h, b=b))


def _gru(w_x: Array, w_h: Array, b: Array, b_hn: Array) -> Converted:
    return Converted(gru(w_h.shape[0]), GRUParams(w_x=w_x, w_h=w_h, b=b, b_hn=b_hn))


def _elman(module: Any, w_x: Array, w_h: Array, b: Array) -> Converted:
    size = w_h.shape[0]
    if module.residual:
        w_h = w_h + jnp.eye(size, dtype=w_h.dtype)
    plain = module.activation_fn is jnp.tanh
    cell = elman(size) if plain else elman(size, activation=module.activation_fn)
    return Converted(cell, ElmanParams(w_x=w_x, w_h=w_h, b=b))
