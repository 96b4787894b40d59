# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: -all
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
# ---

# %% [markdown]
# # Attention
#
# A network that reads a sentence and writes another has to carry everything it read in one carry of fixed size.
# Attention lets the writer look back at every step of what was read. This notebook trains both on the same small
# task, and shows where the one without attention stops, where the other one looks, and what a beam search adds. It
# runs in about a minute.

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import beam_search, tree
from rnn_jax.data import END, START, PairBatch
from rnn_jax.decoding import greedy
from rnn_jax.exposure import token_scores
from rnn_jax.metrics import mean_value, tally
from rnn_jax.plotting import PALETTE, attention_map, named_curves
from rnn_jax.seq2seq import alignment, decoding_step, forced_logits, init_seq2seq, rnn_seq2seq
from rnn_jax.training import create_state, make_train_step

SMALL = "RNN_JAX_SMALL" in os.environ  # continuous integration runs every notebook in small size
CELL, HIDDEN, LONGEST, STEPS, BATCH = ("elman", 8, 6, 3, 4) if SMALL else ("gru", 64, 20, 800, 32)

# %% [markdown]
# ## The task: say it backwards
#
# The source is a random string of letters, the target the same letters in reverse, then an end token. Nothing in a
# random string can be guessed, so a network that has not kept a letter cannot say it: 20 letters are 94 bits. A
# `PairBatch` is four arrays, time first: padded ids `[S, B]` and `[T, B]`, and their lengths. Ids 0 and 1 are `START`
# and `END`.

# %%
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def strings(rng: np.random.Generator, lengths: np.ndarray, room: int) -> PairBatch:
    """Random strings of these lengths, and the same backwards."""
    source, target = np.zeros((room, len(lengths)), np.int32), np.zeros((room + 1, len(lengths)), np.int32)
    for row, length in enumerate(lengths):
        letters = rng.integers(2, 2 + len(LETTERS), length)
        source[:length, row], target[: length + 1, row] = letters, [*letters[::-1], END]
    return PairBatch(source, lengths.astype(np.int32), target, lengths.astype(np.int32) + 1)


def text(ids: np.ndarray) -> str:
    return "".join(LETTERS[i - 2] if i > END else "" for i in ids)


example = strings(np.random.default_rng(0), np.array([8]), 8)
print(text(example.source[:, 0]), "->", text(example.target[:, 0]))

# %% [markdown]
# ## Two models
#
# `rnn_seq2seq` puts together an encoder, a *bridge* that makes the decoder's first carry of the encoder's last, and a
# decoder. With `attention="dot"` the decoder compares its own state with what the encoder said at every step,
# `score_s = h · memory_s`, and reads the mean of the memory weighted by the softmax of these scores. With `"none"`
# the bridge is all it has.

# %%
vocabulary = len(LETTERS) + 2
options = {"cell": CELL, "hidden_size": HIDDEN, "directions": 1}
models = {
    "attention": rnn_seq2seq(vocabulary, vocabulary, attention="dot", **options),
    "one carry": rnn_seq2seq(vocabulary, vocabulary, attention="none", **options),
}
for name, model in models.items():
    shapes = jax.eval_shape(lambda key, model=model: init_seq2seq(model, key), jax.random.key(0))
    print(f"{name}: {tree.size(shapes):,} parameters")

# %% [markdown]
# ## Training both
#
# The decoder reads the true last letter at every step (teacher forcing: a mask of 1) and is scored by the
# log-probability of the next. Lengths are mixed from 1 to the longest; padding counts for nothing.

