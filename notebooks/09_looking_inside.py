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
# # Looking inside
#
# A trained recurrent network is a dynamical system, and there are instruments for those. Here a network learns to
# hold two bits, and then each instrument of `rnn_jax.analysis` is put to it in one call: where it stands still, how
# it leaves, where its states lie, what can be read from them and when, which inputs an answer depends on, and which
# unit counts what.

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments._flip_flops import flip_flops
from rnn_jax import dense, elman, gru, stack, stream_step, unroll, unroll_carries
from rnn_jax.analysis import (
    find_fixed_points,
    flow_field,
    integrated_gradients,
    linear_probe,
    linearise,
    lyapunov_spectrum,
    occlusion,
    principal_components,
    saliency,
    unit_features,
)
from rnn_jax.plotting import FAINT, PALETTE, eigenvalue_plane, finish, named_curves, new_axes
from rnn_jax.training import create_state, make_train_step

SMALL = "RNN_JAX_SMALL" in os.environ  # continuous integration runs every notebook in small size
UNITS, STEPS, CANDIDATES, ROWS = (8, 4, 8, 20) if SMALL else (32, 800, 400, 400)

# %% [markdown]
# ## A network that holds two bits
#
# Pulses of +1 and -1 come at random on two channels; the network must say the last pulse of each. So it has to keep
# two bits for as long as nothing comes, and to flip them when something does.

# %%
cell = stack(elman(UNITS), dense(2))


def loss_fn(params, batch, *, key, step):
    pulses, targets = flip_flops(key, num_bits=2, batch_size=64, num_steps=40, pulse=0.1)
    return jnp.square(unroll(cell, params, pulses)[1] - targets).mean(), {}


tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(5e-3, STEPS, alpha=0.01)))
state = create_state(cell.init(jax.random.key(0), 2), tx, jax.random.key(1))
train_step = make_train_step(loss_fn, tx)
for _ in range(STEPS):
    state, metrics = train_step(state, ())
params = state.params

pulses, bits = flip_flops(jax.random.key(2), num_bits=2, batch_size=ROWS, num_steps=100, pulse=0.1)
_, said, carries = unroll_carries(cell, params, pulses)  # carries: one tree a layer, leaves [T, B, ...]
states = np.asarray(carries[0])  # [T, B, H], of the recurrent layer
print(f"mean squared error {metrics['loss'].total:.4f}; bits right: {np.mean(np.sign(said) == bits):.1%}")
ax = new_axes((8, 3))
for channel, colour in enumerate((PALETTE[0], PALETTE[3])):
    ax.plot(said[:60, 0, channel] + 3 * channel, color=colour, label=f"bit {channel}, said")
    ax.vlines(np.arange(60), 3 * channel, 3 * channel + pulses[:60, 0, channel], color=PALETTE[5], lw=2)
ax.set(xlabel="step", ylabel="value (bit 1 is 3 higher)")
finish(ax, "Pulses (grey), and what the network says")
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8.5)
ax.figure

# %% [markdown]
# ## Where it stands still
#
# Between pulses the input is zero and the network is a map `h -> F(h)`. `find_fixed_points` looks for `F(h) = h` from
# many states at once, `linearise` gives the eigenvalues there. What is expected: four stable points, the four
# memories; between any two neighbours a saddle with one unstable direction, the border that a pulse must push the
# state across; and one point in the middle. That makes nine, and the indices of all fixed points must add up to 1, or
# some are missing.

# %%
with jax.enable_x64(True):
    wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), params)
    still = lambda h: stream_step(cell, wide, (h, *carries[1:]), jnp.zeros(2))[0][0]  # noqa: E731
    rng, pool = np.random.default_rng(0), states.reshape(-1, UNITS).astype(float)
    pairs = rng.integers(0, len(pool), (CANDIDATES, 2))
    mixed = pool[pairs[:, 0]] + rng.uniform(0, 1, (CANDIDATES, 1)) * (pool[pairs[:, 1]] - pool[pairs[:, 0]])
    found = find_fixed_points(still, jnp.asarray(mixed), tolerance=1e-18)
    points = np.asarray(found.points[found.distinct])
    modes = [linearise(still, jnp.asarray(point)) for point in points]
unstable = np.array([mode.num_unstable for mode in modes], int)
print(f"{len(points)} fixed points; by number of unstable directions: {np.bincount(unstable).tolist()}")
print(f"sum of the indices: {sum(mode.index for mode in modes)}")
groups = {
    f"{count} unstable": np.concatenate([mode.eigenvalues for mode in modes if mode.num_unstable == count])
    for count in sorted(set(unstable.tolist()))
}
ax = eigenvalue_plane(groups, title="Eigenvalues at the fixed points")
ax.figure

