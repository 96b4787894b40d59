"""The peers: who they are, what each can compute, and how to tell whether they are there. Imports none of them."""

import importlib.util
from importlib import metadata
from typing import NamedTuple

from benchmarks.cases import Case

CELLS = ("lstm", "gru", "elman")


class Peer(NamedTuple):
    """A library, or a way to write the same work in JAX.

    Attributes:
        module: what must be importable.
        file: the module of `benchmarks.peers` that builds its networks.
        distribution: whose version is reported.
        families: the networks that it offers.
        refusals: families that it seems to offer, and why they are not the same.
        lacks: results that it does not have, by family; all others must be equal.
        sharded: whether it is also measured with rows over two devices.
        programs: what it is measured at.
    """

    module: str
    file: str
    distribution: str
    families: tuple[str, ...]
    refusals: dict[str, str] = {}  # noqa: RUF012 - never changed
    lacks: dict[str, tuple[str, ...]] = {}  # noqa: RUF012
    sharded: bool = False
    programs: tuple[str, ...] = ("gradient", "forward", "update", "seeds", "stream", "compile", "import")


EVERYTHING = (*CELLS, "gru_before", "diagonal", "lru", "bidirectional", "decoder", "char_lm")

PEERS = {
    "rnn_jax": Peer("rnn_jax", "ours", "rnn_jax", EVERYTHING, sharded=True),
    "torch": Peer(
        "torch",
        "pytorch",
        "torch",
        (*CELLS, "bidirectional", "decoder", "char_lm"),
        programs=("gradient", "update", "seeds", "stream", "import"),
    ),
    "lax.scan": Peer("jax", "plain_scan", "jax", EVERYTHING, sharded=True),
    "associative": Peer("jax", "associative", "jax", ("diagonal", "lru"), programs=("gradient", "forward")),
    "linen": Peer("flax.linen", "flax_linen", "flax", (*CELLS, "bidirectional", "char_lm"), sharded=True),
    "nnx": Peer("flax.nnx", "flax_nnx", "flax", (*CELLS, "bidirectional"), lacks={"gru": ("params/b_hn",)}),
    "haiku": Peer(
        "haiku",
        "dm_haiku",
        "dm-haiku",
        ("lstm", "gru_before"),
        {"gru": "resets before the product (see gru-before)", "elman": "its VanillaRNN is a ReLU network"},
    ),
    "equinox": Peer("equinox", "eqx", "equinox", ("lstm", "gru")),
    "keras": Peer(
        "keras",
        "keras3",
        "keras",
        (*CELLS, "gru_before", "bidirectional"),
        programs=("gradient", "seeds", "compile", "import"),
    ),
}
"""All peers, ours first. Equal families are checked to be equal before they are timed."""

OURS = "rnn_jax"


class Entry(NamedTuple):
    """A peer in one of its variants: one process, one column of results."""

    peer: str
    variant: str = ""

    @property
    def label(self) -> str:
        """Its name in results."""
        return f"{self.peer} {self.variant}".strip()


def is_there(peer: str) -> bool:
    """Whether a peer can be found, without importing it (whether its import works shows in its worker)."""
    return importlib.util.find_spec(PEERS[peer].module.partition(".")[0]) is not None


def version(peer: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(PEERS[peer].distribution)
    except metadata.PackageNotFoundError:
        return None


def offers(peer: str, case: Case) -> bool:
    """Whether a peer takes part in a case."""
    known = PEERS[peer]
    if case.program == "import":
        return "import" in known.programs
    return case.family in known.families and case.program in known.programs


def entries(case: Case, cores: int) -> list[Entry]:
    """The entries of a case: every peer that offers it, and on two cores also with rows over two devices."""
    chosen = []
    for peer, known in PEERS.items():
        if not offers(peer, case):
            continue
        chosen.append(Entry(peer))
        if known.sharded and cores > 1 and case.program != "forward":
            chosen.append(Entry(peer, "sharded"))
        if peer == OURS and case.program == "seeds":
            chosen.append(Entry(peer, "one by one"))
    return chosen
