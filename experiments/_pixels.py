"""Networks over frames of pixels, put together from cells, and their training: LRCN, and forecasters of frames."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import Cell, Layer, dense, stream_step, unroll
from rnn_jax.data.batching import batches
from rnn_jax.data.pipeline import stream
from rnn_jax.initializers import lecun_normal
from rnn_jax.metrics import Mean, mean_value
from rnn_jax.products import convolve
from rnn_jax.training import (
    FitInfo,
    Validation,
    create_state,
    fit,
    make_evaluate,
    make_train_step,
    open_checkpoints,
    run_logger,
)


class Convolution(NamedTuple):
    """One convolution of `frame_cnn`."""

    w: jax.Array  # [k, k, I, O]
    b: jax.Array  # [O]


def frame_cnn(frame: tuple[int, int], channels: tuple[int, ...], kernel_size: int = 3, *, flat: bool = True) -> Layer:
    """Convolutions with stride 2 and ReLU over each frame by itself.

    In front of a cell this is a long-term recurrent convolutional network, `serial(frame_cnn(...), layer(lstm(H)))`
    (Donahue et al. 2015, arXiv:1411.4389).

    Args:
        frame: height and width of a frame.
        channels: of each convolution.
        kernel_size: of all of them.
        flat: makes all values of a frame its features; without it, a frame stays a picture.

    Returns:
        A layer xs [T, B, height, width, C] -> [T, B, F], or [T, B, height', width', F].
    """

    def init(key: jax.Array, input_size: int) -> tuple[Convolution, ...]:
        params = []
        for one_key, size in zip(jax.random.split(key, len(channels)), channels, strict=True):
            w = lecun_normal(one_key, (kernel_size, kernel_size, input_size, size)) * 2**0.5
            params.append(Convolution(w=w, b=jnp.zeros(size)))
            input_size = size
        return tuple(params)

    def apply(params: tuple[Convolution, ...], xs: jax.Array, **options: Any) -> tuple[tuple[()], jax.Array]:
        hs = xs
        for one in params:
            hs = jax.nn.relu(convolve(hs, one.w, stride=2) + one.b)
        return (), hs.reshape(*xs.shape[:2], -1) if flat else hs

    def example(input_size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, 1, *frame, input_size), jnp.zeros(()).dtype)

    return Layer(init=init, apply=apply, example=example)


class Forecaster(NamedTuple):
    """A network that reads frames and goes on.

    Attributes:
        init: `(key) -> params`.
        apply: `(params, xs [S, B, *space, F], num_frames) -> logits [num_frames, B, *space, F]`.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array, int], jax.Array]


class ForecasterParams(NamedTuple):
    """Parameters of a `forecaster`."""

    encoder: tuple[Any, ...]
    decoder: tuple[Any, ...]
    readout: Any


def forecaster(make_cell: Callable[[int], Cell], sizes: tuple[int, ...], num_features: int) -> Forecaster:
    """The encoder-forecaster of Shi et al. 2015 (arXiv:1506.04214), of any cell.

    A stack of cells reads the frames. Its final carries are where a second one, turned upside down, starts. That one
    reads the frame before, first the last that was seen and then its own (the conditional decoder of Srivastava et al.
    2015, arXiv:1502.04681), and the outputs of all its layers together give the logits of each pixel.

    Args:
        make_cell: makes a cell of a given size.
        sizes: of the cells that read, bottom first.
        num_features: F.

    Returns:
        The network.
    """
    encoder = [make_cell(size) for size in sizes]
    decoder, readout = encoder[::-1], dense(num_features)

    def init(key: jax.Array) -> ForecasterParams:
        first, second, last = jax.random.split(key, 3)
        keys = jax.random.split(first, len(sizes)), jax.random.split(second, len(sizes))
        inputs = (num_features, *sizes[:-1]), (num_features, *sizes[:0:-1])
        return ForecasterParams(
            encoder=tuple(cell.init(*each) for cell, *each in zip(encoder, keys[0], inputs[0], strict=True)),
            decoder=tuple(cell.init(*each) for cell, *each in zip(decoder, keys[1], inputs[1], strict=True)),
            readout=readout.init(last, sum(sizes)),
        )

    def apply(params: ForecasterParams, xs: jax.Array, num_frames: int) -> jax.Array:
        carries, hs = [], xs
        for cell, one in zip(encoder, params.encoder, strict=True):
            carry, hs = unroll(cell, one, hs)
            carries.append(carry)

        def step(state: tuple[list[Any], jax.Array], _: None) -> tuple[tuple[list[Any], jax.Array], jax.Array]:
            carries, frame = state
            h, following, outputs = frame, [], []
            for cell, one, carry in zip(decoder, params.decoder, carries, strict=True):
                carry, h = stream_step(cell, one, carry, h)
                following.append(carry)
                outputs.append(h)
            logits = readout.project(params.readout, jnp.concatenate(outputs, axis=-1))
            return (following, jax.nn.sigmoid(logits)), logits

        return jax.lax.scan(step, (carries[::-1], xs[-1]), length=num_frames)[1]

    return Forecaster(init, apply)


