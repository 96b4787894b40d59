r"""Can a small recurrent network learn to write four-part chorales?

A recurrent network reads a chorale frame by frame and predicts the next one (teacher forcing); then it composes.

361 chorales of J. S. Bach, embedded in the package, on a grid of eighth notes. For each of the four voices a frame says
whether it rests, holds its note or strikes one; the voices are predicted one after another, each given those above it.
Training pieces are transposed at random within the ranges of the voices. (The JSB benchmark has its own experiment,
`music`.)

Numbers are negative log-likelihoods in nats per frame: summed over voices, averaged over all frames of a
split; the first frame of a piece is not counted. They stand against two baselines: `unigram` knows how often each note
occurs, `repeat` plays the last frame again with fitted confidence.

    python -m experiments.bach_chorales                  # at most 3 minutes on 2 cores
    python -m experiments.bach_chorales --cell lstm --num-layers 2 --temperature 0.8

Many runs in one program, each as it would be alone: seeds 0 to 7; a grid of four settings with two seeds each.

    python -m experiments.bach_chorales --seeds 8
    python -m experiments.bach_chorales --seeds 2 --learning-rate 1e-3 3e-3 --clip 0.3 1

Batches (of many runs: the runs) are split over all devices that there are, where their number divides the batch size
(the number of runs). Metrics are then means over the seeds of the setting with the best validation, report.md has them
for all settings, and the run with the best validation composes.

It leaves in the run directory: composed chorales as MIDI, WAV and pictures, one from nothing and one that continues the
opening of a held-out piece; learning curves; the best parameters; report.md.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

from experiments._many import grid
from experiments.claims import at_most
from experiments.cli import main
from rnn_jax import make_cell, stack, tree, with_dropout
from rnn_jax.data import side_by_side
from rnn_jax.data.audio import synthesize, write_midi, write_wav
from rnn_jax.data.batching import pad
from rnn_jax.data.pieces import PieceSet, chorale_pieces, heard, make_clock, training_batches
from rnn_jax.frames import voice_frames
from rnn_jax.music import MusicModel, MusicParams, compose, init_music, music_baselines, music_loss, music_nll
from rnn_jax.plotting import learning_curves, piano_roll, save
from rnn_jax.report import markdown_table, write_report
from rnn_jax.training import (
    Validation,
    create_state,
    create_states,
    data_mesh,
    describe_fit,
    fit,
    is_writer,
    local_rows,
    make_evaluate,
    make_train_step,
    make_train_steps,
    on_mesh,
    open_checkpoints,
    place_runs,
    place_state,
    run_logger,
    seed_keys,
    to_host,
)

CLAIMS = (at_most("test_nll_over_repeat", 0.5, source="wide margin over the better baseline"),)

INTRO = "Negative log-likelihood in nats per frame; lower is better. The first frame of a piece is not counted."


@dataclass(frozen=True)
class Config:
    """Of one run or of many."""

    cell: str = "gru"
    """A name in rnn_jax.CELLS."""
    hidden_size: int = 256
    num_layers: int = 1
    dropout: float = 0.3
    """One mask a sequence, on what each layer hands to the next and the last one to the output."""
    batch_size: int = 16
    window: int = 128
    """Steps in a training example; longer pieces are cut at a random place."""
    learning_rate: tuple[float, ...] = (3e-3,)
    """Falls to a hundredth along a cosine. Several values are trained side by side."""
    clip: tuple[float, ...] = (1.0,)
    """The largest norm of a gradient. Several values are trained side by side."""
    num_steps: int = 450
    eval_every: int = 50
    max_seconds: float = 120.0
    """Training stops there on a slow machine; the report says so."""
    temperature: float = 0.6
    """Of the composed music: below 1 is safer, above 1 wilder."""
    bars: int = 12
    """Length of the composed music."""
    opening_bars: int = 3
    """How much of a held-out piece is given before the model goes on."""
    piece: int = 0
    """Which test piece that is."""
    seeds: int = 1
    """How many runs of each setting are trained side by side: with the seeds `seed`, `seed + 1`, ..."""
    seed: int = 0


SMOKE = Config(hidden_size=8, num_layers=1, num_steps=4, eval_every=2, window=32, bars=4, opening_bars=1)


def build(config: Config) -> tuple[MusicModel, PieceSet]:
    """The chorales and the model for them."""
    pieces = chorale_pieces()
    layers = [
        with_dropout(make_cell(config.cell, config.hidden_size), variational=config.dropout if index else 0.0)
        for index in range(config.num_layers)
    ]
    return MusicModel(stack(*layers), voice_frames(4, pieces.num_pitches)), pieces


def write_music(
    config: Config, run_dir: Path, model: MusicModel, params: MusicParams, pieces: PieceSet
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Composes a new piece and continues a held-out one: pictures and sound files by caption."""
    per_bar = 4 * pieces.steps_per_beat
    held_out = pieces.splits.test[config.piece]
    steps = max(config.bars * per_bar, len(held_out.frames))
    script = np.zeros((steps, model.frames.frame_size), np.int32)
    script[: len(held_out.frames)] = held_out.frames
    clocks = np.zeros((2, steps, held_out.clock.shape[1]), np.float32)
    clocks[0, : len(held_out.frames)] = held_out.clock
    clocks[1, : config.bars * per_bar] = make_clock(np.arange(config.bars * per_bar) % per_bar, 4)[:, : clocks.shape[2]]
    opening = config.opening_bars * per_bar
    jobs = {  # name: caption, clock, frames given, length
        "composed": ("Composed from nothing", clocks[1], 0, config.bars * per_bar),
        "continued": ("A held-out opening (shaded), continued", clocks[0], opening, len(held_out.frames)),
        "original": ("The held-out piece itself", clocks[0], steps, len(held_out.frames)),
    }
    play = jax.jit(partial(compose, model, params))
    figures, files = {}, {}
    for index, (name, (caption, clock, given, length)) in enumerate(jobs.items()):
        key = jax.random.fold_in(jax.random.key(config.seed), index)
        frames = play(key, script, given, clock, config.temperature)
        picture, notes = heard(pieces, np.asarray(frames)[:length])
        shaded = opening if name == "continued" else 0
        ax = piano_roll(picture, steps_per_beat=pieces.steps_per_beat, title=caption, prefix_steps=shaded)
        figures[caption] = save(ax.figure, run_dir / "figures" / f"{name}.png")
        write_midi(run_dir / f"{name}.mid", notes, steps_per_beat=pieces.steps_per_beat)
        sound = synthesize(notes, steps_per_beat=pieces.steps_per_beat)
        write_wav(run_dir / f"{name}.wav", sound)
        files |= {f"{caption}: sound": run_dir / f"{name}.wav", f"{caption}: MIDI": run_dir / f"{name}.mid"}
    return figures, files


