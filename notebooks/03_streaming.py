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
# # Streaming
#
# A recurrent network needs only its carry and the next sample, so it can answer while a signal arrives. This notebook
# trains a small network to foresee an electrocardiogram, then runs it live: one step at a time, many streams that
# come and go in one pool, and from one file without the code of the model. At the end it measures what a step costs.
# It runs in about a minute.

# %%
# %matplotlib inline
import os
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.streaming import SAMPLE_RATE, count_compilations, load_ecg
from rnn_jax import dense, gru, residual, stack, stream_step, unroll
from rnn_jax.plotting import PALETTE, finish, named_curves, new_axes
from rnn_jax.streaming import StreamPool, export_cell
from rnn_jax.training import create_state, make_train_step

SMALL = "RNN_JAX_SMALL" in os.environ  # continuous integration runs every notebook in small size
UNITS, STEPS, WINDOW, SLOTS, REPEATS = (8, 4, 40, 8, 5) if SMALL else (64, 400, 256, 256, 300)
AHEAD = 6  # samples, 50 ms

# %% [markdown]
# ## A network that foresees a heartbeat
#
# The signal is five minutes of an electrocardiogram in millivolts, 120 samples a second. The network reads sample
# `x_t` and says `x_(t+6)`, 50 ms later. `residual` adds the input to the output, so it has to learn only what changes.
# The last minute is kept for the test.

# %%
signal = load_ecg()
train, test = jnp.asarray(signal[:-7200]), signal[-7200:]
cell = residual(stack(gru(UNITS), dense(1)))


def loss_fn(params, batch, *, key, step):
    starts = jax.random.randint(key, 32, 0, len(train) - WINDOW - AHEAD)
    windows = train[starts + jnp.arange(WINDOW + AHEAD)[:, None], None]  # [T, B, 1]
    return jnp.square(unroll(cell, params, windows[:-AHEAD])[1] - windows[AHEAD:])[32:].mean(), {}


tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, STEPS, alpha=0.01)))
state, train_step = create_state(cell.init(jax.random.key(0), 1), tx, jax.random.key(1)), make_train_step(loss_fn, tx)
for _ in range(STEPS):
    state, _ = train_step(state, ())
params = state.params

# %% [markdown]
# ## One step at a time
#
# `unroll` runs over a whole signal, `stream_step` over one sample: it takes a carry and `x`, and gives the next carry
# and `y`. It is the same computation, so the numbers agree to rounding, and a network can be trained with one and used
# with the other. `donate_argnums` lets the new carry take the memory of the old one.

# %%
xs = test[: 4 * WINDOW, None]  # [T, 1]
whole = np.asarray(jax.jit(lambda params, xs: unroll(cell, params, xs)[1])(params, xs))
step = jax.jit(lambda params, carry, x: stream_step(cell, params, carry, x), donate_argnums=1)
carry, live = cell.init_carry(params, ()), []
for x in xs:
    carry, y = step(params, carry, x)
    live.append(np.asarray(y))
live = np.stack(live)
print(f"largest difference between stream_step and unroll: {np.abs(live - whole).max():.1e} mV")


def rms(errors):
    return float(np.sqrt(np.square(errors[64:]).mean()))


forecast_error, last_error = rms(live[:-AHEAD] - xs[AHEAD:]), rms(xs[:-AHEAD] - xs[AHEAD:])
print(f"error of the forecast {forecast_error:.3f} mV, of the last value {last_error:.3f} mV")
ax, seconds, shown = new_axes((9, 3.2)), np.arange(len(xs)) / SAMPLE_RATE, slice(AHEAD, 3 * WINDOW // 2)
forecast = np.concatenate([np.full((AHEAD, 1), np.nan), live[:-AHEAD]])
held = np.concatenate([np.full((AHEAD, 1), np.nan), xs[:-AHEAD]])
for values, name, colour in (
    (xs, "signal", PALETTE[5]),
    (held, "last value known", PALETTE[1]),
    (forecast, "forecast", PALETTE[0]),
):
    ax.plot(seconds[shown], values[shown], label=name, color=colour, lw=1.3)
ax.set(xlabel="time, s", ylabel="electrocardiogram, mV")
finish(ax, "What comes, and what was said 50 ms before")
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8.5)
ax.figure

# %% [markdown]
# The last value known is the signal 50 ms late, and its error is 0.48 mV; that of the forecast is 0.21 mV. The network
# was trained for half a minute: it rises in time with a beat and not after it, but not quite so high.
#
# ## Streams that come and go
#
# A server has many signals at once, each with a carry of its own. `StreamPool` keeps the carries in slots on the
# device. `join` gives a stream, `step` and `unroll` move any of them on, `leave` frees the slot. Here three patients
# share a pool: the second comes later, and the third when the first has gone. Each must get what `unroll` says of
# its signal alone.

