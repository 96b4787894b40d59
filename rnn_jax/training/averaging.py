"""Averages of the parameters over training, kept in the state of the optimizer.

So they are saved, sharded and mapped over seeds with it, and no loop needs to know of them.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnn_jax import checks, tree
from rnn_jax.training.steps import scaled

__all__ = ["AverageState", "averaged_params", "with_ema", "with_mean"]


class AverageState(NamedTuple):
    """The state of an optimizer that keeps an average."""

    tx: Any  # the state of the optimizer inside
    count: jax.Array  # int32 scalar, updates made
    params: Any  # the average, at least float32; like the parameters


def with_ema(tx: optax.GradientTransformation, decay: float = 0.999) -> optax.GradientTransformationExtraArgs:
    """An optimizer that also keeps an exponential moving average of the parameters it makes.

        average_n = (1 - decay) / (1 - decay^n) sum_k decay^(n - k) params_k        k = 1 ... n

    which is the average started from zero with its bias corrected (Adam's way): after one update it is the parameters,
    and early averages hold nothing of the initial ones. Before the first update it is the initial parameters.

    Args:
      tx: the optimizer, whose updates do not change. In an `optax.chain` the average must be its last link or around
        it: later links would change the parameters behind its back.
      decay: in [0, 1); about 1 / (1 - decay) updates count.

    Returns:
      the optimizer; read the average with `averaged_params`.

    Raises:
      ValueError: `decay` is not in [0, 1), or from `update`, where it does not get the parameters.

    Example:
      >>> tx = with_ema(optax.sgd(1.0), 0.5)
      >>> params = jnp.array(8.0)
      >>> state = tx.init(params)
      >>> for gradient in (2.0, 3.0):  # the parameters are 6, then 3
      ...     updates, state = tx.update(jnp.array(gradient), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(averaged_params(state))  # (6 / 2 + 3) / (1 / 2 + 1)
      4.0

    References:
      Polyak & Juditsky, Acceleration of stochastic approximation by averaging, 1992; Kingma & Ba, Adam, 2015,
      arXiv:1412.6980, section 7.2 (the moving average of parameters and its correction).
    """
    checks.fraction("decay", decay)

    log = math.log(decay) if decay else -math.inf

    def weight(count: jax.Array) -> jax.Array:
        return (1 - decay) / -jnp.expm1(count.astype(jnp.float32) * log)

    return _with_average(tx, weight)


def with_mean(
    tx: optax.GradientTransformation, start: int = 0, *, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that also keeps the plain mean of the parameters it makes, from an update on.

        average_n = mean(params_k for k in start, start + every, start + 2 every, ... up to n)

    With `every=1` it is the averaged SGD of Polyak and of AWD-LSTM (there started when validation stalls), with a
    constant or cyclic learning rate and `every` an epoch or a cycle it is stochastic weight averaging (SWA).

    Args:
      tx: the optimizer, whose updates do not change; placed as for `with_ema`.
      start: the first update (1 is the first of all) whose result is in the mean. Before it, the average is the
        parameters themselves. 0 counts the initial parameters too.
      every: updates between two that count.

    Returns:
      the optimizer; read the mean with `averaged_params`.

    Raises:
      ValueError: `start` or `every` is no such number, or from `update`, where it does not get the parameters.

    Example:
      >>> tx = with_mean(optax.sgd(1.0), start=2)
      >>> params = jnp.array(8.0)
      >>> state = tx.init(params)
      >>> for gradient in (2.0, 3.0, 1.0):  # the parameters are 6, 3, 2
      ...     updates, state = tx.update(jnp.array(gradient), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(averaged_params(state))
      2.5

    References:
      Izmailov et al., Averaging weights leads to wider optima and better generalization, 2018, arXiv:1803.05407 (SWA);
      Merity, Keskar & Socher, Regularizing and optimizing LSTM language models, 2018, arXiv:1708.02182.
    """
    checks.positive("start", start, least=0)
    checks.positive("every", every)

    def weight(count: jax.Array) -> jax.Array:
        since = count - start
        mean = 1 / (jnp.maximum(since, 0) // every + 1).astype(jnp.float32)
        return jnp.where(since <= 0, jnp.float32(1), jnp.where(since % every == 0, mean, jnp.float32(0)))

    return _with_average(tx, weight)


def averaged_params(opt_state: Any) -> Any:
    """The average that `with_ema` or `with_mean` keeps.

    Args:
      opt_state: the state of the optimizer, such as `state.opt_state`, with the average anywhere inside.

    Returns:
      the averaged parameters, like the parameters but at least float32. They share memory with the state: `copy_state`
      them to keep them beyond the next (donating) step.

    Raises:
      ValueError: there is no average inside, or more than one.

    Example:
      >>> tx = optax.chain(optax.clip_by_global_norm(1.0), with_ema(optax.adam(1e-3)))
      >>> averaged_params(tx.init({"w": jnp.ones(2)}))
      {'w': Array([1., 1.], dtype=float32)}
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_average)
    found = [node for node in nodes if _is_average(node)]
    if len(found) != 1:
        raise ValueError(
            f"`opt_state` must hold one average, of an optimizer made by with_ema or with_mean, got {len(found)}"
        )
    return found[0].params


def _is_average(node: Any) -> bool:
    return isinstance(node, AverageState)


def _with_average(
    tx: optax.GradientTransformation, weight: Callable[[jax.Array], jax.Array]
) -> optax.GradientTransformationExtraArgs:
    """Moves the average by `weight(count)` of the way to the parameters after each update, count = 1, 2, ..."""
    inner = optax.with_extra_args_support(tx)

    def init(params: Any) -> AverageState:
        average = jax.tree.map(jnp.copy, tree.widen(params, jnp.float32))
        return AverageState(tx=inner.init(params), count=jnp.zeros((), jnp.int32), params=average)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("`params` must be given to the update of an optimizer with an average, got None")
        updates, inner_state = inner.update(updates, state.tx, params, **extra)
        made = scaled(updates, extra["update_scale"]) if "update_scale" in extra else updates
        count = jnp.asarray(optax.safe_increment(state.count))
        towards = weight(count)

        def move(average: jax.Array, new: jax.Array) -> jax.Array:
            new = new.astype(average.dtype)
            if not jnp.issubdtype(average.dtype, jnp.inexact):
                return new
            part = towards.astype(average.dtype)
            moved = average + part * (new - average)
            return jnp.where(towards == 1, new, jnp.where(towards == 0, average, moved))

        average = jax.tree.map(move, state.params, optax.apply_updates(params, made))
        return updates, AverageState(tx=inner_state, count=count, params=average)

    return optax.GradientTransformationExtraArgs(init, update)
