"""Sequence to sequence: an encoder, a bridge, a decoder, and one set of parameters for every way to run them.

model = rnn_seq2seq(len(source), len(target), cell="gru", hidden_size=256, attention="additive")
params = init_seq2seq(model, key)
logits = forced_logits(model, params, batch, mask)             # training: mask says how much of the truth is read
step, carry = decoding_step(model, params, source, lengths)    # greedy, sampling, beam search: the same step
weights = alignment(model, params, batch)                      # what was attended to
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.attention import (
    Attention,
    Bridge,
    Decoder,
    additive,
    attention_decoder,
    dot,
    general,
    learned_bridge,
    local,
    monotonic,
    plain_decoder,
)
from rnn_jax.cells import make_cell
from rnn_jax.compose import stack
from rnn_jax.data.sentence_pairs import PairBatch
from rnn_jax.data.vocabulary import START
from rnn_jax.decoding import token_step
from rnn_jax.dropout import with_dropout
from rnn_jax.forcing import Feedback, argmax, forced_unroll
from rnn_jax.initializers import normal
from rnn_jax.layers import bidirectional, layer, serial
from rnn_jax.types import Array, Carry, Layer, Params
from rnn_jax.unroll import unroll

__all__ = [
    "ATTENTIONS",
    "Encoded",
    "Seq2Seq",
    "Seq2SeqParams",
    "alignment",
    "decoding_step",
    "encode",
    "forced_logits",
    "init_seq2seq",
    "rnn_seq2seq",
]

ATTENTIONS = ("none", "additive", "dot", "general", "local", "monotonic")
"""The kinds of attention of `rnn_seq2seq`."""


class Seq2Seq(NamedTuple):
    """An encoder-decoder model over tokens. Ids 0 and 1 of the target mark start and end.

    Attributes:
        source_size: number of source tokens.
        target_size: number of target tokens, V.
        embedding_size: E, of both.
        encoder: reads the embedded source.
        bridge: makes the decoder's first carry of the encoder's last.
        decoder: reads the embedded last token, gives logits.
        tied: its output matrix is the target embedding.
    """

    source_size: int
    target_size: int
    embedding_size: int
    encoder: Layer
    bridge: Bridge
    decoder: Decoder
    tied: bool = False


class Seq2SeqParams(NamedTuple):
    """All that is trained."""

    source: Array  # [source_size, E]
    target: Array  # [V, E]
    encoder: Params
    bridge: Params
    decoder: Params


def rnn_seq2seq(
    source_size: int,
    target_size: int,
    *,
    cell: str = "gru",
    hidden_size: int = 256,
    num_layers: int = 1,
    embedding_size: int | None = None,
    attention: Literal["none", "additive", "dot", "general", "local", "monotonic"] = "additive",
    input_feeding: bool = False,
    directions: Literal[1, 2] = 2,
    dropout: float = 0.0,
    tied: bool = False,
) -> Seq2Seq:
    """The usual encoder-decoder of two recurrent stacks.

    Args:
        source_size: number of source tokens.
        target_size: number of target tokens, V.
        cell: a name in `CELLS`.
        hidden_size: H of the decoder; an encoder of two directions has H / 2 in each, so its outputs are H as well.
        num_layers: of encoder and decoder each.
        embedding_size: E, H by default.
        attention: the mechanism, or "none": then the decoder sees the source only through its first carry.
        input_feeding: whether the attentional vector enters the next step; "monotonic" needs it.
        directions: 1 reads the source forwards, 2 both ways.
        dropout: rate at which features are dropped, anew at every step, where they enter a layer and before the output.
        tied: the output matrix is the target embedding.

    Returns:
        A model with a learned bridge.

    Raises:
        ValueError: for names that do not exist and sizes that do not fit.
    """
    checks.one_of("attention", attention, ATTENTIONS)
    if directions == 2 and hidden_size % 2:
        raise ValueError(f"`hidden_size` must be even where `directions` is 2, got {hidden_size}")
    embedding_size = hidden_size if embedding_size is None else embedding_size

    def one(size: int) -> Any:
        return with_dropout(make_cell(cell, size), inputs=dropout) if dropout else make_cell(cell, size)

    def encoding() -> Layer:
        return (
            bidirectional(one(hidden_size // 2), one(hidden_size // 2)) if directions == 2 else layer(one(hidden_size))
        )

    recurrent = one(hidden_size) if num_layers == 1 else stack(*(one(hidden_size) for _ in range(num_layers)))
    output: dict[str, Any] = {"vector_size": embedding_size if tied else None, "dropout": dropout}
    if attention == "none":
        decoder = plain_decoder(recurrent, target_size, **output)
    else:
        output |= {"memory_size": hidden_size, "input_feeding": input_feeding}
        decoder = attention_decoder(recurrent, _mechanism(attention, hidden_size), target_size, **output)
    return Seq2Seq(
        source_size=source_size,
        target_size=target_size,
        embedding_size=embedding_size,
        encoder=serial(*(encoding() for _ in range(num_layers))),
        bridge=learned_bridge(),
        decoder=decoder,
        tied=tied,
    )


def _mechanism(name: str, hidden_size: int) -> Attention:
    if name == "additive":
        return additive(hidden_size)
    if name == "monotonic":
        return monotonic(hidden_size)
    return {"dot": dot, "general": general, "local": lambda: local(5)}[name]()


def init_seq2seq(model: Seq2Seq, key: Array) -> Seq2SeqParams:
    """Initial parameters.

    Args:
        model: the model.
        key: a PRNG key.

    Returns:
        `Seq2SeqParams`.
    """
    checks.prng_key(key)
    keys = jax.random.split(key, 5)
    size = model.embedding_size
    encoder = model.encoder.init(keys[0], size)
    decoder = model.decoder.cell.init(keys[1], size)

    def carries() -> tuple[Carry, Carry]:
        carry, memory = model.encoder.apply(encoder, jnp.zeros((1, size)))
        return carry, model.decoder.cell.init_carry(model.decoder.attend(decoder, memory)).cell

    return Seq2SeqParams(
        source=normal(size**-0.5)(keys[2], (model.source_size, size)),
        target=normal(size**-0.5)(keys[3], (model.target_size, size)),
        encoder=encoder,
        bridge=model.bridge.init(keys[4], *jax.eval_shape(carries)),
        decoder=decoder._replace(w_o=None) if model.tied else decoder,
    )


class Encoded(NamedTuple):
    """A source that was read: parameters of the decoder with the source in, and its first carry."""

    params: Params
    carry: Carry


def encode(
    model: Seq2Seq, params: Seq2SeqParams, source: Array, lengths: Array | None = None, *, key: Array | None = None
) -> Encoded:
    """Reads a source.

    Args:
        model: the model.
        params: its parameters.
        source: integers [S, B], S at least 1.
        lengths: [B] or None; a source of length 0 is all padding: nothing is attended to, and the carry is the bridge
            of the encoder's initial one.
        key: draws the encoder's dropout masks; None evaluates.

    Returns:
        `Encoded`.

    Raises:
        ValueError: for a source without steps.
    """
    if source.ndim != 2 or not source.shape[0] or not jnp.issubdtype(source.dtype, jnp.integer):
        raise ValueError(f"`source` must be integers [S, B] with at least one step, got {checks.describe(source)}")
    xs = jnp.asarray(params.source)[source]
    encoder = params.encoder if key is None else model.encoder.perturb(key, params.encoder, xs.shape)
    final, memory = model.encoder.apply(encoder, xs, lengths=lengths)
    decoder = params.decoder
    if model.tied:
        decoder = decoder._replace(w_o=params.target.T)
    decoder = model.decoder.attend(decoder, memory, lengths=lengths)
    carry = model.decoder.cell.init_carry(decoder, source.shape[1:])
    return Encoded(decoder, carry._replace(cell=model.bridge.apply(params.bridge, final, carry.cell)))


def forced_logits(
    model: Seq2Seq,
    params: Seq2SeqParams,
    batch: PairBatch,
    mask: float | Array,
    *,
    feedback: Feedback = argmax,
    key: Array | None = None,
) -> Array:
    """What the decoder predicts at each step of the targets, forced as `mask` says.

    Args:
        model: the model.
        params: its parameters.
        batch: a `PairBatch`.
        mask: weights of the truth, as in `forced_unroll`: 1 is teacher forcing, 0 runs freely.
        feedback: what is read where the truth is not.
        key: draws dropout masks, and the samples of a feedback that samples; None evaluates.

    Returns:
        Logits [T, B, V], zero on padding.
    """
    pairs: Any = jax.tree.map(jnp.asarray, batch)
    keys = (None, None, None) if key is None else tuple(jax.random.split(key, 3))
    encoded = encode(model, params, pairs.source, pairs.source_lengths, key=keys[0])
    decoder = encoded.params
    if keys[1] is not None:
        shape = (*pairs.target.shape, model.embedding_size)
        decoder = model.decoder.cell.perturb(keys[1], decoder, shape)
    _, logits = forced_unroll(
        model.decoder.cell,
        decoder,
        pairs.target,
        mask,
        encoded.carry,
        start=START,
        feedback=feedback,
        embedding=params.target,
        lengths=pairs.target_lengths,
        key=keys[2],
    )
    return logits


def decoding_step(
    model: Seq2Seq, params: Seq2SeqParams, source: Array, lengths: Array | None = None
) -> tuple[Any, Carry]:
    """What the functions of `rnn_jax.decoding` need to translate a source.

    Args:
        model: the model.
        params: its parameters.
        source: integers [S, B].
        lengths: [B] or None.

    Returns:
        `(step, carry)`; decode with `start=jnp.full(B, START)` and `end=END`.
    """
    encoded = encode(model, params, source, lengths)
    return token_step(model.decoder.cell, encoded.params, params.target), encoded.carry


def alignment(model: Seq2Seq, params: Seq2SeqParams, batch: PairBatch) -> Array:
    """What each step of the targets attends to. For a translation of its own, put it into the batch as the target.

    Args:
        model: a model with attention.
        params: its parameters.
        batch: a `PairBatch`.

    Returns:
        Weights [T, B, S], each row summing to 1 on real steps.

    Raises:
        ValueError: for a model without attention.
    """
    if model.decoder.align is None:
        raise ValueError("`model` must have attention")
    pairs: Any = jax.tree.map(jnp.asarray, batch)
    encoded = encode(model, params, pairs.source, pairs.source_lengths)
    before = jnp.concatenate([jnp.full_like(pairs.target[:1], START), pairs.target[:-1]])
    return unroll(
        model.decoder.align,
        encoded.params,
        jnp.asarray(params.target)[before],
        encoded.carry,
        lengths=pairs.target_lengths,
    )[1]
