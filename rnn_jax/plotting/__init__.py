"""Pictures of arrays. Nothing here knows a model.

Functions take arrays and an optional `ax` and return the `Axes`; without `ax` they make a `Figure` of their own.
Nothing touches matplotlib's global state, so they work the same in a script, a notebook, a test and a thread, with or
without a display.
"""

from rnn_jax.plotting.analysis import bifurcation_diagram, gradient_map, named_curves, saturation_map, sweep_map
from rnn_jax.plotting.confusion import confusion_map
from rnn_jax.plotting.curves import learning_curves
from rnn_jax.plotting.dynamics import attractors, seed_curves
from rnn_jax.plotting.fixed_points import eigenvalue_plane, fixed_point_map
from rnn_jax.plotting.music import piano_roll
from rnn_jax.plotting.sequences import attention_map, exposure_curves
from rnn_jax.plotting.style import FAINT, PALETTE, finish, new_axes, save
from rnn_jax.plotting.texts import text_heat

__all__ = [
    "FAINT",
    "PALETTE",
    "attention_map",
    "attractors",
    "bifurcation_diagram",
    "confusion_map",
    "eigenvalue_plane",
    "exposure_curves",
    "finish",
    "fixed_point_map",
    "gradient_map",
    "learning_curves",
    "named_curves",
    "new_axes",
    "piano_roll",
    "saturation_map",
    "save",
    "seed_curves",
    "sweep_map",
    "text_heat",
]
