"""Every strategy of every cell lowers for CPUs, NVIDIA GPUs and TPUs, forward and gradient, on any machine.

Only lowering: nothing is compiled or run for them. `Cudnn()` is left out, since jax has to ask cuDNN for the size of a
buffer before it can lower the kernel, on a machine with a GPU.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import HIDDEN, MAIN, Case, over
from jax.sharding import Mesh

from rnn_jax.types import Cell, LinearCell
from rnn_jax.unroll import Associative, Auto, Chunked, Newton, Recursive, Scan, Sharded, unroll

PLATFORMS = ("cpu", "cuda", "tpu")
BY_NAME = {case.name: case for case in MAIN}
LINEAR = [case for case in MAIN if isinstance(case.cell, LinearCell)]
STEPS, BATCH = 7, 2
ANY_CELL = {
    "auto": Auto(),
    "scan": Scan(),
    "unrolled": Scan(unroll=2),
    "chunked": Chunked(3),
    "recursive": Recursive(4),
    "newton": Newton(),
}
over_any = pytest.mark.parametrize("method", ANY_CELL.values(), ids=ANY_CELL.keys())


def lower(case: Case, method: Any, platforms: tuple[str, ...] = PLATFORMS) -> jax.export.Exported:
    """A forward pass and a gradient by parameters, inputs and carry, with lengths and resets."""

    def program(params: Any, xs: Any, carry: Any, lengths: Any, resets: Any) -> Any:
        def forward(params: Any, xs: Any, carry: Any) -> Any:
            return unroll(case.cell, params, xs, carry, lengths=lengths, resets=resets, method=method)

        def loss(*inputs: Any) -> Any:
            return sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(forward(*inputs)))

        return forward(params, xs, carry), jax.grad(loss, (0, 1, 2))(params, xs, carry)

    batch = (BATCH, *case.space)
    params = jax.eval_shape(lambda: case.cell.init(jax.random.key(0), case.input_size))
    xs = jax.ShapeDtypeStruct((STEPS, *batch, case.input_size), jnp.float32)
    carry = jax.eval_shape(lambda params: case.cell.init_carry(params, batch), params)
    lengths, resets = jax.ShapeDtypeStruct((BATCH,), jnp.int32), jax.ShapeDtypeStruct((STEPS, BATCH), jnp.bool_)
    exported = jax.export.export(jax.jit(program), platforms=platforms)(params, xs, carry, lengths, resets)
    assert exported.platforms == platforms
    return exported


@over_any
@over(MAIN)
def test_every_cell_lowers_for_every_platform(case: Case, method: Any) -> None:
    lower(case, method)


@over(LINEAR)
def test_linear_cells_lower_in_parallel_for_every_platform(case: Case) -> None:
    lower(case, Associative())
    mesh = Mesh(np.array(jax.devices()[:2]), ("seq",))
    assert lower(case, Sharded(mesh)).nr_devices == 2


@pytest.mark.parametrize(
    "method",
    [Newton(jacobian="diagonal"), Newton(jacobian="block", num_blocks=HIDDEN), Newton(damping=1.0)],
    ids=["diagonal", "block", "damped"],
)
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_the_variants_of_newton_lower_for_every_platform(name: str, method: Any) -> None:
    lower(BY_NAME[name], method)


@pytest.mark.parametrize("method", [Auto(), Newton()], ids=["auto", "newton"])
@over(LINEAR)
def test_what_is_chosen_on_an_accelerator_lowers_for_it(
    case: Case, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for backend, platform in {"gpu": "cuda", "tpu": "tpu"}.items():
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        lower(case, method, (platform,))


def test_a_step_that_only_a_cpu_knows_is_noticed() -> None:
    def step(params: Any, carry: Any, z: Any) -> Any:
        carry = carry + z + jax.lax.linalg.schur(jnp.ones((2, 2)))[0].sum()
        return carry, carry

    cell = Cell(
        init=lambda key, size: jnp.ones(size),
        init_carry=lambda params, shape=(): jnp.zeros((*shape, *params.shape)),
        step=step,
    )
    program = jax.jit(lambda xs: unroll(cell, jnp.ones(3), xs))
    with pytest.raises(NotImplementedError, match="schur"):
        jax.export.export(program, platforms=PLATFORMS)(jnp.ones((STEPS, BATCH, 3)))
