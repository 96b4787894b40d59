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
# # Breaking the loop over time
#
# A recurrent network takes T steps, one after the other: that is O(T) however many cores wait. Two ideas take all
# steps at once and give the same numbers. If the step is linear, steps can be composed before any state is known. If
# it is not, Newton's method solves for all states together. Here are both, what they cost on this machine, and why
# chaos forbids the second.

# %%
# %matplotlib inline
import os
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from rnn_jax import (
    Associative,
    Chunked,
    Newton,
    Recursive,
    Scan,
    elman,
    gru,
    min_gru,
    unroll,
    unroll_carries,
    unroll_newton,
)
from rnn_jax.analysis import lyapunov_spectrum, sweep, with_gain
from rnn_jax.initializers import normal
from rnn_jax.plotting import PALETTE, finish, named_curves, new_axes

SMALL = "RNN_JAX_SMALL" in os.environ  # continuous integration runs every notebook in small size
UNITS, LENGTHS = (4, (50,)) if SMALL else (32, (1_000, 4_000, 16_000))
STEPS, ITERATIONS, GAINS, SEEDS = (
    (40, 4, (0.5, 2.0), 1) if SMALL else (300, 40, (0.5, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0), 3)
)

# %% [markdown]
# ## Linear steps compose
#
# Two steps of `h' = a h + b` are one step of the same kind: `a2 (a1 h + b1) + b2 = (a2 a1) h + (a2 b1 + b2)`. So
# pairs of steps can be joined, then pairs of pairs: after log2 T rounds every state is known, and each round is one
# operation over the whole sequence. `jax.lax.associative_scan` does that for any such rule.

# %%
a, b = jax.random.uniform(jax.random.key(0), (2, 16))


def join(first, second):
    return second[0] * first[0], second[0] * first[1] + second[1]


h, one_by_one = 0.0, []
for t in range(16):
    h = a[t] * h + b[t]
    one_by_one.append(float(h))
at_once = jax.lax.associative_scan(join, (a, b))[1]
print(f"16 steps in 4 rounds: largest difference {np.abs(at_once - np.array(one_by_one)).max():.1e}")

# %% [markdown]
# ## The same for a whole cell
#
# `lru`, `s5`, `rg_lru`, `min_gru` and `min_lstm` are *linear cells*: their factors depend on the input, never on the
# state. `method=` says how `unroll` goes over time and nothing else, so values and gradients are those of the loop.

# %%
cell = min_gru(UNITS)
params = cell.init(jax.random.key(1), 4)
xs = jax.random.normal(jax.random.key(2), (LENGTHS[0], 4, 4))  # [T, B, I]


@partial(jax.jit, static_argnames=("cell", "method"))
def value_and_gradient(cell, params, xs, method):
    return jax.value_and_grad(lambda params: jnp.square(unroll(cell, params, xs, method=method)[1]).mean())(params)


def difference(one, other):
    """The largest difference of two gradients, relative to the largest entry of the first."""
    leaves = [jax.tree.leaves(tree) for tree in (one, other)]
    return max(float(jnp.abs(x - y).max()) for x, y in zip(*leaves, strict=True)) / max(
        float(jnp.abs(x).max()) for x in leaves[0]
    )


loop, at_once = (value_and_gradient(cell, params, xs, method) for method in (Scan(), Associative()))
print(f"loss {loop[0]:.6f} by the loop, {at_once[0]:.6f} at once")
print(f"gradients differ by {difference(loop[1], at_once[1]):.1e}")

# %% [markdown]
# ## What it takes here
#
# Fewer steps in a row is not less time. An associative scan goes through memory some log2 T times; a loop does so
# once, but on a GPU each of its steps waits for a launch. Below is one training gradient of the minGRU on this
# machine, and that of a GRU, which has no choice. On a CPU the loop is about twice as fast, and that is why `Auto()`,
# the default, takes `Scan()` on a CPU and `Associative()` on a GPU or TPU.


# %%
def seconds(cell, method, num_steps, repeats=3):
    params = cell.init(jax.random.key(1), 4)
    xs = jax.random.normal(jax.random.key(2), (num_steps, 4, 4))
    took = []
    for _ in range(repeats + 1):  # the first one compiles
        start = time.perf_counter()
        jax.block_until_ready(value_and_gradient(cell, params, xs, method))
        took.append(time.perf_counter() - start)
    return min(took[1:])


