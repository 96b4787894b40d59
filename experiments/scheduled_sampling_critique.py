r"""Does scheduled sampling learn the truth? (No, and here is by how much it is wrong.)

Huszar (2015, arXiv:1511.05101) argued that scheduled sampling is not a consistent way to train: its optimum is not the
distribution of the data. On the smallest case the error has a closed form. Let x1 be a fair bit and x2 = x1. A model
that reads the true x1 with probability eps, and else its own sample, sees an x1 that agrees with x2 with probability
(1 + eps) / 2 only. So that is what it learns, and

    KL(data || model) = log2(2 / (1 + eps)) bits:  eps = 1, .75, .5, .25, 0  ->  0, .193, .415, .678, 1.

Part 1 trains that model at five rates and several seeds, in one program (`rate` is data), and compares.

Part 2 asks the other side. It harmonises real melodies: a GRU reads the soprano of a chorale of J. S. Bach and its own
last bass note, and predicts the bass, held out by piece. Trained on the truth it is right about the next note far
more often than when it must read its own notes: exposure bias. Trained on its own samples it is worse at the next note
and the gap is nearly gone. This is the shape of table 3 of Bengio et al. (2015, arXiv:1506.03099), frame errors on
TIMIT: forced training 15.0 next-step and 46.0 free-running, always sampling 34.6 and 35.8 (other data: only the shape
is claimed here).

    python -m experiments.scheduled_sampling_critique         # some 3 minutes on 2 cores

It leaves in the run directory: both figures, numbers of every seed in result.json, report.md.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._many import fit_many
from experiments._melodies import Task, collate, load_melodies, windows
from experiments.claims import at_least, at_most
from experiments.cli import main
from rnn_jax import dense, forced_unroll, forcing_mask, gru, stack
from rnn_jax.forcing import argmax, sample
from rnn_jax.losses import token_nll
from rnn_jax.metrics import masked_mean
from rnn_jax.plotting import PALETTE, finish, new_axes, save
from rnn_jax.report import write_report
from rnn_jax.training import create_states, make_train_steps

CLAIMS = (
    at_most("bits_max_error", 0.02, source="closed form after Huszar 2015, arXiv:1511.05101"),
    at_least("bass_gap_forced", 0.1, source="shape of Bengio et al. 2015, table 3: 46.0 - 15.0 % on TIMIT"),
    at_most("bass_gap_sampled_over_forced", 0.5, source="shape of Bengio et al. 2015, table 3: 35.8 - 34.6 %"),
)
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Config:
    """All rates and seeds of a part train side by side."""

    seeds: int = 5
    bit_steps: int = 1500
    bit_batch: int = 512
    bass_rates: tuple[float, ...] = (1.0, 0.5, 0.0)
    """How often the bass models read the truth while they train."""
    bass_seeds: int = 3
    bass_steps: int = 400
    bass_batch: int = 16
    hidden_size: int = 64
    learning_rate: float = 5e-3
    """Of both parts; falls to a hundredth along a cosine."""
    seed: int = 0


SMOKE = Config(seeds=1, bit_steps=5, bit_batch=8, bass_seeds=1, bass_steps=2, bass_batch=2, hidden_size=4)


class Params(NamedTuple):
    """A decoder and the table its tokens are looked up in."""

    cell: Any
    embedding: jax.Array  # [V, E]


def init(cell: Any, num_tokens: int, size: int, num_inputs: int, key: jax.Array) -> Params:
    """Initial parameters of a decoder over `num_tokens`, reading an embedding and known inputs."""
    cell_key, embedding_key = jax.random.split(key)
    embedding = jax.random.normal(embedding_key, (num_tokens, size)) * size**-0.5
    return Params(cell=cell.init(cell_key, size + num_inputs), embedding=embedding)


def predict(cell: Any, params: Params, task: Task, mask: Any, feedback: Any, key: Any = None) -> jax.Array:
    """Logits [T, B, V]; token 0 comes before the first."""
    options = {"start": 0, "feedback": feedback, "embedding": params.embedding, "key": key}
    return forced_unroll(
        cell, params.cell, jnp.asarray(task.targets), mask, inputs=task.inputs, lengths=task.lengths, **options
    )[1]


def train(cell: Any, init: Any, rates: jax.Array, tasks: Any, config: Config, steps: int, folder: Path) -> Any:
    """Parameters [N, ...] of trained models, number n of which read the truth with probability rates[n]."""

    def loss_fn(params: Params, batch: tuple[jax.Array, Task], *, key: jax.Array, step: jax.Array) -> Any:
        rate, task = batch
        mask_key, sample_key = jax.random.split(key)
        num_steps, *batch_shape = task.targets.shape
        mask = forcing_mask(mask_key, rate, num_steps, tuple(batch_shape))
        logits = predict(cell, params, task, mask, sample(), sample_key)
        real = jnp.arange(num_steps)[:, None] < jnp.asarray(task.lengths)[None]
        return masked_mean(token_nll(logits, jnp.asarray(task.targets)), real), {}

    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps, alpha=0.01)),
    )
    states = create_states(init, tx, jax.random.split(jax.random.key(config.seed), len(rates)))
    step = make_train_steps(loss_fn, tx)
    return fit_many(folder, states, step, rates, tasks, steps, rows=20)[0].params


def bits(config: Config, folder: Path) -> np.ndarray:
    """KL(data || model) in bits, exactly, of every rate and seed: [R, N]."""
    cell = stack(gru(8), dense(2))
    rates = jnp.repeat(jnp.asarray(RATES), config.seeds)
    rng = np.random.default_rng(config.seed)

    def tasks() -> Any:
        while True:
            coins = rng.integers(0, 2, config.bit_batch).astype(np.int32)
            yield Task(targets=np.stack([coins, coins]), lengths=np.full(config.bit_batch, 2), inputs=None)

    params = train(cell, partial(init, cell, 2, 4, 0), rates, tasks(), config, config.bit_steps, folder)
    both = Task(targets=np.array([[0, 1], [0, 1]], np.int32), lengths=np.array([2, 2]), inputs=None)

    def kl(params: Params) -> jax.Array:
        log_q = -token_nll(predict(cell, params, both, 1.0, argmax), jnp.asarray(both.targets)).sum(0)
        return (jnp.log(0.5) - log_q).mean() / jnp.log(2.0)

    return np.asarray(jax.jit(jax.vmap(kl))(params)).reshape(len(RATES), config.seeds)


def bass(config: Config, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Test errors of every rate and seed, next-step and free-running: [2, R, N], and by position [2, R, T]."""
    data = load_melodies()
    cell = stack(gru(config.hidden_size), dense(data.num_classes))
    rates = jnp.repeat(jnp.asarray(config.bass_rates), config.bass_seeds)
    tasks = windows(data.train, config.bass_batch, 64, config.seed)
    start = partial(init, cell, data.num_classes, 16, data.train[0].inputs.shape[1])
    params = train(cell, start, rates, tasks, config, config.bass_steps, folder)
    test = collate(data.test)
    real = np.arange(len(test.targets))[:, None] < test.lengths[None]

    def wrong(params: Params, mask: jax.Array) -> jax.Array:
        return predict(cell, params, test, mask, argmax).argmax(-1) != jnp.asarray(test.targets)

    judge = jax.jit(jax.vmap(wrong, in_axes=(0, None)))
    errors = np.stack([np.asarray(judge(params, jnp.float32(mask))) & real for mask in (1, 0)])  # [2, R N, T, B]
    shape = (2, len(config.bass_rates), config.bass_seeds)
    overall = errors.sum((2, 3)).reshape(shape) / real.sum()
    by_position = errors.sum(3).reshape(*shape, -1).mean(2) / np.maximum(real.sum(1), 1)
    return overall, by_position[..., : int(np.median(test.lengths))]


