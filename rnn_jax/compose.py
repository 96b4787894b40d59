"""Building larger cells from smaller ones. Combinators take and return the types of `rnn_jax.types`."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from rnn_jax import checks, tree
from rnn_jax.cells._constructor import constructor
from rnn_jax.gated_step import GatedStep, ProductStep, Projection
from rnn_jax.initializers import KernelInit, lecun_normal, normal
from rnn_jax.products import affine, layer_norm
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params, as_cell, example_xs
from rnn_jax.unroll import unroll

C = TypeVar("C", bound=Cell | LinearCell)


def output_size(cell: Cell | LinearCell, params: Params, input_size: int) -> int:
    """The number of features of a cell's output, found without computing anything.

    Args:
        cell: any cell.
        params: its parameters (arrays or shape structs).
        input_size: I.

    Returns:
        O.
    """
    checks.is_cell(cell)
    ys = jax.eval_shape(lambda p, xs: unroll(cell, p, xs)[1], params, example_xs(input_size))
    return ys.shape[-1]


def stack(*cells: Cell | LinearCell) -> Cell:
    """Cells on top of each other: each gets the outputs of the one below.

    `unroll` runs a stack layer by layer, so that each layer projects all steps at once and linear ones run in
    parallel; `stream_step` and `step` go through all layers at every step. The numbers are equal.

    Args:
        *cells: bottom first; `Cell`s, `LinearCell`s and other stacks.

    Returns:
        A cell whose parameters and carry are tuples, one entry a layer, and whose output is that of the top layer.

    Example:
        >>> from rnn_jax import gru, lru
        >>> cell = stack(gru(8), lru(6))
        >>> params = cell.init(jax.random.key(0), 3)
        >>> unroll(cell, params, jnp.zeros((5, 2, 3)))[1].shape
        (5, 2, 6)
    """
    if not cells:
        raise ValueError("`cells` must be at least one cell, got none")
    for index, cell in enumerate(cells):
        checks.is_cell(cell, f"cells[{index}]")
    stepped = [as_cell(cell) if isinstance(cell, LinearCell) else cell for cell in cells]

    def init(key: Array, input_size: int) -> tuple[Params, ...]:
        checks.prng_key(key)
        params = []
        for one_key, cell in zip(jax.random.split(key, len(cells)), cells, strict=True):
            params.append(cell.init(one_key, input_size))
            input_size = output_size(cell, params[-1], input_size)
        return tuple(params)

    def init_carry(params: tuple[Params, ...], batch_shape: tuple[int, ...] = ()) -> tuple[Carry, ...]:
        return tuple(c.init_carry(p, batch_shape) for c, p in zip(cells, params, strict=True))

    def project(params: tuple[Params, ...], xs: Array) -> tuple[Any, Array, list[list[Array]]]:
        return stepped[0].project(params[0], xs), xs, [tree.per_step(p) for p in params]

    def step(params: tuple[Params, ...], carry: tuple[Carry, ...], z: Any) -> tuple[tuple[Carry, ...], Array]:
        z, y, noise = z
        carries = []
        for index, (cell, one_params, one_carry) in enumerate(zip(stepped, params, carry, strict=True)):
            one_params = tree.with_per_step(one_params, noise[index])
            if index:
                z = cell.project(one_params, y)
            one_carry, h = cell.step(one_params, one_carry, z)
            y = cell.readout(one_params, h, y)
            carries.append(one_carry)
        return tuple(carries), y

    def prepare(params: tuple[Params, ...]) -> tuple[Params, ...]:
        return tuple(c.prepare(p) for c, p in zip(stepped, params, strict=True))

    def perturb(key: Array, params: tuple[Params, ...], shape: tuple[int, ...]) -> tuple[Params, ...]:
        noisy, features = [], shape[-1]
        for one_key, cell, one_params in zip(jax.random.split(key, len(cells)), cells, params, strict=True):
            noisy.append(cell.perturb(one_key, one_params, (*shape[:-1], features)))
            features = output_size(cell, one_params, features)
        return tuple(noisy)

    return Cell(
        init=init,
        init_carry=init_carry,
        step=step,
        project=project,
        prepare=prepare,
        perturb=perturb,
        layers=cells,
        spatial_axes=max(one.spatial_axes for one in stepped),
    )


def residual(cell: C) -> C:
    """Adds the input to the output: `y = x + cell(x)`.

    Args:
        cell: a cell whose output has as many features as its input.

    Returns:
        A cell of the same type, with the same parameters and carry.

    Raises:
        ValueError: from its `init`, if the sizes differ.

    References:
        He et al., Deep residual learning for image recognition, 2015, arXiv:1512.03385.
    """
    checks.is_cell(cell)

    def init(key: Array, input_size: int) -> Params:
        params = cell.init(key, input_size)
        size = output_size(cell, params, input_size)
        if size != input_size:
            raise ValueError(
                f"`cell` of residual must keep the number of features, got input_size={input_size} and output {size}"
            )
        return params

    def readout(params: Params, hs: Any, xs: Array) -> Array:
        return xs + cell.readout(params, hs, xs)

    return cell._replace(init=init, readout=readout)


class DenseParams(NamedTuple):
    """Parameters of `dense`."""

    w: Array  # [I, O]
    b: Array  # [O]


@constructor
def dense(output_size: int, *, kernel_init: KernelInit = lecun_normal) -> Cell:
    """A layer without memory, `y = x W + b`: the top of a `stack` that gives logits or vectors.

    Args:
        output_size: O.
        kernel_init: initialiser of W.

    Returns:
        A cell whose carry is `()`. `unroll` computes all its steps at once.

    Example:
        >>> from rnn_jax import gru
        >>> cell = stack(gru(8), dense(5))
        >>> params = cell.init(jax.random.key(0), 3)
        >>> unroll(cell, params, jnp.zeros((4, 2, 3)))[1].shape
        (4, 2, 5)
    """
    checks.positive("output_size", output_size)

    def init(key: Array, input_size: int) -> DenseParams:
        return DenseParams(w=kernel_init(key, (input_size, output_size)), b=jnp.zeros(output_size))

    def init_carry(params: DenseParams, batch_shape: tuple[int, ...] = ()) -> tuple[()]:
        return ()

    def project(params: DenseParams, xs: Array) -> Array:
        return affine(xs, params.w, params.b)

    def step(params: DenseParams, carry: tuple[()], z: Array) -> tuple[tuple[()], Array]:
        return carry, z

    return Cell(init=init, init_carry=init_carry, step=step, project=project)


class LayerNormParams(NamedTuple):
    """Parameters of `with_layer_norm`."""

    cell: Params
    scale: Array  # [I]
    shift: Array  # [I]


def with_layer_norm(cell: C) -> C:
    """Normalises the input of a cell: `y = cell(layer_norm(x))`. Inside a `stack`, wrap each layer.

    Args:
        cell: any cell.

    Returns:
        A cell of the same type with `LayerNormParams` and the same carry.

    References:
        Ba, Kiros & Hinton, Layer normalization, 2016, arXiv:1607.06450. For the norms inside the LSTM see
        `lstm(layer_norm=True)`.
    """
    checks.is_cell(cell)

    def init(key: Array, input_size: int) -> LayerNormParams:
        params = cell.init(key, input_size)
        return LayerNormParams(cell=params, scale=jnp.ones(input_size), shift=jnp.zeros(input_size))

    def normalise(params: LayerNormParams, xs: Array) -> Array:
        checks.features("xs", xs, params.scale.shape[0])
        return layer_norm(xs, params.scale, params.shift)

    return wrap(cell, init=init, of_xs=normalise)


class LearnedCarryParams(NamedTuple):
    """Parameters of `learned_carry`; complex leaves of the carry have a last axis (real, imaginary)."""

    cell: Params
    carry: Any


def learned_carry(cell: C, *, stddev: float = 0.0) -> C:
    """Makes the initial carry a parameter, shared by all rows of the batch. Inside a `stack`, wrap each layer.

    Args:
        cell: any cell.
        stddev: the standard deviation of its initial value around the cell's own initial carry.

    Returns:
        A cell of the same type with `LearnedCarryParams` and the same carry. `resets` restore the learned value.
    """
    checks.is_cell(cell)

    def init(key: Array, input_size: int) -> LearnedCarryParams:
        cell_key, carry_key = jax.random.split(key)
        params = cell.init(cell_key, input_size)
        leaves, structure = jax.tree.flatten(jax.tree.map(_to_real, cell.init_carry(params, ())))
        keys = jax.random.split(carry_key, len(leaves))
        noisy = [leaf + normal(stddev)(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
        return LearnedCarryParams(cell=params, carry=jax.tree.unflatten(structure, noisy))

    def init_carry(params: LearnedCarryParams, batch_shape: tuple[int, ...] = ()) -> Carry:
        like = jax.eval_shape(lambda: cell.init_carry(params.cell, batch_shape))

        def one(value: Array, leaf: jax.ShapeDtypeStruct) -> Array:
            if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
                value = jax.lax.complex(value[..., 0], value[..., 1])
            return jnp.broadcast_to(value.astype(leaf.dtype), leaf.shape)

        return jax.tree.map(one, params.carry, like)

    return wrap(cell, init=init, init_carry=init_carry)


def _to_real(leaf: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return jnp.stack([leaf.real, leaf.imag], axis=-1)
    return leaf


def wrap(
    cell: C,
    *,
    init: Callable[..., Params],
    of_xs: Callable[[Any, Array], Array] = lambda params, xs: xs,
    init_carry: Callable[..., Carry] | None = None,
) -> C:
    """A cell around a cell whose parameters are the field `cell` of the new ones, with a map before its input.

    Args:
        cell: the inner cell.
        init: `(key, input_size) -> params`, a NamedTuple with the field `cell`.
        of_xs: `(params, xs) -> xs`, what the inner cell gets as its input.
        init_carry: replaces the inner one.

    Returns:
        A cell of the same type. It is one cell to `unroll`, also around a stack.
    """

    def inner_carry(params: Any, batch_shape: tuple[int, ...] = ()) -> Carry:
        return cell.init_carry(params.cell, batch_shape)

    def readout(params: Any, hs: Any, xs: Array) -> Array:
        return cell.readout(params.cell, hs, of_xs(params, xs))

    def perturb(key: Array, params: Any, shape: tuple[int, ...]) -> Any:
        return params._replace(cell=cell.perturb(key, params.cell, shape))

    changed: dict[str, Any] = {
        "init": init,
        "init_carry": init_carry or inner_carry,
        "readout": readout,
        "perturb": perturb,
    }
    if isinstance(cell, LinearCell):
        elements = cell.elements
        return cell._replace(**changed, elements=lambda params, xs: elements(params.cell, of_xs(params, xs)))
    inner = cell

    def cell_of(params: Any) -> Any:
        return params.cell

    def project(params: Any, xs: Array) -> Any:
        return inner.project(params.cell, of_xs(params, xs))

    def step(params: Any, carry: Carry, z: Any) -> tuple[Carry, Any]:
        return inner.step(params.cell, carry, z)

    def prepare(params: Any) -> Any:
        return params._replace(cell=inner.prepare(params.cell))

    rows = inner.project.of_part(cell_of, of_xs) if isinstance(inner.project, Projection) else project
    gated = inner.step.of_part(cell_of) if isinstance(inner.step, GatedStep | ProductStep) else step
    return cell._replace(**changed, project=rows, step=gated, prepare=prepare, layers=())
