"""Measurements on dynamics and on trained models. They take functions (`h -> h`, `(h, x) -> h`) and arrays, not models.

- `lyapunov`: how fast neighbouring trajectories part; a penalty on it.
- `fixed_points`: where a network stands still, and the dynamics near there.
- `continuation`: how that changes while an input or a weight is turned.
- `gradients`: how far gradients reach, and how fast starts are forgotten.
- `taps`: gradients at every step of every layer.
- `gates`: whether they are stuck, and how long they keep.
- `sweeps`: a measurement at many initialisations and first states in one program.
- `online`: gradients while a sequence arrives.
- `attribution`: what in a sequence an output depends on.
- `probes`: what can be read from hidden states.
- `automata`: a finite automaton out of a network.
- `attractors`: whether a free run has the attractor of the data.
- `vectors`: carries as real vectors.
"""

from rnn_jax.analysis.attractors import power_spectrum_distance, state_space_divergence
from rnn_jax.analysis.attribution import integrated_gradients, occlusion, saliency
from rnn_jax.analysis.automata import Automaton, ExtractionReport, extract_automaton
from rnn_jax.analysis.continuation import Bifurcation, Branch, continue_fixed_point
from rnn_jax.analysis.fixed_points import (
    FixedPoints,
    Linearisation,
    find_fixed_points,
    implicit_fixed_point,
    linearise,
)
from rnn_jax.analysis.gates import gate_values, memory_steps, saturation
from rnn_jax.analysis.gradients import (
    JacobianProducts,
    carry_gradients,
    forgetting,
    jacobian_products,
    row_norms,
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
from rnn_jax.analysis.probes import (
    Components,
    FlowField,
    ProbeResult,
    flow_field,
    linear_probe,
    principal_components,
    unit_features,
)
from rnn_jax.analysis.sweeps import Sweep, sweep, with_forget_bias, with_gain, with_spectral_radius
from rnn_jax.analysis.taps import gradient_norms, with_taps
from rnn_jax.analysis.vectors import as_vector

__all__ = [
    "Automaton",
    "Bifurcation",
    "Branch",
    "Components",
    "ExtractionReport",
    "FixedPoints",
    "FlowField",
    "JacobianProducts",
    "Linearisation",
    "LyapunovSpectrum",
    "OnlineGradient",
    "OnlineStep",
    "ProbeResult",
    "Sweep",
    "as_vector",
    "carry_gradients",
    "continue_fixed_point",
    "e_prop",
    "extract_automaton",
    "find_fixed_points",
    "flossing_penalty",
    "flow_field",
    "forgetting",
    "gate_values",
    "gradient_norms",
    "implicit_fixed_point",
    "integrated_gradients",
    "jacobian_products",
    "kaplan_yorke_dimension",
    "linear_probe",
    "linearise",
    "lyapunov_spectrum",
    "memory_steps",
    "occlusion",
    "power_spectrum_distance",
    "principal_components",
    "row_norms",
    "rtrl",
    "saliency",
    "saturation",
    "snap1",
    "split_gated",
    "state_space_divergence",
    "sweep",
    "truncated",
    "unit_features",
    "uoro",
    "with_forget_bias",
    "with_gain",
    "with_spectral_radius",
    "with_taps",
]
