r"""How far back does a gradient reach, in which cell, and what helps?

The loss of the adding problem (see `adding_problem`) depends on numbers read up to T steps before. |dL/dh_t| is
measured at every step by one backward pass (`rnn_jax.analysis.carry_gradients`), at initialisation and while it is
learned, for ten networks of 64 units, and in every layer of three deep ones (`gradient_norms`). The slope of its
logarithm is what a gradient loses at each step. Identity and orthogonal kernels with ReLU and modReLU start with
nothing lost (Le et al. 2015; Arjovsky et al. 2016), tanh flattens.
An LSTM loses what its forget gates let go. With a bias of 0 they are about 0.5, but the slope is -0.28 and not ln 0.5:
inputs open some of them wider, and what is left after many steps is in the units that forget least. A bias of 1
(Gers et al. 2000; Jozefowicz et al. 2015) makes it -0.10, chrono (Tallec & Ollivier 2018) -0.01.

Exploding is the other side of it: in a ReLU network with W_h = g I a gradient grows by g at each step. An IRNN is
trained with plain gradient descent, with and without clipping. And the cliff: the loss of a network of one unit over
its two parameters, where a step of gradient descent is thrown far away and a clipped one is not (Pascanu, Mikolov &
Bengio 2013, arXiv:1211.5063, figure 6).

    python -m experiments.vanishing_gradients        # some minutes

It leaves in the run directory: gradients over distance, before and after training, and by layer; clipped and unclipped
training; the cliff; report.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.colors import LogNorm

from experiments._long_memory import NETWORKS, network
from experiments.adding_problem import adding
from experiments.claims import at_least, at_most, within
from experiments.cli import main
from rnn_jax import Cell, dense, elman, gru, lstm, stack, stream_step, unroll
from rnn_jax.analysis import carry_gradients, gradient_norms, row_norms, with_taps
from rnn_jax.plotting import PALETTE, finish, gradient_map, named_curves, new_axes, save
from rnn_jax.report import write_report
from rnn_jax.training import is_writer, run_logger, seed_keys

_PASCANU = "Pascanu et al. 2013, figure 6: thrown far at the cliff, and not if clipped"
_ALL = {"cells": list(NETWORKS)}
CLAIMS = (
    at_most("slope_tanh", -0.1, source="Bengio, Simard & Frasconi 1994: gradients vanish exponentially", when=_ALL),
    at_most("slope_lstm_bias_0", -0.2, source="forget gates of about sigmoid(0)", when=_ALL),
    within("slope_lstm_bias_1", -0.1, 0.05, source="forget gates of about sigmoid(1)", when=_ALL),
    at_least("slope_lstm_chrono", -0.03, source="Tallec & Ollivier 2018", when=_ALL),
    within("slope_irnn", 0.0, 0.001, source="Le et al. 2015: identity", when=_ALL),
    within("slope_orthogonal", 0.0, 0.001, source="Arjovsky et al. 2016: norms are kept", when=_ALL),
    at_most("reach_tanh_trained", 1e-6, source="training does not mend tanh in so many steps", when=_ALL),
    at_least("reach_gru_trained", 0.01, source="it mends a GRU", when=_ALL),
    at_most("slope_minus_ln_gain", 0.005, source="W_h = g I in a ReLU network, exactly g a step"),
    at_least("largest_gradient_unclipped", 1e6, source="Pascanu et al. 2013", when=_ALL),
    at_most("largest_gradient_clipped", 1e3, source="Pascanu et al. 2013", when=_ALL),
    at_least("cliff_longest_step_unclipped", 3.0, source=_PASCANU),
    at_least("cliff_loss_unclipped", 0.08, source=_PASCANU),
    at_most("cliff_loss_clipped", 0.01, source=_PASCANU),
)


@dataclass(frozen=True)
class Config:
    """Sizes are those of `adding_problem`."""

    length: int = 100
    cells: tuple[str, ...] = NETWORKS
    hidden_size: int = 64
    batch_size: int = 50
    num_steps: int = 300
    """Of Adam, for each network."""
    learning_rate: float = 2e-3
    gradient_descent_rate: float = 0.01
    """Of the IRNN with and without clipping."""
    clip: float = 1.0
    grid: int = 300
    """Points along each parameter of the cliff."""
    seeds: int = 3
    seed: int = 0


SMOKE = Config(length=6, cells=("tanh",), hidden_size=3, batch_size=2, num_steps=2, grid=4, seeds=1)


class Profile(NamedTuple):
    """|dL/dh_t| of one network for t = 0..T - 1, in the geometric mean over rows and seeds."""

    before: np.ndarray
    after: np.ndarray
    slopes: np.ndarray  # [seeds] of the logarithm over T - t, before training, nats per step


def gradient_sizes(cell: Cell, params: Any, batch: Any) -> jax.Array:
    """ln |dL/dh_t| for t = 0..T - 1, mean over rows, L the squared error of the last output."""
    xs, sums = batch
    carry = cell.init_carry(params, sums.shape)
    blank = jnp.zeros((*sums.shape, 1))

    def step(state: Any, x: Any) -> Any:
        return stream_step(cell, params, state[0], x)

    def loss(states: Any) -> jax.Array:
        return jnp.square(states[1][-1, :, 0] - sums).sum()

    bars = jax.tree.map(lambda leaf: leaf[:-1], carry_gradients(step, (carry, blank), xs, loss)[0])
    norms = jnp.linalg.norm(jnp.stack(jax.tree.leaves(row_norms(bars, 2))), axis=0)
    return jnp.log(jnp.maximum(norms, jnp.finfo(norms.dtype).tiny)).mean(1)


def squared_error(cell: Cell, params: Any, batch: Any) -> jax.Array:
    """Mean over the batch."""
    xs, sums = batch
    return jnp.square(unroll(cell, params, xs)[1][-1, :, 0] - sums).mean()


def descend(
    loss: Callable[[Any, Any], jax.Array],
    data: Callable[[jax.Array], Any],
    tx: optax.GradientTransformation,
    num_steps: int,
    params: Any,
    key: jax.Array,
) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    """Parameters after so many steps, and the losses and gradient norms on the way, finite or not."""

    def one(state: Any, key: jax.Array) -> Any:
        params, opt_state = state
        value, bars = jax.value_and_grad(loss)(params, data(key))
        updates, opt_state = tx.update(bars, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), (value, optax.tree.norm(bars))

    (params, _), seen = jax.lax.scan(one, (params, tx.init(params)), jax.random.split(key, num_steps))
    return params, seen


def profile(config: Config, name: str, log: Any) -> Profile:
    """Gradients of one network before and after training, all seeds side by side."""
    cell = network(name, config.hidden_size, config.length, 1)
    data = partial(adding, config.length, count=config.batch_size)
    tx = optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(config.learning_rate))

    @jax.jit
    @jax.vmap
    def run(key: jax.Array) -> Any:
        init_key, train_key, test_key = jax.random.split(key, 3)
        params, batch = cell.init(init_key, 2), data(test_key)
        last, seen = descend(partial(squared_error, cell), data, tx, config.num_steps, params, train_key)
        return gradient_sizes(cell, params, batch), gradient_sizes(cell, last, batch), seen

    before, after, (losses, norms) = run(seed_keys(config.seed, config.seeds))
    for step in range(0, config.num_steps, max(1, config.num_steps // 10)):
        log({"step": step + 1, f"{name}/loss": losses[:, step].tolist(), f"{name}/gradient": norms[:, step].tolist()})
    before = np.asarray(before)
    slopes = np.array([_slope(row) for row in before])
    return Profile(np.exp(before.mean(0)), np.exp(np.asarray(after).mean(0)), slopes)


def clipping(config: Config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Losses and gradient norms [seeds, steps] of an IRNN under gradient descent, by whether it is clipped."""
    cell = network("irnn", config.hidden_size, config.length, 1)
    data = partial(adding, config.length, count=config.batch_size)
    found = {}
    for name, first in (("no clipping", optax.identity()), ("clipped", optax.clip_by_global_norm(config.clip))):
        tx = optax.chain(first, optax.sgd(config.gradient_descent_rate))

        @jax.jit
        @jax.vmap
        def run(key: jax.Array, tx: Any = tx) -> Any:
            init_key, train_key = jax.random.split(key)
            loss = partial(squared_error, cell)
            return descend(loss, data, tx, config.num_steps, cell.init(init_key, 2), train_key)[1]

        losses, norms = run(seed_keys(config.seed, config.seeds))
        found[name] = np.asarray(losses), np.asarray(norms)
    return found


