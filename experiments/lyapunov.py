r"""Do perturbations of a network grow or die, and what does that say about its gradients?

A Lyapunov exponent is the mean growth, in nats per step, of a small perturbation in one direction; a network has as
many as it has numbers in its carry. First what is known is measured: Lorenz 63 (0.9056, 0 and -14.572 per unit of time,
with a sum of -41/3), the Henon map (a sum of ln 0.3), and products of random matrices, whose exponents Newman (1986)
gives in closed form. Then random networks h' = tanh(g W h), W ~ N(0, 1/N):

- they fall silent below g = 1 and are chaotic above (Sompolinsky, Crisanti & Sommers 1988);
- their spectra over i/N do not depend on N: chaos is extensive (Engelken, Wolf & Abbott 2023, arXiv:2006.02427);
- ln |dh_T/dh_t| grows with T - t by the largest exponent (Mikhaeil, Monfared & Durstewitz 2022, theorem 2): gradients
  explode in chaotic networks, whatever the cell, and vanish in contracting ones.

At last a chaotic network is trained to hold bits (the task of `flip_flop`), and its spectrum is taken before and after.

    python -m experiments.lyapunov            # half a minute on one core; float64

It leaves in the run directory: spectra, the edge of chaos, the growth of gradients, before and after training, and
report.md.
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import digamma

from experiments._flip_flops import flip_flops
from experiments.claims import at_most, within
from experiments.cli import main
from rnn_jax import dense, elman, stack, stream_step, unroll
from rnn_jax.analysis import jacobian_products, kaplan_yorke_dimension, lyapunov_spectrum
from rnn_jax.data.dynamical import lorenz63_step
from rnn_jax.metrics import mean_value, tally
from rnn_jax.plotting import named_curves, save
from rnn_jax.report import write_report
from rnn_jax.training import create_state, describe_fit, fit, is_writer, make_train_step, open_checkpoints, run_logger

_ENGELKEN = "Engelken, Wolf & Abbott 2023: chaos is extensive"
CLAIMS = (
    within("lorenz_1", 0.9056, 0.01, source="Sprott 2003: 0.9056, 0, -14.572"),
    within("lorenz_2", 0.0, 0.005, source="Sprott 2003: 0.9056, 0, -14.572"),
    within("lorenz_sum", -41 / 3, 0.005, source="the divergence of Lorenz 63, exactly -(10 + 1 + 8/3)"),
    within("henon_sum", math.log(0.3), 1e-6, source="the determinant of the Henon map"),
    at_most("newman_largest_error", 0.02, source="Newman 1986, in closed form"),
    at_most("sum_minus_log_det", 1e-9, source="the sum of exponents is the mean of ln |det J|"),
    within(
        "exponent_at_gain_0.8",
        math.log(0.8),
        0.06,
        source="the silent state: ln g times the spectral radius of W, 1 in large networks",
    ),
    at_most("exponent_at_gain_0.9", 0.0, source="Sompolinsky, Crisanti & Sommers 1988: silent below 1"),
    within("first_chaotic_gain", 1.2, 0.2, source="Sompolinsky, Crisanti & Sommers 1988: chaos above 1"),
    at_most("difference_between_sizes", 0.05, source=_ENGELKEN),
    within("slope_over_exponent", 1.0, 0.05, source="Mikhaeil, Monfared & Durstewitz 2022, theorem 2"),
)


PULSE = 0.1
"""Probability of a pulse in the task that is learned."""


@dataclass(frozen=True)
class Config:
    """Numbers of steps are those that count, after a burn-in."""

    lorenz_steps: int = 100_000
    """Of 0.01 units of time, by Runge and Kutta's method of order 4."""
    sizes: tuple[int, ...] = (64, 128, 256)
    gains: tuple[float, ...] = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 3.0)
    gain: float = 2.0
    """Of the networks whose spectra and gradients are looked at."""
    num_steps: int = 1000
    random_steps: int = 4000
    distance: int = 200
    """How far back gradients are followed."""
    starts: int = 20
    """From how many states they are."""
    hidden_size: int = 64
    train_steps: int = 600
    bits: int = 2
    seed: int = 0


SMOKE = Config(
    lorenz_steps=300,
    sizes=(4, 6),
    gains=(0.8, 0.9, 2.0),
    num_steps=30,
    random_steps=40,
    distance=20,
    starts=2,
    hidden_size=6,
    train_steps=3,
)


def henon(state: jax.Array) -> jax.Array:
    """One step of the map with a = 1.4, b = 0.3."""
    x, y = state
    return jnp.stack([1 - 1.4 * x**2 + y, 0.3 * x])


