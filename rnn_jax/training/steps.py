"""One training step and the evaluation of a data set, compiled once each."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import checks, tree
from rnn_jax.metrics import Mean
from rnn_jax.training.state import TrainState

__all__ = ["LossFn", "Metrics", "NotFinite", "TrainStep", "make_evaluate", "make_train_step"]

Metrics = dict[str, Mean]
"""Named pairs `(total, count)`."""

TrainStep = Callable[[TrainState, Any], tuple[TrainState, Metrics]]
"""`step(state, batch) -> (state, metrics)`."""

NotFinite = Literal["stop", "skip"]
"""What becomes of a step whose loss or gradient is not finite."""

ADDED = ("loss", "grad_norm", "update_norm", "param_norm")


class LossFn(Protocol):
    """What is minimised: `loss_fn(params, batch, *, key, step) -> (loss, metrics)`."""

    def __call__(self, params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> tuple[jax.Array, Metrics]:
        """Computes the loss of one batch.

        Args:
          params: pytree of parameters.
          batch: pytree of arrays, usually time-major [T, B, ...].
          key: the key of this step, for dropout, forcing masks and noise.
          step: number of updates made so far, int32 scalar; schedules are evaluated at it.

        Returns:
          the loss (scalar) and a dict of `Mean` pairs.
        """
        ...


def make_train_step(
    loss_fn: LossFn, tx: optax.GradientTransformation, *, when_not_finite: NotFinite = "stop"
) -> TrainStep:
    """Builds the compiled step `(state, batch) -> (state, metrics)`.

    In Python it is

        key = fold_in(state.key, state.step)
        (loss, metrics), grads = value_and_grad(loss_fn)(params, batch, key=key, step=state.step)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = params + updates

    The memory of the given state is reused for the result (donated): go on with the state that is
    returned, not with the one passed in. Gradients of complex parameters are conjugated, so that
    a step along the negative gradient descends.

    An update whose loss or gradient is not finite is never applied: parameters and the state of the
    optimizer stay as they were.

    Args:
      loss_fn: see `LossFn`.
      tx: the optimizer; it sees the parameters, as weight decay needs.
      when_not_finite: "stop" hands the metrics of such a step on as they are, and `fit` stops there;
        "skip" counts them for nothing, and training goes on. Of N runs in one program (`vmap`) each
        skips its own.

    Returns:
      the step. Its metrics are those of `loss_fn` and, with count 1, `loss`, `grad_norm` (before
      the optimizer, so before any clipping), `update_norm` and `param_norm` (after the update); with
      "skip" also `skipped`, 1 where the update was not applied.

    Raises:
      ValueError: at the first call, where `loss_fn` returns a metric under one of these names.

    Example:
      >>> from rnn_jax.training import create_state
      >>> def loss_fn(params, batch, *, key, step):
      ...     return (params["w"] - batch) ** 2, {}
      >>> tx = optax.sgd(0.25)
      >>> state = create_state({"w": jnp.float32(1.0)}, tx, jax.random.key(0))
      >>> state, metrics = make_train_step(loss_fn, tx)(state, jnp.float32(3.0))
      >>> print(state.params["w"], metrics["loss"].total, metrics["grad_norm"].total)
      2.0 4.0 4.0
    """
    checks.one_of("when_not_finite", when_not_finite, get_args(NotFinite))

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, batch, key=key, step=state.step
        )
        state, metrics, _ = descend(tx, state, grads, loss, metrics, when_not_finite)
        return state, metrics

    return step


def descend(
    tx: optax.GradientTransformation,
    state: TrainState,
    grads: Any,
    loss: jax.Array,
    metrics: Metrics,
    when_not_finite: NotFinite,
    scale: jax.Array | None = None,
) -> tuple[TrainState, Metrics, jax.Array]:
    """One update of the parameters: what every kind of step does once it has a gradient.

    Args:
      tx: the optimizer.
      state: the state before.
      grads: the gradient as `jax.grad` gives it; complex leaves are conjugated here.
      loss: scalar.
      metrics: those of the loss function.
      when_not_finite: as in `make_train_step`.
      scale: scalar that multiplies the update, as a learning rate does. The optimizer gets it as the extra argument
        `update_scale`, so that one that looks at the new parameters (`with_ema`) knows them.

    Returns:
      the state after, its carry untouched; the metrics with those of `ADDED`; whether the update was finite, and so
      applied.

    Raises:
      ValueError: `metrics` has one of these names.
    """
    taken = sorted(set(metrics) & set(ADDED))
    if taken:
        raise ValueError(f"`loss_fn` must not return metrics named {taken}: the step adds {list(ADDED)}")
    grads = jax.tree.map(jnp.conj, grads)
    extra = {} if scale is None else {"update_scale": scale}
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer counts
        updates, opt_state = optax.with_extra_args_support(tx).update(grads, state.opt_state, state.params, **extra)
    if scale is not None:
        updates = scaled(updates, scale)
    params = optax.apply_updates(state.params, updates)
    norms = [optax.tree.norm(part) for part in (grads, updates, params)]
    finite = jnp.isfinite(loss) & jnp.isfinite(norms[0])
    params, opt_state = tree.where(finite, (params, opt_state), (state.params, state.opt_state))
    added = zip(ADDED, (loss, *norms), strict=True)
    metrics = metrics | {name: Mean(total=value, count=jnp.ones_like(value)) for name, value in added}
    if when_not_finite == "skip":
        metrics = tree.where(finite, metrics, jax.tree.map(jnp.zeros_like, metrics))
        metrics["skipped"] = Mean(total=1 - finite.astype(loss.dtype), count=jnp.ones_like(loss))
    return replace(state, step=state.step + 1, params=params, opt_state=opt_state), metrics, finite


def scaled(updates: Any, scale: jax.Array) -> Any:
    """Updates times a scalar, each in its own dtype."""
    return jax.tree.map(lambda update: update * jnp.asarray(scale).astype(update.dtype), updates)


def make_evaluate(
    metrics_fn: Callable[[Any, Any], Metrics],
) -> Callable[[Any, Iterable[Any]], dict[str, Any]]:
    """Builds `evaluate(params, batches) -> {name: mean}` over a whole data set.

    Totals and counts are summed over the batches in float64 on the host and divided once, so
    batches of different size or with different padding weigh what they hold.

    Args:
      metrics_fn: `metrics_fn(params, batch) -> {name: Mean}`, without randomness; compiled once
        for each shape of batch. Under `vmap` over the parameters of N runs its means are arrays [N], and so are those
        that come out.

    Returns:
      the evaluation. It raises `ValueError` where `batches` is empty; a metric that counted
      nothing is 0.

    Example:
      >>> from rnn_jax.metrics import tally
      >>> evaluate = make_evaluate(lambda p, batch: {"error": tally(abs(batch - p), batch > 0)})
      >>> batches = np.array([[1.0, 5.0, -1.0], [3.0, -1.0, -1.0]], np.float32)
      >>> evaluate(np.float32(1.0), batches)
      {'error': 2.0}
    """
    compiled = jax.jit(metrics_fn)

    def evaluate(params: Any, batches: Iterable[Any]) -> dict[str, Any]:
        parts = jax.device_get([compiled(params, batch) for batch in batches])
        if not parts:
            raise ValueError("`batches` must hold at least one batch, got none")
        return {name: mean_on_host([part[name] for part in parts]) for name in parts[0]}

    return evaluate


def mean_on_host(parts: list[Mean]) -> Any:
    """Merges pairs of host scalars (or arrays) in float64 and divides; 0 where nothing was counted."""
    total, count = (sum(np.asarray(part[i], np.float64) for part in parts) for i in (0, 1))
    mean = np.divide(total, count, out=np.zeros_like(count), where=count != 0)
    return float(mean) if mean.ndim == 0 else mean
