"""Caching of constructors, so that a rebuilt configuration is the same static argument of `jit`."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def cached(build: Callable[P, R]) -> Callable[P, R]:
    """Equal arguments, however they are written, give the same object.

    Args:
        build: a constructor whose arguments are hashable.

    Returns:
        The same function, cached.

    Raises:
        ValueError: from the constructor, for an argument that is not hashable.
    """
    signature = inspect.signature(build)

    @functools.lru_cache(maxsize=None, typed=True)
    def once(**arguments: Any) -> Any:
        call: Any = build
        return call(**arguments)

    @functools.wraps(build)
    def construct(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            try:
                hash(value)
            except TypeError:
                raise ValueError(f"`{name}` of {build.__name__} must be hashable, got {value!r}") from None
        return once(**bound.arguments)

    return construct
