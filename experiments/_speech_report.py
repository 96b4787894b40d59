"""What came of `experiments.speech`: its numbers, and a page with pictures and a sound."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._listening import listen, make_pool
from experiments._recognizer import Recognizer, Scores, logits_of
from experiments._speech_pictures import alignment_picture, length_picture
from experiments._spoken_strings import Data
from rnn_jax.ctc import ctc_align
from rnn_jax.data import SPOKEN_DIGITS_RATE, DigitString
from rnn_jax.decoding import ctc_beam_search
from rnn_jax.features import Mel, log_mel
from rnn_jax.plotting import learning_curves, save
from rnn_jax.report import write_report
from rnn_jax.streaming import StreamPool
from rnn_jax.training import FitInfo

__all__ = ["Ears", "Results", "open_ears", "recognize", "report", "summary"]

TITLES = {"both": "both directions", "forward": "forward only"}
"""What the kinds of networks are called."""


class Results(NamedTuple):
    """What came of all networks. Those of the first seed have the name of their kind, others begin with it."""

    infos: dict[str, FitInfo]
    scores: dict[str, dict[int, Scores]]  # of networks that know all speakers, by the number of digits
    left_out: dict[str, Scores]  # by speaker
    test: dict[int, list[DigitString]]


class Ears(NamedTuple):
    """Trained networks that listen, by kind; "forward" also while sound arrives, through the pool."""

    models: dict[str, Recognizer]
    params: dict[str, Any]
    pool: StreamPool | None
    mel: Mel
    num_beams: int


def open_ears(models: dict[str, Recognizer], params: dict[str, Any], mel: Mel, num_beams: int) -> Ears:
    """Networks that listen; where one walks forward, with a pool."""
    pool = None
    if "forward" in models:
        pool = make_pool(models["forward"].cell, params["forward"], models["forward"].per_step)
    return Ears(models, params, pool, mel, num_beams)


def rate(scores: list[Scores], name: str) -> float:
    """Edits by digits, of several sets of strings together."""
    edits, digits = (sum(int(getattr(one, field).sum()) for one in scores) for field in (name, "counts"))
    return edits / digits


def _kinds(results: Results) -> list[str]:
    return [kind for kind in TITLES if kind in results.scores]


def _of_kind(results: Results, kind: str) -> list[dict[int, Scores]]:
    return [scores for name, scores in results.scores.items() if name.startswith(kind)]


def summary(data: Data, results: Results) -> dict[str, Any]:
    """The numbers of a run; error rates are greedy, and means over seeds, if nothing else is said."""
    first, last = data.test_digits
    found: dict[str, Any] = {}
    for kind in _kinds(results):
        prefix, of_seeds = f"{kind}_", _of_kind(results, kind)
        claimed = [[scores[length] for length in range(first, last + 1)] for scores in of_seeds]
        for label, sets in (("", claimed), ("single_", [[scores[1]] for scores in of_seeds])):
            rates = [rate(one, "greedy") for one in sets]
            found |= {
                f"{prefix}{label}error_rate": float(np.mean(rates)),
                f"{prefix}{label}error_rate_worst": max(rates),
            }
        found[f"{prefix}beam_error_rate"] = float(np.mean([rate(one, "beam") for one in claimed]))
        found[f"{prefix}error_rates"] = " ".join(f"{rate(one, 'greedy'):.4f}" for one in claimed)
        found[f"{prefix}longest_error_rate"] = float(
            np.mean([rate([scores[data.longest]], "greedy") for scores in of_seeds])
        )
    everything = [one for scores in results.scores.values() for one in scores.values()]
    if results.left_out:
        alone = list(results.left_out.values())
        found["left_out_error_rate"] = rate(alone, "greedy")
        found["left_out_beam_error_rate"] = rate(alone, "beam")
        found["left_out_error_rates"] = " ".join(
            f"{name} {rate([one], 'greedy'):.3f}" for name, one in results.left_out.items()
        )
        everything += alone
    found["beam_minus_greedy"] = rate(everything, "beam") - rate(everything, "greedy")
    found["blank_share"] = min(float(one.blanks.sum() / one.steps.sum()) for one in everything)
    return found


def recognize(ears: Ears, sound: np.ndarray, picture: Path, string: DigitString | None = None) -> dict[str, str]:
    """What is heard in a sound, once at once and once while it arrives; with a picture.

    Args:
        ears: who listens.
        sound: [N] at 8 kHz.
        picture: where the picture goes; its name begins those of the results.
        string: the truth, where it is known.

    Returns:
        The digits as text.
    """
    first, name = next(iter(ears.models)), picture.stem
    step = ears.models[first].per_step
    sound = sound[: len(sound) // step * step]
    logits = {kind: logits_of(model)(ears.params[kind], sound[:, None])[:, 0] for kind, model in ears.models.items()}
    beams = ctc_beam_search(logits[first], num_beams=ears.num_beams, num_results=1)
    heard = [int(token) - 1 for token in beams.tokens[: beams.lengths[0], 0]]
    said = heard if string is None else string.digits.tolist()
    places = ctc_align(logits[first], jnp.array(said, jnp.int32) + 1).places
    figure = alignment_picture(
        np.asarray(log_mel(jnp.asarray(sound), ears.mel)),
        ears.mel,
        {TITLES[kind].capitalize(): np.asarray(jax.nn.softmax(values)) for kind, values in logits.items()},
        said,
        np.asarray(places),
        None if string is None else string.spans / SPOKEN_DIGITS_RATE,
    )
    texts = {f"{name}_heard": _text(heard)}
    if ears.pool is not None:
        texts[f"{name}_streamed"] = _text(listen(ears.pool, sound, step, rate=SPOKEN_DIGITS_RATE).digits)
    if string is not None:
        texts[f"{name}_said"] = _text(string.digits)
    save(figure, picture)
    return texts


def _text(digits: Any) -> str:
    return " ".join(str(int(digit)) for digit in digits) or "nothing"


def report(
    run_dir: Path,
    data: Data,
    results: Results,
    metrics: dict[str, Any],
    *,
    figures: dict[str, Path],
    links: dict[str, Path],
    notes: Sequence[str],
) -> None:
    """Writes report.md.

    Args:
        run_dir: of the run.
        data: what was heard.
        results: of all networks.
        metrics: from `summary`.
        figures: pictures by caption, before those made here.
        links: files by text.
        notes: sentences to stand out.
    """
    errors = {
        title: {
            length: [rate([of_length], "greedy") for of_length in column]
            for length, column in ((n, [scores[n] for scores in _of_kind(results, kind)]) for n in results.test)
        }
        for kind, title in TITLES.items()
        if kind in results.scores
    }
    lengths = length_picture(errors, data.most_digits).figure
    learning = learning_curves(next(iter(results.infos.values())).history, "nll").figure
    pictures = {
        "Errors over the number of digits": save(lengths, run_dir / "figures" / "lengths.png"),
        "Learning curves of the first network, nats per digit": save(learning, run_dir / "figures" / "learning.png"),
    }
    first, last = data.test_digits
    rows = [
        {
            "strings": f"{first} to {last} digits" if not label else "single digits",
            "network": TITLES[kind],
            "errors, %": 100 * metrics[f"{kind}_{label}error_rate"],
            "of the worst seed": 100 * metrics[f"{kind}_{label}error_rate_worst"],
        }
        for label in ("", "single_")
        for kind in _kinds(results)
    ]
    middle = sum(data.test_digits) // 2
    for name, one in results.left_out.items():
        errors_of_one = 100 * rate([one], "greedy")
        rows.append(
            {
                "strings": f"{middle} digits, all takes of {name}",
                "network": f"{TITLES[next(iter(results.scores))]}, never heard {name}",
                "errors, %": errors_of_one,
                "of the worst seed": errors_of_one,
            }
        )
    write_report(
        run_dir,
        title="Strings of digits, heard",
        intro="Edits by all digits, in per cent, greedy; means over seeds. Takes for testing, if nothing else is said.",
        metrics_rows=rows,
        figures=figures | pictures,
        links=links,
        notes=notes,
    )
