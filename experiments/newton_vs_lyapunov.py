r"""When can a recurrence be run in parallel over time?

Newton's method solves all steps at once, `rnn_jax.Newton()`. It needs a few iterations where a system forgets what it
was disturbed by, however long the sequence is, and about as many as there are steps where disturbances grow: what
decides is the sign of the largest Lyapunov exponent.

Gonzalez et al. 2025 (Predictability enables parallelization of nonlinear state space models, fig. 2): random networks
h' = W tanh(h) + u of 100 units, W ~ N(0, g^2 / 100) without its diagonal, u = A sin(w t + phi) with A ~ U[0, .2] and
w ~ U[.5, 3], first iterate ~ U[-1, 1], float64. A prototype of one seed took 3, 4, 7, 32, 86 and more than 200
iterations at gain g = .5, .8, 1, 1.2, 1.4 and 1.7 for 1,000 steps. Then three other questions:

- Does it matter how long a sequence is? A GRU with random weights: 4 iterations at 1,000 steps and at 10,000 (Lim et
  al. 2024, arXiv:2309.12252); more with the diagonal of its Jacobians alone.
- Can a chaotic system be made parallel? Lorenz 63, pulled towards noisy data by generalized teacher forcing of
  strength alpha, from the data: more than 300 iterations without, 4 at alpha .02, 2 at .1 (Hess, Goetz & Durstewitz
  2026, arXiv:2605.12683).
- An observer of Lorenz 63 that is told y contracts (Pecora & Carroll 1990): 2 iterations, not hundreds.

    python -m experiments.newton_vs_lyapunov              # about 4 minutes on one core

Counts are those of `unroll_newton`, until no residual is larger than 1e-6; the paper's tolerance is a mean squared
residual of 1e-10. The exponent is the mean growth of a tangent along the solution, without its first quarter. The
second picture shows one random network at three gains: its error at every step after every iteration.

The exponent says how errors shrink near the solution, not from where they do: at alpha .02 one seed of three takes 163
iterations, and the guess is as noisy as that of the others.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.claims import at_least, at_most, within
from experiments.cli import main
from rnn_jax import Cell, Newton, gru, unroll, unroll_carries, unroll_newton
from rnn_jax.data.dynamical import lorenz63_step
from rnn_jax.forcing import forced_carry_inputs, with_forced_carry
from rnn_jax.plotting import FAINT, PALETTE, finish, save, seed_curves
from rnn_jax.report import write_report
from rnn_jax.training import run_logger
from rnn_jax.unroll.jacobians import Given, Steps, parts_of
from rnn_jax.unroll.newton import solve_in_time

_GONZALEZ = "Gonzalez et al. 2025, fig. 2: few iterations below an exponent of 0, many above"
_LIM = "Lim et al. 2024: typically fewer than 20, and not more for longer sequences"
_HESS = "Hess, Goetz & Durstewitz 2026: forcing makes chaos parallel"
CLAIMS = (
    within("iterations_0.5", 3, 1, source=_GONZALEZ),
    within("iterations_0.8", 4, 1, source=_GONZALEZ),
    at_most("most_iterations_if_contracting", 10, source=_GONZALEZ),
    at_least("least_iterations_if_chaotic", 60, source=_GONZALEZ),
    at_least("iterations_1.7", 200, source=_GONZALEZ),
    within("gru_iterations_1000", 4, 1, source=_LIM),
    within("gru_iterations_10000", 4, 1, source=_LIM),
    within("gru_diagonal_iterations_10000", 15, 5, source="ours: four times as many as with full Jacobians"),
    at_least("lorenz_forced_0", 300, source=_HESS),
    within("lorenz_forced_0.02", 4, 2, source=_HESS),
    within("lorenz_forced_0.1", 2, 1, source=_HESS),
    at_most("observer_iterations", 4, source="Gonzalez et al. 2025, table 1: observers take 2 to 14"),
    at_most("largest_error", 1e-4, source="where it converges, it ends where the scan does"),
)
SURE = 0.01  # exponents closer to 0 than this are neither


@dataclass(frozen=True)
class Config:
    """Sizes of the paper, fewer seeds."""

    gains: tuple[float, ...] = (0.5, 0.8, 1.0, 1.2, 1.4, 1.7)
    """Of the random networks."""
    num_units: int = 100
    num_steps: int = 1_000
    max_iters: int = 200
    """Iterations after which a random network counts as not parallel."""
    tol: float = 1e-6
    """Largest residual `|h_t - step(h_{t-1})| / (1 + |h_t|)` that counts as converged."""
    seeds: int = 3
    gru_units: int = 32
    gru_steps: tuple[int, ...] = (100, 1_000, 10_000)
    lorenz_steps: int = 10_000
    lorenz_max_iters: int = 300
    alphas: tuple[float, ...] = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
    """Weights of the data."""
    noise: float = 0.05
    """Of the data, in its standard deviations."""
    shown: tuple[float, ...] = (0.8, 1.2, 1.7)
    """Those of `gains` in the picture of convergence."""
    shown_iters: int = 60
    seed: int = 0


SMOKE = Config(
    gains=(0.5, 1.7), num_units=8, num_steps=30, max_iters=10, seeds=2, gru_units=4, gru_steps=(20, 40),
    lorenz_steps=50, lorenz_max_iters=20, alphas=(0.0, 0.02, 0.1), shown=(0.5, 1.7), shown_iters=3,
)  # fmt: skip


def system(step: Callable[[Any, jax.Array, jax.Array], jax.Array], size: int) -> Cell:
    """The cell of a map `(params, state, x) -> state`, whose output is its state."""
    return Cell(
        init=lambda key, input_size: (),
        init_carry=lambda params, shape=(): jnp.zeros((*shape, size)),
        step=lambda params, carry, x: (step(params, carry, x),) * 2,
    )


def network(config: Config) -> Cell:
    """h' = W tanh(h) + u, whose parameters are W transposed."""
    return system(lambda weights, h, u: jnp.tanh(h) @ weights + u, config.num_units)


