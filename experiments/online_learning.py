r"""Can a network learn while its sequence goes on, without keeping what went before?

Backpropagation through time (BPTT) keeps a window of the past and goes back through it. Real-time recurrent learning
(RTRL, Williams & Zipser 1989) carries the derivative of the state along instead, and is exact, but costly. SnAp-1
(Menick et al. 2021, arXiv:2006.07232) keeps of it only what stays with the unit a parameter acts on, e-prop (Bellec et
al. 2020) leaves out the recurrent weights too, and UORO (Tallec & Ollivier 2018, arXiv:1702.05043) keeps one random
rank, right on the average. All of them are in `rnn_jax.analysis.online`; here they learn one task.

At each step of an endless stream comes a value, +1 or -1. In each round of 12 steps one value is marked; 10 steps
later, at another mark, it must be told (cross-entropy in nats; knowing nothing: ln 2 = 0.693). So credit must go back
10 steps: a gradient truncated after 4 or 8 steps never sees the marked value and the error together. A GRU of 16 units
is updated by Adam after each round, with the gradient of that round in 8 streams. What an estimator carries along goes
on over updates, though parameters have changed; BPTT takes the state at the start of a round as given.

    python -m experiments.online_learning            # 3 minutes on 2 cores

`final` is the mean loss of the last tenth of updates; `learned` the first update with a mean loss of ten below a tenth
of ln 2 (the last one if never); `flops`, `memory` and `us` are floating operations, numbers held and microseconds for
one step of one stream; `cosine` is that with the exact gradient of four rounds before training, over 100 networks, and
`far` that of the input weights of the mark, whose gradient all comes from 10 and more steps back.

RTRL and a window of 12 learn as BPTT does; SnAp-1 and e-prop need three times as many updates, UORO more than ten
times. Windows of 4 and 8 do not learn, though their gradient points nearly where the exact one does: what is missing is
small before training, and is all that matters. All have one learning rate, tuned for none of them.

It leaves in the run directory: two figures and report.md.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments._gradient_likeness import Likeness, likeness
from experiments._online_learning import Learned, Stream, build, costs, estimators, train
from experiments.claims import at_least, at_most, within
from experiments.cli import main
from rnn_jax.plotting import FAINT, PALETTE, finish, save
from rnn_jax.report import write_report
from rnn_jax.training import is_writer, run_logger, seed_keys

CHANCE = math.log(2)

_FULL = {"delay": 10, "windows": [4, 8, 12], "num_updates": 2000, "cell": "gru"}
_WILLIAMS = "Williams & Zipser 1989: RTRL is backpropagation through time, carried forward"
_MENICK = "Menick et al. 2021: SnAp-1 learns, if later than the exact gradient"
_BLIND = "ours: no path from the mark to the error within the window"
CLAIMS = (
    at_most("rtrl_one_minus_cosine", 1e-6, source=_WILLIAMS),
    within("learned_rtrl_over_bptt", 1, 0.15, source=_WILLIAMS, when=_FULL),
    at_most("final_rtrl", 0.01, source=_WILLIAMS, when=_FULL),
    at_most("final_truncated_12", 0.01, source="ours: a window longer than the delay is enough", when=_FULL),
    at_least("final_truncated_4", 0.55, source=_BLIND, when=_FULL),
    at_least("final_truncated_8", 0.45, source=_BLIND, when=_FULL),
    at_least("cosine_truncated_8", 0.99, source="ours: a cosine near 1 is no proof of learning", when=_FULL),
    within("far_truncated_8", 0, 0, source=_BLIND, when=_FULL),
    at_most("final_snap1", 0.05, source=_MENICK, when=_FULL),
    at_least("learned_snap1_over_bptt", 1.7, source=_MENICK, when=_FULL),
    at_most("final_e_prop", 0.05, source="Bellec et al. 2020: e-prop learns to remember, too", when=_FULL),
    at_least("learned_uoro_over_bptt", 4, source="Tallec & Ollivier 2018: the price is noise", when=_FULL),
    at_least("uoro_cosine_of_mean", 0.95, source="Tallec & Ollivier 2018: unbiased", when=_FULL),
    within("uoro_off_over_expected", 1, 0.25, source="Tallec & Ollivier 2018: unbiased", when=_FULL),
)


@dataclass(frozen=True)
class Config:
    """Five seeds of a network with each estimator."""

    estimators: tuple[str, ...] = ("bptt", "rtrl", "snap1", "e_prop", "uoro", "truncated")
    windows: tuple[int, ...] = (4, 8, 12)
    """Steps that `truncated` goes back through."""
    cell: str = "gru"
    """elman, gru or lstm."""
    hidden_size: int = 16
    delay: int = 10
    """Steps from the marked value to its answer; a round has two more."""
    streams: int = 8
    num_updates: int = 2000
    learning_rate: float = 5e-3
    num_networks: int = 100
    """Untrained networks whose gradients are compared."""
    num_draws: int = 1000
    """Of the signs of UORO, for the gradients of five of them."""
    seeds: int = 5
    seed: int = 0


SMOKE = Config(
    estimators=("bptt", "uoro"),
    cell="elman",
    hidden_size=2,
    delay=2,
    streams=2,
    num_updates=3,
    num_networks=1,
    num_draws=4,
    seeds=1,
)


DASHED = (0, (4, 2))
STYLES = {
    "bptt": (PALETTE[5], "-"),
    "rtrl": (PALETTE[0], DASHED),
    "snap1": (PALETTE[2], "-"),
    "e_prop": (PALETTE[1], "-"),
    "uoro": (PALETTE[4], "-"),
}
DASHES = ("-", DASHED, (0, (1, 1.5)), (0, (6, 2, 1, 2)))
LABELS = {"bptt": "BPTT", "rtrl": "RTRL", "snap1": "SnAp-1", "e_prop": "e-prop", "uoro": "UORO"}


def label(name: str) -> str:
    """How an estimator is called in figures and tables."""
    return LABELS.get(name) or f"truncated, {name.split('_')[1]}"


def style(name: str, names: list[str]) -> dict[str, Any]:
    """Colour and dashes of an estimator."""
    windows = [one for one in names if one.startswith("truncated")]
    colour, dashes = STYLES[name] if name in STYLES else (PALETTE[3], DASHES[windows.index(name) % len(DASHES)])
    return {"color": colour, "ls": dashes}


def draw_learning(learned: dict[str, Learned], price: dict[str, tuple[float, int]], steps: int, path: Path) -> Path:
    """Loss over updates, over operations, and at the end over what is held."""
    figure = Figure(figsize=(11.6, 4.1), layout="constrained", facecolor="#FFFFFF")
    by_updates, by_flops, by_memory = axes = list(figure.subplots(1, 3, sharey=True))
    names = list(learned)
    for name, one in learned.items():
        look, values, (flops, held) = style(name, names), one.losses, price[name]
        by_updates.fill_between(one.updates, values.min(1), values.max(1), color=look["color"], alpha=0.1, lw=0)
        by_updates.plot(one.updates, np.median(values, 1), lw=1.4, label=label(name), **look)
        by_flops.plot(one.updates * steps * flops / 1e9, np.median(values, 1), lw=1.4, **look)
        end = one.final()
        by_memory.plot(np.full(len(end), held), end, "o", ms=4, alpha=0.4, color=look["color"])
        by_memory.plot(held, np.median(end), "_", ms=14, mew=2.2, color=look["color"])
    texts = ("updates", "operations for one network, 10^9", "numbers held for one stream")
    titles = ("By updates (medians of seeds)", "By computation", "At the end, by memory")
    for ax, xlabel, title in zip(axes, texts, titles, strict=True):
        ax.set(xlabel=xlabel, yscale="log")
        ax.axhline(CHANCE, color="#93A1AE", lw=0.9, zorder=1)
        ax.grid(color=FAINT, lw=0.7, zorder=0)
        finish(ax, title)
    by_flops.set_xscale("log")
    by_memory.set(xscale="log", xlim=(None, 6 * max(held for _, held in price.values())))
    by_updates.set_ylabel("cross-entropy of an answer, nats")
    _name_points(by_memory, {label(name): (price[name][1], np.median(one.final())) for name, one in learned.items()})
    figure.legend(*by_updates.get_legend_handles_labels(), loc="outside lower center", ncols=len(names), frameon=False)
    return save(figure, path)


def _name_points(ax: Axes, points: dict[str, tuple[float, float]]) -> None:
    """Names at the right of points on logarithmic axes, moved up where they would touch."""
    placed: list[tuple[float, float]] = []
    gap = 0.045 * float(np.ptp(np.log10(ax.get_ylim())))
    for name, point in sorted(points.items(), key=lambda item: item[1][1]):
        x, y = np.log10(point)
        y = max([y, *(below + gap for at, below in placed if abs(at - x) < 0.8 and y < below + gap)])
        placed.append((x, y))
        ax.annotate(name, (10**x, 10**y), xytext=(9, -3), textcoords="offset points", fontsize=7.5)


def draw_likeness(found: Likeness, path: Path) -> Path:
    """Cosines with the exact gradient, and how that of UORO grows with the number of draws."""
    figure = Figure(figsize=(10.4, 3.8), layout="constrained", facecolor="#FFFFFF")
    left, right = figure.subplots(1, 2)
    names = [name for name in found.whole if name != "bptt"]
    rng = np.random.default_rng(0)
    for place, name in enumerate(names):
        for values, colour, shift in ((found.whole[name], PALETTE[3], -0.16), (found.far[name], PALETTE[0], 0.16)):
            at = place + shift + rng.uniform(-0.08, 0.08, len(values))
            what = ("all parameters" if shift < 0 else "input weights of the mark") if place == 0 else None
            left.plot(values, at, "o", ms=3, alpha=0.35, mew=0, color=colour, label=what)
            left.plot(values.mean(), place + shift, "|", ms=11, mew=2.2, color=colour)
    left.set_yticks(range(len(names)), [label(name) for name in names])
    left.invert_yaxis()
    left.set(xlabel="cosine with the exact gradient (dots: networks)")
    for row in found.of_means:
        right.plot(found.draws, row, color=PALETTE[4], lw=1.0, alpha=0.7)
    if len(found.draws):
        expected = 1 / np.sqrt(1 + found.variance.mean() / found.draws)
        right.plot(found.draws, expected, color=PALETTE[5], ls=DASHED, lw=1.6, label="1 / sqrt(1 + v / n)")
        right.legend(frameon=False, fontsize=8.5, loc="lower right")
    right.set(xlabel="draws n in the mean", ylabel="cosine with the exact gradient", xscale="log")
    for ax, title in ((left, "Before training"), (right, "UORO is right on the average (five networks)")):
        ax.grid(color=FAINT, lw=0.7, zorder=0)
        finish(ax, title)
    left.legend(frameon=False, fontsize=8, loc="lower left")
    return save(figure, path)


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains with every estimator, and compares gradients."""
    network = build(config.cell, config.hidden_size)
    made = estimators(config.estimators, config.windows, network)
    begin = jax.jit(jax.vmap(network.init))
    params, others = (begin(seed_keys(config.seed, number)) for number in (config.seeds, config.num_networks))
    stream = Stream(config.delay, config.streams, config.num_updates, config.learning_rate)
    learned = {name: train(network, one, params, stream, config.seed, run_dir / name) for name, one in made.items()}
    price = {name: costs(network, one, config.delay + 2) for name, one in made.items()}
    found = likeness(network, made, others, config.delay, config.num_draws, jax.random.key(config.seed))
    metrics: dict[str, Any] = {}
    rows = []
    for name, one in learned.items():
        end, first, (flops, held) = one.final(), one.first(CHANCE / 10), price[name]
        metrics |= {f"final_{name}": float(end.mean()), f"learned_{name}": float(first.mean())}
        if config.seeds > 1:
            metrics |= {f"final_{name}_seeds": end.tolist(), f"learned_{name}_seeds": first.tolist()}
        metrics |= {f"flops_{name}": flops, f"memory_{name}": held, f"us_{name}": one.us}
        whole, far = found.whole[name], found.far[name]
        metrics |= {f"cosine_{name}": float(whole.mean()), f"cosine_{name}_sd": float(whole.std())}
        metrics |= {f"far_{name}": float(far.mean()), f"far_{name}_sd": float(far.std())}
        rows.append(
            {
                "estimator": label(name),
                "final loss": f"{end.mean():.4f} ({end.min():.4f} to {end.max():.4f})",
                "updates to learn": f"{first.mean():.0f} ({first.min():.0f} to {first.max():.0f})",
                "operations a step": f"{flops:,.0f}",
                "microseconds a step": f"{one.us:.1f}",
                "numbers held": f"{held:,}",
                "cosine": f"{whole.mean():.3f} ± {whole.std():.3f}",
                "of the mark": f"{far.mean():.3f} ± {far.std():.3f}",
            }
        )
    for name in ("rtrl", "snap1", "e_prop", "uoro"):
        if name in made:
            metrics[f"learned_{name}_over_bptt"] = metrics[f"learned_{name}"] / metrics["learned_bptt"]
    if "rtrl" in made:
        metrics["rtrl_one_minus_cosine"] = float(1 - found.whole["rtrl"].min())
    if "uoro" in made:
        metrics["uoro_relative_variance"] = float(found.variance.mean())
        metrics["uoro_off_over_expected"] = float(found.off.mean())
        metrics["uoro_cosine_of_mean"] = float(found.of_means[:, -1].mean())
    with run_logger(run_dir) as log:
        log({"step": config.num_updates} | metrics)
    if is_writer():
        folder = run_dir / "figures"
        steps = config.streams * (config.delay + 2)
        write_report(
            run_dir,
            title="Learning while the sequence goes on",
            intro=f"Answers {config.delay} steps late. Final loss in nats (knowing nothing: {CHANCE:.3f}), means of "
            f"{config.seeds} seeds, and from the least to the greatest; operations, time and numbers held are those of "
            f"one step of one stream; cosines with the exact gradient of {config.num_networks} untrained networks, of "
            "all parameters and of the input weights of the mark, with standard deviations.",
            metrics_rows=rows,
            figures={
                "Loss by updates, by computation and by memory": draw_learning(
                    learned, price, steps, folder / "learning.png"
                ),
                "Estimates and the exact gradient": draw_likeness(found, folder / "cosines.png"),
            },
            links={},
        )
    return metrics


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS)
