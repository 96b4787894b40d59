"""The weights of torch's recurrent networks. Reads arrays only; torch itself is never imported."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.cells import elman, gru, lstm
from rnn_jax.cells.elman import ElmanParams
from rnn_jax.cells.lstm import LSTMParams
from rnn_jax.interop.converted import Converted
from rnn_jax.interop.one_cell import refuse_options
from rnn_jax.interop.plain import (
    ACTIVATIONS,
    KINDS,
    Walk,
    assemble,
    hidden_size,
    recurrent_bias,
    reset_after,
    take_apart,
)
from rnn_jax.types import Array, Cell, Layer, Params

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
"""The modes of torch.nn.RNNBase, and how many blocks of H rows a weight has."""


class TorchWeights(NamedTuple):
    """A network of ours as torch has it.

    Attributes:
        kind: "LSTM", "GRU" or "RNN", the class in `torch.nn`.
        options: its arguments: `getattr(torch.nn, kind)(**options)`.
        weights: its state dict, NumPy arrays.
    """

    kind: str
    options: dict[str, Any]
    weights: dict[str, np.ndarray]


class _Weights(NamedTuple):
    """One direction of one layer, as torch names it."""

    ih: Array  # [G H, I]
    hh: Array  # [G H, P]
    b_ih: Array  # [G H]
    b_hh: Array  # [G H]
    hr: Array | None  # [P, H]


def from_torch(
    weights: Mapping[str, Any], mode: Literal["LSTM", "GRU", "RNN_TANH", "RNN_RELU"], *, prefix: str = ""
) -> Converted:
    """The network of a `torch.nn.LSTM`, `GRU` or `RNN`: `from_torch(module.state_dict(), module.mode)`.

    Everything but the mode stands in the weights: sizes, number of layers, directions, biases, projection. torch keeps
    two biases for each gate, which add up to our one; only b_hn of the GRU, inside its reset, stays apart.

    Args:
        weights: the state dict of the module, of tensors on the CPU or NumPy arrays: `weight_ih_l0` [G H, I],
            `weight_hh_l0`, `bias_ih_l0`, ... Missing biases are zero. `safetensors.numpy.load_file(path)` gives
            those of a file.
        mode: what `module.mode` says. "RNN_RELU" is an RNN with `nonlinearity="relu"`.
        prefix: of the names of the network in a larger model, such as "encoder."; all other names are left alone.

    Returns:
        `Converted(model, params)`. One direction: a cell, or a `stack` of them if there are several layers. Two:
        `bidirectional(...)`, or a `serial` of them. torch's `h_n` is [l0, l1, ...], or [l0 forward, l0 backward, ...];
        our carries are in the same order, with `Directions` inside the tuple of layers.

    Raises:
        ValueError: names a weight that is missing, unknown or of the wrong shape.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> weights = {"weight_ih_l0": rng.normal(size=(12, 3)), "weight_hh_l0": rng.normal(size=(12, 4))}
        >>> cell, params = from_torch(weights, "GRU")
        >>> cell is gru(4), params.w_x.shape
        (True, (3, 12))

    Notes:
        `batch_first` is a layout of inputs, not of weights: ours are [T, B, I]. `dropout` between layers is no weight
        either; `stack(lstm(8), with_dropout(lstm(8), inputs=rate))` has torch's, a new mask at every step.
    """
    checks.one_of("mode", mode, tuple(GATES))
    if not isinstance(weights, Mapping):
        raise ValueError(f"`weights` must be a mapping such as module.state_dict(), got {type(weights).__name__}")
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    arrays = {name: read_array(f"weights[{name!r}]", value) for name, value in own.items()}
    count = sum(name.startswith("weight_ih_l") and not name.endswith("_reverse") for name in arrays)
    suffixes = ("", "_reverse") if "weight_ih_l0_reverse" in arrays else ("",)
    rows = [[_take(arrays, f"_l{i}{suffix}", GATES[mode]) for suffix in suffixes] for i in range(max(count, 1))]
    if arrays:
        raise ValueError(f"`weights` has names that {mode} does not: {', '.join(map(repr, sorted(arrays)))}")
    return assemble([[_convert(one, mode, bool(i)) for i, one in enumerate(row)] for row in rows])


def to_torch(model: Cell | Layer, params: Params) -> TorchWeights:
    """A network of ours as a `torch.nn.LSTM`, `GRU` or `RNN`.

        kind, options, weights = to_torch(model, params)
        module = getattr(torch.nn, kind)(**options)
        module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})

    Args:
        model: an `lstm` (with or without projection), `gru` or `elman` (tanh or ReLU); a `stack` of equal ones;
            `bidirectional` ones, or a `serial` of them.
        params: its parameters, not perturbed.

    Returns:
        What torch needs. Of its two biases `bias_ih` is ours and `bias_hh` zero, but for the b_hn of a GRU; torch
        trains both. `safetensors.numpy.save_file(weights, path)` writes a file for torch.

    Raises:
        ValueError: torch has no such network: says why.

    Example:
        >>> import jax
        >>> cell = gru(4)
        >>> kind, options, weights = to_torch(cell, cell.init(jax.random.key(0), 3))
        >>> kind, options["hidden_size"], weights["weight_ih_l0"].shape
        ('GRU', 4, (12, 3))
    """
    return as_torch(model, params, "torch", allowed=("a projection",))


def as_torch(model: Cell | Layer, params: Params, library: str, *, allowed: Collection[str] = ()) -> TorchWeights:
    """`to_torch` for a library that has torch's networks, with those options of an LSTM that it has too.

    Args:
        model: the network.
        params: its parameters.
        library: its name, for errors.
        allowed: as in `refuse_options`.

    Raises:
        ValueError: the library has no such network: says why.
    """
    rows = take_apart(model, params)
    first = rows[0][0]
    for walk in (walk for row in rows for walk in row):
        refuse_options(walk, "model", library, reset="after", allowed=allowed)
    kind, size, width = _shape(first)
    for index, row in enumerate(rows):
        if len(row) != len(rows[0]) or row[0].reverse:
            raise ValueError(
                f"`model` must walk forwards or both ways in all layers for {library}, layer {index} does not"
            )
        if any(_shape(walk) != (kind, size, width) for walk in row):
            raise ValueError(
                f"`model` must have layers of one kind and size for {library}, got another in layer {index}"
            )
        if any(walk.activation != first.activation for walk in row):
            raise ValueError(
                f"`model` must have one activation, the one `nonlinearity` of {library}, in all layers and directions; "
                f"got {first.activation} first and another in layer {index}"
            )
    options: dict[str, Any] = {
        "input_size": len(first.params.w_x),
        "hidden_size": size,
        "num_layers": len(rows),
        "bidirectional": len(rows[0]) == 2,
    }
    if isinstance(first.params, LSTMParams) and first.params.w_projection is not None:
        options["proj_size"] = width
    if kind == "RNN":
        options["nonlinearity"] = first.activation
    weights = {}
    for index, row in enumerate(rows):
        for walk, suffix in zip(row, ("", "_reverse"), strict=False):
            weights |= {f"{name}_l{index}{suffix}": value for name, value in _named(walk).items()}
    return TorchWeights(kind, options, weights)


def _shape(walk: Walk) -> tuple[str, int, int]:
    """The class in torch.nn, H, and the size of the output."""
    return KINDS[type(walk.params)], hidden_size(walk.params), np.shape(walk.params.w_h)[0]


def _named(walk: Walk) -> dict[str, np.ndarray]:
    """The weights of one direction of one layer, by torch's names."""
    params = walk.params
    named = {
        "weight_ih": params.w_x.T,
        "weight_hh": np.asarray(params.w_h).T,
        "bias_ih": params.b,
        "bias_hh": recurrent_bias(params),
    }
    if isinstance(params, LSTMParams) and params.w_projection is not None:
        named["weight_hr"] = params.w_projection.T
    return {name: np.array(value, order="C") for name, value in named.items()}


