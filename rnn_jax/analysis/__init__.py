"""Measurements on dynamics and on trained models. They take functions (`h -> h`, `(h, x) -> h`) and arrays, not models.

- `lyapunov`: how fast neighbouring trajectories part; a penalty on it.
- `fixed_points`: where a network stands still, and the dynamics near there.
- `gradients`: how far gradients reach, and how fast starts are forgotten.
- `online`: gradients while a sequence arrives.
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
from rnn_jax.analysis.gradients import (
    JacobianProducts,
    carry_gradients,
    forgetting,
    jacobian_products,
    row_norms,
    saturation,
)
from rnn_jax.analysis.lyapunov import LyapunovSpectrum, flossing_penalty, kaplan_yorke_dimension, lyapunov_spectrum
from rnn_jax.analysis.online import (
    OnlineGradient,
    OnlineStep,
    e_prop,
    rtrl,
    snap1,
    split_gated,
    truncated,
    uoro,
)
from rnn_jax.analysis.vectors import as_vector

__all__ = [
    "FixedPoints",
    "JacobianProducts",
    "Linearisation",
    "LyapunovSpectrum",
    "OnlineGradient",
    "OnlineStep",
    "as_vector",
    "carry_gradients",
    "e_prop",
    "find_fixed_points",
    "flossing_penalty",
    "forgetting",
    "implicit_fixed_point",
    "jacobian_products",
    "kaplan_yorke_dimension",
    "linearise",
    "lyapunov_spectrum",
    "power_spectrum_distance",
    "row_norms",
    "rtrl",
    "saturation",
    "snap1",
    "split_gated",
    "state_space_divergence",
    "truncated",
    "uoro",
]
