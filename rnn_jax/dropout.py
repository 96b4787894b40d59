"""Dropout for recurrent cells. Every mask is an array drawn before the loop by `cell.perturb`."""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.compose import wrap
from rnn_jax.products import MaskedKernel, align
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params, PerStep

C = TypeVar("C", bound=Cell | LinearCell)


class DropoutParams(NamedTuple):
    """Parameters of `with_dropout`: those of the cell, and the masks of one call (None: evaluation)."""

    cell: Params
    inputs: PerStep | None = None  # [T, *batch, I]: 0 or 1 / (1 - rate)
    variational: Array | None = None  # [*batch, I]: 0 or 1 / (1 - rate)
    zoneout_h: PerStep | None = None  # [T, *batch, H]: True keeps the old value
    zoneout_c: PerStep | None = None  # [T, *batch, H]: True keeps the old value


def with_dropout(
    cell: C,
    *,
    inputs: float = 0.0,
    variational: float = 0.0,
    recurrent: float = 0.0,
    weights: float = 0.0,
    zoneout_h: float = 0.0,
    zoneout_c: float = 0.0,
) -> C:
    """Dropout in, around and across the recurrence. Inside a `stack`, wrap each layer.

    Parameters evaluate as they come out of `init`. `cell.perturb(key, params, xs.shape)` returns parameters with the
    masks of one training call drawn in; gradients flow through it to the parameters.

    Args:
        cell: the cell. `recurrent` and `weights` need parameters with a recurrent kernel `w_h`; zoneout needs a carry
            that is h itself or has a field `h`, which is also the cell's output.
        inputs: drops features of x, a new mask at every step.
        variational: drops features of x, one mask per sequence (Gal & Ghahramani).
        recurrent: drops units of h where they enter the recurrent product, one mask per sequence (Gal & Ghahramani).
        weights: drops entries of the recurrent kernel, one mask per call (DropConnect; AWD-LSTM's weight drop).
        zoneout_h: keeps units of h at their old value, a new mask at every step; when evaluating, the expectation
            `rate * old + (1 - rate) * new`.
        zoneout_c: the same for every other leaf of the carry, all with one mask. Not for `s_lstm`, whose leaves change
            their scale from step to step.

    Returns:
        A cell of the same type with `DropoutParams` and the same carry.

    Raises:
        ValueError: for a rate outside [0, 1), and from `init` if the cell has not what a rate needs.

    Example:
        >>> from rnn_jax import lstm, unroll
        >>> cell = with_dropout(lstm(8), variational=0.2, weights=0.5, zoneout_c=0.1)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> xs = jnp.ones((5, 2, 3))
        >>> noisy = cell.perturb(jax.random.key(1), params, xs.shape)
        >>> bool((unroll(cell, noisy, xs)[1] == unroll(cell, params, xs)[1]).all())
        False

    References:
        Srivastava et al. (inputs), 2014; Gal & Ghahramani, A theoretically grounded application of dropout in recurrent
        neural networks, 2016, arXiv:1512.05287; Merity, Keskar & Socher (AWD-LSTM), 2018, arXiv:1708.02182;
        Krueger et al., Zoneout, 2017, arXiv:1606.01305.
    """
    checks.is_cell(cell)
    rates = {
        "inputs": inputs,
        "variational": variational,
        "recurrent": recurrent,
        "weights": weights,
        "zoneout_h": zoneout_h,
        "zoneout_c": zoneout_c,
    }
    for name, rate in rates.items():
        checks.fraction(name, rate)
    bare = cell

    def init(key: Array, input_size: int) -> DropoutParams:
        params = bare.init(key, input_size)
        if (recurrent or weights) and not _kernels(params):
            name = "recurrent" if recurrent else "weights"
            raise ValueError(f"`{name}` needs a cell with a recurrent kernel `w_h`, got {type(params).__name__}")
        if recurrent or zoneout_h or zoneout_c:
            others = _split_h(jax.eval_shape(lambda: bare.init_carry(params, ())))[1]
            if zoneout_c and not others:
                raise ValueError("`zoneout_c` needs a carry with leaves other than h, got only h")
            if zoneout_c and "m" in others:
                raise ValueError(
                    "`zoneout_c` cannot mix a carry whose scale moves with its stabiliser m, as that of s_lstm; "
                    "use zoneout_h"
                )
        return DropoutParams(cell=params)

    def perturb(key: Array, params: DropoutParams, shape: tuple[int, ...]) -> DropoutParams:
        keys = jax.random.split(key, 7)
        inner = bare.perturb(keys[0], params.cell, shape)
        carry = jax.eval_shape(lambda: bare.init_carry(params.cell, shape[1:-1]))
        if weights:
            inner = _map_kernels(lambda k, w: w * keep_mask(k, weights, w.shape, w.dtype), inner, keys[1])
        if recurrent:
            h = _split_h(carry)[0]
            inner = _map_kernels(
                lambda k, w: MaskedKernel(kernel=w, mask=keep_mask(k, recurrent, h.shape, w.dtype)), inner, keys[2]
            )
        return DropoutParams(
            cell=inner,
            inputs=PerStep(keep_mask(keys[3], inputs, shape)) if inputs else None,
            variational=keep_mask(keys[4], variational, shape[1:]) if variational else None,
            zoneout_h=_zones(keys[5], zoneout_h, shape[0], carry) if zoneout_h else None,
            zoneout_c=_zones(keys[6], zoneout_c, shape[0], carry) if zoneout_c else None,
        )

    def of_xs(params: DropoutParams, xs: Array) -> Array:
        if params.inputs is not None:
            xs = xs * params.inputs.value.astype(xs.dtype)
        if params.variational is not None:
            xs = xs * align(params.variational, xs)
        return xs

    wrapped = wrap(cell, init=init, of_xs=of_xs)._replace(perturb=perturb)
    if not (zoneout_h or zoneout_c):
        return wrapped
    return wrapped._replace(**_zoned(wrapped, zoneout_h, zoneout_c))


