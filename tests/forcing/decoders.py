"""What tests of forcing share: small decoders with random everything, and the loop that `forced_unroll` stands for."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cases import weigh
from comparing import jit, random_params

from rnn_jax import dense, gru, learned_carry, lru, lstm, stack, stream_step, tree, with_dropout
from rnn_jax.forcing import forced_unroll

STEPS, HIDDEN, OUT, EMBEDDED, EXTRA = 5, 3, 4, 2, 2

CELLS = {
    "gru": gru(OUT),
    "lstm": stack(lstm(HIDDEN), dense(OUT)),
    "lru": lru(OUT),
    "stack": stack(learned_carry(gru(HIDDEN)), lru(HIDDEN), dense(OUT)),
    "noisy": stack(with_dropout(gru(HIDDEN), inputs=0.4, zoneout_h=0.3), with_dropout(dense(OUT), inputs=0.4)),
}


class Scene(NamedTuple):
    """The arrays of one call of `forced_unroll`."""

    params: Any
    targets: Any
    start: Any
    carry: Any
    embedding: Any = None
    inputs: Any = None
    lengths: Any = None
    key: Any = None


def scene(cell: Any, tokens: bool, batch: tuple[int, ...] = (4,), *, ragged: bool = True, seed: int = 0) -> Scene:
    """Random arrays in the default precision: T = 5, lengths from 5 down to 0, OUT logits or OUT features."""
    rng = np.random.default_rng(seed)
    size = (EMBEDDED if tokens else OUT) + EXTRA
    params = random_params(cell, size)
    params = cell.perturb(jax.random.key(seed), params, (STEPS, *batch, size))
    shapes = jax.eval_shape(lambda: cell.init_carry(params, batch))
    lengths = np.array([STEPS, 3, 0, 1, 4, 2, STEPS, 3])[: int(np.prod(batch))].reshape(batch)

    def normal(*shape: int) -> Any:
        return jnp.asarray(rng.normal(size=shape))

    def state(leaf: Any) -> Any:
        value = 0.5 * rng.normal(size=leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            value = value + 0.5j * rng.normal(size=leaf.shape)
        return jnp.asarray(value, leaf.dtype)

    return Scene(
        params=params,
        targets=jnp.asarray(rng.integers(OUT, size=(STEPS, *batch))) if tokens else normal(STEPS, *batch, OUT),
        start=jnp.asarray(rng.integers(OUT, size=batch)) if tokens else normal(*batch, OUT),
        carry=jax.tree.map(state, shapes),
        embedding=normal(OUT, EMBEDDED) if tokens else None,
        inputs=normal(STEPS, *batch, EXTRA),
        lengths=jnp.asarray(lengths if ragged else np.full(batch, STEPS)),
        key=jax.random.key(seed + 1),
    )


def call(cell: Any, feedback: Any, scene: Scene, mask: Any) -> Any:
    """`forced_unroll` on a scene."""
    return forced_unroll(
        cell,
        scene.params,
        scene.targets,
        mask,
        scene.carry,
        start=scene.start,
        feedback=feedback,
        embedding=scene.embedding,
        inputs=scene.inputs,
        lengths=scene.lengths,
        key=scene.key,
    )


forced = jit(call, static_argnums=(0, 1))


def floats(scene: Scene) -> tuple[Any, ...]:
    """What of a scene has a gradient."""
    tokens = scene.embedding is not None
    vectors = (None, None) if tokens else (scene.targets, scene.start)
    return scene.params, scene.carry, scene.inputs, scene.embedding, *vectors


def with_floats(scene: Scene, values: tuple[Any, ...]) -> Scene:
    """A scene with other values where there is a gradient."""
    params, carry, inputs, embedding, targets, start = values
    scene = scene._replace(params=params, carry=carry, inputs=inputs, embedding=embedding)
    return scene if embedding is not None else scene._replace(targets=targets, start=start)


def everything(run: Callable[[Scene], Any], scene: Scene) -> Any:
    """`((carry, ys), gradients)` of a loss on all of carry and ys, by all that has a gradient."""

    def loss(values: tuple[Any, ...]) -> Any:
        out = run(with_floats(scene, values))
        return weigh(out), out

    grads, out = jax.grad(loss, has_aux=True, allow_int=True)(floats(scene))
    kept = [leaf for leaf in jax.tree.leaves(grads) if leaf.dtype != jax.dtypes.float0]  # masks of zoneout are boolean
    return out, kept


forced_everything = jit(
    lambda cell, feedback, scene, mask: everything(lambda s: call(cell, feedback, s, mask), scene),
    static_argnums=(0, 1),
)


def encode(scene: Scene, tokens_or_vectors: Any) -> Any:
    """What a decoder reads for its targets."""
    return tokens_or_vectors if scene.embedding is None else scene.embedding[tokens_or_vectors]


def shifted(scene: Scene) -> np.ndarray:
    """What a decoder reads when it is forced everywhere, [T, *batch, I]."""
    scene = jax.tree.map(np.asarray, scene._replace(key=None))
    xs = np.stack([encode(scene, x) for x in [scene.start, *scene.targets[:-1]]])
    return np.concatenate([xs, scene.inputs], axis=-1)


def _step(cell: Any, feedback: Any, scene: Scene, weights: Any, carry: Any, x: Any, t: Any) -> Any:
    """Step t of the loop, and what step t + 1 reads."""
    x = jnp.concatenate([x, scene.inputs[t]], axis=-1)
    carry, y = stream_step(cell, tree.at_step(scene.params, t), carry, x)
    own = feedback(y, jax.random.fold_in(scene.key, t + 1), scene.embedding)
    weight = weights[t + 1][..., None]
    return carry, y, weight * encode(scene, scene.targets[t]) + (1 - weight) * own


_step_once = jit(_step, static_argnums=(0, 1))
_first = jit(lambda scene: encode(scene, scene.start))


def by_loop(cell: Any, feedback: Any, scene: Scene, weights: Any) -> Any:
    """The loop of the docstring over `stream_step`, for whole sequences; each row then keeps its real steps."""
    x, carry, ys, carries = _first(scene), scene.carry, [], [scene.carry]
    weights = np.concatenate([weights, np.zeros_like(weights[:1])])  # one more, for an x that nobody reads
    for t in range(STEPS):
        carry, y, x = _step_once(cell, feedback, scene, weights, carry, x, t)
        carries.append(carry)
        ys.append(y)
    return stop(scene.lengths, carries, ys)


def stop(lengths: Any, carries: list[Any], ys: list[Any]) -> Any:
    """Of T + 1 carries and T outputs, each row's carry after its last real step, and zeros after it."""
    ys, lengths = np.array(ys), np.asarray(lengths)
    for place in np.ndindex(lengths.shape):
        ys[(slice(lengths[place], None), *place)] = 0

    def last(*leaves: Any) -> Any:
        leaf = np.array(leaves)
        return np.array([leaf[(lengths[p], *p)] for p in np.ndindex(lengths.shape)]).reshape(leaf.shape[1:])

    return jax.tree.map(last, *carries), ys


def same(ours: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Two trees of arrays have one structure and, up to `tolerance`, one value; 0 means bit by bit."""
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        if tolerance:
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(one, other)
