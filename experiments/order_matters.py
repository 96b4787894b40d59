r"""What does a network gain by walking through time in order, with the same weights at every step?

Real people say digits (Free Spoken Digit Dataset: six speakers, 3,000 recordings, official split) somewhere in 1.8 s of
silence: one digit, or a number of two digits by one speaker, with pauses of any length before, between and after. Four
models of the same number of parameters read 60 frames of 16 log-mel energies:

    gru           recurrent: at each step it knows all steps before
    convolution   causal and dilated, with residual connections (Bai, Kolter & Koltun 2018, arXiv:1803.01271): at each
                  step it knows the 62 before
    bag           a network on each frame alone
    unshared      a network on all frames side by side: weights of its own for every step

The first three share weights over time and tell the digits from the maximum over time of their features. Each is
trained and tested on frames in their true order, in one that is drawn once and then the same for all (permuted), and in
one that is drawn anew for each sequence (shuffled). To be seen:

- A bag cannot know the order, so it is as good on all three. For one digit that is nearly enough, since it matters most
  which sounds occur; but 12 and 21 are the same bag, so that no bag can understand more than 55 % of the numbers.
- Sharing pays where time is time. A permutation that is always the same takes no information away, but what is said at
  another moment then looks altogether different, and the two models that know the order lose most of what they gained.
- Shared weights run on sequences of any length, and a GRU keeps what it heard however long the pause; a convolution
  does not know which digit came first when they lie further apart than it can see. Without sharing the number of
  parameters grows with the length: with as many as the others have, four hidden units are left, too few to learn each
  digit anew for every moment at which it may be said.

Measured, means of three seeds in percent, order true / permuted / shuffled: one digit GRU 98 / 96 / 96, convolution
98 / 92 / 91, bag 97 / 97 / 98, unshared 31 / 20 / 26; numbers 78 / 22 / 11, 74 / 24 / 8, 11 / 11 / 11 and 1 / 1 / 1. In
7.2 s instead of 1.8 s the GRU still understands 77 % of the numbers, the convolution 30 %.

    python -m experiments.order_matters           # seven minutes on one core

Where the recordings come from says `rnn_jax.data.load_spoken_digits`. It leaves in the run directory: accuracy by model
and order, accuracy by length, report.md.
"""

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments._many import fit_many, grid
from experiments._spoken_numbers import MEL, ORDERS, TASKS, Recordings, load_numbers, places, say
from experiments.claims import at_least, at_most, within
from experiments.cli import main
from rnn_jax import checks, dense, gru, tree, unroll
from rnn_jax.data.spoken_digits import SPOKEN_DIGITS_RATE
from rnn_jax.losses import token_nll
from rnn_jax.metrics import mean_value, tally
from rnn_jax.plotting import FAINT, PALETTE, finish, save
from rnn_jax.products import affine
from rnn_jax.report import write_report
from rnn_jax.training import create_states, is_writer, make_train_steps, run_logger

NUM_CLASSES = 10

_ALL = {"models": ["gru", "convolution", "bag", "unshared"], "num_frames": 60, "lengths": [60, 90, 120, 180, 240]}
_BAG = "the maximum of features of frames does not depend on their order"
_FIELD = "ours; a convolution of this depth sees 63 frames, a GRU all of them"
CLAIMS = (
    at_most("params_ratio", 1.1, source="models of one size", when=_ALL),
    *(within(f"bag_{task}_true_minus_shuffled", 0.0, 0.03, source=_BAG, when=_ALL) for task in ("one", "two")),
    at_least("bag_one_true", 0.94, source="ours: which sounds occur nearly tells the digit", when=_ALL),
    at_most("bag_two_true", 0.55, source="equal digits and half of the others: 12 and 21 are one bag", when=_ALL),
    *(at_least(f"{name}_two_minus_bag", 0.4, source="ours", when=_ALL) for name in ("gru", "convolution")),
    *(at_least(f"{name}_two_true_minus_shuffled", 0.4, source="ours", when=_ALL) for name in ("gru", "convolution")),
    *(at_least(f"{name}_two_true_minus_permuted", 0.3, source="ours", when=_ALL) for name in ("gru", "convolution")),
    at_least("gru_longest_minus_trained", -0.1, source=_FIELD, when=_ALL),
    at_most("convolution_longest_minus_trained", -0.25, source=_FIELD, when=_ALL),
    at_most(
        "unshared_one_minus_bag",
        -0.4,
        source="ours: of weights for each frame there are enough for few units",
        when=_ALL,
    ),
)


