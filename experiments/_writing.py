"""A language model writes, live in the terminal or samples for the report, and is surprised by what others wrote."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from rnn_jax.data import Text, encode, join_symbols, split_symbols
from rnn_jax.decoding import filter_logits, sample
from rnn_jax.language import LanguageModel, LanguageParams, language_step

__all__ = ["Writing", "live_writing", "surprise", "write_samples"]

NUM_SPECIAL = 3  # "<s>", "</s>", "<unk>" are never written


@dataclass(frozen=True)
class Writing:
    """What is written after training."""

    prompt: str = "\n"
    length: int = 600
    """Symbols after the prompt."""
    temperature: float = 0.8
    """Below 1 is safer, above 1 wilder."""
    top_p: float = 0.95
    """Only the likeliest symbols that together have this probability."""


def _step(model: LanguageModel, params: LanguageParams, carry: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
    carry, log_probs = language_step(model, params, carry, tokens)
    return carry, log_probs.at[..., :NUM_SPECIAL].set(-jnp.inf)


def live_writing(model: LanguageModel, params: LanguageParams, text: Text, writing: Writing, seed: int) -> None:
    """Writes into the terminal, each symbol when it is drawn; where there is no terminal, nothing."""
    console = Console()
    if not console.is_terminal:
        return

    @jax.jit
    def one(carry: Any, token: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
        carry, log_probs = _step(model, params, carry, token)
        return carry, jax.random.categorical(key, filter_logits(log_probs, writing.temperature, None, writing.top_p))

    prompt = encode(text.vocabulary, split_symbols(writing.prompt, text.unit))
    carry, key, written = model.cell.init_carry(params.rnn, ()), jax.random.key(seed), list(prompt)
    token = jnp.asarray(prompt[0])
    console.print(writing.prompt, end="", highlight=False, markup=False, soft_wrap=True)
    for index in range(len(prompt) - 1 + writing.length):
        carry, drawn = one(carry, token, jax.random.fold_in(key, index))
        known = index + 1 < len(prompt)
        token = jnp.asarray(prompt[index + 1]) if known else drawn
        if not known:
            last, new = (text.vocabulary.symbols[i] for i in (written[-1], int(token)))
            written.append(int(token))
            shown = join_symbols([last, new], text.unit)[len(last) :]
            console.print(shown, end="", highlight=False, markup=False, soft_wrap=True)
    console.print()


def write_samples(
    model: LanguageModel,
    params: LanguageParams,
    text: Text,
    writing: Writing,
    temperatures: tuple[float, ...],
    seed: int,
) -> list[str]:
    """A text for each temperature, the prompt included."""
    prompt = np.asarray(encode(text.vocabulary, split_symbols(writing.prompt, text.unit)), np.int32)
    samples = []
    for index, temperature in enumerate(temperatures):
        drawn = sample(
            lambda carry, tokens: _step(model, params, carry, tokens),
            model.cell.init_carry(params.rnn, ()),
            jax.random.fold_in(jax.random.key(seed), index),
            start=prompt[0],
            end=None,
            max_length=len(prompt) - 1 + writing.length,
            temperature=temperature,
            top_p=writing.top_p,
            prefix=prompt[1:] if len(prompt) > 1 else None,
        )
        ids = [prompt[0], *np.asarray(drawn.tokens)]
        samples.append(join_symbols([text.vocabulary.symbols[i] for i in ids], text.unit))
    return samples


def surprise(
    model: LanguageModel, params: LanguageParams, text: Text, start: int, length: int
) -> tuple[list[str], np.ndarray]:
    """Symbols of test from `start` on, and how many bits each of them was worth to the model."""
    ids = text.splits.test[0][: start + length]
    step = jax.jit(lambda carry, token: language_step(model, params, carry, token))
    _, log_probs = jax.lax.scan(step, model.cell.init_carry(params.rnn, ()), ids[:-1])
    bits = -np.asarray(log_probs)[np.arange(len(ids) - 1), ids[1:]] / np.log(2)
    return [text.vocabulary.symbols[i] for i in ids[start:]], bits[start - 1 :]
