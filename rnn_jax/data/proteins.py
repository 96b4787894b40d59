"""Protein chains and their secondary structure: which of eight states each residue is in."""

import gzip
import hashlib
import mmap
import os
import pathlib
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rnn_jax.data.fetch import fetch
from rnn_jax.data.splits import Splits

__all__ = [
    "RESIDUES",
    "STATES",
    "STATES3",
    "THREE_OF_EIGHT",
    "Chain",
    "encode_residues",
    "load_cb513",
    "load_protein_chains",
    "read_fasta",
    "read_structure_db",
    "split_by_entry",
]

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
"""The twenty amino acids; `residues` of a chain are places in it, and 20 is an unknown one, written X."""

STATES = "HEGIBSTC"
"""DSSP: alpha helix, strand, 3-10 helix, pi helix, bridge, bend, turn, none of them; `states` are places in it."""

STATES3 = "HEC"
"""Helix, strand, coil."""

THREE_OF_EIGHT = np.array([0, 1, 0, 0, 1, 2, 2, 2])
"""The three states of the eight: H, G, I are helix, E, B strand, S, T, C coil."""


_GET_DATABASE = (
    "run `apt install promod3-data`, or without root `apt-get download promod3-data && dpkg-deb -x promod3-data*.deb .`"
)


class Chain(NamedTuple):
    """A chain of T residues."""

    name: str  # entry of the Protein Data Bank (4 characters) and chain, or the name in a file
    residues: np.ndarray  # [T] uint8, places in RESIDUES, 20 = unknown
    profile: np.ndarray  # [T, 20] float32 in [0, 1], in the order of RESIDUES; [T, 0] where there is none
    states: np.ndarray  # [T] uint8, places in STATES


def load_protein_chains(
    num_chains: int | None = 3000, path: str | os.PathLike[str] = "/usr/share/promod3/loop_data/structure_db.dat"
) -> tuple[Chain, ...]:
    """Chains of the Protein Data Bank with 40 to 512 residues and no gaps, with profiles, and states that DSSP gave.

    They come from the structure database of ProMod3, which the Debian package `promod3-data` has. A profile says how
    often each amino acid stands at a place in an alignment of relatives of the chain; given is the square root of the
    frequency, in steps of 1/255. The 3,000 chains of the default are also looked for, by `fetch`, as a file of 10 MB.

    Args:
        num_chains: the first so many of `numpy.random.default_rng(0).permutation` over all, or all 19,699 (None), in
            the order of the database.
        path: of the database; only read where the small file is not found, or is not what was asked for.

    Returns:
        The chains.

    Raises:
        ValueError: if there are not so many chains, or the database is not one.
        FileNotFoundError: if there is neither file; says how to get one.
        DamagedFileError: if the small file was found but is another one.

    References:
        Studer et al., "ProMod3 - A versatile homology modelling toolbox", 2021; Kabsch and Sander, "Dictionary of
        protein secondary structure", 1983.
    """
    if num_chains is not None and num_chains < 1:
        raise ValueError(f"`num_chains` must be >= 1 or None, got {num_chains}")
    if num_chains is not None and num_chains <= 3000:
        try:
            return _load_small(fetch("protein_profiles"))[:num_chains]
        except FileNotFoundError as missing:
            if not pathlib.Path(path).exists():
                raise FileNotFoundError(f"{missing}\n  - {_GET_DATABASE}, and give its path: no file {path}") from None
    return _choose(read_structure_db(path), num_chains)


def _choose(chains: tuple[Chain, ...], num_chains: int | None) -> tuple[Chain, ...]:
    if num_chains is None:
        return chains
    if num_chains > len(chains):
        raise ValueError(f"`num_chains` must be at most {len(chains)}, got {num_chains}")
    return tuple(chains[i] for i in np.random.default_rng(0).permutation(len(chains))[:num_chains])


def _load_small(path: pathlib.Path) -> tuple[Chain, ...]:
    """The 3,000 chains as arrays one after another."""
    with np.load(path) as file:
        names = [name.decode("ascii") for name in file["chain"]]
        ends = np.cumsum(file["length"], dtype=np.int64)[:-1]
        arrays = file["seq"], file["profile"].astype(np.float32) / 255, file["ss8"]
    return tuple(Chain(*fields) for fields in zip(names, *(np.split(array, ends) for array in arrays), strict=True))


