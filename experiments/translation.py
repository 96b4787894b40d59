r"""How well does a small recurrent network with attention translate? (German to English, Multi30k)

A bidirectional GRU reads a German sentence as subwords, a GRU with attention writes the English one. Multi30k has
29,000 training pairs, descriptions of photographs (Elliott et al. 2016, arXiv:1605.00459).

Published with the same data: an attention GRU of 20.5 million parameters reaches BLEU 28.1 to 28.3 on the test set of
2016, on lower-cased tokens, with a teacher forcing ratio of 0.5 (bentrevett/pytorch-seq2seq); a small Transformer there
36.5. Here BLEU is sacrebleu's on lower-cased, detokenised text with its tokeniser 13a, so that anyone can compute it.

    pip install -e ".[text]"                           # subwords and BLEU
    python -m experiments.translation                  # 60 to 100 minutes on 2 cores
    python -m experiments.translation --teacher-forcing-ratio 0.5

Reached: 40.6 greedy, 42.4 with six beams, by 4.8 million parameters (one seed). What differs from the published model
besides size: subwords instead of words, label smoothing, one matrix for reading and writing target tokens, Luong's
attention, dropout 0.35, 20 epochs, forced throughout, and BLEU of detokenised text.

The exposure report scores the true translation while the model reads its own: a free-running model says the same in
other words and at other positions, which that loss counts as wrong. It shows how far one wrong word carries, not how
good translations are.

The best parameters are those with the best BLEU on the validation set, decoded greedily: validation runs freely. Words
that are rare are made of subwords, so nothing is unknown. Where Multi30k cannot be had, the example sentences of the
Debian package trans-de-en take its place (so does `--data ding`); then every metric has `ding_` before its name, and no
claim is made about it. Batches are split over all devices, and over processes with `--distributed`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from experiments._seq2seq import ForcingConfig, decode_all, greedy_decoder, padding_note, pair_exposure, pair_loss
from experiments.claims import at_least
from experiments.cli import main
from rnn_jax import tree
from rnn_jax.data.sentence_pairs import load_ding, load_multi30k, pair_batches, pair_stream
from rnn_jax.data.vocabulary import END, START, Subwords, decode_line, encode_line, save_subwords, train_subwords
from rnn_jax.decoding import Beams, beam_search
from rnn_jax.exposure import ExposureReport, exposure_rows
from rnn_jax.plotting import attention_map, exposure_curves, learning_curves, save
from rnn_jax.report import markdown_table, write_report
from rnn_jax.seq2seq import Seq2Seq, Seq2SeqParams, alignment, decoding_step, init_seq2seq, rnn_seq2seq
from rnn_jax.training import (
    FitInfo,
    Validation,
    create_state,
    data_mesh,
    describe_fit,
    fit,
    is_writer,
    local_rows,
    make_train_step,
    on_mesh,
    open_checkpoints,
    place_state,
    run_logger,
    to_host,
)

CLAIMS = (
    at_least("bleu_beam", 28.0, source="bentrevett/pytorch-seq2seq: 28.1 to 28.3", when={"data": "multi30k"}),
    at_least("beam_gain", 0.0, source="beam search is at least as good as greedy", when={"data": "multi30k"}),
)


@dataclass(frozen=True)
class Config(ForcingConfig):
    """The defaults are those of the committed result."""

    data: Literal["multi30k", "ding"] = "multi30k"
    vocabulary_size: int = 4000
    """Subwords of each language."""
    cell: str = "gru"
    """A name in rnn_jax.CELLS."""
    hidden_size: int = 512
    """Of the decoder; the encoder has half of it in each direction."""
    embedding_size: int = 256
    attention: Literal["none", "additive", "dot", "general", "local", "monotonic"] = "general"
    input_feeding: bool = False
    dropout: float = 0.35
    smoothing: float = 0.1
    batch_size: int = 64
    num_steps: int = 9000
    eval_every: int = 900
    max_seconds: float = 5400.0
    """Training stops there on a slow machine; the report says so."""
    learning_rate: float = 1e-3
    """After a short warm-up it falls to a fiftieth along a cosine."""
    clip: float = 1.0
    max_length: int = 60
    num_beams: int = 6
    length_penalty: float = 1.0
    sentences: int | None = None
    """How many pairs of each split are used; all if None."""
    seed: int = 0


SMOKE = Config(
    vocabulary_size=120,
    hidden_size=8,
    embedding_size=4,
    batch_size=4,
    num_steps=2,
    eval_every=1,
    max_length=6,
    num_beams=2,
    sentences=12,
)


class Text(NamedTuple):
    """A split as text, and as ids: sources, and targets with END."""

    german: list[str]
    english: list[str]
    sources: list[np.ndarray]
    targets: list[np.ndarray]


def load(config: Config) -> tuple[str, dict[str, Text], Subwords, Subwords]:
    """What was found, its splits, and the subwords of both languages, learned on the training split."""
    found, splits = config.data, None
    if config.data == "multi30k":
        try:
            splits = load_multi30k()
        except FileNotFoundError as missing:
            print(f"{missing}\nGoing on with the sentences of trans-de-en.", flush=True)
            found = "ding"
    splits = splits or load_ding()
    pairs = {name: list(split[: config.sentences]) for name, split in splits._asdict().items()}
    german, english = (
        train_subwords([pair[side] for pair in pairs["train"]], config.vocabulary_size) for side in (0, 1)
    )

    def one(split: list[tuple[str, str]]) -> Text:
        sources = [encode_line(german, source) for source, _ in split]
        targets = [np.append(encode_line(english, target), END) for _, target in split]
        return Text([pair[0] for pair in split], [pair[1].lower() for pair in split], sources, targets)

    return found, {name: one(split) for name, split in pairs.items()}, german, english


def bleu(hypotheses: list[str], references: list[str]) -> tuple[float, str]:
    """BLEU of sacrebleu on lower-cased text, and its signature."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(lowercase=True, tokenize="13a")
    return metric.corpus_score(hypotheses, [references]).score, str(metric.get_signature())


