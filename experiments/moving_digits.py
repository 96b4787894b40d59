r"""Can a network draw the next frames of a video?

Handwritten digits fly through a box of 32 x 32 pixels and bounce off its walls; from 5 frames the next 5 are to be
drawn. Shi et al. 2015 (Convolutional LSTM network, arXiv:1506.04214, table 1) did that on Moving MNIST: 64 x 64 pixels,
two digits, 10 frames from 10, 10,000 videos. A ConvLSTM of 7.6 million parameters came to a cross-entropy of 367 nats
a video, an LSTM with pixels as features and 142.7 million parameters to 483. Claimed is that order at a CPU's size:
ConvLSTM, then an LSTM of ten times as many parameters or more, then copies of the last frame. Three seeds: 312, 321 and
444 nats, with standard deviations of 6, 3 and 3, so the first two are close, and in every seed in that order; the
ConvLSTM is ahead for two frames and behind in the fourth. Training videos are few, 500: weights that are shared over
places need fewer, and with 2,000 videos, or 16 x 16 pixels, this LSTM was as good or better.

    python -m experiments.moving_digits                      # 2 to 6 minutes on one core
    python -m experiments.moving_digits --num-digits 2
    python -m experiments.moving_digits --preset paper       # full MNIST, for accelerators; not run here

The measure is theirs: a pixel is a probability, cross-entropies in nats are summed over pixels and forecast frames, and
averaged over videos. Since pixels may be grey, even the truth has an entropy (`truth`). Two guesses without a network,
`copy_last` and `constant_velocity`, which knows the digits, their places and velocities but not the walls, give each of
their grey levels the best probability, by a table for each frame that is fitted on training videos.

Data: the 1,797 digits of UCI Optdigits (CC BY 4.0), embedded. 70, 10 and 20 % of each class fly in 500 training, 200
validation and 500 test videos, so that the test shows new digits. The state with the best validation counts.

It leaves in the run directory: forecasts as picture and GIF, the error frame by frame, learning curves, report.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments._pixels import Forecaster, Schedule, forecaster, from_patches, to_patches, train_network
from experiments.claims import at_least, at_most
from experiments.cli import main
from rnn_jax import conv_lstm, lstm, tree
from rnn_jax.data.digits import load_mnist, load_optdigits, split_digits
from rnn_jax.data.moving_digits import MovingDigits, moving_digits, render
from rnn_jax.data.video_folders import write_gif
from rnn_jax.metrics import Mean, tally
from rnn_jax.plotting import FAINT, PALETTE, finish, learning_curves, new_axes, save
from rnn_jax.report import write_report
from rnn_jax.training import describe_fit, run_logger

_SHI = "Shi et al. 2015, table 1: 367 < 483 nats, with a nineteenth of the parameters"
CLAIMS = (
    at_most("conv_lstm_over_lstm", 1.0, source=_SHI),
    at_most("lstm_over_copy_last", 0.95, source="a network that has learned motion beats copies"),
    at_least("lstm_parameters_over_conv_lstm", 10, source=_SHI),
)


@dataclass(frozen=True)
class Config:
    """Sizes for one core."""

    digits: Literal["optdigits", "mnist"] = "optdigits"
    size: int = 32
    """Height and width of a frame."""
    num_digits: int = 1
    """In each video."""
    speed: tuple[float, float] = (1.0, 3.0)
    """Least and greatest, in pixels a frame."""
    frames_in: int = 5
    frames_out: int = 5
    num_train: int = 500
    num_valid: int = 200
    num_test: int = 500
    channels: tuple[int, ...] = (16, 16)
    """Of the layers of the ConvLSTM."""
    kernel_size: int = 3
    patch: int = 4
    """The ConvLSTM has blocks of patch x patch pixels as features."""
    units: tuple[int, ...] = (256, 256)
    """Of the layers of the LSTM that has pixels as features."""
    batch_size: int = 16
    learning_rate: float = 1e-2
    """Of the ConvLSTM. Falls to a hundredth along a cosine."""
    lstm_learning_rate: float = 1e-3
    num_steps: int = 1000
    """Of the ConvLSTM."""
    lstm_steps: int = 700
    eval_every: int = 100
    max_seconds: float = 1800.0
    """For each network."""
    seed: int = 0


SMOKE = Config(
    size=16, num_train=8, num_valid=4, num_test=4, frames_in=2, frames_out=2, channels=(2,), units=(4,), batch_size=4,
    num_steps=2, lstm_steps=2, eval_every=2,
)  # fmt: skip

PRESETS = {
    "paper": Config(
        digits="mnist", size=64, num_digits=2, speed=(3.0, 5.0), frames_in=10, frames_out=10, num_train=10_000,
        num_valid=2_000, num_test=3_000, channels=(128, 64, 64), kernel_size=5, patch=4, units=(2048, 2048),
        batch_size=16, learning_rate=1e-3, num_steps=60_000, lstm_steps=60_000, eval_every=625, max_seconds=1e6,
    )
}  # fmt: skip
"""Sizes of Shi et al., who do not say how fast their digits are, nor how many steps they train."""


class Videos(NamedTuple):
    """Three parts with different digits, and the pictures that fly in each."""

    parts: tuple[MovingDigits, MovingDigits, MovingDigits]
    images: tuple[np.ndarray, np.ndarray, np.ndarray]


def load_videos(config: Config) -> Videos:
    """Makes the videos."""
    if config.digits == "mnist":
        published, test = load_mnist()
        train, valid, _ = split_digits(published, valid=0.1, test=0.001)
    else:
        train, valid, test = split_digits(load_optdigits())
    digits, numbers = (train, valid, test), (config.num_train, config.num_valid, config.num_test)
    num_frames, options = config.frames_in + config.frames_out, {"num_digits": config.num_digits, "speed": config.speed}
    first, second, third = (
        moving_digits(one, number, num_frames, config.size, seed=3 * config.seed + part, **options)
        for part, (one, number) in enumerate(zip(digits, numbers, strict=True))
    )
    return Videos((first, second, third), (train.images, valid.images, test.images))


class Drawer(NamedTuple):
    """A network, how it sees frames, and how it is trained."""

    network: Forecaster
    read: Callable[[jax.Array], jax.Array]  # [T, B, size, size] -> [T, B, *space, F]
    draw: Callable[[jax.Array], jax.Array]  # and back
    schedule: Schedule


def drawers(config: Config) -> dict[str, Drawer]:
    """The two networks."""
    kernel, size, patch = (config.kernel_size,) * 2, config.size, config.patch
    conv = forecaster(partial(conv_lstm, kernel_size=kernel), config.channels, patch**2)
    flat = forecaster(lstm, config.units, size**2)
    last = config.eval_every, config.max_seconds, config.seed
    return {
        "conv_lstm": Drawer(
            conv,
            partial(to_patches, patch=patch),
            partial(from_patches, patch=patch),
            Schedule(config.num_steps, config.batch_size, config.learning_rate, *last),
        ),
        "lstm": Drawer(
            flat,
            lambda frames: frames.reshape(*frames.shape[:-2], -1),
            lambda pixels: pixels.reshape(*pixels.shape[:-1], size, size),
            Schedule(config.lstm_steps, config.batch_size, config.lstm_learning_rate, *last),
        ),
    }


def forecast(config: Config, drawer: Drawer, params: Any, frames: jax.Array) -> jax.Array:
    """Logits of the frames that follow: [B, frames_in or more, size, size] -> [frames_out, B, size, size]."""
    seen = jnp.moveaxis(frames[:, : config.frames_in], 0, 1)
    return drawer.draw(drawer.network.apply(params, drawer.read(seen), config.frames_out))


def score(config: Config, drawer: Drawer, params: Any, batch: Any) -> dict[str, Mean]:
    """Cross-entropy of a video in nats, and of each of its frames."""
    frames = batch["frames"].astype(jnp.float32) / 255
    truth = jnp.moveaxis(frames[:, config.frames_in :], 0, 1)
    nats = optax.sigmoid_binary_cross_entropy(forecast(config, drawer, params, frames), truth).sum((-2, -1))
    ones = jnp.ones(nats.shape[1])
    return {"loss": tally(nats.sum(0), ones), **{f"frame_{k + 1}": tally(one, ones) for k, one in enumerate(nats)}}


def guesses(config: Config, videos: MovingDigits, images: np.ndarray) -> dict[str, np.ndarray]:
    """Copies of the last frame, and digits that fly on through the walls: [N, frames_out, size, size] uint8."""
    last, ahead = config.frames_in - 1, np.arange(1, config.frames_out + 1)[:, None, None]
    places = videos.places[:, last, None] + ahead * videos.velocities[:, last, None]
    return {
        "copy_last": np.repeat(videos.frames[:, last, None], config.frames_out, axis=1),
        "constant_velocity": render(images, videos.chosen, places, config.size),
    }


def fit_levels(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The mean truth where a guess has some grey level, for each frame: both [N, K, ...] uint8 -> [K, 256]."""
    levels = np.zeros((guess.shape[1], 256))
    for k in range(len(levels)):
        one, other = guess[:, k].ravel(), truth[:, k].ravel() / 255
        levels[k] = np.bincount(one, other, 256) / np.maximum(np.bincount(one, minlength=256), 1)
    return np.clip(levels, 1e-4, 1 - 1e-4)


