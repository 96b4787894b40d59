"""The gradient of a large batch in parts, for memory that holds only a part."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks, tree
from rnn_jax.training.steps import LossFn, Metrics

__all__ = ["accumulated"]


_SHARED = object()
"""Stands for the axis None, which a tree would take for no leaf at all."""


def accumulated(loss_fn: LossFn, num: int, metric: str, *, axes: Any = 1) -> LossFn:
    """A loss function that goes through its batch in `num` parts, one after another, and adds up their gradients.

        loss = sum_m count_m loss_m / sum_m count_m         count_m = metrics_m[metric].count

    and so its gradient, which is computed along with each part: memory holds the activations of one. It goes wherever a
    loss function goes, such as `make_train_step(accumulated(loss_fn, 4, "nll"), tx)`.

    It equals the whole batch, up to rounding, where the loss is the mean that this metric is: the loss of any batch
    must be `total / count` with both additive over rows, as `masked_mean` is, however unequal the padding of the parts.
    A term that is no such mean equals it where it is the same for every part (weight decay) or where all counts are
    equal. It does not equal it where rows see each other (batch statistics), nor with dropout or other noise: each part
    draws from a key of its own, `fold_in(key, m)`.

    Args:
      loss_fn: see `LossFn`.
      num: the number of parts; it divides the batch.
      metric: the name of the metric of `loss_fn` whose count its loss was divided by.
      axes: where the batch axis of each array is, as `in_axes` of `jax.vmap`: an integer, None for what all parts
        share, or a tree of them that is a prefix of the batch, for example `Batch(data=1, lengths=0)`. Row r goes to
        part r % num, so that a batch that is sharded over devices stays where it is.

    Returns:
      a loss function whose metrics are merged over the parts. Its loss has a first derivative by the parameters; there
      is no second one, and none by the batch or of the metrics (those are zero).

    Raises:
      ValueError: `num` is not positive; or, when it is called, it does not divide the batch, or `loss_fn` returns no
        such metric.

    Example:
      >>> from rnn_jax.metrics import mean_value, tally
      >>> def loss_fn(params, batch, *, key, step):
      ...     error = tally((batch["x"] - params) ** 2, batch["real"])
      ...     return mean_value(error), {"error": error}
      >>> batch = {"x": jnp.array([[1.0, 2.0, 3.0, 9.0]]), "real": jnp.array([[True, True, True, False]])}
      >>> parts = accumulated(loss_fn, 2, "error")
      >>> [float(jax.grad(f, has_aux=True)(0.0, batch, key=jax.random.key(0), step=0)[0]) for f in (loss_fn, parts)]
      [-4.0, -4.0]

    Notes:
      `optax.MultiSteps(tx, k)` accumulates over calls of the step, with equal weights.
    """
    checks.positive("num", num)
    if num == 1:
        return loss_fn

    def one(params: Any, part: Any, batch: Any, key: Any, step: Any) -> tuple[jax.Array, Any]:
        """The loss of one part, the count that weighs it, and its metrics."""
        index, rows = part
        loss, metrics = loss_fn(params, _join(rows, batch, axes), key=jax.random.fold_in(key, index), step=step)
        if metric not in metrics:
            raise ValueError(f"`metric` must be one of {sorted(metrics)} that loss_fn returns, got {metric!r}")
        dtype = tree.wide(loss.dtype)
        return loss.astype(dtype), (jnp.asarray(metrics[metric].count).astype(dtype), metrics)

    def merged(losses: jax.Array, counts: jax.Array, metrics: Metrics) -> tuple[jax.Array, Metrics]:
        loss = (losses * counts).sum() / _total(counts)
        return loss, jax.tree.map(lambda leaf: leaf.sum(0), metrics)

    @jax.custom_vjp
    def run(params: Any, batch: Any, key: Any, step: Any) -> tuple[jax.Array, Metrics]:
        def body(_: None, part: Any) -> tuple[None, Any]:
            loss, (count, metrics) = one(params, part, batch, key, step)
            return None, (loss, count, metrics)

        return merged(*lax.scan(body, None, _parts(batch, axes, num))[1])

    def forward(params: Any, batch: Any, key: Any, step: Any) -> tuple[Any, Any]:
        def body(summed: Any, part: Any) -> tuple[Any, Any]:
            (loss, (count, metrics)), grads = jax.value_and_grad(one, has_aux=True)(params, part, batch, key, step)
            summed = jax.tree.map(lambda s, g: s + count.astype(s.dtype) * g.astype(s.dtype), summed, grads)
            return summed, (loss, count, metrics)

        params = jax.tree.map(jnp.asarray, params)
        zeros = jax.tree.map(jnp.zeros_like, tree.widen(params, jnp.float32))
        summed, out = lax.scan(body, zeros, _parts(batch, axes, num))
        total = _total(out[1])
        return merged(*out), jax.tree.map(lambda s, p: (s / total.astype(s.dtype)).astype(p.dtype), summed, params)

    def backward(grads: Any, cotangent: Any) -> tuple[Any, None, None, None]:
        return jax.tree.map(lambda g: g * cotangent[0].astype(g.dtype), grads), None, None, None

    run.defvjp(forward, backward)

    def whole(params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> tuple[jax.Array, Metrics]:
        return run(params, batch, key, step)

    return whole


def _total(counts: jax.Array) -> jax.Array:
    """The sum of counts, 1 where nothing was counted."""
    total = counts.sum()
    return jnp.where(total == 0, 1, total)


def _leaf_axes(batch: Any, axes: Any) -> list[int | None]:
    """The batch axis of each leaf of a batch."""
    axes = jax.tree.map(lambda axis: _SHARED if axis is None else axis, axes, is_leaf=lambda axis: axis is None)
    try:
        found = jax.tree.leaves(jax.tree.broadcast(axes, batch))
    except ValueError as error:
        raise ValueError(f"`axes` must be a prefix of the batch {jax.tree.structure(batch)}, got {axes}") from error
    return [None if axis is _SHARED else axis for axis in found]


def _parts(batch: Any, axes: Any, num: int) -> tuple[jax.Array, list[jax.Array]]:
    """The numbers of the parts, and the arrays that have a batch axis cut along it: [num, ..., B // num, ...]."""
    cut = []
    for (path, leaf), axis in zip(jax.tree.leaves_with_path(batch), _leaf_axes(batch, axes), strict=True):
        if axis is None:
            continue
        shape = jnp.shape(leaf)
        if not -len(shape) <= axis < len(shape) or shape[axis] % num:
            where = jax.tree_util.keystr(path) or "the batch"
            raise ValueError(
                f"`num` must divide the batch axis {axis} of every array, got {num} and {shape} at {where}"
            )
        axis %= len(shape)
        rows = jnp.reshape(leaf, (*shape[:axis], shape[axis] // num, num, *shape[axis + 1 :]))
        cut.append(jnp.moveaxis(rows, axis + 1, 0))
    return jnp.arange(num), cut


def _join(rows: list[jax.Array], batch: Any, axes: Any) -> Any:
    """The batch of one part: its rows, and what is shared."""
    leaves, structure = jax.tree.flatten(batch)
    rest = iter(rows)
    shared = [axis is None for axis in _leaf_axes(batch, axes)]
    return jax.tree.unflatten(structure, [leaf if s else next(rest) for leaf, s in zip(leaves, shared, strict=True)])
