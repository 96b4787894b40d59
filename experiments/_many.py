"""Training of many models in one program, for experiments that compare settings and seeds."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnn_jax import checks
from rnn_jax.training import (
    FitInfo,
    TrainState,
    data_mesh,
    fit,
    on_mesh,
    open_checkpoints,
    place_runs,
    run_logger,
)


def grid(seeds: int, **settings: Sequence[float]) -> dict[str, np.ndarray]:
    """Every setting with every seed, side by side.

    Args:
        seeds: how many.
        **settings: the values of each.

    Returns:
        For each setting and for `seed` (0, 1, ...) an array [N], N the product of all numbers; the seed runs fastest.

    Raises:
        ValueError: a setting without values, or no seeds.
    """
    checks.positive("seeds", seeds)
    for name, given in settings.items():
        if not len(given):
            raise ValueError(f"`{name}` must hold at least one value, got none")
    values = {**settings, "seed": range(seeds)}
    return {
        name: np.asarray(column)
        for name, column in zip(values, zip(*itertools.product(*values.values()), strict=True), strict=True)
    }


def fit_many(
    folder: Path,
    states: TrainState,
    step: Callable[..., Any],
    settings: Any,
    batches: Iterable[Any],
    num_steps: int,
    *,
    rows: int = 50,
) -> tuple[TrainState, FitInfo]:
    """Trains all models on the same batches, with logs and checkpoints in a folder, and goes on where it stands.

    The models are shared over all devices where their number divides them.

    Args:
        folder: made if it is missing.
        states: from `create_states`.
        step: from `make_train_steps`.
        settings: what is each model's own, arrays [N, ...].
        batches: what they share; deterministic, since it is walked through again on resuming.
        num_steps: how many steps.
        rows: about how many rows are logged.

    Returns:
        The last states, and what happened.
    """
    folder.mkdir(exist_ok=True)
    mesh = data_mesh(len(states.step))
    placed = on_mesh(lambda states, both: step(states, *both), mesh, (0, "all"))
    with run_logger(folder) as log, open_checkpoints(folder) as checkpoints:
        return fit(
            place_runs(states, mesh),
            lambda states, batch: placed(states, (settings, batch)),
            batches,
            num_steps=num_steps,
            log=log,
            log_every=max(1, num_steps // rows),
            checkpoints=checkpoints,
        )
