"""Bridges from the final carry of an encoder to the carry with which a decoder starts.

    bridge = learned_bridge()
    params = bridge.init(key, encoder_carry, cell_carry)       # without batch axes; shapes will do
    carry = decoder.cell.init_carry(decoder_params, (B,))
    carry = carry._replace(cell=bridge.apply(params, encoder_carry, carry.cell))

For a decoder that is a plain cell, the carry is its own. Carries are trees of arrays, NamedTuples, tuples of layers and
`Directions(forward, backward)`.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.caching import cached
from rnn_jax.initializers import lecun_normal
from rnn_jax.layers import Directions
from rnn_jax.products import affine
from rnn_jax.tree import wide
from rnn_jax.types import Array, Carry, Params


class Bridge(NamedTuple):
    """A map from the final carry of an encoder to the first of a decoder.

    Attributes:
        init: `(key, encoder_carry, decoder_carry) -> params`, of carries without batch axes (arrays or shape structs).
        apply: `(params, encoder_carry, decoder_carry) -> decoder carry`; of `decoder_carry`, say the initial one, only
            structure, shapes and dtypes count. Leaves are `[*batch, ...]`.
    """

    init: Callable[[Array, Carry, Carry], Params]
    apply: Callable[[Params, Carry, Carry], Carry]


@cached
def concat_bridge() -> Bridge:
    """Concatenates the two directions of an encoder, forward first, leaf by leaf and layer by layer.

    Features are concatenated; where leaves have several feature axes, on the first of them (the heads of `m_lstm`).

    Returns:
        A bridge without parameters. Its `init` and `apply` raise ValueError where there are no directions, and where
        the result is not shaped as the decoder's carry.

    Example:
        >>> carry = Directions(forward=jnp.zeros((2, 3)), backward=jnp.ones((2, 3)))
        >>> concat_bridge().apply((), carry, jnp.zeros((2, 6)))[0].tolist()
        [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    """

    def join(node: Any) -> Any:
        if not _is_directions(node):
            return node
        if jax.tree.structure(node.forward) != jax.tree.structure(node.backward):
            raise ValueError(f"`encoder_carry` must have equal structures in both directions, got {_describe(node)}")
        # The leaf with the fewest axes ends with the first feature axis of them all.
        axis = min((leaf.ndim for leaf in jax.tree.leaves(node.forward)), default=1) - 1
        return jax.tree.map(lambda *leaves: _concatenate(leaves, axis, node), node.forward, node.backward)

    def joined(carry: Carry) -> Carry:
        if not _has_directions(carry):
            raise ValueError(f"`encoder_carry` must have Directions to concatenate, got {_describe(carry)}")
        return jax.tree.map(join, carry, is_leaf=_is_directions)

    return _without_params(joined)


@cached
def last_bridge(direction: Literal["forward", "backward"] | None = None) -> Bridge:
    """Hands the carry of the encoder, or of one of its directions, on as it is.

    Args:
        direction: which half of a bidirectional encoder; None for one that is not.

    Returns:
        A bridge without parameters. Its `init` and `apply` raise ValueError where there are directions and none was
        chosen, where there are none and one was, and where the carry is not shaped as the decoder's.
    """
    if direction is not None:
        checks.one_of("direction", direction, Directions._fields)

    def choose(carry: Carry) -> Carry:
        if _has_directions(carry) == (direction is None):
            has, choice = ("no Directions", "None") if direction else ("Directions", "'forward' or 'backward'")
            raise ValueError(f"`direction` must be {choice} for an `encoder_carry` with {has}, got {direction!r}")
        if direction is None:
            return carry
        name = direction
        return jax.tree.map(
            lambda node: getattr(node, name) if _is_directions(node) else node, carry, is_leaf=_is_directions
        )

    return _without_params(choose)


class LearnedBridgeParams(NamedTuple):
    """Parameters of `learned_bridge`; complex features count twice, as real and imaginary parts."""

    w: Array  # [features of all encoder leaves, features of all decoder leaves]
    b: Array  # [features of all decoder leaves]


@cached
def learned_bridge(activation: Callable[[Array], Array] = jnp.tanh) -> Bridge:
    """Every leaf of the decoder's carry is a learned function of all that the encoder carries.

        leaf = activation([all encoder leaves] W_leaf + b_leaf)

    for each row of the batch, real and imaginary parts of complex leaves side by side.

    Args:
        activation: applied to each part of each feature.

    Returns:
        A bridge between any two carries without integer leaves, however many layers they have.

    Example:
        >>> bridge = learned_bridge()
        >>> params = bridge.init(jax.random.key(0), Directions(jnp.zeros(3), jnp.zeros(4)), jnp.zeros(5))
        >>> bridge.apply(params, Directions(jnp.ones((2, 3)), jnp.ones((2, 4))), jnp.zeros((2, 5))).shape
        (2, 5)

    References:
        Bahdanau, Cho & Bengio, 2015, arXiv:1409.0473, appendix A.2.2: s_0 = tanh(h_1 W_s).
    """

    def init(key: Array, encoder_carry: Carry, decoder_carry: Carry) -> LearnedBridgeParams:
        checks.prng_key(key)
        _check_floating(encoder_carry, decoder_carry)
        fan_in, fan_out = sum(_sizes(encoder_carry, 0)), sum(_sizes(decoder_carry, 0))
        return LearnedBridgeParams(w=lecun_normal(key, (fan_in, fan_out)), b=jnp.zeros(fan_out))

    def apply(params: LearnedBridgeParams, encoder_carry: Carry, decoder_carry: Carry) -> Carry:
        _check_floating(encoder_carry, decoder_carry)
        rank = _batch_rank(params, encoder_carry, decoder_carry)
        parts = [part for leaf in jax.tree.leaves(encoder_carry) for part in _parts(leaf)]
        batch_shape, dtype = parts[0].shape[:rank], wide(*(part.dtype for part in parts))
        rows = [part.astype(dtype).reshape(*batch_shape, math.prod(part.shape[rank:])) for part in parts]
        out = activation(affine(jnp.concatenate(rows, axis=-1), params.w, params.b))
        leaves, structure = jax.tree.flatten(decoder_carry)
        made, start = [], 0
        for leaf, size in zip(leaves, _sizes(decoder_carry, rank), strict=True):
            made.append(_shaped_like(leaf, out[..., start : start + size]))
            start += size
        return jax.tree.unflatten(structure, made)

    return Bridge(init=init, apply=apply)


def _without_params(convert: Callable[[Carry], Carry]) -> Bridge:
    """A bridge whose result must be shaped as the decoder's carry as it is."""

    def apply(params: tuple[()], encoder_carry: Carry, decoder_carry: Carry) -> Carry:
        del params
        made = convert(encoder_carry)
        if _shapes(made) != _shapes(decoder_carry):
            raise ValueError(
                "`encoder_carry` does not fit the decoder: across this bridge it becomes "
                f"{_describe(made)}, but `decoder_carry` is {_describe(decoder_carry)}; "
                "learned_bridge() fits any two carries"
            )
        return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), made, decoder_carry)

    def init(key: Array, encoder_carry: Carry, decoder_carry: Carry) -> tuple[()]:
        del key
        jax.eval_shape(lambda *carries: apply((), *carries), encoder_carry, decoder_carry)
        return ()

    return Bridge(init=init, apply=apply)


