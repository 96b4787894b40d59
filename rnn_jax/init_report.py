"""What an initialisation promises, before any training: how far back a cell can remember, gate by gate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.types import Array, Cell, LinearCell, Params, as_cell
from rnn_jax.unroll import unroll


class GateReport(NamedTuple):
    """One gate of a fused recurrent kernel.

    Attributes:
        name: its letter in the equations.
        radius: spectral radius of its block of W_h; nan where the block is not square.
        norm: largest singular value of its block.
        bias: the mean of its bias.
    """

    name: str
    radius: float
    norm: float
    bias: float


class InitReport(NamedTuple):
    """The answer of `init_report`. Printing it gives a table.

    Attributes:
        gates: one entry for each gate of the recurrent kernel `w_h`; empty without one.
        radius: spectral radius of the Jacobian of one step, d carry' / d carry.
        memory: smallest, median and largest memory time of that Jacobian's modes, in steps: after so many steps a
            perturbation has shrunk to 1/e. Infinite where it does not shrink.
    """

    gates: tuple[GateReport, ...]
    radius: float
    memory: tuple[float, float, float]

    def __str__(self) -> str:
        """A table."""
        lines = [f"{'gate':<6}{'radius':>9}{'norm':>9}{'bias':>9}"]
        lines += [f"{g.name:<6}{g.radius:>9.3f}{g.norm:>9.3f}{g.bias:>9.3f}" for g in self.gates]
        lowest, median, highest = (f"{value:.3g}" for value in self.memory)
        memory = f"memory {lowest} / {median} / {highest} steps (min / median / max)"
        step = f"one step: spectral radius {self.radius:.4f}, {memory}"
        return "\n".join([*(lines if self.gates else []), step])


def init_report(cell: Cell | LinearCell, params: Params, *, xs: Array | None = None) -> InitReport:
    """Spectral radius of each gate and memory times of one step, before any training.

    The Jacobian d carry' / d carry is that of the last step of `xs`: a silent step after some noise, so that gates
    stand near their biases while units are spread as an untrained network has them (at the origin itself, ReLU units
    would be neither on nor off).

    Args:
        cell: any cell without spatial axes. Of a `stack` it reports the Jacobian as a whole; gates are reported layer
            by layer, `init_report(layer, layer_params)`.
        params: its parameters.
        xs: [T, I], T at least 1; by default 20 steps of standard normal inputs, always the same, and one of zeros.

    Returns:
        An `InitReport`.

    Raises:
        ValueError: if the parameters do not say how many features x has; give `xs` then.

    Example:
        >>> from rnn_jax import lstm
        >>> from rnn_jax.initializers import chrono
        >>> cell = lstm(64, bias_init=chrono(100.0))
        >>> report = init_report(cell, cell.init(jax.random.key(0), 3))
        >>> [gate.name for gate in report.gates], 20 < report.memory[2] < 200
        (['i', 'f', 'g', 'o'], True)

    Notes:
        Memory time is `-1 / log |eigenvalue|`. The eigenvalues at one point say nothing of transient growth, for which
        compare `norm` with `radius`. The carry is taken as it is: that of `s_lstm` and `m_lstm` is divided by its
        stabiliser, into which decay goes first, so their memory times come out too long.
    """
    checks.is_cell(cell)
    if xs is None:
        xs = jax.random.normal(jax.random.key(0), (21, _input_size(params))).at[-1].set(0.0)
    if xs.ndim != 2 or len(xs) < 1:
        raise ValueError(f"`xs` must be [T, I] with T at least 1, got shape {xs.shape}")
    stepped = as_cell(cell) if isinstance(cell, LinearCell) else cell
    params = stepped.prepare(params)
    carry, _ = unroll(cell, params, xs[:-1])
    z = stepped.project(params, xs[-1])
    eigenvalues = np.linalg.eigvals(_jacobian(lambda c: stepped.step(params, c, z)[0], carry))
    sizes = np.abs(eigenvalues)
    inside = np.clip(sizes, 1e-12, 1 - 1e-6)
    times = np.where(sizes > inside, np.inf, np.where(sizes < inside, 0.0, -1 / np.log(inside)))
    low, median, high = (float(np.quantile(times, q, method="nearest")) for q in (0, 0.5, 1))
    return InitReport(gates=_gates(params, carry), radius=float(sizes.max()), memory=(low, median, high))


def _input_size(params: Params) -> int:
    """I, from the first kernel of the parameters that takes x."""
    for path, leaf in jax.tree.leaves_with_path(params):
        name = getattr(path[-1], "name", "") if path else ""
        if name in ("w_x", "w_in", "b_re", "w_qkv") and leaf.ndim == 2:
            return leaf.shape[0]
    raise ValueError("`xs` must be given, an array [T, I]: these parameters do not say how many features it has")


def _jacobian(step: Any, carry: Any) -> np.ndarray:
    """d carry' / d carry as a real square matrix; complex leaves count as pairs of reals."""
    leaves, structure = jax.tree.flatten(carry)
    is_complex = [jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in leaves]

    def to_real(tree_of: Any) -> Array:
        parts = []
        for leaf in jax.tree.leaves(tree_of):
            real = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
            parts += [leaf.real.ravel(), leaf.imag.ravel()] if real else [leaf.ravel()]
        return jnp.concatenate(parts)

    def from_real(flat: Array) -> Any:
        rebuilt, at = [], 0
        for leaf, pair in zip(leaves, is_complex, strict=True):
            one = flat[at : at + leaf.size].reshape(leaf.shape)
            at += leaf.size
            if pair:
                one = jax.lax.complex(one, flat[at : at + leaf.size].reshape(leaf.shape))
                at += leaf.size
            rebuilt.append(one)
        return jax.tree.unflatten(structure, rebuilt)

    return np.asarray(jax.jacobian(lambda flat: to_real(step(from_real(flat))))(to_real(carry)), np.float64)


def _gates(params: Any, carry: Any) -> tuple[GateReport, ...]:
    """The blocks of `w_h`, named by the `GATES` of the parameters."""
    while hasattr(params, "cell"):  # what combinators wrap around a cell
        params = params.cell
    w_h, b = getattr(params, "w_h", None), getattr(params, "b", None)
    if w_h is None or b is None or w_h.ndim > 3:
        return ()
    size = getattr(carry, "c", getattr(carry, "h", carry)).shape[-1]
    count = b.size // size
    known = (getattr(params, "GATES", ()), getattr(params, "COUPLED_GATES", ()))
    names = next(([gate.name for gate in gates] for gates in known if len(gates) == count), None)
    heads = np.asarray(w_h, np.float64)
    if heads.ndim == 1:
        heads = np.diag(heads)
    if heads.ndim == 2:
        heads = heads[None]
    reports = []
    biases = np.asarray(b, np.float64).reshape(count, size).mean(-1)
    for index, (block, bias) in enumerate(zip(np.split(heads, count, axis=-1), biases, strict=True)):
        square = block.shape[-2] == block.shape[-1]
        radius = max(np.abs(np.linalg.eigvals(one)).max() for one in block) if square else np.nan
        norm = np.linalg.norm(block, ord=2, axis=(-2, -1)).max()
        name = names[index] if names else str(index)
        reports.append(GateReport(name=name, radius=float(radius), norm=float(norm), bias=float(bias)))
    return tuple(reports)
