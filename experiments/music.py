r"""How well do recurrent networks predict polyphonic music, and how far does a memory of the piece take them?

Four cells read the piano rolls of Boulanger-Lewandowski et al. (2012; official splits, found through `RNN_JAX_DATA` or
at their URL; repository MIT, the music is in the public domain) and predict the next frame, 88 independent keys, with
about as many parameters as in Chung et al. (2014). Then a better model: the mean probabilities of a few larger networks
with dropout, and a memory that looks back in the piece for moments that sounded alike and lets them vote for what comes
(`experiments/_music.py`). It sees nothing of the future, has no trained parameters, and its three numbers are chosen on
the validation split, as all else.

Numbers are nats per frame: summed over the keys, averaged over the frames of all pieces but the first of each.
Published on test, with keys that are independent given the past:

    set         tanh  GRU   LSTM   (Chung et al. 2014, arXiv:1412.3555, table 2, about 20,000 parameters)
    jsb         9.10  8.54  8.67   Bai et al. 2018, arXiv:1803.01271: RNN 8.91, LSTM 8.45, GRU 8.43, TCN 8.10
    nottingham  3.13  3.23  3.20   Bai et al. 2018: RNN 4.05, LSTM 3.29, GRU 3.46, TCN 3.07
    muse        6.23  5.99  6.23
    piano       9.03  8.82  9.03

Knowing only how often each key sounds in training gives 11.13, 10.30, 11.52 and 11.06. Expected on jsb: 8.6 +- 0.15 for
tanh, GRU and LSTM, below 8.43 for the mean of the larger ones and below 8.10 with the memory; with it also below the
best published number of each other set, although on nottingham so few epochs leave the networks alone behind.

    python -m experiments.music                          # about 2 minutes on one idle core
    python -m experiments.music --dataset nottingham     # or muse, piano: as many steps, so fewer epochs

The committed results of the other sets have two cells: `--compared.cells gru lru --compared.hidden-sizes 34 34
--eval-every 200`.

It leaves in the run directory: music as MIDI, WAV and pictures, composed from nothing and continued from the opening of
a held-out piece; pictures of learning, of the published numbers beside ours and of the memory at work; report.md.

`--preset paper` has networks of 300,000 parameters, as in Bai et al., trained longer, for an accelerator. It was not
run.
"""

import itertools
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments._music import (
    NUM_KEYS,
    frequency_likelihoods,
    key_likelihoods,
    pooled_nll,
    remember,
    roll_model,
    tune_memory,
)
from experiments._music_pictures import draw_learning, draw_memory, draw_published, write_piece
from experiments.claims import at_most, within
from experiments.cli import main
from rnn_jax import tree
from rnn_jax.data.piano_rolls import RollName
from rnn_jax.data.pieces import PieceSet, roll_pieces, training_batches
from rnn_jax.music import MusicModel, MusicParams, compose, init_music, music_loss
from rnn_jax.report import write_report
from rnn_jax.training import (
    FitInfo,
    TrainStep,
    Validation,
    create_state,
    describe_fit,
    fit,
    make_train_step,
    open_checkpoints,
    run_logger,
)

FLOORS = {"jsb": 11.13, "nottingham": 10.30, "muse": 11.52, "piano": 11.06}
PUBLISHED = {
    "jsb": {
        "tanh, Chung": 9.10,
        "GRU, Chung": 8.54,
        "LSTM, Chung": 8.67,
        "RNN, Bai": 8.91,
        "GRU, Bai": 8.43,
        "LSTM, Bai": 8.45,
        "TCN, Bai": 8.10,
    },
    "nottingham": {
        "tanh, Chung": 3.13,
        "GRU, Chung": 3.23,
        "LSTM, Chung": 3.20,
        "RNN, Bai": 4.05,
        "GRU, Bai": 3.46,
        "LSTM, Bai": 3.29,
        "TCN, Bai": 3.07,
    },
    "muse": {"tanh, Chung": 6.23, "GRU, Chung": 5.99, "LSTM, Chung": 6.23},
    "piano": {"tanh, Chung": 9.03, "GRU, Chung": 8.82, "LSTM, Chung": 9.03},
}
PULSE = {
    "jsb": (1, 80.0),
    "nottingham": (2, 120.0),
    "muse": (2, 90.0),
    "piano": (2, 90.0),
}  # steps a beat, beats a minute