def beam_decoder(model: Seq2Seq, config: Config) -> Any:
    """`(params, source, lengths) -> Beams`, the best one only."""

    def decode(params: Seq2SeqParams, source: Any, lengths: Any) -> Beams:
        step, carry = decoding_step(model, params, jnp.asarray(source), jnp.asarray(lengths))
        start = jnp.full(source.shape[1], START, jnp.int32)
        return beam_search(
            step,
            carry,
            start=start,
            end=END,
            max_length=config.max_length,
            num_beams=config.num_beams,
            num_results=1,
            length_penalty=config.length_penalty,
        )

    return decode


def draw_attention(model: Seq2Seq, params: Any, text: Text, written: list[Any], words: Any, path: Path, n: int) -> Path:
    """What was attended to while sentence n was translated."""
    (batch,) = pair_batches([text.sources[n]], [[*written[n], END]], 1, 0, 0, multiple=1)
    weights = np.asarray(alignment(model, params, batch))[:, 0]
    german, english = (side.vocabulary.symbols for side in words)
    ax = attention_map(weights, [german[i] for i in text.sources[n]], [*(english[i] for i in written[n]), "</s>"])
    return save(ax.figure, path)


def draw(run_dir: Path, info: FitInfo, report: ExposureReport) -> dict[str, Path]:
    """The learning curve and the exposure report."""
    curves = learning_curves(info.history, "nll")
    ax = exposure_curves(
        report.rates,
        report.loss_by_position,
        counts=report.count_by_position,
        least=30,
        ylabel="nats per subword",
        title="The true translation under forcing of different degrees",
    )
    return {
        "Nats per subword in training (forced, with dropout)": save(curves.figure, run_dir / "figures" / "nll.png"),
        "Exposure report on the validation set": save(ax.figure, run_dir / "figures" / "exposure.png"),
    }