def random_weights(config: Config, gain: float, seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weights [D, D], inputs [T, D] and a first iterate [T, D]."""
    size, rng = config.num_units, np.random.default_rng([config.seed, seed])
    weights = gain * rng.normal(size=(size, size)) / np.sqrt(size)
    np.fill_diagonal(weights, 0)
    amplitude, frequency, phase = rng.uniform(0, 0.2, size), rng.uniform(0.5, 3, size), rng.uniform(0, 2 * np.pi, size)
    inputs = amplitude * np.sin(frequency * np.arange(config.num_steps)[:, None] + phase)
    return jnp.asarray(weights), jnp.asarray(inputs), jnp.asarray(rng.uniform(-1, 1, inputs.shape))


def largest_exponent(cell: Cell, params: Any, xs: jax.Array, before: jax.Array) -> jax.Array:
    """The mean logarithm by which a tangent grows in a step: xs [T, I], before [T, D] the states that enter steps."""

    def body(tangent: jax.Array, one: tuple[jax.Array, Any]) -> tuple[jax.Array, jax.Array]:
        state, z = one
        tangent = jax.jvp(lambda state: cell.step(params, state, z)[0], (state,), (tangent,))[1]
        size = jnp.linalg.norm(tangent)
        return jnp.where(size > 0, tangent / size, start), jnp.log(size)  # a forced first step forgets everything

    start = jnp.full(before.shape[1:], before.shape[1] ** -0.5)
    return jax.lax.scan(body, start, (before, cell.project(params, xs)))[1][len(xs) // 4 :].mean()


class Found(NamedTuple):
    """Of each seed and setting [R, N], or of one run.

    Attributes:
        iterations: of Newton's method.
        exponent: largest Lyapunov exponent, for each step.
        error: largest `|state - exact| / (1 + |exact|)`; NaN where it did not converge.
    """

    iterations: Any
    exponent: Any
    error: Any


@partial(jax.jit, static_argnames=("cell", "method"))
def solve(cell: Cell, params: Any, xs: jax.Array, start: jax.Array, guess: jax.Array, method: Newton) -> Found:
    """One run: xs [T, I], start [D], guess [T, D]."""
    *_, states, info = unroll_newton(cell, params, xs, start, guess=guess, method=method)
    exact = unroll_carries(cell, params, xs, start)[2]
    error = (jnp.abs(states - exact) / (1 + jnp.abs(exact))).max()
    exponent = largest_exponent(cell, params, xs, jnp.concatenate([start[None], exact[:-1]]))
    return Found(info.iterations, exponent, jnp.where(info.converged, error, jnp.nan))


def table(folder: Path, name: str, seeds: int, settings: Sequence[Any], one: Callable[[int, Any], Found]) -> Found:
    """`one(seed, setting)` for all of them, each a row of the log as soon as it is known."""
    found = np.zeros((3, seeds, len(settings)))
    with run_logger(folder) as log:
        for seed, n in np.ndindex(found.shape[1:]):
            found[:, seed, n] = one(seed, settings[n])
            log({"step": seed, f"{name} {settings[n]}/iterations": found[0, seed, n]})
    return Found(*found)


def random_networks(config: Config, folder: Path) -> Found:
    """Over gains."""
    cell, method = network(config), Newton(max_iters=config.max_iters, tol=config.tol)

    def one(seed: int, gain: float) -> Found:
        weights, inputs, guess = random_weights(config, gain, seed)
        return solve(cell, weights, inputs, jnp.zeros(config.num_units), guess, method)

    return table(folder, "gain", config.seeds, config.gains, one)


def random_grus(config: Config, jacobian: Literal["dense", "diagonal"], folder: Path) -> Found:
    """Over numbers of steps."""
    size = config.gru_units
    cell, method = gru(size), Newton(jacobian, tol=config.tol)

    def one(seed: int, steps: int) -> Found:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), seed))
        params = jax.tree.map(lambda leaf: leaf.astype(float), cell.init(keys[0], 2))
        xs = jax.random.normal(keys[1], (steps, 2), float)
        return solve(cell, params, xs, jnp.zeros(size), jnp.zeros((steps, size)), method)

    return table(folder, f"{jacobian} GRU", config.seeds, config.gru_steps, one)


def lorenz63(params: Any, state: jax.Array, x: jax.Array) -> jax.Array:
    """The state 0.01 units of time later."""
    del params, x
    return lorenz63_step(state)


def lorenz_systems(config: Config, folder: Path) -> tuple[Found, Found]:
    """Over strengths of forcing, from the noisy data; and told y, from random states and a wrong start."""
    cell, transient = system(lorenz63, 3), 2000
    method = Newton(max_iters=config.lorenz_max_iters, tol=config.tol)
    observer = with_forced_carry(cell, 1, mix=lambda state, y, _: jnp.concatenate([state[:1], y, state[2:]]))
    forced = with_forced_carry(cell, 3)

    def data(seed: int) -> tuple[jax.Array, np.random.Generator]:
        rng = np.random.default_rng([config.seed, seed])
        start = jnp.asarray(np.array([1.0, 1.0, 25.0]) + rng.normal(size=3))
        return unroll(cell, (), jnp.zeros((transient + config.lorenz_steps + 1, 0)), start)[1][transient:], rng

    def one(seed: int, alpha: float) -> Found:
        clean, rng = data(seed)
        noisy = clean + config.noise * clean.std(0) * rng.normal(size=clean.shape)
        xs = forced_carry_inputs(noisy[1:], alpha, start=noisy[0])
        return solve(forced, (), xs, noisy[0], noisy[1:], method)

    def told(seed: int, _: str) -> Found:
        clean, rng = data(seed)
        xs = forced_carry_inputs(clean[1:, 1:2], 1.0, start=clean[0, 1:2])
        guess = jnp.asarray(rng.uniform(-1, 1, (len(xs), 3)))
        return solve(observer, (), xs, clean[0] + rng.normal(size=3), guess, method)

    over_alphas = table(folder, "alpha", config.seeds, config.alphas, one)
    return over_alphas, table(folder, "Lorenz 63", config.seeds, ["told y"], told)


def convergence(config: Config, gain: float) -> np.ndarray:
    """Errors of the first seed's network after 1, ..., K iterations, at each step [K, T].

    Every iteration is followed by a plain step of all states, as the last one is.
    """
    cell = network(config)
    weights, inputs, guess = random_weights(config, gain, 0)
    start = jnp.zeros(config.num_units)
    exact = unroll_carries(cell, weights, inputs, start)[2]
    parts, given, steps = parts_of(cell, weights), Given(weights, start, start), Steps(inputs, None, None)

    def iterate(states: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        better = solve_in_time(parts, given, steps, (), Newton(max_iters=1), states, fall_back=False)[0]
        return better, jnp.abs(states - exact).max(-1)

    return np.asarray(jax.jit(lambda guess: jax.lax.scan(iterate, guess, None, length=config.shown_iters)[1])(guess))


def draw_counts(config: Config, networks: Found, grus: dict[str, Found], lorenz: Found, folder: Path) -> Path:
    """Iterations over exponents, numbers of steps and strengths of forcing."""
    left, middle, right = Figure(figsize=(13, 4), layout="constrained").subplots(1, 3)
    dots = {"random networks": networks, "GRU": grus["dense"], "forced Lorenz 63": lorenz}
    for (label, found), colour in zip(dots.items(), (PALETTE[3], PALETTE[2], PALETTE[0]), strict=True):
        left.plot(found.exponent, found.iterations, "o", ms=6, mfc="white", color=colour)  # hollow: not converged
        solved = np.where(np.isfinite(found.error), found.iterations, np.nan)
        left.plot(found.exponent.ravel(), solved.ravel(), "o", ms=6, color=colour, label=label)
    left.axvline(0, color=PALETTE[5], lw=1.2, ls=(0, (5, 3)))
    left.set_xscale("symlog", linthresh=0.01)
    left.margins(0.06)
    left.set_yscale("log")
    left.grid(axis="y", color=FAINT, lw=0.7)
    finish(left, "What decides is whether disturbances grow")
    left.set(xlabel="largest Lyapunov exponent, for each step", ylabel="Newton iterations; hollow: no convergence")
    left.legend(frameon=False, loc="center left", fontsize=9)
    series = {f"{name} Jacobians": found.iterations for name, found in grus.items()}
    seed_curves(config.gru_steps, series, ax=middle, xlabel="steps of a GRU that forgets")
    middle.set_ylim(1, None)
    least = min((alpha for alpha in config.alphas if alpha > 0), default=0.01)
    series = {"Lorenz 63": lorenz.iterations}
    seed_curves(config.alphas, series, ax=right, title="Forcing makes chaos parallel", x_linear_below=least)
    right.set_xlabel("alpha: weight of the data")
    return save(left.figure, folder / "iterations.png")


def draw_convergence(config: Config, exponents: dict[float, float], folder: Path) -> Path:
    """A panel for each of the gains that are shown."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    extent = (0, config.num_steps, 0.5, config.shown_iters + 0.5)
    axes = figure.subplots(1, len(config.shown), sharey=True, squeeze=False)[0]
    for ax, gain in zip(axes, config.shown, strict=True):
        errors = np.log10(np.maximum(convergence(config, gain), 1e-15))
        picture = ax.imshow(errors, aspect="auto", origin="lower", extent=extent, cmap="magma", vmin=-15, vmax=1)
        finish(ax, f"exponent {exponents[gain]:.3f} (gain {gain:g})")
        ax.set_xlabel("step")
    axes[0].set_ylabel("iteration")
    figure.colorbar(picture, ax=list(axes), label="log10 of the error")
    return save(figure, folder / "convergence.png")


def rows_of(label: str, settings: Sequence[Any], found: Found) -> list[dict[str, Any]]:
    """Rows of the report, one for each setting."""
    return [
        {
            "system": label,
            "setting": setting,
            "exponent": float(found.exponent[:, n].mean()),
            "iterations": "/".join(f"{count:.0f}" for count in found.iterations[:, n]),
        }
        for n, setting in enumerate(settings)
    ]


def run(config: Config, run_dir: Path) -> dict[str, float]:
    """Counts iterations of all systems."""
    with jax.enable_x64(True):
        networks = random_networks(config, run_dir)
        grus = {name: random_grus(config, name, run_dir) for name in ("dense", "diagonal")}
        lorenz, observer = lorenz_systems(config, run_dir)
        exponents = dict(zip(config.gains, networks.exponent[0].tolist(), strict=True))
        figures = {
            "Iterations until convergence; a dot is a seed": draw_counts(config, networks, grus, lorenz, run_dir),
            "Where the iterates of one network are right already": draw_convergence(config, exponents, run_dir),
        }
    tables = {
        "random network, gain": (config.gains, networks),
        "GRU, steps": (config.gru_steps, grus["dense"]),
        "GRU by diagonals, steps": (config.gru_steps, grus["diagonal"]),
        "forced Lorenz 63, alpha": (config.alphas, lorenz),
        "Lorenz 63": (["told y"], observer),
    }
    write_report(
        run_dir,
        title="When can a recurrence be run in parallel over time?",
        intro=f"Newton iterations of {config.seeds} seeds, at most {config.max_iters} for the random networks and "
        f"{config.lorenz_max_iters} for Lorenz 63, and the mean of the largest Lyapunov exponents.",
        metrics_rows=[row for label, (settings, found) in tables.items() for row in rows_of(label, settings, found)],
        figures=figures,
        links={},
    )

    def most(found: Found, chosen: np.ndarray, largest: bool) -> float:
        counts = found.iterations[chosen]
        return float(counts.max() if largest else counts.min()) if counts.size else math.nan

    metrics = {f"exponent_{g:g}": x for g, x in zip(config.gains, networks.exponent.mean(0), strict=True)}
    metrics |= {f"iterations_{g:g}": n for g, n in zip(config.gains, np.median(networks.iterations, 0), strict=True)}
    metrics["most_iterations_if_contracting"] = most(networks, networks.exponent < -SURE, largest=True)
    metrics["least_iterations_if_chaotic"] = most(networks, networks.exponent > SURE, largest=False)
    for steps, full, diagonal in zip(config.gru_steps, *(found.iterations for found in grus.values()), strict=True):
        metrics[f"gru_iterations_{steps}"] = np.median(full)
        metrics[f"gru_diagonal_iterations_{steps}"] = np.median(diagonal)
    for alpha, counts in zip(config.alphas, lorenz.iterations.T, strict=True):
        metrics[f"lorenz_forced_{alpha:g}"] = np.median(counts)
    metrics["observer_iterations"] = observer.iterations.max()
    metrics["largest_error"] = max(float(np.nanmax(found.error, initial=0)) for _, found in tables.values())
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