def _concatenate(leaves: tuple[Array, ...], axis: int, node: Directions) -> Array:
    """Two leaves side by side, checked to agree on every other axis."""
    if len({(leaf.shape[:axis], leaf.shape[axis + 1 :], leaf.dtype) for leaf in leaves}) > 1 or axis < 0:
        raise ValueError(f"`encoder_carry` must have directions that can be concatenated, got {_describe(node)}")
    return jnp.concatenate(leaves, axis=axis)


def _is_directions(node: Any) -> bool:
    return isinstance(node, Directions)


def _has_directions(carry: Carry) -> bool:
    return any(map(_is_directions, jax.tree.leaves(carry, is_leaf=_is_directions)))


def _is_complex(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.complexfloating)


def _shapes(carry: Carry) -> Any:
    """Structure, shapes and kinds of a carry: what must be equal for one to take the place of another."""
    leaves, structure = jax.tree.flatten(carry)
    return structure, [(leaf.shape, _is_complex(leaf), jnp.issubdtype(leaf.dtype, jnp.integer)) for leaf in leaves]


def _describe(carry: Carry) -> str:
    return str(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), carry))


def _check_floating(encoder_carry: Carry, decoder_carry: Carry) -> None:
    """Checks that both carries have leaves, and that all are floating or complex."""
    for name, carry in (("encoder_carry", encoder_carry), ("decoder_carry", decoder_carry)):
        flat, _ = jax.tree.flatten_with_path(carry)
        if not flat:
            raise ValueError(f"`{name}` must have leaves, got {carry!r}")
        for path, leaf in flat:
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                where = f"{name}{jax.tree_util.keystr(path)}"
                raise ValueError(f"`{where}` must be floating or complex, got {checks.describe(leaf)}")


def _sizes(carry: Carry, rank: int) -> list[int]:
    """How many real features each leaf has after `rank` batch axes."""
    return [math.prod(leaf.shape[rank:]) * (2 if _is_complex(leaf) else 1) for leaf in jax.tree.leaves(carry)]


def _batch_rank(params: LearnedBridgeParams, encoder_carry: Carry, decoder_carry: Carry) -> int:
    """How many axes are batch: with as many, both carries have the features of `params`, and equal batches.

    If several ranks would do, the axes between them have length one, and the numbers are the same.
    """
    leaves = jax.tree.leaves((encoder_carry, decoder_carry))
    for rank in range(min(leaf.ndim for leaf in leaves) + 1):
        features = sum(_sizes(encoder_carry, rank)), sum(_sizes(decoder_carry, rank))
        if features == params.w.shape and len({leaf.shape[:rank] for leaf in leaves}) == 1:
            return rank
    raise ValueError(
        f"`params` are of a bridge from {params.w.shape[0]} to {params.w.shape[1]} features for each row, got "
        f"`encoder_carry` {_describe(encoder_carry)} and `decoder_carry` {_describe(decoder_carry)}"
    )


def _parts(leaf: Array) -> list[Array]:
    return [leaf.real, leaf.imag] if _is_complex(leaf) else [leaf]


def _shaped_like(leaf: Any, features: Array) -> Array:
    """Features [*batch, F] in the shape and dtype of a leaf of the decoder's carry."""
    if not _is_complex(leaf):
        return features.reshape(leaf.shape).astype(leaf.dtype)
    real, imaginary = (part.reshape(leaf.shape) for part in jnp.split(features, 2, axis=-1))
    return jax.lax.complex(real, imaginary).astype(leaf.dtype)
