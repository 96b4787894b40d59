"""Gradients at every step of every layer, whatever the layers are built into."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.analysis.gradients import row_norms
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params, PerStep, as_cell

__all__ = ["TappedParams", "gradient_norms", "with_taps"]


class TappedParams(NamedTuple):
    """Parameters of a cell with taps, as its `perturb` makes them."""

    cell: Params
    taps: dict[str, PerStep]  # by leaf of the carry: [T, *batch, ...] zeros


def with_taps(cell: Cell | LinearCell) -> Cell:
    """A cell whose `perturb` adds zeros to the carry that each step reads: the gradient of a zero is dL/dh_t.

    Wrap each cell of a network, be it stacked, bidirectional or part of a decoder; `gradient_norms` reads all of them.

    Args:
        cell: any cell; a `stack` counts as one.

    Returns:
        A cell with the parameters, the carry and the numbers of `cell`: parameters that were trained without taps fit.

    Example:
        >>> from rnn_jax import lstm, stack
        >>> cell = stack(with_taps(lstm(4)), with_taps(lstm(3)))
        >>> params = stack(lstm(4), lstm(3)).init(jax.random.key(0), 2)
        >>> tapped = cell.perturb(jax.random.key(1), params, (5, 1, 2))
        >>> tapped[1].taps["c"].value.shape
        (5, 1, 3)
    """
    checks.is_cell(cell)
    inner = as_cell(cell) if isinstance(cell, LinearCell) else cell

    def perturb(key: Array, params: Params, shape: tuple[int, ...]) -> TappedParams:
        noisy = inner.perturb(key, _plain(params), shape)
        carry = jax.eval_shape(lambda: inner.init_carry(noisy, shape[1:-1]))
        taps = {name: PerStep(jnp.zeros((shape[0], *leaf.shape), leaf.dtype)) for name, leaf in _named(carry)}
        return TappedParams(noisy, taps)

    def project(params: Params, xs: Array) -> tuple[Any, dict[str, Array]]:
        taps = params.taps if isinstance(params, TappedParams) else {}
        return inner.project(_plain(params), xs), {name: tap.value for name, tap in taps.items()}

    def step(params: Params, carry: Carry, z: tuple[Any, dict[str, Array]]) -> tuple[Carry, Any]:
        z, taps = z
        if taps:
            leaves = [leaf + taps[name].astype(leaf.dtype) for name, leaf in _named(carry)]
            carry = jax.tree.unflatten(jax.tree.structure(carry), leaves)
        return inner.step(_plain(params), carry, z)

    def prepare(params: Params) -> Params:
        ready = inner.prepare(_plain(params))
        return params._replace(cell=ready) if isinstance(params, TappedParams) else ready

    return Cell(
        init=inner.init,
        init_carry=lambda params, batch_shape=(): inner.init_carry(_plain(params), batch_shape),
        step=step,
        project=project,
        readout=lambda params, hs, xs: inner.readout(_plain(params), hs, xs),
        prepare=prepare,
        perturb=perturb,
        spatial_axes=inner.spatial_axes,
    )


def gradient_norms(loss: Callable[[Any], Array], params: Any, num_axes: int = 2) -> dict[str, Array]:
    """|dL/dh_t| at every step t of every layer with taps, by one backward pass.

    h_t is what step t of the layer reads, so that index 0 is about its first carry: the gradient that comes back
    through time. Where the layer walks backwards, step t reads what step t + 1 left. Steps that are padding have 0.

    Args:
        loss: `params -> scalar`, by `unroll` or the `apply` of a layer.
        params: `net.perturb(key, params, xs.shape)` of a network whose cells are `with_taps`.
        num_axes: axes of the result: 2 for xs [T, B, I], 1 for [T, I].

    Returns:
        `{name: [T, B]}`, Euclidean norms over the units. A name is the place of a layer in the parameters and that of
        a part of its carry, such as "0.h" or "1.backward.c".

    Raises:
        ValueError: nothing has taps.

    Example:
        >>> from rnn_jax import dense, gru, lstm, stack, unroll
        >>> cell = stack(with_taps(lstm(4)), with_taps(gru(3)), dense(1))
        >>> xs = jax.random.normal(jax.random.key(0), (5, 2, 3))
        >>> params = cell.perturb(jax.random.key(1), cell.init(jax.random.key(2), 3), xs.shape)
        >>> norms = gradient_norms(lambda params: unroll(cell, params, xs)[1][-1].sum(), params)
        >>> {name: norm.shape for name, norm in norms.items()}
        {'0.c': (5, 2), '0.h': (5, 2), '1': (5, 2)}
    """
    found, structure = jax.tree.flatten_with_path(params, is_leaf=_is_tapped)
    taps = [node.taps if _is_tapped(node) else None for _, node in found]
    if not any(taps):
        raise ValueError("`params` must be perturbed parameters of cells with_taps, got none with taps")

    def of_taps(taps: list[Any]) -> Array:
        nodes = [
            node if some is None else node._replace(taps=some) for (_, node), some in zip(found, taps, strict=True)
        ]
        return loss(jax.tree.unflatten(structure, nodes))

    norms = {}
    for (path, _), some in zip(found, row_norms(jax.grad(of_taps)(taps), num_axes), strict=True):
        layer = jax.tree_util.keystr(path, simple=True, separator=".")
        for name, norm in (some or {}).items():
            norms[".".join(part for part in (layer, name) if part) or "carry"] = norm.value
    return norms


def _is_tapped(node: Any) -> bool:
    return isinstance(node, TappedParams)


def _plain(params: Params) -> Params:
    """Parameters without taps."""
    return params.cell if isinstance(params, TappedParams) else params


def _named(carry: Carry) -> list[tuple[str, Any]]:
    """The leaves of a carry by their places."""
    leaves = jax.tree.leaves_with_path(carry)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]
