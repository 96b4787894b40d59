r"""Which recurrent cells find the rule of a language, so that it holds for words far longer than those of training?

Three regular languages (a finite memory is enough) and two that need a counter, after Deletang et al. 2023 (Neural
networks and the Chomsky hierarchy, arXiv:2207.02098):

    parity       the number of ones is even             dyck_1     brackets balance
    even_pairs   the first letter is the last one       a_n_b_n    n letters a, then n letters b
    sum_mod_5    the sum of digits 0, 1, 2 modulo 5

Words of training have 40 letters (100 where one counts), and every prefix of them has its label, the empty one too;
test words have up to 500, and the label of the whole word counts. Of counter languages half of the test words are in
the language; the others miss it by one bracket, or by one to three letters. What is known:

- Tanh networks and LSTMs learn regular languages for all lengths (Deletang et al.: the best of their seeds); whether a
  seed does is luck, so the best one and the share of those that generalise are told.
- Cells whose state is a linear function of the one before with factors in [0, 1], such as min_gru, cannot even tell
  even from odd (Merrill, Petty & Sabharwal 2024, arXiv:2404.08819; Grazzi et al. 2024, arXiv:2411.12537), and neither
  can the LRU, whose factors do not depend on the input; min_gru can learn which letter was the first, since that takes
  a memory that is set once (star-free languages: Sarrof, Veitsman & Hahn 2024, arXiv:2405.17394).
- LSTMs count in their unbounded c, GRUs and tanh networks cannot (Weiss, Goldberg & Yahav 2018, arXiv:1805.04908).
  The LSTM here counts further than all others, but not for ever: what it adds and takes away differs by a little.

Then the automaton of the best GRU of each regular language is extracted by asking it about words (Weiss, Goldberg &
Yahav 2018, arXiv:1711.09576), compared with the network and the language on words of 500 letters, and proved to be that
of the language, by all words that are long enough to tell two automata of this size apart.

    python -m experiments.formal_languages                 # five minutes on two cores
    python -m experiments.formal_languages --cells gru m_lstm --regular-length 20

Linear cells have two blocks of cell, dense layer and ReLU, the others one. It leaves in the run directory: accuracy by
length for each cell and language, the automata, and report.md.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments._languages import LANGUAGES, draw_automaton, is_exact
from experiments._many import fit_many, grid
from experiments.claims import at_least, at_most, within
from experiments.cli import main
from rnn_jax import dense, make_cell, unroll
from rnn_jax.analysis import Automaton, extract_automaton
from rnn_jax.losses import token_nll
from rnn_jax.metrics import mean_value, tally
from rnn_jax.plotting import FAINT, PALETTE, finish, save
from rnn_jax.products import affine
from rnn_jax.report import write_report
from rnn_jax.training import create_states, is_writer, make_train_steps, run_logger
from rnn_jax.types import LinearCell

START, NUM_LETTERS, NUM_CLASSES = 3, 4, 5
"""The letter before every word, the letters with it, and the classes of the language that has most."""
CELLS = ("elman", "gru", "lstm", "min_gru", "lru")
TITLES = {
    "parity": "even number of ones",
    "even_pairs": "first letter = last",
    "sum_mod_5": "sum modulo 5",
    "dyck_1": "balanced brackets",
    "a_n_b_n": r"$\mathbf{a^n b^n}$",
}
GENERALISES = 0.9
"""The accuracy from which on a language counts as solved (Deletang et al. 2023)."""

_DELETANG = "Deletang et al. 2023: RNNs and LSTMs solve regular languages"
_LINEAR = "Merrill et al. 2024, Grazzi et al. 2024: guessing gives 0.5"
_COUNTERS = "Weiss, Goldberg & Yahav 2018: LSTMs count, GRUs and tanh networks do not"
_ALL = {"cells": list(CELLS), "extracted": "gru", "regular_length": 40, "counting_length": 100}
CLAIMS = (
    *(at_least(f"parity_{cell}_best", 0.99, source=_DELETANG, when=_ALL) for cell in ("elman", "gru", "lstm")),
    *(at_least(f"even_pairs_{cell}_best", 0.99, source=_DELETANG, when=_ALL) for cell in ("elman", "gru", "lstm")),
    *(at_least(f"sum_mod_5_{cell}_best", 0.99, source=_DELETANG, when=_ALL) for cell in ("gru", "lstm")),
    *(at_most(f"parity_{cell}_best", 0.6, source=_LINEAR, when=_ALL) for cell in ("min_gru", "lru")),
    at_least("even_pairs_min_gru_best", 0.99, source="Sarrof et al. 2024: star-free languages", when=_ALL),
    at_least("dyck_1_lstm_best", 0.95, source=_COUNTERS, when=_ALL),
    at_least("dyck_1_lstm_generalise", 0.75, source=_COUNTERS, when=_ALL),
    *(at_most(f"dyck_1_{cell}_generalise", 0.25, source=_COUNTERS, when=_ALL) for cell in ("elman", "gru")),
    at_least("a_n_b_n_lstm_reach", 140, source=_COUNTERS, when=_ALL),
    at_most("a_n_b_n_gru_reach", 120, source=_COUNTERS, when=_ALL),
    *(
        within(f"{name}_automaton_exact", 1, 0, source="Weiss et al. 2018 (extracting automata)", when=_ALL)
        for name in ("parity", "even_pairs", "sum_mod_5")
    ),
)


@dataclass(frozen=True)
class Config:
    """All languages of one length and all seeds train side by side, one program for each cell and length."""

    cells: tuple[str, ...] = CELLS
    """Names in rnn_jax.CELLS."""
    regular_length: int = 40
    """Letters of training words of regular languages; every prefix of them has its label."""
    counting_length: int = 100
    """Letters of training words of counter languages: an even number."""
    test_lengths: tuple[int, ...] = (20, 40, 60, 80, 100, 110, 120, 140, 160, 200, 250, 300, 400, 500)
    """Even numbers."""
    hidden_size: int = 24
    batch_size: int = 32
    num_steps: int = 2000
    learning_rate: float = 1e-2
    """Falls to a hundredth along a cosine."""
    train_words: int = 20_000
    """Of each language; a batch is drawn from these."""
    test_words: int = 64
    """Of each language and length."""
    extracted: str = "gru"
    """The cell whose automata are extracted, one of `cells`."""
    seeds: int = 4
    seed: int = 0


SMOKE = Config(
    cells=("elman",),
    regular_length=6,
    counting_length=6,
    test_lengths=(4, 8),
    hidden_size=4,
    batch_size=4,
    num_steps=3,
    train_words=40,
    test_words=8,
    extracted="elman",
    seeds=1,
)


class Network(NamedTuple):
    """Blocks of a cell, a dense layer and a ReLU, and classes on top."""

    init: Callable[[jax.Array], Any]
    classes: Callable[[Any, jax.Array], jax.Array]  # (params, letters [T, B]) -> logits [T, B, C], one for each prefix


def build(name: str, hidden_size: int) -> Network:
    """One block; two where the cell is linear, since one could not even see which letter is the first."""
    cell, layer, top = make_cell(name, hidden_size), dense(hidden_size), dense(NUM_CLASSES)
    blocks = 2 if isinstance(cell, LinearCell) else 1

    def init(key: jax.Array) -> Any:
        params, size = [], NUM_LETTERS
        for one in jax.random.split(key, blocks):
            keys = jax.random.split(one)
            params.append((cell.init(keys[0], size), layer.init(keys[1], hidden_size)))
            size = hidden_size
        return tuple(params), top.init(jax.random.fold_in(key, blocks), hidden_size)

    def classes(params: Any, letters: jax.Array) -> jax.Array:
        xs = jax.nn.one_hot(letters, NUM_LETTERS)
        for cell_params, layer_params in params[0]:
            xs = jax.nn.relu(affine(unroll(cell, cell_params, xs)[1], layer_params.w, layer_params.b))
        return affine(xs, params[1].w, params[1].b)

    return Network(init, classes)


class Words(NamedTuple):
    """Words of several languages, each after the letter START."""

    letters: np.ndarray  # [languages, N, L + 1] int8
    labels: np.ndarray  # [languages, N, L + 1] int8, of every prefix


def words_to_learn(names: Sequence[str], count: int, length: int, seed: int) -> Words:
    """Words of one length."""
    words = [LANGUAGES[name].train(np.random.default_rng(seed), count, length) for name in names]
    labels = [LANGUAGES[name].label(own) for name, own in zip(names, words, strict=True)]
    started = np.pad(np.stack(words), ((0, 0), (0, 0), (1, 0)), constant_values=START)
    return Words(started.astype(np.int8), np.stack(labels).astype(np.int8))


def words_of_lengths(names: Sequence[str], count: int, lengths: Sequence[int], seed: int) -> Words:
    """Words of all lengths, length by length, filled up with START behind their ends; labels too, with zeros."""
    shape = (len(names), len(lengths) * count, max(lengths) + 1)
    letters, labels = np.full(shape, START, np.int8), np.zeros(shape, np.int8)
    for i, name in enumerate(names):
        rng = np.random.default_rng([seed, i])
        for j, length in enumerate(lengths):
            rows, words = slice(j * count, (j + 1) * count), LANGUAGES[name].test(rng, count, length)
            letters[i, rows, 1 : length + 1], labels[i, rows, : length + 1] = words, LANGUAGES[name].label(words)
    return Words(letters, labels)


def train(config: Config, network: Network, names: Sequence[str], length: int, folder: Path) -> Any:
    """Parameters of all languages and seeds, [languages x seeds, ...]."""
    words = words_to_learn(names, config.train_words, length, config.seed)
    letters, labels = jnp.asarray(words.letters), jnp.asarray(words.labels)

    def loss_fn(params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        which, _ = batch
        ids = jax.random.randint(key, (config.batch_size,), 0, config.train_words)
        logits = network.classes(params, letters[which, ids].T)
        losses = token_nll(logits, labels[which, ids].T.astype(jnp.int32))
        pair = tally(losses, jnp.ones_like(losses))
        return mean_value(pair), {"nll": pair}

    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha=0.01)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    settings = grid(config.seeds, which=range(len(names)))
    keys = jax.vmap(jax.random.key)(settings["seed"].astype(np.uint32) + config.seed)
    states = jax.jit(partial(create_states, network.init, tx))(keys)
    steps = make_train_steps(loss_fn, tx)
    states, _ = fit_many(folder, states, steps, jnp.asarray(settings["which"]), itertools.repeat(()), config.num_steps)
    return jax.tree.map(np.asarray, states.params)


def judge(config: Config, network: Network, params: Any, names: Sequence[str]) -> np.ndarray:
    """The share of test words whose last prefix gets the right class, [languages, seeds, lengths]."""
    words = words_of_lengths(names, config.test_words, config.test_lengths, config.seed + 1)
    ends = np.repeat(config.test_lengths, config.test_words)
    rows = np.arange(len(ends))
    letters, labels = jnp.asarray(words.letters), jnp.asarray(words.labels[:, rows, ends])

    def one(given: tuple[Any, jax.Array]) -> jax.Array:
        own, which = given
        found = last_classes(network, own, letters[which].T, ends)
        return (found == labels[which]).reshape(-1, config.test_words).mean(1)

    which = jnp.repeat(jnp.arange(len(names)), config.seeds)
    accuracy = jax.jit(lambda params: jax.lax.map(one, (params, which)))(params)
    return np.asarray(accuracy, float).reshape(len(names), config.seeds, -1)


@partial(jax.jit, static_argnums=0)
def last_classes(network: Network, params: Any, letters: jax.Array, ends: jax.Array) -> jax.Array:
    """The class of each word in letters [T, N] that ends at `ends` [N]."""
    return network.classes(params, letters)[ends, jnp.arange(len(ends))].argmax(-1)


def asked(network: Network, params: Any) -> Callable[[Sequence[tuple[int, ...]]], np.ndarray]:
    """A function that says which words a network holds to be in its language, [N] bool."""

    def accepts(words: Sequence[tuple[int, ...]]) -> np.ndarray:
        ends = np.zeros(-(-len(words) // 512) * 512, np.int32)
        ends[: len(words)] = [len(word) for word in words]
        letters = np.full((64 * (1 + int(ends.max()) // 64), len(ends)), START, np.int8)  # few shapes, few programs
        for row, word in enumerate(words):
            letters[1 : len(word) + 1, row] = word
        return np.asarray(last_classes(network, params, letters, ends))[: len(words)] == 0

    return accepts


class Extraction(NamedTuple):
    """An automaton out of a network."""

    automaton: Automaton
    metrics: dict[str, Any]


def extract(config: Config, network: Network, params: Any, name: str) -> Extraction:
    """The automaton of a network; on long words it must say what the network and the language say."""
    language, accepts = LANGUAGES[name], asked(network, params)
    automaton, report = extract_automaton(
        accepts, len(language.letters), max_length=config.regular_length, max_states=12, seed=config.seed
    )
    words = language.test(np.random.default_rng([config.seed, 7]), 512, max(config.test_lengths))
    found = automaton.accepts(list(map(tuple, words.tolist())))
    metrics = {
        f"{name}_automaton_states": len(automaton.accepting),
        f"{name}_automaton_is_network": float((found == accepts(list(map(tuple, words.tolist())))).mean()),
        f"{name}_automaton_is_language": float((found == (language.label(words)[:, -1] == 0)).mean()),
        f"{name}_automaton_exact": int(is_exact(automaton, language)),
        f"{name}_automaton_questions": report.words,
    }
    return Extraction(automaton, metrics)


def scores(config: Config, accuracy: np.ndarray, length: int) -> dict[str, Any]:
    """What is told of one cell and language from accuracies [seeds, lengths] after training words of one length."""
    lengths = np.array(config.test_lengths)
    beyond = accuracy[:, lengths > length].mean(1)
    good = np.minimum.accumulate(accuracy, axis=1) >= GENERALISES
    found: dict[str, Any] = {
        "best": float(beyond.max()),
        "generalise": float((beyond >= GENERALISES).mean()),
        "reach": int(np.where(good, lengths, 0).max()),
    }
    return found | ({"seeds": beyond.tolist()} if len(beyond) > 1 else {})


def draw_accuracy(config: Config, accuracy: dict[str, dict[str, np.ndarray]], lengths: dict[str, int]) -> Figure:
    """A row for each cell and a column for each language: every seed thin, the best one thick, training shaded."""
    size = (1.0 + 2.1 * len(accuracy), 0.9 + 1.25 * len(config.cells))
    figure = Figure(figsize=size, layout="constrained", facecolor="#FFFFFF")
    axes = figure.subplots(len(config.cells), len(accuracy), sharex=True, sharey=True, squeeze=False)
    for (row, cell), (column, name) in itertools.product(enumerate(config.cells), enumerate(accuracy)):
        ax, rows, colour = axes[row, column], accuracy[name][cell], PALETTE[(3, 0, 2, 1, 4, 5)[row % 6]]
        ax.axvspan(0, lengths[name], color=FAINT, alpha=0.7, lw=0, zorder=0)
        ax.plot(config.test_lengths, rows.T, color=colour, lw=0.8, alpha=0.4, zorder=2)
        ax.plot(config.test_lengths, rows[rows.mean(1).argmax()], color=colour, lw=2.2, zorder=3)
        ax.axhline(GENERALISES, color=PALETTE[5], lw=0.7, ls=(0, (4, 3)), zorder=1)
        ax.set(xlim=(0, max(config.test_lengths)), ylim=(0, 1.06), yticks=(0, 0.5, 1))
        finish(ax, "" if row else TITLES[name])
        if not column:
            ax.set_ylabel(cell, fontweight="bold", color=colour)
    figure.supxlabel("letters of a word; those of training are shaded", fontsize=9.5)
    figure.supylabel("share of test words with the right class", fontsize=9.5)
    return figure


def draw_automata(found: dict[str, Extraction]) -> Figure:
    """The automata side by side."""
    figure = Figure(figsize=(3.6 * len(found), 3.9), layout="constrained")
    for ax, (name, one) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        draw_automaton(one.automaton, LANGUAGES[name].letters, ax, TITLES[name])
    return figure


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains and judges every cell on both kinds of languages, and extracts automata of the regular ones."""
    if config.extracted not in config.cells:
        raise ValueError(f"`extracted` must be one of `cells`, {config.cells}, got {config.extracted!r}")
    lengths = {
        name: config.regular_length if one.num_states else config.counting_length for name, one in LANGUAGES.items()
    }
    groups = {length: [name for name in lengths if lengths[name] == length] for length in lengths.values()}
    accuracy: dict[str, dict[str, np.ndarray]] = {name: {} for name in LANGUAGES}
    metrics: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    automata: dict[str, Extraction] = {}
    with run_logger(run_dir) as log:
        for number, (cell, (length, names)) in enumerate(itertools.product(config.cells, groups.items())):
            network = build(cell, config.hidden_size)
            params = train(config, network, names, length, run_dir / f"{cell}_{length}")
            judged = judge(config, network, params, names)
            for place, name in enumerate(names):
                accuracy[name][cell] = judged[place]
                told = scores(config, judged[place], length)
                metrics |= {f"{name}_{cell}_{key}": value for key, value in told.items()}
                shown = {key: value for key, value in told.items() if key != "seeds"}
                rows.append({"language": name, "cell": cell} | shown)
                log({"step": number} | {f"{name}/{cell}/{key}": value for key, value in shown.items()})
                if LANGUAGES[name].num_states and cell == config.extracted:
                    best = place * config.seeds + int(judged[place].mean(1).argmax())
                    own = jax.tree.map(lambda leaf, best=best: leaf[best], params)
                    automata[name] = extract(config, network, own, name)
    for one in automata.values():
        metrics |= one.metrics
    if is_writer():
        folder = run_dir / "figures"
        write_report(
            run_dir,
            title="Formal languages: which cells generalise to longer words",
            intro="best: mean accuracy over all test lengths beyond those of training, of the best seed; generalise: "
            f"the share of seeds with {GENERALISES} or more; reach: the longest words up to which some seed has that.",
            metrics_rows=sorted(rows, key=lambda row: (list(LANGUAGES).index(row["language"]), -row["best"])),
            figures={
                "Accuracy by length; a line for each seed, the best one thick; solved above the dashes": save(
                    draw_accuracy(config, accuracy, lengths), folder / "accuracy.png"
                ),
                f"Automata that were extracted from the best {config.extracted} network of each language": save(
                    draw_automata(automata), folder / "automata.png"
                ),
            },
            links={},
        )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
