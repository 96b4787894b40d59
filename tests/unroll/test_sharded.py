"""Time split over devices gives the numbers and gradients of the plain scan, exchanging one map per slice."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    BATCH,
    LINEAR,
    MAIN,
    Case,
    assert_close,
    everything,
    make_carry,
    make_params,
    make_xs,
    over,
    run,
    weigh,
)
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from test_lengths_masks_resets import SCENES, real_steps, spoil

from rnn_jax import bidirectional, dense, gru, lru, min_gru, stack, with_dropout
from rnn_jax.unroll import Scan, Sharded, unroll, unroll_carries
from rnn_jax.unroll.sharded import _run_slices, compose_all

BY_NAME = {case.name: case for case in MAIN}
SCENE = SCENES["all"]
COLLECTIVE = re.compile(
    r"= (.+?) (all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter)(?:-start)?\("
)


def sharded(seq: int, **others: int) -> Sharded:
    """The strategy on a mesh of `seq` devices, with other axes before."""
    sizes = [*others.values(), seq]
    devices = np.array(jax.devices()[: int(np.prod(sizes))]).reshape(sizes)
    return Sharded(Mesh(devices, (*others, "seq")))


def compare(case: Case, reverse: bool) -> None:
    """Values and gradients with lengths, mask, resets, a carry and NaN in the padding; 6 steps on 4 devices."""
    params = make_params(case)
    xs, carry = spoil(make_xs(case), real_steps(SCENE)), make_carry(case, params)
    scanned = everything(case.cell, params, xs, carry, reverse=reverse, method=Scan(), **SCENE)
    got = everything(case.cell, params, xs, carry, reverse=reverse, method=sharded(4), **SCENE)
    assert_close(got, scanned, rtol=1e-9)


@over([case for case in LINEAR if case in MAIN])
def test_slices_on_devices_equal_the_scan(case: Case, x64: None) -> None:
    compare(case, reverse=False)


@pytest.mark.parametrize("name", ["lru", "min_gru"])
def test_slices_are_walked_backwards_as_well(name: str, x64: None) -> None:
    compare(BY_NAME[name], reverse=True)


@over([case for case in LINEAR if case not in MAIN])
def test_slices_equal_the_scan_for_the_options_as_well(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case)
    assert_close(run(case.cell, params, xs, method=sharded(3)), run(case.cell, params, xs, method=Scan()), rtol=1e-9)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("steps", [0, 1, 3, 8, 19])
def test_any_number_of_steps_on_eight_devices(steps: int, reverse: bool, x64: None) -> None:
    case = BY_NAME["lru"]
    params, xs = make_params(case), make_xs(case, steps=steps)
    carry, rng = make_carry(case, params), np.random.default_rng(7)
    options = {
        "lengths": np.array([steps, steps // 2, min(steps, 1), 0], np.int32),
        "resets": rng.random((steps, BATCH)) < 0.2,
        "reverse": reverse,
    }
    got = jax.jit(lambda: unroll_carries(case.cell, params, xs, carry, method=sharded(8), **options))()
    assert_close(got, unroll_carries(case.cell, params, xs, carry, method=Scan(), **options), rtol=1e-9)
    np.testing.assert_array_equal(got[0][3], carry[3])


def test_values_and_gradients_without_jit(x64: None) -> None:
    case = BY_NAME["min_gru"]
    params, xs = make_params(case), make_xs(case)

    def loss(params: Any, xs: Any, carry: Any, method: Any) -> Any:
        return weigh(unroll(case.cell, params, xs, carry, lengths=SCENE["lengths"], method=method))

    gradients, carry = jax.value_and_grad(loss, (0, 1, 2)), make_carry(case, params)
    got = gradients(params, xs, carry, sharded(2))
    assert_close(got, gradients(params, xs, carry, Scan()), rtol=1e-9)


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_any_number_of_batch_axes(batch: tuple[int, ...], x64: None) -> None:
    case = BY_NAME["lru"]
    params = make_params(case)
    xs = jnp.asarray(np.random.default_rng(3).standard_normal((5, *batch, case.input_size)))
    lengths = np.array([5, 3], np.int32) if batch else np.int32(4)  # leading batch axes only
    got = unroll(case.cell, params, xs, lengths=lengths, method=sharded(4))
    assert_close(got, unroll(case.cell, params, xs, lengths=lengths, method=Scan()), rtol=1e-9)


def test_noise_of_every_step_goes_with_its_step(x64: None) -> None:
    case, cell = BY_NAME["min_gru"], with_dropout(min_gru(4), inputs=0.3, variational=0.3, zoneout_h=0.4)
    params, xs = make_params(case._replace(cell=cell)), make_xs(case, steps=7)

    def loss(params: Any, xs: Any, method: Any) -> Any:
        noisy = cell.perturb(jax.random.key(1), params, xs.shape)
        return weigh(unroll(cell, noisy, xs, method=method))

    gradients = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)
    assert_close(gradients(params, xs, sharded(4)), gradients(params, xs, Scan()), rtol=1e-9)


def test_a_stack_goes_layer_by_layer_and_layers_without_a_carry_go_along(x64: None) -> None:
    case = BY_NAME["lru"]._replace(cell=stack(lru(4), stack(min_gru(3)), dense(2)))
    params, xs = make_params(case), make_xs(case)
    got = everything(case.cell, params, xs, None, method=sharded(4), **SCENE)
    assert_close(got, everything(case.cell, params, xs, None, method=Scan(), **SCENE), rtol=1e-9)


def test_both_directions_of_a_layer(x64: None) -> None:
    case, both = BY_NAME["min_gru"], bidirectional(min_gru(4), lru(4))
    params, xs = make_params(case._replace(cell=both)), make_xs(case)
    got = both.apply(params, xs, **SCENE, method=sharded(4))
    assert_close(got, both.apply(params, xs, **SCENE, method=Scan()), rtol=1e-9)


def test_many_models_at_once(x64: None) -> None:
    case = BY_NAME["min_gru"]
    params, xs = jax.tree.map(lambda *p: jnp.stack(p), *(make_params(case, seed=s) for s in (0, 5))), make_xs(case)

    def many(method: Any) -> Any:
        return jax.jit(jax.vmap(lambda p: unroll(case.cell, p, xs, method=method)))(params)

    assert_close(many(sharded(4)), many(Scan()), rtol=1e-9)


def test_outputs_have_the_dtype_of_the_inputs() -> None:
    case = BY_NAME["lru"]
    params, xs = make_params(case, jnp.float32), make_xs(case, jnp.bfloat16)
    carry, ys = unroll(case.cell, params, xs, method=sharded(4))
    assert (carry.dtype, ys.dtype) == (jnp.complex64, jnp.bfloat16)
    scanned = unroll(case.cell, params, xs, method=Scan())
    assert_close((carry, ys.astype(jnp.float32)), (scanned[0], scanned[1].astype(jnp.float32)), rtol=2e-2)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_slices_are_composed_alike_in_parallel_and_step_by_step(reverse: bool, x64: None) -> None:
    rng = np.random.default_rng(11)
    maps = (jnp.asarray(rng.standard_normal((5, 2, 3))), jnp.asarray(rng.standard_normal((5, 2, 3))))
    compose = jax.jit(compose_all, static_argnums=(1, 2))
    assert_close(compose(maps, reverse, True), compose(maps, reverse, False), rtol=1e-12)


def test_new_values_compile_nothing_with_jit_or_without() -> None:
    case, traces, programs = BY_NAME["min_gru"], [], []

    def count(method: Any, params: Any, xs: Any, lengths: Any) -> Any:
        traces.append(method)
        return unroll(case.cell, params, xs, lengths=lengths, method=method)[1]

    compiled = jax.jit(count, static_argnums=0)
    for seed in (1, 2):
        params, xs = make_params(case, jnp.float32, seed), make_xs(case, jnp.float32, seed=seed)
        lengths = jnp.array([seed, 6, 0, 5 - seed])
        got = compiled(sharded(4), params, xs, lengths)  # a new but equal mesh each time
        assert_close(unroll(case.cell, params, xs, lengths=lengths, method=sharded(4))[1], got, rtol=1e-5)
        programs.append(_run_slices._cache_size())
    assert len(traces) == 1
    assert programs[0] == programs[1]


def collectives(case: Case, method: Sharded, steps: int, gradient: bool = False) -> list[tuple[str, str]]:
    """The collectives of a program over inputs that are laid out on the mesh, and what they move."""
    mesh = method.mesh
    params = jax.eval_shape(lambda: make_params(case, jnp.float32))
    xs = jax.ShapeDtypeStruct((steps, BATCH, case.input_size), jnp.float32)
    layouts = (NamedSharding(mesh, P()), NamedSharding(mesh, P("seq", *mesh.axis_names[:-1])))

    def forward(params: Any, xs: Any) -> Any:
        return unroll(case.cell, params, xs, lengths=np.array([steps, 5, 1, 0], np.int32), method=method)

    def backward(params: Any, xs: Any) -> Any:
        return jax.grad(lambda params, xs: forward(params, xs)[1].sum(), (0, 1))(params, xs)

    compiled = jax.jit(backward if gradient else forward, in_shardings=layouts).lower(params, xs).compile()
    if not gradient:
        ys = compiled.output_shardings[1].shard_shape((steps, BATCH, 4))
        assert ys == (steps // mesh.shape["seq"], BATCH // mesh.shape.get("data", 1), 4)
    text = compiled.as_text()
    assert f"f32[{steps // mesh.shape['seq']}," in text
    assert not re.search(rf"(f32|c64)\[{steps},", text), "a device holds something for all steps"
    return [(name, shape) for shape, name in COLLECTIVE.findall(text)]


@pytest.mark.parametrize("name", ["lru", "min_gru"])
def test_devices_exchange_one_map_per_slice_and_nothing_else(name: str) -> None:
    case, method = BY_NAME[name], sharded(8)
    [(kind, moved)] = collectives(case, method, 16)
    kinds = {"lru": "c64", "min_gru": "f32"}
    assert kind == "all-gather"
    assert moved.startswith(f"{kinds[name]}[2,8,{BATCH},4]")  # a and b of 8 slices
    assert collectives(case, method, 64) == [(kind, moved)]


def test_the_gradient_exchanges_nothing_as_long_as_the_sequence() -> None:
    case, method = BY_NAME["lru"], sharded(8)
    short, long = (collectives(case, method, steps, gradient=True) for steps in (16, 64))
    assert short == long
    assert {kind for kind, _ in short} <= {"all-gather", "all-reduce"}


def test_other_axes_of_the_mesh_keep_their_part_of_the_batch() -> None:
    case, method = BY_NAME["lru"], sharded(4, data=2)
    [(kind, moved)] = collectives(case, method, 16)
    assert kind == "all-reduce"
    assert moved.startswith(f"c64[2,4,{BATCH // 2},4]")  # a and b of 4 slices, for half of the batch
    assert collectives(case, method, 32) == [(kind, moved)]


def test_a_mesh_that_splits_the_batch_as_well(x64: None) -> None:
    case, method = BY_NAME["lru"], sharded(4, data=2)
    params, xs, rng = make_params(case), make_xs(case, steps=8), np.random.default_rng(5)
    carry, options = make_carry(case, params), {"lengths": SCENE["lengths"], "resets": rng.random((8, BATCH)) < 0.3}
    laid_out = jax.device_put(xs, NamedSharding(method.mesh, P("seq", "data")))
    got = everything(case.cell, params, laid_out, carry, method=method, **options)
    assert_close(got, everything(case.cell, params, xs, carry, method=Scan(), **options), rtol=1e-9)
    assert got.ys.sharding.spec == P("seq", "data")


def test_cells_that_are_not_linear_are_refused() -> None:
    text = r"`method` Sharded\(mesh, axis\) needs a LinearCell.*parameters GRUParams, is not.*Use Scan\(\) or Chunked"
    for cell in (gru(4), stack(lru(3), gru(4))):
        params = cell.init(jax.random.key(0), 3)
        with pytest.raises(ValueError, match=text):
            unroll(cell, params, jnp.zeros((5, 2, 3)), method=sharded(2))


def test_strategies_on_equal_meshes_are_equal_and_bad_ones_are_refused() -> None:
    assert sharded(4) == sharded(4)
    assert hash(sharded(4)) == hash(sharded(4))
    assert sharded(4) != sharded(2)
    mesh = sharded(4, data=2).mesh
    assert Sharded(mesh, "data") != Sharded(mesh, "seq")
    with pytest.raises(ValueError, match="`axis` must be one of 'data', 'seq', got 'sqe'; did you mean 'seq'"):
        Sharded(mesh, "sqe")
    with pytest.raises(ValueError, match=r"`mesh` must be a jax\.sharding\.Mesh, got int 8"):
        Sharded(8)
    with pytest.raises(ValueError, match=r"`mesh` must have axes of the type Auto, .*axis_types\), got Explicit"):
        Sharded(jax.make_mesh((8,), ("seq",)))
