"""Does a model that runs freely have the attractor of the data? Distances that forgive diverging trajectories.

Two orbits of one chaotic system part within a few Lyapunov times, so a step-by-step error says nothing about them.
What a faithful model must share with the data is where orbits spend their time and at which frequencies they move.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter1d

__all__ = ["power_spectrum_distance", "state_space_divergence"]

CONSTANT = 1e-6  # a deviation this much smaller than that of the data is rounding


def state_space_divergence(data: ArrayLike, generated: ArrayLike, *, bins: int = 30, smoothing: float = 1e-5) -> float:
    """Divergence of where a generated trajectory spends its time from where the data does (D_stsp).

        KL(p || q) = sum_cell p log(p / q),    p, q = (count + smoothing) / (total + smoothing * cells)

    over the cells of a histogram with `bins` bins for each dimension, from 0.1 standard deviations below the smallest
    value of the data to as much above its largest one.

    Args:
        data: [T, N], a long observed trajectory; all `bins**N` cells are held in memory.
        generated: [T', N], a free run without its transient. Values outside of the histogram, NaN among them, are left
            out. If all are, the authors' code gives NaN; here every cell then has the probability
            `smoothing / (T' + smoothing * cells)`, the largest divergence that T' steps can show.
        bins: for each dimension.
        smoothing: pseudo-count of every cell.

    Returns:
        Nats. For 100,000 steps of Lorenz 63, 0.2 is an excellent model and 16 one that has collapsed to a point.

    Raises:
        ValueError: for shapes that do not fit, or data that is not finite.

    Example:
        >>> data = np.random.default_rng(0).normal(size=(1000, 2))
        >>> state_space_divergence(data, data), state_space_divergence(data, data + 100.0) > 10
        (0.0, True)

    References:
        Hess et al., Generalized teacher forcing for learning chaotic dynamics, 2023, arXiv:2306.04406, and its code,
        github.com/DurstewitzLab/GTF-shPLRNN (older papers: cells within +-2 standard deviations); first in Koppe et
        al., 2019.
    """
    data, generated = _pair(data, generated)
    margin = 0.1 * data.std(0, ddof=1)
    edges = np.linspace(data.min(0) - margin, data.max(0) + margin, bins + 1, axis=1)
    seen, made = _histogram(data, edges), _histogram(generated, edges)
    p = (seen + smoothing) / (seen.sum() + smoothing * seen.size)
    q = (made + smoothing) / ((made.sum() or len(generated)) + smoothing * seen.size)
    return float((p * np.log(p / q)).sum())


def power_spectrum_distance(data: ArrayLike, generated: ArrayLike, *, smoothing_sigma: float = 20.0) -> float:
    """Hellinger distance of power spectra, the mean over dimensions (D_H): 0 for equal ones, 1 for disjoint ones.

        H(f, g)^2 = 1 - sum_w sqrt(f(w) g(w)),    f, g = |rfft(z-score)|^2, smoothed by a Gaussian, of sum 1

    Args:
        data: [T, N].
        generated: [T, N], a free run without its transient. A dimension that is constant (its deviation is below 1e-6
            of the data's, the level of rounding) or not finite has no spectrum; its distance is 1.
        smoothing_sigma: standard deviation of the Gaussian in bins of frequency, cut off at 4 of it; 0 for none.

    Returns:
        A number in [0, 1]. For 100,000 steps of Lorenz 63, 0.1 is an excellent model.

    Raises:
        ValueError: for shapes that differ, or data that is not finite or constant.

    Example:
        >>> t = np.arange(1000)[:, None]
        >>> power_spectrum_distance(np.sin(0.1 * t), np.sin(2.0 * t), smoothing_sigma=2) > 0.99
        True

    References:
        As `state_space_divergence`; first in Mikhaeil, Monfared & Durstewitz, 2022, arXiv:2110.07238.
    """
    data, generated = _pair(data, generated)
    if len(data) != len(generated):
        raise ValueError(f"`generated` must have the T={len(data)} steps of `data`, got {len(generated)}")
    if not (data.std(0) > 0).all():
        raise ValueError("`data` must vary in every dimension")
    with np.errstate(invalid="ignore", over="ignore"):
        deviation = generated.std(0)
    moves = np.isfinite(deviation) & (deviation > CONSTANT * data.std(0))
    distance = np.ones(data.shape[1])
    if moves.any():
        f, g = (_spectrum(x[:, moves], smoothing_sigma) for x in (data, generated))
        distance[moves] = np.sqrt(np.square(np.sqrt(f) - np.sqrt(g)).sum(0) / 2)
    return float(distance.mean())


def _pair(data: ArrayLike, generated: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [T, N]."""
    data, generated = np.asarray(data, np.float64), np.asarray(generated, np.float64)
    for name, value in (("data", data), ("generated", generated)):
        if value.ndim != 2 or len(value) < 2 or value.shape[1] != data.shape[-1]:
            raise ValueError(f"`{name}` must be [T, N] with T at least 2 and the N of `data`, got shape {value.shape}")
    if not np.isfinite(data).all():
        raise ValueError("`data` must be finite")
    return data, generated


def _histogram(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Counts in `[edges[n, i], edges[n, i + 1])` of the dimensions n: [bins**N], what lies outside left out."""
    bins = edges.shape[1] - 1
    cells = np.stack([np.searchsorted(row, x[:, n], side="right") - 1 for n, row in enumerate(edges)])
    inside = ((cells >= 0) & (cells < bins)).all(0)  # NaN is sorted behind the last edge
    index = np.ravel_multi_index(tuple(cells[:, inside]), (bins,) * len(edges))
    return np.bincount(index, minlength=bins ** len(edges))


def _spectrum(x: np.ndarray, sigma: float) -> np.ndarray:
    """The smoothed power spectrum of each column of [T, N], of sum 1."""
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    power = np.square(np.abs(np.fft.rfft(x, axis=0)))
    if sigma:
        power = gaussian_filter1d(power, sigma, axis=0, mode="mirror", truncate=4.0)
    return power / power.sum(0)
