"""A finite automaton out of a network that was trained on a regular language, by asking it about words."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Automaton", "ExtractionReport", "extract_automaton"]

Word = tuple[int, ...]
Accepts = Callable[[Sequence[Word]], np.ndarray]
"""`(words) -> [N] bool`: which of them are in the language, as the network sees it. One batch a call."""


class Automaton(NamedTuple):
    """A deterministic finite automaton; it starts in state 0.

    Attributes:
      transitions: [S, A] integers: the state after each state and letter.
      accepting: [S] bool.
    """

    transitions: np.ndarray
    accepting: np.ndarray

    def state(self, word: Word) -> int:
        """The state after a word."""
        now = 0
        for letter in word:
            now = int(self.transitions[now, letter])
        return now

    def accepts(self, words: Sequence[Word]) -> np.ndarray:
        """Which words it accepts, [N] bool."""
        return np.array([self.accepting[self.state(word)] for word in words], bool)


class ExtractionReport(NamedTuple):
    """How an extraction went.

    Attributes:
      agreement: share of the last random words on which network and automaton agree.
      words: how many words the network was asked about.
      rounds: how many automata were tried.
      exact: whether no random word told them apart. If not, there were `max_states` states: the network may not be
        regular, or not on words this long.
    """

    agreement: float
    words: int
    rounds: int
    exact: bool


def extract_automaton(
    accepts: Accepts,
    num_letters: int,
    *,
    max_length: int = 30,
    num_words: int = 1000,
    max_states: int = 50,
    seed: int = 0,
) -> tuple[Automaton, ExtractionReport]:
    """Learns the smallest automaton that agrees with a network, by Angluin's L*.

    The network answers whether words are in the language; words that lead to states which no continuation tells apart
    are one state. An automaton is accepted when it agrees with the network on `num_words` random words of up to
    `max_length` letters; a word on which they differ says which states are to be split.

    Args:
      accepts: see `Accepts`.
      num_letters: A; letters are 0 ... A - 1.
      max_length: of random words. A network is only asked about what is not much longer.
      num_words: random words in each round.
      max_states: S at most.
      seed: of the random words.

    Returns:
      the automaton and the `ExtractionReport`. The automaton is minimal for the words that were asked.

    Raises:
      ValueError: an argument makes no sense, or `accepts` does not give a bool for each word.

    Example:
      >>> even = lambda words: np.array([word.count(1) % 2 == 0 for word in words])
      >>> automaton, report = extract_automaton(even, 2)
      >>> automaton.transitions.tolist(), automaton.accepting.tolist(), report.exact
      ([[0, 1], [1, 0]], [True, False], True)

    References:
      Angluin, Learning regular sets from queries and counterexamples, 1987; Weiss, Goldberg & Yahav, Extracting
      automata from recurrent neural networks using queries and counterexamples, 2018, arXiv:1711.09576.
    """
    for name, value in (
        ("num_letters", num_letters),
        ("max_length", max_length),
        ("num_words", num_words),
        ("max_states", max_states),
    ):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    oracle = _Oracle(accepts)
    rng = np.random.default_rng(seed)
    access: list[Word] = [()]
    endings: list[Word] = [()]
    rounds = 0
    while True:
        rounds += 1
        automaton = _close(oracle, access, endings, num_letters, max_states)
        lengths = rng.integers(0, max_length + 1, num_words)
        words = [tuple(rng.integers(0, num_letters, length).tolist()) for length in lengths]
        wrong = np.flatnonzero(automaton.accepts(words) != oracle.ask(words))
        report = ExtractionReport(1 - len(wrong) / num_words, len(oracle.known), rounds, not len(wrong))
        if not len(wrong) or len(access) >= max_states:
            return automaton, report
        shortest = min((words[i] for i in wrong), key=len)
        before = len(endings)
        endings += [shortest[i:] for i in range(len(shortest)) if shortest[i:] not in endings]
        if len(endings) == before:  # nothing new to tell states apart by: the answers contradict each other
            return automaton, report


class _Oracle:
    """Remembers what the network said."""

    def __init__(self, accepts: Accepts) -> None:
        self.accepts, self.known = accepts, {}

    def ask(self, words: Sequence[Word]) -> np.ndarray:
        """The answers, [N] bool; only new words are sent to the network, in one batch."""
        new = [word for word in dict.fromkeys(words) if word not in self.known]
        if new:
            answers = np.asarray(self.accepts(new))
            if answers.shape != (len(new),) or answers.dtype != bool:
                raise ValueError(
                    f"`accepts` must give a bool for each of {len(new)} words, got {answers.dtype} {answers.shape}"
                )
            self.known |= dict(zip(new, answers.tolist(), strict=True))
        return np.array([self.known[word] for word in words], bool)


def _close(oracle: _Oracle, access: list[Word], endings: list[Word], num_letters: int, max_states: int) -> Automaton:
    """Adds words to `access` until every letter leads from a state to a state, and gives the automaton."""

    def row(word: Word) -> tuple[bool, ...]:
        return tuple(oracle.ask([word + ending for ending in endings]).tolist())

    oracle.ask([word + ending for word in access for ending in endings])
    rows: dict[tuple[bool, ...], int] = {}
    for word in access:
        rows.setdefault(row(word), len(rows))
    kept: list[Word] = []
    for word in access:
        if rows[row(word)] == len(kept):
            kept.append(word)
    access[:] = kept
    transitions: list[list[int]] = []
    number = 0
    while number < len(access):
        nexts = [(*access[number], letter) for letter in range(num_letters)]
        oracle.ask([word + ending for word in nexts for ending in endings])
        line = []
        for word in nexts:
            seen = row(word)
            if seen not in rows:
                if len(access) >= max_states:
                    nearest = min(rows, key=lambda other: sum(a != b for a, b in zip(seen, other, strict=True)))
                    rows[seen] = rows[nearest]
                else:
                    rows[seen] = len(access)
                    access.append(word)
            line.append(rows[seen])
        transitions.append(line)
        number += 1
    return Automaton(np.array(transitions), oracle.ask(access))