def write_translations(run_dir: Path, test: Text, said: dict[str, list[str]]) -> dict[str, Path]:
    """The whole test set, and samples side by side."""
    for name, text in said.items():
        (run_dir / f"test.{name}.en").write_text("\n".join(text) + "\n", encoding="utf-8")
    samples = [
        {"German": test.german[n], "greedy": said["greedy"][n], "beam": said["beam"][n], "reference": test.english[n]}
        for n in np.linspace(0, len(test.german) - 1, 8).astype(int)
    ]
    path = run_dir / "samples.md"
    path.write_text(f"# Translations\n\n{markdown_table(samples)}\n", encoding="utf-8")
    return {"Translations": path, "The whole test set, by beam search": run_dir / "test.beam.en"}


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains, then translates the test set greedily and by beam search."""
    found, texts, german, english = load(config)
    if is_writer():
        for name, words in (("german", german), ("english", english)):
            save_subwords(words, run_dir / f"{name}.json")
    model = rnn_seq2seq(
        len(german.vocabulary.symbols),
        len(english.vocabulary.symbols),
        cell=config.cell,
        hidden_size=config.hidden_size,
        embedding_size=config.embedding_size,
        attention=config.attention,
        input_feeding=config.input_feeding,
        dropout=config.dropout,
        tied=True,
    )
    warm_up = min(500, config.num_steps // 4)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warm_up, config.num_steps, 0.02 * config.learning_rate
    )
    tx = optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate))
    greedily = jax.jit(lambda p, s, n: greedy_decoder(model, config.max_length)(p, s, n).tokens)

    def translate(params: Any, text: Text, decode: Any) -> list[list[int]]:
        return decode_all(lambda source, lengths: decode(params, source, lengths), text.sources, 128, 8)

    def lines(outputs: list[list[int]]) -> list[str]:
        return [decode_line(english, output) for output in outputs]

    def validate(params: Any) -> dict[str, float]:
        outputs = translate(to_host(params), texts["valid"], greedily)
        return {"bleu": bleu(lines(outputs), texts["valid"].english)[0]}

    sources, targets = texts["train"].sources, texts["train"].targets
    padding = padding_note(sources, targets, config.batch_size, bucket=500)
    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    params = init_seq2seq(model, init_key)
    mesh = data_mesh(config.batch_size)
    step = make_train_step(pair_loss(model, config, config.num_steps, smoothing=config.smoothing), tx)
    own = partial(local_rows, mesh)
    with run_logger(run_dir) as log, open_checkpoints(run_dir) as checkpoints:
        best, info = fit(
            place_state(create_state(params, tx, train_key), mesh),
            on_mesh(step, mesh),
            pair_stream(sources, targets, config.batch_size, config.seed, bucket=500, rows=own),
            num_steps=config.num_steps,
            validation=Validation(validate, config.eval_every, "bleu", mode="max"),
            log=log,
            log_every=50,
            checkpoints=checkpoints,
            max_seconds=config.max_seconds,
        )
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((run_dir / "params").resolve(), best.params)

    best_params = jax.device_put(to_host(best.params), jax.local_devices()[0])
    test = texts["test"]
    beams = jax.jit(lambda p, s, n: beam_decoder(model, config)(p, s, n).tokens[..., 0])
    written = {
        "greedy": translate(best_params, test, greedily),
        "beam": translate(best_params, test, beams),
    }
    said = {name: lines(outputs) for name, outputs in written.items()}
    scores = {name: bleu(text, test.english) for name, text in said.items()}
    held_out = pair_batches(texts["valid"].sources, texts["valid"].targets, 128, 0, 0)
    report = pair_exposure(model, best_params, list(held_out))
    if is_writer():
        figures = draw(run_dir, info, report)
        if config.attention != "none":
            lengths = [len(source) for source in test.sources]
            for n in np.argsort(np.abs(np.array(lengths) - 12), kind="stable")[:2]:
                path = run_dir / "figures" / f"attention_{n}.png"
                drawn = draw_attention(model, best_params, test, written["greedy"], (german, english), path, int(n))
                figures[f'Attention while translating "{test.german[n]}"'] = drawn
        write_report(
            run_dir,
            title=f"German to English ({found})",
            intro=f"Test BLEU {scores['greedy'][0]:.2f} greedy, {scores['beam'][0]:.2f} with {config.num_beams} beams "
            f"({scores['beam'][1]}). {tree.size(params):,} parameters. Below: the validation set under forcing.",
            metrics_rows=exposure_rows(report),
            figures=figures,
            links=write_translations(run_dir, test, said),
            notes=[describe_fit(info, config.num_steps), padding],
        )
    metrics = {
        "bleu_greedy": scores["greedy"][0],
        "bleu_beam": scores["beam"][0],
        "beam_gain": scores["beam"][0] - scores["greedy"][0],
        "bleu_valid": info.best_value,
        "signature": scores["beam"][1],
        "nll_forced": float(report.loss[0]),
        "nll_free": float(report.loss[-1]),
        "best_step": info.best_step,
        "parameters": tree.size(params),
    }
    return {f"ding_{name}": value for name, value in metrics.items()} if found == "ding" else metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
