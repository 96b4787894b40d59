"""The linear recurrence: values of a NumPy loop, derivatives of the plain scan, under every transformation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_close, weigh
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from rnn_jax.types import LinearCell
from rnn_jax.unroll import Associative, Auto, Chunked, Recursive, Scan, Sharded, unroll, unroll_carries
from rnn_jax.unroll.linear import linear_recurrence

WAYS = {"loop": False, "at_once": True, "by_platform": None}
over_ways = pytest.mark.parametrize("parallel", WAYS.values(), ids=WAYS.keys())
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
KINDS = ["real", "complex"]


def draw(kind: str, steps: int = 5, batch: tuple[int, ...] = (2,), n: int = 3, dtype: Any = jnp.float64) -> list[Any]:
    """a, b and h, distinct numbers; one factor is exactly zero."""
    rng = np.random.default_rng(steps)

    def one(*shape: int) -> Any:
        values = rng.standard_normal(shape)
        return jnp.asarray(values + 1j * rng.standard_normal(shape) if kind == "complex" else values)

    a, b, h = one(steps, *batch, n), one(steps, *batch, n), one(*batch, n)
    a = a.at[(steps // 2, *[0] * len(batch), 0)].set(0)
    kinds = {"real": dtype, "complex": jnp.complex128 if dtype == jnp.float64 else jnp.complex64}
    return [leaf.astype(kinds[kind]) for leaf in (a, b, h)]


def numpy_loop(given: list[Any], reverse: bool) -> np.ndarray:
    a, b, h = (np.asarray(leaf) for leaf in given)
    hs = np.zeros_like(b)
    for t in reversed(range(len(a))) if reverse else range(len(a)):
        h = hs[t] = a[t] * h + b[t]
    return hs


def definition(a: Any, b: Any, h: Any, reverse: bool = False) -> Any:
    """The plain scan, differentiated by jax."""
    return lax.scan(lambda h, m: (m[0] * h + m[1],) * 2, h, (a, b), reverse=reverse)[1]


def loss(function: Any, **options: Any) -> Any:
    """A number that is not linear in what it depends on."""

    def one(a: Any, b: Any, h: Any) -> Any:
        hs = function(a, b, h, **options)
        return weigh(hs) + weigh(hs * hs)

    return one


def count(text: str, reverse_of: str = "while(") -> int:
    return sum(f" {reverse_of}" in line for line in text.splitlines())


def gradient_of(parallel: Any) -> Any:
    return jax.jit(jax.grad(loss(linear_recurrence, reverse=False, parallel=parallel), (0, 1, 2)))


@over_ways
@both_ways
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("steps", "batch"), [(1, ()), (2, (3,)), (7, (2, 3))], ids=["T1", "T2", "T7"])
def test_values_equal_a_numpy_loop(kind: str, steps: int, batch: Any, reverse: bool, parallel: Any, x64: None) -> None:
    given = draw(kind, steps, batch)
    expected = numpy_loop(given, reverse)
    run = lambda a, b, h: linear_recurrence(a, b, h, reverse=reverse, parallel=parallel)  # noqa: E731
    assert_close(run(*given), expected, rtol=1e-13)
    assert_close(jax.jit(run)(*given), expected, rtol=1e-13)


@over_ways
@both_ways
@pytest.mark.parametrize(("kind", "steps"), [("real", 1), ("complex", 2), ("complex", 6)])
def test_first_derivatives_equal_those_of_the_plain_scan(
    kind: str, steps: int, reverse: bool, parallel: Any, x64: None
) -> None:
    given = draw(kind, steps)
    ours = loss(linear_recurrence, reverse=reverse, parallel=parallel)
    plain = loss(definition, reverse=reverse)
    dots = [0.3 + jnp.flip(leaf, -1) for leaf in given]
    compiled = jax.jit(lambda derive, f: derive(f), static_argnums=(0, 1))
    for derive in (
        lambda f: jax.value_and_grad(f, (0, 1, 2))(*given),
        lambda f: jax.jvp(f, given, dots),
        lambda f: jax.jvp(lambda b: f(given[0], b, given[2]), given[1:2], dots[1:2]),
        lambda f: jax.grad(lambda a: f(a, *given[1:]))(given[0]),
        lambda f: jax.grad(lambda h: f(*given[:2], h))(given[2]),
    ):
        assert_close(compiled(derive, ours), compiled(derive, plain), rtol=1e-11)


@over_ways
def test_derivatives_without_jit_equal_those_of_the_plain_scan(parallel: Any, x64: None) -> None:
    given, ours = draw("real"), loss(linear_recurrence, reverse=False, parallel=parallel)
    assert_close(jax.grad(ours, (0, 1, 2))(*given), jax.grad(loss(definition), (0, 1, 2))(*given), rtol=1e-11)


@over_ways
@both_ways
def test_second_derivatives_equal_those_of_the_plain_scan(reverse: bool, parallel: Any, x64: None) -> None:
    given = draw("real", 4, (), 2)
    ours = loss(linear_recurrence, reverse=reverse, parallel=parallel)
    plain = loss(definition, reverse=reverse)
    expected = jax.jit(jax.hessian(plain, (0, 1, 2)))(*given)
    for twice in (
        jax.hessian,
        lambda f, by: jax.jacrev(jax.jacrev(f, by), by),
        lambda f, by: jax.jacrev(jax.jacfwd(f, by), by),
        lambda f, by: jax.jacfwd(jax.jacfwd(f, by), by),
    ):
        assert_close(jax.jit(twice(ours, (0, 1, 2)))(*given), expected, rtol=1e-10)


@over_ways
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_equal_finite_differences(kind: str, parallel: Any, x64: None) -> None:
    run = jax.jit(lambda a, b, h: linear_recurrence(a, b, h, reverse=False, parallel=parallel))
    check_grads(run, draw(kind, 3, (1,), 2), order=2, modes=["fwd", "rev"], rtol=1e-5, atol=1e-6)


@over_ways
@pytest.mark.parametrize("axes", [(1, None, None), (None, 0, None), (None, None, 0), (1, 0, None), (2, 0, 1)], ids=repr)
def test_vmap_over_any_of_the_arguments_equals_a_loop(axes: Any, parallel: Any, x64: None) -> None:
    size = 3
    one = draw("complex")
    given = [
        leaf if axis is None else jnp.stack([leaf * (1 + i) + 0.1 * i for i in range(size)], axis)
        for leaf, axis in zip(one, axes, strict=True)
    ]
    ours, plain = loss(linear_recurrence, reverse=False, parallel=parallel), loss(definition)
    take = lambda i: [  # noqa: E731
        leaf if axis is None else jnp.take(leaf, i, axis) for leaf, axis in zip(given, axes, strict=True)
    ]
    for derive in (lambda f: f, lambda f: jax.grad(f, (0, 1, 2)), lambda f: lambda *x: jax.jvp(f, x, x)):
        one_by_one = jax.jit(derive(plain))
        expected = [one_by_one(*take(i)) for i in range(size)]
        got = jax.jit(jax.vmap(derive(ours), axes))(*given)
        assert_close(got, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected), rtol=1e-10)
    summed = lambda f: lambda *x: jax.vmap(f, axes)(*x).sum()  # noqa: E731
    assert_close(
        jax.jit(jax.grad(summed(ours), (0, 1, 2)))(*given),
        jax.jit(jax.grad(summed(plain), (0, 1, 2)))(*given),
        rtol=1e-10,
    )


@over_ways
def test_remat_and_a_scan_around_it_equal_the_plain_scan(parallel: Any, x64: None) -> None:
    given = draw("real")

    def over_and_over(function: Any, a: Any, b: Any, h: Any) -> Any:
        def body(h: Any, scale: Any) -> Any:
            hs = jax.checkpoint(lambda h: function(scale * a, b, h))(h)
            return jnp.tanh(hs[-1]), hs

        return lax.scan(body, h, jnp.array([0.5, 1.0, 2.0]))[1]

    ours = lambda a, b, h: over_and_over(  # noqa: E731
        lambda *x: linear_recurrence(*x, reverse=False, parallel=parallel), a, b, h
    )
    plain = lambda a, b, h: over_and_over(definition, a, b, h)  # noqa: E731
    for derive in (lambda f: jax.value_and_grad(f, (0, 1, 2)), lambda f: jax.jacfwd(f, (0, 2))):
        assert_close(jax.jit(derive(loss(ours)))(*given), jax.jit(derive(loss(plain)))(*given), rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@over_ways
def test_float32_is_float32(kind: str, parallel: Any) -> None:
    with jax.enable_x64(True):
        wide = draw(kind)
        given = [leaf.astype(jnp.float32 if kind == "real" else jnp.complex64) for leaf in wide]
        got = gradient_of(parallel)(*given)
        assert [leaf.dtype for leaf in got] == [leaf.dtype for leaf in given]
        assert_close(got, jax.grad(loss(definition), (0, 1, 2))(*wide), rtol=2e-5, atol=1e-4)


def adding(dtype: Any = jnp.float32) -> LinearCell:
    """h' = a h + x, with a one parameter for each unit."""
    return LinearCell(
        init=lambda key, size: jnp.ones(size, dtype),
        init_carry=lambda params, shape=(): jnp.zeros((*shape, *params.shape), params.dtype),
        elements=lambda params, xs: (jnp.broadcast_to(params.astype(xs.dtype), xs.shape), xs),
        readout=lambda params, hs, xs: hs.astype(xs.dtype),
    )


