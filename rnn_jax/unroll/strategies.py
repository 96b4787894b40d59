"""Execution strategies: frozen, hashable values that say how to unroll, never what is computed."""

from dataclasses import dataclass
from typing import Literal, get_args

from jax.sharding import AxisType, Mesh

from rnn_jax import checks


@dataclass(frozen=True)
class Scan:
    """One step after another: `jax.lax.scan`. Works for every cell; depth T, activation memory T.

    Attributes:
        unroll: steps per iteration of the compiled loop; None is what was fastest: 16 on a GPU, where the kernels of a
            step are small, and 1 elsewhere. More steps compile more slowly.
    """

    unroll: int | None = None

    def __post_init__(self) -> None:
        if self.unroll is not None:
            checks.positive("unroll", self.unroll)


@dataclass(frozen=True)
class Chunked:
    """Scans chunks of `size` steps: activation memory T / size + size instead of T. Works for every cell.

    Attributes:
        size: steps in a chunk; near the square root of T / 8 saves the most, and the optimum is flat. T need not be a
            multiple of it, but then xs is copied.
        remat: recompute the inside of a chunk in the backward pass (that is what saves memory, for about one more
            forward pass); False keeps it.
    """

    size: int
    remat: bool = True

    def __post_init__(self) -> None:
        checks.positive("size", self.size)


@dataclass(frozen=True)
class Associative:
    """All steps at once by an associative scan: depth log T. Needs a `LinearCell`. For accelerators.

    A gradient is one more such scan, walking back, and keeps the states but not what the scans had on the way.
    """


@dataclass(frozen=True)
class Sharded:
    """Time split over devices: depth T / devices, or log T on accelerators. Needs a `LinearCell`, in every layer.

    Each device projects, runs and reads out its own slice of the steps. All that devices exchange is one map
    h -> A h + B per slice, the size of two carries however long the sequence, so that each knows the carry that enters
    its slice. Other axes of the mesh, such as one that splits the batch, stay as the arrays are laid out.

    Attributes:
        mesh: the devices. Its axes must be of the type Auto, as `jax.sharding.Mesh` makes them.
        axis: the axis of the mesh over which time is split; xs is best laid out as `PartitionSpec(axis)`.

    Raises:
        ValueError: for what is not a mesh, an axis that it does not have, or axes of another type.

    Notes:
        A T that is not a multiple of the number of devices is filled up with steps that do nothing; its outputs end up
        on every device, as jax cannot lay them out unevenly. Where `resets` meet `mask`, `lengths` or `reverse`, the
        devices exchange borders too, as flags and counts without features. Besides the states of a slice, the factors
        A up to each of its steps are kept.

    References:
        Martin & Cundy, Parallelizing linear recurrent neural nets over sequence length, 2018, arXiv:1709.04057.

    Example:
        >>> import jax
        >>> from rnn_jax import lru, unroll
        >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("seq",))
        >>> cell = lru(8)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> unroll(cell, params, jax.numpy.ones((5, 2, 3)), method=Sharded(mesh))[1].shape
        (5, 2, 8)
    """

    mesh: Mesh
    axis: str = "seq"

    def __post_init__(self) -> None:
        if not isinstance(self.mesh, Mesh):
            raise ValueError(f"`mesh` must be a jax.sharding.Mesh, got {checks.describe(self.mesh)}")
        checks.one_of("axis", self.axis, self.mesh.axis_names)
        if any(kind != AxisType.Auto for kind in self.mesh.axis_types):
            kinds = ", ".join(kind.name for kind in self.mesh.axis_types)
            raise ValueError(
                "`mesh` must have axes of the type Auto, as jax.sharding.Mesh(devices, names) makes them (jax.make_mesh"
                f" needs to be told by axis_types), got {kinds}"
            )


@dataclass(frozen=True)
class Recursive:
    """Chunks of chunks: a gradient keeps about as much as `Scan()` does over `budget` steps, for any T and any cell.

    With L levels a gradient keeps the activations of one innermost chunk and a carry for each chunk around it, together
    as much as L / 8 (8 T)^(1/L) steps of `Scan()`, and computes each step L times, one of which `Scan()` does as well.
    As few levels are taken as fit. At T = 100,000 there are two from a budget of 224 on, three from 35 on, and nine at
    6, the least that is possible; T need not be a multiple of anything. Where `budget` is at least T, this is `Scan()`.

    Attributes:
        budget: how many steps of `Scan()` may be kept, at least 4.

    Raises:
        ValueError: from `unroll`, if the budget is too small for T: it says what is possible.

    Notes:
        A carry is counted as an eighth of the activations of a step, about what it is for gated cells; of `m_lstm`,
        whose carry is a matrix, more is kept than that. What has T steps by its nature comes on top: xs, and if they
        are used, ys, all carries and the gradient by xs; also a copy of xs, where T does not fall into whole chunks.
        Each level makes compiling slower. Loops of fixed shape cannot use the memory of finished chunks again, as the
        optimal schedule of Griewank & Walther does.

    References:
        Griewank & Walther, Algorithm 799: Revolve, 2000; Chen et al., Training deep nets with sublinear memory cost,
        2016, arXiv:1604.06174.

    Example:
        >>> import jax
        >>> from rnn_jax import gru, unroll
        >>> cell = gru(8)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> unroll(cell, params, jax.numpy.ones((1009, 2, 3)), method=Recursive(40))[1].shape
        (1009, 2, 8)
    """

    budget: int

    def __post_init__(self) -> None:
        checks.positive("budget", self.budget, least=4)


