"""The shallow piecewise-linear network, a model of chaotic dynamics."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.initializers import Gate
from rnn_jax.products import MaskedKernel, affine, align, recurrent
from rnn_jax.tree import wide
from rnn_jax.types import Array, Cell


class ShPLRNNParams(NamedTuple):
    """Parameters of `sh_plrnn`. N is `num_basis`."""

    w_x: Array  # [I, H]
    w_h: Array | MaskedKernel  # [H, N]
    w_basis: Array  # [N, H]
    diagonal: Array  # [H]
    threshold: Array  # [N]
    b: Array  # [H]

    GATES = (Gate("h"),)


@constructor
def sh_plrnn(hidden_size: int, *, num_basis: int = 50, clipped: bool = True) -> Cell:
    """The shallow piecewise-linear recurrent network: one step is a linear map and one layer of ReLUs.

        u = h W_h
        h' = a h + (relu(u + threshold) - relu(u)) W_basis + x W_x + b        (clipped)
        h' = a h + relu(u + threshold) W_basis + x W_x + b                    (not clipped)

    The clipped units are bounded, so orbits are wherever all |a| < 1. The state is meant to be as small as the
    observed system, `num_basis` large; generalized teacher forcing then trains it on chaotic data
    (`rnn_jax.forcing.with_forced_carry`).

    Args:
        hidden_size: H, the dimension of the state.
        num_basis: N, the number of ReLU units.
        clipped: subtracts the same ReLU without its threshold.

    Returns:
        A cell with carry h [B, H] and output h.

    Example:
        >>> cell = sh_plrnn(3, num_basis=20)
        >>> params = cell.init(jax.random.key(0), 2)
        >>> params.w_h.shape, params.w_basis.shape
        ((3, 20), (20, 3))

    Notes:
        Starts as the authors' code: a is the diagonal of `(R^T R / H + I)`, R normal, over its largest eigenvalue;
        W_h ~ U(+-1/sqrt(H)), W_basis ~ U(+-1/sqrt(N)), threshold ~ U(+-1/sqrt(N)) if clipped, else 0; W_x by Glorot;
        b = 0. `init(key, 0)` makes an autonomous system, run over xs [T, *batch, 0]. In the papers M is the hidden
        size, H the number of units, and a, W_h, W_basis, threshold, b, W_x are A, W_2, W_1, h_2, h_1, C.

    References:
        Hess, Monfared, Brenner & Durstewitz, Generalized teacher forcing for learning chaotic dynamics, 2023,
        arXiv:2306.04406; github.com/DurstewitzLab/GTF-shPLRNN.
    """
    checks.positive("hidden_size", hidden_size)
    checks.positive("num_basis", num_basis)

    def init(key: Array, input_size: int) -> ShPLRNNParams:
        x_key, h_key, basis_key, a_key, threshold_key = jax.random.split(key, 5)
        r = jax.random.normal(a_key, (hidden_size, hidden_size))
        positive = r.T @ r / hidden_size + jnp.eye(hidden_size)
        threshold = _symmetric(threshold_key, (num_basis,), num_basis) if clipped else jnp.zeros(num_basis)
        return ShPLRNNParams(
            w_x=_symmetric(
                x_key, (input_size, hidden_size), (input_size + hidden_size) / 6
            ),  # Glorot, also for 0 inputs
            w_h=_symmetric(h_key, (hidden_size, num_basis), hidden_size),
            w_basis=_symmetric(basis_key, (num_basis, hidden_size), num_basis),
            diagonal=jnp.diag(positive) / jnp.linalg.eigvalsh(positive)[-1],
            threshold=threshold,
            b=jnp.zeros(hidden_size),
        )

    def init_carry(params: ShPLRNNParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))

    def project(params: ShPLRNNParams, xs: Array) -> Array:
        return affine(xs, params.w_x, params.b)

    def step(params: ShPLRNNParams, carry: Array, z: Array) -> tuple[Array, Array]:
        u = recurrent(carry, params.w_h, z.dtype)
        basis = jax.nn.relu(u + align(params.threshold, u))
        if clipped:
            basis = basis - jax.nn.relu(u)
        h = align(params.diagonal, carry) * carry + recurrent(basis, params.w_basis, z.dtype) + z.astype(carry.dtype)
        return h, h.astype(z.dtype)

    return Cell(init=init, init_carry=init_carry, step=step, project=project)


def _symmetric(key: Array, shape: tuple[int, ...], fan: float) -> Array:
    """Uniform within +-1 / sqrt(fan)."""
    return jax.random.uniform(key, shape, float, -(fan**-0.5), fan**-0.5)
