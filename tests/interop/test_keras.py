"""Networks of Keras and ours compute the same, both ways and through files: outputs, final states, masks."""

import builtins
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")

from rnn_jax import Cell, bidirectional, dense, elman, gru, layer, lstm, serial, stack
from rnn_jax.initializers import normal
from rnn_jax.interop import from_keras, to_keras

keras = pytest.importorskip("keras")
pytestmark = [  # of Keras 3.15: it reads h5py datasets in an old way, and a Sequential passes its mask in, but not out
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Layer '.*' .of type Sequential. was passed an input with a mask:UserWarning"),
]

RNG = np.random.default_rng(5)
XS = RNG.normal(size=(4, 6, 3)).astype(np.float32)  # [B, T, I], as Keras has it
LENGTHS = np.array([4, 6, 1, 3])
MASK = np.arange(6) < LENGTHS[:, None]
ALL = {"return_sequences": True, "return_state": True}
RNNS = {"SimpleRNN": keras.layers.SimpleRNN, "LSTM": keras.layers.LSTM, "GRU": keras.layers.GRU}


@pytest.fixture(autouse=True)
def keras_may_broadcast():
    """Keras adds biases [H] to rows [B, H], which our tests forbid ours to."""
    with jax.numpy_rank_promotion("allow"):
        yield


def random_weights(network: Any) -> Any:
    """The network, built, with random weights, biases too."""
    network.build((None, None, 3))
    network.set_weights([0.6 * RNG.normal(size=weight.shape) for weight in network.get_weights()])
    return network


def run(converted: Any, lengths: Any = LENGTHS) -> tuple[list[np.ndarray], np.ndarray]:
    """The final states in the order of Keras, and outputs [B, T, H]."""
    model, params = converted
    model = layer(model) if isinstance(model, Cell) else model
    apply = jax.jit(lambda xs: model.apply(params, xs, lengths=lengths))
    carry, ys = apply(jnp.asarray(XS.swapaxes(0, 1)))
    return jax.tree.leaves(carry), np.asarray(ys).swapaxes(0, 1)


