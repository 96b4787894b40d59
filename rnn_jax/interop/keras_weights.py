"""Recurrent networks of Keras 3 as ours and ours as those of Keras. Keras is imported when one is asked for."""

import os
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.cells import elman, gru, lstm
from rnn_jax.cells.elman import ElmanParams
from rnn_jax.cells.gru import GRUParams
from rnn_jax.cells.lstm import LSTMParams
from rnn_jax.interop.converted import Converted
from rnn_jax.interop.keras_files import choose, read_layers
from rnn_jax.interop.one_cell import refuse_options
from rnn_jax.interop.plain import (
    ACTIVATIONS,
    KINDS,
    Rows,
    Walk,
    assemble,
    hidden_size,
    recurrent_bias,
    reset_after,
    take_apart,
)
from rnn_jax.types import Cell, Layer, Params

ACTIVATIONS_OF = {"SimpleRNN": tuple(ACTIVATIONS), "LSTM": ("tanh",), "GRU": ("tanh",)}
"""The layers of Keras that are read, and the `activation` that each may have."""

IN_FILES = {"RNN": "simple_rnn", "LSTM": "lstm", "GRU": "gru"}
"""What Keras calls them in a file of weights, by what `KINDS` calls them."""


def from_keras(source: Any, model: Cell | Layer | None = None, *paths: str) -> Converted:
    """The network of a Keras 3 layer, model or file, with its weights.

        from_keras(layer)                                                # or the path of a .keras file
        from_keras("network.weights.h5", stack(gru(16), lstm(12)))       # weights alone, of this network
        from_keras("network.weights.h5", gru(16), "encoder/layers/gru")  # or of a part of what the file has

    Args:
        source: a built `SimpleRNN` (tanh or ReLU), `LSTM`, `GRU` (`reset_after` or not), a `Bidirectional` of two of
            them with `merge_mode="concat"`, a `Sequential` of such layers; or the path of a `.keras` file of one, or of
            a `.weights.h5` file. The network of a larger model is `from_keras(model.get_layer("encoder"))`.
        model: for a `.weights.h5` file alone, which has arrays but no configuration: the network whose weights they
            are, one that `to_keras` takes. What shapes tell is checked. That activations, merge mode and direction of
            the layers in Keras were those of `model` is yours to know.
        *paths: for a `.weights.h5` file alone: the layers to read, bottom first, by their paths in the file. None if it
            has no other recurrent layers than those of `model`, named as Keras does: "lstm", "gru", "gru_1",
            "bidirectional", ..., counted in order.

    Returns:
        `Converted(model, params)`. All forwards: a cell, or a `stack` of them. Otherwise `bidirectional(...)`, or a
        `serial` of such layers. Of a weights file, `model` as it was given. Ours take [T, B, I], theirs [B, T, I]. A
        layer without bias gets one of zeros.

    Raises:
        ImportError: Keras or its backend is not installed; for weights files, h5py.
        ValueError: the layer is of another kind or not built: says which and why. The weights in a file have other
            shapes than those of `model`, or it does not say which layers are meant.

    Notes:
        Where Keras has `return_sequences=False`, its output is our last output; of a `Bidirectional`, the final h of
        both directions, which our carry has. `dropout`, `stateful` and regularizers are no weights and are left out. A
        mask that is True up to the length of a sequence is our `lengths`; outputs after it are zero here, and in
        Keras those of the last real step unless `zero_output_for_mask` is set.

    References:
        keras/src/layers/rnn: an LSTM has i, f, c, o, as ours; a GRU z, r, h, and with `reset_after` a bias [2, 3H], of
        the input and of the recurrent product.
    """
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    if path.endswith(".weights.h5"):
        return _from_weights(path, model, paths)
    if model is not None:
        raise ValueError(f"`model` must be left out but for a .weights.h5 file, got it with {checks.describe(source)}")
    if path and not path.endswith(".keras"):
        raise ValueError(f"`source` must be a layer or the path of a .keras or .weights.h5 file, got {path!r}")
    keras = _keras()
    if path:
        source = keras.saving.load_model(path, compile=False)
    if not isinstance(source, keras.Layer):
        raise ValueError(f"`source` must be a Keras layer or the path of a file of one, got {checks.describe(source)}")
    if not source.built:
        raise ValueError(f"`source` must be built, call it or its `build` first: {source.name!r} has no weights")
    layers = source.layers if type(source) is keras.Sequential else [source]
    if not layers:
        raise ValueError("`source` must have one recurrent layer or more, got an empty Sequential")
    return assemble([_row(keras, one) for one in layers])


