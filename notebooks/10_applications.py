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
# # Applications, one small thing each
#
# Text, music, movement, speech and proteins: the same cell, the same `unroll`, other data. Everything here is real
# data that comes with the package or with Python, so that it runs anywhere, and everything is trained in seconds; the
# experiment beside each of them trains for minutes and goes on from here. It runs in about a minute and a half.

# %%
# %matplotlib inline
import os
import tempfile
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax
from IPython.display import Audio, display

from rnn_jax import bidirectional, dense, gru, layer, serial, stack, unroll
from rnn_jax.analysis import saliency
from rnn_jax.data import (
    load_libras,
    load_text,
    load_time_series,
    pad,
    stratified_folds,
    streams,
    synthesize,
    unigram_bits,
    windows,
    xz_bits,
)
from rnn_jax.data.pieces import chorale_pieces, heard, make_clock, training_batches
from rnn_jax.data.proteins import RESIDUES, STATES, encode_residues
from rnn_jax.decoding import sample
from rnn_jax.frames import voice_frames
from rnn_jax.language import LanguageModel, init_language, language_loss, language_step, window_nll
from rnn_jax.losses import token_nll
from rnn_jax.metrics import mean_value, tally
from rnn_jax.music import MusicModel, compose, init_music, music_loss
from rnn_jax.plotting import confusion_map, named_curves, piano_roll
from rnn_jax.token_heads import softmax_head
from rnn_jax.training import create_state, fit, make_tbptt_step, make_train_step

SMALL = "RNN_JAX_SMALL" in os.environ  # continuous integration runs every notebook in small size
UNITS, STEPS, CHARACTERS = (8, 3, 20_000) if SMALL else (128, 600, 450_000)


def adam(num_steps, rate=3e-3):
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, num_steps, 0.02)))


def forever(items):
    while True:
        yield from items


# %% [markdown]
# ## Text: a language model of characters
#
# Python brings a text along: the manual that `help()` shows, 450,000 characters of it. The network reads a character
# and gives the distribution of the next. The text is one long stream, cut into 32 that run side by side; each window
# starts with the carry in which the one before ended (truncated backpropagation).

# %%
path = Path(tempfile.mkdtemp()) / "manual.txt"
path.write_text("\n".join(topics.values())[:CHARACTERS], encoding="utf-8")
text = load_text(path)
(train,), (test,) = text.splits.train, text.splits.test
symbols = text.vocabulary.symbols
model = LanguageModel(stack(gru(UNITS)), softmax_head(len(symbols)), len(symbols), embedding_size=32)
params, tx = init_language(model, jax.random.key(0)), adam(2 * STEPS, 1e-2)
state = create_state(params, tx, jax.random.key(1), carry=model.cell.init_carry(params.rnn, (32,)))
series = windows(streams(train[:-1], 32), streams(train[1:], 32), k1=64)
language, info = fit(
    state, make_tbptt_step(language_loss(model), tx), forever(series), num_steps=2 * STEPS, log_every=50
)

# %% [markdown]
# What it costs to say the held-out end of the text, in bits a character, beside two models that are no networks; and
# what it writes by itself, a character at a time. Twenty seconds of training bring it nearly level with xz, which
# looks up every repetition in all of the text; the rest is a matter of minutes.

# %%
held_out = next(iter(windows(streams(test[:-1], 1), streams(test[1:], 1), k1=min(len(test) - 1, 20_000))))
_, nll = jax.jit(lambda params, carry, window: window_nll(model, params, carry, window))(
    language.params, model.cell.init_carry(language.params.rnn, (1,)), held_out
)
floors = unigram_bits(train, test, len(symbols)), xz_bits(text.raw.train[0], text.raw.test[0])
print(f"single characters {floors[0]:.2f} bits, xz {floors[1]:.2f} bits,")
print(f"the network {mean_value(nll) / np.log(2):.2f} bits a character\n")
written = sample(
    lambda carry, tokens: language_step(model, language.params, carry, tokens),
    model.cell.init_carry(language.params.rnn, (1,)),
    jax.random.key(2),
    start=jnp.array([text.vocabulary.ids["\n"]]),
    end=None,
    max_length=400,
    temperature=0.7,
)
print("".join(symbols[token] for token in np.asarray(written.tokens)[:, 0]))

# %% [markdown]
# ## Music: a chorale in four voices
#
# 361 chorales of Bach are in the package, as frames of four voices on a grid of eighths. The network reads the frame
# before and the clock of the bar, and predicts soprano, alto, tenor and bass, each given those above it. Then it
# composes eight bars from nothing: look at the voices, and listen.

