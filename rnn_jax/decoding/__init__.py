"""Decoding: greedy, sampling and beam search, from any step `(carry, tokens) -> (carry, logits)`."""

from rnn_jax.decoding.beam import Beams, beam_search
from rnn_jax.decoding.sampling import Decoded, filter_logits, greedy, sample
from rnn_jax.decoding.steps import token_step

__all__ = [
    "Beams",
    "Decoded",
    "beam_search",
    "filter_logits",
    "greedy",
    "sample",
    "token_step",
]
