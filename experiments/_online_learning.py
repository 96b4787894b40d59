"""A stream in which something must be told later, networks that learn it step by step, and their gradients."""

import itertools
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import Cell, elman, gru, lstm, stream_step
from rnn_jax.analysis import OnlineGradient, as_vector, e_prop, rtrl, snap1, split_gated, truncated, uoro
from rnn_jax.metrics import Mean
from rnn_jax.training import TrainState, create_state, fit, open_checkpoints, run_logger, seed_keys

__all__ = [
    "CELLS",
    "KINDS",
    "Estimator",
    "Learned",
    "Network",
    "Params",
    "Stream",
    "build",
    "costs",
    "estimators",
    "go_on",
    "rounds",
    "train",
]

INPUTS = 3
"""A value, the mark that says keep it, the mark that says tell it."""
KEEP = 1
CELLS = {"elman": elman, "gru": gru, "lstm": lstm}
"""Cells with input weights `w_x`, a step that `e_prop` can split, and h as the first leaf of their carry."""
KINDS = ("bptt", "rtrl", "snap1", "e_prop", "uoro", "truncated")


class Stream(NamedTuple):
    """What is learned, and with how much of it.

    Attributes:
        delay: steps from the marked value to its answer; a round has two more.
        streams: B.
        num_updates: one a round.
        learning_rate: of Adam.
    """

    delay: int
    streams: int
    num_updates: int
    learning_rate: float


