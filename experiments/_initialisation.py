"""Networks that begin in many ways, trained side by side: kernels and biases, and states before the first step."""

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._many import fit_many
from experiments.adding_problem import adding
from rnn_jax import Cell, dense, elman, gru, learned_carry, lstm, stack, stream_step, unroll
from rnn_jax.analysis import forgetting
from rnn_jax.initializers import BiasInit, orthogonal, zero_bias
from rnn_jax.training import TrainState, create_state, create_states, make_train_steps, seed_keys

__all__ = [
    "LAYERS",
    "Kind",
    "Outcome",
    "Start",
    "Task",
    "forgotten",
    "memory_of_start",
    "train_adding",
    "train_windows",
    "windows",
]

LAYERS = {
    "tanh": elman,
    "relu": lambda size: elman(size, activation=jax.nn.relu),
    "lstm": lambda size: lstm(size, bias_init=zero_bias),
    "gru": gru,
}
"""The layer of each name, `(hidden_size) -> Cell`, with biases of zero."""


Kernel = Literal["gate by gate", "fused", "identity"]


class Start(NamedTuple):
    """How a network begins.

    Attributes:
        name: what it is called.
        kernel: the recurrent kernel: orthogonal "gate by gate", "fused" (orthogonal as one matrix [H, gates H]) or
            "identity" (of each gate).
        gain: its factor.
        bias: initialiser of the biases.
        noise: standard deviation of the state before the first step, in training only.
    """

    name: str
    kernel: Kernel = "gate by gate"
    gain: float = 1.0
    bias: BiasInit = zero_bias
    noise: float = 0.0


class Task(NamedTuple):
    """The adding problem, and how it is trained on: T steps, B sequences of them, new ones for each update."""

    length: int
    batch_size: int
    num_tests: int
    num_steps: int
    every: int  # steps in a row of the log
    learning_rate: float  # of Adam; falls to a hundredth along a cosine


class Outcome(NamedTuple):
    """Networks of one kind of layer after training; S starts with R seeds each.

    Attributes:
        layer: the recurrent layer.
        first: its parameters before training, leaves [S, R, ...].
        last: and after.
        error: [S, R] squared error on test sequences, from a state of zeros.
        steps: [K] the last step of each row of the log.
        losses: [K, S, R] mean training loss in each row.
    """

    layer: Cell
    first: Any
    last: Any
    error: np.ndarray
    steps: np.ndarray
    losses: np.ndarray

    def steps_to(self, level: float) -> np.ndarray:
        """[S, R] the step at the end of the first row with a loss below a level; the last step if there is none."""
        below = self.losses < level
        return np.where(below.any(0), self.steps[below.argmax(0)], self.steps[-1])