@dataclass(frozen=True)
class Config:
    """Both tasks, all orders and seeds train side by side, one program for each model."""

    models: tuple[str, ...] = ("gru", "convolution", "bag", "unshared")
    num_params: int = 4000
    """Of each model, as near as its width allows."""
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Of the layers of the convolution, each of which sees three frames."""
    digit_frames: int = 24
    """Recordings are cut off there: 0.72 s, which one in a hundred exceeds."""
    num_frames: int = 60
    """Of training sequences."""
    lengths: tuple[int, ...] = (60, 90, 120, 180, 240)
    """Numbers of frames of test sequences in their true order."""
    batch_size: int = 32
    num_steps: int = 3000
    learning_rate: float = 6e-3
    """Falls to a hundredth along a cosine."""
    noise: float = 0.2
    """On what is read, in units of the standard deviation of sounding frames."""
    test_sequences: int = 600
    seeds: int = 3
    seed: int = 0


SMOKE = Config(
    models=("gru",),
    num_params=600,
    digit_frames=4,
    num_frames=8,
    lengths=(8,),
    batch_size=4,
    num_steps=2,
    test_sequences=20,
    seeds=1,
)


class Model(NamedTuple):
    """Logits of whole sequences, of a first and a second digit."""

    init: Callable[[jax.Array], Any]
    logits: Callable[[Any, jax.Array], jax.Array]  # (params, xs [T, B, D]) -> [B, 2, 10]


def pooled(init: Callable[[jax.Array], Any], features: Callable[..., jax.Array], width: int) -> Model:
    """The maximum over time of features of each step [T, B, width], and classes of it."""
    top = dense(2 * NUM_CLASSES)

    def init_all(key: jax.Array) -> Any:
        keys = jax.random.split(key)
        return init(keys[0]), top.init(keys[1], width)

    def logits(params: Any, xs: jax.Array) -> jax.Array:
        return affine(features(params[0], xs).max(0), params[1].w, params[1].b).reshape(-1, 2, NUM_CLASSES)

    return Model(init_all, logits)


def _layers(key: jax.Array, sizes: tuple[int, ...], window: int = 1) -> list[Any]:
    """Parameters of dense layers from each size to the next, that see a window of steps."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [dense(b).init(one, window * a) for one, (a, b) in zip(keys, itertools.pairwise(sizes), strict=True)]


def recurrent(width: int, config: Config) -> Model:
    """A GRU."""
    cell = gru(width)
    return pooled(lambda key: cell.init(key, MEL.num_bands), lambda params, xs: unroll(cell, params, xs)[1], width)


def convolution(width: int, config: Config) -> Model:
    """Layers of causal dilated convolutions of three steps, each but the first added to what it sees."""

    def features(params: list[Any], xs: jax.Array) -> jax.Array:
        for layer, dilation in zip(params, config.dilations, strict=True):
            before = jnp.pad(xs, ((2 * dilation, 0), (0, 0), (0, 0)))
            window = jnp.concatenate([before[i * dilation :][: len(xs)] for i in range(3)], axis=-1)
            ys = jax.nn.relu(affine(window, layer.w, layer.b))
            xs = ys if layer is params[0] else xs + ys
        return xs

    sizes = (MEL.num_bands, *[width] * len(config.dilations))
    return pooled(lambda key: _layers(key, sizes, window=3), features, width)


def bag(width: int, config: Config) -> Model:
    """Two layers on each frame alone."""

    def features(params: list[Any], xs: jax.Array) -> jax.Array:
        for layer in params:
            xs = jax.nn.relu(affine(xs, layer.w, layer.b))
        return xs

    return pooled(lambda key: _layers(key, (MEL.num_bands, width, width)), features, width)


def unshared(width: int, config: Config) -> Model:
    """Two layers on all frames of a training sequence side by side; few units, so none of them must die: tanh."""

    def logits(params: list[Any], xs: jax.Array) -> jax.Array:
        flat = xs.swapaxes(0, 1).reshape(xs.shape[1], -1)
        hidden = jnp.tanh(affine(flat, params[0].w, params[0].b))
        return affine(hidden, params[1].w, params[1].b).reshape(-1, 2, NUM_CLASSES)

    sizes = (config.num_frames * MEL.num_bands, width, 2 * NUM_CLASSES)
    return Model(lambda key: _layers(key, sizes), logits)


MODELS = {"gru": recurrent, "convolution": convolution, "bag": bag, "unshared": unshared}


def count_params(model: Model) -> int:
    """How many numbers are trained."""
    return tree.size(jax.eval_shape(model.init, jax.random.key(0)))


def build(name: str, config: Config) -> Model:
    """The model whose number of parameters is nearest to that of the configuration."""
    checks.one_of("models", name, tuple(MODELS))

    def size(width: int) -> int:
        return count_params(MODELS[name](width, config))

    wider = bisect.bisect(range(1, 512), config.num_params, key=size) + 1
    return MODELS[name](min((max(1, wider - 1), wider), key=lambda width: abs(size(width) - config.num_params)), config)