def to_keras(model: Cell | Layer, params: Params) -> Any:
    """A network of ours as a built `keras.Sequential`, whose layers return all steps.

        network = to_keras(model, params)
        network.save("network.keras")               # layers and weights
        network.save_weights("network.weights.h5")  # weights alone, for from_keras(path, model)

    Args:
        model: an `lstm`, `gru` or `elman` (tanh or ReLU), of any size each; a `stack` of them; `bidirectional` ones;
            or a `serial` of such layers.
        params: its parameters, not perturbed.

    Returns:
        The `Sequential`, from [B, T, I] to [B, T, H], or 2 H of both directions. It has one layer for each of ours.

    Raises:
        ImportError: Keras or its backend is not installed.
        ValueError: Keras has no such network: says why.
    """
    keras = _keras()
    rows, layers = _take_apart(model, params), []
    for row in rows:
        made = [_layer(keras, walk) for walk in row]
        layers.append(keras.layers.Bidirectional(made[0], backward_layer=made[1]) if len(made) == 2 else made[0])
    first = rows[0][0].params.w_x
    network = keras.Sequential([keras.Input((None, len(first)), dtype=first.dtype.name), *layers])
    network.set_weights([weight for row in rows for walk in row for weight in _weights(walk)])
    return network


def _take_apart(model: Cell | Layer, params: Params) -> Rows:
    """The rows of a network that Keras has, or why it has none."""
    rows = take_apart(model, params)
    for index, row in enumerate(rows):
        if row[0].reverse:
            raise ValueError(
                f"`model` must walk forwards or both ways in all layers for Keras, layer {index} does not: "
                "`go_backwards` of Keras turns the outputs around and starts in the padding"
            )
        if len({hidden_size(walk.params) for walk in row}) > 1 and index < len(rows) - 1:
            raise ValueError(
                f"`model` must have directions of one size below other layers for Keras, layer {index} has two: its "
                "`Bidirectional` says to the layer above that it has twice the outputs of the forward direction"
            )
        for walk in row:
            refuse_options(walk, "model", "Keras")
    return rows


def _from_weights(path: str, model: Any, paths: tuple[str, ...]) -> Converted:
    """`model` with the weights of a file."""
    if not isinstance(model, Cell | Layer):
        raise ValueError(
            "`model` must be the network whose weights the file has, such as stack(gru(16), lstm(12)): a .weights.h5 "
            f"file does not say what its layers are; got {checks.describe(model)}"
        )
    rows, found = _take_apart(model, model.init(jax.random.key(0), 1)), read_layers(path)
    kinds = [[IN_FILES[KINDS[type(walk.params)]] for walk in row] for row in rows]
    names = choose(list(found), [row[0] if len(row) == 1 else "bidirectional" for row in kinds], paths)
    read = []
    for index, (name, row) in enumerate(zip(names, rows, strict=True)):
        size = found[name][0][0].shape[0] if index == 0 else len(row[0].params.w_x)
        expected = [[(size, *w_x.shape[1:]), *map(np.shape, rest)] for w_x, *rest in map(_weights, row)]
        shapes = [[array.shape for array in arrays] for arrays in found[name]]
        bare = [one[: len(two)] for one, two in zip(expected, shapes, strict=False)]  # without biases
        if len(shapes) != len(expected) or shapes != bare:
            raise ValueError(
                f"`model` must have the weights of {name!r} in the file, of shapes {shapes}, got {expected} for layer "
                f"{index}; a GRU has a bias (2, 3 H) if it resets after the product"
            )
        read.append([_fill(walk, arrays) for walk, arrays in zip(row, found[name], strict=True)])
    return Converted(model, assemble(read).params)


def _fill(walk: Walk, arrays: Iterable[Any]) -> Walk:
    return _convert(arrays, walk.reverse, walk.activation, after=getattr(walk.params, "b_hn", None) is not None)


def _keras() -> Any:
    try:
        import keras
    except ImportError as error:
        raise ImportError(
            'Keras 3 or its backend is missing: pip install "rnn_jax[interop]", and set KERAS_BACKEND=jax'
        ) from error
    return keras


