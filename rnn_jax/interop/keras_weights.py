"""Recurrent networks of Keras 3 as ours and ours as those of Keras. Keras is imported when one is asked for."""

import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.cells import elman, gru, lstm
from rnn_jax.cells.elman import ElmanParams
from rnn_jax.cells.gru import GRUParams
from rnn_jax.cells.lstm import LSTMParams
from rnn_jax.interop.converted import Converted
from rnn_jax.interop.one_cell import refuse_options
from rnn_jax.interop.plain import ACTIVATIONS, Walk, assemble, hidden_size, recurrent_bias, reset_after, take_apart
from rnn_jax.types import Cell, Layer, Params

ACTIVATIONS_OF = {"SimpleRNN": tuple(ACTIVATIONS), "LSTM": ("tanh",), "GRU": ("tanh",)}
"""The layers of Keras that are read, and the `activation` that each may have."""


def from_keras(source: Any) -> Converted:
    """The network of a Keras 3 layer, model or file, with its weights.

    Args:
        source: a built `SimpleRNN` (tanh or ReLU), `LSTM`, `GRU` (`reset_after` or not), a `Bidirectional` of two of
            them with `merge_mode="concat"`, a `Sequential` of such layers; or the path of a `.keras` file of one. The
            network of a larger model is `from_keras(model.get_layer("encoder"))`.

    Returns:
        `Converted(model, params)`. All forwards: a cell, or a `stack` of them. Otherwise `bidirectional(...)`, or a
        `serial` of such layers. Ours take [T, B, I], theirs [B, T, I]. A layer without bias gets one of zeros.

    Raises:
        ImportError: Keras or its backend is not installed.
        ValueError: the layer is of another kind or not built: says which and why.

    Notes:
        Where Keras has `return_sequences=False`, its output is our last output; of a `Bidirectional`, the final h of
        both directions, which our carry has. `dropout`, `stateful` and regularizers are no weights and are left out. A
        mask that is True up to the length of a sequence is our `lengths`; outputs after it are zero here, and in
        Keras those of the last real step unless `zero_output_for_mask` is set.

    References:
        keras/src/layers/rnn: an LSTM has i, f, c, o, as ours; a GRU z, r, h, and with `reset_after` a bias [2, 3H], of
        the input and of the recurrent product.
    """
    keras = _keras()
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        if not path.endswith(".keras"):
            raise ValueError(f"`source` must be a layer or the path of a .keras file, which holds both, got {path!r}")
        source = keras.saving.load_model(path, compile=False)
    if not isinstance(source, keras.Layer):
        raise ValueError(f"`source` must be a Keras layer or the path of a .keras file, got {checks.describe(source)}")
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
        network.save_weights("network.weights.h5")  # weights alone

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
    rows = take_apart(model, params)
    layers = []
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
        made = [_layer(keras, walk) for walk in row]
        layers.append(keras.layers.Bidirectional(made[0], backward_layer=made[1]) if len(made) == 2 else made[0])
    first = rows[0][0].params.w_x
    network = keras.Sequential([keras.Input((None, len(first)), dtype=first.dtype.name), *layers])
    network.set_weights([weight for row in rows for walk in row for weight in _weights(walk)])
    return network


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
    w_x, w_h, *biases = (jnp.asarray(value) for value in one.cell.get_weights())
    size, b = one.units, biases[0] if biases else jnp.zeros(w_x.shape[1], w_x.dtype)
    if kind == "SimpleRNN":
        activation = config["activation"]
        cell = elman(size, activation=ACTIVATIONS[activation])
        return Walk(cell, ElmanParams(w_x=w_x, w_h=w_h, b=b), reverse, activation)
    if kind == "LSTM":
        return Walk(lstm(size), LSTMParams(w_x=w_x, w_h=w_h, b=b), reverse)
    w_x, w_h, b = (jnp.asarray(_swap(value)) for value in (w_x, w_h, b))
    if not one.reset_after:
        return Walk(gru(size, reset="before"), GRUParams(w_x=w_x, w_h=w_h, b=b), reverse)
    on_x, on_h = b if biases else (b, jnp.zeros_like(b))
    return Walk(gru(size), reset_after(w_x, w_h, on_x, on_h), reverse)


def _layer(keras: Any, walk: Walk) -> Any:
    """A layer of Keras, without its weights, or why there is none."""
    refuse_options(walk, "model", "Keras")
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