def draw(config: Config, kl: np.ndarray, by_position: np.ndarray, run_dir: Path) -> dict[str, Path]:
    """The two figures by caption."""
    ax = new_axes((6.4, 4.0))
    line = np.linspace(0, 1, 101)
    ax.plot(line, np.log2(2 / (1 + line)), color=PALETTE[5], lw=1.5, label="log2(2 / (1 + eps))")
    ax.plot(np.repeat(RATES, kl.shape[1]), kl.ravel(), "o", ms=5, alpha=0.6, color=PALETTE[0], label="trained models")
    ax.set(xlabel="probability eps of reading the truth in training", ylabel="KL(data || model), bits")
    finish(ax, "Scheduled sampling learns the wrong distribution")
    ax.legend(frameon=False)
    bits_path = save(ax.figure, run_dir / "figures" / "kl.png")
    ax = new_axes((7.4, 4.0))
    steps = np.arange(1, by_position.shape[-1] + 1)
    for rate, colour, forced, free in zip(config.bass_rates, PALETTE[3::-1], *by_position, strict=False):
        smooth = [np.convolve(row, np.ones(8) / 8, "valid") for row in (forced, free)]
        ax.plot(steps[7:], smooth[1], color=colour, lw=2, label=f"trained with eps = {rate:g}, reads its own notes")
        ax.plot(steps[7:], smooth[0], color=colour, lw=1.2, ls="--", label="    the same, reads the true notes")
    ax.set(xlabel="eighth notes into the piece", ylabel="part of bass notes wrong (mean of 8)", ylim=(0, None))
    finish(ax, "Harmonising held-out melodies")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    bass_path = save(ax.figure, run_dir / "figures" / "bass.png")
    return {"What is learned on x2 = x1, against the closed form": bits_path, "Error over position": bass_path}


def run(config: Config, run_dir: Path) -> dict[str, float]:
    """Trains and judges both parts."""
    kl = bits(config, run_dir / "bits")
    errors, by_position = bass(config, run_dir)
    theory = np.log2(2 / (1 + np.asarray(RATES)))
    metrics = {"bits_max_error": float(np.abs(kl.mean(1) - theory).max())}
    metrics["bits_worst_seed_error"] = float(np.abs(kl - theory[:, None]).max())
    rows = []
    for rate, values, expected in zip(RATES, kl, theory, strict=True):
        metrics |= {f"bits_{rate:g}": float(values.mean()), f"bits_{rate:g}_sd": float(values.std(ddof=0))}
        rows.append({"what": f"KL, eps {rate:g}", "measured": float(values.mean()), "expected": float(expected)})
    for rate, forced, free in zip(config.bass_rates, *errors, strict=True):
        for name, values in (("next", forced), ("free", free)):
            metrics |= {f"bass_{name}_{rate:g}": float(values.mean()), f"bass_{name}_{rate:g}_sd": float(values.std())}
            what = {"next": "next note", "free": "free-running"}[name]
            rows.append({"what": f"bass wrong, eps {rate:g}, {what}", "measured": float(values.mean()), "expected": ""})
    gaps = (errors[1] - errors[0]).mean(1)
    metrics["bass_gap_forced"], metrics["bass_gap_sampled"] = float(gaps[0]), float(gaps[-1])
    metrics["bass_gap_sampled_over_forced"] = float(gaps[-1] / gaps[0])
    write_report(
        run_dir,
        title="What scheduled sampling learns",
        intro="Means over seeds. KL in bits; bass errors are parts of all frames of the test pieces.",
        metrics_rows=rows,
        figures=draw(config, kl, by_position, run_dir),
        links={},
    )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
