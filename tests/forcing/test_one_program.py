"""One compiled program serves every mask, takes the shorter way by itself, and keeps doing so under vmap."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparing import jit
from decoders import CELLS, STEPS, call, forced, same, scene

from rnn_jax.forcing import expected, forced_unroll, forcing_mask, forcing_schedule, identity
from rnn_jax.types import Cell

CELL = CELLS["gru"]
ONES = np.ones((STEPS, 4), np.float32)
MIXED = np.array(forcing_mask(jax.random.key(0), 0.5, STEPS, (4,)))


def spy(cell: Cell, seen: list[int]) -> Cell:
    """Notes the number of axes that `project` gets, each time that it runs: 3 for all steps at once, 2 for one."""

    def project(params: Any, xs: Any) -> Any:
        jax.debug.callback(lambda: seen.append(xs.ndim))
        return cell.project(params, xs)

    return cell._replace(project=project)


SCHEDULES = {
    "rate 1 to 0": forcing_schedule("inverse_sigmoid", 8),
    "optax": optax.linear_schedule(1.0, 0.0, 8),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_whole_run_of_annealing_compiles_once(name: str) -> None:
    s, rate_of = scene(CELL, True), SCHEDULES[name]

    @jit
    def train(params: Any, key: Any, step: Any) -> Any:
        mask = forcing_mask(jax.random.fold_in(key, step), rate_of(step), STEPS, (4,))

        def loss(params: Any) -> Any:
            return jnp.square(call(CELL, expected, s._replace(params=params), mask)[1]).sum()

        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), value, mask

    params, key, rates = s.params, jax.random.key(3), []
    for step in range(10):
        new, value, mask = train(params, key, step)
        ys = forced(CELL, expected, s._replace(params=params), np.asarray(mask))[1]
        np.testing.assert_allclose(value, np.square(ys).sum(), rtol=1e-5)
        params = new
        rates.append(float(mask.mean()))
    assert train._cache_size() == 1
    assert {rates[0], rates[8], rates[9]} == {0.0, 1.0}
    assert rates[8] == rates[9]
    assert 0 < rates[4] < 1


@pytest.fixture(scope="module")
def spied() -> Any:
    """A compiled `forced_unroll` over ragged rows, and what its cell has seen."""
    seen: list[int] = []
    s, cell = scene(CELL, True), spy(CELL, seen)
    compiled = jit(lambda params, mask: call(cell, expected, s._replace(params=params), mask))

    def run(mask: Any) -> tuple[Any, list[int]]:
        out = jax.block_until_ready(compiled(s.params, mask))
        jax.effects_barrier()
        ways = seen.copy()
        seen.clear()
        return out, ways

    return compiled, run, lambda mask: forced(CELL, expected, s, mask)


def test_all_steps_are_projected_at_once_where_all_that_counts_is_one(spied: Any) -> None:
    compiled, run, reference = spied
    real = np.arange(STEPS)[:, None] < np.array([STEPS, 3, 0, 1])
    for_padding_anything = np.where(real, 1, MIXED).astype(np.float32)
    start_does_not_count = ONES.copy()
    start_does_not_count[0] = 0
    almost = ONES.copy()
    almost[STEPS - 1, 0] = 0.9
    for mask, way in (
        (ONES, [3]),
        (for_padding_anything, [3]),
        (start_does_not_count, [3]),
        (MIXED, [2] * STEPS),
        (almost, [2] * STEPS),
        (0 * ONES, [2] * STEPS),
        (ONES, [3]),
    ):
        out, ways = run(mask)
        assert ways == way
        same(out, reference(mask), 1e-6)
    assert compiled._cache_size() == 1


def test_an_eager_call_with_a_known_mask_takes_the_shorter_way_too() -> None:
    seen: list[int] = []
    s = scene(CELL, False)
    for mask, way in ((1.0, [3]), (True, [3]), (0.5, [2] * STEPS)):
        call(spy(CELL, seen), identity, s, mask)
        jax.effects_barrier()
        assert seen == way
        seen.clear()


def conditions(jaxpr: Any) -> list[tuple[int, ...]]:
    """The shapes of the predicates of all conds in a program, however deep."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "cond":
            found.append(eqn.invars[0].aval.shape)
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += conditions(inner)
    return found


def test_under_vmap_one_branch_runs_and_numbers_stay(x64: None) -> None:
    s, cell = scene(CELL, True), CELL
    rng = np.random.default_rng(4)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=(3, *leaf.shape))), s.params)
    lengths = np.array([[5, 3, 0, 1], [5, 5, 5, 5], [1, 2, 3, 4]])

    def loss(params: Any, mask: Any, lengths: Any) -> Any:
        carry, ys = call(cell, expected, s._replace(params=params, lengths=lengths), mask)
        return (jnp.sin(ys) + carry[None]).sum(), ys

    grad = jax.value_and_grad(loss, has_aux=True)
    one, many = jit(grad), jit(jax.vmap(grad))
    for masks in (np.ones((3, STEPS, 4)), np.stack([np.ones((STEPS, 4)), MIXED, 0 * MIXED])):
        singles = [one(jax.tree.map(lambda leaf, i=i: leaf[i], params), masks[i], lengths[i]) for i in range(3)]
        same(many(params, masks, lengths), jax.tree.map(lambda *leaves: jnp.stack(leaves), *singles), 1e-11)
    assert many._cache_size() == 1

    all_mapped = jax.make_jaxpr(jax.vmap(grad))(params, masks, lengths)
    twice = jax.make_jaxpr(jax.vmap(jax.vmap(grad, (0, None, None)), (None, 0, 0)))(params, masks, lengths)
    outside = jax.make_jaxpr(jax.grad(lambda p, m: jax.vmap(loss)(p, m, lengths)[0].sum(), (0, 1)))(params, masks)
    for program in (all_mapped, twice, outside):
        shapes = conditions(program.jaxpr)
        assert shapes
        assert set(shapes) == {()}


def test_under_vmap_the_shorter_way_is_taken_if_all_settings_are_forced() -> None:
    seen: list[int] = []
    s, cell = scene(CELL, True), spy(CELL, seen)
    many = jit(jax.vmap(lambda mask: call(cell, expected, s, mask)[1]))
    for masks, way in ((np.stack([ONES, ONES]), {3}), (np.stack([ONES, MIXED]), {2})):
        jax.block_until_ready(many(masks))
        jax.effects_barrier()
        assert set(seen) == way
        seen.clear()


def test_gradients_by_a_fractional_mask_are_those_of_the_mixture(x64: None) -> None:
    s = scene(CELL, False, ragged=False)
    mask = np.random.default_rng(3).uniform(0.2, 0.8, size=(STEPS, 4))

    def loss(mask: Any) -> Any:
        options = {"start": s.start, "feedback": identity, "inputs": s.inputs}
        return jnp.sin(forced_unroll(CELL, s.params, s.targets, mask, s.carry, **options)[1]).sum()

    compiled, grad, nudge = jit(loss), jit(jax.vmap(jax.grad(loss)))(mask[None])[0], 1e-6
    assert (grad[0] == 0).all()
    for place in ((1, 0), (3, 2), (STEPS - 1, 3)):
        up, down = mask.copy(), mask.copy()
        up[place] += nudge
        down[place] -= nudge
        assert float(grad[place]) == pytest.approx(float(compiled(up) - compiled(down)) / (2 * nudge), rel=1e-6)
