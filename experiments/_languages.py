"""Five formal languages, words of them, and the picture of a finite automaton."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from rnn_jax.analysis import Automaton
from rnn_jax.plotting import PALETTE

INK, PAPER, SLATE = "#22303C", "#FFFFFF", PALETTE[5]
Words = Callable[[np.random.Generator, int, int], np.ndarray]


class Language(NamedTuple):
    """What there is to learn: the class of every prefix of a word. Class 0 is "in the language"."""

    letters: str  # their names, one character each
    num_classes: int
    num_states: int  # of the smallest automaton; 0 where there is none
    label: Callable[[np.ndarray], np.ndarray]  # words [N, L] -> classes [N, L + 1], the empty prefix first
    train: Words  # (rng, N, L) -> [N, L] integers
    test: Words


def _prefixes(counts: np.ndarray) -> np.ndarray:
    """Running sums of [N, L] with the zero of the empty prefix, [N, L + 1]."""
    return np.pad(np.cumsum(counts, axis=1, dtype=np.int32), ((0, 0), (1, 0)))


def parity(words: np.ndarray) -> np.ndarray:
    """1 where the number of ones is odd."""
    return _prefixes(words) % 2


def even_pairs(words: np.ndarray) -> np.ndarray:
    """1 where the first letter is not the last, so that the pairs ab and ba are odd in number."""
    return np.pad(words != words[:, :1], ((0, 0), (1, 0))).astype(np.int32)


def sum_mod_5(words: np.ndarray) -> np.ndarray:
    """The sum of the digits modulo 5."""
    return _prefixes(words) % 5


def dyck_1(words: np.ndarray) -> np.ndarray:
    """Brackets (0 opens, 1 closes) that balance; 1 where some are still open, 2 where one was closed too many."""
    heights = _prefixes(1 - 2 * words)
    return np.where(np.minimum.accumulate(heights, axis=1) < 0, 2, heights > 0).astype(np.int32)


def a_n_b_n(words: np.ndarray) -> np.ndarray:
    """Letters a (0) and then as many b (1); 1 where some b may still come, 2 where nothing helps."""
    after_b = np.pad(np.maximum.accumulate(words, axis=1), ((0, 0), (1, 0)))[:, :-1]
    mixed = _prefixes((words == 0) & (after_b == 1)) > 0
    return np.where(mixed, 2, dyck_1(words))


def _uniform(letters: int) -> Words:
    return lambda rng, count, length: rng.integers(0, letters, (count, length))


def _flip(rng: np.random.Generator, words: np.ndarray) -> np.ndarray:
    """One letter of every other word turned into the other one."""
    words, rows = words.copy(), np.arange(0, len(words), 2)
    places = rng.integers(0, words.shape[1], len(rows))
    words[rows, places] = 1 - words[rows, places]
    return words


def _brackets(rng: np.random.Generator, ends: np.ndarray, length: int, steepness: np.ndarray) -> np.ndarray:
    """Two balanced words one after another, the first ends at the even `ends` [N]; steep ones are (((...)))."""
    places, ends, steepness = np.arange(length), ends[:, None], steepness[:, None]
    late = steepness * places / length + (1 - steepness) * rng.uniform(size=(len(ends), length))
    ranks = (late + 2 * (places >= ends)).argsort(1).argsort(1)
    opens = np.where(places < ends, ranks < ends // 2, ranks - ends < (length - ends) // 2)
    return (np.diff(np.abs(_prefixes(np.where(opens, 1, -1))), axis=1) < 0).astype(np.int64)


def bracket_pairs(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Two balanced words one after another, of an even length together; a flip in every other one."""
    return _flip(rng, _brackets(rng, 2 * rng.integers(1, length // 2 + 1, count), length, rng.uniform(0, 1, count)))


def bracket_words(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Balanced words of an even length; a flip in every other one."""
    return _flip(rng, _brackets(rng, np.full(count, length), length, np.zeros(count)))


def a_b_walks(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Letters a, at most three quarters of them, then b to the end; a flip in every other word."""
    number = rng.integers(1, max(2, 3 * length // 4), (count, 1))
    return _flip(rng, (np.arange(length) >= number).astype(np.int64))


def a_b_words(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Letters a and then b, of an even length: as many of both, or in every other word one to three too many a or b."""
    off = rng.integers(1, 4, count) * rng.choice([-1, 1], count) * (np.arange(count) % 2)
    return (np.arange(length) >= (length // 2 + off)[:, None]).astype(np.int64)


LANGUAGES = {
    "parity": Language("01", 2, 2, parity, _uniform(2), _uniform(2)),
    "even_pairs": Language("ab", 2, 5, even_pairs, _uniform(2), _uniform(2)),
    "sum_mod_5": Language("012", 5, 5, sum_mod_5, _uniform(3), _uniform(3)),
    "dyck_1": Language("()", 3, 0, dyck_1, bracket_pairs, bracket_words),
    "a_n_b_n": Language("ab", 3, 0, a_n_b_n, a_b_walks, a_b_words),
}


def is_exact(automaton: Automaton, language: Language) -> bool:
    """Whether an automaton is that of a regular language.

    Automata of m and n states that agree on all words of up to m + n - 2 letters agree on all words (Moore 1956).

    Args:
        automaton: a smallest one, as `extract_automaton` gives it.
        language: one that is regular.
    """
    if len(automaton.accepting) != language.num_states:
        return False
    for length in range(2 * language.num_states - 1):
        words = list(itertools.product(range(len(language.letters)), repeat=length))
        truth = language.label(np.array(words, np.int64).reshape(len(words), length))[:, -1] == 0
        if (automaton.accepts(words) != truth).any():
            return False
    return True


def shortest_words(automaton: Automaton) -> list[tuple[int, ...] | None]:
    """The shortest word that leads to each state, None where there is none."""
    words: list[tuple[int, ...] | None] = [() if state == 0 else None for state in range(len(automaton.accepting))]
    queue = [0]
    for state in queue:
        for letter, after in enumerate(automaton.transitions[state].tolist()):
            if words[after] is None:
                words[after] = (*(words[state] or ()), letter)
                queue.append(after)
    return words


def _ring(automaton: Automaton) -> np.ndarray:
    """The places of the states on a circle, [S, 2]; of up to eight states in the order with the shortest arrows."""
    number = len(automaton.accepting)
    angles = np.pi / 2 - 2 * np.pi * np.arange(number) / number
    places = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def cost(order: tuple[int, ...]) -> float:
        own = places[[0, *order]]
        lengths = np.linalg.norm(own[automaton.transitions] - own[:, None], axis=-1)
        return float((lengths * 0.9 ** np.arange(lengths.shape[1])).sum())

    orders = itertools.permutations(range(1, number)) if number <= 8 else [tuple(range(1, number))]
    return places[[0, *min(orders, key=cost)]]


def draw_automaton(automaton: Automaton, letters: str, ax: Axes, title: str = "") -> None:
    """Draws states as nodes, two rings where they accept, and an arrow for each letter that leads from one to another.

    Args:
        automaton: with the start at the top.
        letters: their names, one character each.
        ax: where to draw.
        title: text above.
    """
    places, radius = _ring(automaton), min(0.25, 1.7 / len(automaton.accepting))
    for state, place in enumerate(places):
        outward = place / max(float(np.linalg.norm(place)), 1e-9)
        for after in range(len(places)):
            own = [letter for letter, to in enumerate(automaton.transitions[state]) if to == after]
            if own:
                colour = PALETTE[(3, 0, 1)[own[0] % 3]] if len(own) == 1 else SLATE
                curve, at = _loop(place, radius * outward) if after == state else _bow(place, places[after])
                outside = [np.linalg.norm(curve - end, axis=1) > radius + 0.02 for end in (place, places[after])]
                curve = curve[outside[0] & outside[1]]
                ax.plot(*curve.T, color=colour, lw=1.5, zorder=2)
                head = {"arrowstyle": "-|>", "color": colour, "lw": 1.5, "shrinkA": 0, "shrinkB": 0}
                ax.annotate("", curve[-1], curve[-6], arrowprops=head, zorder=2)
                box = {"boxstyle": "circle,pad=0.1", "fc": PAPER, "ec": "none"}
                text = ",".join(letters[letter] for letter in own)
                ax.text(at[0], at[1], text, ha="center", va="center", fontsize=9, color=colour, bbox=box, zorder=3)
    for state, (place, word) in enumerate(zip(places, shortest_words(automaton), strict=True)):
        ax.add_patch(Circle(tuple(place), radius, fc=PAPER, ec=INK, lw=1.6, zorder=4))
        if automaton.accepting[state]:
            ax.add_patch(Circle(tuple(place), 0.78 * radius, fc="#E6F3F1", ec=INK, lw=1.1, zorder=5))
        name = "?" if word is None else "".join(letters[letter] for letter in word) or "start"
        ax.text(place[0], place[1], name, ha="center", va="center", fontsize=9, color=INK, zorder=6)
    ax.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal")
    ax.set_axis_off()
    ax.set_title(title, fontsize=11, fontweight="bold", color=INK)


def _bow(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An arc to the left of the straight way, [N, 2], and where its name stands."""
    times = np.linspace(0, 1, 200)[:, None]
    way = end - start
    middle = (start + end) / 2 + 0.16 * np.array([-way[1], way[0]])
    curve = (1 - times) ** 2 * start + 2 * times * (1 - times) * middle + times**2 * end
    return curve, curve[84]


def _loop(place: np.ndarray, outward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A circle that begins and ends in a state, [N, 2], and where its name stands; `outward` has the state's radius."""
    angles = np.arctan2(*outward[::-1]) + np.pi + np.linspace(0, 2 * np.pi, 200)
    circle = 0.75 * np.linalg.norm(outward) * np.stack([np.cos(angles), np.sin(angles)], 1)
    return place + 1.35 * outward + circle, place + 2.1 * outward