CLAIMS = (
    *(
        within("floor_test_nll", floor, 0.005, source="marginal frequencies, clipped at 0.001", when={"dataset": name})
        for name, floor in FLOORS.items()
    ),
    within("elman_test_nll", 8.6, 0.15, source="Chung et al. 2014: 9.10", when={"dataset": "jsb"}),
    within("gru_test_nll", 8.6, 0.15, source="Chung et al. 2014: 8.54", when={"dataset": "jsb"}),
    within("lstm_test_nll", 8.6, 0.15, source="Chung et al. 2014: 8.67", when={"dataset": "jsb"}),
    at_most("ensemble_test_nll", 8.43, source="Bai et al. 2018, GRU", when={"dataset": "jsb"}),
    at_most("ensemble_memory_test_nll", 8.10, source="Bai et al. 2018, TCN", when={"dataset": "jsb"}),
    at_most("ensemble_memory_test_nll", 3.07, source="Bai et al. 2018, TCN", when={"dataset": "nottingham"}),
    at_most("ensemble_memory_test_nll", 5.99, source="Chung et al. 2014, GRU", when={"dataset": "muse"}),
    at_most("ensemble_memory_test_nll", 8.82, source="Chung et al. 2014, GRU", when={"dataset": "piano"}),
)


@dataclass(frozen=True)
class Networks:
    """Some networks that are trained alike."""

    cells: tuple[str, ...]
    """Names in rnn_jax.CELLS."""
    hidden_sizes: tuple[int, ...]
    """Of each."""
    num_steps: int
    learning_rate: float
    """Falls to a hundredth along a cosine."""
    dropout_in: float
    """Rate on what the cell reads, one mask a sequence."""
    dropout_out: float
    """Rate on what it says."""

    def __post_init__(self) -> None:
        if len(self.cells) != len(self.hidden_sizes):
            raise ValueError(f"`hidden_sizes` must have one for each of {self.cells}, got {self.hidden_sizes}")


@dataclass(frozen=True)
class Config:
    """The defaults serve all four sets: as many steps on each."""

    dataset: RollName = "jsb"
    compared: Networks = Networks(("elman", "gru", "lstm", "lru"), (80, 34, 28, 34), 1500, 2e-2, 0.12, 0.0)
    """Side by side, 23,000 to 28,000 parameters each."""
    ensemble: Networks = Networks(("lru",) * 3, (128,) * 3, 800, 3e-3, 0.1, 0.5)
    """Of these the mean probabilities are taken."""
    dropout_elsewhere: float = 0.2
    """Times all rates of dropout on the sets other than jsb, which have 5 to 18 times as many frames."""
    batch_size: int = 20
    window: int = 100
    """Steps in a training example; longer pieces are cut at a random place."""
    clip: float = 1.0
    """The largest norm of a gradient."""
    eval_every: int = 100
    max_seconds: float = 240.0
    """Training of a network stops there on a slow machine; the report says so."""
    decays: tuple[float, ...] = (0.4, 0.5, 0.6)
    """Of the memory: what is tried on the validation pieces."""
    sharpnesses: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    priors: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
    temperature: float = 0.8
    """Of the composed music: below 1 is safer, above 1 wilder."""
    composed_steps: int = 96
    opening_steps: int = 24
    """How much of a held-out piece is given before the model goes on."""
    piece: int = 0
    """Which test piece that is."""
    seed: int = 0


