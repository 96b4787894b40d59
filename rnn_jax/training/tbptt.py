"""Truncated backpropagation through time: streams without end, a window at a time."""

from dataclasses import replace
from functools import partial
from typing import Any, Protocol, get_args

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rnn_jax import checks, tree
from rnn_jax.data.windows import Window
from rnn_jax.training.state import TrainState
from rnn_jax.training.steps import Metrics, NotFinite, TrainStep, descend
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params
from rnn_jax.unroll import Auto, unroll, unroll_carries
from rnn_jax.unroll.strategies import Strategy

__all__ = ["WindowLossFn", "make_tbptt_step", "unroll_window"]


class WindowLossFn(Protocol):
    """What is minimised: `loss_fn(params, carry, window, *, key, step) -> (loss, (carry, metrics))`."""

    def __call__(
        self, params: Any, carry: Any, window: Any, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Any, Metrics]]:
        """Computes the loss of one window.

        Args:
          params: pytree of parameters.
          carry: that with which the window starts.
          window: usually a `rnn_jax.data.windows.Window`, [T, B, ...].
          key: the key of this step.
          step: number of updates made so far, int32 scalar.

        Returns:
          the loss (scalar), and the carry with which the next window starts and a dict of `Mean` pairs.
        """
        ...


def make_tbptt_step(
    loss_fn: WindowLossFn, tx: optax.GradientTransformation, *, when_not_finite: NotFinite = "stop"
) -> TrainStep:
    """Builds the compiled step `(state, window) -> (state, metrics)` of truncated backpropagation through time.

    It is that of `make_train_step`, and works in `fit` as that one does, but for the carry: the loss function gets
    `state.carry`, and the carry that it returns is kept for the next window. No gradient flows from a window into the
    one before.

        (loss, (carry, metrics)), grads = value_and_grad(loss_fn)(params, state.carry, window, key=key, step=state.step)

    How windows overlap, and so how far gradients flow, is a matter of the windows: `rnn_jax.data.windows`. Where a
    window has a field `scale` that is not None, it multiplies the update, as a learning rate of its own does.

    Args:
      loss_fn: see `WindowLossFn`; `unroll_window` is its middle.
      tx: the optimizer.
      when_not_finite: as in `make_train_step`; the carry stays as it was too.

    Returns:
      the step. The memory of the given state is reused. The state starts as
      `create_state(params, tx, key, carry=cell.init_carry(params, (B,)))`; with shuffled or independent windows this is
      the wrong step, take `make_train_step`.

    Raises:
      ValueError: at the first call, where the state has no carry, where `loss_fn` returns one of another structure,
        shape or dtype, or a metric under a name that the step adds.

    Example:
      >>> import numpy as np
      >>> from rnn_jax import gru
      >>> from rnn_jax.data.windows import streams, windows
      >>> from rnn_jax.metrics import masked_mean
      >>> from rnn_jax.training import create_state
      >>> cell, tx = gru(4), optax.sgd(0.1)
      >>> def loss_fn(params, carry, window, *, key, step):
      ...     carry, ys = unroll_window(cell, params, window.inputs, carry, window)
      ...     return masked_mean((ys[..., 0] - window.targets) ** 2, window.weights), (carry, {})
      >>> wave = np.sin(np.arange(41, dtype=np.float32))
      >>> series = windows(streams(wave[:-1, None], 2), streams(wave[1:], 2), k1=5, k2=8)
      >>> params = cell.init(jax.random.key(0), 1)
      >>> state = create_state(params, tx, jax.random.key(1), carry=cell.init_carry(params, (2,)))
      >>> step = make_tbptt_step(loss_fn, tx)
      >>> for window in series:
      ...     state, metrics = step(state, window)
      >>> int(state.step), state.carry.shape
      (4, (2, 4))

    References:
      Williams & Peng, An efficient gradient-based algorithm for on-line training of recurrent network trajectories,
      1990: BPTT(k2; k1). There the k2 steps keep the activations of the parameters they were run with, here they are
      run again with the present ones from a carry that is older.
    """
    checks.one_of("when_not_finite", when_not_finite, get_args(NotFinite))

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, window: Any) -> tuple[TrainState, Metrics]:
        if state.carry is None:
            raise ValueError(
                "`state.carry` must be the carry of the first window, such as cell.init_carry(params, (B,)), got None; "
                "give it to create_state"
            )
        key = jax.random.fold_in(state.key, state.step)
        (loss, (carry, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, state.carry, window, key=key, step=state.step
        )
        carry = lax.stop_gradient(_like(carry, state.carry))
        scale = getattr(window, "scale", None)
        after, metrics, finite = descend(tx, state, grads, loss, metrics, when_not_finite, scale)
        return replace(after, carry=tree.where(finite, carry, state.carry)), metrics

    return step


def unroll_window(
    cell: Cell | LinearCell,
    params: Params,
    xs: Array,
    carry: Carry,
    window: Window,
    *,
    burn_in: int = 0,
    method: Strategy = Auto(),
) -> tuple[Carry, Array]:
    """`unroll` over a window, with its borders and its padding, and the carry with which the next window starts.

    Args:
      cell: as for `unroll`.
      params: as for `unroll`; perturbed for the shape of xs, if at all.
      xs: [T, B, I], made from `window.inputs`.
      carry: with which the window starts.
      window: its `resets` and `mask` [T, B] are used (or None), and `advance`: the number of steps after which the next
        window starts, an int32 scalar, or None if that is after all of them.
      burn_in: steps at the start of the window whose only use is a fresh carry, as `Windows.burn_in`: no gradient
        flows through them.
      method: as for `unroll`.

    Returns:
      `(carry, ys)`: the carry after `advance` steps, which with overlapping windows is inside this one, and ys
      [T, B, O] of all steps. With `advance` the carries of all steps are held in memory.

    Raises:
      ValueError: `burn_in` is not in [0, T), and as `unroll`.

    References:
      Kapturowski et al., Recurrent experience replay in distributed reinforcement learning, 2019 (R2D2): burn-in.
    """
    checks.sequence("xs", xs)
    checks.positive("burn_in", burn_in, least=0)
    if burn_in >= xs.shape[0]:
        raise ValueError(f"`burn_in` must be less than the {xs.shape[0]} steps of the window, got {burn_in}")

    def run(carry: Carry, first: int, last: int) -> tuple[Carry, Array, Carry]:
        mask, resets = (None if one is None else jnp.asarray(one)[first:last] for one in (window.mask, window.resets))
        noisy = tree.with_per_step(params, [value[first:last] for value in tree.per_step(params)])
        if window.advance is not None:
            return unroll_carries(cell, noisy, xs[first:last], carry, mask=mask, resets=resets, method=method)
        return *unroll(cell, noisy, xs[first:last], carry, mask=mask, resets=resets, method=method), None

    if not burn_in:
        carry, ys, carries = run(carry, 0, xs.shape[0])
    else:
        before = lax.stop_gradient(run(carry, 0, burn_in))
        carry, *after = run(before[0], burn_in, xs.shape[0])
        ys, carries = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), before[1:], tuple(after))
    if window.advance is None:
        return carry, ys
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, window.advance - 1, keepdims=False), carries), ys


def _like(carry: Any, kept: Any) -> Any:
    """The carry, if it has the structure, shapes and dtypes of the kept one, and is as strongly typed."""
    got, expected = (jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", one) for one in (carry, kept))
    if got != expected:
        raise ValueError(f"`loss_fn` must return a carry like state.carry, {expected}, got {got}")
    return jax.tree.map(lambda leaf, like: lax.convert_element_type(leaf, like.dtype), carry, kept)