def rounds(key: jax.Array, number: int, delay: int, streams: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Rounds of `delay + 2` steps, one after the other.

    Args:
        key: a PRNG key.
        number: how many rounds.
        delay: steps from the marked value to its answer, at least 1.
        streams: B.

    Returns:
        Inputs [T, B, 3]; and targets [T, B], the marked value of the round, with where they are asked for, 1 or 0.

    Raises:
        ValueError: a delay below 1.
    """
    if delay < 1:
        raise ValueError(f"`delay` must be at least 1 step, got {delay}")
    values = jnp.where(jax.random.bernoulli(key, 0.5, (number, delay + 2, streams)), 1.0, -1.0)
    place = jnp.broadcast_to(jnp.arange(delay + 2)[:, None], values.shape)
    keep, tell = ((place == at).astype(values.dtype) for at in (0, delay))
    xs = jnp.stack([values, keep, tell], axis=-1)
    targets = jnp.broadcast_to(values[:, :1], values.shape)
    xs, targets, tell = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in (xs, targets, tell))
    return xs, (targets, tell)


class Params(NamedTuple):
    """Parameters of the network."""

    cell: Any
    w: jax.Array  # [H]
    b: jax.Array  # []


class Network(NamedTuple):
    """A cell with a linear readout, as estimators want it."""

    cell: Cell
    init: Callable[[jax.Array], Params]
    step: Callable[[Params, Any, jax.Array], Any]
    loss: Callable[[Params, Any, Any], jax.Array]

    def empty(self) -> tuple[Params, Any]:
        """Parameters of zeros, and the first carry."""
        like = jax.eval_shape(self.init, jax.random.key(0))
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        return params, self.cell.init_carry(params.cell, ())


def build(name: str, hidden_size: int) -> Network:
    """A network whose output is the logit of +1.

    Args:
        name: of its cell, one of `CELLS`.
        hidden_size: H.

    Returns:
        The network.

    Raises:
        ValueError: there is no such cell here.
    """
    if name not in CELLS:
        raise ValueError(f"`cell` must be one of {', '.join(CELLS)}, got {name!r}")
    cell = CELLS[name](hidden_size)

    def init(key: jax.Array) -> Params:
        own_key, out_key = jax.random.split(key)
        w = jax.random.normal(out_key, (hidden_size,)) / math.sqrt(hidden_size)
        return Params(cell=cell.init(own_key, INPUTS), w=w, b=jnp.zeros(()))

    def step(params: Params, carry: Any, x: jax.Array) -> Any:
        return stream_step(cell, params.cell, carry, x)[0]

    def loss(params: Params, carry: Any, target: Any) -> jax.Array:
        value, asked = target
        return asked * jax.nn.softplus(-value * (jax.tree.leaves(carry)[0] @ params.w + params.b))

    return Network(cell, init, step, loss)


class Estimator(NamedTuple):
    """A way to a gradient.

    Attributes:
        online: carries something along; None: backpropagation through all steps given.
        window: how many steps `truncated` goes back through; 0 for the others.
    """

    online: OnlineGradient | None
    window: int = 0

    def memory(self, network: Network) -> Any:
        """What is held before the first step of a stream."""
        return () if self.online is None else self.online.init(*network.empty(), jnp.zeros(INPUTS))


def estimators(kinds: tuple[str, ...], windows: tuple[int, ...], network: Network) -> dict[str, Estimator]:
    """Estimators by name.

    Args:
        kinds: some of `KINDS`, bptt among them.
        windows: of `truncated`, which counts once for each.
        network: whose gradients they estimate.

    Returns:
        The estimators, in the order of `kinds`.

    Raises:
        ValueError: other names, or none of bptt, with which the others are compared.
    """
    if set(kinds) - set(KINDS) or "bptt" not in kinds:
        raise ValueError(f"`estimators` must be bptt and any others of {', '.join(KINDS[1:])}, got {kinds}")
    step, loss = network.step, network.loss

    def split(params: Params, carry: Any, recurrent: Any, x: jax.Array) -> Any:
        return split_gated(network.cell)(params.cell, carry, recurrent, x)

    made = {
        "bptt": lambda: {"bptt": Estimator(None)},
        "rtrl": lambda: {"rtrl": Estimator(rtrl(step, loss))},
        "snap1": lambda: {"snap1": Estimator(snap1(step, loss))},
        "e_prop": lambda: {"e_prop": Estimator(e_prop(split, loss))},
        "uoro": lambda: {"uoro": Estimator(uoro(step, loss))},
        "truncated": lambda: {f"truncated_{n}": Estimator(truncated(step, loss, n), n) for n in windows},
    }
    return {name: one for kind in kinds for name, one in made[kind]().items()}


def go_on(
    network: Network, online: OnlineGradient | None, params: Params, carry: Any, memory: Any, batch: Any, key: Any
) -> tuple[Any, Any, Any, jax.Array]:
    """Some steps of B streams with parameters that stay.

    Args:
        network: the network.
        online: as in `Estimator`.
        params: its parameters.
        carry: the state of each stream, leaves [B, ...].
        memory: what is held for each, leaves [B, ...].
        batch: from `rounds`.
        key: for the signs of UORO.

    Returns:
        `(carry, memory, grads, loss)`: sums over the steps, means over the streams.
    """
    xs, targets = batch
    num_steps, size = xs.shape[:2]

    def forward(params: Params) -> tuple[jax.Array, Any]:
        def one(carry: Any, inputs: Any) -> tuple[Any, jax.Array]:
            x, target = inputs
            carry = jax.vmap(network.step, (None, 0, 0))(params, carry, x)
            return carry, jax.vmap(network.loss, (None, 0, 0))(params, carry, target).mean()

        last, losses = jax.lax.scan(one, carry, (xs, targets))
        return losses.sum(), last

    if online is None:
        (loss, carry), grads = jax.value_and_grad(forward, has_aux=True)(params)
        return carry, memory, grads, loss

    def step(state: Any, inputs: Any) -> tuple[Any, jax.Array]:
        carry, memory, grads = state
        done = jax.vmap(online.update, (None, 0, 0, 0, 0, 0))(params, carry, memory, *inputs)
        grads = jax.tree.map(lambda total, new: total + new.mean(0), grads, done.grads)
        return (done.carry, done.memory, grads), done.loss.mean()

    keys = jax.random.split(key, (num_steps, size))
    state = (carry, memory, jax.tree.map(jnp.zeros_like, params))
    (carry, memory, grads), losses = jax.lax.scan(step, state, (xs, targets, keys))
    return carry, memory, grads, losses.sum()


class Learned(NamedTuple):
    """What became of R networks that learned with one estimator.

    Attributes:
        updates: [K] the last update of each row of the log.
        losses: [K, R] mean loss in each row, in nats for each answer.
        us: microseconds for each step of each stream.
    """

    updates: np.ndarray
    losses: np.ndarray
    us: float

    def final(self) -> np.ndarray:
        """[R] the mean loss of the last tenth of updates."""
        return self.losses[self.updates > 0.9 * self.updates[-1]].mean(0)

    def first(self, level: float) -> np.ndarray:
        """[R] the first update with a mean loss below a level; the last one if there is none."""
        low = self.losses < level
        return np.where(low.any(0), self.updates[low.argmax(0)], self.updates[-1])


def train(network: Network, estimator: Estimator, params: Params, stream: Stream, seed: int, folder: Path) -> Learned:
    """Trains R networks side by side, each with an update after each round.

    Args:
        network: the network.
        estimator: of its gradient; what it holds goes on over updates.
        params: where they start, leaves [R, ...].
        stream: what they learn.
        seed: of the data of the first; the others have the next ones.
        folder: for logs and checkpoints.

    Returns:
        What became of them.
    """
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(stream.learning_rate))
    number, memory = len(params.b), estimator.memory(network)

    def begin(params: Params, key: jax.Array) -> TrainState:
        held = (network.cell.init_carry(params.cell, ()), memory)
        return create_state(
            params, tx, key, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (stream.streams, *leaf.shape)), held)
        )

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def update(state: TrainState, _: Any) -> tuple[TrainState, dict[str, Mean]]:
        data_key, sign_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        batch = rounds(data_key, 1, stream.delay, stream.streams)
        carry, memory = state.carry
        carry, memory, grads, loss = go_on(network, estimator.online, state.params, carry, memory, batch, sign_key)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer counts
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = TrainState(state.step + 1, params, opt_state, state.key, (carry, memory))
        return state, {"loss": Mean(total=loss, count=jnp.ones_like(loss))}

    folder.mkdir(exist_ok=True)
    still = jnp.zeros(())
    with run_logger(folder) as log, open_checkpoints(folder) as checkpoints:
        states, info = fit(
            jax.jit(jax.vmap(begin))(params, seed_keys(seed, number)),
            update,
            itertools.repeat(still),
            num_steps=stream.num_updates,
            log=log,
            log_every=10,
            checkpoints=checkpoints,
        )
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        jax.block_until_ready(update(states, still))
        seconds.append(time.perf_counter() - started)
    losses = np.array([row["train/loss"] for row in info.history]).reshape(-1, number)
    us = 1e6 * float(np.median(seconds)) / (number * stream.streams * (stream.delay + 2))
    return Learned(np.array([row["step"] for row in info.history]), losses, us)


def costs(network: Network, estimator: Estimator, num_steps: int) -> tuple[float, int]:
    """What one step of one stream costs, beside parameters and state.

    Args:
        network: the network.
        estimator: of its gradient.
        num_steps: that backpropagation goes back through.

    Returns:
        Floating operations, as the compiler counts them (it counts the inside of a loop once, so a window of n steps
        is one of 1 and n - 1 times the backward pass of a step), and numbers held.
    """
    params, carry = network.empty()
    x, target, online = jnp.zeros(INPUTS), (jnp.ones(()), jnp.ones(())), estimator.online

    def operations(function: Callable[..., Any], *arguments: Any) -> float:
        return float((jax.jit(function).lower(*arguments).compile().cost_analysis() or {})["flops"])

    def back(params: Params, carry: Any, x: jax.Array, bar: Any) -> Any:
        return jax.vjp(lambda params, carry: network.step(params, carry, x), params, carry)[1](bar)

    def whole(params: Params, carry: Any, x: jax.Array, target: Any) -> Any:
        of = lambda params, carry: network.loss(params, network.step(params, carry, x), target)  # noqa: E731
        return jax.value_and_grad(of, argnums=(0, 1))(params, carry)

    if online is None:
        return operations(whole, params, carry, x, target), num_steps * (len(as_vector(carry)[0]) + INPUTS)
    memory = online.init(params, carry, x)
    held = sum(leaf.size for leaf in jax.tree.leaves(memory) if jnp.issubdtype(leaf.dtype, jnp.inexact))
    more = 0.0
    if estimator.window > 1:
        more = (estimator.window - 1) * operations(back, params, carry, x, carry)
        online = truncated(network.step, network.loss, 1)
        memory = online.init(params, carry, x)
    return more + operations(online.update, params, carry, memory, x, target, jax.random.key(0)), held
