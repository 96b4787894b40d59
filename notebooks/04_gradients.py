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
# # Why gradients vanish and explode
#
# A recurrent network applies the same map at every step, so a gradient that goes back 100 steps is multiplied by 100
# Jacobians. What is below one dies out and what is above one blows up. This notebook measures it in a
# minute or two: how far gradients
# reach in which cell, what a product of Jacobians does to a change, which initialisation helps, what training mends,
# and what an exploding gradient does to a step of descent.

# %%
# %matplotlib inline
import math
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._long_memory import network
from experiments.adding_problem import adding
from experiments.vanishing_gradients import Config, cliff, descend, squared_error, unit, walk
from rnn_jax import elman, stream_step
from rnn_jax.analysis import carry_gradients, jacobian_products, row_norms, with_gain
from rnn_jax.plotting import named_curves

SMALL = "RNN_JAX_SMALL" in os.environ  # continuous integration runs every notebook in small size
LENGTH, UNITS, BATCH, STEPS, GRID = (20, 8, 4, 4, 20) if SMALL else (100, 64, 50, 300, 300)

# %% [markdown]
# ## One unit
#
# The smallest recurrent network is `h_t = w h_(t-1) + x_t`. Its gradient `dL/dh_t` is `w` to the power of the steps
# that are left. `carry_gradients` gives `dL/dh_t` at every step of any network by one backward pass; here it must
# agree with the formula.

# %%
for w in (0.9, 1.0, 1.1):
    bars = carry_gradients(lambda h, x, w=w: w * h + x, jnp.zeros(1), jnp.ones((LENGTH, 1)), lambda hs: hs[-1].sum())
    print(f"w = {w}: dL/dh_0 = {bars[0, 0]:.3g}, and w^{LENGTH} = {w**LENGTH:.3g}")

# %% [markdown]
# ## A task that needs a long reach
#
# In the adding problem each step brings a number and a mark; two steps are marked, and at the end the network must
# say the sum of their two numbers. One mark is in the first half, so something has to be kept for half of the
# sequence or more, and what to keep can only be learned if the gradient of the last error gets there.

# %%
xs, sums = adding(LENGTH, jax.random.key(0), BATCH)
marked = np.flatnonzero(xs[:, 0, 1])
print(f"xs {xs.shape}; marked at {marked.tolist()}: {xs[marked, 0, 0]}, sum {sums[0]:.2f}")

# %% [markdown]
# ## How far a gradient reaches
#
# The loss is the squared error of the last output. The carry of `step` holds the output as well, so that the loss can
# read it; an LSTM has two carries, whose norms are put together. What is drawn is the geometric mean over the batch,
# over the norm at the last steps. The axis is logarithmic: a straight line down is a constant factor at every step.


# %%
@partial(jax.jit, static_argnums=0)
def gradient_sizes(cell, params):
    """ln |dL/dh_t| for t = 0..T - 1, mean over the batch."""
    start = (cell.init_carry(params, sums.shape), jnp.zeros((*sums.shape, 1)))

    def loss(states):
        return jnp.square(states[1][-1, :, 0] - sums).sum()

    bars, _ = carry_gradients(lambda state, x: stream_step(cell, params, state[0], x), start, xs, loss)
    norms = jnp.linalg.norm(jnp.stack(jax.tree.leaves(row_norms(bars, 2))), axis=0)[:-1]
    return jnp.log(jnp.maximum(norms, jnp.finfo(norms.dtype).tiny)).mean(1)


BACK = np.arange(LENGTH, 0, -1)


