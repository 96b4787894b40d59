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
# # Teacher forcing
#
# A network that writes a sequence reads what came before. While it trains that can be the truth (*teacher forcing*),
# what it wrote itself (*free running*), or a mixture. Used alone, it has only itself. This notebook trains the same
# small generator under several mixtures, all in one compiled program, and measures what each does when it is left
# alone. It runs in about a minute.

# %%
# %matplotlib inline
import os
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from rnn_jax import dense, forced_unroll, forcing_mask, gru, stack
from rnn_jax.exposure import exposure_report, exposure_rows, vector_scores
from rnn_jax.forcing import SCHEDULES, forcing_schedule, identity, sparse_forcing_mask
from rnn_jax.plotting import exposure_curves, finish, named_curves
from rnn_jax.training import create_states, make_train_steps

SMALL = "RNN_JAX_SMALL" in os.environ  # continuous integration runs every notebook in small size
UNITS, LENGTH, WARM_UP, STEPS, BATCH, SEEDS = (4, 12, 4, 3, 4, 1) if SMALL else (32, 80, 20, 800, 32, 2)

# %% [markdown]
# ## A noisy wave
#
# Every sequence is a sine with a frequency and a phase of its own, read through noise of 0.05. The first 20 steps are
# always given: there the network must find frequency and phase. From then on it predicts.


# %%
def waves(key, num_steps=LENGTH, number=BATCH):
    """Noisy and clean waves, each [T, B, 1]."""
    keys = jax.random.split(key, 3)
    frequency = jax.random.uniform(keys[0], (number,), minval=0.2, maxval=0.6)
    phase = jax.random.uniform(keys[1], (number,), maxval=2 * jnp.pi)
    clean = jnp.sin(frequency * jnp.arange(num_steps)[:, None] + phase)[..., None]
    return clean + 0.05 * jax.random.normal(keys[2], clean.shape), clean


noisy, clean = waves(jax.random.key(0))
steps = np.arange(LENGTH)
named_curves(
    {"what is read": (steps, noisy[:, 0, 0]), "without noise": (steps, clean[:, 0, 0])},
    xlabel="step",
    ylabel="value",
    title="One sequence",
).figure

# %% [markdown]
# ## Forcing is an array
#
# `forced_unroll` mixes at every step: `x = mask * truth + (1 - mask) * feedback(y)`. There is no mode to choose. Ones
# are teacher forcing, zeros free running, coins are scheduled sampling, a 1 every few steps is sparse forcing, and a
# constant in between is generalized forcing. Here they are for 12 steps of one sequence.

# %%
cell = stack(gru(UNITS), dense(1))
masks = {
    "teacher forcing": jnp.ones((12, 1)),
    "free running": jnp.zeros((12, 1)),
    "coins, rate 0.5": forcing_mask(jax.random.key(1), 0.5, 12, (1,)),
    "every 4 steps": sparse_forcing_mask(4, 12),
    "constant 0.3": jnp.full((12, 1), 0.3, jnp.float32),
}
for name, mask in masks.items():
    print(f"{name:>16}: " + " ".join(f"{weight:g}" for weight in mask[:, 0].round(1)))

# %% [markdown]
# ## One program for all of them
#
# The mask is data, so a new one needs no new program. Python runs a function under `jax.jit` only while it is being
# compiled; counting how often that happens counts the compilations. Every other call is as fast as the last.

# %%
compilations = []


@jax.jit
def predict(params, xs, mask):
    compilations.append(xs.shape)
    return forced_unroll(cell, params, xs, mask, start=jnp.zeros(1), feedback=identity)[1]


params, xs = cell.init(jax.random.key(2), 1), noisy[:12]
for name, mask in masks.items():
    start = perf_counter()
    ys = jax.block_until_ready(predict(params, xs, mask))
    print(f"{name:>16}: {1e3 * (perf_counter() - start):7.1f} ms, last output {ys[-1, 0, 0]:+.4f}")
print("compilations:", len(compilations))

# %% [markdown]
# The outputs differ, the program does not; all the time of the first call is compilation.
#
# ## Schedules
#
# Scheduled sampling (Bengio et al. 2015) begins with the truth and takes it away. `forcing_schedule` is a function of
# the step number, which may be traced like everything else.

# %%
curves = {kind: (range(101), [forcing_schedule(kind, 100)(i) for i in range(101)]) for kind in SCHEDULES}
named_curves(curves, xlabel="training step", ylabel="rate of the truth", title="Schedules over 100 steps").figure

# %% [markdown]
# ## Four ways to train, side by side
#
# `make_train_steps` trains many runs in one program; each has a setting of its own, here the rates at which its
# forcing starts and ends. The gradient goes through what is fed back. All see the same batches.