def optimizer(config: Config) -> optax.GradientTransformation:
    """Adam behind a clip; its learning rate and clip are part of its state, so each run may have its own."""

    def adam(learning_rate: Any, clip: Any) -> optax.GradientTransformation:
        schedule = optax.cosine_decay_schedule(learning_rate, config.num_steps, alpha=0.01)
        return optax.chain(optax.clip_by_global_norm(clip), optax.adam(schedule))

    return optax.inject_hyperparams(adam)(learning_rate=config.learning_rate[0], clip=config.clip[0])


def start(config: Config, runs: dict[str, np.ndarray], model: MusicModel, pieces: PieceSet) -> Any:
    """The state, the step and the batches of one run, or of many side by side."""
    loss, tx = partial(music_loss, model, config.dropout), optimizer(config)
    batches = partial(training_batches, pieces, config.batch_size, config.window)
    num = len(runs["seed"])

    def init(key: jax.Array) -> MusicParams:
        return init_music(model, key, pieces.splits.train[0].clock.shape[1])

    if num == 1:
        mesh = data_mesh(config.batch_size)
        init_key, train_key = jax.random.split(jax.random.key(config.seed))
        state = place_state(create_state(init(init_key), tx, train_key), mesh)
        return state, on_mesh(make_train_step(loss, tx), mesh), batches(config.seed, rows=partial(local_rows, mesh))

    def own_loss(params: MusicParams, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        return loss(params, batch[0], key=key, step=step)

    mesh = data_mesh(num)
    keys = seed_keys(config.seed, config.seeds)[runs["seed"]]
    own = {name: runs[name] for name in ("learning_rate", "clip")}
    states = place_runs(create_states(init, tx, keys, **own), mesh)
    steps = make_train_steps(own_loss, tx)
    data = side_by_side([batches(config.seed + int(seed)) for seed in runs["seed"]])
    return states, on_mesh(lambda states, own: steps(states, own, ()), mesh, batch_axis=0), data


def settings_table(config: Config, runs: dict[str, np.ndarray], nll: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds of each setting; `nll` holds [N] numbers of each split."""
    rows = []
    for first in range(0, len(runs["seed"]), config.seeds):
        row = {name: float(runs[name][first]) for name in ("learning_rate", "clip")}
        for split, values in nll.items():
            own = values[first : first + config.seeds]
            row |= {split: own.mean(), f"{split} sd": own.std(ddof=min(1, config.seeds - 1))}
        rows.append(row)
    return rows


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains, judges and composes."""
    model, pieces = build(config)
    runs = grid(config.seeds, learning_rate=config.learning_rate, clip=config.clip)
    num = len(runs["seed"])
    judge = lambda params, batch: {"nll": music_nll(model, params, batch)}  # noqa: E731
    evaluate = make_evaluate(judge if num == 1 else jax.vmap(judge, in_axes=(0, None)))
    splits = {"valid": pad(pieces.splits.valid), "test": pad(pieces.splits.test)}
    state, train_step, batches = start(config, runs, model, pieces)
    with run_logger(run_dir) as log, open_checkpoints(run_dir) as checkpoints:
        best, info = fit(
            state,
            train_step,
            batches,
            num_steps=config.num_steps,
            validation=Validation(lambda p: evaluate(p, [splits["valid"]]), config.eval_every, "nll"),
            log=log,
            checkpoints=checkpoints,
            max_seconds=config.max_seconds,
        )
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((run_dir / "params").resolve(), best.params)
    best_params = to_host(best.params)
    each = {split: np.atleast_1d(evaluate(best_params, [batch])["nll"]) for split, batch in splits.items()}
    settings = settings_table(config, runs, each)
    chosen = int(np.argmin([row["valid"] for row in settings]))
    own = slice(chosen * config.seeds, (chosen + 1) * config.seeds)
    metrics: dict[str, Any] = {}
    rows = []
    floors = {split: music_baselines(model.frames, pieces, split) for split in splits}
    for split, values in each.items():
        nll = float(values[own].mean())
        rows.append({"split": split, f"{config.num_layers} x {config.cell}-{config.hidden_size}": nll, **floors[split]})
        metrics |= {f"{split}_nll": nll, **{f"{split}_{name}": value for name, value in floors[split].items()}}
        if config.seeds > 1:
            metrics |= {f"{split}_nll_sd": float(values[own].std(ddof=1)), f"{split}_nll_seeds": values[own].tolist()}
    metrics["test_nll_over_repeat"] = metrics["test_nll"] / metrics["test_repeat"]
    if len(settings) > 1:
        metrics |= {name: settings[chosen][name] for name in ("learning_rate", "clip")}
    if num > 1:
        best_run = int(np.argmin(each["valid"]))
        best_params = jax.tree.map(lambda leaf: leaf[best_run], best_params)
    if is_writer():
        figures, files = write_music(config, run_dir, model, best_params, pieces)
        chosen_rows = [{k: v[own] if isinstance(v, list) else v for k, v in row.items()} for row in info.history]
        curves = learning_curves(chosen_rows, "nll", baselines=floors["valid"])
        figures["Learning curves, nats per frame"] = save(curves.figure, run_dir / "figures" / "learning_curves.png")
        write_report(
            run_dir,
            title="Chorales by a recurrent network",
            intro=INTRO + (f"\n\n{markdown_table(settings)}" if len(settings) > 1 else ""),
            metrics_rows=rows,
            figures=figures,
            links=files,
            notes=[describe_fit(info, config.num_steps)],
        )
    return metrics | {"best_step": info.best_step, "parameters": tree.size(best_params)}


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
