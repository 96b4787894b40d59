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
# # Your own cell, your own experiment
#
# A cell is a NamedTuple of pure functions, three of which are needed. This notebook writes one that the package does
# not have, and then takes what comes with it for nothing: mixed lengths, streaming, stacks, both directions,
# gradients, training, Newton's method over time, and every instrument. At the end stands an experiment of one small
# file.

# %%
# %matplotlib inline
import os
import subprocess
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.test_util import check_grads

from rnn_jax import (
    Cell,
    Newton,
    bidirectional,
    dense,
    elman,
    gru,
    init_report,
    residual,
    stack,
    stream_step,
    unroll,
    unroll_newton,
)
from rnn_jax.initializers import lecun_normal, orthogonal
from rnn_jax.plotting import named_curves
from rnn_jax.training import create_state, make_train_step

SMALL = "RNN_JAX_SMALL" in os.environ  # continuous integration runs every notebook in small size
UNITS, LENGTH, STEPS = (8, 10, 3) if SMALL else (64, 50, 1500)

# %% [markdown]
# ## The equations, then the code
#
# The update gate network (Collins, Sohl-Dickstein & Sussillo 2017) is an Elman network with one gate that decides how
# much of the old state stays:
#
#     u  = sigmoid(x W_xu + h W_hu + b_u)
#     c  = tanh(x W_xc + h W_hc + b_c)
#     h' = u h + (1 - u) c
#
# `init` makes the parameters, `init_carry` the carry to start from, `step` takes one step: that is a whole cell. What
# needs no carry goes into `project`, which is done for all steps at once, so that only the recurrence is left in the
# loop.


# %%
class UGRNNParams(NamedTuple):
    w_x: jax.Array  # [I, 2 H], u then c
    w_h: jax.Array  # [H, 2 H]
    b: jax.Array  # [2 H]


@cache  # equal arguments give the same cell, so that what was compiled for it is used again
def ugrnn(hidden_size, *, keep_bias=1.0):
    """Collins et al. 2017, arXiv:1611.09913. Carry and output are h [B, H]."""

    def init(key, input_size):
        keys = jax.random.split(key, 4)
        inputs = [lecun_normal(one, (input_size, hidden_size)) for one in keys[:2]]
        recurrent = [orthogonal(one, (hidden_size, hidden_size)) for one in keys[2:]]
        b = jnp.concatenate([jnp.full(hidden_size, keep_bias), jnp.zeros(hidden_size)])
        return UGRNNParams(jnp.concatenate(inputs, 1), jnp.concatenate(recurrent, 1), b)

    def init_carry(params, batch_shape=()):
        return jnp.zeros((*batch_shape, hidden_size), params.b.dtype)

    def project(params, xs):
        return xs @ params.w_x + params.b

    def step(params, h, z):
        u, c = jnp.split(z + h @ params.w_h, 2, axis=-1)
        u = jax.nn.sigmoid(u)
        h = u * h + (1 - u) * jnp.tanh(c)
        return h, h

    return Cell(init=init, init_carry=init_carry, step=step, project=project)


cell = ugrnn(UNITS)
params = cell.init(jax.random.key(0), 3)
print({name: leaf.shape for name, leaf in params._asdict().items()})

# %% [markdown]
# ## Against something slow and obvious
#
# The first test of a cell is a loop in NumPy, written from the equations and not from the code. On random numbers,
# never on zeros or ones, where mistakes hide.


# %%
def ugrnn_loop(params, xs):
    w_x, w_h, b = (np.asarray(leaf, np.float64) for leaf in params)
    size, hs = len(w_h), []
    h = np.zeros(size)
    for x in np.asarray(xs, np.float64):
        u = 1 / (1 + np.exp(-(x @ w_x[:, :size] + h @ w_h[:, :size] + b[:size])))
        c = np.tanh(x @ w_x[:, size:] + h @ w_h[:, size:] + b[size:])
        h = u * h + (1 - u) * c
        hs.append(h)
    return np.array(hs)


xs = jax.random.normal(jax.random.key(1), (20, 4, 3))  # [T, B, I]
last, ys = unroll(cell, params, xs)
print(f"from the loop: {np.abs(np.asarray(ys[:, 2]) - ugrnn_loop(params, xs[:, 2])).max():.1e}")

# %% [markdown]
# ## What comes with it
#
# Mixed lengths (padding, NaN included, changes nothing), and the same numbers a step at a time.

