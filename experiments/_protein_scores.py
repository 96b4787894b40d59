"""How `experiments.protein` scores: baselines, counts, relatives among chains, and predictions as files."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rnn_jax.data.proteins import RESIDUES, STATES, STATES3, THREE_OF_EIGHT, Chain


def windows(chains: Sequence[Chain], window: int) -> np.ndarray:
    """What ridge regression sees: [residues of all chains, window * features + 1]; nothing is beyond the ends."""
    rows = []
    for chain in chains:
        features = np.concatenate([np.eye(len(RESIDUES) + 1)[chain.residues, :-1], chain.profile], 1)
        padded = np.pad(features, ((window // 2, window // 2), (0, 0)))
        seen = np.lib.stride_tricks.sliding_window_view(padded, window, axis=0).reshape(len(features), -1)
        rows.append(np.pad(seen, ((0, 0), (0, 1)), constant_values=1.0).astype(np.float32))
    return np.concatenate(rows)


def ridge(train: Sequence[Chain], test: Sequence[Chain], window: int, strength: float = 10.0) -> tuple[float, float]:
    """Q8 and Q3 of least squares onto eight and three indicators, with a penalty on the weights."""
    size = windows(train[:1], window).shape[1]
    gram, cross = strength * np.eye(size), np.zeros((size, 11))
    for start in range(0, len(train), 100):
        part = train[start : start + 100]
        seen, states = windows(part, window), np.concatenate([chain.states for chain in part])
        wanted = np.concatenate([np.eye(8)[states], np.eye(3)[THREE_OF_EIGHT[states]]], 1).astype(np.float32)
        gram, cross = gram + seen.T @ seen, cross + seen.T @ wanted
    weights = np.linalg.solve(gram, cross).astype(np.float32)
    scores = np.concatenate([windows([chain], window) @ weights for chain in test])
    states = np.concatenate([chain.states for chain in test])
    q8 = (scores[:, :8].argmax(1) == states).mean()
    return float(q8), float((scores[:, 8:].argmax(1) == THREE_OF_EIGHT[states]).mean())


def related(chains: Sequence[Chain], to: Sequence[Chain], size: int = 5) -> np.ndarray:
    """For each chain, the largest share of its runs of `size` residues that some one chain of `to` has too: [N]."""

    def runs(chain: Chain) -> np.ndarray:
        places = np.lib.stride_tricks.sliding_window_view(chain.residues.astype(np.int64), size)
        return np.unique(places @ 21 ** np.arange(size))

    owners: dict[int, list[int]] = {}
    for number, chain in enumerate(to):
        for run_ in runs(chain).tolist():
            owners.setdefault(run_, []).append(number)
    shares = []
    for chain in chains:
        own = runs(chain)
        hits = [number for run_ in own.tolist() for number in owners.get(run_, ())]
        shares.append(np.bincount(hits).max() / len(own) if hits else 0.0)
    return np.array(shares)


def three_states(probabilities: np.ndarray) -> np.ndarray:
    """The most probable of three states [T], from probabilities of eight [T, 8]."""
    return (probabilities @ np.eye(3)[THREE_OF_EIGHT]).argmax(1)


def right(probabilities: Sequence[np.ndarray], chains: Sequence[Chain]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Whether each residue's state is right, of eight and of three: [T] bools for each chain."""
    pairs = list(zip(probabilities, chains, strict=True))
    eight = [found.argmax(1) == chain.states for found, chain in pairs]
    return eight, [three_states(found) == THREE_OF_EIGHT[chain.states] for found, chain in pairs]


def pooled(values: Sequence[np.ndarray]) -> float:
    """The mean over all residues."""
    return float(np.concatenate(values).mean())


def near_ends(values: Sequence[np.ndarray], reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Means [reach] by distance from the first and from the last residue, over chains that are twice as long."""
    rows = [(row[:reach], row[::-1][:reach]) for row in values if len(row) >= 2 * reach]
    first, last = (np.mean([pair[side] for pair in rows], 0) if rows else np.zeros(reach) for side in (0, 1))
    return np.asarray(first), np.asarray(last)


def confusion(probabilities: Sequence[np.ndarray], chains: Sequence[Chain]) -> np.ndarray:
    """Counts [8, 8]: true states down, predicted ones across."""
    counts = np.zeros((len(STATES), len(STATES)), int)
    for found, chain in zip(probabilities, chains, strict=True):
        np.add.at(counts, (chain.states, found.argmax(1)), 1)
    return counts


def write_predictions(folder: Path, chains: Sequence[Chain], found: Sequence[np.ndarray], known: bool) -> list[Path]:
    """Letters, predicted states and, where known, true ones as text; all probabilities as a table."""
    text = []
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["chain", "residue", "amino_acid", *(f"p_{state}" for state in STATES), "state8", "state3"])
        for chain, probabilities in zip(chains, found, strict=True):
            letters = [(RESIDUES + "X")[i] for i in chain.residues]
            eight = [STATES[i] for i in probabilities.argmax(1)]
            three = [STATES3[i] for i in three_states(probabilities)]
            rows = {"residues": letters, "8 states": eight, "3 states": three}
            if known:
                rows |= {"true": [STATES[i] for i in chain.states]}
            text.append(f">{chain.name}")
            for start in range(0, len(letters), 80):
                text += [f"{label:9}{''.join(row[start : start + 80])}" for label, row in rows.items()] + [""]
            for place, row in enumerate(zip(letters, probabilities, eight, three, strict=True), start=1):
                table.writerow([chain.name, place, row[0], *(f"{p:.4f}" for p in row[1]), row[2], row[3]])
    (folder / "predictions.txt").write_text("\n".join(text), encoding="utf-8")
    return [folder / "predictions.txt", folder / "predictions.csv"]