@pytest.mark.parametrize("method", [Scan(), Associative(), Auto()], ids=repr)
def test_bfloat16_goes_in_and_float32_adds_up(method: Any) -> None:
    cell, steps = adding(), 300
    xs = jnp.full((steps, 1, 2), 2.0**-7, jnp.bfloat16)
    params = cell.init(jax.random.key(0), 2)

    def total(params: Any, xs: Any) -> Any:
        carry, ys = unroll(cell, params, xs, method=method)
        return carry.sum(), (carry, ys)

    (_, (carry, ys)), (by_params, by_xs) = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(params, xs)
    assert (carry.dtype, ys.dtype, by_params.dtype, by_xs.dtype) == ("float32", "bfloat16", "float32", "bfloat16")
    assert_close(carry, jnp.full((1, 2), steps * 2.0**-7), rtol=0)  # bfloat16 would stop at 2
    assert (by_xs == 1).all()


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("method", [Scan(), Associative(), Auto(), Chunked(3), Recursive(4)], ids=repr)
def test_what_is_not_finite_stays_on_its_side_of_a_reset(method: Any, reverse: bool, x64: None) -> None:
    cell = adding(jnp.float64)
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((7, 2, 3)))
    params = jnp.array([0.5, -1.5, 0.25])
    resets = jnp.zeros((7, 2), bool).at[3, 1].set(True)
    after = slice(None, 3) if reverse else slice(3, None)
    clean = jax.jit(lambda xs: unroll_carries(cell, params, xs, resets=resets, reverse=reverse, method=method))(xs)
    for bad in (jnp.nan, jnp.inf):
        spoilt = xs.at[5 if reverse else 1, 1].set(bad)

        def outputs(xs: Any) -> Any:
            carry, ys, carries = unroll_carries(cell, params, xs, resets=resets, reverse=reverse, method=method)
            return carry, ys[after], carries[after]

        assert_close(jax.jit(outputs)(spoilt), (clean[0], clean[1][after], clean[2][after]), rtol=1e-12)
        by_xs = jax.jit(jax.grad(lambda xs: weigh(outputs(xs))))
        assert_close(by_xs(spoilt)[after], by_xs(xs)[after], rtol=1e-12)


