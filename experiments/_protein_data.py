"""The chains that `experiments.protein` learns from, and those that the user asks about."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rnn_jax.data.proteins import Chain, encode_residues, load_cb513, load_protein_chains, read_fasta, split_by_entry
from rnn_jax.data.splits import Splits


@dataclass(frozen=True)
class Data:
    """Which chains, and what to predict after training."""

    source: Literal["promod3", "cb513"] = "promod3"
    database: Path = Path("/usr/share/promod3/loop_data/structure_db.dat")
    """Of ProMod3; not needed where RNN_JAX_DATA has the first 3,000 chains."""
    num_chains: int | None = 3000
    """Of some 19,700 (None: all), in a fixed random order."""
    train_file: Path = Path("cullpdb+profile_6133_filtered.npy.gz")
    test_file: Path | None = None
    """CB513; looked for below RNN_JAX_DATA if not given."""
    sequence: str = ""
    """One-letter codes; X is unknown."""
    fasta: Path | None = None


def load(data: Data) -> Splits[Chain]:
    """The chains in three parts."""
    if data.source == "promod3":
        return split_by_entry(load_protein_chains(data.num_chains, data.database))
    known = load_cb513(data.train_file)
    order = np.random.default_rng(0).permutation(len(known))
    held = min(256, len(known) // 10)
    train, valid = order[held:], order[:held]
    return Splits(tuple(known[i] for i in train), tuple(known[i] for i in valid), load_cb513(data.test_file))


def seen_by(name: str, chains: Sequence[Chain]) -> list[Chain]:
    """The chains as the network of that name sees them."""
    return [chain._replace(profile=chain.profile[:, :0]) if name == "sequence" else chain for chain in chains]


def read_queries(data: Data) -> list[Chain]:
    """What the user asks about, as chains without profiles, their states unknown (0)."""
    texts = {} if data.fasta is None else read_fasta(data.fasta)
    texts |= {"sequence": data.sequence} if data.sequence else {}
    queries = []
    for name, text in texts.items():
        try:
            residues = encode_residues(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        queries.append(Chain(name, residues, np.zeros((len(residues), 0), np.float32), np.zeros_like(residues)))
    return queries
