"""Matrix products and convolutions under one dtype rule, shared by all cells.

The operands of a product have the dtype of the activations (x, or z inside a step), accumulation is at least
float32, the carry and all element-wise work on it are at least float32. So bfloat16 inputs with float32
parameters give bfloat16 products, float32 carries and bfloat16 outputs, and float64 stays float64.
"""

import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks
from rnn_jax.tree import wide
from rnn_jax.types import Array


class MaskedKernel(NamedTuple):
    """A recurrent kernel whose input is masked, one mask per sequence (variational recurrent dropout).

    Attributes:
        kernel: [H, G].
        mask: [B, ..., H], zeros and 1 / (1 - rate).
    """

    kernel: Array
    mask: Array


def align(value: Array, like: Array) -> Array:
    """`value` in the dtype of `like`, with leading axes of length one up to its rank: safe to add or multiply."""
    return value.astype(like.dtype).reshape((1,) * (like.ndim - value.ndim) + value.shape)


def product(x: Array, w: Array) -> Array:
    """`x @ w` over the last axis of x: operands in the dtype of x, accumulated in at least float32.

    Args:
        x: [..., I].
        w: [I, O].

    Returns:
        [..., O], float32 or float64.

    Raises:
        ValueError: if x does not have I features.
    """
    checks.features("xs", x, w.shape[0])
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(x, w.astype(x.dtype), dimensions, preferred_element_type=wide(x.dtype))


def affine(x: Array, w: Array, b: Array | None = None) -> Array:
    """`x @ w + b` in the dtype of x: [..., I] -> [..., O]."""
    out = product(x, w)
    return (out if b is None else out + align(b, out)).astype(x.dtype)


def convolve(x: Array, w: Array, stride: int = 1) -> Array:
    """`x * w` over the spatial axes of x, with zeros around the picture, in the dtype of x.

    On a CPU all windows are laid out and multiplied as one matrix, and laid out again for the gradient: XLA's own
    gradient by the kernel takes 10 to 50 times longer there.

    Args:
        x: [..., *space, I].
        w: [*kernel_size, I, O], a size for each spatial axis.
        stride: steps from one window to the next, on each axis.

    Returns:
        [..., *space / stride, O], rounded up.

    Raises:
        ValueError: if x has too few axes, or not I features.
    """
    rank = w.ndim - 2
    if x.ndim < rank + 1:
        raise ValueError(f"`xs` must have {rank} spatial axes before its features, got shape {x.shape}")
    checks.features("xs", x, w.shape[-2])
    flat = x.reshape(-1, *x.shape[-rank - 1 :])
    out = lax.platform_dependent(
        flat,
        w.astype(x.dtype),
        cpu=lambda x, w: _multiply_windows(x, w, stride),
        default=lambda x, w: _convolve(x, w, stride),
    )
    return out.reshape(*x.shape[: -rank - 1], *out.shape[1:])


def _convolve(x: Array, w: Array, stride: int) -> Array:
    space = "DHWUVST"[: w.ndim - 2]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(x, w, (stride,) * len(space), "SAME", dimension_numbers=layout)


@partial(jax.checkpoint, static_argnums=2)
def _multiply_windows(x: Array, w: Array, stride: int) -> Array:
    sizes, space = w.shape[:-2], x.shape[1:-1]
    counts = [-(-length // stride) for length in space]
    pads = [max((n - 1) * stride + k - m, 0) for n, k, m in zip(counts, sizes, space, strict=True)]
    padded = jnp.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))
    windows = [
        padded[:, *(slice(a, a + (n - 1) * stride + 1, stride) for a, n in zip(offset, counts, strict=True))]
        for offset in itertools.product(*map(range, sizes))
    ]
    return affine(jnp.concatenate(windows, axis=-1), w.reshape(-1, w.shape[-1]))


def recurrent(h: Array, w: Array | MaskedKernel, dtype: Any) -> Array:
    """`h @ w` inside a step: operands in `dtype` (that of z), result in the dtype of the carry h.

    Args:
        h: [B, ..., H]; [B, ..., N, D] for a kernel of heads.
        w: [H, G]; [N, D, G], head by head; or a `MaskedKernel`.
        dtype: the dtype of the activations.

    Returns:
        [B, ..., G] in the dtype of h; [B, ..., N, G] of heads.
    """
    if isinstance(w, MaskedKernel) and w.kernel.ndim == 3:
        w = w._replace(mask=w.mask.reshape(*w.mask.shape[:-1], *h.shape[-2:]))
    kernel, h_in = unmask(h, w)
    if kernel.ndim == 2:
        return product(h_in.astype(dtype), kernel).astype(h.dtype)
    operands = h_in.astype(dtype), kernel.astype(dtype)
    return jnp.einsum("...nd,ndg->...ng", *operands, preferred_element_type=wide(dtype)).astype(h.dtype)


def unmask(h: Array, w: Array | MaskedKernel) -> tuple[Array, Array]:
    """The kernel of `w`, and h as it enters the product: masked if w carries a mask."""
    if isinstance(w, MaskedKernel):
        return w.kernel, h * w.mask.astype(h.dtype)
    return w, h


def columns(w: Array | MaskedKernel, start: int, stop: int | None = None) -> Any:
    """The columns `start:stop` of a kernel (some of its gates), its mask kept."""
    if isinstance(w, MaskedKernel):
        return MaskedKernel(kernel=w.kernel[..., start:stop], mask=w.mask)
    return w[..., start:stop]


def layer_norm(x: Array, scale: Array, shift: Array | None = None, *, epsilon: float = 1e-6) -> Array:
    """Normalises the last axis to mean 0 and variance 1, then scales and shifts (Ba et al. 2016).

    Args:
        x: [..., F]; statistics are at least float32.
        scale: [F].
        shift: [F] or None.
        epsilon: added to the variance.

    Returns:
        [..., F] in the dtype of x.
    """
    y = x.astype(wide(x.dtype))
    mean = y.mean(-1, keepdims=True)
    variance = jnp.square(y - mean).mean(-1, keepdims=True)
    y = (y - mean) * lax.rsqrt(variance + epsilon) * align(scale, y)
    return (y if shift is None else y + align(shift, y)).astype(x.dtype)
