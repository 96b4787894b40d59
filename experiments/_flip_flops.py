"""The task of holding bits: pulses, and what is to be said after each."""

import jax
import jax.numpy as jnp

__all__ = ["flip_flops"]


def flip_flops(
    key: jax.Array, num_bits: int, batch_size: int, num_steps: int, pulse: float
) -> tuple[jax.Array, jax.Array]:
    """Pulses of +1 and -1, and the last pulse of each channel.

    The first step has a pulse in every channel. Otherwise 0 would have to be held until then, and networks make stable
    points for that, too.

    Args:
        key: a PRNG key.
        num_bits: N channels.
        batch_size: B.
        num_steps: T.
        pulse: probability of a pulse in a channel at a step.

    Returns:
        Two arrays [T, B, N].
    """
    shape = (num_steps, batch_size, num_bits)
    sign_key, pulse_key = jax.random.split(key)
    signs = jnp.where(jax.random.bernoulli(sign_key, 0.5, shape), 1.0, -1.0)
    pulses = jnp.where(jax.random.bernoulli(pulse_key, pulse, shape), signs, 0.0).at[0].set(signs[0])

    def hold(state: jax.Array, new: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = jnp.where(new == 0, state, new)
        return state, state

    return pulses, jax.lax.scan(hold, jnp.zeros(shape[1:]), pulses)[1]