def read_structure_db(path: str | os.PathLike[str]) -> tuple[Chain, ...]:
    """The chains with 40 to 512 residues of a structure database of ProMod3 (version 2, little endian).

    A header of 77 bytes; the number of chains (8 bytes) and a record of each: entry and chain, both as length and
    characters, first residue (uint32), residues (uint16), and 14 bytes of no use here; then eight arrays (`_ITEMS`),
    each after its length of 8 bytes. Profiles are frequencies times 10,000, uint16, in the order of `RESIDUES`.

    Args:
        path: the file `structure_db.dat`.

    Returns:
        The chains without unknown residues, in the order of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not laid out like this, or is cut short.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"`path`: no file {path}; {_GET_DATABASE}")
    if path.stat().st_size < 0x55:
        raise ValueError(f"`path` is cut short: {path} has {path.stat().st_size} bytes")
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        if struct.unpack_from("<II", data) != (1234, 2):
            raise ValueError(f"`path` must be a structure database of ProMod3, version 2, got another file: {path}")
        records, place = _read_records(data)
        total = records[-1][1] + records[-1][2]
        arrays = {}
        for name, item in _ITEMS.items():
            if struct.unpack_from("<Q", data, place) != (total,):
                raise ValueError(f"`path` must have {name} of {total} residues at byte {place}, got others: {path}")
            arrays[name] = np.ndarray((total, item), np.uint8, data, place + 8)
            place += 8 + total * item
    except (struct.error, TypeError) as error:
        raise ValueError(f"`path` is cut short: {path} has {len(data)} bytes ({error})") from None
    letters, states = _PLACE[arrays["letters"][:, 0]], _STATE[arrays["states"][:, 0]]
    counts = arrays["profiles"].view("<u2")
    chains = []
    for name, first, size in records:
        own = slice(first, first + size)
        if 40 <= size <= 512 and letters[own].max() < len(RESIDUES) and states[own].max() < len(STATES):
            profile = np.round(255 * np.sqrt(counts[own] / 10_000)).astype(np.float32) / 255
            chains.append(Chain(name, letters[own], np.minimum(profile, 1), states[own]))
    return tuple(chains)


def _read_records(data: mmap.mmap) -> tuple[list[tuple[str, int, int]], int]:
    """Name, first residue and number of residues of each chain, and where the records end."""

    def text(place: int) -> tuple[str, int]:
        (size,) = struct.unpack_from("<i", data, place)
        return data[place + 4 : place + 4 + size].decode("ascii", "replace"), place + 4 + size

    (count,) = struct.unpack_from("<Q", data, 0x4D)
    records, place = [], 0x55
    for _ in range(count):
        entry, place = text(place)
        chain, place = text(place)
        records.append((entry + chain, *struct.unpack_from("<IH", data, place)))
        place += 20
    return records, place


_PLACE, _STATE = np.full(256, len(RESIDUES), np.uint8), np.full(256, len(STATES), np.uint8)
_PLACE[np.frombuffer(RESIDUES.encode(), np.uint8)] = np.arange(len(RESIDUES))
_STATE[np.frombuffer(STATES.encode(), np.uint8)] = np.arange(len(STATES))

_ITEMS = {
    "letters": 1,
    "coordinates": 24,
    "dihedral angles": 4,
    "solvent accessibilities": 2,
    "residue depths": 2,
    "states": 1,
    "profiles": 40,
    "structural profiles": 40,
}
"""Bytes a residue of the arrays of a structure database, in their order."""


def split_by_entry(chains: Sequence[Chain]) -> Splits[Chain]:
    """Some 80, 10 and 10 % by a hash of the entry: all chains of one structure are in the same part.

    The first byte of the SHA-256 of the first four characters of the name, modulo 10: 8 is validation, 9 is test.

    Args:
        chains: with names that start with an entry of the Protein Data Bank.

    Returns:
        `Splits(train, valid, test)`, each in the order of `chains`.

    Example:
        >>> chains = [Chain(name, *[np.zeros(0)] * 3) for name in ("2CDCB", "2CDCA", "3BEYE", "5M0WA")]
        >>> [[chain.name for chain in part] for part in split_by_entry(chains)]
        [['3BEYE', '5M0WA'], [], ['2CDCB', '2CDCA']]
    """
    parts: tuple[list[Chain], ...] = ([], [], [])
    for chain in chains:
        tenth = hashlib.sha256(chain.name[:4].encode()).digest()[0] % 10
        parts[max(0, tenth - 7)].append(chain)
    return Splits(*map(tuple, parts))


def load_cb513(path: str | os.PathLike[str] | None = None) -> tuple[Chain, ...]:
    """CB513, the 514 chains that methods are compared on, as published by Zhou and Troyanskaya.

    The same layout holds their training set, `cullpdb+profile_6133_filtered.npy.gz`: a row a chain, 700 residues of 57
    features: amino acid (22), state (9), terminals (2), accessibility (2), profile (22), the last of each block for no
    residue. A profile is the logistic function of position-specific scores, not the root of a frequency. The terms of
    the files are not stated; they are not part of this package.

    Args:
        path: of the file, `.npy` or `.npy.gz`; `cb513+profile_split1.npy.gz` below RNN_JAX_DATA if not given.

    Returns:
        The chains, named by the stem of the file and their row.

    Raises:
        FileNotFoundError: if there is no such file; says where to get it.
        ValueError: if it is not an array of rows of 700 times 57, or a residue has no state.

    References:
        Zhou and Troyanskaya, "Deep Supervised and Convolutional Generative Stochastic Network for Protein Secondary
        Structure Prediction", 2014, arXiv:1403.1347.
    """
    path = pathlib.Path(os.environ.get("RNN_JAX_DATA", "."), CB513) if path is None else pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}; download {_ZHOU}/{path.name} and put it there, or give its path")
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        array = np.load(file, allow_pickle=False)
    if array.ndim not in (2, 3) or array.size != len(array) * 700 * 57 or not len(array):
        raise ValueError(f"`path` must hold rows [N, 39900] of 700 residues with 57 features, got {array.shape}")
    rows = array.reshape(len(array), 700, 57)
    chains = []
    for number, row in enumerate(rows):
        real = row[:, 21] == 0
        row = row[: int(real.sum())]
        if not real[: len(row)].all() or (row[:, 22:30].sum(1) != 1).any() or (row[:, :21].sum(1) != 1).any():
            raise ValueError(f"`path`: each residue must have one amino acid and one state, not so in row {number}")
        residues, states = row[:, :21].argmax(1), row[:, 22:30].argmax(1)
        profile = row[:, 35:56][:, [_PROFILE_ORDER.index(letter) for letter in RESIDUES]]
        chains.append(
            Chain(
                f"{path.name.partition('.')[0]}:{number}",
                np.array([(RESIDUES + "X").index(letter) for letter in _RESIDUE_ORDER], np.uint8)[residues],
                profile.astype(np.float32),
                np.array([STATES.index(letter.replace("L", "C")) for letter in _STATE_ORDER], np.uint8)[states],
            )
        )
    return tuple(chains)


CB513 = "cb513+profile_split1.npy.gz"
_ZHOU = "https://www.princeton.edu/~jzthree/datasets/ICML2014"
_RESIDUE_ORDER, _PROFILE_ORDER, _STATE_ORDER = "ACEDGFIHKMLNQPSRTWVYX", "ACDEFGHIKLMNPQRSTVWXY", "LBEGIHST"


def encode_residues(sequence: str) -> np.ndarray:
    """Letters to places in `RESIDUES`.

    Args:
        sequence: one-letter codes, upper or lower case; white space and a final `*` are left out, X is unknown.

    Returns:
        [T] uint8.

    Raises:
        ValueError: if there is no residue, or a letter is none of the twenty and X.

    Example:
        >>> encode_residues("acx Y").tolist()
        [0, 1, 20, 19]
    """
    letters = "".join(sequence.split()).upper().removesuffix("*")
    if not letters:
        raise ValueError("`sequence` must have at least one residue, got none")
    for place, letter in enumerate(letters, start=1):
        if letter not in RESIDUES + "X":
            raise ValueError(f"`sequence` must be of {RESIDUES} and X (unknown), got {letter!r} at residue {place}")
    return np.array([(RESIDUES + "X").index(letter) for letter in letters], np.uint8)


def read_fasta(path: str | os.PathLike[str]) -> dict[str, str]:
    """The sequences of a FASTA file.

    Args:
        path: a text file of `>name description` lines, each followed by lines of letters.

    Returns:
        `{name: letters}` in the order of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no record, text before the first one, an empty record, or a name without letters or
            twice.
    """
    records: dict[str, list[str]] = {}
    name = None
    for number, line in enumerate(pathlib.Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if line.startswith(">"):
            name = (line[1:].split() or [""])[0]
            if not name or name in records:
                raise ValueError(f"`path`: every record must have a name of its own, got {line!r} in line {number}")
            records[name] = []
        elif line:
            if name is None:
                raise ValueError(f"`path`: line {number} must start a record with '>', got {line[:20]!r}")
            records[name].append(line)
    empty = [record for record, lines in records.items() if not lines]
    if empty or not records:
        raise ValueError(f"`path` must hold records with sequences, got none in {empty or path}")
    return {record: "".join(lines) for record, lines in records.items()}
