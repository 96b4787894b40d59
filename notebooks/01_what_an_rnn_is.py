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
# # What a recurrent network is
#
# One step, and the same step again: a recurrent network is a function `(carry, x) -> (carry, y)` that walks through a
# sequence. This notebook takes one step, then any number of them with the same parameters, and asks what a walk in
# order is good for: three models of one size read pictures of digits row by row, in true and in shuffled order. It
# runs in about a minute.

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import dense, elman, gru, stream_step, tree, unroll, unroll_carries
from rnn_jax.data import load_optdigits
from rnn_jax.losses import token_nll
from rnn_jax.plotting import FAINT, PALETTE, finish, named_curves, new_axes
from rnn_jax.training import create_state, make_train_step

SMALL = "RNN_JAX_SMALL" in os.environ  # continuous integration runs every notebook in small size
STEPS, BATCH, TESTED, ROWS, LONGER = (3, 4, 20, 18, (18, 30)) if SMALL else (900, 64, 1000, 24, (24, 36, 48, 72, 96))

# %% [markdown]
# ## One step
#
# A cell is a NamedTuple of pure functions. `init` makes parameters, `init_carry` the carry to start from, and `step`
# takes one step. The Elman network is `h' = tanh(x W_x + h W_h + b)`: the line below by hand, and by the cell.

# %%
cell = elman(16)
params = cell.init(jax.random.key(0), 1)
print(jax.tree.map(jnp.shape, params))

x, h = jnp.array([1.0]), cell.init_carry(params)
carry, y = stream_step(cell, params, h, x)
by_hand = jnp.tanh(x @ params.w_x + h @ params.w_h + params.b)
print(f"after one step: {y[:4].round(3)}, by hand {by_hand[:4].round(3)}")

# %% [markdown]
# ## Any number of steps, the same parameters
#
# `unroll` takes the step over and over. Nothing in the parameters knows how long the sequence is: a thousand steps
# cost no weight more than ten. A dense network that reads all steps side by side needs weights for each of them. Time
# is the first axis: `[T, B, features]`, or `[T, features]` without a batch.

# %%
side_by_side = dense(16)
for num_steps in (10, 1000):
    xs = jnp.sin(jnp.arange(num_steps) / 5.0)[:, None]
    carry, ys = unroll(cell, params, xs)
    flat = side_by_side.init(jax.random.key(0), num_steps)
    print(f"{num_steps} steps -> {ys.shape}: {tree.size(params)} parameters, side by side {tree.size(flat):,}")

# %% [markdown]
# ## The same step: what happens later is the same too
#
# Sharing means more than saving. Whatever the network does with a pattern, it does wherever the pattern stands: here
# one pulse comes to a GRU at three different moments, and the answer is the same curve, shifted. What is learned at one
# moment is known at all others.

# %%
smooth, quiet = gru(16), jnp.zeros((60, 1))
weights = smooth.init(jax.random.key(0), 1)
moments = (5, 20, 35)
answers = [unroll(smooth, weights, quiet.at[t].set(3.0))[1][:, 0] for t in moments]
ax = named_curves(
    {f"pulse at step {t}": (np.arange(60), ys) for t, ys in zip(moments, answers, strict=True)},
    xlabel="step",
    ylabel="first unit",
    title="One pulse, three moments, one answer",
)
shifted = max(float(jnp.abs(ys[t:][:20] - answers[0][5:25]).max()) for t, ys in zip(moments, answers, strict=True))
print(f"largest difference of the answers, shifted: {shifted:.1e}")
ax.figure

# %% [markdown]
# ## The carry is all that is known of the past
#
# Cut the sequence anywhere: the second half with the carry of the first gives what the whole gives. So a network can
# run for ever, and in real time. It also means that two pasts with one carry are one past to the network.

# %%
xs = jax.random.normal(jax.random.key(1), (50, 1))
whole = unroll(cell, params, xs)[1]
carry, first = unroll(cell, params, xs[:30])
second = unroll(cell, params, xs[30:], carry)[1]
print(f"whole and in two parts: {jnp.abs(whole - jnp.concatenate([first, second])).max():.1e}")
carries = unroll_carries(cell, params, xs)[2]
print(f"carries {carries.shape}: {carries[0].size} numbers hold all that was read, after 1 step as after 50")