# %%
lengths = jnp.array([20, 13, 1, 0])
padded = jnp.where(jnp.arange(20)[:, None, None] < lengths[:, None], xs, jnp.nan)
_, ragged = unroll(cell, params, padded, lengths=lengths)
print(
    f"row 1, which has 13 steps: {jnp.abs(ragged[:13, 1] - ys[:13, 1]).max():.1e}; finite: {jnp.isfinite(ragged).all()}"
)

step = jax.jit(partial(stream_step, cell, params))
carry, streamed = cell.init_carry(params, (4,)), []
for x in xs:
    carry, y = step(carry, x)
    streamed.append(y)
print(f"streamed: {jnp.abs(jnp.stack(streamed) - ys).max():.1e}")

# %% [markdown]
# It is a layer like any other: in a stack, with a residual around it, in both directions.

# %%
deep = stack(ugrnn(UNITS), residual(ugrnn(UNITS)), gru(5))
print("stack:", unroll(deep, deep.init(jax.random.key(2), 3), xs)[1].shape)
both = bidirectional(ugrnn(UNITS), ugrnn(UNITS))
print("both ways:", both.apply(both.init(jax.random.key(3), 3), xs, lengths=lengths)[1].shape)

# %% [markdown]
# The gradient is checked against finite differences, in float64; and `init_report` says, before any training, how
# long it remembers: a bias of the gate is a time.

