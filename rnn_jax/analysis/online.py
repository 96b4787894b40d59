"""Gradients while a sequence arrives: real-time recurrent learning and what approximates it.

An estimator says at every step how the loss of that step changes with the parameters, through all steps before, without
having kept these. It works for any step `(params, h, x) -> h` of one stream; `vmap` it over streams.

| estimator | gradient | memory beside the network | work in a step |
|---|---|---|---|
| `rtrl` | exact | D P | D^2 P |
| `snap1` | of paths that stay with the units that a parameter acts on | K P | K^2 P and D gradients of a step |
| `e_prop` | the same, and not through the recurrent weights | K P | as `snap1` |
| `uoro` | unbiased, noisy | D + P | 2 gradients of a step |
| `truncated` | exact for the last n steps | n inputs and n carries | n steps |

D numbers in the carry, P parameters, K units of the carry that a parameter acts on at once (RNN: 1, LSTM: 2).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import checks
from rnn_jax.analysis.vectors import as_vector
from rnn_jax.gated_step import GatedStep
from rnn_jax.products import recurrent
from rnn_jax.types import Cell

__all__ = ["OnlineGradient", "OnlineStep", "e_prop", "rtrl", "snap1", "split_gated", "truncated", "uoro"]

ParamStep = Callable[[Any, Any, Any], Any]
"""`(params, h, x) -> h`."""
StepLoss = Callable[[Any, Any, Any], jax.Array]
"""`(params, h, target) -> scalar`, from the carry after the step."""


_PROBES = 64


class OnlineStep(NamedTuple):
    """What one step gives: the next carry and memory, the gradient of this step's loss, and the loss."""

    carry: Any
    memory: Any
    grads: Any
    loss: jax.Array


class OnlineGradient(NamedTuple):
    """An estimator of gradients.

    Attributes:
        init: `(params, carry, x) -> memory`, before the first step; x is an input of the right shape. Not to be traced.
        update: `(params, carry, memory, x, target, key) -> OnlineStep`. Parameters may change between steps. `uoro`
            uses the key, which must be another one at every step.
    """

    init: Callable[[Any, Any, Any], Any]
    update: Callable[[Any, Any, Any, Any, Any, Any], OnlineStep]


class _Vectors(NamedTuple):
    """A step and a loss over vectors of parameters and carries."""

    step: Callable[[jax.Array, jax.Array, Any], jax.Array]
    loss: Callable[[jax.Array, jax.Array, Any], jax.Array]
    p: jax.Array
    v: jax.Array
    params: Callable[[jax.Array], Any]
    carry: Callable[[jax.Array], Any]


def _vectors(step: ParamStep, loss: StepLoss, params: Any, carry: Any) -> _Vectors:
    p, back_p = as_vector(params)
    v, back_v = as_vector(carry)
    return _Vectors(
        step=lambda p, v, x: as_vector(step(back_p(p), back_v(v), x))[0].astype(v.dtype),
        loss=lambda p, v, target: loss(back_p(p), back_v(v), target),
        p=p,
        v=v,
        params=back_p,
        carry=back_v,
    )


def rtrl(step: ParamStep, loss: StepLoss) -> OnlineGradient:
    """Real-time recurrent learning: the exact gradient, carried forward.

        M_t = J_t M_{t-1} + dF/dparams,    M = dh/dparams,    gradient = dL/dh M + dL/dparams

    With parameters that stay, the gradients of all steps add up to that of backpropagation through time.

    Args:
      step: `(params, h, x) -> h`.
      loss: `(params, h, target) -> scalar`.

    Returns:
      the estimator.

    Example:
      >>> step, loss = (lambda w, h, x: w * h + x), (lambda w, h, target: (h * target).sum())
      >>> online, w, h, memory = rtrl(step, loss), jnp.array([0.5]), jnp.zeros(1), None
      >>> memory = online.init(w, h, h)
      >>> for x in (1.0, 1.0, 1.0):
      ...     h, memory, grads, _ = online.update(w, h, memory, jnp.array([x]), 1.0, None)
      >>> print(h, grads)  # h = 1 + w + w^2
      [1.75] [2.]

    References:
      Williams & Zipser, A learning algorithm for continually running fully recurrent neural networks, 1989.
    """

    def init(params: Any, carry: Any, x: Any) -> jax.Array:
        del x
        net = _vectors(step, loss, params, carry)
        return jnp.zeros((len(net.v), len(net.p)), net.v.dtype)

    def update(params: Any, carry: Any, memory: jax.Array, x: Any, target: Any, key: Any = None) -> OnlineStep:
        del key
        net = _vectors(step, loss, params, carry)
        direct, through = jax.jacrev(net.step, argnums=(0, 1))(net.p, net.v, x)
        memory = through @ memory + direct.astype(memory.dtype)
        after = net.step(net.p, net.v, x)
        value, (by_p, by_v) = jax.value_and_grad(net.loss, argnums=(0, 1))(net.p, after, target)
        grads = by_p + (by_v @ memory).astype(by_p.dtype)
        return OnlineStep(net.carry(after), memory, net.params(grads), value)

    return OnlineGradient(init, update)