# %% [markdown]
# ## The plane in which it thinks
#
# `principal_components` finds the directions in which states vary; two of them carry most of it here. `flow_field`
# says where a state of that plane goes in one step without input. The arrows run away from the saddles and into the
# four memories: the network has become the picture of its task. (Light lines: trajectories with pulses.)

# %%
components = principal_components(states, 2)
flat = components.project(states)
low, high = 1.2 * flat.min((0, 1)), 1.2 * flat.max((0, 1))
still_now = jax.jit(jax.vmap(lambda h: stream_step(cell, params, (h, *carries[1:]), jnp.zeros(2))[0][0]))
field = flow_field(lambda h: still_now(jnp.asarray(h, jnp.float32)), components, low, high, num=18)
ax = new_axes((6.4, 5.2))
ax.plot(flat[:, :10, 0], flat[:, :10, 1], color=FAINT, lw=0.7, zorder=1)
ax.quiver(*np.moveaxis(field.places, -1, 0), *np.moveaxis(field.moves, -1, 0), color=PALETTE[5], width=0.003, zorder=2)
for count, colour, name in ((0, PALETTE[2], "stable"), (1, PALETTE[1], "saddle"), (2, PALETTE[0], "unstable")):
    there = components.project(points[unstable == count])
    ax.scatter(*there.T, s=60, color=colour, edgecolor="white", label=name, zorder=3)
ax.set(xlabel="PC 1", ylabel="PC 2")
finish(ax, f"Fixed points and flow: {components.explained.sum():.0%} of the variance")
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
ax.figure

# %% [markdown]
# ## Do neighbours part?
#
# Lyapunov exponents say how fast two nearby trajectories part (above zero) or come together (below), along a
# trajectory with its inputs. All of them are negative here: whatever disturbs the state is forgotten, and only the
# bits remain. That is why it remembers: what is held is *which* stable point it is at, not how exactly.

# %%
step = lambda h, x: stream_step(cell, params, h, x)[0]  # noqa: E731
spectrum = lyapunov_spectrum(step, cell.init_carry(params), pulses[:, 0], num_exponents=min(8, UNITS), burn_in=20)
ax = new_axes((6, 3))
ax.errorbar(1 + np.arange(len(spectrum.exponents)), spectrum.exponents, spectrum.errors, fmt="o", color=PALETTE[3])
ax.axhline(0, color=PALETTE[5], lw=1, ls=(0, (5, 3)))
ax.set(xlabel="number of the exponent", ylabel="nats a step")
finish(ax, "Lyapunov exponents, with standard errors")
ax.figure

# %% [markdown]
# ## What can be read from the states, and when
#
# `linear_probe` fits a ridge regression from states to something that may be in them, at each step apart, and scores
# it on sequences it was not fitted to. The bit that is held now is there at every step. Dashed is how often the bit
# of some steps ago is still the same: one need only read the present one to be right so often. What lies above is
# history. A flip leaves a trace for some steps; after twenty nothing is left of it.

# %%
T, label = len(pulses), np.asarray(bits[..., 0] > 0).astype(int)
curves, stayed = {}, {}
for ago in (0, 5, 20):
    late = np.arange(20, T, 4)
    probe = linear_probe(states[late], label[late - ago])
    curves[f"{ago} steps ago"] = (late, 100 * probe.score)
    stayed[f"same now as {ago} ago"] = 100 * (label[late] == label[late - ago]).mean()
ax = named_curves(curves, xlabel="step", ylabel="bit read correctly, %", title="A linear probe for bit 0", lines=stayed)
ax.figure

# %% [markdown]
# ## Which inputs an answer depends on
#
# Three instruments ask the same of one sequence: `saliency`, the gradient times the input; `integrated_gradients`,
# which shares the answer out among the inputs, from silence to the sequence; and `occlusion`, which covers each step
# and looks. The answer at the end is bit 0: it depends on the pulse that flipped it last, and on nothing before.
#
# Occlusion has it. The other two follow gradients, and what a stable memory holds has nearly none: that is what keeps
# it safe. Integrated gradients should add up to the difference of the two answers. Here they do not: as the pulses
# grow from silence the answer jumps, where a pulse becomes strong enough to flip the bit, and no gradient sees a
# jump. So always look at that sum.