# %%
SETTINGS = {"truth": (1.0, 1.0), "truth, then own": (1.0, 0.0), "half and half": (0.5, 0.5), "own": (0.0, 0.0)}
schedule = forcing_schedule("linear", max(STEPS * 3 // 4, 1))
given = jnp.arange(LENGTH)[:, None] < WARM_UP
traces = []


def loss_fn(params, batch, *, key, step):
    traces.append(1)
    (first, last), xs = batch
    rate = last + (first - last) * schedule(step)
    mask = jnp.where(given, 1.0, forcing_mask(key, rate, len(xs), xs.shape[1:-1]))
    ys = forced_unroll(cell, params, xs, mask, start=jnp.zeros(1), feedback=identity)[1]
    return jnp.square(ys - xs).mean(), {}


tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, STEPS, alpha=0.01)))
seeds = jax.random.split(jax.random.key(3), SEEDS)
states = create_states(lambda key: cell.init(key, 1), tx, jnp.tile(seeds, len(SETTINGS)))
settings = tuple(jnp.repeat(jnp.array(list(SETTINGS.values())), SEEDS, axis=0).T)
train_steps, start = make_train_steps(loss_fn, tx), perf_counter()
for number in range(STEPS):
    states, _ = train_steps(states, settings, waves(jax.random.key(100 + number))[0])
jax.block_until_ready(states)
print(f"{len(SETTINGS)} settings, {SEEDS} seeds, {STEPS} steps: {perf_counter() - start:.0f} s")
print("the loss was traced", len(traces), "time(s)")

# %% [markdown]
# ## Exposure bias
#
# `exposure_report` judges a trained generator under less and less truth. Its score here is the squared distance to
# the wave *without* noise, over sequences twice as long as those of training. The gap between reading the truth (1) and
# reading only oneself (0) is the exposure bias.

# %%
RATES = (1.0, 0.0) if SMALL else (1.0, 0.75, 0.5, 0.25, 0.0)
test = [waves(jax.random.key(n), 2 * LENGTH, 4 * BATCH) for n in (1, 2)]


def score(batch, rate, key):
    params, noisy, clean = batch
    coins = forcing_mask(key, rate, len(noisy), noisy.shape[1:-1])
    mask = jnp.where(jnp.arange(len(noisy))[:, None] < WARM_UP, 1.0, coins)
    ys = forced_unroll(cell, params, noisy, mask, start=jnp.zeros(1), feedback=identity)[1]
    return vector_scores(ys, clean, tolerance=0.3)


def judge(params):
    return exposure_report(score, [(params, *batch) for batch in test], jax.random.key(4), rates=RATES)


reports = {
    name: [judge(jax.tree.map(lambda leaf, n=number * SEEDS + seed: leaf[n], states.params)) for seed in range(SEEDS)]
    for number, name in enumerate(SETTINGS)
}
for name, found in reports.items():
    print(f"trained on {name}:")
    for report in found:
        print("   loss " + ", ".join(f"{row['loss']:.4f} at {row['forcing']:g}" for row in exposure_rows(report)))

# %% [markdown]
# All four are good while they read the truth, and one true step in four is enough to stay good. Reading only
# themselves, they are 20 to 50 times as far off. That is exposure bias, and here no way to train removes it: who
# trained on its own output has a smaller *ratio* only because it is worse with the truth. Two seeds of one setting
# differ as much as the settings do.
#
# ## Where the error comes from
#
# The same by position, left and right for the two extremes. The first steps are bad at any rate, since frequency and
# phase are not known yet; then all curves are low, and from step 20 on the one without truth leaves the others and
# grows, also beyond the 80 steps of training.

# %%
figure = Figure(figsize=(10, 3.8), layout="constrained")
for ax, name in zip(figure.subplots(1, 2, sharey=True), ("truth", "own"), strict=True):
    report = reports[name][0]
    exposure_curves(report.rates, report.loss_by_position, ylabel="squared error", ax=ax)
    finish(ax, f"trained on {name}")
figure

# %% [markdown]
# A squared error does not say what went wrong. The waves do: form and size stay right, the frequency is a little off,
# and the phase runs away. A small error in what was heard during 20 noisy steps adds up, and nothing corrects it.

# %%
free = jnp.where(jnp.arange(2 * LENGTH) < WARM_UP, 1.0, 0.0)
noisy, clean = test[0]
written = {"the wave": (np.arange(2 * LENGTH), clean[:, 0, 0])}
for number, name in enumerate(SETTINGS):
    if name in ("truth", "own"):
        params = jax.tree.map(lambda leaf, n=number * SEEDS: leaf[n], states.params)
        written[f"trained on {name}"] = (np.arange(2 * LENGTH), predict(params, noisy, free)[:, 0, 0])
named_curves(written, xlabel="step", ylabel="value", title=f"Alone from step {WARM_UP} on").figure

# %% [markdown]
# ## What to try next
#
# - Cut the gradient through what is fed back: `feedback=detached(identity)`, the scheduled sampling of the paper. Which
#   settings lose by it?
# - Use `sparse_forcing_mask(interval, LENGTH)` in `loss_fn` and make the interval the setting. Which interval is best?
# - Chaos changes the answer: `python -m experiments.forcing_lorenz` forces the state of a network that learns Lorenz
#   63 and finds a best strength between none and full. `python -m experiments.scheduled_sampling_critique` shows on one
#   bit what scheduled sampling learns that the data does not say.
