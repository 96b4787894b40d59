"""Symbols and their ids: whole words or actions, and subwords learned from text.

Ids 0 and 1 are always `START` and `END`; they mark where a sequence begins and ends for a decoder, and
encoding never adds them. Padding needs no symbol, since lengths say what is real.
"""

import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import tokenizers

__all__ = [
    "END",
    "START",
    "UNKNOWN",
    "Subwords",
    "Vocabulary",
    "build_vocabulary",
    "decode",
    "decode_line",
    "encode",
    "encode_line",
    "load_subwords",
    "save_subwords",
    "train_subwords",
]

START, END, UNKNOWN = 0, 1, 2
SPECIALS = ("<s>", "</s>", "<unk>")

_SPACE = "▁"  # how a subword shows that a space comes before it


class Vocabulary(NamedTuple):
    """Symbols and ids. `symbols[START]` is "<s>", `symbols[END]` "</s>"; `symbols[UNKNOWN]` may be "<unk>"."""

    symbols: tuple[str, ...]  # by id
    ids: Mapping[str, int]  # by symbol


def _vocabulary(symbols: Iterable[str]) -> Vocabulary:
    symbols = tuple(symbols)
    return Vocabulary(symbols, {symbol: i for i, symbol in enumerate(symbols)})


def build_vocabulary(sequences: Iterable[Iterable[str]], min_count: int = 1, max_size: int | None = None) -> Vocabulary:
    """Number the symbols of sequences, the most frequent first, equally frequent ones by name.

    "<unk>" stands for what is left out. Without a limit nothing is, so there is no such symbol.

    Args:
        sequences: of symbols, such as words.
        min_count: symbols that are rarer are left out.
        max_size: V at most, with the special symbols; no limit if not given.

    Returns:
        The vocabulary: "<s>", "</s>", with a limit (`min_count` > 1 or a `max_size`) "<unk>", then the symbols.

    Raises:
        ValueError: if a limit is too small, or a sequence holds a special symbol.

    Example:
        >>> build_vocabulary([["run", "left"], ["run"]]).symbols
        ('<s>', '</s>', 'run', 'left')
        >>> build_vocabulary([["run", "left"], ["run"]], min_count=2).symbols
        ('<s>', '</s>', '<unk>', 'run')
    """
    if min_count < 1:
        raise ValueError(f"`min_count` must be >= 1, got {min_count}")
    limited = min_count > 1 or max_size is not None
    if max_size is not None and max_size < len(SPECIALS):
        raise ValueError(f"`max_size` must leave room for {', '.join(SPECIALS)}, got {max_size}")
    counts = Counter(symbol for sequence in sequences for symbol in sequence)
    if reserved := counts.keys() & set(SPECIALS):
        raise ValueError(f"`sequences` must not hold the special symbol {min(reserved)!r}")
    kept = sorted((symbol for symbol in counts if counts[symbol] >= min_count), key=lambda s: (-counts[s], s))
    return _vocabulary([*(SPECIALS if limited else SPECIALS[:UNKNOWN]), *kept][:max_size])


def encode(vocabulary: Vocabulary, sequence: Iterable[str]) -> np.ndarray:
    """Symbols to ids; `START` and `END` are not added.

    Args:
        vocabulary: the vocabulary.
        sequence: T symbols.

    Returns:
        [T] int32; `UNKNOWN` for a symbol that is not in the vocabulary, if it has that id for "<unk>".

    Raises:
        ValueError: if a symbol is not in the vocabulary and that has no "<unk>".

    Example:
        >>> encode(build_vocabulary(["run left left".split()]), ["run", "left"]).tolist()
        [3, 2]
    """
    unknown = vocabulary.ids.get(SPECIALS[UNKNOWN])
    ids = []
    for symbol in sequence:
        if (found := vocabulary.ids.get(symbol, unknown)) is None:
            raise ValueError(
                f"`sequence` must hold symbols of the vocabulary, which has no {SPECIALS[UNKNOWN]}, got {symbol!r}"
            )
        ids.append(found)
    return np.array(ids, np.int32)


def decode(vocabulary: Vocabulary, ids: ArrayLike) -> list[str]:
    """Ids to symbols, up to the first `END`; a leading `START` and the `END` are dropped.

    Args:
        vocabulary: the vocabulary.
        ids: [T] integers.

    Returns:
        At most T symbols.

    Raises:
        ValueError: if ids are not [T], or one is not of the vocabulary.

    Example:
        >>> decode(build_vocabulary(["run left left".split()]), [START, 3, 2, END, 3])
        ['run', 'left']
    """
    ids, size = np.asarray(ids), len(vocabulary.symbols)
    if ids.ndim != 1:
        raise ValueError(f"`ids` must have shape [T], got {list(ids.shape)}")
    if ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= size):
        raise ValueError(f"`ids` must be integers in [0, {size}), got {ids.dtype} from {ids.min()} to {ids.max()}")
    found = ids.tolist()
    stop = found.index(END) if END in found else len(found)
    return [vocabulary.symbols[i] for i in found[int(found[:1] == [START]) : stop]]


