"""What all constructors of cells share: caching, and checks of the arguments of `init`."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from rnn_jax import checks
from rnn_jax.caching import cached
from rnn_jax.types import Array, Cell, LinearCell, Params

P = ParamSpec("P")
C = TypeVar("C", bound=Cell | LinearCell)


def constructor(build: Callable[P, C]) -> Callable[P, C]:
    """Makes a function that builds a cell `cached`, so that a rebuilt cell is the same static argument of `jit`.

    The `init` of the cell checks its arguments first: a PRNG key and an `input_size` (0 for a cell that runs by
    itself).
    """

    @functools.wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Any:
        cell = build(*args, **kwargs)
        inner = cell.init

        def init(key: Array, input_size: int) -> Params:
            checks.prng_key(key)
            checks.positive("input_size", input_size, least=0)
            return inner(key, input_size)

        return cell._replace(init=init)

    return cached(checked)
