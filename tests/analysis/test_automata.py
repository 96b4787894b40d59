"""Automata out of functions whose automaton is known."""

import itertools

import numpy as np
import pytest

from rnn_jax.analysis import extract_automaton


def of(test):
    return lambda words: np.array([bool(test(word)) for word in words], bool)


def no_three_zeros(word) -> bool:
    return "000" not in "".join(map(str, word))


LANGUAGES = {  # the language, its letters, and the size of its smallest automaton
    "parity": (lambda word: sum(word) % 2 == 0, 2, 2),
    "three divides the ones": (lambda word: sum(word) % 3 == 0, 2, 3),
    "Tomita 1: only ones": (lambda word: 0 not in word, 2, 2),
    "Tomita 2: (10)*": (lambda word: word == (1, 0) * (len(word) // 2), 2, 3),
    "Tomita 4: no 000": (no_three_zeros, 2, 4),
    "Tomita 5: even and even": (lambda word: word.count(0) % 2 == word.count(1) % 2 == 0, 2, 4),
    "sum modulo 5 of digits": (lambda word: sum(word) % 5 == 0, 5, 5),
    "everything": (lambda word: True, 2, 1),
}


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_smallest_automaton_is_found_and_agrees_on_all_short_words(name: str) -> None:
    test, letters, size = LANGUAGES[name]
    automaton, report = extract_automaton(of(test), letters, max_length=12, num_words=400)
    assert report.exact
    assert report.agreement == 1
    assert len(automaton.accepting) == size
    words = [word for n in range(7) for word in itertools.product(range(letters), repeat=n)][:4000]
    assert (automaton.accepts(words) == of(test)(words)).all()
    assert automaton.transitions.shape == (size, letters)


def test_what_is_not_regular_fills_the_states_and_says_so() -> None:
    balanced = of(lambda word: word.count(0) == word.count(1))
    automaton, report = extract_automaton(balanced, 2, max_length=20, max_states=6)
    assert not report.exact
    assert len(automaton.accepting) <= 6
    assert 0.5 < report.agreement < 1


def test_each_word_is_asked_once() -> None:
    asked: list = []

    def parity(words):
        asked.extend(words)
        return np.array([sum(word) % 2 == 0 for word in words], bool)

    _, report = extract_automaton(parity, 2, num_words=50)
    assert len(asked) == len(set(asked)) == report.words


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="`num_letters` must be at least 1, got 0"):
        extract_automaton(of(lambda word: True), 0)
    with pytest.raises(ValueError, match="`accepts` must give a bool for each of 1 words, got float64"):
        extract_automaton(lambda words: np.ones(len(words)), 2)