def known_systems(config: Config) -> dict[str, float]:
    """Two flows and maps, and random matrices."""
    spectrum = partial(lyapunov_spectrum, burn_in=max(100, config.lorenz_steps // 20), num_steps=config.lorenz_steps)
    flow = np.asarray(jax.jit(partial(spectrum, lorenz63_step))(jnp.ones(3)).exponents) / 0.01
    plane = np.asarray(jax.jit(partial(spectrum, henon))(jnp.full(2, 0.1)).exponents)
    size = config.sizes[0]
    key = jax.random.key(config.seed)
    shrink = 0.5  # so that states stay finite; it only shifts the exponents
    matrices = shrink * jax.random.normal(key, (config.random_steps, size, size)) / math.sqrt(size)
    random = jax.jit(lambda w: lyapunov_spectrum(lambda h, w: w @ h, jnp.ones(size), w))(matrices)
    order = np.arange(1, size + 1)
    newman = math.log(shrink) + (math.log(2 / size) + digamma((size - order + 1) / 2)) / 2
    log_det = float(np.linalg.slogdet(np.asarray(matrices))[1].mean())
    return {
        "lorenz_1": float(flow[0]),
        "lorenz_2": float(flow[1]),
        "lorenz_3": float(flow[2]),
        "lorenz_sum": float(flow.sum()),
        "lorenz_dimension": float(kaplan_yorke_dimension(flow)),
        "henon_1": float(plane[0]),
        "henon_sum": float(plane.sum()),
        "newman_largest_error": float(np.abs(np.asarray(random.exponents) - newman).max()),
        "sum_minus_log_det": abs(float(random.exponents.sum()) - log_det) / abs(log_det),
    }


def random_network(size: int, seed: int) -> tuple[jax.Array, jax.Array]:
    """W and a state."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), size))
    return jax.random.normal(keys[0], (size, size)) / math.sqrt(size), jax.random.normal(keys[1], (size,))


def edge_of_chaos(config: Config) -> np.ndarray:
    """The largest exponent of the largest network at each gain."""
    w, h = random_network(config.sizes[-1], config.seed)

    @jax.jit
    def largest(gain: jax.Array) -> jax.Array:
        options = {"num_steps": config.num_steps, "burn_in": config.num_steps, "num_exponents": 1}
        return lyapunov_spectrum(lambda h: jnp.tanh(gain * (w @ h)), h, **options).exponents[0]

    return np.array([float(largest(gain)) for gain in config.gains])


def spectra(config: Config) -> dict[int, np.ndarray]:
    """The whole spectrum at one gain, by size."""
    found = {}
    for size in config.sizes:
        w, h = random_network(size, config.seed)
        step = lambda h, w=w: jnp.tanh(config.gain * (w @ h))  # noqa: E731
        run = jax.jit(partial(lyapunov_spectrum, step, num_steps=config.num_steps, burn_in=config.num_steps // 2))
        found[size] = np.asarray(run(h).exponents)
    return found


def growth_of_gradients(config: Config) -> tuple[np.ndarray, float, float]:
    """ln |dh_T/dh_t| by T - t (a mean over states), its slope, and the largest exponent along the same steps."""
    w, h = random_network(config.sizes[0], config.seed)
    step = lambda h, x=None: jnp.tanh(config.gain * (w @ h))  # noqa: E731
    blank = jnp.zeros(config.distance)

    @jax.jit
    def one(h: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return jax.lax.fori_loop(0, config.distance, lambda _, h: step(h), h), jacobian_products(
            step, h, blank
        ).log_norm

    h = jax.lax.fori_loop(0, config.num_steps, lambda _, h: step(h), h)
    steps = config.distance * config.starts
    exponent = jax.jit(partial(lyapunov_spectrum, step, num_steps=steps, num_exponents=1))(h).exponents[0]
    _, norms = jax.lax.scan(one, h, None, length=config.starts)
    mean = np.asarray(norms).mean(0)[::-1]
    late = np.arange(config.distance // 4, config.distance + 1)
    return mean, float(np.polyfit(late, mean[late], 1)[0]), float(exponent)


def before_and_after(config: Config, run_dir: Path) -> tuple[np.ndarray, np.ndarray, Any, str]:
    """Spectra of a chaotic tanh network before and after it is trained to hold bits, while it does so."""
    cell = stack(elman(config.hidden_size), dense(config.bits))
    keys = jax.random.split(jax.random.key(config.seed), 3)
    params = cell.init(keys[0], config.bits)
    layer = params[0]
    chaotic = config.gain * jax.random.normal(keys[1], layer.w_h.shape) / math.sqrt(config.hidden_size)
    params = (layer._replace(w_h=chaotic.astype(layer.w_h.dtype)), *params[1:])

    def loss_fn(params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        xs, targets = flip_flops(key, config.bits, 64, 50, PULSE)
        pair = tally(squares := jnp.square(unroll(cell, params, xs)[1] - targets), jnp.ones_like(squares))
        return mean_value(pair), {"squared_error": pair}

    schedule = optax.cosine_decay_schedule(3e-3, config.train_steps, alpha=0.01)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    with run_logger(run_dir) as log, open_checkpoints(run_dir) as checkpoints:
        last, info = fit(
            create_state(params, tx, keys[2]),
            make_train_step(loss_fn, tx),
            itertools.repeat(()),
            num_steps=config.train_steps,
            log=log,
            checkpoints=checkpoints,
        )

    def spectrum(params: Any) -> np.ndarray:
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
            xs = flip_flops(jax.random.key(7), config.bits, 1, 2 * config.num_steps, PULSE)[0][:, 0]
            step = lambda h, x: stream_step(cell, wide, h, x)[0]  # noqa: E731
            carry = cell.init_carry(wide, ())
            run = jax.jit(partial(lyapunov_spectrum, step, burn_in=config.num_steps))
            return np.asarray(run(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), carry), xs).exponents)

    return spectrum(params), spectrum(last.params), info, describe_fit(info, config.train_steps)


def pictures(config: Config, run_dir: Path, found: dict[str, Any]) -> dict[str, Path]:
    """Four figures."""
    figures = {}
    exponent = "exponent, nats per step"
    ax = named_curves(
        {f"N = {size}": ((np.arange(size) + 0.5) / size, one) for size, one in found["spectra"].items()},
        xlabel="i / N",
        ylabel=exponent,
        title=f"Spectra of tanh networks of three sizes, gain {config.gain:g}",
        lines={"": 0.0},
    )
    figures["Chaos is extensive: the spectra lie on one curve"] = save(ax.figure, run_dir / "figures" / "spectra.png")
    gains = np.linspace(min(config.gains), 1, 50)
    ax = named_curves(
        {f"N = {config.sizes[-1]}": (config.gains, found["edge"]), "ln g, the silent state": (gains, np.log(gains))},
        xlabel="gain g",
        ylabel=f"largest {exponent}",
        title="The edge of chaos",
        lines={"": 0.0},
    )
    figures["Silent below gain 1, chaotic above"] = save(ax.figure, run_dir / "figures" / "edge_of_chaos.png")
    mean, slope, largest = found["growth"]
    back = np.arange(len(mean))
    ax = named_curves(
        {
            "gradient, mean over states": (back, mean),
            "largest exponent": (back, mean[-1] + largest * (back - back[-1])),
        },
        xlabel="steps between",
        ylabel="ln size of dh_T / dh_t",
        title="Gradients of a chaotic network explode by its largest exponent",
    )
    figures[f"Slope {slope:.3f}, exponent {largest:.3f}"] = save(ax.figure, run_dir / "figures" / "gradients.png")
    number = np.arange(1, config.hidden_size + 1)
    ax = named_curves(
        {when: (number, found[when]) for when in ("before", "after")},
        xlabel="number",
        ylabel=exponent,
        title=f"A chaotic network before and after it learned to hold {config.bits} bits",
        lines={"": 0.0},
    )
    figures["What training does to the spectrum"] = save(ax.figure, run_dir / "figures" / "training.png")
    return figures


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Measures all of it."""
    before, after, _, note = before_and_after(config, run_dir)
    with jax.enable_x64(True):
        metrics: dict[str, Any] = known_systems(config)
        found: dict[str, Any] = {
            "edge": edge_of_chaos(config),
            "spectra": spectra(config),
            "growth": growth_of_gradients(config),
            "before": before,
            "after": after,
        }
    metrics |= {
        f"exponent_at_gain_{gain:g}": float(value) for gain, value in zip(config.gains, found["edge"], strict=True)
    }
    chaotic = [gain for gain, value in zip(config.gains, found["edge"], strict=True) if value > 0.005]
    metrics["first_chaotic_gain"] = min(chaotic, default=math.nan)
    places = np.linspace(0.05, 0.6, 30)
    curves = [np.interp(places, (np.arange(size) + 0.5) / size, one) for size, one in found["spectra"].items()]
    metrics["difference_between_sizes"] = float(np.abs(curves[-2] - curves[-1]).max())
    _, slope, exponent = found["growth"]
    metrics |= {"gradient_slope": slope, "exponent": exponent, "slope_over_exponent": slope / exponent}
    metrics |= {"before_training": float(before[0]), "after_training": float(after[0])}
    if is_writer():
        write_report(
            run_dir,
            title="Lyapunov exponents of known systems and of networks",
            intro="Nats per step; of Lorenz 63 per unit of time.",
            metrics_rows=[{"measured": name, "value": value} for name, value in metrics.items()],
            figures=pictures(config, run_dir, found),
            links={},
            notes=[note],
        )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
