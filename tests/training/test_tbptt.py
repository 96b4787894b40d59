"""Truncated backpropagation through time against loops that do it by hand, step by step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparing import close, jit, random_params
from rich.console import Console

from rnn_jax import Auto, Chunked, gru, lru, lstm, stack, unroll, with_dropout
from rnn_jax.data.windows import Window, passes, random_windows, windows
from rnn_jax.metrics import masked_mean, tally
from rnn_jax.training import copy_state, create_state, fit, make_tbptt_step, unroll_window

RNG = np.random.default_rng(11)
STEPS, BATCH, INPUT, HIDDEN = 11, 3, 2, 4
XS = RNG.normal(size=(STEPS, BATCH, INPUT))
TARGETS = RNG.normal(size=(STEPS, BATCH))
BORDERS = RNG.random((STEPS, BATCH)) < 0.2
CELL = gru(HIDDEN)
RATE = 0.3


def make_params(dtype: Any) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    shapes = {"w_x": (INPUT, 3 * HIDDEN), "w_h": (HIDDEN, 3 * HIDDEN), "b": (3 * HIDDEN,), "b_hn": (HIDDEN,)}
    return {name: jnp.asarray(0.7 * rng.normal(size=shape), dtype) for name, shape in shapes.items()} | {
        "out": jnp.asarray(rng.normal(size=HIDDEN), dtype)
    }


def cell_params(params: Any) -> Any:
    names = ("w_x", "w_h", "b", "b_hn")
    like = jax.eval_shape(lambda: CELL.init(jax.random.key(0), INPUT))
    return like._replace(**{name: params[name] for name in names})


def make_loss_fn(burn_in: int = 0) -> Any:
    def loss_fn(params, carry, window, *, key, step):
        carry, hs = unroll_window(CELL, cell_params(params), window.inputs, carry, window, burn_in=burn_in)
        errors = (hs @ params["out"] - window.targets) ** 2
        return masked_mean(errors, window.weights), (carry, {"error": tally(errors, window.weights)})

    return loss_fn


def gru_by_hand(p: Any, h: Any, x: Any) -> Any:
    def row(v):
        return v[None]

    gates_x, gates_h = x @ p["w_x"] + row(p["b"]), h @ p["w_h"]
    r, z = (jax.nn.sigmoid(gates_x[:, part] + gates_h[:, part]) for part in (slice(0, HIDDEN), slice(HIDDEN, -HIDDEN)))
    n = jnp.tanh(gates_x[:, -HIDDEN:] + r * (gates_h[:, -HIDDEN:] + row(p["b_hn"])))
    return (1 - z) * n + z * h


def tbptt_by_hand(
    params: Any, borders: list[tuple[int, int]], lead: int, burn_in: int, rates: list[float]
) -> tuple[Any, list[float]]:
    """One update for each (start, end) of targets, every step written out; gradients go `lead - burn_in` back."""
    xs, targets = jnp.asarray(XS, params["out"].dtype), jnp.asarray(TARGETS, params["out"].dtype)
    start_carry = jnp.zeros((BATCH, HIDDEN), params["out"].dtype)
    losses = []
    for (start, end), rate in zip(borders, rates, strict=True):
        first = start - lead

        def loss_fn(params, start=start, end=end, first=first, start_carry=start_carry):
            h, total, handed_on = start_carry, 0.0, start_carry
            for step in range(first, end):
                if step == first + burn_in:
                    h = jax.lax.stop_gradient(h)
                if step == end - lead:
                    handed_on = h
                if step < 0:
                    continue
                fresh = BORDERS[step] | (step == 0)
                h = gru_by_hand(params, jnp.where(fresh[:, None], 0, h), xs[step])
                if step >= start:
                    total = total + ((h @ params["out"] - targets[step]) ** 2).sum()
            return total / ((end - start) * BATCH), h if lead == 0 else handed_on

        (loss, start_carry), grads = jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
        params = jax.tree.map(lambda p, g, rate=rate: p - rate * g, params, grads)
        losses.append(float(loss))
    return params, losses


@pytest.mark.parametrize(("k1", "k2", "burn_in"), [(3, 3, 0), (2, 5, 0), (3, 4, 0), (3, 3, 2), (2, 3, 4)])
@pytest.mark.usefixtures("x64")
def test_it_equals_a_loop_by_hand(k1, k2, burn_in):
    tx = optax.sgd(RATE)
    carry = CELL.init_carry(cell_params(make_params(jnp.float64)), (BATCH,))
    assert carry.dtype == jnp.float64
    state = create_state(make_params(jnp.float64), tx, jax.random.key(0), carry=carry + 9.0)  # a pass starts afresh
    step = make_tbptt_step(make_loss_fn(burn_in), tx)
    series = windows(XS, TARGETS, k1, k2, burn_in=burn_in, borders=BORDERS)
    losses = []
    for window in series:
        state, metrics = step(state, window)
        losses.append(float(metrics["loss"].total))
        assert float(metrics["error"].count) == float(window.weights.sum())
    ends = [(start, min(start + k1, STEPS)) for start in range(0, STEPS, k1)]
    assert len(ends) >= 3
    expected, expected_losses = tbptt_by_hand(
        make_params(jnp.float64), ends, burn_in + k2 - k1, burn_in, [RATE] * len(ends)
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-12)
    for name, value in expected.items():
        np.testing.assert_allclose(state.params[name], value, rtol=1e-10, atol=1e-12, err_msg=name)
    assert step._cache_size() == 1
    assert int(state.step) == len(ends)


def test_how_far_the_gradient_flows_matters():
    results = [
        tbptt_by_hand(make_params(jnp.float32), [(0, 3), (3, 6), (6, 9)], lead, burn_in, [RATE] * 3)[0]["w_h"]
        for lead, burn_in in ((0, 0), (2, 0), (2, 2))
    ]
    assert not np.allclose(results[0], results[1], atol=1e-4)
    assert not np.allclose(results[1], results[2], atol=1e-4)


@pytest.mark.usefixtures("x64")
def test_random_lengths_are_one_program_whose_updates_scale_with_the_length():
    traces = []
    plain = make_loss_fn()

    def counted(params, carry, window, *, key, step):
        traces.append(None)
        return plain(params, carry, window, key=key, step=step)

    tx = optax.sgd(RATE)
    step = make_tbptt_step(counted, tx)
    drawn = set()
    for epoch in range(2):
        carry = CELL.init_carry(cell_params(make_params(jnp.float64)), (BATCH,))
        state = create_state(make_params(jnp.float64), tx, jax.random.key(0), carry=carry)
        series = random_windows(XS, TARGETS, 4, seed=0, epoch=epoch, overlap=1, borders=BORDERS, spread=1.0, short=0.4)
        for window in series:
            state, metrics = step(state, window)
        lengths = np.diff(series.ends, prepend=0)
        drawn |= set(lengths.tolist())
        ends = list(zip((series.ends - lengths).tolist(), series.ends.tolist(), strict=True))
        expected, losses = tbptt_by_hand(
            make_params(jnp.float64), ends, 1, 0, [RATE * float(np.float32(n / 4)) for n in lengths]
        )
        np.testing.assert_allclose(metrics["loss"].total, losses[-1], rtol=1e-12)
        for name, value in expected.items():
            np.testing.assert_allclose(state.params[name], value, rtol=1e-10, atol=1e-12, err_msg=name)
    assert len(drawn) >= 3
    assert len(traces) == 1
    assert step._cache_size() == 1


def test_resets_at_borders_equal_separate_documents():
    documents = [(0, 4), (4, 6), (6, STEPS)]
    borders = np.zeros((STEPS, 1), bool)
    for start, _ in documents:
        borders[start] = True
    xs, targets = XS[:, :1].astype(np.float32), TARGETS[:, :1].astype(np.float32)
    (window,) = windows(xs, targets, STEPS, borders=borders)
    params = make_params(jnp.float32)

    def packed(params):
        carry = jnp.full((1, HIDDEN), 5.0)
        return make_loss_fn()(params, carry, window, key=None, step=None)[0]

    def apart(params):
        total = 0.0
        for start, end in documents:
            _, hs = unroll(CELL, cell_params(params), xs[start:end])
            total += ((hs @ params["out"] - targets[start:end]) ** 2).sum()
        return total / STEPS

    close(jit(jax.value_and_grad(packed))(params), jit(jax.value_and_grad(apart))(params))


RUN_ON = {
    "lstm": lstm(4),
    "lru": lru(4),
    "stack": stack(gru(4), lru(3)),
    "dropout": with_dropout(lstm(4), zoneout_h=0.1),
}


@pytest.mark.parametrize("cell", RUN_ON.values(), ids=RUN_ON)
@pytest.mark.parametrize(
    "series",
    [
        windows(XS.astype(np.float32), TARGETS, 4, borders=BORDERS),
        windows(XS.astype(np.float32), TARGETS, 2, 4, burn_in=1, borders=BORDERS),
        windows(XS.astype(np.float32), TARGETS, 4, 5, burn_in=5, borders=BORDERS),
        random_windows(XS.astype(np.float32), TARGETS, 3, seed=1, epoch=0, overlap=3, borders=BORDERS, spread=1.0),
    ],
    ids=["plain", "overlap", "long_burn_in", "random"],
)
def test_windows_one_after_another_equal_one_unroll(cell, series):
    params = random_params(cell, INPUT)
    _, expected = jit(lambda p: unroll(cell, p, jnp.asarray(XS, jnp.float32), resets=jnp.asarray(BORDERS)))(params)
    for method in (Auto(), Chunked(2)):
        run = jit(
            lambda p, c, w, method=method: unroll_window(cell, p, w.inputs, c, w, burn_in=series.burn_in, method=method)
        )
        carry = jax.tree.map(lambda leaf: leaf + 3, cell.init_carry(params, (BATCH,)))
        pieces = []
        for window in series:
            carry, ys = run(params, carry, window)
            pieces.append(np.asarray(ys)[window.weights[:, 0] > 0])
        close(np.concatenate(pieces), np.asarray(expected))
        assert run._cache_size() == 1


@pytest.mark.parametrize("burn_in", [0, 3])
def test_noise_of_the_whole_window_is_cut_with_it(burn_in):
    cell = with_dropout(gru(HIDDEN), inputs=0.4, zoneout_h=0.3)
    params = cell.init(jax.random.key(0), INPUT)
    xs = jnp.asarray(XS, jnp.float32)
    noisy = cell.perturb(jax.random.key(1), params, xs.shape)
    window = Window(xs, TARGETS, jnp.asarray(BORDERS), np.ones_like(TARGETS), advance=jnp.int32(2))
    start = cell.init_carry(params, (BATCH,)) + 1
    carry, ys = jit(lambda: unroll_window(cell, noisy, xs, start, window, burn_in=burn_in))()
    _, expected = jit(lambda: unroll(cell, noisy, xs, start, resets=jnp.asarray(BORDERS)))()
    np.testing.assert_allclose(ys, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(carry, expected[1], rtol=1e-6, atol=1e-6)


def test_no_gradient_flows_through_burn_in():
    params = make_params(jnp.float32)
    window = windows(XS.astype(np.float32), TARGETS, 4, burn_in=3)[1]
    start = jnp.ones((BATCH, HIDDEN))

    def final(xs, start, burn_in):
        return unroll_window(CELL, cell_params(params), xs, start, window, burn_in=burn_in)[1].sum()

    by_xs, by_start = jit(jax.grad(final, (0, 1)), static_argnums=2)(window.inputs, start, 3)
    assert np.all(np.asarray(by_start) == 0)
    assert (np.abs(by_xs).max((1, 2)) > 0).tolist() == [False] * 3 + [True] * 4
    by_xs, by_start = jit(jax.grad(final, (0, 1)), static_argnums=2)(window.inputs, start, 0)
    assert np.abs(by_xs).max((1, 2)).min() > 0
    assert np.abs(by_start).max() > 0


def test_seeds_side_by_side_equal_seeds_alone():
    tx = optax.adam(0.01)
    step = make_tbptt_step(make_loss_fn(), tx)
    series = random_windows(XS.astype(np.float32), TARGETS.astype(np.float32), 4, seed=0, epoch=0, spread=1.0)
    carry = jnp.zeros((BATCH, HIDDEN))
    alone = [
        create_state(
            jax.tree.map(lambda p, seed=seed: p * seed, make_params(jnp.float32)), tx, jax.random.key(seed), carry
        )
        for seed in (1, 2)
    ]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    together = jax.jit(jax.vmap(step, in_axes=(0, None)))
    for window in series:
        states, _ = together(states, window)
        alone = [step(state, window)[0] for state in alone]
    for index, state in enumerate(alone):
        close(jax.tree.map(lambda leaf, index=index: leaf[index], states.params), state.params)
        close(states.carry[index], state.carry)
    assert together._cache_size() == step._cache_size() == 1


def test_the_loop_runs_it_over_passes():
    xs, targets = XS.astype(np.float32), TARGETS.astype(np.float32)
    series = passes(lambda epoch: random_windows(xs, targets, 4, seed=0, epoch=epoch, spread=1.0), 4)
    tx = optax.sgd(RATE)
    step = make_tbptt_step(make_loss_fn(), tx)
    start = create_state(make_params(jnp.float32), tx, jax.random.key(0), jnp.zeros((BATCH, HIDDEN)))
    state = copy_state(start)
    for window in series:
        state, _ = step(state, window)
    fitted, info = fit(start, step, series, num_steps=len(series), console=Console(quiet=True))
    assert (info.steps, info.stopped) == (len(series), "num_steps")
    close(fitted.params, state.params)
    close(fitted.carry, state.carry)


def test_no_gradient_flows_into_the_window_before():
    tx = optax.sgd(RATE)
    step = make_tbptt_step(make_loss_fn(), tx)
    window = windows(XS.astype(np.float32), TARGETS.astype(np.float32), 4)[1]

    def carried(start):
        state = create_state(make_params(jnp.float32), tx, jax.random.key(0), jnp.ones((BATCH, HIDDEN)))
        return step(state.replace(carry=start), window)[0].carry.sum()

    assert np.all(np.asarray(jax.grad(carried)(jnp.ones((BATCH, HIDDEN)))) == 0)


WINDOW = windows(XS.astype(np.float32), TARGETS.astype(np.float32), 4)[0]


@pytest.mark.parametrize(
    ("carry", "returned", "message"),
    [
        (None, lambda carry: carry, r"`state.carry` must be the carry of the first window.*got None"),
        (
            jnp.zeros((3, 4)),
            lambda carry: (carry,),
            r"must return a carry like state.carry, float32\[3, 4\], got \('fl",
        ),
        (jnp.zeros((3, 4)), lambda carry: carry[:2], r"like state.carry, float32\[3, 4\], got float32\[2, 4\]"),
        (jnp.zeros((3, 4)), lambda carry: carry.astype(jnp.bfloat16), r"got bfloat16\[3, 4\]"),
    ],
)
def test_a_carry_that_cannot_be_kept_is_refused(carry, returned, message):
    def loss_fn(params, carry, window, *, key, step):
        return params["out"].sum(), (returned(carry), {})

    tx = optax.sgd(RATE)
    state = create_state(make_params(jnp.float32), tx, jax.random.key(0), carry)
    with pytest.raises(ValueError, match=message):
        make_tbptt_step(loss_fn, tx)(state, WINDOW)


def test_a_weakly_typed_carry_does_not_compile_again():
    def loss_fn(params, carry, window, *, key, step):
        return params["out"].sum(), (jnp.asarray(1.0), {})  # weakly typed

    tx = optax.sgd(RATE)
    step = make_tbptt_step(loss_fn, tx)
    state = create_state(make_params(jnp.float32), tx, jax.random.key(0), jnp.float32(0))
    for _ in range(3):
        before = state
        state, _ = step(state, WINDOW)
        assert before.params["w_h"].is_deleted()  # its memory is that of the new one
    assert step._cache_size() == 1


def test_a_metric_that_would_be_overwritten_and_a_burn_in_that_is_all_are_refused():
    def loss_fn(params, carry, window, *, key, step):
        return params["out"].sum(), (carry, {"grad_norm": tally(params["out"], params["out"])})

    tx = optax.sgd(RATE)
    state = create_state(make_params(jnp.float32), tx, jax.random.key(0), jnp.zeros((BATCH, HIDDEN)))
    with pytest.raises(ValueError, match=r"must not return metrics named \['grad_norm'\]"):
        make_tbptt_step(loss_fn, tx)(state, WINDOW)
    params = cell_params(make_params(jnp.float32))
    for burn_in, message in (
        (4, r"`burn_in` must be less than the 4 steps of the window, got 4"),
        (-1, r"`burn_in` must be an integer of at least 0, got int -1"),
    ):
        with pytest.raises(ValueError, match=message):
            unroll_window(CELL, params, WINDOW.inputs, jnp.zeros((BATCH, HIDDEN)), WINDOW, burn_in=burn_in)
