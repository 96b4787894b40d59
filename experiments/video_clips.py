r"""What is in a video, and where does it go? (Pixels.)

Two ways to give a recurrent network eyes: LRCN, an LSTM on convolutions of each frame (Donahue et al. 2015,
arXiv:1411.4389), and a ConvLSTM, which keeps the picture in its memory (Shi et al. 2015, arXiv:1506.04214). Beside
them, the same LRCN that sees the last frame only.

`--data digits` (default): a digit flies through a box of 16 x 16 pixels for 5 frames and bounces off its walls. Which
digit is it, and to which of 8 directions does it fly when the video ends? Places and directions are independent in
every frame, so that a single one is no help with directions: 12.5 % are right by chance. Digits: UCI Optdigits (CC BY
4.0), embedded; test digits are new. Percent of 500 test videos that are right, three seeds: directions 92.5 (LRCN),
92.7 (ConvLSTM) and 13.5 (last frame), digits 95.2, 94.4 and 94.5.

`--data kth` and `--data ucf101`: which action is it? For videos on your disk, in their official splits; .avi files need
PyAV (`pip install av`). Not run here.

    python -m experiments.video_clips                                        # 2 to 4 minutes on one core
    python -m experiments.video_clips --data kth --path KTH --size 32 --num-frames 16
    python -m experiments.video_clips --data ucf101 --path UCF-101 --lists ucfTrainTestlist --preset paper

`--preset paper` has frames, units and optimizer steps of the order of Donahue et al., but grey frames and convolutions
that start from nothing; theirs were trained on ImageNet before.

It leaves in the run directory: learning curves, some videos as GIF with truth and answer, report.md.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._pixels import Schedule, frame_cnn, train_network
from experiments.claims import at_least, within
from experiments.cli import main
from rnn_jax import Layer, conv_lstm, dense, layer, lstm, serial, tree
from rnn_jax.data.digits import load_optdigits, split_digits
from rnn_jax.data.moving_digits import moving_digits
from rnn_jax.data.video_folders import Clips, kth_clips, read_clip, ucf101_clips, write_gif
from rnn_jax.losses import token_nll
from rnn_jax.metrics import Mean, tally
from rnn_jax.plotting import learning_curves, save
from rnn_jax.report import write_report
from rnn_jax.training import describe_fit, run_logger

_DIGITS = {"data": "digits"}
CLAIMS = (
    at_least("lrcn_heading", 0.9, source="a network that sees motion", when=_DIGITS),
    at_least("conv_lstm_heading", 0.9, source="a network that sees motion", when=_DIGITS),
    within("one_frame_heading", 0.125, 0.05, source="chance, since a frame does not tell", when=_DIGITS),
    at_least("lrcn_digit", 0.85, source="it sees what moves as well", when=_DIGITS),
)
HEADINGS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")


@dataclass(frozen=True)
class Config:
    """Sizes for one core."""

    data: Literal["digits", "kth", "ucf101"] = "digits"
    path: str = ""
    """The folder of the videos of `kth` and `ucf101`."""
    lists: str = ""
    """The folder of UCF-101's lists of files."""
    split: int = 1
    """Which of UCF-101's splits."""
    size: int = 16
    """Height and width to which frames are resized."""
    num_frames: int = 5
    num_train: int = 20_000
    """Videos of digits."""
    num_valid: int = 200
    num_test: int = 500
    channels: tuple[int, ...] = (16, 32)
    """Of the convolutions, each of which halves the picture."""
    units: int = 64
    """Of the LSTM."""
    conv_units: int = 12
    """Channels of the ConvLSTM, which reads what the first of the convolutions gives."""
    batch_size: int = 32
    learning_rate: float = 3e-3
    """Falls to a hundredth along a cosine."""
    num_steps: int = 3000
    eval_every: int = 150
    max_seconds: float = 600.0
    """For each network."""
    seed: int = 0


SMOKE = Config(
    num_frames=2, num_train=8, num_valid=4, num_test=4, channels=(2,), units=4, conv_units=2, batch_size=4, num_steps=2,
    eval_every=2,
)  # fmt: skip

PRESETS = {
    "paper": Config(
        data="ucf101", size=112, num_frames=16, channels=(64, 128, 256, 512), units=256, conv_units=128, batch_size=24,
        learning_rate=1e-3, num_steps=30_000, eval_every=1_000, max_seconds=1e6,
    )
}  # fmt: skip


class Data(NamedTuple):
    """The three parts: `frames` [N, T, size, size] uint8, and an array [N] of answers to each question."""

    parts: tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]
    answers: dict[str, tuple[str, ...]]  # to each question


def load(config: Config) -> Data:
    """Makes videos of digits, or reads a folder."""
    if config.data == "digits":
        return flying_digits(config)
    if not config.path or (config.data == "ucf101" and not config.lists):
        raise ValueError(f"`path` must be the folder of the videos (and `lists` of the lists), got {config.path!r}")
    clips = kth_clips(config.path) if config.data == "kth" else ucf101_clips(config.path, config.lists, config.split)
    return folder_of_clips(config, clips)


