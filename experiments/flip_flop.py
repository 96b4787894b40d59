r"""How does a trained network remember three bits?

Each of three inputs sends pulses of +1 and -1 now and then; each of three outputs is to hold the last pulse of its
input. Sussillo & Barak 2013 (Opening the black box) trained a network to do so and looked for the points where it
stands still. It remembers by 2^3 stable fixed points, and between them are saddles:

    27 points = 8 stable + 12 with one unstable direction + 6 with two + 1 with three

the vertices, edges, faces and the centre of a cube. Here all of them are found and counted, in three networks of three.
How does one know that none is missing? tanh maps the cube [-1, 1]^H into itself, so by Lefschetz' theorem the signs of
det(1 - J) over all fixed points add up to exactly 1, whatever the weights; 8 - 12 + 6 - 1 = 1.

    python -m experiments.flip_flop                        # a minute or two: 1, 2 and 3 bits, three networks each
    python -m experiments.flip_flop --cell gru --bits 3    # the sum holds for a GRU too

With n bits one expects 3^n points, C(n, k) 2^(n - k) of them with k unstable directions. That comes true for two and
three bits and tanh networks of 64 units, three of three. With one bit there are three points, but the middle one of
some networks has two unstable directions more, a rotation. Fixed points are searched in float64 with no input, from
states that the network visits and mixtures of 2, 4 and 8 of these. A metric of several networks is the one furthest
from what is expected.

It leaves in the run directory: the cube, the eigenvalues at each kind of point, learning curves, report.md.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._flip_flops import flip_flops
from experiments.claims import at_most, within
from experiments.cli import main
from rnn_jax import Cell, dense, make_cell, stack, stream_step, unroll
from rnn_jax.analysis import Linearisation, as_vector, find_fixed_points, linearise
from rnn_jax.metrics import mean_value, tally
from rnn_jax.plotting import eigenvalue_plane, fixed_point_map, learning_curves, save
from rnn_jax.report import write_report
from rnn_jax.training import (
    create_states,
    describe_fit,
    fit,
    is_writer,
    make_train_steps,
    open_checkpoints,
    run_logger,
    seed_keys,
)

_SUSSILLO = "Sussillo & Barak 2013: vertices, edges, faces and centre of a cube"
_TANH = {"cell": "elman", "seeds": 3}
CLAIMS = (
    within("complete_3_bits", 3, 0, source=f"{_SUSSILLO}; networks of three with 8 + 12 + 6 + 1 points", when=_TANH),
    within("complete_2_bits", 3, 0, source="4 + 4 + 1 points", when=_TANH),
    within("points_1_bits", 3, 0, source="2 + 1 points", when=_TANH),
    within("index_sum_3_bits", 1, 0, source="Lefschetz: the sum over all fixed points is 1", when=_TANH),
    at_most("largest_speed", 1e-18, source="fixed points, not slow ones", when=_TANH),
)


@dataclass(frozen=True)
class Config:
    """Three networks for each number of bits."""

    bits: tuple[int, ...] = (1, 2, 3)
    cell: str = "elman"
    """A name in rnn_jax.CELLS."""
    hidden_size: int = 64
    window: int = 60
    batch_size: int = 96
    pulse: float = 0.1
    """Probability of a pulse in each channel at each step."""
    learning_rate: float = 3e-3
    """Of Adam; falls to a hundredth along a cosine."""
    num_steps: int = 1500
    candidates: int = 800
    """From how many states fixed points are searched, in each network."""
    tolerance: float = 1e-18
    apart: float = 1e-4
    max_seconds: float = 900.0
    seeds: int = 3
    seed: int = 0


SMOKE = Config(bits=(1,), hidden_size=6, window=12, batch_size=4, num_steps=3, candidates=6, seeds=1)


def train(config: Config, cell: Cell, bits: int, run_dir: Path) -> tuple[Any, Any, str]:
    """The parameters of all seeds [N, ...], what `fit` says, and that in a sentence."""

    def loss_fn(params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        pulses, targets = flip_flops(key, bits, config.batch_size, config.window, config.pulse)
        squares = jnp.square(unroll(cell, params, pulses)[1] - targets)
        pair = tally(squares, jnp.ones_like(squares))
        return mean_value(pair), {"squared_error": pair}

    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha=0.01)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    states = create_states(lambda key: cell.init(key, bits), tx, seed_keys(config.seed, config.seeds))
    steps = make_train_steps(loss_fn, tx)
    settings = jnp.zeros(config.seeds)
    folder = run_dir / f"{bits}_bits"
    folder.mkdir(exist_ok=True)
    with run_logger(folder) as log, open_checkpoints(folder) as checkpoints:
        last, info = fit(
            states,
            lambda states, batch: steps(states, settings, batch),
            itertools.repeat(()),
            num_steps=config.num_steps,
            log=log,
            log_every=max(1, config.num_steps // 100),
            checkpoints=checkpoints,
            max_seconds=config.max_seconds,
        )
    return last.params, info, describe_fit(info, config.num_steps)


class Portrait(NamedTuple):
    """The fixed points of one network."""

    points: np.ndarray  # [N, D], as vectors
    modes: list[Linearisation]
    readouts: np.ndarray  # [N, bits]
    visited: np.ndarray  # [K, T, D] trajectories
    largest_speed: float

    def counts(self, bits: int) -> list[int]:
        """How many points have 0, 1, ..., `bits` unstable directions, and how many have more."""
        found = [one.num_unstable for one in self.modes]
        return [*(found.count(k) for k in range(bits + 1)), sum(number > bits for number in found)]

    def complete(self, bits: int) -> bool:
        """Whether these are 3^n points of the kinds that are expected, with an index sum of 1 and 2^n memories."""
        expected = [math.comb(bits, k) * 2 ** (bits - k) for k in range(bits + 1)]
        stable = [
            tuple(np.sign(row)) for row, one in zip(self.readouts, self.modes, strict=True) if not one.num_unstable
        ]
        return self.counts(bits) == [*expected, 0] and self.index_sum == 1 and len(set(stable)) == 2**bits

    @property
    def index_sum(self) -> int:
        """The sum of the signs of det(1 - J)."""
        return sum(one.index for one in self.modes)


def portrait(config: Config, cell: Cell, params: Any, bits: int, key: jax.Array) -> Portrait:
    """Searches the fixed points of a network without input, in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        one = cell.init_carry(wide, ())
        start, back = as_vector(one)
        keys = jax.random.split(key, 3)
        pulses, _ = flip_flops(keys[0], bits, 24, 4 * config.window, config.pulse)

        def advance(h: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            h = jax.vmap(lambda h, x: stream_step(cell, wide, h, x)[0])(h, x)
            return h, jax.vmap(lambda h: as_vector(h)[0])(h)

        rows = jax.vmap(lambda _: one)(jnp.arange(24))
        visited = np.asarray(jax.jit(lambda: jax.lax.scan(advance, rows, pulses.astype(start.dtype))[1])())
        rng = np.random.default_rng(config.seed)
        pool = visited.reshape(-1, visited.shape[-1])
        mixed = [
            rng.dirichlet(np.ones(size)) @ pool[rng.integers(0, len(pool), size)]
            for size in rng.choice([1, 2, 2, 4, 4, 8], config.candidates)
        ]
        silence = jnp.zeros(bits)
        step = lambda h: stream_step(cell, wide, h, silence)[0]  # noqa: E731
        found = find_fixed_points(
            step, jax.vmap(back)(jnp.asarray(np.stack(mixed))), tolerance=config.tolerance, apart=config.apart
        )
        number = int(found.distinct.sum())
        carries = [jax.tree.map(lambda leaf, i=i: leaf[i], found.points) for i in range(number)]
        readouts = [np.asarray(stream_step(cell, wide, carry, silence)[1]) for carry in carries]
        return Portrait(
            points=np.array([np.asarray(as_vector(carry)[0]) for carry in carries]).reshape(number, len(start)),
            modes=[linearise(step, carry) for carry in carries],
            readouts=np.array(readouts).reshape(number, bits),
            visited=visited.swapaxes(0, 1),
            largest_speed=float(found.speed[:number].max(initial=0)),
        )


def pictures(found: Portrait, bits: int, run_dir: Path) -> dict[str, Path]:
    """The cube, and the eigenvalues at each kind of point."""
    pool = found.visited.reshape(-1, found.visited.shape[-1])
    mean = pool.mean(0)
    axes = np.linalg.svd(pool - mean, full_matrices=False)[2][:3]
    axes = np.concatenate([axes, np.zeros((3 - len(axes), axes.shape[1]))])
    flat = (found.points - mean) @ axes.T
    size = np.abs(flat).max(initial=1.0) / 6
    rods = [
        (number, size * (axes @ one.right[:, k].real) / max(float(np.linalg.norm(axes @ one.right[:, k].real)), 1e-12))
        for number, one in enumerate(found.modes)
        for k in range(one.num_unstable)
    ]
    cube = fixed_point_map(
        flat,
        [one.num_unstable for one in found.modes],
        trajectories=(found.visited[:12] - mean) @ axes.T,
        directions=rods,
        title=f"{bits} bits: fixed points, and how they are left",
    )
    kinds = sorted({one.num_unstable for one in found.modes})
    groups = {
        f"{kind} unstable": np.concatenate([one.eigenvalues for one in found.modes if one.num_unstable == kind])
        for kind in kinds[:4]
    }
    plane = eigenvalue_plane(groups, title="Eigenvalues of the Jacobians")
    return {
        f"Fixed points of a network that holds {bits} bits": save(cube, run_dir / "figures" / f"cube_{bits}.png"),
        f"Their eigenvalues, {bits} bits": save(plane.figure, run_dir / "figures" / f"eigenvalues_{bits}.png"),
    }


class Study(NamedTuple):
    """What came of one number of bits."""

    metrics: dict[str, Any]
    rows: list[dict[str, Any]]
    figures: dict[str, Path]
    note: str
    largest_speed: float


def study(config: Config, bits: int, run_dir: Path, log: Callable[[Any], None]) -> Study:
    """Trains the networks for a number of bits, and searches and counts their points."""
    cell = stack(make_cell(config.cell, config.hidden_size), dense(bits))
    params, info, note = train(config, cell, bits, run_dir)
    errors = np.atleast_1d(info.history[-1]["train/squared_error"])
    figures, portraits, rows = {}, [], []
    for number in range(config.seeds):
        seed = config.seed + number
        own = jax.tree.map(lambda leaf, number=number: leaf[number], params)
        found = portrait(config, cell, own, bits, jax.random.key(seed))
        portraits.append(found)
        *expected, more = found.counts(bits)
        row = {
            "bits": bits,
            "seed": seed,
            "squared error": float(errors[number]),
            "fixed points": len(found.points),
            "by unstable directions": " + ".join(map(str, [*expected, *([more] if more else [])])),
            "index sum": found.index_sum,
        }
        rows.append(row)
        log({"step": seed, f"{bits} bits/points": len(found.points), f"{bits} bits/index_sum": found.index_sum})
        if number == 0 and is_writer() and len(found.points):
            figures = pictures(found, bits, run_dir)
    metrics = {
        f"complete_{bits}_bits": sum(found.complete(bits) for found in portraits),
        f"points_{bits}_bits": max((len(found.points) for found in portraits), key=lambda n: abs(n - 3**bits)),
        f"index_sum_{bits}_bits": max((found.index_sum for found in portraits), key=lambda total: abs(total - 1)),
        f"squared_error_{bits}_bits": float(errors.max()),
    }
    if is_writer():
        curves = learning_curves(info.history, "squared_error")
        path = run_dir / "figures" / f"learning_curves_{bits}.png"
        figures[f"Learning curves, {bits} bits"] = save(curves.figure, path)
    speed = max(found.largest_speed for found in portraits)
    return Study(metrics, rows, figures, f"{bits} bits: {note}", speed)


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains, searches and counts, for each number of bits."""
    with run_logger(run_dir) as log:
        studies = [study(config, bits, run_dir, log) for bits in config.bits]
    metrics = {name: value for one in studies for name, value in one.metrics.items()}
    metrics["largest_speed"] = max(one.largest_speed for one in studies)
    if is_writer():
        write_report(
            run_dir,
            title=f"Flip-flops: the fixed points of {config.cell} networks",
            intro="n bits are held by 3^n fixed points; the index sum says whether any is missing (it must be 1).",
            metrics_rows=[row for one in studies for row in one.rows],
            figures={caption: path for one in studies for caption, path in one.figures.items()},
            links={},
            notes=[one.note for one in studies],
        )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
