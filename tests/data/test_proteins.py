"""Protein chains: the files they come from, written here byte by byte, the split, and letters."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from rnn_jax.data.proteins import (
    CB513,
    RESIDUES,
    STATES,
    THREE_OF_EIGHT,
    Chain,
    encode_residues,
    load_cb513,
    load_protein_chains,
    read_fasta,
    read_structure_db,
    split_by_entry,
)

Made = tuple[str, str, str, np.ndarray]
"""Name, letters, states and counts [T, 20] of frequency times 10,000."""


def make_chain(name: str, size: int, seed: int, letters: str = RESIDUES) -> Made:
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(10_000, rng.dirichlet(np.full(20, 0.3), size), size=size).astype("<u2")
    return name, "".join(rng.choice(list(letters), size)), "".join(rng.choice(list(STATES), size)), counts


def write_database(path: Path, chains: list[Made]) -> bytes:
    """A structure database as ProMod3 writes it, with other numbers in what is not read."""
    total = sum(len(chain[1]) for chain in chains)
    parts = [struct.pack("<II", 1234, 2).ljust(0x4D, b"\7"), struct.pack("<Q", len(chains))]
    first = 0
    for name, letters, _, _ in chains:
        entry, chain = name[:4].encode(), name[4:].encode()
        parts += [struct.pack("<i", len(entry)), entry, struct.pack("<i", len(chain)), chain]
        parts.append(struct.pack("<IHHfff", first, len(letters), 3, 0.5, 1.5, 2.5))
        first += len(letters)
    arrays = [
        "".join(chain[1] for chain in chains).encode(),
        *(bytes([size]) * size * total for size in (24, 4, 2, 2)),
        "".join(chain[2] for chain in chains).encode(),
        np.concatenate([chain[3] for chain in chains]).tobytes(),
        b"\0" * 40 * total,
    ]
    for array in arrays:
        parts += [struct.pack("<Q", total), array]
    path.write_bytes(b"".join(parts))
    return b"".join(parts)


def test_a_structure_database_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = [
        make_chain("1ABCA", 41, seed=0),
        make_chain("2XYZB2", 39, seed=1),  # too short
        make_chain("1ABCC", 40, seed=2, letters=RESIDUES + "X"),  # has unknown residues
        make_chain("3DEF_", 512, seed=3),
        make_chain("3DEFA", 513, seed=4),  # too long
    ]
    write_database(tmp_path / "db.dat", made)
    chains = read_structure_db(tmp_path / "db.dat")
    assert [chain.name for chain in chains] == ["1ABCA", "3DEF_"]
    for chain, (_, letters, states, counts) in zip(chains, [made[0], made[3]], strict=True):
        assert "".join(RESIDUES[i] for i in chain.residues) == letters
        assert "".join(STATES[i] for i in chain.states) == states
        np.testing.assert_allclose(chain.profile**2, counts / 10_000, atol=1 / 250)
        np.testing.assert_array_equal(chain.profile, np.round(chain.profile * 255) / np.float32(255))


def test_chains_are_drawn_from_the_database_where_the_small_file_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNN_JAX_DATA", str(tmp_path))
    monkeypatch.setenv("RNN_JAX_CACHE", str(tmp_path))
    write_database(tmp_path / "db.dat", [make_chain(f"{i}ABCA", 40 + i, seed=i) for i in range(1, 8)])
    everything = load_protein_chains(None, tmp_path / "db.dat")
    assert [len(chain.residues) for chain in everything] == [41, 42, 43, 44, 45, 46, 47]
    some = load_protein_chains(3, tmp_path / "db.dat")
    order = np.random.default_rng(0).permutation(7)[:3]
    assert [chain.name for chain in some] == [everything[i].name for i in order]
    with pytest.raises(ValueError, match=r"`num_chains` must be at most 7, got 9"):
        load_protein_chains(9, tmp_path / "db.dat")
    with pytest.raises(ValueError, match=r"`num_chains` must be >= 1 or None, got 0"):
        load_protein_chains(0)
    with pytest.raises(FileNotFoundError, match=r"(?s)protein_3000_profile.*apt-get download promod3-data.*nowhere"):
        load_protein_chains(path=tmp_path / "nowhere.dat")


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db.dat"
    whole = write_database(path, [make_chain("1ABCA", 40, seed=0)])
    for size in (10, 0x55, 0x60, 0x90, 1200, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"`path` is cut short: .* has {size} bytes"):
            read_structure_db(path)
    path.write_bytes(struct.pack("<II", 1234, 3) + whole[8:])
    with pytest.raises(ValueError, match="must be a structure database of ProMod3, version 2"):
        read_structure_db(path)
    path.write_bytes(whole[:-1608] + b"\1" + whole[-1607:])
    with pytest.raises(ValueError, match=r"must have .* of 40 residues at byte"):
        read_structure_db(path)
    with pytest.raises(FileNotFoundError, match="promod3-data"):
        read_structure_db(tmp_path / "nowhere.dat")


def test_the_small_file_has_the_chains_it_should() -> None:
    try:
        chains = load_protein_chains()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    assert len(chains) == 3000
    assert sum(len(chain.residues) for chain in chains) == 622_412
    parts = split_by_entry(chains)
    assert [len(part) for part in parts] == [2427, 289, 284]
    entries = [{chain.name[:4] for chain in part} for part in parts]
    assert not entries[0] & entries[1] | entries[0] & entries[2] | entries[1] & entries[2]
    states = np.concatenate([chain.states for chain in chains])
    shares = np.bincount(THREE_OF_EIGHT[states]) / len(states)
    np.testing.assert_allclose(shares, [0.3842, 0.2305, 0.3854], atol=1e-3)


def cb513_rows(lengths: list[int]) -> tuple[np.ndarray, list[tuple[str, str, np.ndarray]]]:
    """Rows [N, 39900] in the published layout, and what is in them; profiles in the order of RESIDUES."""
    rng = np.random.default_rng(0)
    rows, texts = np.zeros((len(lengths), 700, 57)), []
    for row, length in zip(rows, lengths, strict=True):
        letters, states = rng.choice(list(RESIDUES + "X"), length), rng.choice(list(STATES), length)
        profile = rng.random((length, 20))
        row[:, 21] = row[:, 30] = row[:, 56] = 1
        row[:length, [21, 30, 56]] = 0
        for place in range(length):
            row[place, "ACEDGFIHKMLNQPSRTWVYX".index(letters[place])] = 1
            row[place, 22 + "LBEGIHST".index(states[place].replace("C", "L"))] = 1
            for column, letter in enumerate(RESIDUES):
                row[place, 35 + "ACDEFGHIKLMNPQRSTVWXY".index(letter)] = profile[place, column]
        texts.append(("".join(letters), "".join(states), profile))
    return rows.reshape(len(lengths), -1), texts


def test_cb513_is_read_in_the_layout_of_its_authors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, texts = cb513_rows([5, 700, 1])
    with gzip.open(tmp_path / CB513, "wb") as file:
        np.save(file, rows)
    monkeypatch.setenv("RNN_JAX_DATA", str(tmp_path))
    chains = load_cb513()
    assert [chain.name for chain in chains] == [f"cb513+profile_split1:{i}" for i in range(3)]
    for chain, (letters, states, profile) in zip(chains, texts, strict=True):
        assert "".join((RESIDUES + "X")[i] for i in chain.residues) == letters
        assert "".join(STATES[i] for i in chain.states) == states
        np.testing.assert_array_equal(chain.profile, profile.astype(np.float32))
    np.save(tmp_path / "plain.npy", rows.reshape(3, 700, 57))
    again = load_cb513(tmp_path / "plain.npy")
    np.testing.assert_array_equal(again[1].states, chains[1].states)


def test_what_is_not_cb513_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros((2, 39901)))
    with pytest.raises(ValueError, match=r"`path` must hold rows \[N, 39900\].*got \(2, 39901\)"):
        load_cb513(path)
    rows, _ = cb513_rows([4])
    rows[0, 2 * 57 + 22 : 2 * 57 + 30] = 0
    np.save(path, rows)
    with pytest.raises(ValueError, match="one amino acid and one state, not so in row 0"):
        load_cb513(path)
    with pytest.raises(FileNotFoundError, match=r"princeton\.edu"):
        load_cb513(tmp_path / "nowhere.npy.gz")


def test_chains_of_one_entry_stay_together() -> None:
    nothing = np.zeros(0)
    names = [f"{entry:04d}{chain}" for entry in range(3000) for chain in "AB"]
    parts = split_by_entry([Chain(name, nothing, nothing, nothing) for name in names])
    found = [[chain.name for chain in part] for part in parts]
    assert sorted(name for part in found for name in part) == sorted(names)
    for part in found:
        assert [name[:4] for name in part[::2]] == [name[:4] for name in part[1::2]]
    np.testing.assert_allclose([len(part) / len(names) for part in found], [0.81, 0.1, 0.1], atol=0.02)


def test_letters_that_are_no_residue_are_refused() -> None:
    assert "".join((RESIDUES + "X")[i] for i in encode_residues("mkt ax\nYW*")) == "MKTAXYW"
    with pytest.raises(ValueError, match=r"`sequence` must be of .* and X \(unknown\), got 'B' at residue 3"):
        encode_residues("ACB")
    with pytest.raises(ValueError, match="at least one residue, got none"):
        encode_residues(" \n")


def test_fasta(tmp_path: Path) -> None:
    path = tmp_path / "some.fasta"
    path.write_text(">one first protein\nMKTA\nYW\n\n>two\nac\n")
    assert read_fasta(path) == {"one": "MKTAYW", "two": "ac"}
    for text, message in (
        ("MKT\n>one\nA", "line 1 must start a record"),
        (">one\n>two\nA", r"got none in \['one'\]"),
        ("", "must hold records"),
        (">one\nA\n>one\nC", "a name of its own, got '>one' in line 3"),
        ("> \nA", "a name of its own"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_fasta(path)
