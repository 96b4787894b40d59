"""Mixed precision: half of the bits for the computation, all of them for what is kept."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from rnn_jax import tree

__all__ = ["in_precision"]

F = TypeVar("F", bound=Callable[..., Any])


def in_precision(loss_fn: F, dtype: Any = jnp.bfloat16, *, keep: Sequence[str] = ("targets", "weights")) -> F:
    """A loss function that computes in bfloat16 and is trained in float32.

        loss_fn(cast(params), ..., cast(batch))

    The optimizer keeps its float32 parameters and moments: the gradient comes back through the cast, in float32. The
    carries of cells stay float32 whatever they are given, and so does a carry that the loss function takes and returns
    (`make_tbptt_step`). The loss and the metrics are float32; that they are summed so is the business of `loss_fn`:
    `token_nll`, `tally` and `masked_mean` do it.

    Args:
      loss_fn: `(params, batch, *, key, step) -> (loss, metrics)` or, with a carry,
        `(params, carry, window, *, key, step) -> (loss, (carry, metrics))`.
      dtype: `jnp.bfloat16`, or `jnp.float32`, which changes nothing.
      keep: names of fields or keys, anywhere in the parameters or the batch, whose arrays are not cast: what a loss
        compares with rather than computes with, and parameters that are sensitive. Of linear cells those are what
        the decay is made of, such as `nu_log`, `theta_log` and `gamma_log` of `lru` or `decay` of `rg_lru`: with
        |lambda| from 0.9 to 0.999 they bring the error of an `lru`'s gradient from 16 % down to 1 %.

    Returns:
      a loss function of the same signature.

    Raises:
      ValueError: another dtype; or, when it is called, a name in `keep` (but "targets" and "weights") that no field of
        the parameters and the batch has. float16 is refused: gradients below 6e-8 are zero in it, so that it needs its
        loss scaled, which bfloat16, with the range of float32, does not.

    Example:
      >>> def loss_fn(params, batch, *, key, step):
      ...     print(params["w"].dtype, batch["xs"].dtype, batch["targets"].dtype)
      ...     ys = (batch["xs"] @ params["w"]).astype(jnp.float32)
      ...     return ((ys - batch["targets"]) ** 2).mean(), {}
      >>> params = {"w": jnp.ones(3)}
      >>> batch = {"xs": jnp.ones((4, 3)), "targets": jnp.zeros(4)}
      >>> jax.grad(lambda p: in_precision(loss_fn)(p, batch, key=None, step=None)[0])(params)["w"].dtype
      bfloat16 bfloat16 float32
      dtype('float32')

    References:
      Micikevicius et al., Mixed precision training, 2018, arXiv:1710.03740; Kalamkar et al., A study of bfloat16 for
      deep learning training, 2019, arXiv:1905.12322.
    """
    if isinstance(keep, str):
        raise ValueError(f"`keep` must be a sequence of names, got the string {keep!r}")
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = repr(dtype)
    if name not in ("bfloat16", "float32"):
        why = "; float16 would need loss scaling, bfloat16 does not" if name == "float16" else ""
        raise ValueError(f"`dtype` must be jnp.bfloat16 or jnp.float32, got {name}{why}")

    def wrapped(params: Any, *rest: Any, key: Any, step: Any) -> Any:
        *carry, batch = rest
        missing = set(keep) - {"targets", "weights"} - _names((params, batch))
        if missing:
            raise ValueError(f"`keep` must name fields of the parameters or the batch, got {sorted(missing)}")
        loss, aux = loss_fn(_cast(params, dtype, keep), *carry, _cast(batch, dtype, keep), key=key, step=step)
        return tree.widen(jax.tree.map(jnp.asarray, (loss, aux)), jnp.float32)

    wrapped_fn: Any = wrapped
    return wrapped_fn


def _entry_names(path: tuple[Any, ...]) -> set[str]:
    """The names of fields and keys on the way to a leaf."""
    return {str(getattr(entry, "name", getattr(entry, "key", ""))) for entry in path}


def _names(values: Any) -> set[str]:
    return set().union(*(_entry_names(path) for path, _ in jax.tree.leaves_with_path(values)))


def _cast(values: Any, dtype: Any, keep: Sequence[str]) -> Any:
    def one(path: tuple[Any, ...], leaf: Any) -> Any:
        return leaf if _entry_names(path) & set(keep) else tree.cast(jnp.asarray(leaf), dtype)

    return jax.tree.map_with_path(one, values)