# %%
score = lambda xs: unroll(cell, params, xs)[1][-1, 0]  # noqa: E731
silent = score(jnp.zeros((60, 2)))  # what it says where nothing came
came, held = np.asarray(pulses[:60, :, 0]), np.asarray(bits[:60, :, 0])  # [T, B]
last = 59 - np.argmax(came[::-1] != 0, axis=0)  # [B], the last pulse; wanted is one that flips the bit
flips = held[last, np.arange(ROWS)] != held[last - 1, np.arange(ROWS)]
row = int(np.argmax(flips & (last > 30) & (last < 56) & (held[-1] * silent < 0)))
xs = pulses[:60, row]
shares = integrated_gradients(score, xs, num_points=512).sum(-1)
asked = {
    "saliency times input": saliency(score, xs, times_input=True),
    "integrated gradients": shares,
    "occlusion": occlusion(score, xs),
}
figure = Figure(figsize=(8, 5), layout="constrained")
axes = figure.subplots(4, 1, sharex=True)
axes[0].stem(np.asarray(xs[:, 0]), linefmt="#6B7480", markerfmt=" ", basefmt=" ")
axes[0].set_ylabel("pulse")
finish(axes[0], "Pulses on channel 0; what the last answer owes to each step")
for ax, (name, values), colour in zip(axes[1:], asked.items(), PALETTE, strict=False):
    ax.bar(np.arange(len(xs)), np.asarray(values), color=colour)
    ax.set_ylabel(name.replace(" ", "\n", 1), fontsize=8)
    finish(ax, "")
axes[-1].set_xlabel("step")
print(
    f"integrated gradients add up to {shares.sum():+.3f}, the answer minus that of silence is {score(xs) - silent:+.3f}"
)
print(f"last flip at step {last[row]}, largest share at step {int(np.abs(shares).argmax())}")
figure

# %% [markdown]
# ## Which unit counts what
#
# Another network, another task: read random brackets and say, at every step, how many are open. `unit_features`
# correlates all units with all features you can think of, in one call.


# %%
def brackets(key, num_steps=40, batch_size=64):
    """One-hot "(" and ")" [T, B, 2], and how many are open [T, B], never below 0."""
    coins = jax.random.bernoulli(key, 0.5, (num_steps, batch_size))

    def read(depth, opens):
        opens = opens | (depth == 0)
        depth = depth + jnp.where(opens, 1, -1)
        return depth, (opens, depth)

    opens, depth = jax.lax.scan(read, jnp.zeros(batch_size, int), coins)[1]
    return jax.nn.one_hot(opens.astype(int), 2), depth.astype(float)


counter = stack(gru(UNITS // 2), dense(1))


def counting_loss(params, batch, *, key, step):
    xs, depth = brackets(key)
    return jnp.square(unroll(counter, params, xs)[1][..., 0] - depth / 5).mean(), {}


state = create_state(counter.init(jax.random.key(3), 2), tx, jax.random.key(4))
train_step = make_train_step(counting_loss, tx)
for _ in range(STEPS):
    state, metrics = train_step(state, ())
xs, depth = brackets(jax.random.key(5))
_, ys, carries = unroll_carries(counter, state.params, xs)
units = np.asarray(carries[0]).reshape(-1, UNITS // 2)
features = {
    "open brackets": depth,
    "just opened": xs[..., 1],
    "step": np.broadcast_to(np.arange(len(xs))[:, None], depth.shape),
    "exactly one open": depth == 1,
}
table = unit_features(units, np.stack([np.asarray(values, float).ravel() for values in features.values()], 1))
best = int(np.abs(table[:, 0]).argmax())
print(f"depth is wrong by {5 * np.sqrt(metrics['loss'].total):.2f} brackets (rms)")
for number, name in enumerate(features):
    unit = int(np.abs(table[:, number]).argmax())
    print(f"{name}: unit {unit}, correlation {table[unit, number]:+.2f}")
figure = Figure(figsize=(9, 3.6), layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
image = left.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
left.set_xticks(range(len(features)), features, rotation=30, ha="right")
left.set_ylabel("unit")
figure.colorbar(image, ax=left, label="correlation")
finish(left, "Units and features")
right.step(np.arange(len(xs)), depth[:, 0], color=PALETTE[5], where="mid", label="open brackets")
right.set(xlabel="step", ylabel="open brackets")
twin = right.twinx()
twin.plot(np.asarray(carries[0])[:, 0, best], color=PALETTE[0], label=f"unit {best} (right axis)")
twin.set_ylabel(f"unit {best}", color=PALETTE[0])
finish(right, f"The unit that counts: correlation {table[best, 0]:+.2f}")
twin.spines["top"].set_visible(False)
figure

# %% [markdown]
# ## What to try next
#
# - Three bits: `num_bits=3` makes a cube of 27 points; `fixed_point_map` in `rnn_jax.plotting` draws it, and `python
#   -m experiments.flip_flop` checks three networks of each size.
# - Does a GRU solve it in the same way? `stack(gru(UNITS), dense(2))`, and everything below stays as it is.
# - `extract_automaton` turns a network that accepts or rejects strings into a finite automaton, and proves them
#   equal: `python -m experiments.formal_languages`. All instruments: [looking inside](../docs/analysis.md).