# %%
pieces = chorale_pieces()
musician = MusicModel(stack(gru(UNITS)), voice_frames(4, pieces.num_pitches, hidden_size=64))
tx, clock_size = adam(STEPS // 2, 5e-3), pieces.splits.train[0].clock.shape[1]
state = create_state(init_music(musician, jax.random.key(3), clock_size), tx, jax.random.key(4))
loss = lambda params, batch, *, key, step: music_loss(musician, 0.2, params, batch, key=key, step=step)  # noqa: E731
state, info = fit(
    state, make_train_step(loss, tx), training_batches(pieces, 16, 64, seed=0), num_steps=STEPS // 2, log_every=25
)
beats = 4 * pieces.steps_per_beat  # of a bar
clock = make_clock(np.arange(8 * beats) % beats, 4)[:, :clock_size]
nothing = np.zeros((len(clock), musician.frames.frame_size), np.int32)
frames = jax.jit(lambda params, key: compose(musician, params, key, nothing, 0, clock, 0.6))(
    state.params, jax.random.key(5)
)
pitches, notes = heard(pieces, frames)
ax = piano_roll(pitches, steps_per_beat=pieces.steps_per_beat, title="Eight bars, composed from nothing")
display(Audio(synthesize(notes, steps_per_beat=pieces.steps_per_beat), rate=22050))
ax.figure

# %% [markdown]
# ## Movement: signs of a hand
#
# Libras: where a hand is in 45 frames of a video, 15 movements of Brazilian sign language. The answer is read from
# the last output. Videos that are copies of each other stay on one side of the split.


# %%
def classify(xs, lengths, labels, num_classes, num_steps):
    """Trains a GRU on sequences [T, B, I]; returns a function that gives logits after every step [T, B, C]."""
    cell, tx = stack(gru(UNITS // 2), dense(num_classes)), adam(num_steps, 1e-2)

    def logits(params, xs, lengths):
        return unroll(cell, params, xs, lengths=lengths)[1]

    def loss_fn(params, rows, *, key, step):
        ys = logits(params, xs[:, rows], lengths[rows])
        last = ys[lengths[rows] - 1, jnp.arange(len(rows))]
        pair = tally(token_nll(last, labels[rows]), jnp.ones(len(rows)))
        return mean_value(pair), {"nll": pair}

    xs, lengths, labels = jnp.asarray(xs), jnp.asarray(lengths), jnp.asarray(labels)
    rng = np.random.default_rng(0)
    batches = (rng.integers(0, xs.shape[1], min(64, xs.shape[1])) for _ in range(num_steps))
    state = create_state(cell.init(jax.random.key(6), xs.shape[-1]), tx, jax.random.key(7))
    state, _ = fit(state, make_train_step(loss_fn, tx), batches, num_steps=num_steps, log_every=50)
    return jax.jit(lambda xs, lengths: logits(state.params, xs, lengths))


libras = load_libras()
points = libras.points[:, :, 0].swapaxes(0, 1)  # [T, N, 2]
points = 4 * (points - points.mean(0))
hands = np.concatenate([points, 10 * np.diff(points, axis=0, prepend=points[:1])], -1)
tested = stratified_folds(libras.labels, 5, groups=libras.groups) == 0
full = np.full(len(libras.labels), len(hands))
read = classify(hands[:, ~tested], full[~tested], libras.labels[~tested], len(libras.names), STEPS)
said = np.asarray(read(hands[:, tested], full[tested])[-1].argmax(-1))
print(f"{np.mean(said == libras.labels[tested]):.0%} of {tested.sum()} movements right, by chance 7 %")
table = np.zeros((15, 15))
np.add.at(table, (libras.labels[tested], said), 1)
ax = confusion_map(table, libras.names, title="What was taken for what, %")
ax.figure

# %% [markdown]
# ## Speech: who says /ae/?
#
# Nine men say two Japanese vowels; a recording is 7 to 29 frames of 12 cepstral coefficients. Lengths are mixed, so
# `unroll` gets them. And since a recurrent network says something after every frame, one can ask how soon it knows.

# %%
speakers, strangers = load_time_series("JapaneseVowels")
train, test = pad(speakers.series), pad(strangers.series)
recognise = classify(train.data, train.lengths, speakers.labels, 9, STEPS // 2)
right = np.asarray(recognise(test.data, test.lengths).argmax(-1)) == strangers.labels  # [T, B]
last = right[test.lengths - 1, np.arange(len(strangers.labels))]
print(f"{last.mean():.1%} of {len(last)} recordings: the speaker is right at the end")
shown = np.arange(1, 16)
by_frame = [100 * right[t - 1, test.lengths >= t].mean() for t in shown]
ax = named_curves(
    {"GRU": (shown, by_frame)}, xlabel="frames heard", ylabel="speaker right, %", title="How soon it knows"
)
ax.figure

# %% [markdown]
# ## Proteins: what comes later matters as much
#
# A protein is a sequence of twenty letters, and each residue is part of a helix, a strand or something else. Nothing
# about it runs forwards: a residue's shape depends on neighbours on both sides. So the network is `bidirectional`.
# The data are too large for the package; what can be shown without them is which letters the answer for the middle
# residue *can* depend on, before any training. Trained on 3,000 chains, going both ways gains 8.8 points of accuracy
# over going one way (`python -m experiments.protein`).

# %%
sequence = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVK"
xs = jax.nn.one_hot(encode_residues(sequence), len(RESIDUES))
cells = stack(gru(32)), stack(gru(32))
curves = {}
for name, one in {"forwards": layer(cells[0]), "both ways": bidirectional(*cells)}.items():
    network = serial(one, layer(dense(len(STATES))))
    params = network.init(jax.random.key(8), len(RESIDUES))
    answer = lambda xs, n=network, p=params: n.apply(p, xs)[1][len(xs) // 2].sum()  # noqa: E731
    reach = jax.jit(partial(saliency, answer))(xs)
    curves[name] = (np.arange(len(sequence)) - len(sequence) // 2, reach)
ax = named_curves(
    curves,
    xlabel="residues from the one that is asked about",
    ylabel="|gradient|",
    title="What an answer can depend on",
)
ax.figure

# %% [markdown]
# ## What to try next
#
# Each command runs with `--smoke` in seconds, leaves what it made in its run directory, and says where its data come
# from:
#
# - text: `python -m experiments.char_lm --data.source FILE` for a text of your own, then `--trained RUN_DIR
#   --writing.prompt "..."`; music: `python -m experiments.bach_chorales` and `python -m experiments.music`.
# - movement: `python -m experiments.video`; series: `python -m experiments.time_series`; a heartbeat as it arrives:
#   `python -m experiments.streaming`.
# - strings of spoken digits from sound: `python -m experiments.speech`; proteins: `python -m experiments.protein
#   --help`. What all of them reach, and what beside them does: [applications](../docs/applications.md).
