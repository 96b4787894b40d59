"""Execution strategies: frozen, hashable values that say how to unroll, never what is computed."""

from dataclasses import dataclass

from jax.sharding import AxisType, Mesh

from rnn_jax import checks


@dataclass(frozen=True)
class Scan:
    """One step after another: `jax.lax.scan`. Works for every cell; depth T, activation memory T.

    Attributes:
        unroll: steps per iteration of the compiled loop. Above 1 it compiles more slowly, and has not been faster
            on a CPU.
    """

    unroll: int = 1

    def __post_init__(self) -> None:
        checks.positive("unroll", self.unroll)


@dataclass(frozen=True)
class Chunked:
    """Scans chunks of `size` steps: activation memory T / size + size instead of T. Works for every cell.

    Attributes:
        size: steps in a chunk; near the square root of T saves the most. T need not be a multiple of it.
        remat: recompute the inside of a chunk in the backward pass (that is what saves memory, for about one more
            forward pass); False keeps it.
    """

    size: int
    remat: bool = True

    def __post_init__(self) -> None:
        checks.positive("size", self.size)


@dataclass(frozen=True)
class Associative:
    """All steps at once by an associative scan: depth log T. Needs a `LinearCell`. For accelerators."""


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
class Auto:
    """`Associative()` for linear cells on an accelerator, else `Scan()` (on a CPU the plain scan is faster)."""


Strategy = Scan | Chunked | Associative | Sharded | Auto
