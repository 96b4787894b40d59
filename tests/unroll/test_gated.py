"""The rule of gated steps against automatic differentiation of the plain scan, by every transformation."""

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from cases import MAIN, assert_close, everything, make_xs
from test_lengths_masks_resets import SCENES, real_steps, spoil

from rnn_jax.cells import co_rnn, elman, gru, ind_rnn, lstm, mgu, orthogonal_rnn, s_lstm
from rnn_jax.dropout import with_dropout
from rnn_jax.gated_step import GatedStep, ProductStep
from rnn_jax.types import Cell
from rnn_jax.unroll import Chunked, Scan, unroll, unroll_carries
from rnn_jax.unroll.walk import Walk

CELLS = {
    "elman": elman(5),
    "gru": gru(5),
    "lstm": lstm(5),
    "lstm_options": lstm(5, peephole=True, cell_clip=0.5),
    "lstm_coupled": lstm(5, coupled=True),
    "lstm_projection": lstm(5, projection=3),
    "lstm_norm": lstm(5, layer_norm=True),
    "gru_before": gru(5, reset="before"),
    "mgu": mgu(5),
    "s_lstm": s_lstm(6, num_heads=2),
    "orthogonal": orthogonal_rnn(5),
    "dropout": with_dropout(lstm(5), variational=0.5),
}
CASE = {case.name: case for case in MAIN}["lstm"]
SCENE = SCENES["all"]
over_cells = pytest.mark.parametrize("name", CELLS)