_TINY = Networks(("elman",), (4,), 2, 1e-2, 0.1, 0.1)
SMOKE = Config(
    compared=_TINY,
    ensemble=_TINY,
    window=32,
    eval_every=2,
    decays=(0.5,),
    sharpnesses=(4.0,),
    priors=(0.2,),
    composed_steps=16,
    opening_steps=8,
)
PRESETS = {
    "paper": Config(
        compared=Networks(("elman", "gru", "lstm", "lru"), (459, 258, 220, 230), 20_000, 3e-3, 0.1, 0.3),
        ensemble=Networks(("lru", "gru") * 5, (512,) * 10, 20_000, 1e-3, 0.2, 0.6),
        max_seconds=86_400.0,
    )
}


class Trained(NamedTuple):
    """A network after training."""

    model: MusicModel
    params: MusicParams
    info: FitInfo


@cache
def network(
    cell: str, hidden_size: int, dropout: tuple[float, float], networks: Networks, clip: float
) -> tuple[MusicModel, Any, TrainStep]:
    """A model, its optimizer and its step: compiled once for all networks that are alike."""
    model = roll_model(cell, hidden_size, dropout[0])
    decay = optax.cosine_decay_schedule(networks.learning_rate, networks.num_steps, alpha=0.01)
    tx = optax.chain(optax.clip_by_global_norm(clip), optax.adam(decay))
    return model, tx, make_train_step(partial(music_loss, model, dropout[1]), tx)


def train(config: Config, networks: Networks, index: int, seed: int, pieces: PieceSet, folder: Path) -> Trained:
    """One network, in the state that predicts the validation pieces best."""
    folder.mkdir(parents=True, exist_ok=True)
    part = 1.0 if config.dataset == "jsb" else config.dropout_elsewhere
    rates = part * networks.dropout_in, part * networks.dropout_out
    model, tx, step = network(networks.cells[index], networks.hidden_sizes[index], rates, networks, config.clip)
    init_key, train_key = jax.random.split(jax.random.key(seed))

    def judge(params: MusicParams) -> dict[str, float]:
        return {"nll": pooled_nll(key_likelihoods(model, params, pieces.splits.valid))}

    with run_logger(folder) as log, open_checkpoints(folder) as checkpoints:
        best, info = fit(
            create_state(init_music(model, init_key, clock_size=0), tx, train_key),
            step,
            training_batches(pieces, config.batch_size, config.window, seed),
            num_steps=networks.num_steps,
            validation=Validation(judge, config.eval_every, "nll"),
            log=log,
            checkpoints=checkpoints,
            max_seconds=config.max_seconds,
        )
    return Trained(model, best.params, info)


def likelihoods_of(
    pieces: PieceSet, split: str, networks: dict[str, Trained], members: list[Trained]
) -> dict[str, list[np.ndarray]]:
    """By model, for each piece of a split what it gave to each key [T, 88]."""
    own = getattr(pieces.splits, split)
    each = [key_likelihoods(one.model, one.params, own) for one in members]
    return {
        "floor": frequency_likelihoods(pieces.splits.train, own),
        **{cell: key_likelihoods(one.model, one.params, own) for cell, one in networks.items()},
        "ensemble": [np.mean(parts, axis=0) for parts in zip(*each, strict=True)],
    }