class Influence(NamedTuple):
    """dh/dparams on the units that each parameter acts on at once."""

    units: jax.Array  # [P, K] int32
    real: jax.Array  # [P, K], False where a parameter acts on fewer than K units
    values: jax.Array  # [P, K]


def _sparse(step: ParamStep, loss: StepLoss, through: ParamStep) -> OnlineGradient:
    """`rtrl` with M on the pattern of dF/dparams only; `through` is the step whose Jacobian carries it on."""

    def init(params: Any, carry: Any, x: Any) -> Influence:
        net = _vectors(step, loss, params, carry)
        rng = np.random.default_rng(0)
        acts = np.zeros((len(net.v), len(net.p)), bool)
        derivative = jax.jit(jax.jacrev(net.step))
        for scale in np.geomspace(0.3, 3, _PROBES):  # a unit that is off at one place is on at another
            noisy = [one + scale * rng.normal(size=one.shape).astype(one.dtype) for one in (net.p, net.v)]
            noise = jax.tree.map(lambda leaf, by=scale: leaf + by * rng.normal(size=jnp.shape(leaf)), x)
            noise = jax.tree.map(lambda leaf, like: jnp.asarray(leaf, jnp.result_type(like)), noise, x)
            acts |= np.asarray(derivative(*noisy, noise)) != 0
        most = max(1, int(acts.sum(0).max()))
        order = np.argsort(~acts, axis=0, kind="stable")[:most].T
        real = np.take_along_axis(acts.T, order, axis=1)
        return Influence(jnp.asarray(order, jnp.int32), jnp.asarray(real), jnp.zeros(order.shape, net.v.dtype))

    def update(params: Any, carry: Any, memory: Influence, x: Any, target: Any, key: Any = None) -> OnlineStep:
        del key
        net = _vectors(step, loss, params, carry)
        carried = _vectors(through, loss, params, carry).step
        direct = jax.jacrev(net.step)(net.p, net.v, x)
        jacobian = jax.jacfwd(carried, argnums=1)(net.p, net.v, x)
        units = memory.units
        moved = (jacobian[units[:, :, None], units[:, None, :]] * memory.values[:, None, :]).sum(-1)
        direct = jnp.take_along_axis(direct.T, units, axis=1).astype(moved.dtype)
        values = jnp.where(memory.real, moved + direct, 0)
        after = net.step(net.p, net.v, x)
        value, (by_p, by_v) = jax.value_and_grad(net.loss, argnums=(0, 1))(net.p, after, target)
        grads = by_p + (by_v[units] * values).sum(-1).astype(by_p.dtype)
        return OnlineStep(net.carry(after), memory._replace(values=values), net.params(grads), value)

    return OnlineGradient(init, update)


def snap1(step: ParamStep, loss: StepLoss) -> OnlineGradient:
    """SnAp-1: `rtrl` that keeps the influence of a parameter on those units only that it acts on at once.

    Exact where units do not see each other, as in `ind_rnn` and the diagonal linear cells.

    Args:
      step, loss: as for `rtrl`.

    Returns:
      the estimator. Its `init` finds the pattern by taking derivatives at random numbers.

    References:
      Menick et al., A practical sparse approximation for real time recurrent learning, 2021, arXiv:2006.07232.
    """
    return _sparse(step, loss, step)


def e_prop(split_step: Callable[[Any, Any, Any, Any], Any], loss: StepLoss) -> OnlineGradient:
    """e-prop, with the true derivative of the loss as its learning signal; for a leaky RNN this is RFLO's trace.

    Influence is carried on by what a unit does to itself and not through the recurrent weights.

    Args:
      split_step: `(params, h, h_recurrent, x) -> h`: a step that is given the carry twice, and uses the second one
        where it goes through recurrent weights. `split_gated` makes it of a gated cell.
      loss: as for `rtrl`.

    Returns:
      the estimator.

    References:
      Bellec et al., A solution to the learning dilemma for recurrent networks of spiking neurons, 2020; Murray, Local
      online learning in recurrent networks with random feedback, 2019 (RFLO). Both send the learning signal back by
      fixed random weights, too, which here a loss may do.
    """

    def step(params: Any, h: Any, x: Any) -> Any:
        return split_step(params, h, h, x)

    def local(params: Any, h: Any, x: Any) -> Any:
        return split_step(params, h, lax.stop_gradient(h), x)

    return _sparse(step, loss, local)


def split_gated(cell: Cell) -> Callable[[Any, Any, Any, Any], Any]:
    """The step of a gated cell as `e_prop` takes it.

    Args:
      cell: `elman`, `lstm`, `gru` or another cell whose step is a `GatedStep`.

    Returns:
      `(params, h, h_recurrent, x) -> h`.

    Raises:
      ValueError: the step of the cell is another one.
    """
    step = cell.step
    if not isinstance(step, GatedStep):
        raise ValueError("`cell` must have a `GatedStep` as its step, as elman, lstm and gru have")

    def split(params: Any, h: Any, h_recurrent: Any, x: Any) -> Any:
        z = jax.tree.map(lambda leaf: leaf[0], cell.project(params, x[None]))
        hz = recurrent(step.hidden(h_recurrent), step.kernel(params), z.dtype)
        own = step.part(params)
        return step.after(own, h, step.gates(own, z.astype(hz.dtype), hz))

    return split


