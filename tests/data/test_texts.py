"""Texts, their splits and the baselines, against dictionaries and plain loops."""

import lzma
import math
import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rnn_jax.data import (
    fetch,
    join_symbols,
    kneser_ney_bits,
    load_text,
    read_text,
    split_symbols,
    unigram_bits,
    xz_bits,
)


def kneser_ney_oracle(train: list[int], test: list[int], order: int, size: int) -> float:
    """The equation of the docstring, with dictionaries of tuples."""
    counts: list[Counter] = []
    for n in range(1, order + 1):
        grams = [tuple(train[i : i + n]) for i in range(len(train) - n + 1)]
        if n < order:
            longer = {tuple(train[i : i + n + 1]) for i in range(len(train) - n)}
            grams = [gram[1:] for gram in longer]
        counts.append(Counter(grams))
    history, total = list(train), 0.0
    for symbol in test:
        p = 1 / size
        for n in range(1, order + 1):
            table = counts[n - 1]
            once, twice = (sum(count == k for count in table.values()) for k in (1, 2))
            discount = once / (once + 2 * twice) if once else 0.5
            context = tuple(history[len(history) - n + 1 :])
            followers = {gram[-1]: count for gram, count in table.items() if gram[:-1] == context}
            if followers:
                mass = sum(followers.values())
                p = (max(followers.get(symbol, 0) - discount, 0) + discount * len(followers) * p) / mass
        total -= math.log2(p)
        history.append(symbol)
    return total / len(test)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_kneser_ney_is_its_equation(order: int) -> None:
    rng = np.random.default_rng(order)
    train = rng.integers(0, 4, 60) * rng.integers(0, 2, 60)  # symbols of unequal frequency, in 0 ... 5
    test = rng.integers(0, 6, 25)  # 4 and 5 were never seen
    assert kneser_ney_bits(train, test, order, 6) == pytest.approx(
        kneser_ney_oracle(train.tolist(), test.tolist(), order, 6), rel=1e-12
    )


def test_kneser_ney_is_a_distribution() -> None:
    train = np.random.default_rng(1).integers(0, 3, 40)
    total = sum(2 ** -kneser_ney_bits(train, [symbol], 3, 5) for symbol in range(5))
    assert total == pytest.approx(1, abs=1e-12)


def test_unigrams_and_xz_are_what_they_say() -> None:
    train, test = [0, 0, 2, 1], [2, 0, 3]
    expected = -sum(math.log2((train.count(symbol) + 1) / 8) for symbol in test) / 3
    assert unigram_bits(train, test, 4) == pytest.approx(expected)
    before, after = "the same words again. " * 20, "the same words again, and others."
    sizes = [len(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)) for text in (before + after, before)]
    assert xz_bits(before, after) == pytest.approx(8 * (sizes[0] - sizes[1]) / len(after))


def test_a_file_is_cut_in_three_and_numbered_by_frequency(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abba" * 9 + "cab" + "dab\n")  # 43 characters, 4 of them in valid and 5 in test
    text = load_text(path, held_out=(0.1, 0.11))
    assert [raw for (raw,) in text.raw] == ["abba" * 8 + "ab", "baca", "bdab\n"]
    assert [len(ids) for (ids,) in text.splits] == [len(raw) for (raw,) in text.raw]
    symbols = text.vocabulary.symbols
    assert symbols[3:5] == ("a", "b")
    for (ids,), (raw,) in zip(text.splits, text.raw, strict=True):
        known = [symbol if symbol in symbols else "<unk>" for symbol in raw]
        assert [symbols[i] for i in ids] == known
    rare = load_text(path, held_out=(0.1, 0.11), min_count=30)
    assert rare.vocabulary.symbols == ("<s>", "</s>", "<unk>")


def test_words_are_cut_and_joined() -> None:
    line = "Don't go, said he: go!\nWell."
    assert split_symbols(line, "words") == "Don't|go|,|said|he|:|go|!|\n|Well|.".split("|")
    assert join_symbols(split_symbols(line, "words"), "words") == line
    assert join_symbols(split_symbols(line, "characters"), "characters") == line


def test_the_bible_is_a_verse_a_line_without_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "Bible.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE Bible (Passage1 TEXT, Passage2 TEXT)")
        rows = [("1:1 In the beginning.", ""), ("22:20 Surely I come. Amen.", "Even so, come.")]
        database.executemany("INSERT INTO Bible VALUES (?, ?)", rows)
    monkeypatch.setattr("rnn_jax.data.texts.fetch", lambda name: path)
    assert read_text("king_james") == "In the beginning.\nSurely I come. Amen. Even so, come.\n"


def test_the_published_text_is_the_published_text() -> None:
    try:
        fetch("tinyshakespeare")
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    text = load_text("tinyshakespeare")
    (train,), (valid,), (test,) = text.splits
    assert (len(train), len(valid), len(test)) == (1_003_855, 55_769, 55_770)
    assert unigram_bits(train, test, len(text.vocabulary.symbols)) == pytest.approx(4.85, abs=0.005)


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("é".encode("latin-1") * 50)
    short = tmp_path / "short.txt"
    short.write_text("ab")
    for error, match, call in (
        (ValueError, "`unit` must be 'characters' or 'words', got 'bytes'", lambda: load_text(short, unit="bytes")),
        (ValueError, "`held_out` must be two shares", lambda: load_text(short, held_out=(0.5, 0.5))),
        (ValueError, "`source` must be a text with something for every split", lambda: load_text(short)),
        (ValueError, "`source` must be a file in UTF-8", lambda: load_text(latin)),
        (FileNotFoundError, "`source` must be .* or a file, got 'nowhere.txt'", lambda: load_text("nowhere.txt")),
        (ValueError, "`name` must be 'tinyshakespeare' or 'king_james'", lambda: read_text("odyssey")),
        (ValueError, "`order` must be at least 1", lambda: kneser_ney_bits([0, 1], [0], 0, 2)),
        (ValueError, r"`order` must be .* size\^order < 2\^63", lambda: kneser_ney_bits([0, 1], [0], 30, 70)),
        (ValueError, "`train` must have at least `order` = 3", lambda: kneser_ney_bits([0, 1], [0], 3, 2)),
    ):
        with pytest.raises(error, match=match):
            call()
