"""What can be read from hidden states: principal components, linear probes, and units that follow a feature."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "Components",
    "FlowField",
    "ProbeResult",
    "flow_field",
    "linear_probe",
    "principal_components",
    "unit_features",
]


class Components(NamedTuple):
    """Principal components of states.

    Attributes:
      mean: [H].
      axes: [K, H], orthonormal rows.
      explained: [K] fractions of the variance.
    """

    mean: np.ndarray
    axes: np.ndarray
    explained: np.ndarray

    def project(self, states: ArrayLike) -> np.ndarray:
        """States [..., H] as coordinates [..., K]."""
        return (np.asarray(states, float) - self.mean) @ self.axes.T

    def lift(self, coordinates: ArrayLike) -> np.ndarray:
        """Coordinates [..., K] as states [..., H]."""
        return self.mean + np.asarray(coordinates, float) @ self.axes


def principal_components(states: ArrayLike, num: int = 3) -> Components:
    """The directions in which states vary most.

    Args:
      states: [..., H].
      num: K, at most H.

    Returns:
      the `Components`; each axis has its largest entry positive.

    Example:
      >>> found = principal_components([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]], 1)
      >>> found.axes.round(3).tolist(), found.explained.round(3).tolist()
      ([[1.0, 0.0]], [1.0])
    """
    flat = np.asarray(states, float)
    flat = flat.reshape(-1, flat.shape[-1])
    if not 1 <= num <= flat.shape[1] or not np.isfinite(flat).all():
        raise ValueError(f"`states` must be finite [..., H] with H >= `num` = {num}, got shape {np.shape(states)}")
    mean = flat.mean(0)
    values, vectors = np.linalg.eigh(np.cov((flat - mean).T, bias=True).reshape(flat.shape[1], -1))
    axes = vectors[:, ::-1].T[:num]
    axes = axes * np.sign(axes[np.arange(num), np.abs(axes).argmax(1)])[:, None]
    total = values.sum()
    return Components(mean, axes, np.maximum(values[::-1][:num], 0) / (total if total > 0 else 1))


class ProbeResult(NamedTuple):
    """How well a linear probe reads something, on states that it was not fitted to.

    Attributes:
      score: [T] by step, or a number: accuracy of classes, R^2 of numbers; means over folds.
      spread: the standard deviation over folds.
      chance: the same measure without states: the share of the commonest class, 0 for R^2.
    """

    score: np.ndarray
    spread: np.ndarray
    chance: float


def linear_probe(
    states: ArrayLike, labels: ArrayLike, *, num_folds: int = 5, ridge: float = 1e-2, seed: int = 0
) -> ProbeResult:
    """Fits a ridge regression from states to labels, for every step apart, with cross-validation over rows.

    Args:
      states: [T, B, H], or [B, H] for one step.
      labels: integers (classes, by regression on one-hot vectors) or floats, [B] or [T, B].
      num_folds: rows are split into so many parts.
      ridge: times the mean variance of the states, added to the diagonal.
      seed: of the split.

    Returns:
      the `ProbeResult`.

    Raises:
      ValueError: a shape does not fit, or there are fewer rows than folds.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> states = rng.normal(size=(3, 200, 4))
      >>> states[2, :, 1] += 4 * (labels := rng.integers(0, 2, 200))
      >>> found = linear_probe(states, labels)
      >>> bool(found.score[0] < 0.6), bool(found.score[2] > 0.9)
      (True, True)

    References:
      Alain & Bengio, Understanding intermediate layers using linear classifier probes, 2016, arXiv:1610.01644.
    """
    x, y = np.asarray(states, float), np.asarray(labels)
    single = x.ndim == 2
    x = x[None] if single else x
    if x.ndim != 3 or y.shape not in (x.shape[:2], x.shape[1:2]):
        raise ValueError(f"`labels` must be [B] or [T, B] for states [T, B, H], got {y.shape} for {np.shape(states)}")
    if not 2 <= num_folds <= x.shape[1]:
        raise ValueError(f"`num_folds` must be in [2, {x.shape[1]}], the number of rows, got {num_folds}")
    y = np.broadcast_to(y, x.shape[:2])
    classes = np.unique(y) if y.dtype.kind in "iub" else None
    folds = np.array_split(np.random.default_rng(seed).permutation(x.shape[1]), num_folds)
    scores = np.array([[_score(x[t], y[t], classes, fold, ridge) for fold in folds] for t in range(len(x))])
    chance = 0.0 if classes is None else float(max((y == one).mean() for one in classes))
    score, spread = scores.mean(1), scores.std(1)
    return ProbeResult(score[0] if single else score, spread[0] if single else spread, chance)


def _score(x: np.ndarray, y: np.ndarray, classes: np.ndarray | None, fold: np.ndarray, ridge: float) -> float:
    """The score on a fold of a probe that is fitted to the rest."""
    rest = np.setdiff1d(np.arange(len(x)), fold)
    target = y[:, None].astype(float) if classes is None else (y[:, None] == classes).astype(float)
    mean_x, mean_y = x[rest].mean(0), target[rest].mean(0)
    a = x[rest] - mean_x
    gram = a.T @ a
    gram += ridge * max(np.trace(gram) / len(gram), 1e-12) * np.eye(len(gram))
    w = np.linalg.solve(gram, a.T @ (target[rest] - mean_y))
    said = (x[fold] - mean_x) @ w + mean_y
    if classes is not None:
        return float((classes[said.argmax(1)] == y[fold]).mean())
    variance = np.square(target[fold] - target[fold].mean(0)).sum()
    return float(1 - np.square(said - target[fold]).sum() / variance) if variance > 0 else 0.0


def unit_features(states: ArrayLike, features: ArrayLike) -> np.ndarray:
    """Correlations of units with features over all steps: find the unit that counts brackets or knows the line's end.

    Args:
      states: [N, H].
      features: [N, F], such as "inside quotes" and "characters since the line began".

    Returns:
      [H, F] in [-1, 1]; 0 where a unit or a feature does not vary.

    Example:
      >>> unit_features([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]], [[0.0], [-1.0], [-2.0]]).round(6).tolist()
      [[-1.0], [0.0]]

    References:
      Karpathy, Johnson & Fei-Fei, Visualizing and understanding recurrent networks, 2015, arXiv:1506.02078.
    """
    h, f = np.asarray(states, float), np.asarray(features, float)
    if h.ndim != 2 or f.ndim != 2 or len(h) != len(f):
        raise ValueError(f"`features` must be [N, F] for states [N, H], got {f.shape} for {h.shape}")
    h, f = h - h.mean(0), f - f.mean(0)
    sizes = np.outer(np.linalg.norm(h, axis=0), np.linalg.norm(f, axis=0))
    return np.divide(h.T @ f, sizes, out=np.zeros(sizes.shape), where=sizes > 1e-12)


class FlowField(NamedTuple):
    """Where states of a plane go in one step; `flow_field` makes it.

    Attributes:
      places: [N, N, 2] coordinates in the plane.
      moves: [N, N, 2] how they change in one step.
    """

    places: np.ndarray
    moves: np.ndarray


def flow_field(
    step: Callable[[np.ndarray], ArrayLike], components: Components, low: ArrayLike, high: ArrayLike, num: int = 20
) -> FlowField:
    """The motion of a network in the plane of its first two principal components.

    Args:
      step: `[N, H] -> [N, H]`, states to states (such as a `vmap` of `h -> h`).
      components: of two axes or more; states are put on the plane of the first two, the other coordinates being 0.
      low, high: [2] corners of the field.
      num: N, places along each side.

    Returns:
      the `FlowField`.
    """
    if len(components.axes) < 2:
        raise ValueError(f"`components` must have two axes, got {len(components.axes)}")
    plane = components._replace(axes=components.axes[:2])
    sides = [np.linspace(a, b, num) for a, b in zip(np.asarray(low), np.asarray(high), strict=True)]
    places = np.stack(np.meshgrid(*sides, indexing="ij"), -1)
    after = plane.project(np.asarray(step(plane.lift(places.reshape(-1, 2)))))
    return FlowField(places, after.reshape(places.shape) - places)