def batches(config: Config, heard: Recordings) -> Iterator[Any]:
    """Endless batches: xs [seeds, tasks, T, B, D], digits [seeds, tasks, B, 2], places [seeds, orders, T, B]."""
    rngs = [np.random.default_rng([config.seed + seed, 1]) for seed in range(config.seeds)]
    while True:
        said = [
            [say(rng, heard, task, config.batch_size, config.num_frames, config.noise) for task in TASKS]
            for rng in rngs
        ]
        at = [places(rng, config.num_frames, config.batch_size, config.seed) for rng in rngs]
        yield (
            np.stack([[one.xs for one in own] for own in said]),
            np.stack([[one.digits for one in own] for own in said]).astype(np.int32),
            np.stack(at).astype(np.int32),
        )


def train(config: Config, model: Model, heard: Recordings, folder: Path) -> Any:
    """Parameters [tasks, orders, seeds, ...]."""

    def loss_fn(params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        (task, order, seed), (xs, digits, at) = batch
        logits = model.logits(params, jnp.take_along_axis(xs[seed, task], at[seed, order][..., None], axis=0))
        losses = token_nll(logits, digits[seed, task])
        pair = tally(losses, jnp.broadcast_to(jnp.arange(2) <= task, losses.shape))
        return mean_value(pair), {"nll": pair}

    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha=0.01)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    settings = grid(config.seeds, task=range(len(TASKS)), order=range(len(ORDERS)))
    keys = jax.vmap(jax.random.key)(settings["seed"].astype(np.uint32) + config.seed)
    states = jax.jit(partial(create_states, model.init, tx))(keys)
    own = tuple(jnp.asarray(settings[name]) for name in ("task", "order", "seed"))
    states, _ = fit_many(folder, states, make_train_steps(loss_fn, tx), own, batches(config, heard), config.num_steps)
    shape = (len(TASKS), len(ORDERS), config.seeds)
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(*shape, *leaf.shape[1:]), states.params)


@partial(jax.jit, static_argnums=0)
def understood(model: Model, params: Any, xs: jax.Array) -> jax.Array:
    """The digits [seeds, B, 2] that models with parameters [seeds, ...] hear in xs [T, B, D]."""
    return jax.lax.map(lambda own: model.logits(own, xs).argmax(-1), params)


def judge(
    config: Config, model: Model, params: Sequence[Any], heard: Recordings, task: str, num_frames: int
) -> np.ndarray:
    """The share of test sequences of which all that is said is understood, [orders, seeds].

    Args:
        config: says how many sequences, and their noise.
        model: what hears them.
        params: with leaves [seeds, ...], of models for the first of ORDERS, or for all.
        heard, task, num_frames: as `say` takes them.
    """
    rng = np.random.default_rng([config.seed, 2])
    spoken = say(rng, heard, task, config.test_sequences, num_frames, config.noise)
    shares = []
    for own, at in zip(params, places(rng, num_frames, config.test_sequences, config.seed), strict=False):
        found = np.asarray(understood(model, own, np.take_along_axis(spoken.xs, at[..., None], axis=0)))
        right = found == spoken.digits
        shares.append((right[..., 0] & (right[..., 1] | (task == "one"))).mean(1))
    return np.stack(shares)


def contrasts(found: dict[str, np.ndarray], longer: dict[str, np.ndarray]) -> dict[str, float]:
    """The differences that are claimed, of means over seeds.

    Args:
        found: [tasks, orders, seeds] by model.
        longer: [lengths, seeds] of numbers by model.
    """
    mean = {name: values.mean(2) for name, values in found.items()}
    told: dict[str, float] = {}
    for name, values in mean.items():
        for i, task in enumerate(TASKS):
            true, permuted, shuffled = values[i].tolist()
            told[f"{name}_{task}_true_minus_shuffled"] = true - shuffled
            told[f"{name}_{task}_true_minus_permuted"] = true - permuted
            if name != "bag" and "bag" in mean:
                told[f"{name}_{task}_minus_bag"] = true - float(mean["bag"][i, 0])
    return told | {f"{name}_longest_minus_trained": float((v[-1] - v[0]).mean()) for name, v in longer.items()}