@pytest.fixture
def optimised() -> Iterator[None]:
    """Compiles as users do."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def plain(cell: Cell) -> Cell:
    """The same step, as a function that `unroll` does not know."""
    step = cell.step
    return cell._replace(step=lambda params, carry, z: step(params, carry, z))


def params_of(cell: Cell) -> Any:
    params = cell.init(jax.random.key(3), make_xs(CASE).shape[-1])
    keys = iter(jax.random.split(jax.random.key(4), 20))
    return jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), params)


def loss(cell: Cell, **options: Any) -> Any:
    """A function of parameters and xs in which outputs, final carry and every carry have weights of their own."""

    def of(params: Any, xs: Any) -> Any:
        carry, ys, carries = unroll_carries(cell, params, xs, **options)
        leaves = [*jax.tree.leaves(carry), ys, *jax.tree.leaves(carries)]
        return sum(
            jnp.sum(jnp.sin(leaf * jnp.linspace(1, 2, leaf.size, dtype=leaf.dtype).reshape(leaf.shape)))
            for leaf in leaves
        )

    return of


def walk_in(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    """Chunks of `size` steps, as for long sequences on a CPU; None is as it would be on a GPU."""
    if size is None:
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    else:
        monkeypatch.setattr(Walk, "here", lambda num_steps, *_: Walk(num_steps, size, *_[2:]))
    jax.clear_caches()


@pytest.mark.parametrize(
    ("num_devices", "size", "reverse"),
    [(1, 6, False), (1, 2, False), (1, 2, True), (8, 4, True), (1, 1, False), (1, None, True)],
)
@over_cells
def test_values_and_gradients_equal_the_plain_scan(
    name: str, num_devices: int, size: int | None, reverse: bool, x64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: num_devices)
    walk_in(monkeypatch, size)
    cell = CELLS[name]
    assert isinstance(cell.step, GatedStep | ProductStep)
    params, xs = params_of(cell), spoil(make_xs(CASE), real_steps(SCENE))
    carry = cell.init_carry(params, xs.shape[1:-1])
    carry = jax.tree.map(lambda leaf: leaf + 0.1, carry)
    got, expected = (everything(one, params, xs, carry, reverse=reverse, **SCENE) for one in (cell, plain(cell)))
    assert_close(got, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "size"),
    [*((name, 4) for name in CELLS if name not in ("lstm_norm", "mgu", "orthogonal")), ("gru", 6), ("lstm", None)],
)
def test_every_transformation_works(name: str, size: int | None, x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    walk_in(monkeypatch, size)
    cell = CELLS[name]
    params, xs = params_of(cell), make_xs(CASE)
    ours, theirs = loss(cell), loss(plain(cell))

    def hessian_product(of: Any) -> Any:
        return jax.jvp(lambda p: jax.grad(of)(p, xs), (params,), (params,))[1]

    def reverse_twice(of: Any) -> Any:
        return jax.grad(lambda p: sum(jnp.vdot(g, g) for g in jax.tree.leaves(jax.grad(of)(p, xs))))(params)

    transformations = {
        "jvp": lambda of: jax.jvp(of, (params, xs), (params, jnp.cos(xs))),
        "forward over reverse": hessian_product,
        "reverse over reverse": reverse_twice,
        "vmap": lambda of: jax.vmap(jax.grad(of), in_axes=(None, 0))(params, jnp.stack([xs, 2 * xs])),
        "vmap over parameters": lambda of: jax.vmap(jax.grad(of), in_axes=(0, None))(
            jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), params), xs
        ),
        "remat": lambda of: jax.grad(jax.checkpoint(of))(params, xs),
        "jacfwd": lambda of: jax.jacfwd(of, argnums=1)(params, xs),
    }
    for transformed in transformations.values():
        got, expected = jax.jit(lambda t=transformed: (t(ours), t(theirs)))()
        assert_close(got, expected, rtol=1e-8)


@pytest.mark.parametrize("method", [Scan(unroll=3), Chunked(2)], ids=repr)
def test_other_strategies_take_the_rule_as_well(method: Any, x64: None) -> None:
    params, xs = params_of(CELLS["gru"]), make_xs(CASE)
    got = jax.grad(loss(CELLS["gru"], method=method))(params, xs)
    assert_close(got, jax.grad(loss(plain(CELLS["gru"])))(params, xs), rtol=1e-9)


def turns_with(shape: tuple[int, ...], cell: Cell, num_rows: int) -> set[int]:
    """The numbers of turns of those loops of the gradient that hand on an array of this shape."""
    params, xs = cell.init(jax.random.key(0), 3), jnp.ones((96, num_rows, 3))
    jaxpr = jax.make_jaxpr(jax.grad(lambda p: unroll(cell, p, xs)[1].sum()))(params)
    turns = set()

    def look(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            if equation.primitive.name == "scan":
                body = equation.params["jaxpr"]
                results = getattr(body, "jaxpr", body).outvars
                if any(variable.aval.shape[-2:] == shape for variable in results):
                    turns.add(equation.params["length"])
            if equation.primitive.name == "linear_map":
                leaves, count = [variable.aval for variable in equation.invars], equation.params["count"]
                look(jax.make_jaxpr(equation.params["function"])(leaves[:count], leaves[count:]).jaxpr)
            for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "jaxpr")):
                if hasattr(inner, "jaxpr"):
                    look(inner.jaxpr)

    look(jaxpr.jaxpr)
    return turns


@pytest.mark.parametrize(
    "cell",
    [elman(16), gru(16), lstm(16), with_dropout(lstm(16), inputs=0.1), lstm(16, layer_norm=True)],
    ids=["elman", "gru", "lstm", "dropout", "lstm_norm"],
)
def test_the_gradient_of_the_kernel_is_added_up_once_a_chunk(cell: Cell) -> None:
    shape = jax.tree.leaves(cell.step.kernel(cell.init(jax.random.key(0), 3)))[0].shape
    assert turns_with(shape, cell, 2000) == {96 // 8}
    assert turns_with(shape, plain(cell), 2000) == {96}
    assert turns_with(shape, cell, 8) == set()  # once in all


@pytest.mark.parametrize(
    "cell", [lstm(8), gru(8, reset="before"), s_lstm(8, num_heads=2)], ids=["lstm", "gru_before", "s_lstm"]
)
def test_half_precision_has_gradients_near_those_of_the_plain_scan(cell: Cell) -> None:
    params, xs = cell.init(jax.random.key(0), 3), jax.random.normal(jax.random.key(1), (9, 4, 3), jnp.bfloat16)
    got, expected = (
        jax.grad(lambda p, one=one: unroll(one, p, xs)[1].astype(jnp.float32).sum())(params)
        for one in (cell, plain(cell))
    )
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        assert float(jnp.abs(ours - theirs).max()) < 0.02 * float(jnp.abs(theirs).max())


def test_cells_that_meet_parameters_in_other_products_keep_the_plain_scan() -> None:
    for cell in (co_rnn(4), ind_rnn(4)):
        assert not isinstance(cell.step, GatedStep | ProductStep)


@pytest.mark.parametrize(("size", "num_loops"), [(96, 2), (8, 4)])
@pytest.mark.parametrize("output", ["last carry", "sum"])
def test_constant_gradients_of_all_steps_are_not_made_anew_in_every_turn(
    output: str, size: int, num_loops: int, optimised: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk_in(monkeypatch, size)
    cell, shape = gru(16), (96, 64, 16)
    params = cell.init(jax.random.key(0), 3)

    def of(params: Any, xs: Any) -> Any:
        carry, ys = unroll(cell, params, xs)
        return carry.sum() if output == "last carry" else ys.sum()

    text = jax.jit(jax.grad(of)).lower(params, jnp.ones((96, 64, 3))).compile().as_text()
    bodies = set(re.findall(r"body=%([\w.]+)", text))
    computations = {part.split(" ", 1)[0]: part for part in text.split("\n%")}
    assert len(bodies) >= num_loops
    made = f"f32[{','.join(map(str, shape))}]"
    for body in bodies:
        for line in computations[body].splitlines():
            assert not (f"= {made}" in line and "broadcast" in line), line
