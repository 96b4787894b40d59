"""Measurements on dynamics and on trained models. They take functions (`h -> h`, `(h, x) -> h`) and arrays, not models.

- `lyapunov`: how fast neighbouring trajectories part; a penalty on it.
- `fixed_points`: where a network stands still, and the dynamics near there.
- `attractors`: whether a free run has the attractor of the data.
- `vectors`: carries as real vectors.
"""

from rnn_jax.analysis.attractors import power_spectrum_distance, state_space_divergence
from rnn_jax.analysis.fixed_points import (
    FixedPoints,
    Linearisation,
    find_fixed_points,
    implicit_fixed_point,
    linearise,
)
from rnn_jax.analysis.lyapunov import LyapunovSpectrum, flossing_penalty, kaplan_yorke_dimension, lyapunov_spectrum
from rnn_jax.analysis.vectors import as_vector

__all__ = [
    "FixedPoints",
    "Linearisation",
    "LyapunovSpectrum",
    "as_vector",
    "find_fixed_points",
    "flossing_penalty",
    "implicit_fixed_point",
    "kaplan_yorke_dimension",
    "linearise",
    "lyapunov_spectrum",
    "power_spectrum_distance",
    "state_space_divergence",
]