def to_patches(frames: jax.Array, patch: int) -> jax.Array:
    """Blocks of patch x patch pixels as features: [T, B, height, width] -> [T, B, height / p, width / p, p^2]."""
    *batch, height, width = frames.shape
    blocks = frames.reshape(*batch, height // patch, patch, width // patch, patch)
    return jnp.moveaxis(blocks, -3, -2).reshape(*batch, height // patch, width // patch, patch**2)


def from_patches(blocks: jax.Array, patch: int) -> jax.Array:
    """Undoes `to_patches`."""
    *batch, rows, columns, _ = blocks.shape
    pixels = jnp.moveaxis(blocks.reshape(*batch, rows, columns, patch, patch), -3, -2)
    return pixels.reshape(*batch, rows * patch, columns * patch)


class Schedule(NamedTuple):
    """How a network is trained."""

    num_steps: int
    batch_size: int
    learning_rate: float  # falls to a hundredth along a cosine
    eval_every: int
    max_seconds: float
    seed: int


class Trained(NamedTuple):
    """What came of it."""

    params: Any  # those with the best validation
    test: dict[str, float]
    info: FitInfo


def train_network(
    folder: Path,
    init: Callable[[jax.Array], Any],
    score: Callable[[Any, Any], dict[str, Mean]],
    parts: tuple[Any, Any, Any],
    schedule: Schedule,
) -> Trained:
    """Trains one network by Adam behind a clip at 1, and judges its best state on the test part.

    Args:
        folder: of its log and checkpoints; made if it is missing.
        init: `(key) -> params`.
        score: `(params, batch) -> means`, of which `loss` is minimised and chooses the best state.
        parts: for training, validation and test, each a dict of arrays with the videos along the first axis.
        schedule: see `Schedule`.

    Returns:
        Parameters, test scores, and what `fit` says.
    """
    sizes = [len(next(iter(part.values()))) for part in parts]
    size = min(schedule.batch_size, sizes[0])

    def pick(part: dict[str, np.ndarray], ids: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values[ids] for name, values in part.items()}

    def plan(epoch: int) -> list[np.ndarray]:
        groups = batches(np.ones(sizes[0]), size, schedule.seed, epoch)
        return [ids for ids in groups if len(ids) == size]

    def whole(part: dict[str, np.ndarray], number: int) -> list[dict[str, np.ndarray]]:
        return [pick(part, ids) for ids in np.split(np.arange(number), range(100, number, 100))]

    def loss_fn(params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        means = score(params, batch)
        return mean_value(means["loss"]), {name: mean for name, mean in means.items() if name != "loss"}

    evaluate, valid = make_evaluate(score), whole(parts[1], sizes[1])
    rate = optax.cosine_decay_schedule(schedule.learning_rate, schedule.num_steps, alpha=0.01)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    init_key, train_key = jax.random.split(jax.random.key(schedule.seed))
    folder.mkdir(exist_ok=True)
    with run_logger(folder) as log, open_checkpoints(folder) as checkpoints:
        best, info = fit(
            create_state(init(init_key), tx, train_key),
            make_train_step(loss_fn, tx),
            stream(plan, partial(pick, parts[0])),
            num_steps=schedule.num_steps,
            validation=Validation(lambda params: evaluate(params, valid), schedule.eval_every, "loss"),
            log=log,
            checkpoints=checkpoints,
            max_seconds=schedule.max_seconds,
        )
    return Trained(best.params, evaluate(best.params, whole(parts[2], sizes[2])), info)
