"""Attention over a source: mechanisms, decoders that use them, and bridges from encoder to decoder."""

from rnn_jax.attention.bridges import Bridge, concat_bridge, last_bridge, learned_bridge
from rnn_jax.attention.decoder import Decoder, DecoderCarry, DecoderParams, attention_decoder
from rnn_jax.attention.mechanisms import additive, dot, general, local, monotonic
from rnn_jax.attention.plain import plain_decoder
from rnn_jax.attention.types import Attention, Memory

__all__ = [
    "Attention",
    "Bridge",
    "Decoder",
    "DecoderCarry",
    "DecoderParams",
    "Memory",
    "additive",
    "attention_decoder",
    "concat_bridge",
    "dot",
    "general",
    "last_bridge",
    "learned_bridge",
    "local",
    "monotonic",
    "plain_decoder",
]
