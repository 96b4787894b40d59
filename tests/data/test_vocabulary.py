import sys
import unicodedata

import numpy as np
import pytest

from rnn_jax.data import (
    END,
    START,
    UNKNOWN,
    build_vocabulary,
    decode,
    decode_line,
    encode,
    encode_line,
    load_multi30k,
    load_subwords,
    save_subwords,
    train_subwords,
)

SENTENCES = [line.split() for line in ("a rose is a rose", "is a thorn", "thorn of a rose")]
LINES = [
    "Zwei junge weiße Männer sind im Freien, in der Nähe vieler Büsche.",
    "Ein Mann (mit Hut) schläft auf einem Sofa!",
    'Two men\'s dogs run -- fast; "stop" he says: 3,50 €?',
]


@pytest.fixture(scope="module")
def subwords():
    pytest.importorskip("tokenizers")
    return train_subwords(LINES * 2, vocab_size=120)


def test_symbols_are_numbered_by_falling_count_then_by_name():
    vocabulary = build_vocabulary(SENTENCES)
    assert vocabulary.symbols == ("<s>", "</s>", "a", "rose", "is", "thorn", "of")
    assert vocabulary.ids == {symbol: i for i, symbol in enumerate(vocabulary.symbols)}
    assert (vocabulary.ids["<s>"], vocabulary.ids["</s>"]) == (START, END)
    assert build_vocabulary(SENTENCES[::-1]) == vocabulary


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"min_count": 2}, ("a", "rose", "is", "thorn")),
        ({"min_count": 3}, ("a", "rose")),
        ({"max_size": 5}, ("a", "rose")),
        ({"max_size": 3}, ()),
        ({"max_size": 99}, ("a", "rose", "is", "thorn", "of")),
        ({"min_count": 3, "max_size": 4}, ("a",)),
    ],
)
def test_a_limit_leaves_out_the_rarest_and_brings_an_unknown_symbol(limits, kept):
    vocabulary = build_vocabulary(SENTENCES, **limits)
    assert vocabulary.symbols == ("<s>", "</s>", "<unk>", *kept)
    ids = encode(vocabulary, ["lily", *kept, "lily"])
    assert ids.tolist() == [UNKNOWN, *range(3, 3 + len(kept)), UNKNOWN]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_count": 0}, r"`min_count` must be >= 1, got 0"),
        ({"max_size": 2}, r"`max_size` must leave room for <s>, </s>, <unk>, got 2"),
        ({"sequences": [["a", "</s>"]]}, r"`sequences` must not hold the special symbol '</s>'"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_vocabulary(**{"sequences": SENTENCES, **arguments})


@pytest.mark.parametrize("sentence", [*SENTENCES, []])
def test_decoding_gives_back_what_was_encoded(sentence):
    vocabulary = build_vocabulary(SENTENCES)
    ids = encode(vocabulary, iter(sentence))
    assert ids.dtype == np.int32
    assert ids.shape == (len(sentence),)
    assert decode(vocabulary, ids) == sentence
    assert decode(vocabulary, [START, *ids, END, 3, END, 4]) == sentence


def test_only_the_first_start_and_the_first_end_frame_a_sequence():
    vocabulary = build_vocabulary(SENTENCES)
    assert decode(vocabulary, [2, START, 3]) == ["a", "<s>", "rose"]
    assert decode(vocabulary, [START]) == decode(vocabulary, [END, 2]) == decode(vocabulary, [START, END]) == []


def test_a_symbol_that_is_not_in_a_complete_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"`sequence` must hold symbols of the vocabulary, .* no <unk>, got 'b'"):
        encode(build_vocabulary(SENTENCES), ["a", "b"])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([2, 7], r"`ids` must be integers in \[0, 7\), got int64 from 2 to 7"),
        ([-1, 2], r"`ids` must be integers in \[0, 7\), got int64 from -1 to 2"),
        ([2.0], r"`ids` must be integers in \[0, 7\), got float64"),
        ([[2]], r"`ids` must have shape \[T\], got \[1, 1\]"),
    ],
)
def test_ids_that_cannot_be_decoded_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        decode(build_vocabulary(SENTENCES), ids)