def _zoned(cell: Cell | LinearCell, zoneout_h: float, zoneout_c: float) -> dict[str, Any]:
    """The functions of a cell that mixes its new carry with the old one. The masks travel with z, one step each."""
    if isinstance(cell, LinearCell):
        return {"elements": _zoned_elements(cell, zoneout_h)}

    def project(params: DropoutParams, xs: Array) -> Any:
        masks = [None if m is None else m.value for m in (params.zoneout_h, params.zoneout_c)]
        return cell.project(params, xs), masks

    def step(params: DropoutParams, carry: Carry, z: Any) -> tuple[Carry, Array]:
        z, (mask_h, mask_c) = z
        after, out = cell.step(params, carry, z)
        (old_h, old), (new_h, new) = _split_h(carry), _split_h(after)
        h = _mix(old_h, new_h, mask_h, zoneout_h)
        rest = {name: _mix(old[name], new[name], mask_c, zoneout_c) for name in new}
        after = after._replace(h=h, **rest) if hasattr(after, "_replace") else h
        return after, h.astype(out.dtype)

    return {"project": project, "step": step}


def _zoned_elements(cell: LinearCell, rate: float) -> Any:
    """a and b of `k h + (1 - k) (a h + b)`: zoneout of a linear recurrence is linear."""

    def elements(params: DropoutParams, xs: Array) -> tuple[Array, Array]:
        a, b = cell.elements(params, xs)
        if params.zoneout_h is None:
            return rate + (1 - rate) * a, (1 - rate) * b
        keep = params.zoneout_h.value
        return jnp.where(keep, jnp.ones((), a.dtype), a), jnp.where(keep, jnp.zeros((), b.dtype), b)

    return elements


def _mix(old: Array, new: Array, mask: Array | None, rate: float) -> Array:
    """Zoneout of one leaf: by the mask, or in expectation without one."""
    return rate * old + (1 - rate) * new if mask is None else jnp.where(mask, old, new)


def _split_h(carry: Carry) -> tuple[Any, dict[str, Any]]:
    """h of a carry, and its other leaves by name."""
    if hasattr(carry, "shape"):
        return carry, {}
    if hasattr(carry, "_asdict") and "h" in carry._fields:
        fields = carry._asdict()
        return fields.pop("h"), fields
    raise ValueError(f"dropout across steps needs a carry that is h or has a field `h`, got {type(carry).__name__}")


def _zones(key: Array, rate: float, num_steps: int, carry: Carry) -> PerStep:
    """A zoneout mask for every step, shaped like h."""
    h, others = _split_h(carry)
    for name, leaf in others.items():
        if leaf.shape != h.shape:
            raise ValueError(f"zoneout needs leaves shaped like h {h.shape}, got `{name}` of shape {leaf.shape}")
    return PerStep(jax.random.bernoulli(key, rate, (num_steps, *h.shape)))


def keep_mask(key: Array, rate: float, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """A mask of zeros, with probability `rate`, and 1 / (1 - rate)."""
    return jax.random.bernoulli(key, 1 - rate, shape).astype(dtype) / jnp.asarray(1 - rate, dtype)


def _is_kernel(path: tuple[Any, ...]) -> bool:
    return bool(path) and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "w_h"


def _kernels(params: Params) -> list[Array]:
    return [leaf for path, leaf in jax.tree.leaves_with_path(params) if _is_kernel(path)]


def _map_kernels(change: Any, params: Params, key: Array) -> Params:
    """Applies `change(key, kernel)` to every recurrent kernel, each with a key of its own."""
    flat, structure = jax.tree.flatten_with_path(params)
    if not any(_is_kernel(path) for path, _ in flat):
        raise ValueError("`recurrent` and `weights` find the kernel masked already; give all rates to one with_dropout")
    leaves = [
        change(jax.random.fold_in(key, index), leaf) if _is_kernel(path) else leaf
        for index, (path, leaf) in enumerate(flat)
    ]
    return jax.tree.unflatten(structure, leaves)