def nats_by_frame(p: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Cross-entropy of probabilities [N, K, size, size] with grey levels in [0, 1]: [K]."""
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return -(truth * np.log(p) + (1 - truth) * np.log1p(-p)).sum((-2, -1)).mean(0)


COLOURS = {"conv_lstm": PALETTE[0], "lstm": PALETTE[3], "copy_last": PALETTE[5], "constant_velocity": PALETTE[2]}
LABELS = {
    "truth": "truth", "conv_lstm": "ConvLSTM", "lstm": "LSTM", "copy_last": "copy of the last frame",
    "constant_velocity": "constant velocity",
}  # fmt: skip


def draw_frames(seen: np.ndarray, rows: dict[str, np.ndarray]) -> Figure:
    """A video frame by frame: seen [S, size, size] above, what follows by each row [K, size, size] below."""
    first = np.concatenate([seen, rows["truth"]])
    figure = Figure(figsize=(0.85 * len(first) + 1.6, 0.85 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), len(first), squeeze=False)
    for row, (name, frames) in zip(axes, rows.items(), strict=True):
        shown = first if name == "truth" else np.concatenate([np.full_like(seen, 255), frames])
        for t, (ax, frame) in enumerate(zip(row, shown, strict=True)):
            blank = name != "truth" and t < len(seen)
            ax.set(xticks=[], yticks=[])
            ax.set_frame_on(not blank)
            if not blank:
                ax.imshow(frame, cmap="gray_r", vmin=0, vmax=255)
        if name == "truth":
            row[0].set_ylabel(LABELS[name], rotation=0, ha="right", va="center", fontsize=9)
        else:
            text = row[len(seen) - 1].text(0.9, 0.5, LABELS[name], ha="right", va="center", fontsize=9)
            text.set_in_layout(False)
    for t, ax in enumerate(axes[0]):
        ax.set_title(f"seen {t + 1}" if t < len(seen) else f"next {t + 1 - len(seen)}", fontsize=8.5)
    return figure


def draw_by_frame(nats: dict[str, np.ndarray]) -> Axes:
    """Cross-entropy of each frame ahead."""
    ax, ahead = new_axes((8.4, 3.8)), np.arange(1, len(nats["truth"]) + 1)
    for name, colour in COLOURS.items():
        ax.plot(ahead, nats[name], color=colour, lw=2, marker="o", ms=4, label=LABELS[name])
    ax.plot(ahead, nats["truth"], color="#22303C", lw=1.2, ls=(0, (4, 3)), label="entropy of the truth")
    ax.set(xlabel="frame ahead", ylabel="cross-entropy, nats a frame", xticks=ahead, ylim=(0, None))
    ax.grid(axis="y", color=FAINT, lw=0.7)
    ax.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    finish(ax, "How far can it see ahead?")
    return ax


def tile(seen: np.ndarray, rows: dict[str, np.ndarray]) -> np.ndarray:
    """Videos side by side for a GIF: columns are videos, rows truth and forecasts, with a line between."""
    strips = []
    for frames in rows.values():  # [N, K, size, size]
        whole = np.concatenate([seen, frames], axis=1)
        strips.append(np.concatenate(list(np.pad(whole, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=90)), axis=2))
    return 255 - np.concatenate(strips, axis=1)


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains both networks and compares them with guesses."""
    videos = load_videos(config)
    seen, truth = np.split(videos.parts[2].frames, [config.frames_in], axis=1)
    shown = min(8, config.num_test)
    metrics: dict[str, Any] = {}
    nats, drawn, figures, notes = {}, {"truth": truth[:shown]}, {}, []
    for name, drawer in drawers(config).items():
        first, second, third = ({"frames": part.frames} for part in videos.parts)
        trained = train_network(
            run_dir / name, drawer.network.init, partial(score, config, drawer), (first, second, third), drawer.schedule
        )
        nats[name] = np.array([trained.test[f"frame_{k + 1}"] for k in range(config.frames_out)])
        logits = jax.jit(partial(forecast, config, drawer))(
            trained.params, jnp.asarray(seen[:shown] / 255, jnp.float32)
        )
        drawn[name] = np.rint(255 * np.moveaxis(np.asarray(jax.nn.sigmoid(logits)), 0, 1)).astype(np.uint8)
        metrics[f"{name}_parameters"] = tree.size(trained.params)
        notes.append(f"{LABELS[name]}: {describe_fit(trained.info, drawer.schedule.num_steps)}")
        curves = learning_curves(trained.info.history, "loss", title=LABELS[name]).figure
        figures[f"Learning curve of {LABELS[name]}, nats a video"] = save(curves, run_dir / "figures" / f"{name}.png")
    fitting = guesses(config, videos.parts[0], videos.images[0])
    for name, guess in guesses(config, videos.parts[2], videos.images[2]).items():
        levels = fit_levels(fitting[name], videos.parts[0].frames[:, config.frames_in :])
        p = np.stack([row[one] for row, one in zip(levels, np.moveaxis(guess, 1, 0), strict=True)], axis=1)
        nats[name] = nats_by_frame(p, truth / 255)
        drawn[name] = np.rint(255 * p[:shown]).astype(np.uint8)
    nats["truth"] = nats_by_frame(truth / 255, truth / 255)
    total = {name: float(one.sum()) for name, one in nats.items()}
    with run_logger(run_dir) as log:
        log({"step": config.num_steps, **{f"test/{name}": value for name, value in total.items()}})
    metrics |= {f"{name}_nats": value for name, value in total.items()}
    metrics |= {
        "conv_lstm_over_lstm": total["conv_lstm"] / total["lstm"],
        "lstm_over_copy_last": total["lstm"] / total["copy_last"],
        "lstm_parameters_over_conv_lstm": metrics["lstm_parameters"] / metrics["conv_lstm_parameters"],
    }
    rows = {name: drawn[name] for name in ("truth", "conv_lstm", "lstm", "constant_velocity", "copy_last")}
    gif = write_gif(run_dir / "forecasts.gif", tile(seen[:shown], rows), zoom=3, frames_per_second=3)
    pictures = {
        f"Forecast of test video {n + 1}": save(
            draw_frames(seen[n], {name: frames[n] for name, frames in rows.items()}),
            run_dir / "figures" / f"forecast_{n + 1}.png",
        )
        for n in range(min(3, shown))
    }
    by_frame = {"Cross-entropy by frame": save(draw_by_frame(nats).figure, run_dir / "figures" / "by_frame.png")}
    sizes = {name: metrics[f"{name}_parameters"] for name in ("conv_lstm", "lstm")}
    write_report(
        run_dir,
        title="The next frames of moving digits",
        intro=f"Cross-entropy in nats for {config.frames_out} frames after {config.frames_in}, mean of "
        f"{config.num_test} test videos; lower is better, and nothing is better than the entropy of the truth.",
        metrics_rows=[
            {"forecast": LABELS[name], "parameters": sizes.get(name, 0), "nats a video": total[name]} for name in total
        ],
        figures=pictures | by_frame | figures,
        links={"Eight videos as they go on: " + ", ".join(LABELS[name] for name in rows) + " (top to bottom)": gif},
        notes=notes,
    )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS, presets=PRESETS)