class Rank1(NamedTuple):
    """dh/dparams as an outer product of two random vectors."""

    by_h: jax.Array  # [D]
    by_p: jax.Array  # [P]


def uoro(step: ParamStep, loss: StepLoss, *, epsilon: float = 1e-7) -> OnlineGradient:
    """Unbiased online recurrent optimization: `rtrl` in one random rank, right on the average over its signs.

        h~ <- r0 J h~ + r1 s,    p~ <- p~ / r0 + s dF/dparams / r1,    s random signs

    r0 and r1 make the variance small: r0^2 = |p~| / |J h~|, r1^2 = |s dF/dparams| / |s|.

    Args:
      step, loss: as for `rtrl`.
      epsilon: keeps the ratios finite.

    Returns:
      the estimator.

    References:
      Tallec & Ollivier, Unbiased online recurrent optimization, 2018, arXiv:1702.05043.
    """

    def init(params: Any, carry: Any, x: Any) -> Rank1:
        del x
        net = _vectors(step, loss, params, carry)
        return Rank1(jnp.zeros_like(net.v), jnp.zeros_like(net.p))

    def update(params: Any, carry: Any, memory: Rank1, x: Any, target: Any, key: Any) -> OnlineStep:
        checks.prng_key(key)
        net = _vectors(step, loss, params, carry)
        after, moved = jax.jvp(lambda v: net.step(net.p, v, x), (net.v,), (memory.by_h,))
        signs = jax.random.rademacher(key, net.v.shape, net.v.dtype)
        _, pull = jax.vjp(lambda p: net.step(p, net.v, x), net.p)
        (direct,) = pull(signs)
        size = jnp.linalg.norm
        r0 = jnp.sqrt((size(memory.by_p) + epsilon) / (size(moved) + epsilon))
        r1 = jnp.sqrt((size(direct) + epsilon) / (size(signs) + epsilon))
        by_h = r0.astype(moved.dtype) * moved + r1.astype(moved.dtype) * signs
        by_p = memory.by_p / r0.astype(direct.dtype) + direct / r1.astype(direct.dtype)
        value, (grad_p, grad_v) = jax.value_and_grad(net.loss, argnums=(0, 1))(net.p, after, target)
        grads = grad_p + (grad_v @ by_h).astype(by_p.dtype) * by_p
        return OnlineStep(net.carry(after), Rank1(by_h, by_p), net.params(grads), value)

    return OnlineGradient(init, update)


class Recent(NamedTuple):
    """The last inputs, and the carry before them."""

    carries: Any  # leaves [n, ...]: the carry before each of the last n steps
    xs: Any  # leaves [n, ...]
    count: jax.Array  # how many of them are real


def truncated(step: ParamStep, loss: StepLoss, num_steps: int) -> OnlineGradient:
    """Truncated backpropagation at every step: exact through the last n steps, nothing before.

    Args:
      step, loss: as for `rtrl`.
      num_steps: n. 1 is the gradient of the step alone.

    Returns:
      the estimator. It runs the last n steps again at every step, with the parameters of now.
    """
    checks.positive("num_steps", num_steps)

    def init(params: Any, carry: Any, x: Any) -> Recent:
        del params

        def room(leaf: Any) -> jax.Array:
            return jnp.zeros((num_steps, *jnp.shape(leaf)), jnp.result_type(leaf))

        return Recent(jax.tree.map(room, carry), jax.tree.map(room, x), jnp.int32(0))

    def update(params: Any, carry: Any, memory: Recent, x: Any, target: Any, key: Any = None) -> OnlineStep:
        del key

        def push(kept: jax.Array, new: Any) -> jax.Array:
            return jnp.concatenate([kept[1:], jnp.asarray(new, kept.dtype)[None]])

        carries, xs = jax.tree.map(push, memory.carries, carry), jax.tree.map(push, memory.xs, x)
        count = jnp.minimum(memory.count + 1, num_steps)
        first = num_steps - count

        def last(params: Any) -> tuple[jax.Array, Any]:
            start = jax.tree.map(lambda leaf: leaf[first], carries)

            def one(h: Any, inputs: tuple[Any, jax.Array]) -> tuple[Any, None]:
                x, number = inputs
                after = step(params, h, x)
                return jax.tree.map(lambda new, old: jnp.where(number >= first, new, old), after, h), None

            h, _ = lax.scan(one, start, (xs, jnp.arange(num_steps, dtype=first.dtype)))
            return loss(params, h, target), h

        grads, h = jax.grad(last, has_aux=True)(params)
        after = step(params, carry, x)
        return OnlineStep(after, Recent(carries, xs, count), grads, loss(params, h, target))

    return OnlineGradient(init, update)
