"""Running a cell over time: one function, any execution strategy, the same numbers."""

from rnn_jax.unroll.api import stream_step, unroll, unroll_carries
from rnn_jax.unroll.strategies import Associative, Auto, Chunked, Scan, Sharded, Strategy

__all__ = [
    "Associative",
    "Auto",
    "Chunked",
    "Scan",
    "Sharded",
    "Strategy",
    "stream_step",
    "unroll",
    "unroll_carries",
]