def write_music(
    config: Config, run_dir: Path, best: Trained, pieces: PieceSet
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Composes from nothing and from a held-out opening; pictures and files by caption."""
    held_out = pieces.splits.test[config.piece].frames[: config.composed_steps]
    script = np.zeros((config.composed_steps, held_out.shape[1]), np.int32)
    script[: len(held_out)] = held_out
    clock = np.zeros((len(script), 0), np.float32)
    jobs = {  # name: caption, frames given
        "composed": ("Composed from nothing", 0),
        "continued": ("A held-out opening (shaded), continued", min(config.opening_steps, len(held_out))),
        "original": ("The held-out piece itself", len(held_out)),
    }
    play = jax.jit(partial(compose, best.model, best.params))
    figures, files = {}, {}
    for index, (name, (caption, given)) in enumerate(jobs.items()):
        key = jax.random.fold_in(jax.random.key(config.seed), index)
        frames = np.asarray(play(key, script, given, clock, config.temperature))
        if name == "original":
            frames = frames[:given]
        shaded = given if name == "continued" else 0
        figures[caption], written = write_piece(
            run_dir, name, caption, pieces, frames, PULSE[config.dataset][1], shaded
        )
        files |= written
    return figures, files


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains all networks, judges them with and without memory, and composes."""
    if len(set(config.compared.cells)) < len(config.compared.cells):
        raise ValueError(f"`compared.cells` must be different cells, got {config.compared.cells}")
    pieces = roll_pieces(config.dataset)._replace(steps_per_beat=PULSE[config.dataset][0])
    seeds = itertools.count(100 * config.seed)
    networks = {
        cell: train(config, config.compared, index, next(seeds), pieces, run_dir / cell)
        for index, cell in enumerate(config.compared.cells)
    }
    members = [
        train(config, config.ensemble, index, next(seeds), pieces, run_dir / f"ensemble-{index}" if index else run_dir)
        for index in range(len(config.ensemble.cells))
    ]
    parameters = {
        "floor": NUM_KEYS,
        **{cell: tree.size(one.params) for cell, one in networks.items()},
        "ensemble": sum(tree.size(one.params) for one in members),
    }
    alone = {split: likelihoods_of(pieces, split, networks, members) for split in ("valid", "test")}
    memories = tune_memory(alone["valid"], pieces.splits.valid, config.decays, config.sharpnesses, config.priors)
    remembered = {
        split: {name: remember(own[name], getattr(pieces.splits, split), memory) for name, memory in memories.items()}
        for split, own in alone.items()
    }
    metrics: dict[str, Any] = {f"{name}_parameters": number for name, number in parameters.items() if name != "floor"}
    rows = []
    for name, number in parameters.items():
        row: dict[str, Any] = {"model": name, "parameters": number}
        for split in alone:
            row[split], row[f"{split}, memory"] = (pooled_nll(of[split][name]) for of in (alone, remembered))
            metrics |= {f"{name}_{split}_nll": row[split], f"{name}_memory_{split}_nll": row[f"{split}, memory"]}
        rows.append(row)
    metrics |= {f"ensemble_memory_{name}": value for name, value in memories["ensemble"]._asdict().items()}
    best = min(members, key=lambda member: member.info.best_value)
    figures, files = write_music(config, run_dir, best, pieces)
    pictures = run_dir / "figures"
    ours = {row["model"]: row["test"] for row in rows[1:]} | {"ensemble with memory": rows[-1]["test, memory"]}
    figures = {
        "Test, nats per frame": draw_published(ours, PUBLISHED[config.dataset], pictures),
        "Learning": draw_learning({cell: one.info for cell, one in networks.items()}, pictures),
        "What the memory knows: the test piece that gains most of those of up to 128 frames": draw_memory(
            pieces, alone["test"]["ensemble"], remembered["test"]["ensemble"], pictures
        ),
        **figures,
    }
    write_report(
        run_dir,
        title=f"Polyphonic music by recurrent networks ({config.dataset})",
        intro="Negative log-likelihood in nats per frame, summed over 88 keys and averaged over the frames of all "
        "pieces but the first of each; lower is better. `floor` knows only how often each key sounds in training. "
        f"`ensemble`: mean probabilities of {len(members)} networks. Memory, chosen on valid for each model: "
        + "; ".join(f"{name} {' / '.join(f'{x:g}' for x in memory)}" for name, memory in memories.items())
        + " (decay / sharpness / prior).",
        metrics_rows=rows,
        figures=figures,
        links=files,
        notes=[f"{cell}: {describe_fit(one.info, config.compared.num_steps)}" for cell, one in networks.items()]
        + [f"ensemble: {describe_fit(one.info, config.ensemble.num_steps)}" for one in members],
    )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS, presets=PRESETS)
