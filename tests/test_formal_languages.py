"""Languages against their definitions in words, automata against those that are known."""

import itertools
import re

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import formal_languages
from experiments._languages import LANGUAGES, draw_automaton, is_exact, shortest_words
from experiments.formal_languages import Config, asked, build, last_classes, scores, words_of_lengths
from rnn_jax.analysis import Automaton, extract_automaton


def balanced(word: str) -> bool:
    while "()" in word:
        word = word.replace("()", "")
    return not word


MEMBER = {
    "parity": lambda word: word.count("1") % 2 == 0,
    "even_pairs": lambda word: len(re.findall("(?=ab|ba)", word)) % 2 == 0,
    "sum_mod_5": lambda word: sum(map(int, word)) % 5 == 0,
    "dyck_1": balanced,
    "a_n_b_n": lambda word: word == "a" * (len(word) // 2) + "b" * (len(word) // 2),
}


def all_words(name: str, length: int) -> np.ndarray:
    return np.array(list(itertools.product(range(len(LANGUAGES[name].letters)), repeat=length)), np.int64)


def text(name: str, word) -> str:
    return "".join(LANGUAGES[name].letters[letter] for letter in word)


@pytest.mark.parametrize("name", LANGUAGES)
def test_class_0_is_the_language(name: str) -> None:
    words = all_words(name, 6)
    labels = LANGUAGES[name].label(words)
    assert labels.shape == (len(words), 7)
    assert labels.max() == LANGUAGES[name].num_classes - 1
    for length in range(7):
        expected = [MEMBER[name](text(name, word[:length])) for word in words]
        np.testing.assert_array_equal(labels[:, length] == 0, expected)


@pytest.mark.parametrize("name", ["dyck_1", "a_n_b_n"])
def test_class_1_of_a_counter_language_is_what_can_still_become_a_word_of_it(name: str) -> None:
    words = all_words(name, 5)
    labels = LANGUAGES[name].label(words)[:, -1]
    endings = ["".join(ending) for n in range(1, 6) for ending in itertools.product(LANGUAGES[name].letters, repeat=n)]
    for word, label in zip(words, labels, strict=True):
        own = text(name, word)
        hope = any(MEMBER[name](own + ending) for ending in endings)
        assert label == (0 if MEMBER[name](own) else 1 if hope else 2), own


@pytest.mark.parametrize("name", LANGUAGES)
def test_words_are_of_all_classes(name: str) -> None:
    language, rng = LANGUAGES[name], np.random.default_rng(0)
    for words in (language.train(rng, 400, 24), language.test(rng, 400, 24)):
        assert words.shape == (400, 24)
        assert set(np.unique(words)) == set(range(len(language.letters)))
        assert set(np.unique(language.label(words))) == set(range(language.num_classes))
    last = np.bincount(language.label(language.test(rng, 2000, 24))[:, -1]) / 2000
    expected = np.full(language.num_classes, 1 / language.num_classes) if language.num_states else [0.5, 0.25, 0.25]
    np.testing.assert_allclose(last, expected, atol=0.05)


@pytest.mark.parametrize("name", ["parity", "even_pairs", "sum_mod_5"])
def test_the_automaton_of_a_language_is_exact_and_one_with_a_wrong_arrow_is_not(name: str) -> None:
    language = LANGUAGES[name]
    accepts = lambda words: np.array([MEMBER[name](text(name, word)) for word in words], bool)  # noqa: E731
    automaton, _ = extract_automaton(accepts, len(language.letters), max_length=12, num_words=300)
    assert len(automaton.accepting) == language.num_states
    assert is_exact(automaton, language)
    wrong = automaton.transitions.copy()
    wrong[-1, 0] = (wrong[-1, 0] + 1) % language.num_states
    assert not is_exact(Automaton(wrong, automaton.accepting), language)
    assert not is_exact(Automaton(np.zeros((1, len(language.letters)), int), np.array([True])), language)
    for state, word in enumerate(shortest_words(automaton)):
        assert automaton.state(word) == state


def test_a_picture_has_a_node_for_each_state_and_a_second_ring_where_it_accepts() -> None:
    ax = Figure().subplots()
    automaton = Automaton(np.array([[0, 1], [1, 0], [2, 2]]), np.array([True, False, True]))
    draw_automaton(automaton, "ab", ax, "two and one that is never reached")
    assert len(ax.patches) == 5
    names = [one.get_text() for one in ax.texts]
    assert sorted(names) == sorted(["a", "b", "a", "b", "a,b", "start", "b", "?", "", "", "", "", ""])


def test_test_words_end_where_they_say() -> None:
    words = words_of_lengths(["parity", "a_n_b_n"], 4, (2, 6), 0)
    assert words.letters.shape == (2, 8, 7)
    assert (words.letters[:, :, 0] == formal_languages.START).all()
    assert (words.letters[:, :4, 3:] == formal_languages.START).all()
    for place, name in enumerate(("parity", "a_n_b_n")):
        for row, end in enumerate([2] * 4 + [6] * 4):
            word = text(name, words.letters[place, row, 1 : end + 1])
            assert (words.labels[place, row, end] == 0) == MEMBER[name](word)


@pytest.mark.parametrize("cell", ["elman", "lru"])
def test_a_network_is_asked_about_words_of_any_length_and_sees_no_padding(cell: str) -> None:
    network = build(cell, 3)
    params = network.init(jax.random.key(0))
    params = (params[0], params[1]._replace(w=100 * params[1].w))
    words = [(), (1,), (0, 1, 1), (2, 2, 0, 1, 0)]
    found = asked(network, params)(words)
    for word, answer in zip(words, found, strict=True):
        letters = np.array([formal_languages.START, *word])[:, None]
        assert answer == (int(last_classes(network, params, letters, np.array([len(word)]))[0]) == 0)


def test_scores_are_of_lengths_beyond_those_of_training() -> None:
    config = Config(test_lengths=(10, 20, 30, 40), seeds=2)
    told = scores(config, np.array([[1.0, 0.95, 0.7, 0.9], [0.5, 1.0, 1.0, 1.0]]), 20)
    assert told == {"best": 1.0, "generalise": 0.5, "reach": 20, "seeds": pytest.approx([0.8, 1.0])}


def test_the_cell_whose_automata_are_wanted_must_be_there(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"`extracted` must be one of `cells`, \('lstm',\), got 'gru'"):
        formal_languages.run(Config(cells=("lstm",)), tmp_path)
