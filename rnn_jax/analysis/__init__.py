"""Measurements on trained models: attractors."""

from rnn_jax.analysis.attractors import power_spectrum_distance, state_space_divergence

__all__ = ["power_spectrum_distance", "state_space_divergence"]
