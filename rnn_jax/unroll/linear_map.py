"""Linear functions that have a transpose of their own, under every transformation of jax.

`jax.custom_derivatives.linear_call` has no batching and no derivative by what the function depends on,
`lax.custom_linear_solve` traces four programs to run one. Here nothing is traced before it is needed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from rnn_jax.types import Array

__all__ = ["linear_map"]

Function = Callable[[Any, Any], Any]


def linear_map(function: Function, transpose: Function, given: Any, x: Any, out: Any) -> Any:
    """`function(given, x)`, linear in x.

    Args:
        function: `(given, x) -> y`. Its derivative by `given` is taken by jax.
        transpose: `(given, y_bar) -> x_bar`; a leaf of y_bar is None where nothing depends on that of y.
        given: tree of arrays.
        x: tree of arrays.
        out: tree of arrays with the shapes and types of y.

    Returns:
        y.
    """
    given_leaves, given_tree = jax.tree.flatten(given)
    x_leaves, x_tree = jax.tree.flatten(x)
    out_leaves, out_tree = jax.tree.flatten(out)

    def flat(function: Function, tree: Any, like: list[Any]) -> Function:
        def of_leaves(given: Any, leaves: Any) -> Any:
            leaves = [
                _zeros(one) if leaf is None and one is not None else leaf
                for one, leaf in zip(like, leaves, strict=True)
            ]
            return jax.tree.leaves(function(jax.tree.unflatten(given_tree, given), jax.tree.unflatten(tree, leaves)))

        return of_leaves

    y = _linear_map.bind(
        *given_leaves,
        *x_leaves,
        count=len(given_leaves),
        function=flat(function, x_tree, [jax.typeof(leaf) for leaf in x_leaves]),
        transpose=flat(transpose, out_tree, [None] * len(out_leaves)),
        out=tuple(jax.typeof(leaf) for leaf in out_leaves),
    )
    return jax.tree.unflatten(out_tree, y)


def _zeros(like: Any) -> Array:
    return jnp.zeros(like.shape, like.dtype)


_linear_map = Primitive("linear_map")
_linear_map.multiple_results = True


@_linear_map.def_impl
def _run(*leaves: Any, count: int, function: Function, **_: Any) -> Any:
    return jax.jit(function)(leaves[:count], leaves[count:])


@_linear_map.def_abstract_eval
def _types(*_: Any, out: Any, **__: Any) -> Any:
    return out


def _derivative(leaves: Any, dots: Any, *, count: int, function: Function, **more: Any) -> Any:
    given, x, out = leaves[:count], leaves[count:], more["out"]
    y = _linear_map.bind(*leaves, count=count, function=function, **more)
    y_dot = [ad.Zero(leaf.to_tangent_aval()) for leaf in out]
    if any(not isinstance(dot, ad.Zero) for dot in dots[count:]):
        x_dot = [ad.instantiate_zeros(dot) for dot in dots[count:]]
        y_dot = _linear_map.bind(*given, *x_dot, count=count, function=function, **more)
    if any(not isinstance(dot, ad.Zero) for dot in dots[:count]):
        moving = [i for i in range(count) if not isinstance(dots[i], ad.Zero)]

        def of_moving(leaves: Any) -> Any:
            at = dict(zip(moving, leaves, strict=True))
            return function(tuple(at.get(i, leaf) for i, leaf in enumerate(given)), x)

        more_dot = jax.jvp(of_moving, ([given[i] for i in moving],), ([dots[i] for i in moving],))[1]
        y_dot = [ad.add_tangents(a, b) for a, b in zip(y_dot, more_dot, strict=True)]
    return y, y_dot


def _transposed(y_bar: Any, *leaves: Any, count: int, function: Function, transpose: Function, out: Any) -> Any:
    there = [i for i, leaf in enumerate(y_bar) if not isinstance(leaf, ad.Zero)]

    def back(given: Any, some: Any) -> Any:
        at = dict(zip(there, some, strict=True))
        return transpose(given, [at.get(i) for i in range(len(y_bar))])

    def forth(given: Any, x: Any) -> Any:
        y = function(given, x)
        return [y[i] for i in there]

    turned: Any = {"function": back, "transpose": forth, "out": tuple(leaf.aval for leaf in leaves[count:])}
    return [None] * count + _linear_map.bind(*leaves[:count], *(y_bar[i] for i in there), count=count, **turned)


def _batched(leaves: Any, dims: Any, *, count: int, function: Function, transpose: Function, out: Any) -> Any:
    pairs = list(zip(leaves, dims, strict=True))
    size = next(leaf.shape[dim] for leaf, dim in pairs if dim is not None)
    given = [leaf if dim is None else jnp.moveaxis(leaf, dim, 0) for leaf, dim in pairs[:count]]
    x = [batching.bdim_at_front(leaf, dim, size) for leaf, dim in pairs[count:]]
    axes = (tuple(None if dim is None else 0 for dim in dims[:count]), 0)
    y = _linear_map.bind(
        *given,
        *x,
        count=count,
        function=jax.vmap(function, in_axes=axes, axis_size=size),
        transpose=jax.vmap(transpose, in_axes=axes, axis_size=size),
        out=tuple(leaf.update(shape=(size, *leaf.shape)) for leaf in out),
    )
    return y, [0] * len(y)


ad.primitive_jvps[_linear_map] = _derivative
ad.primitive_transposes[_linear_map] = _transposed
batching.primitive_batchers[_linear_map] = _batched
mlir.register_lowering(
    _linear_map,
    mlir.lower_fun(
        lambda *leaves, count, function, **_: function(leaves[:count], leaves[count:]), multiple_results=True
    ),
)
