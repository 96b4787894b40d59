"""Moving digits: videos of real handwritten digits that fly through a box and bounce off its walls."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rnn_jax.data.digits import Digits

__all__ = ["MovingDigits", "moving_digits", "render"]


class MovingDigits(NamedTuple):
    """N videos of T frames with D digits each; y counts downwards, places are those of the upper left corner."""

    frames: np.ndarray  # [N, T, size, size] uint8, 255 for ink; where digits overlap, the darker one counts
    labels: np.ndarray  # [N, D] uint8: which digits they are
    chosen: np.ndarray  # [N, D] integers: which pictures were taken
    places: np.ndarray  # [N, T, D, 2] float64: (x, y) in pixels; a frame shows them rounded
    velocities: np.ndarray  # [N, T, D, 2] float64: pixels a frame, on arriving at that place


def moving_digits(
    digits: Digits,
    num_videos: int,
    num_frames: int,
    size: int,
    *,
    num_digits: int = 1,
    speed: tuple[float, float] = (1.0, 2.0),
    headings: int | None = None,
    seed: int = 0,
) -> MovingDigits:
    """Videos in which digits start anywhere, fly straight at constant speed and are reflected by the walls.

    Places and headings are independent of each other in every frame: a single frame does not tell where a digit goes.
    That holds since uniform places in a box stay uniform under reflection, and since the headings are a set that
    reflections keep.

    Args:
        digits: pictures [P, h, w], of which each digit is one, with equal probability.
        num_videos: N.
        num_frames: T.
        size: height and width of a frame in pixels, at least those of a picture.
        num_digits: D.
        speed: the least and the greatest speed in pixels a frame, drawn evenly; at most size - w.
        headings: how many directions a digit may fly to, evenly apart, the first to the right; an even number, so that
            reflections keep them. None: any.
        seed: the same arguments give the same videos.

    Returns:
        The videos.

    Raises:
        ValueError: if an argument makes no sense; there must be room for a digit to move.

    Example:
        >>> dot = Digits(np.full((1, 2, 2), 255, np.uint8), np.array([7], np.uint8))
        >>> videos = moving_digits(dot, num_videos=3, num_frames=5, size=6, headings=4)
        >>> videos.frames.shape, (videos.frames > 0).sum((2, 3)).max()
        ((3, 5, 6, 6), np.int64(4))

    References:
        Srivastava, Mansimov & Salakhutdinov, Unsupervised learning of video representations using LSTMs, 2015,
        arXiv:1502.04681, whose Moving MNIST has 64 x 64 pixels and two digits.
    """
    for name, value in (("num_videos", num_videos), ("num_frames", num_frames), ("num_digits", num_digits)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    room = size - max(digits.images.shape[1:])
    if room < 1:
        raise ValueError(f"`size` must be larger than the pictures, {digits.images.shape[1:]}, got {size}")
    if not 0 < speed[0] <= speed[1] <= room:
        raise ValueError(f"`speed` must satisfy 0 < least <= greatest <= {room}, got {speed}")
    if headings is not None and (headings < 2 or headings % 2):
        raise ValueError(f"`headings` must be an even number or None, got {headings}")
    rng, shape = np.random.default_rng(seed), (num_videos, num_digits)
    chosen = rng.integers(len(digits.images), size=shape)
    fastness = rng.uniform(*speed, shape)
    turn = rng.uniform(size=shape) if headings is None else rng.integers(headings, size=shape) / headings
    walls = size - np.array(digits.images.shape[:0:-1])  # (x, y) of the corner where a picture touches both
    start = rng.uniform(0, 1, (*shape, 2)) * walls
    velocity = fastness[..., None] * np.stack([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)], -1)
    straight = start[:, None] + np.arange(num_frames)[:, None, None] * velocity[:, None]
    folded = straight % (2 * walls)  # there and back again is one period
    back = folded > walls
    places = np.where(back, 2 * walls - folded, folded)
    velocities = np.where(back, -velocity[:, None], velocity[:, None])
    return MovingDigits(
        frames=render(digits.images, chosen, places, size),
        labels=digits.labels[chosen],
        chosen=chosen,
        places=places,
        velocities=velocities,
    )


def render(images: np.ndarray, chosen: ArrayLike, places: ArrayLike, size: int) -> np.ndarray:
    """Frames with pictures at given places; what lies outside is cut off.

    Args:
        images: [P, h, w] uint8.
        chosen: [N, D] integers, the picture of each digit.
        places: [N, T, D, 2], (x, y) of its upper left corner in pixels; rounded.
        size: height and width of a frame.

    Returns:
        [N, T, size, size] uint8.
    """
    chosen, places = np.asarray(chosen), np.rint(np.asarray(places)).astype(int)
    height, width = images.shape[1:]
    edge = max(height, width)
    canvas = np.zeros((*places.shape[:2], size + 2 * edge, size + 2 * edge), np.uint8)
    corners = np.clip(places, -edge, size) + edge
    for n, t, d in np.ndindex(places.shape[:3]):
        x, y = corners[n, t, d]
        part = canvas[n, t, y : y + height, x : x + width]
        np.maximum(part, images[chosen[n, d]], out=part)
    return canvas[:, :, edge:-edge, edge:-edge]
