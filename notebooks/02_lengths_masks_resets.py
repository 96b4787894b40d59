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
# # Lengths, masks and resets
#
# Real sequences end at different steps, have holes, and come many in a row. Arrays do not: a batch is a rectangle.
# Here is what `unroll` does with the steps that are not real, checked in numbers: values, gradients and NaN. It runs
# in under a minute.

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import ListedColormap

from rnn_jax import bidirectional, gru, lstm, unroll, unroll_carries
from rnn_jax.data import load_time_series, pad
from rnn_jax.plotting import PALETTE, finish, named_curves, new_axes

SMALL = "RNN_JAX_SMALL" in os.environ  # continuous integration runs every notebook in small size
NUMBER, UNITS, ROOM, HOLEY = (2, 4, 50, 1) if SMALL else (12, 32, 72, 3)

# %% [markdown]
# ## A batch of unequal lengths
#
# Nine men said /ae/, and each recording is 12 numbers a frame. `pad` puts them side by side, time first, `[T, B, I]`,
# with zeros below their ends. White is padding: work for nothing, unless sequences of about equal length stand
# together (`rnn_jax.data.batches`).

# %%
series = load_time_series("JapaneseVowels")[0].series[:: 270 // NUMBER][:NUMBER]
xs, lengths = pad(series)
print("xs", xs.shape, "lengths", lengths.tolist())
print(f"{1 - lengths.sum() / (xs.shape[0] * xs.shape[1]):.0%} of the steps are padding")
ax = new_axes((7.6, 3.2))
drawn = np.where(np.arange(len(xs))[:, None] < lengths, xs[..., 0], np.nan)
picture = ax.imshow(drawn.T, aspect="auto", cmap="viridis", interpolation="nearest")
ax.figure.colorbar(picture, label="first coefficient")
ax.set(xlabel="step (frame)", ylabel="row of the batch", xticks=range(0, len(xs), 5))
finish(ax, "Recordings of unequal length in one array")
ax.figure

# %% [markdown]
# ## What goes wrong without lengths
#
# A network that walks on over zeros does not stand still: its carry drifts from what it was at the end of the
# sequence, and the last carry says how much padding there was. With `lengths` it is frozen at the end. Drawn is how
# far the carry of the shortest row is from its carry at its own last step.

# %%
cell = gru(UNITS)
params = cell.init(jax.random.key(0), xs.shape[-1])
short = int(lengths.argmin())
drift = {}
for name, options in {"without": {}, "with lengths": {"lengths": lengths}}.items():
    carries = unroll_carries(cell, params, xs, **options)[2][:, short]
    drift[name] = (np.arange(len(xs)), jnp.linalg.norm(carries - carries[lengths[short] - 1], axis=-1))
    print(f"{name}: {drift[name][1][-1]:.3f} away at the last step of the array")
ax = named_curves(drift, xlabel="step", ylabel="distance of the carry", title=f"A sequence of {lengths[short]} steps")
ax.axvline(lengths[short] - 1, color=PALETTE[5], lw=1, ls=":")
ax.figure

# %% [markdown]
# ## Padding is inert
#
# A row in the batch gives what it gives alone, and outputs on padding are exactly zero. What stands there is of no
# importance, be it NaN.

# %%
dirty = np.where(np.arange(len(xs))[:, None, None] < lengths[:, None], xs, np.nan)
carry, ys = unroll(cell, params, dirty, lengths=lengths)
alone = [unroll(cell, params, jnp.asarray(one)) for one in series]
apart = max(float(jnp.abs(carry[b] - one[0]).max()) for b, one in enumerate(alone))
print(f"{np.isnan(dirty).sum()} NaN in the batch; carries differ from those of rows alone by {apart:.1e}")
print("outputs on padding:", np.unique(np.asarray(ys)[np.arange(len(xs))[:, None] >= lengths]))

# %% [markdown]
# ## So are its gradients
#
# Many a network is right forwards and wrong backwards: where a NaN is replaced only after it was computed, the chain
# rule multiplies it by zero, and 0 times NaN is NaN. Here inputs are blanked before any arithmetic. The gradient of
# the loss is finite, equals that of the rows alone, and is exactly zero to every padded input.


# %%
def loss(params, xs, lengths=None):
    return jnp.square(unroll(cell, params, xs, lengths=lengths)[1]).sum()


def naive(params, xs, lengths):
    ys = unroll(cell, params, xs)[1]
    return jnp.square(jnp.where(jnp.arange(len(xs))[:, None, None] < lengths[:, None], ys, 0.0)).sum()


to_params, to_xs = jax.grad(loss, (0, 1))(params, dirty, lengths)
apart = jax.tree.map(lambda *leaves: sum(leaves), *(jax.grad(loss)(params, jnp.asarray(one)) for one in series))
scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(apart))
worst = max(
    float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(to_params), jax.tree.leaves(apart), strict=True)
)
print(f"gradient in the batch and of rows alone: {worst / scale:.1e} of the largest entry apart")
bad = jax.grad(naive)(params, dirty, lengths)
print("outputs masked afterwards: gradient is NaN in", int(jnp.isnan(bad.w_h).sum()), "of", bad.w_h.size, "entries")
sizes = np.asarray(jnp.linalg.norm(to_xs, axis=-1))
real = np.arange(len(xs))[:, None] < lengths
print("gradient to padding:", np.unique(sizes[~real]), "| smallest to a real step:", f"{sizes[real].min():.1e}")
ax = new_axes((7.6, 3.2))
picture = ax.imshow(
    np.log10(np.where(sizes > 0, sizes, np.nan)).T, aspect="auto", cmap="magma", interpolation="nearest"
)
ax.figure.colorbar(picture, label="log10 of the size")
ax.set(xlabel="step (frame)", ylabel="row of the batch", xticks=range(0, len(xs), 5))
finish(ax, "Gradient of the loss to the inputs: white is exactly zero")
ax.figure