def reach(sizes, title):
    """Draws the curves; prints the factor at each step back, a fit without a tenth at either end."""
    for name, size in sizes.items():
        inside = slice(LENGTH // 10, -(LENGTH // 10))
        factor = np.exp(np.polyfit(BACK[inside], size[inside], 1)[0])
        print(f"{name}: a factor of {factor:.3f} at each step back; {np.exp(size[0] - size[-1]):.1e} is left at t = 0")
    ax = named_curves(
        {name: (BACK, np.exp(size - size[-1])) for name, size in sizes.items()},
        xlabel="T - t, steps back from the loss",
        ylabel="|dL/dh_t| / |dL/dh_(T-1)|",
        title=title,
        log=True,
    )
    ax.set_ylim(1e-16, 30)
    return ax.figure


LSTMS = () if SMALL else ("lstm_bias_0", "lstm_bias_1", "lstm_chrono")
NAMES = ("tanh", "gru", *LSTMS, "irnn", "orthogonal")
cells = {name: network(name, UNITS, LENGTH, 1) for name in NAMES}
params = {name: cell.init(jax.random.key(1), 2) for name, cell in cells.items()}
before = {name: np.asarray(gradient_sizes(cells[name], params[name])) for name in NAMES}
reach(before, "How far gradients reach, at initialisation")

# %% [markdown]
# Every line is nearly straight: gradients vanish exponentially, and only the slope differs. A tanh network loses 23 %
# at each step back, a GRU 16 %. A forget gate multiplies the carry of an LSTM by about `sigmoid(bias)`, so the bias
# decides: 21 % are lost with 0, 9 % with 1, and 1 % with `chrono`, which was told the length of the task. The two lines
# at the top are an identity kernel with ReLU (`irnn`) and an orthogonal one, which keep all norms.
#
# ## What a product of Jacobians does
#
# A norm is one number of many. `jacobian_products` gives all singular values of `dh_T/dh_t`: by which factors a change
# is stretched until the end, one for each direction. Here the kernel of a tanh network, orthogonal at the start, is
# scaled by a gain; two lines of one colour are the largest singular value and the one in the middle. Inputs are
# small, so at a gain of 0.8 tanh is nearly linear, and every direction shrinks by 0.8 at each step. At 1.2 tanh
# saturates, and the directions fan out: some changes grow a hundredfold, half of them shrink. Vanishing and exploding
# happen in one network at one time, and no single gain is right for all directions.

# %%
layer = elman(UNITS)
start = layer.init(jax.random.key(2), 2)


@jax.jit
def stretched(params):
    """The products of Jacobians in one sequence."""
    return jacobian_products(
        lambda h, x: stream_step(layer, params, h, x)[0], layer.init_carry(params, ()), 0.1 * xs[:, 0]
    )


curves = {}
for gain in (0.8, 1.0, 1.2):
    products = stretched(with_gain(start, gain))
    logs = np.asarray(products.log_singular_values)[:-1] / math.log(10)
    curves[f"gain {gain}"] = (BACK, logs[:, [0, UNITS // 2]].T)
    print(f"gain {gain}: over {LENGTH} steps 10^{logs[0, 0]:.1f} at most, 10^{logs[0, UNITS // 2]:.1f} in the middle")
ax = named_curves(
    curves,
    xlabel="T - t, steps back",
    ylabel="singular values of dh_T/dh_t, log10",
    title="Largest and middle singular value of the product",
)
ax.figure

# %% [markdown]
# ## Does training mend it?
#
# A slope at initialisation is where training starts from, not where it ends. A tanh network and a GRU are trained on
# the adding problem with Adam and clipping, and measured again.

# %%
tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-3))
data, after = partial(adding, LENGTH, count=BATCH), {}
for name in ("tanh", "gru"):
    train = jax.jit(partial(descend, partial(squared_error, cells[name]), data, tx, STEPS))
    trained, (losses, _) = train(params[name], jax.random.key(3))
    after |= {f"{name}, before": before[name], f"{name}, after": np.asarray(gradient_sizes(cells[name], trained))}
    print(f"{name}: loss {losses[: STEPS // 4].mean():.3f} early, {losses[-STEPS // 4 :].mean():.3f} at the end")
reach(after, f"Before and after {STEPS} steps of training")

# %% [markdown]
# The GRU has learned to hold: after training 42 % of the gradient goes back 100 steps, and its loss is down to 0.007.
# The tanh network got worse: what arrives from the first steps is near the least number of float32, and with no
# gradient from there its loss stays at 0.17, the variance of the sum. The gradient has to be there before it can
# learn to be there.
#
# ## Exploding
#
# The other side: an identity kernel with ReLU loses nothing at the start, and one step of descent is enough to make it
# grow. Plain gradient descent on the same task, with the gradient as it is and clipped to a norm of 1
# (`optax.clip_by_global_norm`). Without clipping the second gradient is 6e10; the step along it kills every unit, and
# from then on only the bias of the output moves. Clipped, training goes on.

# %%
norms = {}
for name, first in (("no clipping", optax.identity()), ("clipped", optax.clip_by_global_norm(1.0))):
    tx = optax.chain(first, optax.sgd(0.01))
    train = jax.jit(partial(descend, partial(squared_error, cells["irnn"]), data, tx, STEPS))
    _, (losses, sizes) = train(params["irnn"], jax.random.key(4))
    norms[name] = (np.arange(1, STEPS + 1), np.asarray(sizes))
    largest = np.max(sizes, where=np.isfinite(sizes), initial=0)
    print(f"{name}: largest gradient {largest:.1e}, last loss {losses[-1]:.3f}")
ax = named_curves(
    norms,
    xlabel="step of gradient descent",
    ylabel="norm of the gradient, before clipping",
    title="An IRNN with and without clipping",
    log=True,
)
ax.figure

# %% [markdown]
# ## The cliff
#
# Why does clipping help, and not only a smaller step? Pascanu et al. (2013) drew the loss of one unit,
# `h' = w sigmoid(h) + b` run for 50 steps, over its two parameters. The loss is flat nearly everywhere and has a wall.
# At the wall a gradient is huge, and a step along it throws the parameters out of the region they were in. Clipping
# keeps the direction and limits the length: in the picture, gradient descent (white) is thrown 6.4 far and stays on the
# plain, and the clipped walk turns at the wall and goes down along the valley.

# %%
walks = {
    "gradient descent": walk(math.inf, 0.3, 100, (5.0, -1.6)),
    "clipped": walk(0.1, 0.3, 300, (5.0, -1.6)),
}
for name, path in walks.items():
    longest = np.linalg.norm(np.diff(path, axis=0), axis=1).max()
    print(f"{name}: longest step {longest:.3f}, loss at the end {unit(jnp.asarray(path[-1])):.4f}")
cliff(Config(grid=GRID), {"walks": walks}).figure

# %% [markdown]
# ## What to try next
#
# - Give `lstm_chrono` a longest dependency that is wrong, with `network("lstm_chrono", UNITS, 10, 1)`. How does the
#   slope follow? Then try the cells `co_rnn`, `lru` and `min_gru`.
# - Train the IRNN with clipping to 0.1 and to 10. Is there a norm at which it learns faster?
# - `python -m experiments.vanishing_gradients` does this with three seeds and ten networks, and
#   `python -m experiments.adding_problem` shows which of them learn the task in the end.