# %% [markdown]
# ## A task where order matters
#
# 1,797 handwritten digits come with the package, 8 x 8 pixels each. Two of them stand one under the other somewhere
# on a strip of paper, which is read row by row, from the top: which two digits, and which is first? *Shuffled*, the
# rows of every strip come in a random order of its own.

# %%
digits = load_optdigits()
pictures, labels = digits.images / 255.0, digits.labels.astype(np.int32)
TRAIN = np.arange(1300)  # the file mixes classes
TEST = np.arange(1300, len(labels))


def strips(rng, ids, number, num_rows, shuffled):
    """Strips [T, B, 8] of two digits each, and which ones, [B, 2]."""
    picked = rng.choice(ids, (number, 2))
    top, bottom = np.sort(rng.integers(0, num_rows - 15, (2, number)), axis=0)
    xs = np.zeros((num_rows, number, 8), np.float32)
    for start, one in zip((top, bottom + 8), picked.T, strict=True):
        xs[start + np.arange(8)[:, None], np.arange(number)] = pictures[one].swapaxes(0, 1)
    if shuffled:
        order = rng.permuted(np.tile(np.arange(num_rows)[:, None], number), axis=0)
        xs = np.take_along_axis(xs, order[..., None], axis=0)
    return xs, labels[picked]


ax = new_axes((7.6, 2.7))
shown = [strips(np.random.default_rng(0), TEST, 6, ROWS, shuffled) for shuffled in (False, True)]
gap = np.full((ROWS, 2), np.nan)
ax.imshow(
    np.concatenate([part for xs, _ in shown for row in range(6) for part in (xs[:, row], gap)], axis=1), cmap="Greys"
)
ax.set_facecolor(FAINT)
ax.set_xticks(np.arange(12) * 10 + 3.5, [f"{a} {b}" for _, said in shown for a, b in said])
ax.set(xlabel="what stands there", ylabel="row = step")
finish(ax, "Six strips in true order, and the same in shuffled order")
ax.figure

# %% [markdown]
# ## Three models of one size
#
# All three make features of every row with weights that all rows share, take the maximum over time, and read two
# digits from it. They differ in what a feature knows: a *bag* its own row, a causal *convolution* (dilated, with
# residual connections) the 31 last ones, a *GRU* all before it.

# %%
DILATIONS = (1, 2, 4, 8)
top = dense(20)


def conv_init(key, width):
    sizes = (8, *[width] * len(DILATIONS))
    return [dense(b).init(k, 3 * a) for k, a, b in zip(jax.random.split(key, 4), sizes, sizes[1:], strict=False)]


def conv_features(layers, xs):
    for number, (layer, dilation) in enumerate(zip(layers, DILATIONS, strict=True)):
        before = jnp.pad(xs, ((2 * dilation, 0), (0, 0), (0, 0)))
        window = jnp.concatenate([before[i * dilation :][: len(xs)] for i in range(3)], axis=-1)
        ys = jax.nn.relu(window @ layer.w + layer.b)
        xs = xs + ys if number else ys
    return xs


def bag_init(key, width):
    keys = jax.random.split(key)
    return [dense(width).init(keys[0], 8), dense(width).init(keys[1], width)]


def bag_features(layers, xs):
    for layer in layers:
        xs = jax.nn.relu(xs @ layer.w + layer.b)
    return xs


reader = gru(36)
models = {
    "GRU": (36, lambda key, _: reader.init(key, 8), lambda params, xs: unroll(reader, params, xs)[1]),
    "convolution": (22, conv_init, conv_features),
    "bag": (60, bag_init, bag_features),
}


def init(key, name):
    width, init_features, _ = models[name]
    keys = jax.random.split(key)
    return init_features(keys[0], width), top.init(keys[1], width)


