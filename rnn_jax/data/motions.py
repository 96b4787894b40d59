"""Real motion as points over time: a hand that signs, and skeletons of people who act; with folds for testing."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rnn_jax.data.fetch import embedded, fetch

__all__ = ["KEY_POINTS", "Motions", "load_libras", "load_skeletons", "stratified_folds"]

_LIBRAS_SHA256 = "cd610f39b61a857c4a3d109389e6fcc04acb9aa803e9296366b8cce88af3acfc"
_LIBRAS_NAMES = (
    "curved swing", "horizontal swing", "vertical swing", "anti-clockwise arc", "clockwise arc", "circle",
    "horizontal straight line", "vertical straight line", "horizontal zigzag", "vertical zigzag",
    "horizontal wavy", "vertical wavy", "face-up curve", "face-down curve", "tremble",
)  # fmt: skip
_ACTIONS = ("come", "five", "handshake", "hello", "ignore", "look at")

KEY_POINTS = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "mid hip", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye",
    "left eye", "right ear", "left ear", "left big toe", "left small toe", "left heel", "right big toe",
    "right small toe", "right heel",
)  # fmt: skip
"""The 25 points of `load_skeletons`, by the names that OpenPose's model BODY_25 gives them."""


class Motions(NamedTuple):
    """N videos, each as the places of K points in T frames."""

    points: np.ndarray  # [N, T, K, 2] float32: x from the left, y as the source has it
    labels: np.ndarray  # [N] int32, 0 to C - 1
    groups: np.ndarray  # [N] int32: videos of one group are copies and belong into one fold
    names: tuple[str, ...]  # of the C classes


def load_libras() -> Motions:
    """Libras Movement: 360 hand movements of Brazilian sign language in 15 classes, 45 frames each; no download.

    330 of them are distinct, so copies share a group.

    Returns:
        One point a frame, in units of the frame's width and height, in [0, 1].

    References:
        Dias, Peres & Biscaro, Libras movement, UCI Machine Learning Repository, 2009, doi:10.24432/C5GC82. CC BY 4.0.
    """
    with embedded("libras.npz", _LIBRAS_SHA256) as file:
        pixels, labels = file["track"], file["label"].astype(np.int32)
    groups = np.unique(pixels.reshape(len(pixels), -1), axis=0, return_inverse=True)[1].astype(np.int32)
    points = (pixels / np.array([517, 432])).astype(np.float32)[:, :, None, :]
    return Motions(points, labels, groups.reshape(-1), _LIBRAS_NAMES)


def load_skeletons() -> Motions:
    """272 videos of people, 6 actions, as 25 key points in 92 frames, found by OpenPose.

    Returns:
        25 points a frame (`KEY_POINTS`), in pixels, y downwards; each video is a group of its own.

    Raises:
        FileNotFoundError: if the file is nowhere to be found.
        DamagedFileError: if it was found but is not the published one.

    References:
        Rodriguez-Moreno et al., data AR.data of the R package dbcsp (GPL >= 2), after Shedding light on people action
        recognition in social robotics by means of common spatial patterns, 2020.
    """
    with np.load(fetch("ar_skeleton")) as file:
        flat, labels = file["X"], file["y"].astype(np.int32)
    points = np.swapaxes((flat.astype(np.float32) / 10).reshape(*flat.shape[:2], 2, -1), 2, 3)  # all x, then all y
    return Motions(points, labels, np.arange(len(labels), dtype=np.int32), _ACTIONS)


def stratified_folds(labels: ArrayLike, num_folds: int, seed: int = 0, groups: ArrayLike | None = None) -> np.ndarray:
    """Which fold each example is tested in: classes are spread evenly, copies stay together.

    Within each class, groups are shuffled and dealt out one after another, each to the fold that has the fewest
    examples of the class, and of all classes where that is a draw.

    Args:
        labels: [N] integers.
        num_folds: how many.
        seed: of the shuffle.
        groups: [N] integers; examples of one group are of one class and get one fold. None: each is on its own.

    Returns:
        [N] int64, 0 to num_folds - 1.

    Raises:
        ValueError: if there are fewer than two folds or than that many groups in a class, or a group has two classes.

    Example:
        >>> folds = stratified_folds([0, 0, 0, 0, 1, 1], 2, groups=[7, 7, 8, 9, 5, 6])
        >>> bool(folds[0] == folds[1]), np.bincount(folds).tolist()
        (True, [3, 3])
    """
    labels = np.asarray(labels)
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    if labels.ndim != 1 or groups.shape != labels.shape:
        raise ValueError(f"`labels` and `groups` must be [N], got shapes {labels.shape} and {groups.shape}")
    if num_folds < 2:
        raise ValueError(f"`num_folds` must be at least 2, got {num_folds}")
    rng, folds = np.random.default_rng(seed), np.full(len(labels), -1)
    total = np.zeros(num_folds, int)
    for label in np.unique(labels):
        own, sizes = np.unique(groups[labels == label], return_counts=True)
        if len(own) < num_folds:
            raise ValueError(f"`labels` must have {num_folds} groups or more of each class, got {len(own)} of {label}")
        counts = np.zeros(num_folds, int)
        for place in rng.permutation(len(own)):
            members = groups == own[place]
            if (labels[members] != label).any():
                raise ValueError(f"`groups` must have one class each, got two in group {own[place]}")
            fold = int(np.lexsort((total, counts))[0])
            folds[members], counts[fold], total[fold] = fold, counts[fold] + sizes[place], total[fold] + sizes[place]
    return folds
