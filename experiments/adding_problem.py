r"""Which networks add two numbers that lie a hundred steps apart?

A sequence has T pairs: a number, uniform in [0, 1], and a mark, which is 1 at two steps, one in each half, and 0
elsewhere. After the last step the network is to say the sum of the two marked numbers. Who always says 1 has a mean
squared error of Var(U + U) = 1/6; less takes remembering. The task is that of Arjovsky et al. 2016 (arXiv:1511.06464)
after Hochreiter & Schmidhuber 1997, whose own had other numbers and marks.

    python -m experiments.adding_problem                  # ten networks, three seeds each; ten minutes
    python -m experiments.adding_problem --preset long    # T = 400 for those that may learn it; 20 minutes

Networks of 64 units: tanh and orthogonal recurrent kernels; IRNN (Le et al. 2015); an orthogonal network that stays so
(Lezcano-Casado & Martinez-Rubio 2019); coRNN; GRU; LSTM with forget biases of 0, 1 and chrono (Tallec & Ollivier 2018,
arXiv:1804.11188); LRU with 32 complex units, and minGRU, both with a ReLU layer on top. Adam, clipping at 1. A network
is "at half" when its error on validation is below half of 1/6, and solves the task at 0.005; all seeds are told.

The LRU fails whatever its memory: it is linear in its inputs, so no unit of it can take in a number only if it is
marked. The gates of minGRU, which see the input alone, are enough for that.

It leaves in the run directory: learning curves of all seeds, and report.md.
"""

import itertools
import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._long_memory import NETWORKS, Outcome, Training, curves, log_outcomes, network, train
from experiments.claims import at_least, within
from experiments.cli import main
from rnn_jax import unroll
from rnn_jax.plotting import named_curves, save
from rnn_jax.report import write_report
from rnn_jax.training import is_writer, seed_keys

BASELINE = 1 / 6
SOLVED = 0.005
ORDER = ("gru", "lstm_chrono", "lstm_bias_1", "lstm_bias_0")
"""Which network is done, with all its seeds, before which."""
_T100 = {"length": 100, "seeds": 3, "cells": list(NETWORKS)}
_T400 = {"length": 400, "seeds": 3}
CLAIMS = (
    within("constant_1", BASELINE, 0.008, source="Var(U + U) = 1/6, exactly; here on 2,000 sequences", when=_T100),
    at_least("in_order", 1, source="GRU, then LSTM: chrono, bias 1, bias 0 (ours; Tallec & Ollivier 2018)", when=_T100),
    *(at_least(f"solved_{name}", 2, source="two of three seeds or more", when=_T100) for name in ORDER),
    at_least("error_tanh", 0.08, source="Le et al. 2015: tanh does not learn it", when=_T100),
    at_least("error_lru", 0.13, source="what is linear in its inputs cannot choose among them", when=_T100),
    *(at_least(f"solved_{name}", 2, source="two of three seeds or more", when=_T400) for name in ORDER[:2]),
    at_least("error_tanh", 0.13, source="Le et al. 2015: tanh does not learn it", when=_T400),
)


@dataclass(frozen=True)
class Config:
    """One length, ten networks, three seeds of each side by side."""

    training: Training = field(default_factory=Training)
    length: int = 100
    """T."""
    cells: tuple[str, ...] = NETWORKS
    hidden_size: int = 64
    learning_rate: float = 2e-3
    """Of Adam."""
    seeds: int = 3
    seed: int = 0


SMOKE = Config(
    Training(batch_size=2, num_steps=2, evaluate_every=1, num_valid=2, num_test=4),
    length=6,
    cells=("tanh",),
    hidden_size=4,
    seeds=1,
)
LONG = Config(
    Training(num_steps=4000, num_valid=250, max_seconds=420.0),
    length=400,
    cells=("tanh", "gru", "lstm_chrono", "lru"),
)


def adding(length: int, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Sequences of the adding problem.

    Args:
        length: T, even.
        key: a PRNG key.
        count: B.

    Returns:
        `(xs [T, B, 2], sums [B])`.

    Raises:
        ValueError: an odd length, or one below 2.
    """
    if length < 2 or length % 2:
        raise ValueError(f"`length` must be even and at least 2, got {length}")
    number_key, mark_key = jax.random.split(key)
    numbers = jax.random.uniform(number_key, (length, count))
    first, second = jax.random.randint(mark_key, (2, count), 0, length // 2)
    marks = jax.nn.one_hot(first, length, axis=0) + jax.nn.one_hot(second + length // 2, length, axis=0)
    return jnp.stack([numbers, marks], axis=-1), (numbers * marks).sum(0)


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains all networks, one kind after the other."""
    data = partial(adding, config.length)
    tx, keys = optax.adam(config.learning_rate), seed_keys(config.seed, config.seeds)
    outcomes: dict[str, Outcome] = {}
    for name in config.cells:
        cell = network(name, config.hidden_size, config.length, 1)

        def squares(params: Any, batch: Any, cell: Any = cell) -> jax.Array:
            xs, sums = batch
            return jnp.square(unroll(cell, params, xs)[1][-1, :, 0] - sums)

        def error(params: Any, batch: Any, squares: Any = squares) -> jax.Array:
            return squares(params, batch).mean()

        validation = ("error", "min", SOLVED)
        outcomes[name] = train(run_dir / name, cell, 2, tx, data, squares, error, validation, config.training, keys)
    sums = data(jax.random.key(1001), config.training.num_test)[1]
    metrics: dict[str, Any] = {"constant_1": float(jnp.square(sums - 1).mean())}
    for name, outcome in outcomes.items():
        half = outcome.first(lambda valid: valid < BASELINE / 2)
        solved = outcome.first(lambda valid: valid <= SOLVED)
        metrics |= {
            f"error_{name}": float(outcome.test.mean()),
            f"error_{name}_seeds": outcome.test.tolist(),
            f"solved_{name}": int((outcome.test < 2 * SOLVED).sum()),
            f"half_{name}": float(np.median(half)),
            f"half_{name}_seeds": half.tolist(),
            f"solved_after_{name}": float(solved.max()),
        }
    order = [metrics.get(f"solved_after_{name}", math.nan) for name in ORDER]
    metrics["in_order"] = int(all(earlier < later for earlier, later in itertools.pairwise(order)))
    log_outcomes(run_dir, outcomes, "error")
    if is_writer():
        ax = named_curves(
            curves(outcomes),
            xlabel="training steps",
            ylabel="mean squared error on validation",
            title=f"Adding two numbers of {config.length}",
            lines={"always 1: 1/6": BASELINE, "solved": SOLVED},
            log=True,
        )
        write_report(
            run_dir,
            title=f"The adding problem, T = {config.length}",
            intro=f"Mean squared error on {config.training.num_test} test sequences; saying 1 always: {BASELINE:.4f}.",
            metrics_rows=[
                {
                    "network": name,
                    "error": f"{metrics[f'error_{name}']:.4f}",
                    "solved": f"{metrics[f'solved_{name}']} of {config.seeds}",
                    "steps to half": f"{metrics[f'half_{name}']:g}",
                    "all solved after": f"{metrics[f'solved_after_{name}']:g}",
                    "seconds": f"{outcome.seconds:.0f}",
                }
                for name, outcome in outcomes.items()
            ],
            figures={"Every seed of every network": save(ax.figure, run_dir / "figures" / "curves.png")},
            links={},
            notes=[],
        )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS, presets={"long": LONG})