# %% [markdown]
# ## Nothing at all: length 0
#
# The carry that went in comes out, outputs are zero, gradients are finite. The last shard of a data set needs no
# branch of its own.

# %%
start = jnp.ones((2, UNITS))
carry, ys = unroll(cell, params, jnp.full((5, 2, xs.shape[-1]), jnp.nan), start, lengths=jnp.array([0, 0]))
print("carry as it was:", bool((carry == start).all()), "| outputs:", float(jnp.abs(ys).max()))

# %% [markdown]
# ## Holes: a mask anywhere
#
# `mask` is True where a step is real, and steps that are not real are as if they were not there. So a row with holes
# gives what its real steps give when they are pushed together. That holds for any cell, and in both directions.

# %%
rng = np.random.default_rng(1)
mask = rng.random((20, HOLEY)) < 0.6
holey = np.where(mask[..., None], rng.normal(size=(20, HOLEY, 5)), np.nan).astype(np.float32)
for name, other in {"gru": gru(UNITS), "lstm": lstm(UNITS)}.items():
    weights = other.init(jax.random.key(2), 5)
    for reverse in (False, True):
        ys = np.asarray(unroll(other, weights, holey, mask=mask, reverse=reverse)[1])
        far = 0.0
        for b in range(HOLEY):
            pushed = unroll(other, weights, jnp.asarray(holey[mask[:, b], b]), reverse=reverse)[1]
            far = max(far, float(np.abs(ys[mask[:, b], b] - pushed).max()))
        print(f"{name}, {'backwards' if reverse else 'forwards'}: {far:.1e}")

# %% [markdown]
# ## Many sequences in a row: resets
#
# A reset brings back the initial carry before its step, so one row can hold sequences end to end. *Packed* in this
# way, the same recordings leave few steps empty. First fit: a sequence goes into the first row that has room.

# %%
rows = []
for index in np.argsort(-lengths, kind="stable"):
    place = next((row for row in rows if sum(lengths[row]) + lengths[index] <= ROOM), None)
    if place is None:
        rows.append([index])
    else:
        place.append(index)
