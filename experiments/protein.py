r"""What shape does each piece of a protein take: helix, strand or neither?

Bidirectional LSTMs read whole chains of amino acids, 40 to 512 residues, and say for each residue which of the eight
states of DSSP it is in. Three networks of one size are trained: one sees the sequence alone, one also a profile, that
is what stands at the same place in relatives of the protein, and one sees the profile but walks one way only.

Data: 3,000 chains of the Protein Data Bank from the structure database of ProMod3 (Apache-2.0, the structures CC0), a
Debian package of 371 MB that needs neither root nor to be installed:

    apt-get download promod3-data && dpkg-deb -x promod3-data*.deb promod3
    python -m experiments.protein --data.database promod3/usr/share/promod3/loop_data/structure_db.dat

Split: 80, 10 and 10 % by a hash of the entry, so that all chains of one structure are in the same part. Chains of
different entries may be relatives; the report says how much that matters.

Q8 and Q3 are the percent of residues, pooled over chains, that are in the right state of eight and of three (H, G, I
are helix, E, B strand, the rest coil); for three the probabilities of the eight are added up. Baselines, on the same
split: the most frequent state, and ridge regression on windows of 17 residues. Published, on other chains: CB513, a
bidirectional LSTM with profiles, Q8 67.4 (Soenderby and Winther 2014, arXiv:1412.7828); TEST2018, Q3 72.6 of single
sequences and 85.4 with profiles (SPIDER3-Single and NetSurfP-2.0, from the table of SPOT-1D-LM).

    python -m experiments.protein                                 # 18 to 38 minutes on one core: Q8 69.5, Q3 82.4
    python -m experiments.protein --trained RUN_DIR --data.sequence MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ
    python -m experiments.protein --trained RUN_DIR --data.fasta FILE

The last two predict, by the network for single sequences, with what an earlier run has learnt. With CB513 and its
training set, where the user has the two files (`rnn_jax.data.load_cb513`; not run here):

    python -m experiments.protein --data.source cb513 --data.test_file CB513 --data.train_file CULLPDB

It leaves in the run directory: report.md with pictures, the parameters, and predictions.txt and predictions.csv, states
and probabilities for every residue of the given sequences or of three held-out chains.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from experiments._protein_data import Data, load, read_queries, seen_by
from experiments._protein_pictures import accuracy_bars, end_curves, probability_strip
from experiments._protein_scores import (
    confusion,
    near_ends,
    pooled,
    related,
    ridge,
    right,
    three_states,
    write_predictions,
)
from experiments.claims import at_least
from experiments.cli import main
from experiments.configuration import load_config
from rnn_jax import Layer, bidirectional, dense, layer, make_cell, serial, tree, with_dropout
from rnn_jax.data.batching import Batch, batches, pad, padded_fraction
from rnn_jax.data.pipeline import stream
from rnn_jax.data.proteins import (
    RESIDUES,
    STATES,
    STATES3,
    THREE_OF_EIGHT,
    Chain,
)
from rnn_jax.data.splits import Splits
from rnn_jax.losses import token_nll
from rnn_jax.metrics import Mean, mean_value, tally
from rnn_jax.plotting import confusion_map, learning_curves, save
from rnn_jax.report import write_report
from rnn_jax.training import (
    FitInfo,
    Validation,
    averaged_params,
    create_state,
    describe_fit,
    fit,
    make_evaluate,
    make_train_step,
    open_checkpoints,
    run_logger,
    with_ema,
)

_WHEN = {"data.source": "promod3", "trained": None}
_ALL = _WHEN | {"networks": ["profiles", "sequence", "one way"]}
CLAIMS = (
    at_least("test_q8", 68.0, source="CB513: Soenderby & Winther 2014, 67.4", when=_WHEN),
    at_least("test_q3", 81.0, source="CB513 with profiles: about 80", when=_WHEN),
    at_least("q3_over_ridge", 3.0, source="wide margin over a window of 17", when=_WHEN),
    at_least("q3_gain_of_profiles", 10.0, source="TEST2018: 85.4 - 72.6", when=_ALL),
    at_least("q3_gain_of_both_ways", 1.0, source="what comes later matters too", when=_ALL),
)


@dataclass(frozen=True)
class Config:
    """The defaults are those of the committed result."""

    data: Data = field(default_factory=Data)
    networks: tuple[str, ...] = ("profiles", "sequence", "one way")
    """The first one is judged in detail; "profiles" must be among them."""
    cell: str = "lstm"
    hidden_size: int = 128
    """Of each direction."""
    num_layers: int = 2
    dropout: float = 0.5
    """On what a layer hands on, one mask a chain."""
    batch_size: int = 32
    steps_multiple: int = 128
    """Batches are padded to a multiple of it; the more there are, the more programs are compiled."""
    num_epochs: int = 16
    learning_rate: float = 3e-3
    """Falls to a hundredth along a cosine."""
    clip: float = 1.0
    averaging: float = 0.99
    """Decay of the moving average of the parameters, which is what is judged."""
    max_seconds: float = 1800.0
    """For each network; the report says so if training stops there."""
    window: int = 17
    """Residues that the ridge regression sees."""
    trained: Path | None = None
    """Directory of an earlier run: predict with its parameters, and train nothing."""
    seed: int = 0


SMOKE = Config(
    data=Data(num_chains=30),
    networks=("profiles", "sequence"),
    hidden_size=4,
    num_layers=1,
    batch_size=8,
    steps_multiple=512,
    num_epochs=1,
    window=3,
)
PRESETS = {"paper": Config(hidden_size=300, num_layers=3, batch_size=64, num_epochs=40)}
"""A large stack for accelerators, not run here; the sizes of Soenderby & Winther 2014 were not checked."""


def make_network(config: Config, name: str) -> Layer:
    """A stack of recurrent layers, in both directions or forwards only, under one that gives eight logits."""

    def one(dropout: float) -> Any:
        return with_dropout(make_cell(config.cell, config.hidden_size), variational=dropout)

    rates = [config.dropout if index else 0.0 for index in range(config.num_layers)]
    walks = [layer(one(rate)) if name == "one way" else bidirectional(one(rate), one(rate)) for rate in rates]
    return serial(*walks, layer(with_dropout(dense(len(STATES)), variational=config.dropout)))


def logits(network: Layer, params: Any, batch: Batch, key: jax.Array | None = None) -> jax.Array:
    """[T, B, 8] for residues [T, B] and profiles [T, B, 20 or 0], with dropout where there is a key."""
    residues, profile, _ = batch.data
    xs = jnp.concatenate([jax.nn.one_hot(residues, len(RESIDUES)), profile], -1)
    if key is not None:
        params = network.perturb(key, params, xs.shape)
    return network.apply(params, xs, lengths=batch.lengths)[1]


def judge(network: Layer, params: Any, batch: Batch, key: jax.Array | None = None) -> dict[str, Mean]:
    """Negative log-likelihood and the share of right states, over all real residues."""
    scores = logits(network, params, batch, key)
    targets = batch.data[2].astype(jnp.int32)
    real = jnp.arange(len(targets))[:, None] < batch.lengths[None]
    groups = jax.nn.one_hot(THREE_OF_EIGHT, len(STATES3))
    three = (jax.nn.softmax(scores) @ groups).argmax(-1)
    return {
        "nll": tally(token_nll(scores, targets), real),
        "q8": tally(scores.argmax(-1) == targets, real),
        "q3": tally(three == jnp.asarray(THREE_OF_EIGHT)[targets], real),
    }


def planned(config: Config, chains: Sequence[Chain]) -> tuple[Callable[[int], list[np.ndarray]], Callable[..., Batch]]:
    """Batches of nearly equal lengths, filled up with empty rows (-1) to one size: a plan, and what builds them."""
    lengths = np.array([len(chain.residues) for chain in chains])
    empty = tuple(array[:0] for array in chains[0][1:])

    def plan(epoch: int) -> list[np.ndarray]:
        groups = batches(lengths, config.batch_size, config.seed, epoch)
        return [np.pad(group, (0, config.batch_size - len(group)), constant_values=-1) for group in groups]

    def build(group: np.ndarray) -> Batch:
        steps = -(-int(lengths[group[group >= 0]].max()) // config.steps_multiple) * config.steps_multiple
        return pad([tuple(chains[i][1:]) if i >= 0 else empty for i in group], steps)

    return plan, build


def train(config: Config, name: str, chains: Splits[Chain], folder: Path) -> tuple[Any, FitInfo]:
    """Trains one network: the best averaged parameters on validation, and what `fit` says."""
    network = make_network(config, name)
    plan, build = planned(config, seen_by(name, chains.train))
    valid_plan, valid_build = planned(config, seen_by(name, chains.valid))
    valid = [valid_build(group) for group in valid_plan(0)]
    per_epoch = len(plan(0))
    num_steps = per_epoch * config.num_epochs

    def loss_fn(params: Any, batch: Batch, *, key: jax.Array, step: jax.Array) -> Any:
        metrics = judge(network, params, batch, key)
        return mean_value(metrics["nll"]), metrics

    schedule = optax.cosine_decay_schedule(config.learning_rate, num_steps, alpha=0.01)
    tx = with_ema(optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(schedule)), config.averaging)
    evaluate = make_evaluate(partial(judge, network))
    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    input_size = len(RESIDUES) + valid[0].data[1].shape[-1]
    folder.mkdir(parents=True, exist_ok=True)
    with run_logger(folder) as log, open_checkpoints(folder) as checkpoints:
        best, info = fit(
            create_state(network.init(init_key, input_size), tx, train_key),
            make_train_step(loss_fn, tx),
            stream(plan, build),
            num_steps=num_steps,
            validation=Validation(
                lambda params: evaluate(params, valid),
                per_epoch,
                "q8",
                mode="max",
                params_of=lambda state: averaged_params(state.opt_state),
            ),
            log=log,
            checkpoints=checkpoints,
            max_seconds=config.max_seconds,
        )
    return jax.device_get(averaged_params(best.opt_state)), info


def predict(config: Config, name: str, params: Any, chains: Sequence[Chain]) -> list[np.ndarray]:
    """Probabilities [T, 8] for every chain."""
    network = make_network(config, name)
    plan, build = planned(config, chains)
    compiled = jax.jit(lambda params, batch: jax.nn.softmax(logits(network, params, batch)))
    found: list[Any] = [None] * len(chains)
    for group in plan(0):
        probabilities = np.asarray(compiled(params, build(group)))
        for column, chain in enumerate(group[group >= 0]):
            found[chain] = probabilities[: len(chains[chain].residues), column]
    return found


def answer(config: Config, params: Any, queries: Sequence[Chain], run_dir: Path) -> tuple[dict[str, Any], Any, Any]:
    """Predicts what the user asked about: metrics, figures and links."""
    found = predict(config, "sequence", params, queries)
    files = write_predictions(run_dir, queries, found, known=False)
    figure = probability_strip(found[0], queries[0].residues, None, f"What {queries[0].name} may look like")
    three = np.concatenate([three_states(probabilities) for probabilities in found])
    shares = {f"predicted_{state}": float((three == i).mean()) for i, state in enumerate(STATES3)}
    caption = f"{queries[0].name}, from its sequence alone"
    pictures = {caption: save(figure, run_dir / "figures" / "query.png")}
    return {"predicted_residues": len(three)} | shares, pictures, {path.name: path for path in files}


def restore(config: Config, run_dir: Path) -> Any:
    """The parameters of the network for single sequences that an earlier run has left."""
    init = make_network(config, "sequence").init
    like = jax.eval_shape(lambda key: init(key, len(RESIDUES)), jax.random.key(0))
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore((run_dir / "params" / "sequence").resolve(), like)


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains, judges and predicts; or only predicts."""
    queries = read_queries(config.data)
    if config.trained is not None:
        if not queries:
            raise ValueError("`trained` is for predictions: give `data.sequence` or `data.fasta` too")
        earlier = load_config(Config, config.trained)
        metrics, figures, links = answer(earlier, restore(earlier, config.trained), queries, run_dir)
        write_report(
            run_dir,
            title="Secondary structure of given sequences",
            intro=f"Predicted from the sequence alone, by the network of {config.trained}.",
            metrics_rows=[metrics],
            figures=figures,
            links=links,
        )
        return metrics
    if not {"profiles"} <= set(config.networks) <= {"profiles", "sequence", "one way"}:
        raise ValueError(f"`networks` must be profiles and of sequence and 'one way', got {config.networks}")
    if queries and "sequence" not in config.networks:
        raise ValueError("`data.sequence` and `data.fasta` need the network for sequences among `networks`")
    return train_and_judge(config, run_dir, queries)