def test_between_devices_a_factor_of_zero_has_its_gradient(x64: None) -> None:
    cell, params = adding(jnp.float64), jnp.array([0.5, 0.0, -1.5])
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((8, 2, 3)))
    mesh = Mesh(np.array(jax.devices()[:4]), ("seq",))
    by_params = lambda method: jax.jit(  # noqa: E731
        jax.grad(lambda params: weigh(unroll(cell, params, xs, method=method)[1] ** 2))
    )
    assert_close(by_params(Sharded(mesh))(params), by_params(Scan())(params), rtol=1e-11)


def test_what_is_not_finite_stays_there_between_devices(x64: None) -> None:
    cell, params = adding(jnp.float64), jnp.array([0.5, -1.5, 0.25])
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((8, 2, 3)))
    resets = jnp.zeros((8, 2), bool).at[5, 1].set(True)
    mesh = Mesh(np.array(jax.devices()[:4]), ("seq",))
    for at in (1, 4):
        spoilt = xs.at[at, 1].set(jnp.nan)
        carry, ys = unroll(cell, params, spoilt, resets=resets, method=Sharded(mesh))
        clean = unroll(cell, params, xs, resets=resets)
        assert_close((carry, ys[5:]), (clean[0], clean[1][5:]), rtol=1e-12)
        assert np.isnan(ys[at, 1]).all()