def test_subwords_start_with_the_special_symbols_and_number_no_more_than_wanted(subwords):
    assert subwords.vocabulary.symbols[:3] == ("<s>", "</s>", "<unk>")
    assert len(set(subwords.vocabulary.symbols)) == len(subwords.vocabulary.symbols) <= 120
    assert subwords.vocabulary.ids["<unk>"] == UNKNOWN


def plain(line):
    return unicodedata.normalize("NFC", " ".join(line.lower().split()))


@pytest.mark.parametrize(
    "line",
    [
        *LINES,
        "schlafende dogs , im Sofa -- ( 53 ) ;",
        "  two\tmen \n sind\u00a0in der\u2003Nähe  ",
        unicodedata.normalize("NFD", "Männer, Büsche"),
        "",
        "!?!",
        "...",
        "MÄNNER!",
        "'",
    ],
)
def test_text_survives_the_round_trip(subwords, line):
    ids = encode_line(subwords, line)
    assert ids.dtype == np.int32
    assert UNKNOWN not in ids
    assert decode_line(subwords, ids) == plain(line)
    assert decode_line(subwords, [START, *ids, END, 5, 6]) == plain(line)


def test_a_mark_that_shows_spaces_counts_as_one(subwords):
    assert decode_line(subwords, encode_line(subwords, "ein▁ ▁mann")) == "ein mann"


def test_without_lower_the_case_is_kept():
    pytest.importorskip("tokenizers")
    subwords = train_subwords(LINES * 2, vocab_size=120, lower=False)
    assert [decode_line(subwords, encode_line(subwords, line)) for line in LINES] == LINES


def test_characters_that_were_not_seen_are_unknown_and_special_symbols_in_text_are_text(subwords):
    assert encode_line(subwords, "日").tolist().count(UNKNOWN) == 1
    for text in ("<s>", "</s> mann", "<unk>"):
        assert not {START, END} & set(encode_line(subwords, text).tolist())


def test_merges_are_by_count_within_words_and_split_at_punctuation():
    pytest.importorskip("tokenizers")
    lines = ["ab ab,ab cd", "ab,ab cd"]
    subwords = train_subwords(lines, vocab_size=100)
    symbols = subwords.vocabulary.symbols
    assert set(symbols[3:]) == {"▁", "a", "b", "c", "d", ",", "ab", "▁ab", "cd", "▁cd"}
    assert symbols[9] == "ab"  # 5 times, the most frequent pair
    assert decode(subwords.vocabulary, encode_line(subwords, "ab,cd abcd")) == ["▁ab", ",", "cd", "▁ab", "cd"]
    assert len(train_subwords(lines, vocab_size=10).vocabulary.symbols) == 10


def test_the_order_of_lines_does_not_matter():
    pytest.importorskip("tokenizers")
    lines = [f"wort{i % 7} satz{i % 5} haus{i % 3}" for i in range(40)]
    first, second = (train_subwords(text, vocab_size=40) for text in (lines, lines[::-1]))
    assert first.vocabulary == second.vocabulary
    assert first.tokenizer.to_str() == second.tokenizer.to_str()


def test_what_is_saved_is_what_is_loaded(subwords, tmp_path):
    save_subwords(subwords, tmp_path / "subwords.json")
    loaded = load_subwords(tmp_path / "subwords.json")
    assert loaded.vocabulary == subwords.vocabulary
    for line in [*LINES, "<s> 日 </s>"]:
        assert encode_line(loaded, line).tolist() == encode_line(subwords, line).tolist()


def test_a_size_that_cannot_hold_the_characters_is_refused():
    pytest.importorskip("tokenizers")
    with pytest.raises(ValueError, match=r"`vocab_size` must hold the special symbols and all characters, 7, got 6"):
        train_subwords(["abc"] * 2, vocab_size=6)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"subwords need the package `tokenizers`: pip install tokenizers"):
        train_subwords(LINES, vocab_size=100)


def test_every_line_of_multi30k_survives_the_round_trip():
    pytest.importorskip("tokenizers")
    try:
        pairs = load_multi30k()
    except FileNotFoundError as error:
        pytest.skip(f"Multi30k cannot be found: {error}")
    for side in (0, 1):
        subwords = train_subwords([pair[side] for pair in pairs.train], vocab_size=4000)
        assert len(subwords.vocabulary.symbols) == 4000
        for line in (pair[side] for part in (pairs.train[::20], pairs.valid, pairs.test) for pair in part):
            assert decode_line(subwords, encode_line(subwords, line)) == plain(line)
