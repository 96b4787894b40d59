"""Gradients of tapped networks against one jax.grad for every step of every layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import (
    bidirectional,
    dense,
    elman,
    gru,
    layer,
    lru,
    lstm,
    serial,
    stack,
    stream_step,
    unroll,
    with_dropout,
)
from rnn_jax.analysis import gradient_norms, with_taps
from rnn_jax.tree import at_step

T, LENGTHS = 4, (4, 2)


def doubles(tree):
    wide = lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float64))  # noqa: E731
    return jax.tree.map(wide, tree)


def walk(cell, params, xs, change=None, reverse=False):
    """Outputs of a loop over steps, where step t reads the carry of `change = (t, carry)`, and all carries read."""
    carry, ys, read = cell.init_carry(params, ()), {}, {}
    for t in range(len(xs))[:: -1 if reverse else 1]:
        if change:
            carry = jax.tree.map(lambda other, leaf: jnp.where(change[0] == t, other, leaf), change[1], carry)  # noqa: B023
        read[t] = carry
        carry, ys[t] = stream_step(cell, params, carry, xs[t])
    return jnp.stack([ys[t] for t in range(len(xs))]), read


def sizes(carry_gradient) -> dict[str, float]:
    named = carry_gradient._asdict() if hasattr(carry_gradient, "_asdict") else {"": carry_gradient}
    return {name: float(jnp.linalg.norm(leaf)) for name, leaf in named.items()}


@pytest.mark.usefixtures("x64")
def test_every_layer_and_direction_has_the_gradients_of_a_loop() -> None:
    cells = {"0.forward": lstm(3), "0.backward": gru(2), "1": lstm(2), "3": elman(2)}
    top = dense(1)

    def build(wrap):
        first = bidirectional(wrap(cells["0.forward"]), wrap(cells["0.backward"]))
        return serial(first, *(layer(wrap(cells[name])) for name in "1"), layer(top), layer(wrap(cells["3"])))

    params = doubles(build(lambda cell: cell).init(jax.random.key(0), 2))
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(T, 2, 2)))
    tapped = build(with_taps)
    noisy = doubles(tapped.perturb(jax.random.key(1), params, xs.shape))
    plain = build(lambda cell: cell).apply(params, xs)[1]
    for given in (params, noisy):
        np.testing.assert_array_equal(tapped.apply(given, xs)[1], plain)

    def loss(ys, weights):
        return (jnp.sin(ys) * weights).sum()

    weights = jnp.asarray(np.random.default_rng(1).normal(size=(T, 2, 2)))
    lengths = jnp.array(LENGTHS)
    got = jax.jit(
        lambda noisy: gradient_norms(lambda p: loss(tapped.apply(p, xs, lengths=lengths)[1], weights), noisy)
    )(noisy)
    assert set(got) == {"0.forward.c", "0.forward.h", "0.backward", "1.c", "1.h", "3"}

    def through(row, name=None, t=None, carry=None):
        """The loss of a row where one carry is another, and the carries that were read."""
        x, read = xs[: LENGTHS[row], row], {}
        change = lambda other: (t, carry) if name == other else None  # noqa: E731
        ahead, read["0.forward"] = walk(cells["0.forward"], params[0].forward, x, change("0.forward"))
        behind, read["0.backward"] = walk(cells["0.backward"], params[0].backward, x, change("0.backward"), True)
        ys, read["1"] = walk(cells["1"], params[1], jnp.concatenate([ahead, behind], -1), change("1"))
        ys, read["3"] = walk(cells["3"], params[3], walk(top, params[2], ys)[0], change("3"))
        return loss(ys, weights[: LENGTHS[row], row]), read

    for row, length in enumerate(LENGTHS):
        read = through(row)[1]
        assert all((got[place][length:, row] == 0).all() for place in got)
        for name in cells:
            bars = jax.jit(jax.grad(lambda carry, t: through(row, name, t, carry)[0]))  # noqa: B023
            for t in range(length):
                for part, size in sizes(bars(read[name][t], t)).items():
                    assert float(got[f"{name}.{part}".rstrip(".")][t, row]) == pytest.approx(size, rel=1e-10)
    assert len({round(float(value), 12) for values in got.values() for value in values.ravel()}) > 30


@pytest.mark.usefixtures("x64")
def test_a_stack_streams_with_taps_and_linear_and_noisy_cells_have_them() -> None:
    cells = lru(3, state_size=2), with_dropout(lstm(2), zoneout_h=0.4, inputs=0.3), gru(2)
    plain, net = stack(*cells), stack(*map(with_taps, cells))
    params = doubles(plain.init(jax.random.key(0), 2))
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(T, 2)))
    noisy, expected = (one.perturb(jax.random.key(1), params, xs.shape) for one in (net, plain))
    np.testing.assert_allclose(unroll(net, noisy, xs)[1], unroll(plain, expected, xs)[1], rtol=1e-12)
    got = gradient_norms(lambda p: jnp.square(unroll(net, p, xs)[1][-1]).sum(), noisy, num_axes=1)
    assert {name: norm.shape for name, norm in got.items()} == dict.fromkeys(("0", "1.c", "1.h", "2"), (T,))

    def last(carry, t):
        for now in range(t, T):
            carry, y = stream_step(plain, at_step(expected, now), carry, xs[now])
        return jnp.square(y).sum()

    carry = plain.init_carry(params, ())
    for t in range(T):
        complex_bar, lstm_bar, gru_bar = jax.grad(last)(carry, t)
        assert float(got["0"][t]) == pytest.approx(float(jnp.linalg.norm(complex_bar)), rel=1e-9)
        assert float(got["1.c"][t]) == pytest.approx(float(jnp.linalg.norm(lstm_bar.c)), rel=1e-9)
        assert float(got["1.h"][t]) == pytest.approx(float(jnp.linalg.norm(lstm_bar.h)), rel=1e-9)
        assert float(got["2"][t]) == pytest.approx(float(jnp.linalg.norm(gru_bar)), rel=1e-9)
        carry, _ = stream_step(plain, at_step(expected, t), carry, xs[t])


def test_a_network_of_one_cell_and_one_without_taps() -> None:
    cell = with_taps(gru(2))
    params = cell.perturb(jax.random.key(1), cell.init(jax.random.key(0), 3), (4, 2, 3))
    assert list(gradient_norms(lambda p: unroll(cell, p, jnp.ones((4, 2, 3)))[1].sum(), params)) == ["carry"]
    with pytest.raises(
        ValueError, match="`params` must be perturbed parameters of cells with_taps, got none with taps"
    ):
        gradient_norms(lambda p: 0.0, gru(2).init(jax.random.key(0), 3))
    with pytest.raises(ValueError, match="`cell` must be a Cell or a LinearCell"):
        with_taps(layer(gru(2)))