def flying_digits(config: Config) -> Data:
    """Which digit, and its direction in the last frame."""
    digits, numbers = split_digits(load_optdigits()), (config.num_train, config.num_valid, config.num_test)
    parts = []
    for part, (own, number) in enumerate(zip(digits, numbers, strict=True)):
        seed = 3 * config.seed + part
        videos = moving_digits(own, number, config.num_frames, config.size, headings=8, seed=seed)
        x, y = np.moveaxis(videos.velocities[:, -1, 0], -1, 0)
        heading = np.rint(np.arctan2(y, x) / (np.pi / 4)).astype(np.int32) % 8
        parts.append({"frames": videos.frames, "digit": videos.labels[:, 0].astype(np.int32), "heading": heading})
    return Data((parts[0], parts[1], parts[2]), {"digit": tuple("0123456789"), "heading": HEADINGS})


def folder_of_clips(config: Config, clips: Clips) -> Data:
    """The action of each clip."""
    parts = []
    for part in clips.splits:
        frames = [read_clip(clip, config.num_frames, (config.size, config.size)) for clip in part]
        parts.append({"frames": np.stack(frames), "action": np.array([clip.label for clip in part], np.int32)})
    return Data((parts[0], parts[1], parts[2]), {"action": clips.names})


def networks(config: Config, num_answers: int) -> dict[str, Layer]:
    """Layers from frames [T, B, size, size, 1] to logits [T, B, num_answers]."""
    frame, half = (config.size, config.size), -(-config.size // 2)
    lrcn = serial(frame_cnn(frame, config.channels), layer(lstm(config.units)), layer(dense(num_answers)))
    first = frame_cnn(frame, config.channels[:1], flat=False)
    rest = frame_cnn((half, half), config.channels[1:])
    conv = serial(first, layer(conv_lstm(config.conv_units)), rest, layer(dense(num_answers)))
    return {"lrcn": lrcn, "conv_lstm": conv, "one_frame": lrcn}


LABELS = {"lrcn": "LRCN", "conv_lstm": "ConvLSTM", "one_frame": "LRCN, last frame only"}


def answer(net: Layer, params: Any, frames: jax.Array, sizes: dict[str, int]) -> dict[str, jax.Array]:
    """Logits for each question after the last frame: frames [B, T, size, size] uint8 -> [B, answers]."""
    xs = jnp.moveaxis(frames, 0, 1)[..., None].astype(jnp.float32) / 255
    logits = net.apply(params, xs)[1][-1]
    borders = np.cumsum(list(sizes.values()))[:-1].tolist()
    return dict(zip(sizes, jnp.split(logits, borders, axis=-1), strict=True))


def score(net: Layer, sizes: dict[str, int], one_frame: bool, params: Any, batch: Any) -> dict[str, Mean]:
    """The negative log-likelihood of all answers, and the part of right ones for each question."""
    frames = batch["frames"][:, -1:] if one_frame else batch["frames"]
    logits, ones = answer(net, params, frames, sizes), jnp.ones(len(frames))
    nll = sum(token_nll(logits[question], batch[question]) for question in sizes)
    hits = {question: tally(logits[question].argmax(-1) == batch[question], ones) for question in sizes}
    return {"loss": tally(nll, ones), **hits}


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains the networks one after another and tests them."""
    data = load(config)
    sizes = {question: len(names) for question, names in data.answers.items()}
    schedule = Schedule(
        config.num_steps, config.batch_size, config.learning_rate, config.eval_every, config.max_seconds, config.seed
    )
    metrics: dict[str, Any] = {}
    rows, figures, notes = [], {}, []
    shown = data.parts[2]["frames"][:6]
    said: dict[str, np.ndarray] = {}
    for name, net in networks(config, sum(sizes.values())).items():
        one = name == "one_frame"
        trained = train_network(
            run_dir / name, lambda key, net=net: net.init(key, 1), partial(score, net, sizes, one), data.parts, schedule
        )
        metrics |= {f"{name}_{question}": trained.test[question] for question in sizes}
        metrics[f"{name}_parameters"] = tree.size(trained.params)
        rows.append(
            {"network": LABELS[name], "parameters": tree.size(trained.params)}
            | {f"{question}, % right": 100 * trained.test[question] for question in sizes}
        )
        notes.append(f"{LABELS[name]}: {describe_fit(trained.info, config.num_steps)}")
        curves = learning_curves(trained.info.history, next(reversed(sizes)), title=LABELS[name])
        figures[f"{LABELS[name]}: part of right answers"] = save(curves.figure, run_dir / "figures" / f"{name}.png")
        if name == "lrcn":
            logits = jax.jit(partial(answer, net, sizes=sizes))(trained.params, jnp.asarray(shown))
            said = {question: np.asarray(one.argmax(-1)) for question, one in logits.items()}
    with run_logger(run_dir) as log:
        log({"step": config.num_steps, **{f"test/{name}": value for name, value in metrics.items()}})
    links = {}
    for n, video in enumerate(shown):
        texts = [
            f"{question} {names[data.parts[2][question][n]]}, LRCN says {names[int(said[question][n])]}"
            for question, names in data.answers.items()
        ]
        links[f"Video {n + 1}: " + "; ".join(texts)] = write_gif(
            run_dir / "videos" / f"{n + 1}.gif", 255 - video, zoom=max(1, 128 // config.size), frames_per_second=3
        )
    write_report(
        run_dir,
        title=f"What is in a video ({config.data})",
        intro=f"Right answers on {len(data.parts[2]['frames'])} test videos of {config.num_frames} frames.",
        metrics_rows=rows,
        figures=figures,
        links=links,
        notes=notes,
    )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS, presets=PRESETS)