ways = {"minGRU, loop": (cell, Scan()), "minGRU, all at once": (cell, Associative()), "GRU, loop": (gru(UNITS), Scan())}
times = {name: [1e3 * seconds(*way, num_steps) for num_steps in LENGTHS] for name, way in ways.items()}
for name, row in times.items():
    print(f"{name:>17}: " + ", ".join(f"{ms:.1f} ms" for ms in row), "for", LENGTHS, "steps")
ax = named_curves(
    {name: (LENGTHS, row) for name, row in times.items()},
    xlabel="steps T",
    ylabel="time of a gradient, ms",
    title=f"On this machine: {jax.devices()[0].platform}",
    log=True,
)
ax.set_xscale("log")
ax.figure

# %% [markdown]
# ## Newton's method in time
#
# A GRU is not linear. But its states are the solution of one system, `h_t = step(h_{t-1}, x_t)` for all t. Newton's
# method guesses all states, linearises every step around the guess, and solves the linear recurrence that comes out,
# which can be done all at once as above:
#
#     h_t  =  step(g_{t-1}) + J_t (h_{t-1} - g_{t-1}),      g the guess before, J_t the Jacobian of the step there
#
# That is ten lines. The picture shows how wrong each state is after each iteration, for a network that forgets and
# for one that is chaotic: the same random weights, small and large.


# %%
def newton_errors(cell, params, xs, num_iterations):
    """Largest error of each state [K, T] after 1, ..., K iterations, from a guess of zeros."""
    zs, exact = cell.project(params, xs), unroll_carries(cell, params, xs)[2]
    start = cell.init_carry(params)
    step = lambda h, z: cell.step(params, h, z)[0]  # noqa: E731

    def iterate(guess, _):
        before = jnp.concatenate([start[None], guess[:-1]])
        after, jacobians = jax.vmap(step)(before, zs), jax.vmap(jax.jacfwd(step))(before, zs)

        def linear(h, parts):
            before, after, jacobian = parts
            h = after + jacobian @ (h - before)
            return h, h

        better = jax.lax.scan(linear, start, (before, after, jacobians))[1]
        return better, jnp.abs(better - exact).max(-1)

    return jax.lax.scan(iterate, jnp.zeros_like(exact), None, length=num_iterations)[1]


network = elman(UNITS, recurrent_init=normal(UNITS**-0.5))
with jax.enable_x64(True):
    inputs = 0.2 * jax.random.normal(jax.random.key(3), (STEPS, 4), float)
    weights = jax.tree.map(lambda leaf: leaf.astype(float), network.init(jax.random.key(4), 4))
    errors = jax.jit(jax.vmap(lambda gain: newton_errors(network, with_gain(weights, gain), inputs, ITERATIONS)))(
        jnp.array([0.8, 2.0])
    )
figure = Figure(figsize=(10, 3.6), layout="constrained")
axes = figure.subplots(1, 2, sharey=True)
for ax, table, title in zip(axes, np.asarray(errors), ("it forgets: gain 0.8", "chaos: gain 2"), strict=True):
    shown = np.log10(np.maximum(table, 1e-15))
    extent = (0, STEPS, 0.5, ITERATIONS + 0.5)
    picture = ax.imshow(shown, aspect="auto", origin="lower", cmap="magma", vmin=-15, vmax=1, extent=extent)
    finish(ax, title)
    ax.set_xlabel("step of the sequence")
axes[0].set_ylabel("Newton iteration")
figure.colorbar(picture, ax=list(axes), label="log10 of the largest error")
figure

# %% [markdown]
# On the left all states are right after a handful of iterations, the last one as soon as the first. On the right what
# is right grows from the start of the sequence by a few steps at each iteration: no better than a loop, and much
# dearer.
#
# ## What decides: the Lyapunov exponent
#
# An error in a state is passed on by the Jacobians. If their product shrinks, errors die out within a few steps and
# all of the sequence converges together; if it grows, a state cannot be right before all earlier ones are. That is
# the sign of the largest Lyapunov exponent. `unroll_newton` says how many iterations it took.