# %%
tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, STEPS, alpha=0.02)))
trained, curves = {}, {}
for name, model in models.items():

    def loss_fn(params, batch, *, key, step, model=model):
        scores = token_scores(forced_logits(model, params, batch, 1.0), batch.target, batch.target_lengths)
        return mean_value(tally(scores.loss, scores.real)), {"right": tally(scores.correct, scores.real)}

    state = create_state(init_seq2seq(model, jax.random.key(1)), tx, jax.random.key(2))
    train_step, rng, right = make_train_step(loss_fn, tx), np.random.default_rng(3), []
    for _ in range(STEPS):
        state, metrics = train_step(state, strings(rng, rng.integers(1, LONGEST, BATCH, endpoint=True), LONGEST))
        right.append(mean_value(metrics["right"]))
    trained[name], window = state.params, max(STEPS // 40, 1)
    smooth = 100 * np.convolve(np.asarray(right), np.ones(window) / window, "valid")
    curves[name] = (window + np.arange(len(smooth)), smooth)
    print(f"{name}: {smooth[-1]:.1f} % of the letters right, forced, at the end of training")
ax = named_curves(curves, xlabel="training step", ylabel="letters right, %", title="Saying strings backwards, forced")
ax.figure

# %% [markdown]
# The network with attention has the task after some hundred steps. The other one goes on learning, slowly: what it
# learns is to squeeze ever more letters into its carry.
#
# ## On their own, at every length
#
# Now nothing is forced: `greedy` feeds back the likeliest letter until the end token. `decoding_step` gives the step
# and the carry that all functions of `rnn_jax.decoding` take. A string counts where every letter of it is right.
# Strings are up to half as long again as any in training.

# %%
ROOM, EACH = LONGEST + LONGEST // 2, 2 if SMALL else 40
test = strings(np.random.default_rng(4), np.repeat(np.arange(1, ROOM + 1), EACH), ROOM)


def decode(model, params, search, **how):
    step, carry = decoding_step(model, params, jnp.asarray(test.source), jnp.asarray(test.source_lengths))
    start = jnp.full(test.source.shape[1], START)
    return search(step, carry, start=start, end=END, max_length=ROOM + 1, **how)


def whole(tokens):
    """[B], whether all tokens up to the end token are right."""
    real = np.arange(ROOM + 1)[:, None] < test.target_lengths
    return ((np.asarray(tokens) == test.target) | ~real).all(0)


by_length, said = {}, {}
for name, model in models.items():
    said[name] = jax.jit(lambda params, model=model: decode(model, params, greedy))(trained[name])
    by_length[name] = (np.arange(1, ROOM + 1), 100 * whole(said[name].tokens).reshape(ROOM, EACH).mean(1))
ax = named_curves(
    by_length, xlabel="letters in the string", ylabel="strings all right, %", title="Without forcing, by length"
)
ax.set_ylim(-3, 103)
ax.axvline(LONGEST, color=PALETTE[5], lw=1, ls=":")
ax.text(LONGEST - 0.3, 50, "longest\nin training", fontsize=8, ha="right")
ax.figure

# %% [markdown]
# One carry holds a handful of letters and then fails. Attention has nine strings of ten right or more up to the
# longest of training, and fails a few letters later: it has learned to walk back from the end at lengths that it
# knows, not what "backwards" means. Attention removes the limit of memory, not the need to see what one will be
# asked.
#
# ## Where it looks
#
# `alignment` gives the weights with which each step of the target read the source, `[T, B, S]`. A network that was
# never told which letter belongs to which has drawn a diagonal. Look closely: it often lies one step to the right of
# the letter that is written. What is attended to are carries of the encoder, and the carry after a letter still knows
# that letter. Weights say where a network looks, not what it sees there.

# %%
row = EACH * (min(12, LONGEST) - 1)
length = int(test.source_lengths[row])
aligned = jax.jit(lambda params: alignment(models["attention"], params, test))(trained["attention"])
weights = aligned[: length + 1, row, :length]
letters = [*text(test.target[:length, row]), "end"]
ax = attention_map(weights, list(text(test.source[:length, row])), letters, title="read (above), written (left)")
beside = np.argmax(weights[:-1], 1) - np.arange(length)[::-1]
print("most weight so many steps beside the letter:", beside.tolist())
ax.figure

# %% [markdown]
# ## Beams
#
# Greedy decoding never takes back a letter. `beam_search` keeps the likeliest beginnings side by side: beams are one
# more batch axis, and the step is the same. Where a network is unsure, the likeliest string is not made of the
# likeliest letters. Here that is the one without attention: for half of the sources or more beams find a likelier
# string, but few more strings are right. No search brings back what a carry has lost.

# %%
NUM_BEAMS = 2 if SMALL else 8
model, params, greedily = models["one carry"], trained["one carry"], said["one carry"]
beams = jax.jit(lambda params: decode(model, params, beam_search, num_beams=NUM_BEAMS))(params)
known = test.source_lengths <= LONGEST
likelier = np.asarray(beams.log_probs[:, 0] > greedily.log_probs + 1e-3)[known].mean()
print(f"{NUM_BEAMS} beams find a likelier string than greedy for {likelier:.0%} of the sources as long as in training")
right = [whole(tokens)[known].mean() for tokens in (greedily.tokens, beams.tokens[..., 0])]
print(f"all right: {right[0]:.1%} greedily, {right[1]:.1%} with beams")

# %% [markdown]
# ## What to try next
#
# - Another mechanism: `attention="additive"`, `"general"`, `"local"` or `"monotonic"` (with `input_feeding=True`).
#   Which of them draw the diagonal, and at what price per step?
# - Sort instead of reverse: `target = np.sort(letters)`. What does the picture of the alignment look like now?
# - The real thing: `python -m experiments.translation` learns German to English, and `python -m experiments.scan`
#   asks whether a network understands "twice"; both have the same four calls as this notebook.