# %%
pool = StreamPool(cell, params, slots=SLOTS, input_size=1)
pool.warm_up()
signals = [xs[i * WINDOW : (i + 1) * WINDOW] for i in range(3)]
comes, said, present = [0, WINDOW // 2, WINDOW], [[] for _ in signals], {}
for now in range(2 * WINDOW):
    for number in [n for n in present if now == comes[n] + WINDOW]:
        pool.leave(present.pop(number))
    present |= {n: pool.join() for n, start in enumerate(comes) if start == now}
    ys = pool.step(list(present.values()), np.stack([signals[n][now - comes[n]] for n in present]))
    for number, y in zip(present, ys, strict=True):
        said[number].append(y)
for number, (alone, own) in enumerate(zip(signals, said, strict=True)):
    ys = np.asarray(unroll(cell, params, alone)[1])
    print(f"patient {number}: largest difference to unroll {np.abs(np.stack(own) - ys).max():.1e} mV")

# %% [markdown]
# ## Nothing is compiled twice
#
# XLA compiles a program for each shape, which takes far longer than a step. So the pool has a fixed set of programs,
# for some numbers of streams and some lengths of chunks; what is asked for is filled up or cut to fit. `warm_up` has
# compiled all of them. Now streams join, leave, reset, save and restore at random, in groups and chunks of any size,
# and `count_compilations` listens to XLA.

# %%
rng, here, most = np.random.default_rng(0), list(pool.streams), 0
with count_compilations() as compiled:
    for _ in range(2 * REPEATS):
        if len(here) < SLOTS and rng.random() < 0.6:
            saved = pool.snapshot(here[0]) if here and rng.random() < 0.3 else None
            here.append(pool.join(saved))  # from the beginning, or from where another one is
        elif len(here) > 1:
            pool.leave(here.pop(rng.integers(len(here))))
        if here:
            some = rng.permutation(here)[: rng.integers(1, len(here) + 1)]
            pool.unroll(some, rng.normal(size=(rng.integers(1, 20), len(some), 1)).astype(np.float32))
            pool.reset(here[0])
        most = max(most, len(here))
print(
    f"{pool.num_compiled} programs of {pool.num_programs}; up to {most} streams at once; {len(compiled)} compilations"
)

# %% [markdown]
# ## One file
#
# `export_cell` writes the step, the whole sequence function, the parameters and a loader into one zip file. Any Python
# with JAX can run it, without this package: the loader is imported from the file itself. Its numbers must be those of
# before.

# %%
path = Path(tempfile.mkdtemp()) / "forecast.zip"
export_cell(cell, params, path, input_size=1)
sys.path.insert(0, str(path))
from rnn_jax_export import load_exported  # noqa: E402, from the zip file

model = load_exported(path)
carry = model.init_carry(1)
carry, first = model.step(carry, xs[None, 0])  # [B, I] -> [B, O]
carry, rest = model.unroll(carry, xs[1:, None])  # [T, B, I] -> [T, B, O]
again = np.concatenate([first[None], rest])[:, 0]
print(f"{path.stat().st_size / 1e3:.0f} kB; carry: { {name: leaf.shape for name, leaf in carry.items()} }")
print(f"largest difference to unroll: {np.abs(again - whole).max():.1e} mV")

# %% [markdown]
# ## What a step costs
#
# Latency is from a sample on the host to an answer on the host. JAX returns before it has computed, so a clock
# is honest only around a call that waits: `pool.step` gives NumPy arrays, and `np.asarray` waits too. The first calls
# are not counted, and a median is given with the 99th percentile, because a patient waits for the slowest call, not
# for the mean. The first line is the least that any compiled function takes: it adds one to one number.


# %%
def microseconds(call):
    """Median and 99th percentile of many calls, after ten that do not count."""
    taken = []
    for number in range(REPEATS + 10):
        started = time.perf_counter()
        call()
        if number >= 10:
            taken.append(1e6 * (time.perf_counter() - started))
    return np.percentile(taken, (50, 99))


empty, one = jax.jit(lambda x: x + 1), np.ones(1, np.float32)
print("an empty program: median {:.0f}, 99 % below {:.0f} us".format(*microseconds(lambda: np.asarray(empty(one)))))
for stream in pool.streams:
    pool.leave(stream)
streams = [pool.join() for _ in range(SLOTS)]
counts = sorted({1, 4, 16, 64, SLOTS} & set(range(SLOTS + 1)))
found = []
for count in counts:
    batch = np.zeros((count, 1), np.float32)
    found.append(microseconds(lambda count=count, batch=batch: pool.step(streams[:count], batch)))
    median, slow = found[-1]
    print(
        f"{count} of {SLOTS} streams: median {median:.0f}, 99 % below {slow:.0f} us; {median / count:.1f} us a stream"
    )
ax = named_curves(
    {"median": (counts, [median for median, _ in found]), "99th percentile": (counts, [slow for _, slow in found])},
    xlabel="streams in one call",
    ylabel="time of one call, us",
    title="Latency of pool.step",
    log=True,
)
ax.set_xscale("log")
ax.figure

# %% [markdown]
# A call for one stream takes five times as long as an empty program, and one for 256 streams eight times as long as
# one for a single stream: most of a small step is the call, not the arithmetic. So serve streams together. The 99th
# percentile was taken on a core that other programs used as well, and for one stream it is more than sixty times the
# median: latency belongs to a machine and its load as much as to a program.
#
# ## What to try next
#
# - Train for `STEPS = 400`. How high does the forecast rise now, and does a step take any longer?
# - Replace the GRU by `lstm` or `lru`. What changes in the error, in the latency, and in the size of the file?
# - `python -m experiments.streaming` shows the forecast live in the terminal, at the rate of the sensor, and
#   `python benchmarks/stream_step.py` compares a step with the least time in which its weights can be read.