def draw_orders(config: Config, found: dict[str, np.ndarray]) -> Figure:
    """A panel for each task: models side by side, a bar for each order, a dot for each seed."""
    figure = Figure(figsize=(10.0, 3.8), layout="constrained", facecolor="#FFFFFF")
    for task, ax in enumerate(figure.subplots(1, len(TASKS), sharey=True)):
        for order, name in enumerate(ORDERS):
            places = np.arange(len(found)) + 0.27 * (order - 1)
            rows = 100 * np.stack([values[task, order] for values in found.values()])
            ax.bar(places, rows.mean(1), 0.25, color=PALETTE[(3, 1, 5)[order]], label=name, zorder=2)
            ax.plot(np.repeat(places, rows.shape[1]), rows.ravel(), "o", ms=3.5, mfc="w", mec="#22303C", zorder=3)
        ax.axhline((10, 1)[task], color="#22303C", lw=1, ls=(0, (4, 3)), zorder=4)
        ax.set_xticks(range(len(found)), list(found))
        ax.set(ylim=(0, 103))
        ax.grid(axis="y", color=FAINT, lw=0.7, zorder=0)
        finish(ax, ("One digit", "A number of two digits")[task])
        if not task:
            ax.set_ylabel("percent of sequences understood")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", frameon=False, title="order of frames")
    return figure


def draw_lengths(config: Config, longer: dict[str, np.ndarray]) -> Figure:
    """Accuracy on numbers by the frames of test sequences, a dot for each seed."""
    figure = Figure(figsize=(8.0, 3.8), layout="constrained", facecolor="#FFFFFF")
    ax = figure.subplots()
    seconds = np.array(config.lengths) * MEL.hop / SPOKEN_DIGITS_RATE
    for number, (name, rows) in enumerate(longer.items()):
        colour = PALETTE[(0, 2, 4)[number % 3]]
        ax.plot(seconds, 100 * rows.mean(1), color=colour, lw=2, label=name)
        ax.plot(seconds, 100 * rows, "o", color=colour, ms=4, alpha=0.6)
    at = config.num_frames * MEL.hop / SPOKEN_DIGITS_RATE
    ax.axvline(at, color=PALETTE[5], lw=1.2, ls=(0, (4, 3)), label="length in training")
    ax.set(
        xlabel="seconds of sound in which two digits are said", ylabel="percent of numbers understood", ylim=(0, 100)
    )
    ax.grid(axis="y", color=FAINT, lw=0.7, zorder=0)
    finish(ax, "Trained on one length, run on others")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains and judges every model on both tasks in all orders."""
    if 2 * config.digit_frames > config.num_frames:
        raise ValueError(f"`num_frames` must be 2 x {config.digit_frames} or more, got {config.num_frames}")
    heard, tests = load_numbers(config.digit_frames)
    metrics: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    found: dict[str, np.ndarray] = {}
    longer: dict[str, np.ndarray] = {}
    with run_logger(run_dir) as log:
        for number, name in enumerate(config.models):
            model = build(name, config)
            params = train(config, model, heard, run_dir / name)
            own = [
                [jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], params) for j in range(len(ORDERS))]
                for i in range(len(TASKS))
            ]
            found[name] = np.stack(
                [judge(config, model, own[i], tests, task, config.num_frames) for i, task in enumerate(TASKS)]
            )
            if name != "unshared":  # it cannot be run on any other length
                longer[name] = np.stack(
                    [judge(config, model, own[1][:1], tests, "two", length)[0] for length in config.lengths]
                )
            metrics[f"{name}_params"] = count_params(model)
            for (i, task), (j, order) in itertools.product(enumerate(TASKS), enumerate(ORDERS)):
                told = {f"{name}_{task}_{order}": float(found[name][i, j].mean())}
                log({"step": number} | told)
                metrics |= told
                if config.seeds > 1:
                    metrics[f"{name}_{task}_{order}_seeds"] = found[name][i, j].tolist()
            rows += [_row(config, name, count_params(model), task, found[name][i]) for i, task in enumerate(TASKS)]
    sizes = [metrics[f"{name}_params"] for name in config.models]
    metrics |= {"params_ratio": max(sizes) / min(sizes)} | contrasts(found, longer)
    if is_writer():
        folder = run_dir / "figures"
        write_report(
            run_dir,
            title="What sharing weights over time buys",
            intro="Share of test sequences of which all that was said is understood, mean and standard deviation over "
            f"{config.seeds} seeds; guessing gives 0.1 and 0.01.",
            metrics_rows=rows,
            figures={
                "Models of one size, by the order of the frames they read (dots: seeds; dashes: guessing)": save(
                    draw_orders(config, found), folder / "orders.png"
                ),
                "The same parameters on longer sequences": save(draw_lengths(config, longer), folder / "lengths.png"),
            },
            links={},
        )
    return metrics


def _row(config: Config, name: str, size: int, task: str, values: np.ndarray) -> dict[str, Any]:
    """A row of the report of accuracies [orders, seeds]."""
    spread = values.std(1, ddof=min(1, config.seeds - 1))
    told = {order: f"{v.mean():.3f} ± {sd:.3f}" for order, v, sd in zip(ORDERS, values, spread, strict=True)}
    return {"digits": task, "model": name, "parameters": size} | told


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
