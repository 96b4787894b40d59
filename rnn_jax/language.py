"""Recurrent language models: what AWD-LSTM is made of, for any cell and any tokens."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.data.windows import Window
from rnn_jax.dropout import keep_mask
from rnn_jax.metrics import Mean, mean_value, tally
from rnn_jax.products import align
from rnn_jax.token_heads import SoftmaxParams, TokenHead
from rnn_jax.training.tbptt import unroll_window
from rnn_jax.types import Array, Carry, Cell, LinearCell
from rnn_jax.unroll import stream_step

__all__ = ["LanguageModel", "LanguageParams", "init_language", "language_loss", "language_step", "window_nll"]


class LanguageParams(NamedTuple):
    """All that is trained. Tied to the embedding, the head has only its bias."""

    embedding: Array  # [V, E]
    rnn: Any
    head: Any


class LanguageModel(NamedTuple):
    """A cell that reads embedded tokens, and a head that predicts the next one.

    Attributes:
        cell: reads [..., E]; dropout of its layers is its own (`with_dropout`).
        head: over the tokens.
        vocab_size: V.
        embedding_size: E.
        tied: the kernel of the head, a `softmax_head`, is the embedding; the outputs of the cell are then [..., E].
        embedding_dropout: share of tokens whose embedding is zero in a window, wherever they stand.
        output_dropout: share of features of the cell's outputs that are zero, one mask a window.
        activation: weight of the mean square of outputs after dropout (AR).
        difference: weight of the mean square of outputs' differences from step to step (TAR).
    """

    cell: Cell | LinearCell
    head: TokenHead
    vocab_size: int
    embedding_size: int
    tied: bool = False
    embedding_dropout: float = 0.0
    output_dropout: float = 0.0
    activation: float = 0.0
    difference: float = 0.0


def init_language(model: LanguageModel, key: Array) -> LanguageParams:
    """Initial parameters: embeddings are uniform in +-0.1.

    Args:
        model: the model.
        key: a PRNG key.

    Returns:
        `LanguageParams`.

    Raises:
        ValueError: if a rate is no fraction, or a tied model's outputs do not fit its embedding.
    """
    checks.prng_key(key)
    for name in ("embedding_dropout", "output_dropout"):
        checks.fraction(name, getattr(model, name))
    keys = jax.random.split(key, 3)
    embedding = jax.random.uniform(keys[0], (model.vocab_size, model.embedding_size), minval=-0.1, maxval=0.1)
    rnn = model.cell.init(keys[1], model.embedding_size)
    carry = model.cell.init_carry(rnn, ())
    output_size = jax.eval_shape(lambda: stream_step(model.cell, rnn, carry, embedding[0])[1]).shape[-1]
    head = model.head.init(keys[2], output_size)
    if model.tied:
        if not isinstance(head, SoftmaxParams) or output_size != model.embedding_size:
            raise ValueError(
                f"`tied` needs a softmax_head and outputs as wide as the embedding, {model.embedding_size}, got "
                f"{type(head).__name__} over {output_size} features"
            )
        head = SoftmaxParams(w=None, b=head.b)  # pyrefly: ignore[bad-argument-type]
    return LanguageParams(embedding=embedding, rnn=rnn, head=head)


def _head_params(model: LanguageModel, params: LanguageParams) -> Any:
    return params.head._replace(w=params.embedding.T) if model.tied else params.head


def _outputs(
    model: LanguageModel, params: LanguageParams, carry: Carry, window: Window, key: Array | None, burn_in: int
) -> tuple[Carry, Array, Array]:
    """The carry for the next window, outputs [T, B, O], and these with dropout; without a key there is none."""
    embedding = jnp.asarray(params.embedding)
    tokens = jnp.asarray(window.inputs)
    keys = (None,) * 3 if key is None else jax.random.split(key, 3)
    if keys[0] is not None and model.embedding_dropout:
        embedding = embedding * keep_mask(keys[0], model.embedding_dropout, (len(embedding), 1), embedding.dtype)
    xs = embedding[tokens]
    rnn = params.rnn if keys[1] is None else model.cell.perturb(keys[1], params.rnn, xs.shape)
    carry, ys = unroll_window(model.cell, rnn, xs, carry, window, burn_in=burn_in)
    if keys[2] is None or not model.output_dropout:
        return carry, ys, ys
    return carry, ys, ys * align(keep_mask(keys[2], model.output_dropout, ys.shape[1:], ys.dtype), ys)


def window_nll(model: LanguageModel, params: LanguageParams, carry: Carry, window: Window) -> tuple[Carry, Mean]:
    """Negative log-likelihood of the targets of a window, as they are judged: no dropout, nothing estimated.

    Args:
        model: the model.
        params: its parameters.
        carry: with which the window starts.
        window: tokens [T, B], and what comes next as targets [T, B].

    Returns:
        The carry for the next window, and the `Mean` in nats per token with weight.
    """
    carry, ys, _ = _outputs(model, params, carry, window, None, 0)
    return carry, tally(model.head.nll(_head_params(model, params), ys, jnp.asarray(window.targets)), window.weights)


def language_loss(model: LanguageModel, *, burn_in: int = 0) -> Callable[..., tuple[Array, tuple[Carry, Any]]]:
    """The loss function of `make_tbptt_step`: nats per token, and the two penalties of AWD-LSTM.

        loss = mean nll + activation mean(m y_t)^2 + difference mean(y_t - y_{t-1})^2

    with the dropout mask m. The penalties count steps with weight.

    Args:
        model: the model.
        burn_in: as that of the windows.

    Returns:
        `(params, carry, window, *, key, step) -> (loss, (carry, {"nll": Mean}))`.

    References:
        Merity, Keskar & Socher, Regularizing and optimizing LSTM language models, 2018, arXiv:1708.02182;
        Merity, McCann & Socher, Revisiting activation regularization for language RNNs, 2017, arXiv:1708.01009.
    """

    def loss_fn(
        params: LanguageParams, carry: Carry, window: Window, *, key: Array, step: Array
    ) -> tuple[Array, tuple[Carry, Any]]:
        del step
        keys = jax.random.split(key)
        carry, ys, dropped = _outputs(model, params, carry, window, keys[0], burn_in)
        values = model.head.nll(_head_params(model, params), dropped, jnp.asarray(window.targets), keys[1])
        nll = tally(values, window.weights)
        loss = mean_value(nll)
        if model.activation:
            loss = loss + model.activation * mean_value(tally(jnp.square(dropped).mean(-1), window.weights))
        if model.difference:
            change = jnp.square(ys[1:] - ys[:-1]).mean(-1)
            loss = loss + model.difference * mean_value(tally(change, jnp.asarray(window.weights)[1:]))
        return loss, (carry, {"nll": nll})

    return loss_fn


def language_step(model: LanguageModel, params: LanguageParams, carry: Carry, tokens: Array) -> tuple[Carry, Array]:
    """One step: reads tokens, says what comes next; the step of `greedy`, `sample` and `beam_search`.

    Args:
        model: the model.
        params: its parameters.
        carry: leaves [*batch, ...].
        tokens: integers [*batch].

    Returns:
        The carry, and log-probabilities [*batch, V].
    """
    carry, y = stream_step(model.cell, params.rnn, carry, jnp.asarray(params.embedding)[tokens])
    return carry, model.head.log_probs(_head_params(model, params), y)
