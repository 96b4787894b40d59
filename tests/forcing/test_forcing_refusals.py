"""What is wrong with a call of `forced_unroll` is said by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import random_params

from rnn_jax import dense, gru, stack, with_dropout
from rnn_jax.forcing import (
    argmax,
    detached,
    expected,
    forced_unroll,
    identity,
    parallel_forced_unroll,
    sample,
    straight_through,
)

CELL = stack(gru(3), dense(4))
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)), jnp.float32)
TOKENS = {
    "cell": CELL,
    "params": random_params(CELL, 2),
    "targets": jnp.zeros((5, 3), jnp.int32),
    "mask": 0.5,
    "start": 0,
    "feedback": argmax,
    "embedding": TABLE,
}
VECTORS = {
    "cell": CELL,
    "params": random_params(CELL, 4),
    "targets": jnp.zeros((5, 3, 4)),
    "mask": 0.5,
    "start": jnp.zeros(4),
    "feedback": identity,
}
NEEDS_TABLE = r"`feedback` of tokens needs an `embedding` \[V, E\]; for sequences of vectors use identity"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mask": 1.5}, r"`mask` must lie in \[0, 1\], got 1\.5"),
        ({"mask": -1}, r"`mask` must lie in \[0, 1\], got -1"),
        ({"mask": float("nan")}, r"`mask` must lie in \[0, 1\], got nan"),
        ({"mask": jnp.ones((5, 3)).at[2, 1].set(jnp.nan)}, r"`mask` must lie in \[0, 1\], got nan"),
        ({"mask": jnp.ones(3)}, r"`mask` must broadcast to \(5, 3\) by its leading axes, got shape \(3,\)"),
        ({"mask": jnp.ones((3, 5))}, r"`mask` must broadcast to \(5, 3\) by its leading axes, got shape \(3, 5\)"),
        (
            {"mask": jnp.ones((5, 3, 2))},
            r"`mask` must broadcast to \(5, 3\) by its leading axes, got shape \(5, 3, 2\)",
        ),
        ({"mask": 1j}, r"`mask` must be numbers in \[0, 1\], got complex64 of shape \(\)"),
        ({"cell": gru}, r"`cell` must be a Cell or a LinearCell, got the function gru; call it first"),
        (
            {"feedback": identity},
            r"`feedback` identity does not fit integer targets; use argmax, sample\(\) or expected",
        ),
        ({"feedback": detached(identity)}, r"`feedback` identity is for sequences of vectors; for tokens use argmax"),
        ({"feedback": "argmax"}, r"`feedback` must be a function \(y, key, embedding\) -> x, got str 'argmax'"),
        ({"feedback": sample()}, r"`key` must be a PRNG key where feedback is sample\(\), got None"),
        ({"feedback": lambda y, key, table: y}, r"`feedback` must give inputs of shape \(3, 2\), got \(3, 4\)"),
        ({"embedding": None}, r"`embedding` must be \[V, E\] where targets are tokens, got NoneType None"),
        (
            {"embedding": TABLE[0]},
            r"`embedding` must be \[V, E\] where targets are tokens, got float32 of shape \(2,\)",
        ),
        ({"embedding": TABLE[:3]}, r"`y` must have 3 features on its last axis, got shape \(3, 4\)"),
        ({"start": jnp.zeros(4, jnp.int32)}, r"`start` must be a token or tokens \(3,\), got int32 of shape \(4,\)"),
        ({"start": 0.0}, r"`start` must be a token or tokens \(3,\), got float32 of shape \(\)"),
        ({"inputs": jnp.zeros((5, 2, 1))}, r"`inputs` must be \[T, \*batch, K\] with \(5, 3\), got shape \(5, 2, 1\)"),
        ({"inputs": jnp.zeros((5, 3))}, r"`inputs` must be \[T, \*batch, K\] with \(5, 3\), got shape \(5, 3\)"),
        ({"inputs": jnp.zeros((5, 3, 1))}, r"`xs` must have 2 features on its last axis, got shape"),
        ({"lengths": jnp.array([6, 1, 1])}, r"`lengths` must lie in \[0, T\] with T=5, got 6"),
        (
            {"carry": jnp.zeros((3, 3))},
            r"`carry` must have the structure PyTreeDef\(\(\*, \(\)\)\), got PyTreeDef\(\*\)",
        ),
        ({"carry": (jnp.zeros((2, 3)), ())}, r"`carry` must have shape \(3, 3\) at \[0\], got \(2, 3\)"),
        (
            {"targets": jnp.zeros((5, 3), bool)},
            r"`targets` must be integers \[T, \*batch\] or floating \[T, \*batch, F\]",
        ),
        (
            {"targets": jnp.int32(1)},
            r"`targets` must be integers \[T, \*batch\] or floating .*, got int32 of shape \(\)",
        ),
        (
            {"targets": jnp.zeros((5, 3, 4))},
            r"`embedding` must be None where targets are vectors; pass integer targets",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_tokens(change: dict[str, Any], text: str) -> None:
    for function in (forced_unroll, parallel_forced_unroll):
        with pytest.raises(ValueError, match=text):
            function(**{**TOKENS, **change})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"feedback": argmax}, NEEDS_TABLE),
        ({"feedback": expected}, NEEDS_TABLE),
        ({"feedback": straight_through}, NEEDS_TABLE),
        ({"feedback": sample(), "key": jax.random.key(0)}, NEEDS_TABLE),
        ({"embedding": TABLE}, r"`embedding` must be None where targets are vectors; pass integer targets for tokens"),
        ({"start": jnp.zeros(3)}, r"`start` must have shape \(3, 4\) or its last axes, got \(3,\)"),
        ({"start": jnp.zeros((5, 3, 4))}, r"`start` must have shape \(3, 4\) or its last axes, got \(5, 3, 4\)"),
        ({"targets": jnp.zeros(5)}, r"`targets` must be \[T, ..., features\] with at least 2 axes, got shape \(5,\)"),
        (
            {"targets": jnp.zeros((5, 3, 2)), "start": jnp.zeros(2)},
            r"`feedback` must give inputs of shape|`xs` must have",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_vectors(change: dict[str, Any], text: str) -> None:
    for function in (forced_unroll, parallel_forced_unroll):
        with pytest.raises(ValueError, match=text):
            function(**{**VECTORS, **change})


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_temperatures_that_are_not_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"`temperature` must be greater than 0, got"):
        sample(temperature)


def test_masks_that_are_traced_are_not_looked_at() -> None:
    call = jax.jit(lambda mask: forced_unroll(**{**TOKENS, "mask": mask})[1])
    assert jnp.isfinite(call(jnp.float32(1.5))).all()


@pytest.mark.parametrize("mask", [1.0, 0.5])
def test_noise_drawn_for_another_number_of_steps_is_named(mask: float) -> None:
    noisy = stack(with_dropout(gru(3), inputs=0.5), dense(4))
    params = noisy.perturb(jax.random.key(0), random_params(noisy, 2), (4, 3, 2))
    with pytest.raises(ValueError, match="`params` were perturbed for 4 steps, but xs has T=5"):
        forced_unroll(**TOKENS | {"cell": noisy, "params": params, "mask": mask})
