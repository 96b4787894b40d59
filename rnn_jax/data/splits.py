"""The three parts of a data set."""

from typing import Generic, NamedTuple, TypeVar

__all__ = ["Splits"]

Item = TypeVar("Item")


class Splits(NamedTuple, Generic[Item]):
    """Items of one kind for training, validation and test.

    Example:
        >>> Splits(train=(1, 2), valid=(3,), test=(4,)).valid
        (3,)
    """

    train: tuple[Item, ...]
    valid: tuple[Item, ...]
    test: tuple[Item, ...]