def growth(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Gains g, and the slope of ln |dL/dh_t| over T - t in a ReLU network with W_h = g I, in nats per step."""
    cell = network("irnn", config.hidden_size, config.length, 1)
    layer, *head = cell.init(jax.random.key(config.seed), 2)
    batch = adding(config.length, jax.random.key(config.seed), config.batch_size)
    gains = np.linspace(0.9, 1.1, 9)
    sizes = jax.jit(jax.vmap(lambda gain: gradient_sizes(cell, (layer._replace(w_h=gain * layer.w_h), *head), batch)))
    return gains, np.array([_slope(row) for row in np.asarray(sizes(gains))])


def depths(config: Config) -> dict[str, np.ndarray]:
    """|dL/dh_t| [T, B] of every layer, in networks of three layers at initialisation."""
    init_key, data_key = jax.random.split(jax.random.key(config.seed))
    batch, found = adding(config.length, data_key, config.batch_size), {}
    for name, make in (("tanh", elman), ("GRU", gru), ("LSTM", lstm)):
        cell = stack(*[with_taps(make(config.hidden_size))] * 3, dense(1))
        params = cell.perturb(data_key, cell.init(init_key, 2), batch[0].shape)

        def loss(params: Any, cell: Cell = cell) -> jax.Array:
            return squared_error(cell, params, batch) * config.batch_size

        for place, norms in jax.jit(partial(gradient_norms, loss))(params).items():
            number, *part = place.split(".")
            found[" ".join([name, str(int(number) + 1), *part])] = np.asarray(norms)
    return found


def _slope(log_sizes: np.ndarray) -> float:
    """Of [T] over T - t, without a tenth at either end."""
    tenth = len(log_sizes) // 10
    inside = np.arange(tenth, len(log_sizes) - tenth)
    return -float(np.polyfit(inside, log_sizes[inside], 1)[0])


def unit(parameters: jax.Array) -> jax.Array:
    """The loss of Pascanu's network of one unit: h' = w sigmoid(h) + b from 0.5, 50 steps, to be 0.7 at the end."""
    w, b = parameters
    h = jax.lax.fori_loop(0, 50, lambda _, h: w * jax.nn.sigmoid(h) + b, jnp.float32(0.5))
    return jnp.square(jax.nn.sigmoid(h) - 0.7)


def walk(clip: float, rate: float, num_steps: int, start: tuple[float, float]) -> np.ndarray:
    """Parameters [num_steps + 1, 2] of gradient descent on `unit`, the gradient clipped to the norm `clip`."""

    def one(parameters: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        bar = jax.grad(unit)(parameters)
        after = parameters - rate * bar * jnp.minimum(1.0, clip / jnp.linalg.norm(bar))
        return after, after

    first = jnp.array(start)
    return np.concatenate([first[None], jax.lax.scan(one, first, None, length=num_steps)[1]])


def figures(config: Config, profiles: dict[str, Profile], found: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Five of them, by caption."""
    made = {}
    back = np.arange(config.length, 0, -1)
    for when, title in (("before", "at initialisation"), ("after", f"after {config.num_steps} steps of training")):
        ax = named_curves(
            {
                name.replace("_", " "): (back, getattr(one, when) / getattr(one, when)[-1])
                for name, one in profiles.items()
            },
            xlabel="T - t, steps back from the loss",
            ylabel="|dL/dh_t| / |dL/dh_(T-1)|",
            title=f"How far gradients reach, {title}",
            log=True,
        )
        ax.set_ylim(1e-16, None)
        made[f"Adding problem, T = {config.length}: gradients {title}"] = save(ax.figure, folder / f"{when}.png")
    ax = gradient_map(depths(config), title="Three layers at initialisation: gradients by step and layer")
    made["Gradients in every layer; the loss is of the last step, an LSTM has h and c"] = save(
        ax.figure, folder / "layers.png"
    )
    steps = np.arange(1, config.num_steps + 1)
    ax = named_curves(
        {name: (steps, norms) for name, (_, norms) in found["clipping"].items()},
        xlabel="step of gradient descent",
        ylabel="norm of the gradient, before clipping",
        title="An IRNN with and without clipping",
        log=True,
    )
    made["Gradients of an IRNN on the adding problem"] = save(ax.figure, folder / "clipping.png")
    made["A step from the cliff, thrown and clipped"] = save(cliff(config, found).figure, folder / "cliff.png")
    return made


def cliff(config: Config, found: dict[str, Any]) -> Any:
    """The loss of `unit` over its parameters, and two walks over it."""
    ws, bs = np.linspace(2.5, 8.5, config.grid), np.linspace(-4.5, 4.2, config.grid)
    losses = jax.jit(jax.vmap(jax.vmap(unit)))(jnp.stack(jnp.meshgrid(ws, bs), -1))
    ax = new_axes((7.4, 4.6))
    image = ax.pcolormesh(ws, bs, np.maximum(losses, 1e-4), norm=LogNorm(), cmap="cividis", rasterized=True)
    ax.figure.colorbar(image, label="loss")
    for colour, (name, path) in zip(("#FFFFFF", PALETTE[3]), found["walks"].items(), strict=True):
        ax.plot(*path.T, "o-", color=colour, ms=2.5, lw=1.2, label=name)
    ax.plot(*found["walks"]["clipped"][0], "*", color="#000000", ms=11, label="start")
    ax.set(xlabel="w", ylabel="b", xlim=(ws[0], ws[-1]), ylim=(bs[0], bs[-1]))
    finish(ax, "The cliff: h' = w sigmoid(h) + b, 50 steps, target 0.7")
    legend = ax.legend(frameon=True, fontsize=8.5, loc="lower right", facecolor="#5B6670", labelcolor="#FFFFFF")
    legend.get_frame().set_linewidth(0)
    return ax


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Measures all of it."""
    metrics: dict[str, Any] = {}
    with run_logger(run_dir) as log:
        profiles = {name: profile(config, name, log) for name in config.cells}
    for name, one in profiles.items():
        metrics |= {
            f"slope_{name}": float(one.slopes.mean()),
            f"slope_{name}_seeds": one.slopes.tolist(),
            f"reach_{name}": float(one.before[0] / one.before[-1]),
            f"reach_{name}_trained": float(one.after[0] / one.after[-1]),
        }
    gains, slopes = growth(config)
    metrics["slope_minus_ln_gain"] = float(np.abs(slopes - np.log(gains)).max())
    found: dict[str, Any] = {"clipping": clipping(config)}
    for name, (losses, norms) in found["clipping"].items():
        short = name.replace("no clipping", "unclipped")
        metrics[f"diverged_{short}"] = int((~np.isfinite(losses[:, -1])).sum())
        metrics[f"largest_gradient_{short}"] = float(np.nanmax(np.where(np.isfinite(norms), norms, np.nan)))
        metrics[f"loss_{short}_seeds"] = losses[:, -1].tolist()
    start = (5.0, -1.6)
    found["walks"] = {"gradient descent": walk(math.inf, 0.3, 100, start), "clipped": walk(0.1, 0.3, 300, start)}
    for name, path in found["walks"].items():
        short = name.replace("gradient descent", "unclipped")
        metrics[f"cliff_longest_step_{short}"] = float(np.linalg.norm(np.diff(path, axis=0), axis=1).max())
        metrics[f"cliff_loss_{short}"] = float(unit(jnp.asarray(path[-1])))
    if is_writer():
        write_report(
            run_dir,
            title="Vanishing and exploding gradients",
            intro=f"Slopes in nats per step back, mean of {config.seeds} seeds; reach is |dL/dh_0| / |dL/dh_(T-1)|.",
            metrics_rows=[
                {
                    "network": name,
                    "slope": f"{one.slopes.mean():.3f}",
                    "reach": f"{metrics[f'reach_{name}']:.1e}",
                    "reach after training": f"{metrics[f'reach_{name}_trained']:.1e}",
                }
                for name, one in profiles.items()
            ],
            figures=figures(config, profiles, found, run_dir / "figures"),
            links={},
            notes=[],
        )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