def optimizer(learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    """Adam, clipped at norm 1, with a rate that falls to a hundredth along a cosine."""
    schedule = optax.cosine_decay_schedule(learning_rate, num_steps, alpha=0.01)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def begin(
    cell: Cell, hidden_size: int, starts: Sequence[Start], tx: optax.GradientTransformation, keys: jax.Array
) -> TrainState:
    """Every start with every seed, before training.

    Args:
        cell: a stack of a recurrent layer and a readout.
        hidden_size: H.
        starts: S of them.
        tx: the optimizer.
        keys: [R], one a seed.

    Returns:
        States with leaves [S R, ...], the seed runs fastest. Networks of one seed share all that their starts leave
        open.
    """
    gates = type(jax.eval_shape(lambda: cell.init(jax.random.key(0), 2))[0]).GATES
    biases = jnp.stack([start.bias(key, gates, hidden_size) for start in starts for key in keys])
    gains = jnp.asarray([start.gain for start in starts for _ in keys])
    kinds = jnp.asarray([get_args(Kernel).index(start.kernel) for start in starts for _ in keys])
    some_fused = any(start.kernel == "fused" for start in starts)

    @jax.jit
    @jax.vmap
    def one(key: jax.Array, gain: jax.Array, bias: jax.Array, kind: jax.Array) -> TrainState:
        own_key, fused_key = jax.random.split(key)
        layer, readout = cell.init(own_key, 2)
        fused = orthogonal(fused_key, layer.w_h.shape) if some_fused else layer.w_h
        same = jnp.tile(jnp.eye(hidden_size), len(gates))
        kernel = jax.lax.select_n(kind, layer.w_h, fused, same)
        return create_state((layer._replace(w_h=gain * kernel, b=layer.b + bias), readout), tx, key)

    return one(jnp.tile(keys, len(starts)), gains, biases, kinds)


def with_noise(carry: Any, noise: jax.Array, key: jax.Array) -> Any:
    """A carry plus normal numbers of a standard deviation, each leaf with its own."""
    leaves, structure = jax.tree.flatten(carry)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        leaf + noise.astype(leaf.dtype) * jax.random.normal(k, leaf.shape, leaf.dtype)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


def train_adding(name: str, hidden_size: int, starts: Sequence[Start], task: Task, seeds: Any, folder: Path) -> Outcome:
    """Trains every start with every seed on the adding problem, in one program.

    Args:
        name: one of `LAYERS`.
        hidden_size: H.
        starts: how networks begin.
        task: what they learn.
        seeds: `(first seed, number of seeds)`; networks with the same seed see the same sequences.
        folder: for logs and checkpoints.

    Returns:
        The outcome.
    """
    layer = LAYERS[name](hidden_size)
    cell = stack(layer, dense(1))
    keys = seed_keys(*seeds)
    tx = optimizer(task.learning_rate, task.num_steps)
    states = begin(cell, hidden_size, starts, tx, keys)
    first = states.params[0]
    noise = jnp.asarray([start.noise for start in starts for _ in keys])
    some_noise = any(start.noise for start in starts)

    def squares(params: Any, carry: Any, batch: Any) -> jax.Array:
        xs, sums = batch
        return jnp.square(unroll(cell, params, xs, carry)[1][-1, :, 0] - sums)

    def loss_fn(params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        data_key, noise_key = jax.random.split(key)
        carry = cell.init_carry(params, (task.batch_size,))
        if some_noise:
            carry = with_noise(carry, batch[0], noise_key)
        return squares(params, carry, adding(task.length, data_key, task.batch_size)).mean(), {}

    steps = make_train_steps(loss_fn, tx)
    rows = max(1, task.num_steps // task.every)
    still = itertools.repeat(jnp.zeros(()))
    states, info = fit_many(folder, states, steps, noise, still, task.num_steps, rows=rows)

    @jax.jit
    def judge(params: Any) -> jax.Array:
        tests = adding(task.length, jax.random.key(10_000), task.num_tests)
        return jax.vmap(lambda params: squares(params, None, tests).mean())(params)

    shape = (len(starts), len(keys))
    apart = lambda tree: jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), tree)  # noqa: E731
    return Outcome(
        layer,
        apart(first),
        apart(jax.device_get(states.params[0])),
        np.asarray(judge(states.params)).reshape(shape),
        np.array([row["step"] for row in info.history]),
        np.array([row["train/loss"] for row in info.history]).reshape(-1, *shape),
    )


def forgotten(layer: Cell, params: Any, xs: jax.Array, key: jax.Array) -> np.ndarray:
    """How far two random states are apart after each step of the same inputs, as a part of their first distance.

    Args:
        layer: a recurrent layer.
        params: its parameters, leaves [S, R, ...].
        xs: inputs [T, B, I]; each sequence has a pair of states of its own, drawn from N(0, 1).
        key: draws the states.

    Returns:
        [S, R, T + 1] geometric means over the sequences; at least 1e-12.
    """

    def pair(params: Any, xs: jax.Array, key: jax.Array) -> jax.Array:
        zeros = layer.init_carry(params, ())
        a, b = (with_noise(zeros, jnp.ones(()), k) for k in jax.random.split(key))
        step = lambda h, x: stream_step(layer, params, h, x)[0]  # noqa: E731
        distance = forgetting(step, a, b, xs)
        return jnp.log(jnp.maximum(distance / distance[0], 1e-12))

    @jax.jit
    def of_all(params: Any, xs: jax.Array, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, xs.shape[1])
        of_one = lambda params: jnp.exp(jax.vmap(pair, (None, 1, 0))(params, xs, keys).mean(0))  # noqa: E731
        return jax.vmap(jax.vmap(of_one))(params)

    return np.asarray(of_all(params, xs, key))


def memory_of_start(layer: Cell, params: Any, xs: jax.Array) -> np.ndarray:
    """The size of dh_T/dh_0 at a state of zeros, its Frobenius norm over sqrt(H), for each network [S, R].

    Args:
        layer: a layer whose carry is h.
        params: its parameters, leaves [S, R, ...].
        xs: inputs [T, B, I]; the norm is the root of the mean square over the sequences.

    Returns:
        [S, R]; 1 where the state keeps its size on the average.
    """

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    @partial(jax.vmap, in_axes=(0, None))
    def one(params: Any, xs: jax.Array) -> jax.Array:
        last = lambda h, xs: unroll(layer, params, xs, h)[0]  # noqa: E731
        jacobians = jax.vmap(jax.jacfwd(last), (None, 1))(layer.init_carry(params, ()), xs)
        return jnp.sqrt(jnp.square(jacobians).sum(-1).mean())

    return np.asarray(one(params, xs))


class Kind(NamedTuple):
    """What comes before the first step: zeros, learned numbers, or noise (in training only)."""

    name: str
    learned: bool = False
    noise: float = 0.0


def windows(data: jax.Array, length: int, count: int, key: jax.Array) -> jax.Array:
    """Windows [length, count, D] of a series [N, D], from random places."""
    if length > len(data):
        raise ValueError(f"`length` must be at most the {len(data)} steps of `data`, got {length}")
    starts = jax.random.randint(key, (count,), 0, len(data) - length + 1)
    return jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(data, start, length), out_axes=1)(starts)


