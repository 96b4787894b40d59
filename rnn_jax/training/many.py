"""Many runs in one program: seeds and settings side by side, by `vmap` over their states."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import checks
from rnn_jax.training.state import TrainState, create_state
from rnn_jax.training.steps import LossFn, Metrics, NotFinite, make_train_step

__all__ = ["create_states", "make_train_steps", "seed_keys"]


def seed_keys(seed: int, num: int) -> jax.Array:
    """The keys of runs with the seeds `seed`, `seed + 1`, ...

    Args:
      seed: the first seed.
      num: how many, N.

    Returns:
      [N] typed keys; number i is `jax.random.key(seed + i)`.

    Example:
      >>> bool(seed_keys(5, 3)[2] == jax.random.key(7))
      True
    """
    checks.positive("num", num)
    return jax.vmap(jax.random.key)(np.arange(seed, seed + num, dtype=np.uint32))


def create_states(
    init: Callable[[jax.Array], Any], tx: optax.GradientTransformation, keys: jax.Array, **hyperparams: Any
) -> TrainState:
    """Builds the states of N runs before their first step.

    Args:
      init: `(key) -> params` of one run.
      tx: the optimizer.
      keys: [N] typed keys, one a run; each is split into one for `init` and one for training.
      **hyperparams: arrays [N], a value for each run, of what `tx` was given by `optax.inject_hyperparams`, such as
        `learning_rate`.

    Returns:
      a `TrainState` whose leaves have a leading axis N.

    Raises:
      ValueError: an array is not [N], or `tx` has no such hyper-parameter.

    Example:
      >>> tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> states = create_states(lambda key: {"w": jax.random.normal(key)}, tx, keys, learning_rate=[0.1, 0.3, 1.0])
      >>> states.params["w"].shape, [round(float(x), 6) for x in states.opt_state.hyperparams["learning_rate"]]
      ((3,), [0.1, 0.3, 1.0])
    """

    def one(key: jax.Array) -> TrainState:
        init_key, train_key = jax.random.split(key)
        return create_state(init(init_key), tx, train_key)

    states = jax.jit(jax.vmap(one))(keys)
    for name, values in hyperparams.items():
        values = jnp.asarray(values)
        if values.shape != keys.shape:
            raise ValueError(f"`{name}` must have a value for each of the runs, {keys.shape}, got shape {values.shape}")
        held = [leaf for _, leaf in optax.tree.get_all_with_path(states.opt_state, name)]
        if not held:
            raise ValueError(f"`tx` must have the hyper-parameter {name} by optax.inject_hyperparams, got none")
        opt_state = optax.tree.set(states.opt_state, **{name: values.astype(held[0].dtype)})
        states = replace(states, opt_state=opt_state)
    return states


def make_train_steps(loss_fn: LossFn, tx: optax.GradientTransformation, *, when_not_finite: NotFinite = "stop") -> Any:
    """Builds the compiled step of N runs on one batch, `(states, settings, batch) -> (states, metrics)`.

    Each run equals one of `make_train_step` alone, up to rounding.

    Args:
      loss_fn: as for `make_train_step`, with a batch `(setting, batch)`: what is this run's own, such as its rate of
        forcing, and what all share.
      tx: the optimizer.
      when_not_finite: as in `make_train_step`, for each run on its own.

    Returns:
      the step; `settings` is a pytree of arrays with a leading axis N, and so is every metric. The memory of the given
      states is reused.

    Example:
      >>> import jax.numpy as jnp
      >>> def loss_fn(params, batch, *, key, step):
      ...     target, scale = batch
      ...     return scale * (params["w"] - target) ** 2, {}
      >>> keys = jax.random.split(jax.random.key(0))
      >>> states = create_states(lambda key: {"w": jnp.float32(0)}, optax.sgd(0.25), keys)
      >>> steps = make_train_steps(loss_fn, optax.sgd(0.25))
      >>> states, _ = steps(states, jnp.array([1.0, 3.0]), jnp.float32(1.0))
      >>> print(states.params["w"])
      [0.5 1.5]
    """
    step = make_train_step(loss_fn, tx, when_not_finite=when_not_finite)

    def one(state: TrainState, setting: Any, batch: Any) -> tuple[TrainState, Metrics]:
        return step(state, (setting, batch))

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None)), donate_argnums=0)
