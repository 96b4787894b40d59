"""Weights files of Keras, with and without a model in the file: equal outputs, equal parameters, clear refusals."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_keras import MASK, OURS, XS, assert_same, hide_keras, keras, random_params, random_weights, run

from rnn_jax import bidirectional, dense, elman, gru, layer, lstm, serial, stack
from rnn_jax.interop import from_keras, to_keras

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Layer '.*' .of type Sequential. was passed an input with a mask:UserWarning"),
]
rnn = keras.layers
ALL = {"return_sequences": True}
RELU = {"activation": jax.nn.relu}


@pytest.fixture(autouse=True)
def keras_may_broadcast():
    with jax.numpy_rank_promotion("allow"):
        yield


def saved(network: Any, path: Path) -> Path:
    network.save_weights(path / "x.weights.h5")
    return path / "x.weights.h5"


def sequential(*layers: Any) -> Any:
    return random_weights(keras.Sequential([keras.Input((None, 3)), *layers]))


NETWORKS = {
    "gru": (lambda: [rnn.GRU(4, **ALL)], gru(4)),
    "reset before": (lambda: [rnn.GRU(4, reset_after=False, **ALL)], gru(4, reset="before")),
    "no bias": (lambda: [rnn.GRU(4, use_bias=False, **ALL)], gru(4)),
    "no bias, reset before": (
        lambda: [rnn.GRU(4, reset_after=False, use_bias=False, **ALL)],
        gru(4, reset="before"),
    ),
    "stack": (
        lambda: [
            rnn.LSTM(4, dropout=0.5, **ALL),
            *(rnn.GRU(3, **ALL) for _ in range(3)),
            rnn.LSTM(3, use_bias=False, **ALL),
        ],
        stack(lstm(4), gru(3), gru(3), gru(3), lstm(3)),
    ),
    "deep": (
        lambda: [
            rnn.Bidirectional(rnn.LSTM(4, **ALL)),
            rnn.SimpleRNN(5, activation="relu", **ALL),
            rnn.Bidirectional(rnn.SimpleRNN(2, **ALL), backward_layer=rnn.GRU(2, go_backwards=True, **ALL)),
        ],
        serial(bidirectional(lstm(4), lstm(4)), layer(elman(5, **RELU)), bidirectional(elman(2), gru(2))),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_of_keras_have_equal_outputs(name, tmp_path):
    layers, model = NETWORKS[name]
    network = sequential(*layers())
    again = from_keras(saved(network, tmp_path), model)
    assert again.model is model
    assert_same(run(again)[1], network(XS, mask=MASK))
    whole = from_keras(network)
    assert jax.tree.structure(again.params) == jax.tree.structure(whole.params)
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


@pytest.mark.parametrize("name", OURS)
def test_networks_of_ours_come_back(name, tmp_path):
    model, params = OURS[name], random_params(OURS[name])
    path = saved(to_keras(model, params), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, from_keras(str(path), model).params, params)


class Translator(keras.Model):
    """Recurrent layers as attributes, inside a Sequential and in a list, among others."""

    def __init__(self) -> None:
        super().__init__()
        self.head = rnn.Dense(2)
        self.encoder = keras.Sequential([rnn.Bidirectional(rnn.GRU(4, **ALL)), rnn.LSTM(3, **ALL)])
        self.decoder = rnn.LSTM(3, **ALL)
        self.other = [rnn.ConvLSTM1D(2, 3), rnn.RNN([rnn.GRUCell(2), rnn.LSTMCell(2)])]

    def call(self, xs: Any) -> Any:
        self.other[0](xs[..., None])
        self.other[1](xs)
        return self.head(self.decoder(self.encoder(xs)))


def test_parts_of_a_larger_model_are_chosen_by_their_paths(tmp_path):
    network = Translator()
    network(XS)
    random_weights(network)
    path = saved(network, tmp_path)
    encoder = serial(bidirectional(gru(4), gru(4)), layer(lstm(3)))
    inside = ("encoder/layers/bidirectional", "encoder/layers/lstm")
    assert_same(run(from_keras(path, encoder, *inside), None)[1], network.encoder(XS), np.ones_like(MASK))
    decoder = from_keras(path, lstm(3), "decoder")
    jax.tree.map(np.testing.assert_array_equal, decoder.params, from_keras(network.decoder).params)

    there = "'decoder', 'encoder/layers/bidirectional', 'encoder/layers/lstm'"
    with pytest.raises(ValueError, match=f"`paths` must name .* the file has {there}, .* not just the 'bidirectional'"):
        from_keras(path, encoder)
    with pytest.raises(ValueError, match=rf"`paths` must be of recurrent layers in the file \({there}\), got 'head'"):
        from_keras(path, lstm(3), "head")
    with pytest.raises(ValueError, match="`paths` must name the 2 layers of `model`, got 1"):
        from_keras(path, encoder, "decoder")
    with pytest.raises(ValueError, match=r"`model` must have the weights of 'encoder/layers/lstm' .*\(8, 12\)"):
        from_keras(path, stack(lstm(3), lstm(3)), "decoder", "encoder/layers/lstm")


def test_one_layer_of_any_name_and_dtype_is_the_one_that_is_meant(tmp_path):
    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.anything = rnn.GRU(4, dtype="bfloat16", recurrent_initializer="glorot_uniform", **ALL)
            random_weights(self.anything)  # and never called: Keras mixes dtypes, which our tests forbid

        def call(self, xs: Any) -> Any:
            return xs

    network = Model()
    network(XS)
    _, params = from_keras(saved(network, tmp_path), gru(4))
    assert params.w_x.dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, params, from_keras(network.anything).params)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (None, r"`model` must be the network whose weights the file has.* got NoneType None"),
        ("gru", r"`model` must be the network whose weights the file has.* got str 'gru'"),
        (stack(lstm(4), gru(4, reset="before")), r"weights of 'layers/gru' .*\(2, 12\).*, got .*\(12,\).* a GRU has"),
        (stack(lstm(5), gru(4)), r"weights of 'layers/lstm' in the file, .*\(4, 16\).*, got .*\(5, 20\).* layer 0"),
        (stack(gru(4), lstm(4)), r"weights of 'layers/lstm' in the file, .*\(3, 16\).*, got .*\(4, 16\).* layer 1"),
        (serial(bidirectional(lstm(4), lstm(4)), layer(gru(4))), "the file has 'layers/gru', 'layers/lstm', which"),
        (stack(lstm(4), gru(4), gru(4)), "are not just the 'lstm', 'gru', 'gru_1' of `model`"),
        (lstm(4), "are not just the 'lstm' of `model`"),
        (lstm(4, peephole=True), "an lstm without peepholes for Keras"),
        (layer(gru(4), reverse=True), "forwards or both ways in all layers for Keras"),
        (dense(3), "`params` must be of lstm, gru or elman cells"),
    ],
)
def test_what_is_not_in_the_file_is_refused(model, text, tmp_path):
    path = saved(sequential(rnn.LSTM(4, **ALL), rnn.GRU(4, **ALL)), tmp_path)
    with pytest.raises(ValueError, match=text):
        from_keras(path, model)


def test_files_without_recurrent_layers_and_directions_that_are_not_there_are_refused(tmp_path):
    path = saved(sequential(rnn.Dense(3)), tmp_path)
    with pytest.raises(ValueError, match="the file has none, which are not just the 'gru' of `model`"):
        from_keras(path, gru(3))
    path = saved(sequential(rnn.Bidirectional(rnn.GRU(4, **ALL))), tmp_path)
    with pytest.raises(ValueError, match="`model` must have the weights of 'layers/bidirectional'"):
        from_keras(path, gru(4))


def test_a_model_is_for_weights_alone(tmp_path):
    with pytest.raises(
        ValueError, match=r"`model` must be left out but for a .weights.h5 file, got it with str 'x.ker"
    ):
        from_keras("x.keras", gru(4))
    with pytest.raises(FileNotFoundError):
        from_keras(tmp_path / "none.weights.h5", gru(4))


def test_weights_are_read_without_keras_and_h5py_is_named_if_it_is_missing(tmp_path, monkeypatch):
    path = saved(sequential(rnn.GRU(4, **ALL)), tmp_path)
    hide_keras(monkeypatch)
    assert from_keras(path, gru(4)).params.w_x.shape == (3, 12)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'need h5py: pip install "rnn_jax\[interop\]"'):
        from_keras(path, gru(4))