def train_windows(
    hidden_size: int, kinds: Sequence[Kind], task: Task, series: tuple[Any, Any], seeds: Any, folder: Path
) -> np.ndarray:
    """Trains a GRU to predict a series one step ahead in windows out of its middle, with every kind of first state.

    Args:
        hidden_size: H.
        kinds: K kinds of first state.
        task: of it the length T, the number of windows in a batch, updates, rate.
        series: the series to learn from and that to be tested on, each [N, D].
        seeds: `(first seed, number of seeds)`.
        folder: for logs and checkpoints.

    Returns:
        [K, R, T] squared errors of each step in windows of the test series, from the state without noise.
    """
    learn_from, test = (jnp.asarray(one) for one in series)
    cell = stack(learned_carry(gru(hidden_size)), dense(learn_from.shape[1]))
    keys, tx = seed_keys(*seeds), optimizer(task.learning_rate, task.num_steps)
    init = lambda key: cell.init(key, learn_from.shape[1])  # noqa: E731
    states = jax.jit(lambda keys: create_states(init, tx, keys))(jnp.tile(keys, len(kinds)))
    learned = jnp.asarray([float(kind.learned) for kind in kinds for _ in keys])
    noise = jnp.asarray([kind.noise for kind in kinds for _ in keys])

    def squares(params: Any, carry: Any, xs: jax.Array) -> jax.Array:
        return jnp.square(unroll(cell, params, xs[:-1], carry)[1] - xs[1:]).mean(-1)

    def state(params: Any, learned: jax.Array, count: int) -> Any:
        return jax.tree.map(lambda leaf: learned * leaf, cell.init_carry(params, (count,)))

    def loss_fn(params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        (learned, noise), _ = batch
        data_key, noise_key = jax.random.split(key)
        carry = with_noise(state(params, learned, task.batch_size), noise, noise_key)
        return squares(params, carry, windows(learn_from, task.length + 1, task.batch_size, data_key)).mean(), {}

    steps = make_train_steps(loss_fn, tx)
    still = itertools.repeat(jnp.zeros(()))
    states, _ = fit_many(folder, states, steps, (learned, noise), still, task.num_steps)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None))
    def judge(params: Any, learned: jax.Array, tests: jax.Array) -> jax.Array:
        tests = windows(tests, task.length + 1, task.num_tests, jax.random.key(10_000))
        return squares(params, state(params, learned, task.num_tests), tests).mean(-1)

    return np.asarray(judge(states.params, learned, test)).reshape(len(kinds), len(keys), task.length)