class Subwords(NamedTuple):
    """A vocabulary of pieces of words, and the merges that cut text into them."""

    vocabulary: Vocabulary  # with "<unk>"; "▁" in a symbol is a space
    tokenizer: "tokenizers.Tokenizer"


def train_subwords(lines: Iterable[str], vocab_size: int, lower: bool = True) -> Subwords:
    """Learn subwords by byte-pair encoding: from characters, merge the most frequent pair again and again.

    Text is in NFC and, where wanted, lower case, and runs of white space count as one space. Merges cross
    neither a space nor the border of a punctuation mark. A space is kept as a "▁" at the start of the subword
    after it, so `decode_line(encode_line(line))` is that text again, exactly, if `lines` had all its
    characters; others become "<unk>". The result depends on the lines, not on their order.

    Args:
        lines: of text.
        vocab_size: V at most; smaller if there is nothing left that occurs twice.
        lower: whether the text is put in lower case.

    Returns:
        The subwords.

    Raises:
        ImportError: if the package `tokenizers` is not installed.
        ValueError: if `vocab_size` cannot hold all characters.

    Example:
        >>> subwords = train_subwords(["Low, lower, slow."] * 2, vocab_size=16)
        >>> decode(subwords.vocabulary, encode_line(subwords, "lower, low."))
        ['▁low', 'er', ',', '▁low', '.']
        >>> decode_line(subwords, encode_line(subwords, " LOWER,  low."))
        'lower, low.'

    References:
        Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016.
    """
    hf = _tokenizers()
    tokenizer = hf.Tokenizer(hf.models.BPE(unk_token=SPECIALS[UNKNOWN]))
    case = [hf.normalizers.Lowercase()] if lower else []
    spaces = [hf.normalizers.Replace(hf.Regex(rf"[\s{_SPACE}]+"), " "), hf.normalizers.Strip()]
    tokenizer.normalizer = hf.normalizers.Sequence([*case, hf.normalizers.NFC(), *spaces])
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence(
        [hf.pre_tokenizers.Metaspace(_SPACE), hf.pre_tokenizers.Punctuation("isolated")]
    )
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=list(SPECIALS), show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    subwords = _subwords(tokenizer)
    if (size := len(subwords.vocabulary.symbols)) > vocab_size:
        raise ValueError(f"`vocab_size` must hold the special symbols and all characters, {size}, got {vocab_size}")
    return subwords


def encode_line(subwords: Subwords, line: str) -> np.ndarray:
    """Text to ids; `START` and `END` are not added, also where the text spells them.

    Args:
        subwords: the subwords.
        line: text.

    Returns:
        [T] int32.

    Example:
        >>> encode_line(train_subwords(["a b"] * 2, vocab_size=8), "b a").tolist()
        [7, 6]
    """
    return np.array(subwords.tokenizer.encode(line).ids, np.int32)


def decode_line(subwords: Subwords, ids: ArrayLike) -> str:
    """Ids to text, up to the first `END`; a leading `START` and the `END` are dropped.

    Args:
        subwords: the subwords.
        ids: [T] integers.

    Returns:
        The text as it was trained on: lower case if that was wanted, single spaces.

    Raises:
        ValueError: if ids are not [T], or one is not of the vocabulary.

    Example:
        >>> decode_line(train_subwords(["a b"] * 2, vocab_size=8), [START, 7, 6, END, END])
        'b a'
    """
    return "".join(decode(subwords.vocabulary, ids)).replace(_SPACE, " ").strip()


def save_subwords(subwords: Subwords, path: str | os.PathLike[str]) -> None:
    """Write subwords as JSON, in the format of the package `tokenizers`.

    Args:
        subwords: the subwords.
        path: of the file.
    """
    pathlib.Path(path).write_text(subwords.tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")


def load_subwords(path: str | os.PathLike[str]) -> Subwords:
    """Read subwords that `save_subwords` wrote.

    Args:
        path: of the file.

    Returns:
        The subwords.

    Raises:
        ImportError: if the package `tokenizers` is not installed.
    """
    return _subwords(_tokenizers().Tokenizer.from_str(pathlib.Path(path).read_text(encoding="utf-8")))


def _subwords(tokenizer: "tokenizers.Tokenizer") -> Subwords:
    tokenizer.encode_special_tokens = True  # "<s>" in a text is text; the setting is not in the JSON
    ids = tokenizer.get_vocab()
    return Subwords(_vocabulary(sorted(ids, key=ids.__getitem__)), tokenizer)


def _tokenizers() -> Any:
    """The package, imported when it is needed."""
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("subwords need the package `tokenizers`: pip install tokenizers") from error
    return tokenizers