def train_and_judge(config: Config, run_dir: Path, queries: Sequence[Chain]) -> dict[str, Any]:
    """Trains every network, and holds them against each other, the baselines and the truth."""
    chains = load(config.data)
    test = chains.test
    params, found, hits, infos = {}, {}, {}, {}
    for name in config.networks:
        params[name], infos[name] = train(config, name, chains, run_dir / ("" if name == "profiles" else name))
        found[name] = predict(config, name, params[name], seen_by(name, test))
        hits[name] = right(found[name], test)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((run_dir / "params" / name).resolve(), params[name])
    states = np.concatenate([chain.states for chain in test])
    rows = {
        "most frequent state": (
            float(np.bincount(states).max() / len(states)),
            float(np.bincount(THREE_OF_EIGHT[states]).max() / len(states)),
        )
    }
    for name in ("sequence", "profiles"):
        rows[f"ridge, {name}"] = ridge(seen_by(name, chains.train), seen_by(name, test), config.window)
    rows |= {f"{config.cell}, {name}": (pooled(eight), pooled(three)) for name, (eight, three) in hits.items()}
    alike = related(test, chains.train) > 0.3
    strangers = [row for row, one in zip(hits["profiles"][1], alike, strict=True) if not one]
    counts = confusion(found["profiles"], test)
    num_steps = config.num_epochs * -(-len(chains.train) // config.batch_size)
    metrics: dict[str, Any] = {
        "test_q8": 100 * pooled(hits["profiles"][0]),
        "test_q3": 100 * pooled(hits["profiles"][1]),
        "valid_q8": 100 * infos["profiles"].best_value,
        "ridge_q8": 100 * rows["ridge, profiles"][0],
        "ridge_q3": 100 * rows["ridge, profiles"][1],
        "ridge_sequence_q8": 100 * rows["ridge, sequence"][0],
        "ridge_sequence_q3": 100 * rows["ridge, sequence"][1],
        "test_chains": len(test),
        "related_test_chains": int(alike.sum()),
        "test_q3_of_unrelated": 100 * pooled(strangers) if strangers else 0.0,
    }
    metrics["q3_over_ridge"] = metrics["test_q3"] - metrics["ridge_q3"]
    for name, key in (("sequence", "profiles"), ("one way", "both_ways")):
        if name in hits:
            label = name.replace(" ", "_")
            metrics |= {f"{label}_q{n}": 100 * pooled(hits[name][i]) for i, n in enumerate((8, 3))}
            metrics[f"q3_gain_of_{key}"] = metrics["test_q3"] - metrics[f"{label}_q3"]
    recall = counts.diagonal() / np.maximum(counts.sum(1), 1)
    metrics |= {f"recall_{state}": float(100 * value) for state, value in zip(STATES, recall, strict=True)}
    shown = most_varied(test)
    title = f"{test[shown].name}: probabilities, and below the letters the truth"
    strip = probability_strip(found["profiles"][shown], test[shown].residues, test[shown].states, title)
    ends = {name: near_ends(three, 30) for name, (_, three) in hits.items()}
    curves = learning_curves(infos["profiles"].history, "q8", title="With profiles").figure
    figures = {
        "Right states of held-out chains": accuracy_bars(rows),
        "Confusion of the network with profiles": confusion_map(counts, STATES, title="Per cent of each state").figure,
        "Near the ends of chains": end_curves(ends),
        "A held-out chain": strip,
        "Learning curves: share of right states of eight": curves,
    }
    names = ("accuracy", "confusion", "ends", "strip", "learning_curves")
    pictures: dict[str, Path] = {
        caption: save(figure, run_dir / "figures" / f"{name}.png")
        for (caption, figure), name in zip(figures.items(), names, strict=True)
    }
    if queries:
        more, drawn, links = answer(config, params["sequence"], queries, run_dir)
        metrics, pictures = metrics | more, pictures | drawn
    else:
        files = write_predictions(run_dir, test[:3], found["profiles"][:3], known=True)
        links = {path.name: path for path in files}
    write_report(
        run_dir,
        title="The shape of proteins, residue by residue",
        intro=intro(config, chains, metrics),
        metrics_rows=[{"method": name, "Q8": 100 * q8, "Q3": 100 * q3} for name, (q8, q3) in rows.items()],
        figures=pictures,
        links=links,
        notes=[f"{name}: {describe_fit(info, num_steps)}" for name, info in infos.items()],
    )
    return metrics | {"parameters": tree.size(params["profiles"])}


def most_varied(chains: Sequence[Chain]) -> int:
    """Which chain to show: of those with at most 120 residues, the one with most of its rarest state of three."""
    shares = [np.bincount(THREE_OF_EIGHT[chain.states], minlength=3).min() / len(chain.states) for chain in chains]
    short = [len(chain.states) <= 120 for chain in chains]
    return max(range(len(chains)), key=lambda i: (short[i], shares[i]))


def intro(config: Config, chains: Splits[Chain], metrics: Mapping[str, Any]) -> str:
    """What was learnt from what, in two paragraphs."""
    sizes = ", ".join(f"{sum(len(chain.residues) for chain in part):,}" for part in chains)
    lengths = [len(chain.residues) for chain in chains.train]
    padding = padded_fraction(lengths, batches(lengths, config.batch_size, config.seed, 0))
    return (
        f"{', '.join(str(len(part)) for part in chains)} chains for training, validation and test, {sizes} residues. "
        f"Whole chains in batches of nearly equal lengths: {100 * padding:.1f} % of a batch is padding, before lengths "
        f"are rounded up to a multiple of {config.steps_multiple}. Percent of residues in the right state, of eight "
        "and of three (H, G, I are helix, E, B strand, the rest coil).\n\n"
        f"{metrics['related_test_chains']} of the {metrics['test_chains']} test chains share more than 30 % of their "
        f"runs of five residues with one training chain. Without them Q3 is {metrics['test_q3_of_unrelated']:.1f} "
        f"instead of {metrics['test_q3']:.1f}."
    )


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS, presets=PRESETS)
