"""Execution strategies: frozen, hashable values that say how to unroll, never what is computed."""

from dataclasses import dataclass

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
class Auto:
    """`Associative()` for linear cells on an accelerator, else `Scan()` (on a CPU the plain scan is faster)."""


Strategy = Scan | Chunked | Associative | Auto