def read_array(name: str, value: Any) -> np.ndarray:
    """An array or a tensor of torch as NumPy has it; `name` is what an error calls it."""
    try:
        return np.asarray(value)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"`{name}` must be a float32 tensor on the CPU or a NumPy array: {error}") from error


def _take(arrays: dict[str, np.ndarray], suffix: str, gates: int) -> _Weights:
    """Takes the weights of one direction of one layer out of `arrays`, checked."""
    for name in ("weight_ih", "weight_hh"):
        if name + suffix not in arrays:
            raise ValueError(f"`weights` must have {name + suffix!r}, got {', '.join(map(repr, sorted(arrays)))}")
    ih, hh = arrays.pop("weight_ih" + suffix), arrays.pop("weight_hh" + suffix)
    hr = arrays.pop("weight_hr" + suffix, None) if gates == GATES["LSTM"] else None
    for name, value in {"weight_ih": ih, "weight_hh": hh, "weight_hr": hr}.items():
        if value is not None and value.ndim != 2:
            raise ValueError(f"`weights[{name + suffix!r}]` must have 2 axes, got shape {value.shape}")
    size = hh.shape[1] if hr is None else hr.shape[1]
    rows = gates * size
    b_ih, b_hh = (arrays.pop(name + suffix, np.zeros(rows, ih.dtype)) for name in ("bias_ih", "bias_hh"))
    found = {"weight_ih": ih, "weight_hh": hh, "bias_ih": b_ih, "bias_hh": b_hh}
    expected = {
        "weight_ih": (rows, ih.shape[-1]),
        "weight_hh": (rows, size if hr is None else hr.shape[0]),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
    }
    for name, value in found.items():
        if value.shape != expected[name]:
            raise ValueError(f"`weights[{name + suffix!r}]` must have shape {expected[name]}, got {value.shape}")
    return _Weights(
        ih=jnp.asarray(ih),
        hh=jnp.asarray(hh),
        b_ih=jnp.asarray(b_ih),
        b_hh=jnp.asarray(b_hh),
        hr=None if hr is None else jnp.asarray(hr),
    )


def _convert(weights: _Weights, mode: str, reverse: bool) -> Walk:
    """One cell of ours and its parameters."""
    w_x, w_h = weights.ih.T, weights.hh.T
    size = w_h.shape[1] // GATES[mode]
    if mode == "GRU":
        return Walk(gru(size), reset_after(w_x, w_h, weights.b_ih, weights.b_hh), reverse)
    b = weights.b_ih + weights.b_hh
    if mode == "LSTM":
        if weights.hr is None:
            return Walk(lstm(size), LSTMParams(w_x=w_x, w_h=w_h, b=b), reverse)
        params = LSTMParams(w_x=w_x, w_h=w_h, b=b, w_projection=weights.hr.T)
        return Walk(lstm(size, projection=w_h.shape[0]), params, reverse)
    activation = mode.removeprefix("RNN_").lower()
    cell = elman(size, activation=ACTIVATIONS[activation])
    return Walk(cell, ElmanParams(w_x=w_x, w_h=w_h, b=b), reverse, activation)
