"""What the protein experiment counts, against loops over residues; and predictions by an earlier run."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from experiments._protein_scores import confusion, near_ends, related, ridge, right, three_states, windows
from experiments.protein import Config, Data, load, run
from rnn_jax.data.proteins import STATES, STATES3, Chain, encode_residues
from rnn_jax.data.splits import Splits
from rnn_jax.training import start_run

TO_THREE = {"H": "H", "G": "H", "I": "H", "E": "E", "B": "E", "S": "C", "T": "C", "C": "C"}


def random_chains(lengths: list[int], seed: int = 0, profile: int = 20) -> list[Chain]:
    rng = np.random.default_rng(seed)
    return [
        Chain(
            f"{number}ABCA",
            rng.integers(0, 21, length).astype(np.uint8),
            rng.random((length, profile)).astype(np.float32),
            rng.integers(0, 8, length).astype(np.uint8),
        )
        for number, length in enumerate(lengths)
    ]


def test_scores_are_those_of_a_loop_over_residues() -> None:
    chains = random_chains([7, 3, 12])
    rng = np.random.default_rng(1)
    found = [rng.dirichlet(np.ones(8), len(chain.residues)) for chain in chains]
    eight, three = right(found, chains)
    counts = np.zeros((8, 8), int)
    for chain, probabilities, row8, row3 in zip(chains, found, eight, three, strict=True):
        for place, (state, p) in enumerate(zip(chain.states, probabilities, strict=True)):
            counts[state, p.argmax()] += 1
            assert row8[place] == (p.argmax() == state)
            groups = {name: sum(p[i] for i in range(8) if TO_THREE[STATES[i]] == name) for name in STATES3}
            best = max(groups, key=lambda name: groups[name])
            assert STATES3[three_states(probabilities)[place]] == best
            assert row3[place] == (best == TO_THREE[STATES[state]])
    np.testing.assert_array_equal(confusion(found, chains), counts)
    first, last = near_ends(three, 3)
    longer = [row for row in three if len(row) >= 6]
    for distance in range(3):
        assert first[distance] == np.mean([row[distance] for row in longer])
        assert last[distance] == np.mean([row[-1 - distance] for row in longer])


def test_ridge_solves_its_normal_equations() -> None:
    train_, test = random_chains([30, 50]), random_chains([40], seed=2)

    def features(chain: Chain, place: int) -> np.ndarray:
        seen = []
        for feature in range(40):
            for at in range(place - 1, place + 2):
                inside = 0 <= at < len(chain.residues)
                value = chain.profile[at, feature - 20] if feature >= 20 and inside else 0.0
                seen.append(float(inside and chain.residues[at] == feature) if feature < 20 else value)
        return np.array([*seen, 1.0])

    rows = {id(chain): [features(chain, place) for place in range(len(chain.residues))] for chain in train_ + test}
    for chain in train_:
        np.testing.assert_allclose(windows([chain], 3), rows[id(chain)], rtol=1e-6)
    seen = np.concatenate([rows[id(chain)] for chain in train_])
    states = np.concatenate([chain.states for chain in train_])
    three = np.array([STATES3.index(TO_THREE[STATES[state]]) for state in states])
    wanted = np.concatenate([np.eye(8)[states], np.eye(3)[three]], 1)
    weights = np.linalg.solve(seen.T @ seen + 10 * np.eye(121), seen.T @ wanted)
    scores, truth = np.array(rows[id(test[0])]) @ weights, test[0].states
    q8 = (scores[:, :8].argmax(1) == truth).mean()
    q3 = np.mean([STATES3[s[8:].argmax()] == TO_THREE[STATES[t]] for s, t in zip(scores, truth, strict=True)])
    assert ridge(train_, test, 3) == pytest.approx((q8, q3))


def test_relatives_share_runs_of_residues() -> None:
    def chain(text: str) -> Chain:
        residues = encode_residues(text)
        return Chain("1ABCA", residues, np.zeros((len(text), 0)), residues)

    known = [chain("ACDEFGHIKL"), chain("MNPQRSTVWY")]
    shares = related([chain("ACDEFGHWWW"), chain("YYYYYYYYYY"), chain("MNPQRSTVWY")], known)
    np.testing.assert_allclose(shares, [3 / 6, 0, 1])


def test_cb513_is_tested_on_after_training_on_its_companion(tmp_path: Path) -> None:
    rows = np.zeros((12, 700, 57), np.float32)
    rows[:, :, [21, 30, 56]] = 1
    rows[:, :9, [21, 30, 56]] = 0
    rows[:, :9, [3, 22 + 5]] = 1  # aspartic acid, helix
    np.save(tmp_path / "train.npy", rows)
    np.save(tmp_path / "test.npy", rows[:2])
    files = {"train_file": tmp_path / "train.npy", "test_file": tmp_path / "test.npy"}
    parts = load(Data(source="cb513", **files))
    assert [len(part) for part in parts] == [11, 1, 2]
    assert len({chain.name for part in parts[:2] for chain in part}) == 12
    assert {STATES[i] for part in parts for chain in part for i in chain.states} == {"H"}


def test_an_earlier_run_predicts_what_the_user_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chains = tuple(random_chains([9, 14, 12]))  # in two batches, of which one is filled up
    monkeypatch.setattr("experiments.protein.load", lambda data: Splits(chains, chains, chains))
    tiny = Config(
        networks=("profiles", "sequence"),
        cell="elman",
        hidden_size=3,
        num_layers=1,
        batch_size=2,
        steps_multiple=16,
        num_epochs=1,
        window=3,
    )
    earlier = start_run("protein", tiny, root=tmp_path)
    metrics = run(tiny, earlier)
    assert {"test_q8", "test_q3", "q3_gain_of_profiles", "ridge_q3", "recall_H"} <= set(metrics)
    assert ">0ABCA" in (earlier / "predictions.txt").read_text()
    (tmp_path / "some.fasta").write_text(">one\nMKTAYIAK\n>two\nXWC\n")
    asked = Config(trained=earlier, data=Data(fasta=tmp_path / "some.fasta"))
    later = start_run("protein", asked, root=tmp_path)
    metrics = run(asked, later)
    assert metrics["predicted_residues"] == 11
    assert sum(metrics[f"predicted_{state}"] for state in STATES3) == pytest.approx(1)
    with (later / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["amino_acid"] for row in rows] == list("MKTAYIAKXWC")
    for row in rows:
        probabilities = {state: float(row[f"p_{state}"]) for state in STATES}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-3)
        assert probabilities[row["state8"]] == max(probabilities.values())
        assert row["state3"] in STATES3
    assert json.loads((later / "config.json").read_text())["trained"] == str(earlier)
    with pytest.raises(ValueError, match=r"give `data\.sequence` or `data\.fasta` too"):
        run(Config(trained=earlier), later)
    with pytest.raises(ValueError, match=r"sequence: `sequence` must be of .* got 'J' at residue 2"):
        run(Config(trained=earlier, data=Data(sequence="MJ")), later)
    with pytest.raises(
        ValueError, match=r"`networks` must be profiles and of sequence and 'one way', got \('sequence',\)"
    ):
        run(Config(networks=("sequence",)), later)
    with pytest.raises(ValueError, match=r"need the network for sequences among `networks`"):
        run(Config(networks=("profiles",), data=Data(sequence="MK")), later)
