r"""How well can a recurrent network foresee the next character of a text?

An LSTM reads a long text as parallel streams; its carry goes on from window to window (truncated backpropagation
through time), and it is judged by bits per character on the last parts of the text, which it has not seen: 5 % valid,
5 % test. Then it writes.

    python -m experiments.char_lm                          # tinyshakespeare, at most 30 minutes on 2 cores
    python -m experiments.char_lm --preset king_james      # 4 times as much text, a quarter of the epochs
    python -m experiments.char_lm --data.source mine.txt   # any file in UTF-8
    python -m experiments.char_lm --trained RUN_DIR --writing.prompt "ROMEO:" --writing.temperature 0.5

Baselines on the same splits: how often each character occurs (unigram), the best n-gram model by valid (Kneser-Ney),
and the program xz. tinyshakespeare: 1,115,394 characters of plays, in the public domain. There is no published number
of an LSTM on these splits; a Transformer of 10.6 million parameters has 2.12 bits on the last 10 % (nanoGPT), where
this LSTM of 1.2 million has 2.08 (both chose their step there; on test, which chose nothing, it has 2.19).

Regularisation is that of AWD-LSTM (Merity et al. 2018): dropout between layers with one mask a window, on whole
embeddings, on entries of the recurrent kernel (weight drop), and penalties on outputs and their changes (AR, TAR).
`adapted` is the number under dynamic evaluation (Krause et al. 2018): the model goes on learning while it is judged,
and never sees a character before it has said how likely it is. Here that is worth 0.31 bits: the last parts are another
play, with names of its own.

The King James Bible, after five epochs (43 minutes of one core, one seed): test 1.71 bits, adapted 1.55, where 7-grams
have 1.71 too and xz 1.90.

    python -m experiments.char_lm --preset words     # words of the same text; tied embeddings, sampled softmax
    python -m experiments.char_lm --preset paper     # the 3 x 1,000 of AWD-LSTM on characters; not run here

With words, numbers are perplexities and "<unk>" is one of them: 63.7 on test after 8 minutes of one core (three seeds,
63.1 to 64.5), where 3-grams (Kneser-Ney) have 86.4.

It leaves in the run directory: report.md with learning curves, samples at three temperatures, and how surprising each
character of a passage was; the units that follow the place in a line and the like; the best parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

from experiments._character_units import find_units
from experiments._writing import Writing, live_writing, surprise, write_samples
from experiments.claims import at_least, at_most
from experiments.cli import main
from rnn_jax import make_cell, stack, tree, with_dropout
from rnn_jax.data import Text, kneser_ney_bits, load_text, stream, streams, unigram_bits, windows, xz_bits
from rnn_jax.language import LanguageModel, init_language, language_loss, window_nll
from rnn_jax.metrics import Mean, mean_value, merge
from rnn_jax.plotting import learning_curves, save, text_heat
from rnn_jax.report import write_report
from rnn_jax.token_heads import TokenHead, adaptive_head, softmax_head
from rnn_jax.training import (
    Validation,
    create_state,
    data_mesh,
    describe_fit,
    dynamic_evaluation,
    fit,
    gradient_rms,
    is_writer,
    make_tbptt_step,
    on_mesh,
    open_checkpoints,
    place_state,
    run_logger,
    to_host,
)

SHAKESPEARE = {"data.source": "tinyshakespeare", "data.unit": "characters"}
WORDS_OF_SHAKESPEARE = SHAKESPEARE | {"data.unit": "words"}
CLAIMS = (
    at_most("test_bits", 2.2, source="ours: an LSTM-256 has 2.29 after five minutes", when=SHAKESPEARE),
    at_most("adapted_bits", 1.92, source="Krause et al. 2018: adapting gains 0.1 to 0.2 bits", when=SHAKESPEARE),
    at_least("below_xz", 0.3, source="wide margin over xz", when=SHAKESPEARE),
    at_most("last_tenth_bits", 2.12, source="nanoGPT, a Transformer of 10.6 million parameters", when=SHAKESPEARE),
    at_most("test_perplexity", 70, source="3-grams (Kneser-Ney) have 86.4", when=WORDS_OF_SHAKESPEARE),
)

SHOWN = ("step", "train/nll", "valid/nll")


@dataclass(frozen=True)
class Data:
    """Which text."""

    source: str = "tinyshakespeare"
    """tinyshakespeare, king_james, or the path of a file in UTF-8."""
    unit: Literal["characters", "words"] = "characters"
    min_count: int = 1
    """Symbols that train has less often are "<unk>"."""


@dataclass(frozen=True)
class Regularisation:
    """That of AWD-LSTM; rates in [0, 1)."""

    embedding: float = 0.02
    """Whole symbols whose embedding is zero in a window."""
    input: float = 0.0
    """Features of the embeddings, one mask a window."""
    between: float = 0.3
    """Features that a layer hands to the next, one mask a window."""
    output: float = 0.4
    """Features that the last layer hands to the softmax, one mask a window."""
    weight_drop: float = 0.15
    """Entries of recurrent kernels, one mask a window."""
    activation: float = 0.0
    """AR: weight of the mean square of outputs."""
    difference: float = 0.0
    """TAR: weight of the mean square of their changes."""
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Config:
    """Defaults are for characters of a text of a megabyte."""

    data: Data = Data()
    regularisation: Regularisation = Regularisation()
    writing: Writing = field(default_factory=Writing)
    cell: str = "lstm"
    """A name in rnn_jax.CELLS."""
    hidden_size: int = 512
    num_layers: int = 1
    embedding_size: int = 64
    tied: bool = False
    """The kernel of the softmax is the embedding; the last layer is then as wide as that."""
    softmax: Literal["full", "sampled", "adaptive"] = "full"
    num_sampled: int = 1024
    cutoffs: tuple[int, ...] = (2000,)
    """Of the adaptive softmax: where clusters of rarer symbols begin."""
    batch_size: int = 32
    window: int = 100
    learning_rate: float = 4e-3
    """Of Adam; falls to a hundredth along a cosine."""
    clip: float = 1.0
    num_epochs: int = 20
    max_seconds: float = 1700.0
    """Training stops there on a slow machine; the report says so."""
    max_order: int = 7
    """Of the n-gram models that are tried on valid."""
    adapt_rates: tuple[float, ...] = (1e-4, 3e-4, 6e-4)
    """Learning rates of dynamic evaluation that are tried on valid; none: it is left out."""
    adapt_decay: float = 1e-3
    adapt_window: int = 20
    trained: Path | None = None
    """The directory of a finished run whose parameters are taken: nothing is trained. Sizes must be the same."""
    seed: int = 0


WORDS = Config(
    data=Data(unit="words", min_count=2),
    regularisation=Regularisation(
        embedding=0.1, input=0.4, output=0.4, weight_drop=0.5, activation=2.0, difference=1.0
    ),
    writing=Writing(length=150),
    hidden_size=256,
    embedding_size=256,
    tied=True,
    softmax="sampled",
    batch_size=20,
    window=35,
    num_epochs=20,
    max_order=3,
    adapt_rates=(),
)
KING_JAMES = Config(data=Data("king_james"), num_epochs=5)
PAPER = Config(
    regularisation=Regularisation(between=0.1, input=0.1, output=0.1, weight_drop=0.5, weight_decay=1.2e-6),
    hidden_size=1000,
    num_layers=3,
    embedding_size=128,
    batch_size=128,
    window=150,
    learning_rate=2e-3,
    clip=0.25,
    num_epochs=500,
    max_seconds=1e6,
)
PRESETS = {"words": WORDS, "king_james": KING_JAMES, "paper": PAPER}
SMOKE = Config(
    writing=Writing(length=20),
    hidden_size=8,
    embedding_size=4,
    batch_size=512,
    window=64,
    num_epochs=1,
    max_seconds=4.0,
    max_order=2,
    adapt_rates=(1e-4,),
    adapt_window=200,
)


def build(config: Config, vocab_size: int) -> LanguageModel:
    """The model of a configuration."""
    rates = config.regularisation
    widths = [config.hidden_size] * config.num_layers
    if config.tied:
        widths[-1] = config.embedding_size
    layers = [
        with_dropout(
            make_cell(config.cell, width),
            variational=rates.between if index else rates.input,
            weights=rates.weight_drop,
        )
        for index, width in enumerate(widths)
    ]
    return LanguageModel(
        stack(*layers),
        _head(config, vocab_size),
        vocab_size,
        config.embedding_size,
        tied=config.tied,
        embedding_dropout=rates.embedding,
        output_dropout=rates.output,
        activation=rates.activation,
        difference=rates.difference,
    )


def _head(config: Config, vocab_size: int) -> TokenHead:
    if config.softmax == "adaptive":
        return adaptive_head(vocab_size, config.cutoffs, capacity=0.6)
    return softmax_head(vocab_size, num_sampled=config.num_sampled if config.softmax == "sampled" else None)


def make_judge(model: LanguageModel) -> Callable[..., float]:
    """`judge(params, ids, num_streams=1)`: nats per symbol, the carry handed on from the first to the last."""
    step = jax.jit(partial(window_nll, model))

    def judge(params: Any, ids: np.ndarray, num_streams: int = 1) -> float:
        carry, total = model.cell.init_carry(params.rnn, (num_streams,)), Mean(0.0, 0.0)
        for window in windows(streams(ids[:-1], num_streams), streams(ids[1:], num_streams), k1=500):
            carry, pair = step(params, carry, window)
            total = merge(total, pair)
        return float(mean_value(total))

    return judge


def train(
    config: Config, model: LanguageModel, judge: Callable[..., float], text: Text, run_dir: Path
) -> tuple[Any, Any, str]:
    """The best parameters by valid, what `fit` says, and that in a sentence."""
    ids, (valid,) = text.splits.train[0], text.splits.valid
    batch = config.batch_size
    series = windows(streams(ids[:-1], batch), streams(ids[1:], batch), k1=config.window)
    num_steps = config.num_epochs * len(series)
    schedule = optax.cosine_decay_schedule(config.learning_rate, num_steps, alpha=0.01)
    tx = optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(schedule, weight_decay=config.regularisation.weight_decay),
    )
    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    params = init_language(model, init_key)
    mesh = data_mesh(batch)
    state = place_state(create_state(params, tx, train_key, carry=model.cell.init_carry(params.rnn, (batch,))), mesh)
    with run_logger(run_dir) as log, open_checkpoints(run_dir) as checkpoints:
        best, info = fit(
            state,
            on_mesh(make_tbptt_step(language_loss(model), tx), mesh),
            stream(lambda epoch: range(len(series)), series.__getitem__),
            num_steps=num_steps,
            validation=Validation(lambda p: {"nll": judge(to_host(p), valid, 8)}, len(series), "nll"),
            log=log,
            checkpoints=checkpoints,
            max_seconds=config.max_seconds,
        )
    return to_host(best.params), info, describe_fit(info, num_steps)


def adapt(config: Config, model: LanguageModel, params: Any, text: Text) -> dict[str, float]:
    """Nats on test under dynamic evaluation, and the learning rate that is best on valid."""
    judge = partial(window_nll, model)
    carry = model.cell.init_carry(params.rnn, (1,))

    def cut(ids: np.ndarray) -> Any:
        series = windows(streams(ids[:-1], 1), streams(ids[1:], 1), k1=config.adapt_window)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *series)

    train, valid, test = (ids for (ids,) in text.splits)
    rms = jax.jit(partial(gradient_rms, judge))(params, carry, cut(train[: len(valid)]))

    @jax.jit
    def nats(windows: Any, rate: float) -> jax.Array:
        pair, _ = dynamic_evaluation(
            judge, params, carry, windows, learning_rate=rate, decay=config.adapt_decay, rms=rms
        )
        return mean_value(pair)

    tuning = cut(valid)
    rate = min(config.adapt_rates, key=lambda rate: float(nats(tuning, rate)))
    return {"nats": float(nats(cut(test), rate)), "rate": rate}


def baselines(text: Text, config: Config) -> dict[str, float]:
    """Bits per symbol of test for models without a network; the order of n-grams is chosen on valid."""
    size = len(text.vocabulary.symbols)
    train, valid, test = (ids for (ids,) in text.splits)
    order = min(range(2, config.max_order + 1), key=lambda n: kneser_ney_bits(train, valid, n, size))
    both = np.concatenate([train, valid])
    found = {"unigram": unigram_bits(train, test, size), f"{order}-gram": kneser_ney_bits(both, test, order, size)}
    if text.unit == "characters":
        found["xz"] = xz_bits(text.raw.train[0] + text.raw.valid[0], text.raw.test[0])
    return found


def report(config: Config, run_dir: Path, model: LanguageModel, params: Any, text: Text, found: dict[str, Any]) -> None:
    """Samples, pictures and the table of numbers."""
    unit = "bits" if text.unit == "characters" else "perplexity"
    temperatures = (0.5, config.writing.temperature, 1.0)
    samples = write_samples(model, params, text, config.writing, temperatures, config.seed)
    files = {}
    for temperature, written in zip(temperatures, samples, strict=True):
        path = run_dir / f"temperature_{temperature}.txt"
        path.write_text(written, encoding="utf-8")
        files[f"Written at temperature {temperature}"] = path
    symbols, bits = surprise(model, params, text, *((2000, 900) if text.unit == "characters" else (500, 180)))
    spaced = symbols if text.unit == "characters" else [s if s == "\n" else f"{s} " for s in symbols]
    heat = text_heat(spaced, np.minimum(bits, 12), label="bits, at most 12", title="How surprising each symbol was")
    figures = {"Test text, and what it was worth to the model": save(heat.figure, run_dir / "figures" / "surprise.png")}
    intro = f"Lower is better. At temperature {temperatures[1]} it writes:\n\n```text\n{samples[1].strip()}\n```"
    if "units" in found:
        figures |= found["units"].figures(run_dir / "figures")
        intro += f"\n\n{found['units'].table()}"
    if found["history"]:
        rows = [
            {name: value if name == "step" else value / np.log(2) for name, value in row.items() if name in SHOWN}
            for row in found["history"]
        ]
        lines = {name: value for name, value in found["bits"].items() if name not in ("unigram", "network", "adapted")}
        curves = learning_curves(rows, "nll", baselines={f"{name}, test": value for name, value in lines.items()})
        curves.set_ylabel("bits per symbol")
        figures["Learning curves"] = save(curves.figure, run_dir / "figures" / "learning_curves.png")
    write_report(
        run_dir,
        title=f"A language model of {text.unit} ({config.data.source})",
        intro=intro,
        metrics_rows=[{"on test": name, unit: score(text, value)} for name, value in found["bits"].items()],
        figures=figures,
        links=files,
        notes=found["notes"],
    )


def score(text: Text, bits: float) -> float:
    """Bits of characters, perplexities of words."""
    return bits if text.unit == "characters" else 2.0**bits


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains, judges and writes."""
    text = load_text(config.data.source, unit=config.data.unit, min_count=config.data.min_count)
    model = build(config, len(text.vocabulary.symbols))
    judge = make_judge(model)
    if config.trained is None:
        params, info, note = train(config, model, judge, text, run_dir)
        found: dict[str, Any] = {"history": info.history, "notes": [note]}
    else:
        like = jax.eval_shape(partial(init_language, model), jax.random.key(0))
        with ocp.StandardCheckpointer() as checkpointer:
            params = checkpointer.restore((config.trained / "params").resolve(), like)
        found = {"history": (), "notes": [f"Trained before: {config.trained}"]}
    live_writing(model, params, text, config.writing, config.seed)
    if is_writer():
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((run_dir / "params").resolve(), params)
    held_out = (text.splits.valid[0], text.splits.test[0])
    valid, test = (judge(params, ids) / np.log(2) for ids in held_out)
    bits = baselines(text, config) | {"network": test}
    metrics: dict[str, Any] = {}
    if config.adapt_rates:
        adapted = adapt(config, model, params, text)
        bits["adapted"] = adapted["nats"] / np.log(2)
        metrics["adapt_rate"] = adapted["rate"]
    found["bits"] = bits
    if text.unit == "characters":
        found["units"] = find_units(model, params, text, config.seed)
        metrics |= found["units"].metrics()
    if is_writer():
        report(config, run_dir, model, params, text, found)
    name = "bits" if text.unit == "characters" else "perplexity"
    metrics |= {f"test_{name}": score(text, test), f"valid_{name}": score(text, valid)}
    metrics |= {f"{which}_{name}": score(text, value) for which, value in bits.items() if which != "network"}
    last_tenth = float(np.average([valid, test], weights=[len(ids) for ids in held_out]))
    metrics |= {"parameters": tree.size(params), f"last_tenth_{name}": score(text, last_tenth)}
    if "xz" in bits:
        metrics["below_xz"] = bits["xz"] - test
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS, presets=PRESETS)