def assert_same(found: Any, expected: Any, mask: Any = MASK) -> None:
    found, expected = (np.where(mask[..., None], np.asarray(ys), 0) for ys in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def assert_states(found: list[Any], expected: list[Any], kind: str) -> None:
    """Keras has h and c of an LSTM in this order, one direction after the other."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=kind)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SimpleRNN", {}),
        ("SimpleRNN", {"activation": "relu", "use_bias": False}),
        ("LSTM", {}),
        ("LSTM", {"use_bias": False}),
        ("GRU", {}),
        ("GRU", {"use_bias": False}),
        ("GRU", {"reset_after": False}),
        ("GRU", {"reset_after": False, "use_bias": False}),
    ],
)
def test_layers_of_keras_have_equal_outputs_and_final_states_under_masks(kind, options, both):
    one = RNNS[kind](4, **options, **ALL)
    network = random_weights(keras.layers.Bidirectional(one) if both else one)
    expected, *states = network(XS, mask=MASK)
    carry, ys = run(from_keras(network))
    assert_same(ys, expected)
    assert_states(carry, states, kind)


def test_a_layer_that_returns_the_last_step_gives_our_last_output():
    network = random_weights(keras.layers.GRU(4))
    _, ys = run(from_keras(network), lengths=None)
    np.testing.assert_allclose(ys[:, -1], network(XS), rtol=1e-5, atol=1e-5)


def deep() -> Any:
    rnn = keras.layers
    return keras.Sequential(
        [
            keras.Input((None, 3)),
            rnn.Bidirectional(rnn.LSTM(4, return_sequences=True)),
            rnn.GRU(5, return_sequences=True, dropout=0.5),
            rnn.Bidirectional(
                rnn.SimpleRNN(2, return_sequences=True, activation="relu"),
                backward_layer=rnn.SimpleRNN(3, return_sequences=True, go_backwards=True),
            ),
        ]
    )


def test_a_sequential_and_its_file_give_equal_outputs(tmp_path):
    network = random_weights(deep())
    expected = network(XS, mask=MASK)
    converted = from_keras(network)
    assert_same(run(converted)[1], expected)
    network.save(tmp_path / "deep.keras")
    again = from_keras(tmp_path / "deep.keras")
    jax.tree.map(np.testing.assert_array_equal, again.params, converted.params)
    assert_same(run(again)[1], expected)


def test_converted_cells_are_those_of_the_library():
    network = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4, return_sequences=True)])
    assert from_keras(network).model is lstm(4)
    assert from_keras(random_weights(keras.layers.GRU(4, reset_after=False))).model is gru(4, reset="before")


relu = {"activation": jax.nn.relu, "recurrent_init": normal(0.3)}
OURS = {
    "elman": elman(4),
    "lstm": lstm(4),
    "gru": gru(4),
    "stack": stack(lstm(4), gru(5, reset="before"), gru(2), elman(3, **relu)),
    "bidirectional": bidirectional(lstm(4), gru(2)),
    "serial": serial(bidirectional(gru(4), gru(4)), layer(lstm(3)), bidirectional(elman(2), elman(3))),
    "activations": serial(bidirectional(elman(4), elman(4, **relu)), layer(elman(2, **relu)), layer(elman(2))),
}


def random_params(model: Any) -> Any:
    params = model.init(jax.random.key(0), 3)
    return jax.tree.map(lambda leaf: jnp.asarray(0.6 * RNG.normal(size=leaf.shape), jnp.float32), params)


@pytest.mark.parametrize("name", OURS)
def test_networks_of_ours_have_equal_outputs_in_keras_and_come_back_through_files(name, tmp_path):
    model, params = OURS[name], random_params(OURS[name])
    network = to_keras(model, params)
    assert_same(run((model, params))[1], network(XS, mask=MASK))
    network.save(tmp_path / "x.keras")
    jax.tree.map(np.testing.assert_array_equal, from_keras(str(tmp_path / "x.keras")).params, params)
    network.save_weights(tmp_path / "x.weights.h5")
    other = to_keras(model, jax.tree.map(jnp.zeros_like, params))
    other.load_weights(tmp_path / "x.weights.h5")
    jax.tree.map(np.testing.assert_array_equal, from_keras(other).params, params)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (lstm(3, peephole=True), "an lstm without peepholes for Keras"),
        (lstm(3, projection=2), "an lstm without a projection for Keras"),
        (lstm(3, layer_norm=True), "an lstm without layer norm for Keras"),
        (lstm(3, coupled=True), "an lstm without coupled gates for Keras"),
        (
            layer(gru(3), reverse=True),
            "forwards or both ways in all layers for Keras, layer 0 does not: `go_backwards`",
        ),
        (
            serial(bidirectional(gru(4), gru(3)), layer(gru(2))),
            "directions of one size below other layers for Keras, layer 0 has two",
        ),
        (elman(3, activation=jnp.sin), "`model` must compute what plain lstm, gru or elman"),
        (dense(3), "`params` must be of lstm, gru or elman cells"),
    ],
)
def test_what_keras_does_not_have_is_refused_with_the_reason(model, text):
    with pytest.raises(ValueError, match=text):
        to_keras(model, model.init(jax.random.key(0), 2))


def backwards_first() -> Any:
    return keras.layers.Bidirectional(
        keras.layers.GRU(4, go_backwards=True), backward_layer=keras.layers.GRU(4, go_backwards=False)
    )


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (lambda: keras.layers.GRU(4, go_backwards=True), "backwards only inside a Bidirectional, 'gru.*' has go_back"),
        (backwards_first, "a forward layer that walks forwards"),
        (
            lambda: keras.layers.Bidirectional(keras.layers.GRU(4), merge_mode="sum"),
            "merge_mode=\"concat\".* has 'sum'",
        ),
        (lambda: keras.layers.GRU(4, activation="relu"), "GRU layers with activation='tanh', 'gru.*' has 'relu'"),
        (
            lambda: keras.layers.SimpleRNN(4, activation="elu"),
            "SimpleRNN layers with activation='tanh' or 'relu', .* has 'elu'",
        ),
        (
            lambda: keras.layers.LSTM(4, recurrent_activation="hard_sigmoid"),
            "LSTM layers with recurrent_activation='sigmoid', 'lstm.*' has 'hard_sigmoid'",
        ),
        (
            lambda: keras.layers.Dense(4),
            "SimpleRNN, LSTM, GRU and Bidirectional layers alone, 'dense.*' is of type Dense",
        ),
        (lambda: keras.Sequential([keras.layers.GRU(4), keras.layers.Dense(4)]), "'dense.*' is of type Dense"),
        (lambda: keras.layers.RNN(keras.layers.GRUCell(4)), "'rnn.*' is of type RNN"),
    ],
)
def test_what_we_do_not_have_is_refused_with_the_reason(network, text):
    one = network()
    one.build((None, None, 3))
    with pytest.raises(ValueError, match=text):
        from_keras(one)


def test_what_is_no_network_of_keras_is_refused():
    with pytest.raises(ValueError, match="`source` must be built"):
        from_keras(keras.layers.GRU(4))
    with pytest.raises(ValueError, match=r"`source` must be a layer or .* a .keras or .weights.h5 file, got 'x.h5'"):
        from_keras("x.h5")
    with pytest.raises(ValueError, match=r"`source` must be a Keras layer or the path of a file of one, got"):
        from_keras(gru(4))


def hide_keras(monkeypatch):
    """From here on Keras cannot be imported."""
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "keras":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)


def test_without_keras_the_error_says_what_to_install(monkeypatch):
    hide_keras(monkeypatch)
    with pytest.raises(ImportError, match=r'pip install "rnn_jax\[interop\]"'):
        from_keras("x.keras")
