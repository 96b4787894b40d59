"""Any recurrent cell of flax in our `unroll`: its own step and its own weights."""

from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from rnn_jax.cells._constructor import constructor
from rnn_jax.interop.converted import Converted
from rnn_jax.tree import widen
from rnn_jax.types import Array, Carry, Cell, Params


def linen_cell(module: nn.RNNCellBase) -> Cell:
    """A flax.linen cell as a `Cell`: the step is the module's own, and nothing is converted.

        carry, y = module.apply({"params": params}, carry, x)

    So `ConvLSTMCell`, `MGUCell` or a cell of yours gets lengths, masks, resets, streaming and every strategy that takes
    any cell. `from_linen_cell` makes *our* cell of an `LSTMCell`, `GRUCell` or `SimpleCell`, which is faster.

    Args:
        module: any `nn.RNNCellBase` that keeps its variables in the collection "params" and draws no random numbers.

    Returns:
        A cell with the module's dictionary of parameters and the module's carry: `(c, h)` for an LSTM of flax. The
        carry starts at `initialize_carry` with `jax.random.key(0)`, as in `nn.RNN`, and is at least float32.

    Raises:
        ValueError: if `module` is no recurrent cell of linen; from `init`, if it has another collection, or a carry
            that depends on the number of input features.

    Example:
        >>> from rnn_jax import unroll
        >>> cell = linen_cell(nn.MGUCell(4))
        >>> params = cell.init(jax.random.key(0), 3)
        >>> unroll(cell, params, jnp.zeros((5, 2, 3)), lengths=jnp.array([5, 2]))[1].shape
        (5, 2, 4)
    """
    if not isinstance(module, nn.RNNCellBase):
        raise ValueError(f"`module` must be a flax.linen RNNCellBase, got {type(module).__name__}")
    return _linen_cell(module.clone(parent=None, name=None))


@constructor
def _linen_cell(module: nn.RNNCellBase) -> Cell:
    """The cell of a module that belongs to no other; equal modules give the same cell."""
    spatial_axes = module.num_feature_axes - 1

    def start(input_shape: tuple[int, ...]) -> Carry:
        return widen(module.initialize_carry(jax.random.key(0), input_shape), jnp.float32)

    def init(key: Array, input_size: int) -> Params:
        shape = (1,) * (1 + spatial_axes) + (input_size,)
        carry, other = (jax.eval_shape(lambda size=size: start((*shape[:-1], size))) for size in (input_size, 1))
        if carry != other:
            raise ValueError(f"`module` must have a carry that does not depend on the input size, got {carry}")
        variables = module.init(key, start(shape), jnp.zeros(shape))
        _no_others(module, sorted(set(variables) - {"params"}))
        return variables.get("params", {})

    def init_carry(params: Params, batch_shape: tuple[int, ...] = ()) -> Carry:
        del params
        return start((*batch_shape, 1))

    def step(params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        after, y = cast(tuple[Carry, Array], module.apply({"params": params}, carry, x))
        return _narrow(after, y, carry, x)

    return Cell(init=init, init_carry=init_carry, step=step, spatial_axes=spatial_axes)


def nnx_cell(module: nnx.RNNCellBase) -> Converted:
    """A flax.nnx cell as a `Cell`: the step is the module's own, and nothing is converted.

        module = nnx.merge(graph, params)
        carry, y = module(carry, x)

    Args:
        module: any `nnx.RNNCellBase` whose variables are all `nnx.Param`. It is read, and not changed.

    Returns:
        `Converted(cell, params)`: params is the `nnx.State` of the module, so `nnx.update(module, params)` puts trained
        ones back. The carry is the module's own, as in `linen_cell`.

    Raises:
        ValueError: if `module` is no recurrent cell of nnx or has other variables (a stream of random numbers,
            statistics); from `init`, because a module was initialised when it was made.

    Example:
        >>> from rnn_jax import unroll
        >>> cell, params = nnx_cell(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)))
        >>> unroll(cell, params, jnp.zeros((5, 2, 3)), lengths=jnp.array([5, 2]))[1].shape
        (5, 2, 4)
    """
    if not isinstance(module, nnx.RNNCellBase):
        raise ValueError(f"`module` must be a flax.nnx RNNCellBase, got {type(module).__name__}")
    graph, weights, others = nnx.split(module, nnx.Param, ...)
    _no_others(module, sorted({type(variable).__name__ for variable in jax.tree.leaves(others, is_leaf=_is_variable)}))
    weights = jax.tree.map(jnp.copy, weights)

    def init(key: Array, input_size: int) -> Params:
        del key, input_size
        raise ValueError(
            f"`module` {type(module).__name__} was initialised when it was made: take the params that nnx_cell returned"
        )

    def init_carry(params: Params, batch_shape: tuple[int, ...] = ()) -> Carry:
        carry = nnx.merge(graph, params).initialize_carry((*batch_shape, 1), nnx.Rngs(0))
        return widen(carry, jnp.float32)

    def step(params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        after, y = nnx.merge(graph, params)(carry, x)
        return _narrow(after, y, carry, x)

    return Converted(Cell(init, init_carry, step, spatial_axes=module.num_feature_axes - 1), weights)


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _no_others(module: Any, others: list[str]) -> None:
    """Refuses variables that are no parameters: a step would have to carry them."""
    if others:
        name, kinds = type(module).__name__, ", ".join(others)
        raise ValueError(f"`module` {name} must have parameters and no other variables, got also {kinds}")


def _narrow(after: Carry, y: Array, before: Carry, x: Array) -> tuple[Carry, Array]:
    """The carry keeps its dtypes, and the output has that of the input."""
    return jax.tree.map(lambda new, old: new.astype(old.dtype), after, before), y.astype(x.dtype)
