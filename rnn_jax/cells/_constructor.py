"""What all constructors of cells share: caching, and checks of their arguments and of those of `init`."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from rnn_jax import checks
from rnn_jax.types import Array, Cell, LinearCell, Params

P = ParamSpec("P")
C = TypeVar("C", bound=Cell | LinearCell)


def constructor(build: Callable[P, C]) -> Callable[P, C]:
    """Makes a function that builds a cell cached, so that a rebuilt cell is the same static argument of `jit`.

    However the arguments are written (by position, by keyword, a default spelled out), equal ones give the same
    object. The `init` of the cell checks its arguments first: a PRNG key and an `input_size` (0 for a cell that runs by itself).
    """
    signature = inspect.signature(build)

    @functools.lru_cache(maxsize=None, typed=True)
    def cached(**arguments: Any) -> Any:
        call: Any = build
        cell = call(**arguments)
        inner = cell.init

        def init(key: Array, input_size: int) -> Params:
            checks.prng_key(key)
            checks.positive("input_size", input_size, least=0)
            return inner(key, input_size)

        return cell._replace(init=init)

    @functools.wraps(build)
    def construct(*args: P.args, **kwargs: P.kwargs) -> C:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            try:
                hash(value)
            except TypeError:
                raise ValueError(f"`{name}` of {build.__name__} must be hashable, got {value!r}") from None
        return cached(**bound.arguments)

    return construct
