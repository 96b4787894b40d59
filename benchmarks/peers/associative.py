"""`jax.lax.associative_scan` over the maps h -> a h + b."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.peers.plain_scan import lru_elements, lru_readout
from benchmarks.problems import Problem, Tree
from benchmarks.programs import Net


def net(problem: Problem) -> Net:
    """The linear recurrence of a problem."""
    apply = _diagonal if problem.case.family == "diagonal" else _lru
    return Net(problem.params, apply, dict)


def _compose(earlier: Any, later: Any) -> Any:
    return later[0] * earlier[0], later[0] * earlier[1] + later[1]


def _diagonal(params: Tree, inputs: Tree, data: Tree) -> jax.Array:
    return lax.associative_scan(_compose, (inputs["a"], inputs["b"]))[1]


def _lru(params: Tree, inputs: Tree, data: Tree) -> jax.Array:
    xs = inputs["xs"]
    eigenvalues, drive = lru_elements(params, xs)
    hs = lax.associative_scan(_compose, (jnp.broadcast_to(eigenvalues, drive.shape), drive))[1]
    return lru_readout(params, hs, xs)
