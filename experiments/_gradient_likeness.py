"""How like the exact gradient those of estimators are."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._online_learning import KEEP, Estimator, Network, Params, go_on, rounds
from rnn_jax.analysis import as_vector

__all__ = ["Likeness", "cosine", "likeness"]


class Likeness(NamedTuple):
    """Gradients of estimators beside the exact one, for N networks.

    Attributes:
        whole: [N] cosines by estimator, of all parameters.
        far: [N] cosines by estimator, of the input weights of the mark; 0 where the estimate is 0.
        draws: [K] numbers of draws of UORO.
        of_means: [M, K] cosines of the mean of so many draws, for the first networks.
        variance: [M] variance of UORO, summed over parameters, as a part of the squared size of the gradient.
        off: [M] how far the mean of all draws is from the gradient, over what that variance makes one expect.
    """

    whole: dict[str, np.ndarray]
    far: dict[str, np.ndarray]
    draws: np.ndarray
    of_means: np.ndarray
    variance: np.ndarray
    off: np.ndarray


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of vectors [..., P]; 0 where one is 0."""
    sizes = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(-1) / np.where(sizes > 0, sizes, 1)


def likeness(
    network: Network,
    made: Mapping[str, Estimator],
    params: Params,
    delay: int,
    num_draws: int,
    key: jax.Array,
    num_rounds: int = 4,
) -> Likeness:
    """Gradients of some rounds of one stream for each network.

    Args:
        network: the network.
        made: estimators by name, bptt among them.
        params: of N networks, leaves [N, ...].
        delay: of the task.
        num_draws: of the signs of UORO, for the first five networks.
        key: for the streams and the signs.
        num_rounds: how many.

    Returns:
        The likeness.
    """
    memories = {name: one.memory(network) for name, one in made.items()}
    data_key, sign_key = jax.random.split(key)

    def gradient(name: str, params: Params, batch: Any, signs: jax.Array) -> Params:
        held = (network.cell.init_carry(params.cell, ()), memories[name])
        carry, memory = jax.tree.map(lambda leaf: leaf[None], held)
        return go_on(network, made[name].online, params, carry, memory, batch, signs)[2]

    @jax.jit
    def of_all(params: Params, data_key: jax.Array, signs: jax.Array) -> Any:
        batch = rounds(data_key, num_rounds, delay, len(params.b))
        batch = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0)[:, :, None], batch)

        def of_one(params: Params, batch: Any, signs: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
            found = {name: gradient(name, params, batch, signs) for name in made}
            return {name: (as_vector(grads)[0], grads.cell.w_x[KEEP]) for name, grads in found.items()}

        return jax.vmap(of_one)(params, batch, signs), batch

    found, batch = of_all(params, data_key, jax.random.split(sign_key, len(params.b)))
    found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)
    exact, exact_far = found["bptt"]
    draws, of_means, variance, off = np.zeros(0, int), np.zeros((0, 0)), np.zeros(0), np.zeros(0)
    if "uoro" in made:
        one = lambda params, batch, signs: as_vector(gradient("uoro", params, batch, signs))[0]  # noqa: E731
        many = jax.jit(jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None)))
        few = jax.tree.map(lambda leaf: leaf[:5], (params, batch))
        noisy = np.asarray(many(*few, jax.random.split(sign_key, num_draws)), np.float64)
        exact = exact[: len(noisy)]
        draws = np.unique(np.geomspace(1, num_draws, 25).astype(int))
        of_means = cosine(noisy.cumsum(1)[:, draws - 1] / draws[:, None], exact[:, None])
        variance = noisy.var(1).sum(-1) / np.square(exact).sum(-1)
        bias = np.square(noisy.mean(1) - exact).sum(-1) / np.square(exact).sum(-1)
        off = np.sqrt(bias / (variance / num_draws))
    return Likeness(
        {name: cosine(found[name][0], found["bptt"][0]) for name in made},
        {name: cosine(found[name][1], exact_far) for name in made},
        draws,
        of_means,
        variance,
        off,
    )
