"""Teacher forcing as an array: masks, schedules, feedback, forced unrolls, forced states."""

from rnn_jax.forcing.carry import forced_carry_inputs, mix_carry, with_forced_carry
from rnn_jax.forcing.feedback import Feedback, argmax, detached, expected, identity, sample, straight_through
from rnn_jax.forcing.masks import SCHEDULES, forcing_mask, forcing_schedule, sparse_forcing_mask
from rnn_jax.forcing.strength import anneal_alpha, forced_alpha
from rnn_jax.forcing.unroll import forced_unroll, parallel_forced_unroll

__all__ = [
    "SCHEDULES",
    "Feedback",
    "anneal_alpha",
    "argmax",
    "detached",
    "expected",
    "forced_alpha",
    "forced_carry_inputs",
    "forced_unroll",
    "forcing_mask",
    "forcing_schedule",
    "identity",
    "mix_carry",
    "parallel_forced_unroll",
    "sample",
    "sparse_forcing_mask",
    "straight_through",
    "with_forced_carry",
]
