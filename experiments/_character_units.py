"""Which units of a language model of characters follow something in the text, such as the place in a line.

Every number of the carry is a unit. The unit that correlates most with a feature is chosen on the first half of a text
that the network was not trained on, and judged on the second half, so that the choice among many does not count.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import unroll_carries
from rnn_jax.analysis import unit_features
from rnn_jax.data import Text
from rnn_jax.language import LanguageModel, LanguageParams, init_language
from rnn_jax.plotting import save, text_heat
from rnn_jax.report import markdown_table

__all__ = ["FEATURES", "Chosen", "Units", "choose_units", "find_units", "text_features"]

FEATURES = {
    "line_position": "characters since the line began",
    "line_end": "characters until the line ends (which are to come)",
    "word_position": "characters since a space",
    "head_line": "inside a speaker's head line",
    "sentence_start": "between two sentences",
    "brackets": "inside brackets",
    "quotes": "inside quotes",
}
MOST_NUMBERS = 100_000_000
"""Of states at once; a network with larger carries reads less of the text."""


def text_features(text: str) -> dict[str, np.ndarray]:
    r"""What can be said of each character of a text.

    Args:
        text: N characters.

    Returns:
        `{name: [N]}` for the names of `FEATURES`; what is true is 1. All are as they stand after the character was
        read: an opening bracket is inside, a closing one is not. A head line ends with ":" and comes first or after an
        empty line. Between sentences is from ".", "!", "?", a head line or an empty line to the next letter. Quotes are
        double ones; an empty line closes them.

    Example:
        >>> found = text_features("A:\nBy (me).\n")
        >>> found["line_position"].astype(int).tolist()
        [1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0]
        >>> "".join("-+"[int(inside)] for inside in found["brackets"])
        '------+++---'
    """
    found = {name: np.zeros(len(text)) for name in FEATURES}
    line_start = word_start = depth = 0
    starts, quoted, head, before = True, False, False, ""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        head = line.endswith(":") and (number == 0 or not before)
        if not line:
            starts, quoted = True, False
        for index in range(line_start, min(line_start + len(line) + 1, len(text))):
            one = text[index]
            depth = max(0, depth + (one in "([{") - (one in ")]}"))
            quoted = {'"': not quoted, "“": True, "”": False}.get(one, quoted)
            starts = one in ".!?" or (starts and not one.isalpha()) or (head and one == "\n")
            word_start = index + 1 if one in " \n" else word_start
            values = {
                "line_position": 0 if one == "\n" else index + 1 - line_start,
                "line_end": line_start + len(line) - index,
                "word_position": index + 1 - word_start,
                "head_line": head and one != "\n",
                "sentence_start": starts,
                "brackets": depth > 0,
                "quotes": quoted,
            }
            for name, value in values.items():
                found[name][index] = value
        line_start, before = line_start + len(line) + 1, line
    return found


class Chosen(NamedTuple):
    """The unit that follows a feature.

    Attributes:
        part: of the carry, such as "0.c".
        unit: its number there.
        chosen: its correlation with the feature on the first half, by which it was chosen.
        held_out: the same on the second half, times the sign of `chosen`.
    """

    part: str
    unit: int
    chosen: float
    held_out: float


def choose_units(states: Mapping[str, np.ndarray], features: Mapping[str, np.ndarray]) -> dict[str, Chosen]:
    """The unit with the largest absolute correlation by feature, chosen on the first half and judged on the second.

    Args:
        states: parts of the carry [N, H] by name.
        features: [N] by name.

    Returns:
        by feature, without those that do not vary in both halves.
    """
    table, half = np.stack(list(features.values()), -1), len(next(iter(features.values()))) // 2
    best: dict[str, Chosen] = {}
    for part, units in states.items():
        first, second = unit_features(units[:half], table[:half]), unit_features(units[half:], table[half:])
        for column, name in enumerate(features):
            unit = int(np.abs(first[:, column]).argmax())
            chosen, held_out = float(first[unit, column]), float(second[unit, column])
            if table[:half, column].std() and table[half:, column].std() and abs(chosen) > _size(best.get(name)):
                best[name] = Chosen(part, unit, chosen, held_out if chosen > 0 else -held_out)
    return best


def _size(one: Chosen | None) -> float:
    return abs(one.chosen) if one else 0.0


def character_alone(ids: np.ndarray, values: np.ndarray) -> float:
    """The correlation of a feature on the second half with its mean, on the first, where that character stands."""
    half = len(ids) // 2
    counts = np.bincount(ids[:half], minlength=ids.max() + 1)
    sums = np.bincount(ids[:half], values[:half], ids.max() + 1)
    means = np.where(counts, sums / np.maximum(counts, 1), values[:half].mean())
    return float(unit_features(means[ids[half:], None], values[half:, None])[0, 0])


def read_states(model: LanguageModel, params: LanguageParams, ids: np.ndarray) -> dict[str, np.ndarray]:
    """The carry after each character, [N, H] by part; complex numbers are two units."""
    xs = jnp.asarray(params.embedding)[ids]
    carries = jax.jit(partial(unroll_carries, model.cell))(params.rnn, xs)[2]
    found = {}
    for path, leaf in jax.tree.leaves_with_path(carries):
        flat = np.asarray(leaf).reshape(len(ids), -1)
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        found[name] = np.concatenate([flat.real, flat.imag], -1) if np.iscomplexobj(flat) else flat
    return found


class Units(NamedTuple):
    """What `find_units` found.

    Attributes:
        symbols: the characters that were read, N.
        trained, untrained: by feature, of the network and of one with the parameters before training.
        alone: by feature, how much of it the character alone tells.
        values: [N] of the chosen unit by feature, as standard deviations from its mean.
    """

    symbols: list[str]
    trained: dict[str, Chosen]
    untrained: dict[str, Chosen]
    alone: dict[str, float]
    values: dict[str, np.ndarray]

    def metrics(self) -> dict[str, float]:
        """Correlations on the second half."""
        return {f"unit_{name}": one.held_out for name, one in self.trained.items()} | {
            f"unit_{name}_untrained": one.held_out for name, one in self.untrained.items()
        }

    def table(self) -> str:
        """One row for each feature, in Markdown."""
        rows = [
            {
                "a unit that follows": FEATURES[name],
                "is": f"{one.part}[{one.unit}]",
                "correlation": f"{one.held_out:.2f}",
                "chosen by": f"{abs(one.chosen):.2f}",
                "before training": f"{self.untrained[name].held_out:.2f}" if name in self.untrained else "",
                "the character alone": f"{self.alone[name]:.2f}",
            }
            for name, one in self.trained.items()
        ]
        return markdown_table(rows) if rows else ""

    def figures(self, folder: Path, length: int = 600) -> dict[str, Path]:
        """A passage of the second half behind the units of the first and of the fourth feature, by caption."""
        made = {}
        half = len(self.symbols) // 2
        start = "".join(self.symbols).find("\n\n", half, len(self.symbols) - length) + 2
        start = half if start < half else start
        for name in ("line_position", "head_line"):
            if name in self.trained:
                one, shown = self.trained[name], slice(start, start + length)
                ax = text_heat(
                    self.symbols[shown],
                    np.clip(self.values[name][shown], -2.5, 2.5),
                    label="standard deviations from the mean, at most 2.5",
                    title=f"Unit {one.part}[{one.unit}]: {FEATURES[name]}",
                )
                caption = f"The unit that follows: {FEATURES[name]}; correlation {one.held_out:.2f}"
                made[caption] = save(ax.figure, folder / f"unit_{name}.png")
        return made


def find_units(model: LanguageModel, params: LanguageParams, text: Text, seed: int) -> Units:
    """Reads the valid part of a text of characters and looks for a unit for each of `FEATURES`.

    Args:
        model, params: trained.
        text: of characters.
        seed: of the network without training that it is held against.

    Returns:
        The `Units`.
    """
    (ids,) = text.splits.valid
    carry = jax.eval_shape(lambda: model.cell.init_carry(params.rnn, ()))
    size = sum(leaf.size for leaf in jax.tree.leaves(carry))
    ids = ids[: max(2, MOST_NUMBERS // max(size, 1))]
    features = text_features(text.raw.valid[0][: len(ids)])
    states = read_states(model, params, ids)
    trained = choose_units(states, features)
    values = {}
    for name, one in trained.items():
        unit = states[one.part][:, one.unit].astype(float)
        values[name] = (unit - unit.mean()) / unit.std()
    fresh = init_language(model, jax.random.key(seed))
    return Units(
        symbols=list(text.raw.valid[0][: len(ids)]),
        trained=trained,
        untrained=choose_units(read_states(model, fresh, ids), features),
        alone={name: character_alone(ids, features[name]) for name in trained},
        values=values,
    )