def _row(keras: Any, one: Any) -> list[Walk]:
    """One layer of a Keras network."""
    if type(one) is not keras.layers.Bidirectional:
        if getattr(one, "go_backwards", False):
            raise ValueError(
                f"`source` must walk backwards only inside a Bidirectional, {one.name!r} has go_backwards=True, "
                "which turns its outputs around"
            )
        return [_walk(keras, one, reverse=False)]
    if one.merge_mode != "concat":
        raise ValueError(f'`source` must have merge_mode="concat", {one.name!r} has {one.merge_mode!r}')
    if one.forward_layer.go_backwards:
        raise ValueError(f"`source` must have a forward layer that walks forwards, that of {one.name!r} does not")
    return [_walk(keras, one.forward_layer, reverse=False), _walk(keras, one.backward_layer, reverse=True)]


def _walk(keras: Any, one: Any, *, reverse: bool) -> Walk:
    """One direction of one layer, of a cell of ours."""
    kind = type(one).__name__
    if kind not in ACTIVATIONS_OF or type(one) is not getattr(keras.layers, kind):
        raise ValueError(
            f"`source` must have SimpleRNN, LSTM, GRU and Bidirectional layers alone, {one.name!r} is of type {kind}"
        )
    config = one.get_config()
    allowed = {"activation": ACTIVATIONS_OF[kind], "recurrent_activation": ("sigmoid",)}
    for name, options in allowed.items():
        if name in config and config[name] not in options:
            wanted = " or ".join(map(repr, options))
            raise ValueError(
                f"`source` must have {kind} layers with {name}={wanted}, {one.name!r} has {config[name]!r}"
            )
    activation = config["activation"] if kind == "SimpleRNN" else ""
    return _convert(one.cell.get_weights(), reverse, activation, after=getattr(one, "reset_after", False))


def _convert(arrays: Iterable[Any], reverse: bool, activation: str, *, after: bool) -> Walk:
    """The walk of kernel, recurrent kernel and perhaps bias, whose shapes tell the cell; `after` is a GRU's reset."""
    w_x, w_h, *biases = (jnp.asarray(value) for value in arrays)
    size, b = len(w_h), biases[0] if biases else jnp.zeros(w_x.shape[1], w_x.dtype)
    if w_x.shape[1] == size:
        cell = elman(size, activation=ACTIVATIONS[activation])
        return Walk(cell, ElmanParams(w_x=w_x, w_h=w_h, b=b), reverse, activation)
    if w_x.shape[1] == 4 * size:
        return Walk(lstm(size), LSTMParams(w_x=w_x, w_h=w_h, b=b), reverse)
    w_x, w_h, b = (jnp.asarray(_swap(value)) for value in (w_x, w_h, b))
    if not after:
        return Walk(gru(size, reset="before"), GRUParams(w_x=w_x, w_h=w_h, b=b), reverse)
    on_x, on_h = b if biases else (b, jnp.zeros_like(b))
    return Walk(gru(size), reset_after(w_x, w_h, on_x, on_h), reverse)


def _layer(keras: Any, walk: Walk) -> Any:
    """A layer of Keras, without its weights."""
    params, size = walk.params, hidden_size(walk.params)
    options = {"return_sequences": True, "go_backwards": walk.reverse, "dtype": params.w_x.dtype.name}
    if isinstance(params, ElmanParams):
        return keras.layers.SimpleRNN(size, activation=walk.activation, **options)
    if isinstance(params, GRUParams):
        return keras.layers.GRU(size, reset_after=params.b_hn is not None, **options)
    return keras.layers.LSTM(size, **options)


def _weights(walk: Walk) -> list[np.ndarray]:
    """The weights of one direction of one layer, in the order of Keras: kernel, recurrent kernel, bias."""
    params = walk.params
    weights = [np.asarray(value) for value in (params.w_x, params.w_h, params.b)]
    if not isinstance(params, GRUParams):
        return weights
    if params.b_hn is not None:
        weights[2] = np.stack([weights[2], recurrent_bias(params)])
    return [_swap(value) for value in weights]


def _swap(value: Any) -> np.ndarray:
    """Exchanges r and z, which are the first two of three blocks on the last axis in both orders."""
    r, z, n = np.split(np.asarray(value), 3, axis=-1)
    return np.concatenate([z, r, n], axis=-1)