Jacobian = Literal["dense", "diagonal", "block"]


@dataclass(frozen=True)
class Newton:
    """All steps at once by Newton's method: solves `h_t = step(h_{t-1}, x_t)` for all t together, whatever the cell.

    Each iteration evaluates all steps and their Jacobians in parallel and solves one linear recurrence (on a CPU step
    by step, else by an associative scan). A cell that forgets needs a few iterations however long the sequence is; one
    that is chaotic needs more the longer it is. Rows that have not converged after `max_iters` are run by `Scan()`.
    `unroll_newton` says how many iterations were made. Gradients are those of the exact solution, without going
    through the iterations.

    Attributes:
        jacobian: "dense" (DEER: memory and work T D^2 and T D^3 for a carry of D numbers, quadratic convergence),
            "diagonal" (quasi-DEER: memory T D, linear convergence) or "block" (units of one block see each other;
            exact for cells with heads). Diagonals, and one block a unit, cost little more than the steps themselves
            for `elman`, `lstm` without a projection or layer norm and `gru`, and D of them for any other cell.
        num_blocks: of "block": how many equal blocks the features of each leaf of the carry fall into: the number of
            heads, or H for one block a unit (h and c of an LSTM).
        damping: 0 for plain Newton; above, the strength lambda of ELK's trust region, a Kalman filter that holds each
            iterate close to the last one where the linearised recurrence would explode.
        max_iters: the most iterations.
        tol: a row has converged where every state differs from the step of the state before by at most
            `tol (1 + |state|)`; by default eps^(3/4) of the dtype of the carry: 6e-6 or 2e-12.

    Notes:
        A step may be hard to linearise: `s_lstm` divides by a part of its carry, which an iterate can make negative. It
        converges with "dense" (18 iterations) and "diagonal" (47) at T = 1,000, one block a unit does not always.

    References:
        Lim et al., Parallelizing non-linear sequential models over the sequence length, 2024, arXiv:2309.12252 (DEER);
        Gonzalez et al., Towards scalable and stable parallelization of nonlinear RNNs, 2024, arXiv:2407.19115
        (quasi-DEER, ELK); Danieli et al., ParaRNN, 2025, arXiv:2510.21450 (block-diagonal).
    """

    jacobian: Jacobian = "dense"
    num_blocks: int | None = None
    damping: float = 0.0
    max_iters: int = 50
    tol: float | None = None

    def __post_init__(self) -> None:
        checks.one_of("jacobian", self.jacobian, get_args(Jacobian))
        checks.positive("max_iters", self.max_iters)
        if (self.jacobian == "block") != (self.num_blocks is not None):
            raise ValueError(
                f"`num_blocks` goes with jacobian='block', got num_blocks={self.num_blocks} and {self.jacobian!r}"
            )
        if self.num_blocks is not None:
            checks.positive("num_blocks", self.num_blocks)
        if isinstance(self.damping, bool) or not isinstance(self.damping, int | float) or not self.damping >= 0:
            raise ValueError(f"`damping` must be a number of at least 0, got {checks.describe(self.damping)}")
        if self.tol is not None and not (isinstance(self.tol, int | float) and self.tol > 0):
            raise ValueError(f"`tol` must be a number above 0, got {checks.describe(self.tol)}")


@dataclass(frozen=True)
class Cudnn:
    """The LSTM kernel of cuDNN, through `jax.experimental.rnn`: for a plain float32 `lstm` on an NVIDIA GPU.

    Takes `carry`, `lengths`, `mask` and `reverse`, and is differentiated once, in reverse mode; the kernel has no `jvp`
    and no `vmap`. In a `stack`, layers without a carry are run as always.

    A program with it cannot be lowered where there is no GPU, not even by `jax.export`: jax asks cuDNN for the size of
    a buffer. On an H200 it was slower than `Auto()` at every size measured (docs/strategies.md).

    Raises:
        ValueError: from `unroll`, for other cells, options and wrappers of `lstm`, `resets`, other dtypes,
            `unroll_carries`, and where there is no GPU.

    Notes:
        Products are in TF32 unless `jax_default_matmul_precision` says otherwise, as in jax's own products on a GPU.
    """


@dataclass(frozen=True)
class Auto:
    """The fastest way that works for whatever is asked of `unroll`.

    A `LinearCell` is run by `Scan()` on a CPU and by `Associative()` on a GPU or TPU, a cell that is not linear by
    `Scan()` everywhere (on a GPU with 16 steps in a turn of its loop), and a cell without a carry without a loop.

    Notes:
        Linear, on a CPU: an associative scan moves the sequence through memory some log T times. Linear, elsewhere: a
        loop launches every step by itself, an associative scan log T times as many operations as one step has.
        Not linear: `Newton()` is faster only where the cell forgets and T is large, which nothing but a trial can tell;
        `Cudnn()` has no `jvp`, no `vmap` and no second derivative.

        For linear cells the platform is the one that the program is lowered for: `jax.export` for several platforms has
        a way for each. How many steps a turn of a loop has depends on the default backend. Measured on a CPU and a
        GPU, not on a TPU.
    """


Strategy = Scan | Chunked | Recursive | Associative | Sharded | Newton | Cudnn | Auto
