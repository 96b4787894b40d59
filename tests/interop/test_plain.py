"""Networks taken apart into plain cells, and what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bidirectional, dense, elman, gru, layer, lstm, serial, stack, with_dropout
from rnn_jax.initializers import chrono
from rnn_jax.interop.plain import assemble, take_apart

RELU = {"activation": jax.nn.relu}
NETWORKS = {
    "gru": gru(3),
    "reset before": gru(3, reset="before"),
    "relu": elman(3, **RELU),
    "peephole, coupled": lstm(3, peephole=True, coupled=True),
    "projection": lstm(4, projection=2),
    "layer norm": lstm(3, layer_norm=True),
    "chrono": lstm(3, bias_init=chrono(9.0)),
    "stack": stack(elman(3), gru(4), lstm(2)),
    "backwards": layer(lstm(3), reverse=True),
    "backwards relu": layer(elman(3, **RELU), reverse=True),
    "both": bidirectional(gru(3), gru(3)),
    "activations": stack(elman(3), elman(2, **RELU), lstm(2), elman(3, **RELU), elman(4)),
    "deep": serial(
        bidirectional(lstm(3), lstm(3)), bidirectional(elman(2, **RELU), elman(2)), bidirectional(gru(2), elman(2))
    ),
    "mixed": serial(layer(gru(3)), bidirectional(lstm(2), lstm(2))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_make_the_network_again(name: str) -> None:
    model = NETWORKS[name]
    params = model.init(jax.random.key(0), 2)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(1), leaf.shape), params)
    again = assemble(take_apart(model, params))
    xs, lengths = jax.random.normal(jax.random.key(2), (7, 3, 2)), jnp.array([7, 4, 0])
    whole = [one.apply if hasattr(one, "apply") else layer(one).apply for one in (model, again.model)]
    found = [f(p, xs, lengths=lengths) for f, p in zip(whole, (params, again.params), strict=True)]
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), *found)
    assert jax.tree.structure(params) == jax.tree.structure(again.params)


@pytest.mark.parametrize(
    "model",
    [
        elman(3, activation=jnp.sin),
        stack(elman(3, **RELU), elman(3, activation=jax.nn.elu)),
        elman(3)._replace(init_carry=lambda params, batch=(): (), step=lambda params, carry, z: (carry, z)),
        lstm(3, cell_clip=20.0),
        bidirectional(gru(3), gru(3), merge="sum"),
        serial(layer(gru(3)), layer(lstm(3), reverse=True)),
    ],
    ids=["activation", "one activation", "no carry", "clip", "merge", "ways"],
)
def test_what_only_looks_plain_is_refused(model) -> None:
    with pytest.raises(ValueError, match="`model` must compute what plain lstm, gru or elman"):
        take_apart(model, model.init(jax.random.key(0), 2))


def test_other_cells_and_drawn_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="`params` must be of lstm, gru or elman cells, got DenseParams"):
        take_apart(dense(3), dense(3).init(jax.random.key(0), 2))
    with pytest.raises(ValueError, match="`model` must be a Cell or a Layer, got"):
        take_apart("gru", ())
    dropped = with_dropout(gru(3), weights=0.5)
    drawn = dropped.perturb(jax.random.key(0), dropped.init(jax.random.key(0), 2), (4, 1, 2))
    with pytest.raises(ValueError, match="`params` must be"):
        take_apart(dropped, drawn)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_parameters_keep_their_dtype(dtype, x64: None) -> None:
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), gru(3).init(jax.random.key(0), 2))
    ((walk,),) = take_apart(gru(3), params)
    jax.tree.map(np.testing.assert_array_equal, walk.params, params)
    assert walk.params.w_x.dtype == dtype