@pytest.mark.parametrize("method", [Scan(), Associative(), Auto()], ids=repr)
def test_no_steps_give_the_carry_back_and_gradients_of_zero(method: Any, x64: None) -> None:
    cell, params, carry = adding(jnp.float64), jnp.array([0.5, 2.0]), jnp.array([[1.0, 2.0]])

    def both(params: Any, xs: Any, carry: Any) -> Any:
        return unroll(cell, params, xs, carry, method=method)

    xs = jnp.zeros((0, 1, 2))
    assert_close(both(params, xs, carry), (carry, xs), rtol=0)
    grads = jax.grad(lambda *given: weigh(both(*given)), (0, 1, 2))(params, xs, carry)
    assert (grads[0] == 0).all()
    assert grads[1].shape == xs.shape
    assert_close(grads[2], jax.grad(weigh)(carry), rtol=0)


def test_a_gradient_is_one_loop_there_and_one_back_in_the_memory_of_what_they_read() -> None:
    steps = 64
    given = [leaf * 0.5 for leaf in draw("real", steps, (8,), 128, jnp.float32)]
    compiled: Any = gradient_of(False).lower(*given).compile()
    text = compiled.as_text()
    assert count(text) == 2
    whole = f"f32[{steps},8,128]"
    bodies = text[: text.index("ENTRY ")]
    assert f"{whole}{{2,1,0}} copy(" not in bodies, "a copy of all steps in every step"
    size = given[0].nbytes
    plain: Any = jax.jit(jax.grad(loss(definition), (0, 1, 2))).lower(*given).compile()
    ours, theirs = (one.memory_analysis().temp_size_in_bytes for one in (compiled, plain))
    assert ours < 1.5 * size < theirs, (ours / size, theirs / size)


def test_in_parallel_a_gradient_has_no_loop_and_by_platform_the_one_that_is_wanted() -> None:
    given = draw("real", dtype=jnp.float32)
    loops = {"cpu": 2, "cuda": 0, "tpu": 0}
    for platform, expected in loops.items():
        for parallel, number in {False: 2, True: 0, None: expected}.items():
            exported = jax.export.export(gradient_of(parallel), platforms=[platform])(*given)
            assert exported.mlir_module().count("stablehlo.while") == number, (platform, parallel)
    everywhere = jax.export.export(gradient_of(None), platforms=list(loops))(*given)
    assert_close(everywhere.call(*given), gradient_of(False)(*given), rtol=1e-6)


@over_ways
def test_rows_split_over_devices_stay_there(parallel: Any, x64: None) -> None:
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    given = draw("real", batch=(8,))
    expected = jax.grad(loss(definition), (0, 1, 2))(*given)
    specs = (P(None, "data"), P(None, "data"), P("data"))
    placed = [jax.device_put(leaf, NamedSharding(mesh, spec)) for leaf, spec in zip(given, specs, strict=True)]
    program = gradient_of(parallel)
    got = program(*placed)
    assert_close(got, expected, rtol=1e-11)
    text = program.lower(*placed).compile().as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text

    def local(a: Any, b: Any, h: Any) -> Any:
        hs = linear_recurrence(a, b, h, reverse=False, parallel=parallel)
        return hs + hs * hs

    mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=specs[0])
    plain = lambda *given: (lambda hs: hs + hs * hs)(definition(*given))  # noqa: E731
    for f, g in ((mapped, plain),):
        got = jax.jit(jax.grad(lambda *given, f=f: weigh(f(*given)), (0, 1, 2)))(*placed)
        assert_close(got, jax.grad(lambda *given, g=g: weigh(g(*given)), (0, 1, 2))(*given), rtol=1e-11)


def test_a_start_that_devices_share_meets_steps_that_they_do_not(x64: None) -> None:
    cell, params = adding(jnp.float64), jnp.array([0.5, -1.5, 0.25])
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((5, 4, 3)))
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))

    def local(params: Any, xs: Any) -> Any:
        return lax.psum(
            weigh(unroll(cell, params, xs)[1] ** 2) * (1.0 + lax.axis_index("data").astype(xs.dtype)), "data"
        )

    both = jax.jit(jax.grad(jax.shard_map(local, mesh=mesh, in_specs=(P(), P(None, "data")), out_specs=P()), (0, 1)))

    def alone(params: Any, xs: Any) -> Any:
        return sum(weigh(unroll(cell, params, xs[:, i : i + 1])[1] ** 2) * (1 + i) for i in range(4))

    assert_close(both(params, xs), jax.grad(alone, (0, 1))(params, xs), rtol=1e-11)
