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
# # Memory and initialisation
#
# How far back a network can learn to look is decided to a good part before its first training step. This notebook
# measures that: how long gates keep, how fast a first state is forgotten, where in the plane of two settings memory
# lies, and what the bias of one gate does to training. It runs in about a minute.

# %%
# %matplotlib inline
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import as_cell, dense, elman, gru, learned_carry, lru, lstm, stack, unroll
from rnn_jax.analysis import (
    forgetting,
    gate_values,
    memory_steps,
    sweep,
    with_forget_bias,
    with_gain,
    with_spectral_radius,
)
from rnn_jax.initializers import chrono, forget_bias, normal
from rnn_jax.metrics import mean_value, tally
from rnn_jax.plotting import named_curves, sweep_map
from rnn_jax.training import create_states, make_train_steps

SMALL = "RNN_JAX_SMALL" in os.environ  # continuous integration runs every notebook in small size
UNITS, LENGTH, SEEDS, STEPS = (4, 10, 1, 3) if SMALL else (32, 100, 3, 600)

# %% [markdown]
# ## What a forget bias promises
#
# An LSTM keeps `f` of its memory at each step, so after tau = -1 / ln f steps 1/e of it is left. At the start of
# training `f` is about the sigmoid of its bias: 0.5 at bias 0, 0.73 at bias 1. `chrono(t)` draws the biases such that
# the memory times spread up to `t` steps. `gate_values` runs a cell and gives its gates, `memory_steps` the times.

# %%
xs = jax.random.normal(jax.random.key(0), (LENGTH, 8, 2))
biases = {"0": forget_bias(0.0), "1": forget_bias(1.0), "3": forget_bias(3.0), "chrono(100)": chrono(100.0)}
times = {}
for name, bias_init in biases.items():
    cell = lstm(UNITS, bias_init=bias_init)
    gates = gate_values(cell, cell.init(jax.random.key(1), 2), xs)
    times[name] = np.sort(memory_steps(gates["f"]))
    least, median, most = (times[name][k] for k in (0, UNITS // 2, -1))
    print(f"{name:>11}: memory of {least:.1f} to {most:.1f} steps, median {median:.1f}")
ax = named_curves(
    {name: (np.arange(1, UNITS + 1), row) for name, row in times.items()},
    xlabel="unit, shortest memory first",
    ylabel="memory, steps",
    title="LSTM at its initial weights, by forget bias",
    log=True,
)
ax.figure

# %% [markdown]
# A constant bias gives every unit the same memory; chrono gives short and long ones together, which is what
# a task of unknown range asks for.
#
# ## How fast is the first state forgotten?
#
# Run one network from two first states under the same inputs. The distance between the two runs is what is left of the
# start: `forgetting`. Where it is gone, no gradient can come from there either.


# %%
def left(cell, params, key, num_steps=LENGTH):
    """[T + 1], what is left of the difference between a random first state and zero."""
    cell = cell if hasattr(cell, "step") else as_cell(cell)
    xs = 0.5 * jax.random.normal(key, (num_steps, 2))

    def step(carry, x):
        return cell.step(params, carry, cell.project(params, x))[0]

    zero = cell.init_carry(params)
    other = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype), zero)
    distances = forgetting(step, zero, other, xs)
    return distances / distances[0]


cells = {
    "elman, normal": elman(UNITS, recurrent_init=normal(0.7 * UNITS**-0.5)),
    "elman, orthogonal": elman(UNITS),
    "GRU": gru(UNITS),
    "LSTM, bias 1": lstm(UNITS),
    "LSTM, chrono(100)": lstm(UNITS, bias_init=chrono(100.0)),
    "LRU, ring 0.9 to 1": lru(UNITS, r_min=0.9, r_max=1.0),
}
curves = {}
for name in list(cells)[-2:] if SMALL else cells:
    cell = cells[name]
    curve = jax.jit(lambda key, cell=cell: left(cell, cell.init(key, 2), key))
    curves[name] = (np.arange(LENGTH + 1), np.maximum(curve(jax.random.key(2)), 1e-7))
    print(f"{name:>18}: {curves[name][1][LENGTH // 2]:.1e} left after {LENGTH // 2} steps")
