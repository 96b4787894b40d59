"""rnn_jax: recurrent networks in JAX as pure functions.

    cell = gru(256)
    params = cell.init(jax.random.key(0), input_size)
    carry, ys = unroll(cell, params, xs, lengths=lengths)      # xs [T, B, I] -> ys [T, B, H]

Cells are NamedTuples of pure functions; `unroll` runs any of them with any strategy. See `rnn_jax.types`.
"""

from rnn_jax import attention, decoding, forcing, initializers
from rnn_jax.attention import attention_decoder, plain_decoder
from rnn_jax.cells import *  # noqa: F403 - every cell of the table
from rnn_jax.cells import CELLS, make_cell
from rnn_jax.compose import dense, learned_carry, output_size, residual, stack, with_layer_norm
from rnn_jax.decoding import beam_search, greedy, token_step
from rnn_jax.dropout import with_dropout
from rnn_jax.forcing import (
    forced_carry_inputs,
    forced_unroll,
    forcing_mask,
    forcing_schedule,
    mix_carry,
    parallel_forced_unroll,
    sparse_forcing_mask,
    with_forced_carry,
)
from rnn_jax.gradient_clipping import with_clipped_gradient
from rnn_jax.init_report import init_report
from rnn_jax.layers import Directions, bidirectional, layer, serial
from rnn_jax.types import Cell, Layer, LinearCell, PerStep, as_cell
from rnn_jax.unroll import (
    Associative,
    Auto,
    Chunked,
    Cudnn,
    Newton,
    NewtonInfo,
    Recursive,
    Scan,
    Sharded,
    stream_step,
    unroll,
    unroll_carries,
    unroll_newton,
)

__version__ = "0.1.0"

__all__ = [
    *CELLS,
    "CELLS",
    "Associative",
    "Auto",
    "Cell",
    "Chunked",
    "Cudnn",
    "Directions",
    "Layer",
    "LinearCell",
    "Newton",
    "NewtonInfo",
    "PerStep",
    "Recursive",
    "Scan",
    "Sharded",
    "as_cell",
    "attention",
    "attention_decoder",
    "beam_search",
    "bidirectional",
    "decoding",
    "dense",
    "forced_carry_inputs",
    "forced_unroll",
    "forcing",
    "forcing_mask",
    "forcing_schedule",
    "greedy",
    "init_report",
    "initializers",
    "layer",
    "learned_carry",
    "make_cell",
    "mix_carry",
    "output_size",
    "parallel_forced_unroll",
    "plain_decoder",
    "residual",
    "serial",
    "sparse_forcing_mask",
    "stack",
    "stream_step",
    "token_step",
    "unroll",
    "unroll_carries",
    "unroll_newton",
    "with_clipped_gradient",
    "with_dropout",
    "with_forced_carry",
    "with_layer_norm",
]
