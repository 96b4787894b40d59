"""Running a cell over time: one function, any execution strategy, the same numbers."""

from rnn_jax.unroll.api import stream_step, unroll, unroll_carries, unroll_newton
from rnn_jax.unroll.newton import NewtonInfo
from rnn_jax.unroll.strategies import Associative, Auto, Chunked, Cudnn, Newton, Recursive, Scan, Sharded, Strategy

__all__ = [
    "Associative",
    "Auto",
    "Chunked",
    "Cudnn",
    "Newton",
    "NewtonInfo",
    "Recursive",
    "Scan",
    "Sharded",
    "Strategy",
    "stream_step",
    "unroll",
    "unroll_carries",
    "unroll_newton",
]