# %%
with jax.enable_x64(True):
    tiny = ugrnn(4)
    wide = jax.tree.map(lambda leaf: leaf.astype(float), tiny.init(jax.random.key(4), 3))
    inputs = jax.random.normal(jax.random.key(5), (6, 2, 3), float)
    outputs = jax.jit(lambda params: unroll(tiny, params, inputs)[1])
    check_grads(outputs, (wide,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)
print("gradients agree with finite differences to 1e-6")
for bias in (0.0, 1.0, 3.0):
    memory = init_report(cell, ugrnn(UNITS, keep_bias=bias).init(jax.random.key(6), 3)).memory
    print(f"keep_bias {bias:g}: memory {memory[1]:.1f} steps (median), {memory[2]:.0f} at most")

# %% [markdown]
# ## All steps at once
#
# Newton's method over time (notebook 8) asks nothing of a cell but its step: it takes the Jacobians itself.

# %%
num_steps = 50 if SMALL else 2000
long = jax.random.normal(jax.random.key(7), (num_steps, 1, 3))
small = ugrnn(8)
weights = small.init(jax.random.key(8), 3)
*_, by_newton, info = jax.jit(lambda xs: unroll_newton(small, weights, xs, method=Newton()))(long)
difference = jnp.abs(by_newton - unroll(small, weights, long)[1]).max()
print(f"{num_steps} steps in {info.iterations[0]} iterations, {difference:.1e} from the loop")

# %% [markdown]
# ## Does it learn?
#
# The adding problem: each step has a number and a mark, two steps are marked, and after the last one the network must
# say the sum of the two marked numbers. Who always says 1 has an error of 1/6. Beside it: the network without a gate,
# and one with two gates.


# %%
def adding(key, batch_size=32):
    """Sequences [T, B, 2], and the sums [B]."""
    keys = jax.random.split(key, 3)
    numbers = jax.random.uniform(keys[0], (LENGTH, batch_size))
    half = LENGTH // 2
    first = jax.random.randint(keys[1], (batch_size,), 0, half)
    second = jax.random.randint(keys[2], (batch_size,), half, LENGTH)
    marks = (jax.nn.one_hot(first, LENGTH) + jax.nn.one_hot(second, LENGTH)).T
    return jnp.stack([numbers, marks], -1), (numbers * marks).sum(0)


def learn(cell):
    network = stack(cell, dense(1))

    def loss_fn(params, batch, *, key, step):
        xs, sums = adding(key)
        return jnp.square(unroll(network, params, xs)[1][-1, :, 0] - sums).mean(), {}

    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    state = create_state(network.init(jax.random.key(9), 2), tx, jax.random.key(10))
    train_step, losses = make_train_step(loss_fn, tx), []
    for _ in range(STEPS):
        state, metrics = train_step(state, ())
        losses.append(metrics["loss"].total)
    return np.asarray(losses)


curves, window = {}, max(STEPS // 30, 1)
for name, one in {"tanh": elman(UNITS), "UGRNN": ugrnn(UNITS), "GRU": gru(UNITS)}.items():
    smooth = np.convolve(learn(one), np.ones(window) / window, "valid")
    curves[name] = (window + np.arange(len(smooth)), smooth)
    print(f"{name}: {smooth[-1]:.4f}")
ax = named_curves(
    curves,
    xlabel="training step",
    ylabel="mean squared error",
    title=f"Adding two numbers of {LENGTH}",
    log=True,
    lines={"always 1": 1 / 6},
)
ax.figure

# %% [markdown]
# One gate is enough to add. Without any the network does not begin to learn.
#
# ## An experiment is one small file
#
# A docstring that asks a question, a frozen dataclass with every default, a tiny one for tests, claims that a machine
# can check, and `run(config, run_dir) -> metrics`. `main` does the rest: flags for all fields, a run directory that
# describes itself, `--smoke`, `--resume`, and the claims held against the result.

# %%
SOURCE = '''"""For how long does an LSTM hold one bit?

A bit comes at the first step, then noise; at the last step the network says it.

    python holding_a_bit.py
    python holding_a_bit.py --length 200
"""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from experiments.claims import at_least
from experiments.cli import main
from rnn_jax import dense, lstm, stack, unroll
from rnn_jax.metrics import tally
from rnn_jax.training import create_state, fit, make_train_step, open_checkpoints, run_logger

CLAIMS = (at_least("accuracy", 0.99, source="a bit is not much", when={"length": 50}),)


@dataclass(frozen=True)
class Config:
    """Solved in seconds."""

    length: int = 50
    hidden_size: int = 32
    num_steps: int = 600
    seed: int = 0


SMOKE = Config(length=5, hidden_size=4, num_steps=2)


def run(config, run_dir):
    """Trains, and judges on new sequences."""
    cell, tx = stack(lstm(config.hidden_size), dense(1)), optax.adam(3e-3)

    def loss_fn(params, batch, *, key, step):
        bit_key, noise_key = jax.random.split(key)
        bits = jax.random.bernoulli(bit_key, shape=(128,)).astype(float)
        xs = 0.3 * jax.random.normal(noise_key, (config.length, 128, 1)).at[0, :, 0].set((2 * bits - 1) / 0.3)
        logits = unroll(cell, params, xs)[1][-1, :, 0]
        accuracy = tally((logits > 0) == (bits > 0.5), jnp.ones(128))
        return optax.sigmoid_binary_cross_entropy(logits, bits).mean(), {"accuracy": accuracy}

    state = create_state(cell.init(jax.random.key(config.seed), 1), tx, jax.random.key(config.seed + 1))
    with run_logger(run_dir) as log, open_checkpoints(run_dir) as checkpoints:
        state, info = fit(
            state, make_train_step(loss_fn, tx), itertools.repeat(()), num_steps=config.num_steps, log=log,
            checkpoints=checkpoints,
        )
    _, metrics = loss_fn(state.params, (), key=jax.random.key(99), step=0)
    return {"accuracy": float(metrics["accuracy"].total / metrics["accuracy"].count)}


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
'''
folder = Path(tempfile.mkdtemp())
(folder / "holding_a_bit.py").write_text(SOURCE, encoding="utf-8")
command = [sys.executable, "holding_a_bit.py", *(["--smoke"] if SMALL else [])]
plain = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}  # a notebook asks for colours
done = subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, check=True)
print(done.stdout)
print(*sorted(path.name for path in next((folder / "runs").glob("*/*")).iterdir()))

# %% [markdown]
# ## What to try next
#
# - Put `ugrnn` into the package: copy `rnn_jax/cells/_template.py`, add a row to `CELLS` and your NumPy loop to
#   `tests/oracles.py`, and some hundred property tests run over it: `pytest tests/cells tests/unroll -k ugrnn`.
#   [CONTRIBUTING](../CONTRIBUTING.md) has the four steps. The template's helpers add what this one lacks: carries
#   that stay float32 under bfloat16, dropout on the recurrent kernel.
# - A recurrence of the form `h' = a h + b` returns a `LinearCell` and runs in parallel over time: `min_gru.py` is the
#   one to copy.
# - An experiment with a picture, a report and published numbers beside it: `python -m experiments` lists them all;
#   `experiments/bach_chorales.py` is the one to copy.