ax = named_curves(
    curves, xlabel="step", ylabel="distance, part of the first", title="What is left of the start", log=True
)
ax.figure

# %% [markdown]
# The plain networks and the GRU are at the rounding of float32 within some 50 steps (the floor near 1e-6). An
# orthogonal kernel alone would keep everything; the tanh and the inputs take it away, but more slowly than from a
# small random kernel. Chrono and the LRU, whose eigenvalues start on a ring near 1, keep a third or more.
#
# ## The map of an LSTM
#
# Two settings decide together: the forget bias and the size of the recurrent kernel. `sweep` takes one measurement at
# every combination with several seeds, in one compiled program: values are traced, so `with_forget_bias` and
# `with_gain` put them into parameters without a new compilation.

# %%
BIASES, GAINS = (
    ((0.0, 3.0), (0.5, 2.0)) if SMALL else ((-1.0, 0.0, 1.0, 2.0, 3.0, 4.0), (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0))
)
cell = lstm(UNITS)


def kept(key, bias, gain):
    params = with_gain(with_forget_bias(cell.init(key, 2), bias), gain)
    return left(cell, params, key)[LENGTH // 2]


found = sweep(kept, jax.random.key(3), seeds=SEEDS, bias=BIASES, gain=GAINS).results  # [bias, gain, seed]
middle = np.maximum(np.median(found, -1), 1e-8)
ax = sweep_map(
    middle,
    ("forget bias", BIASES),
    ("gain of the recurrent kernel", GAINS),
    label=f"left after {LENGTH // 2} steps",
    log=True,
)
for bias, row in zip(BIASES, middle, strict=True):
    print(f"bias {bias:+.0f}: " + ", ".join(f"{value:.1e}" for value in row))
ax.figure

# %% [markdown]
# Below left the start is gone, above right the number exceeds 1: a small difference has grown, which is chaos and no
# memory either, since nothing can be read off what grows from everything. Useful starts lie on the diagonal band
# where about 1 is left. The default (bias 1, gain 1) lies on its forgetful side; at gain 0 only the forget gate acts.
#
# ## The map of a plain network
#
# A plain tanh network has one such setting, the spectral radius of its kernel, and the size of its inputs counts too.

# %%
RADII, INPUTS = ((0.8, 1.5), (0.0, 1.0)) if SMALL else ((0.7, 0.9, 1.0, 1.1, 1.3, 1.6, 2.0), (0.0, 0.1, 0.3, 1.0, 3.0))
plain = elman(UNITS, recurrent_init=normal(UNITS**-0.5))


def kept_by_radius(key, radius, size):
    params = with_spectral_radius(plain.init(key, 2), radius)
    return left(plain, params._replace(w_x=2 * size * params.w_x), key)[LENGTH // 2]  # inputs have deviation 0.5


found = sweep(kept_by_radius, jax.random.key(4), seeds=SEEDS, radius=RADII, size=INPUTS).results
middle = np.maximum(np.median(found, -1), 1e-8)
ax = sweep_map(
    middle,
    ("spectral radius", RADII),
    ("deviation of the inputs", INPUTS),
    label=f"left after {LENGTH // 2} steps",
    log=True,
)
for radius, row in zip(RADII, middle, strict=True):
    print(f"radius {radius:.1f}: " + ", ".join(f"{value:.1e}" for value in row))
ax.figure

# %% [markdown]
# Without inputs the border is at a radius of 1. Inputs push the tanh to where it is flat, so the border moves up: with
# inputs of 1 it lies near a radius of 2, with inputs of 3 every start here is forgotten. "Spectral radius 1" says
# nothing without the size of the inputs. (Values below 1e-6 are rounding.)
#
# ## A first state that is learned
#
# `learned_carry` makes the first state a parameter. A loss at step t can teach it only as long as the network
# remembers: here is the size of that gradient by t.


# %%
def carry_gradient(cell, t):
    cell = learned_carry(cell)

    def loss(params, xs):
        return jnp.square(unroll(cell, params, xs)[1][-1]).sum()

    gradient = jax.jit(jax.grad(loss))(cell.init(jax.random.key(5), 2), xs[:t]).carry
    return float(optax.global_norm(gradient))


distances = (1, 10) if SMALL else (1, 5, 10, 20, 40, 80)
sizes = {
    name: (distances, [carry_gradient(lstm(UNITS, bias_init=bias_init), t) for t in distances])
    for name, bias_init in list(biases.items())[:: 3 if SMALL else 1]
}
for name, (_, row) in sizes.items():
    print(f"{name:>11}: {row[-1] / row[0]:.1e} of the gradient is left at step {distances[-1]}")
named_curves(sizes, xlabel="step of the loss", ylabel="gradient of the first state, norm", log=True).figure

# %% [markdown]
# With bias 0 the gradient is gone, with bias 1 it is about ten million times smaller after 80 steps; with bias 3 and
# chrono it is as large as at the start.
#
# ## Does it matter for training?
#
# The shortest copy task: a number in [0, 1] is marked at step 0, random numbers follow, and after the last step the
# network is to say the marked one. Who always says 0.5 has an error of 1/12. The same LSTM learns with bias 0 and with
# chrono; all runs and seeds train in one program.


# %%
def reader(bias_init):
    return stack(lstm(UNITS, bias_init=bias_init), dense(1))


def loss_fn(params, batch, *, key, step):
    _, numbers = batch  # [T, B]
    xs = jnp.stack([numbers, jnp.zeros_like(numbers).at[0].set(1)], -1)
    error = jnp.square(unroll(reader(forget_bias(0.0)), params, xs)[1][-1, :, 0] - numbers[0])
    return error.mean(), {"error": tally(error, jnp.ones_like(error))}


told = {"bias 0": forget_bias(0.0), "chrono": chrono(float(LENGTH))}
keys = jax.random.split(jax.random.key(6), min(SEEDS, 2))
tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
begun = [create_states(partial(reader(init).init, input_size=2), tx, keys) for init in told.values()]
states = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *begun)  # biases are parameters: one program trains both
settings, train_steps, errors = jnp.zeros(len(told) * len(keys)), make_train_steps(loss_fn, tx), []
for number in range(STEPS):
    numbers = jax.random.uniform(jax.random.key(100 + number), (LENGTH, 32))
    states, metrics = train_steps(states, settings, numbers)
    errors.append(mean_value(metrics["error"]))
errors = np.array(errors).T.reshape(len(told), len(keys), STEPS)
window = max(STEPS // 30, 1)
smooth = np.apply_along_axis(lambda row: np.convolve(row, np.ones(window) / window, "valid"), -1, errors)
for name, rows in zip(told, smooth, strict=True):
    print(f"{name}: error at the end", ", ".join(f"{row[-1]:.4f}" for row in rows))
named_curves(
    {name: (window + np.arange(rows.shape[-1]), rows) for name, rows in zip(told, smooth, strict=True)},
    xlabel="training step",
    ylabel="squared error",
    title=f"Saying a number {LENGTH} steps later",
    lines={"always 0.5": 1 / 12},
    log=True,
).figure

# %% [markdown]
# Both runs with bias 0 stay where one says 0.5 whatever one heard: the gradient of the marked number does not reach
# them. Both runs with chrono sit there too for some 250 steps, then leave it within a hundred. The cell, the optimizer
# and the batches are the same; only the first biases differ.
#
# ## What to try next
#
# - Give chrono the wrong time: `chrono(10.0)` and `chrono(1000.0)` for the same 100 steps. Which error is the dearer?
# - Swap the GRU into the map of the forget bias (its gate that keeps is z), and compare the corners.
# - `python -m experiments.adding_problem` asks ten networks, three seeds each, to remember two numbers and add them;
#   `python -m experiments.initialisation` takes the maps to all cells.
