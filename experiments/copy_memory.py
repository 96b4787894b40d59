r"""Which networks can say ten symbols again after a hundred blanks?

The input has 10 symbols out of 8, T - 1 blanks, a marker, and 10 blanks more; the output is blank until the marker has
come, then the 10 symbols (Hochreiter & Schmidhuber 1997, in the form of Arjovsky et al. 2016, arXiv:1511.06464). Who
remembers nothing says blanks, then one of 8 by chance: a cross-entropy of 10 ln 8 / (T + 20) over all T + 20 steps.
Gated networks stay there for long, or leave it slowly; what keeps the norm of its state, as orthogonal networks do, and
LRU nearly does, says all ten.

    python -m experiments.copy_memory                  # eight networks, three seeds each; 17 to 23 minutes
    python -m experiments.copy_memory --preset long    # T = 1,000 for the two that learn 100; half an hour

Over 1,000 steps neither was done in 15 minutes each: recall 0.20 (orthogonal, 3,300 steps) and 0.17 (LRU, one seed of
which says nothing but blanks); chance is 0.125.

The networks are those of `adding_problem`. RMSprop, clipping at 1. `recall` is the part of the 10 symbols that is
right, by chance 1/8; a network is done at 0.995.

It leaves in the run directory: recall of all seeds while they train, and report.md.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._long_memory import Outcome, Training, curves, log_outcomes, network, train
from experiments.claims import at_least, at_most, within
from experiments.cli import main
from rnn_jax import unroll
from rnn_jax.plotting import named_curves, save
from rnn_jax.report import write_report
from rnn_jax.training import is_writer, seed_keys

NUM_SYMBOLS, NUM_RECALLED = 8, 10
BLANK, MARKER = 0, NUM_SYMBOLS + 1
DONE = 0.995
CELLS = ("tanh", "irnn", "orthogonal", "co_rnn", "gru", "lstm_bias_1", "lstm_chrono", "lru")
_T100 = {"length": 100, "seeds": 3, "cells": list(CELLS)}
_STUCK = "Arjovsky et al. 2016; Bai et al. 2018, figure 5: gated networks stay near chance"
CLAIMS = (
    within("no_memory", 10 * math.log(8) / 120, 1e-5, source="Arjovsky et al. 2016, exactly", when=_T100),
    at_least("recall_orthogonal", 0.985, source="Lezcano-Casado & Martinez-Rubio 2019: solved", when=_T100),
    at_least("recall_lru", 0.985, source="ours: units begin with the time constants of the task", when=_T100),
    *(at_most(f"recall_{name}", 0.4, source=_STUCK, when=_T100) for name in ("gru", "lstm_bias_1", "lstm_chrono")),
    *(at_most(f"recall_{name}", 0.2, source="chance is 0.125", when=_T100) for name in ("tanh", "irnn")),
)


@dataclass(frozen=True)
class Config:
    """One length, eight networks, three seeds of each side by side."""

    training: Training = field(default_factory=lambda: Training(batch_size=32, num_steps=5000, num_valid=128))
    length: int = 100
    """T."""
    cells: tuple[str, ...] = CELLS
    hidden_size: int = 64
    learning_rate: float = 1e-3
    """Of RMSprop."""
    seeds: int = 3
    seed: int = 0


SMOKE = Config(
    Training(batch_size=2, num_steps=2, evaluate_every=1, num_valid=2, num_test=4),
    length=3,
    cells=("orthogonal",),
    hidden_size=4,
    seeds=1,
)
LONG = Config(
    Training(batch_size=32, num_steps=8000, num_valid=64, num_test=256, max_seconds=800.0),
    length=1000,
    cells=("orthogonal", "lru"),
)


def copying(length: int, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Sequences of the copying task.

    Args:
        length: T.
        key: a PRNG key.
        count: B.

    Returns:
        `(xs [T + 20, B, 10] one-hot, targets [T + 20, B])`.

    Raises:
        ValueError: a length below 1.
    """
    if length < 1:
        raise ValueError(f"`length` must be at least 1, got {length}")
    symbols = jax.random.randint(key, (NUM_RECALLED, count), 1, NUM_SYMBOLS + 1)
    blanks = lambda steps: jnp.full((steps, count), BLANK)  # noqa: E731
    tokens = jnp.concatenate([symbols, blanks(length - 1), jnp.full((1, count), MARKER), blanks(NUM_RECALLED)])
    targets = jnp.concatenate([blanks(length + NUM_RECALLED), symbols])
    return jax.nn.one_hot(tokens, NUM_SYMBOLS + 2), targets


def no_memory(targets: jax.Array) -> float:
    """The cross-entropy of saying blanks, then each symbol with probability 1/8."""
    asked = jnp.arange(len(targets))[:, None, None] >= len(targets) - NUM_RECALLED
    blank = (jnp.arange(NUM_SYMBOLS + 1) == BLANK)[None, None]
    logits = jnp.where(asked != blank, 0.0, -1e9)
    logits = jnp.broadcast_to(logits, (*targets.shape, NUM_SYMBOLS + 1))
    return float(optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean())


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains all networks, one kind after the other."""
    data, tx = partial(copying, config.length), optax.rmsprop(config.learning_rate, decay=0.9)
    outcomes: dict[str, Outcome] = {}
    for name in config.cells:
        cell = network(name, config.hidden_size, 3 * config.length // 2, NUM_SYMBOLS + 1)

        def loss(params: Any, batch: Any, cell: Any = cell) -> jax.Array:
            xs, targets = batch
            logits = unroll(cell, params, xs)[1]
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

        def recall(params: Any, batch: Any, cell: Any = cell) -> jax.Array:
            xs, targets = batch
            said = unroll(cell, params, xs)[1][-NUM_RECALLED:].argmax(-1)
            return (said == targets[-NUM_RECALLED:]).mean()

        keys = seed_keys(config.seed, config.seeds)
        validation = ("recall", "max", DONE)
        outcomes[name] = train(
            run_dir / name, cell, NUM_SYMBOLS + 2, tx, data, loss, recall, validation, config.training, keys
        )
    metrics: dict[str, Any] = {"no_memory": no_memory(data(jax.random.key(1001), config.training.num_test)[1])}
    for name, outcome in outcomes.items():
        done = outcome.first(lambda valid: valid >= DONE)
        metrics |= {
            f"recall_{name}": float(outcome.test.mean()),
            f"recall_{name}_seeds": outcome.test.tolist(),
            f"done_{name}": float(np.median(done)),
        }
    log_outcomes(run_dir, outcomes, "recall")
    if is_writer():
        ax = named_curves(
            curves(outcomes),
            xlabel="training steps",
            ylabel="part of the 10 symbols that is right",
            title=f"Saying 10 symbols again after {config.length} steps",
            lines={"chance": 1 / NUM_SYMBOLS},
        )
        write_report(
            run_dir,
            title=f"Copy memory, T = {config.length}",
            intro=f"Part of the symbols right in {config.training.num_test} test sequences; by chance 0.125.",
            metrics_rows=[
                {
                    "network": name,
                    "recall": f"{metrics[f'recall_{name}']:.3f}",
                    "each seed": ", ".join(f"{value:.3f}" for value in outcome.test),
                    "steps until done": f"{metrics[f'done_{name}']:g}",
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
