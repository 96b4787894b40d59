"""Decoding: greedy, sampling and beam search, from any step `(carry, tokens) -> (carry, logits)`; and of CTC logits."""

from rnn_jax.decoding.beam import Beams, beam_search
from rnn_jax.decoding.ctc import ctc_beam_search, ctc_greedy
from rnn_jax.decoding.sampling import Decoded, filter_logits, greedy, sample
from rnn_jax.decoding.steps import token_step

__all__ = [
    "Beams",
    "Decoded",
    "beam_search",
    "ctc_beam_search",
    "ctc_greedy",
    "filter_logits",
    "greedy",
    "sample",
    "token_step",
]