def logits(params, xs, name):
    pooled = models[name][2](params[0], xs).max(0)
    return (pooled @ params[1].w + params[1].b).reshape(-1, 2, 10)


for name in models:
    print(f"{name}: {tree.size(init(jax.random.key(0), name)):,} parameters")

# %% [markdown]
# ## Training all of them, on true and on shuffled order
#
# A strip counts where both digits are right, so guessing gives 1 %. Test strips are made of digits that no training
# strip shows.

# %%
tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(6e-3, STEPS, alpha=0.02)))
predict = jax.jit(lambda params, xs, name: logits(params, xs, name).argmax(-1), static_argnames="name")


def both_right(params, name, num_rows, shuffled):
    xs, said = strips(np.random.default_rng(1), TEST, TESTED, num_rows, shuffled)
    return 100 * float((np.asarray(predict(params, xs, name)) == said).all(1).mean())


trained, scores = {}, {}
for name in models:

    def loss_fn(params, batch, *, key, step, name=name):
        return token_nll(logits(params, batch[0], name), batch[1]).mean(), {}

    train_step = make_train_step(loss_fn, tx)
    for shuffled in (False, True):
        rng, state = np.random.default_rng(2), create_state(init(jax.random.key(3), name), tx, jax.random.key(4))
        for _ in range(STEPS):
            state, _ = train_step(state, strips(rng, TRAIN, BATCH, ROWS, shuffled))
        trained[name, shuffled] = state.params
        scores[name, shuffled] = both_right(state.params, name, ROWS, shuffled)
    print(f"{name}: true order {scores[name, False]:.1f} %, shuffled {scores[name, True]:.1f} %")

# %%
ax = new_axes((7, 3.6))
for shuffled in (False, True):
    values = [scores[name, shuffled] for name in models]
    label, colour = ("shuffled", PALETTE[5]) if shuffled else ("true", PALETTE[3])
    ax.bar(np.arange(3) + 0.4 * shuffled - 0.2, values, 0.38, color=colour, label=label, zorder=2)
ax.set_xticks(range(3), list(models))
ax.set(ylabel="strips with both digits right, %", ylim=(0, 103))
ax.grid(axis="y", color=FAINT, lw=0.7, zorder=0)
ax.legend(title="order of rows", frameon=False, loc="upper right")
finish(ax, "Read row by row")
ax.figure

# %% [markdown]
# In true order the GRU and the convolution read most strips. The bag does not know which of two digits was first, and
# a maximum over rows mixes those of both; shuffled or not is the same to it. In shuffled order the other two are no
# better than the bag: what they knew beyond it was the order. On strips of this length both see all of it; the next
# picture tells them apart.
#
# ## Longer than in training
#
# Weights that are shared run on strips of any length. The same trained parameters read longer ones, in true order,
# with more blank paper between the digits.

# %%
longer = {name: (LONGER, [both_right(trained[name, False], name, rows, False) for rows in LONGER]) for name in models}
for name, (_, values) in longer.items():
    print(f"{name}: " + ", ".join(f"{value:.0f} %" for value in values), "at", LONGER, "rows")
ax = named_curves(
    longer, xlabel="rows of the strip", ylabel="strips with both digits right, %", title="Trained on one length"
)
ax.axvline(ROWS, color=PALETTE[5], lw=1, ls=":")
ax.set_ylim(0, 103)
ax.figure

# %% [markdown]
# A feature of the convolution sees 31 rows: where the digits lie further apart than that, none knows which came first.
# The GRU has never seen such gaps either, and its carry takes the first digit across all of them. The bag sees the same
# rows and more white paper, and does not care.

# %% [markdown]
# ## What to try next
#
# - Draw *one* order and use it for all strips, in training and test. No information is lost: do the GRU and the
#   convolution lose accuracy, and why? (`rng.permutation(ROWS)` once, then `xs[order]`.)
# - Take the last output instead of the maximum: `unroll(...)[0]` is the carry after the last row. Which model suffers?
# - `python -m experiments.order_matters` asks the same of spoken digits, with three seeds, and adds a network that
#   shares no weights over time.