packed, used = pad([np.concatenate([series[i] for i in row]) for row in rows])
resets = np.zeros(packed.shape[:2], bool)
owner = np.full(packed.shape[:2], np.nan)
places = {}
for b, row in enumerate(rows):
    at = 0
    for index in row:
        resets[at, b], places[index] = True, (slice(at, at + lengths[index]), b)
        owner[places[index]] = (len(places) - 1) % len(PALETTE)
        at += lengths[index]
print(f"{len(series)} sequences in {len(rows)} rows, {1 - used.sum() / owner.size:.0%} padding")
ax = new_axes((7.6, 2.6))
ax.imshow(owner.T, aspect="auto", cmap=ListedColormap(PALETTE), vmin=0, vmax=len(PALETTE) - 1, interpolation="nearest")
for index, (steps, b) in places.items():
    ax.text((steps.start + steps.stop - 1) / 2, b, str(index), color="w", ha="center", va="center", fontsize=8)
ax.set(xlabel="step", ylabel="row", yticks=range(len(rows)))
finish(ax, "Packed: each colour is a sequence, white is padding")
ax.figure

# %%
ys = unroll(cell, params, packed, lengths=used, resets=resets)[1]
far = max(float(jnp.abs(ys[places[i]] - alone[i][1]).max()) for i in range(len(series)))
print(f"packed and alone: {far:.1e} apart")
leak = jax.grad(lambda xs: unroll(cell, params, xs, lengths=used, resets=resets)[1][places[rows[-1][-1]]].sum())(packed)
own = np.zeros(packed.shape[:2], bool)
own[places[rows[-1][-1]]] = True
print("gradient of the last sequence to all others:", float(jnp.abs(leak[~own]).max()))

# %% [markdown]
# ## Both directions
#
# A network that reads backwards must begin at the last *real* step of each row. Flip the padded array instead, and it
# begins by reading padding. `bidirectional` takes lengths, masks and resets like any other layer. For the last line
# biases are moved from zero, as training does: at zero a GRU that reads zeros stays where it began, and hides the
# mistake.

# %%
both = bidirectional(gru(UNITS), gru(UNITS))
weights = both.init(jax.random.key(3), xs.shape[-1])
ys = both.apply(weights, dirty, lengths=lengths)[1]
far = max(
    float(jnp.abs(ys[: len(one), b] - both.apply(weights, jnp.asarray(one))[1]).max()) for b, one in enumerate(series)
)
print(f"in the batch and alone: {far:.1e} apart")
backward = jax.tree.map(lambda leaf: leaf + 0.1 if leaf.ndim == 1 else leaf, weights.backward)
flipped = unroll(cell, backward, xs[::-1])[1][::-1, short][: lengths[short]]
right = unroll(cell, backward, xs, lengths=lengths, reverse=True)[1][: lengths[short], short]
print("flipped array, shortest row, first to last step:", jnp.abs(flipped - right).max(-1).round(3))

# %% [markdown]
# ## One program for all lengths
#
# Lengths are data, not shapes: jax compiles once for an array of T steps and then takes any lengths in it. Sequences
# cut to their own length would be compiled anew for every length that comes along.

# %%
traced = []


@jax.jit
def last_carry(xs, lengths):
    traced.append(xs.shape)  # runs only when jax compiles
    return unroll(cell, params, xs, lengths=lengths)[0]


for seed in range(20):
    last_carry(xs, np.random.default_rng(seed).integers(0, len(xs), NUMBER, endpoint=True))
print("20 batches of random lengths:", len(traced), "compiled")
traced.clear()
for one in series:
    last_carry(one[:, None], np.array([len(one)]))
print(f"{len(series)} sequences of their own length:", len(traced), "compiled")

# %% [markdown]
# ## What to try next
#
# - Give `naive` the batch with zeros, `xs`, in the place of `dirty`: is its gradient right now? And would it be if the
#   loss were on the last carry?
# - Put a reset on a padded step, `resets[t, b]` where `mask[t, b]` is False. Where does the border go?
# - `rnn_jax.data.batches` groups sequences by length: how much padding do batches of 12 of all 270 have with
#   `bucket=1`, and with `bucket=20`?
