"""Measurements on trained models: attractors, and how hard a recurrence is to run in parallel."""

from rnn_jax.analysis.attractors import power_spectrum_distance, state_space_divergence
from rnn_jax.analysis.newton import NewtonRun, newton_in_time

__all__ = ["NewtonRun", "newton_in_time", "power_spectrum_distance", "state_space_divergence"]