# %%
def exponent_and_iterations(key, gain):
    params = with_gain(network.init(key, 4), gain)

    def step(h, x):
        return network.step(params, h, network.project(params, x))[0]

    spectrum = lyapunov_spectrum(step, jnp.zeros(UNITS), inputs, num_exponents=1, burn_in=STEPS // 4)
    info = unroll_newton(network, params, inputs, method=Newton(max_iters=STEPS, tol=1e-6))[3]
    return spectrum.exponents[0], info.iterations


with jax.enable_x64(True):
    exponents, counts = sweep(
        exponent_and_iterations, jax.random.key(7), seeds=SEEDS, gain=GAINS
    ).results  # [gain, seed]
ax = new_axes((7, 4))
for number, gain in enumerate(GAINS):
    ax.semilogy(
        exponents[number], counts[number], "o", ms=7, color=colormaps["viridis"](number / len(GAINS)), label=gain
    )
    print(
        f"gain {gain:g}: exponents {exponents[number].round(2)} a step, iterations {counts[number]} for {STEPS} steps"
    )
ax.axvline(0, color=PALETTE[5], lw=1, ls=(0, (5, 3)))
ax.set(xlabel="largest Lyapunov exponent, nats a step", ylabel=f"Newton iterations for {STEPS} steps")
ax.legend(title="gain", frameon=False, fontsize=8.5)
finish(ax, "Right of the dashed line disturbances grow")
ax.figure

# %% [markdown]
# ## A GRU forgets
#
# At its initial weights a GRU takes a few iterations whatever the length, and gradients are those of the loop:
# Newton's method is differentiated at the solution, not through its iterations. On a CPU it is still slower than the
# loop, since each iteration makes T Jacobians of D by D numbers; it can pay where thousands of steps fit side by
# side, on a GPU, for small D and long T. Only a trial tells, so nothing takes it by itself.

# %%
cell = gru(UNITS)
params = cell.init(jax.random.key(5), 4)
for num_steps in LENGTHS[:2]:
    xs = jax.random.normal(jax.random.key(6), (num_steps, 4, 4))
    info = jax.jit(lambda params, xs: unroll_newton(cell, params, xs)[3])(params, xs)
    print(f"{num_steps:,} steps: {info.iterations} iterations, converged: {info.converged}")
xs = xs[: LENGTHS[0]]
loop, newton = (value_and_gradient(cell, params, xs, method) for method in (Scan(), Newton()))
print(f"loss {loop[0]:.6f} by the loop, {newton[0]:.6f} by Newton")
print(f"gradients differ by {difference(loop[1], newton[1]):.1e}")
slower = 1e3 * seconds(cell, Newton(), LENGTHS[0]) / times["GRU, loop"][0]
print(f"here Newton takes {slower:.0f} times as long as the loop")

# %% [markdown]
# ## The other limit: memory
#
# A gradient keeps what every step did. `Chunked(size)` and `Recursive(budget)` keep a carry here and there and
# compute the steps between again when the gradient comes back. Nothing below is run: the compiler says what it would
# need for 100,000 steps, with a loss on the last carry.


# %%
def loss_at_the_end(params, xs, method):
    return unroll(cell, params, xs, method=method)[0].sum()


long = jax.ShapeDtypeStruct((1_000 if SMALL else 100_000, 4, 4), jnp.float32)
for method in (Scan(), Chunked(160), Recursive(50)):
    program = jax.jit(jax.grad(loss_at_the_end), static_argnums=2).lower(params, long, method).compile()
    print(f"{type(method).__name__:>9}: {program.memory_analysis().temp_size_in_bytes / 1e6:,.1f} MB")

# %% [markdown]
# ## What to try next
#
# - `Newton(jacobian="diagonal")` keeps D numbers a step instead of D²: how many more iterations does the GRU take?
# - Start from what is known: `unroll_newton(cell, params, xs, guess=carries)` with the carries of the same sequence
#   at slightly different weights, as they are from one training step to the next.
# - `python -m experiments.newton_vs_lyapunov` asks when chaos can be made parallel: Lorenz 63, pulled towards data,
#   can. What each strategy costs is in [strategies](../docs/strategies.md).
