"""The state of a training run: everything the next step depends on, and nothing else."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

__all__ = ["TrainState", "copy_state", "create_state"]


@flax.struct.dataclass
class TrainState:
    """What one training step takes and returns.

    Args:
      step: number of updates made so far; int32 scalar.
      params: pytree of parameters.
      opt_state: state of the optimizer, as `tx.init(params)` makes it.
      key: the key of the run; a step derives its own as `fold_in(key, step)`.
      carry: recurrent carry that is kept from one batch to the next (truncated backpropagation),
        or None where every batch starts anew.

    Example:
      >>> import numpy as np
      >>> state = create_state({"w": np.ones(3, np.float32)}, optax.sgd(0.1), jax.random.key(0))
      >>> int(state.replace(step=state.step + 1).step)
      1
    """

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array
    carry: Any = None


def create_state(params: Any, tx: optax.GradientTransformation, key: jax.Array, carry: Any = None) -> TrainState:
    """Builds the state before the first step.

    Arrays are copied: a training step may reuse the memory of its state (donation), and the
    caller's own arrays stay valid.

    Args:
      params: pytree of arrays.
      tx: the optimizer.
      key: a typed key, `jax.random.key(seed)`.
      carry: pytree of arrays kept between batches, or None.

    Returns:
      a `TrainState` at step 0.

    Raises:
      ValueError: `key` is not a single typed key.

    Example:
      >>> import numpy as np
      >>> state = create_state({"w": np.zeros(2, np.float32)}, optax.adam(1e-3), jax.random.key(0))
      >>> int(state.step), state.params["w"].shape
      (0, (2,))
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()):
        got = f"{key.dtype}{list(key.shape)}" if isinstance(key, jax.Array) else type(key).__name__
        raise ValueError(f"`key` must be one typed key such as jax.random.key(0), got {got}")
    params = jax.tree.map(_fresh, params)
    return copy_state(
        TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(params),
            key=key,
            carry=jax.tree.map(_fresh, carry),
        )
    )


def copy_state(state: TrainState) -> TrainState:
    """Copies every array of a state, so that a donating step cannot take this one's memory.

    Args:
      state: any pytree of arrays, usually a `TrainState`.

    Returns:
      an equal state in memory of its own.

    Example:
      >>> import numpy as np
      >>> state = create_state({"w": np.ones(3, np.float32)}, optax.sgd(0.1), jax.random.key(0))
      >>> copy_state(state).params["w"] is state.params["w"]
      False
    """
    return jax.tree.map(jnp.copy, state)


def without_empty(state: Any) -> Any:
    """A tree with None for arrays without elements, which orbax cannot save."""
    return jax.tree.map(lambda leaf: leaf if leaf.size else None, state)


def with_empty(held: Any, like: Any) -> Any:
    """The arrays of a tree that went through `without_empty`, in the structure of another, whose empty ones it gets."""
    rest = iter(jax.tree.leaves(held))
    return jax.tree.map(lambda leaf: next(rest) if leaf.size else leaf, like)


def _fresh(leaf: Any) -> jax.Array:
    """A strongly typed array: a weakly typed one would change its type in the first update."""
    array = jnp.asarray(leaf)
    return jax.lax.convert_element_type(array, array.dtype)
