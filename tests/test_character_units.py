"""Features of a text against slow definitions, and units that were planted are found."""

import re
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._character_units import (
    FEATURES,
    character_alone,
    choose_units,
    find_units,
    read_states,
    text_features,
)
from rnn_jax import Cell, gru, lru, lstm, stack, stream_step
from rnn_jax.data import load_text
from rnn_jax.language import LanguageModel, LanguageParams, init_language
from rnn_jax.token_heads import softmax_head

PLAY = '/ANN:/Why "so (bad)? I/see". Go//To: no/BO:/Oh “my//End'.replace("/", "\n")
MARKS = {
    "head_line": "-++++--------------------------------------------------",
    "brackets": "--------------++++-------------------------------------",
    "quotes": "----------++++++++++++++++---------------------++++----",
    "sentence_start": "+----+-------------++------++---+------------------+---",
}


def shown(values: np.ndarray) -> str:
    return "".join("-+"[int(value)] for value in values)


def test_features_of_a_play_by_hand() -> None:
    found = text_features(PLAY)
    for name, marks in MARKS.items():
        assert shown(found[name]) == marks, name
    assert found["line_position"][:8].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert found["line_end"][:8].tolist() == [0, 4, 3, 2, 1, 0, 16, 15]
    assert found["line_end"][-3:].tolist() == [3, 2, 1]
    assert found["word_position"][5:13].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def slow(text: str) -> dict[str, list[float]]:
    """Every feature of every character from what was read until then, or from the whole text, anew."""
    heads = [match.span(1) for match in re.finditer(r"(?:(?<=\n\n)|\A\n?)([^\n]*:)$", text, re.MULTILINE)]
    rows: dict[str, list[float]] = {name: [] for name in FEATURES}
    for i in range(len(text)):
        read = text[: i + 1]
        rows["line_position"].append(len(read.rsplit("\n", 1)[-1]))
        rows["line_end"].append(len(text[i:].split("\n", 1)[0]))
        rows["word_position"].append(len(re.split(r"[ \n]", read)[-1]))
        rows["head_line"].append(any(a <= i < b for a, b in heads))
        rows["brackets"].append(reduce(lambda d, c: max(0, d + (c == "(") - (c == ")")), read, 0) > 0)
        rows["quotes"].append(read.rsplit("\n\n", 1)[-1].count('"') % 2)
        gap = re.search(r"[^A-Za-z]*\Z", read).start()
        first = gap == 0 or re.search(r"[.!?]|\n\n", read[gap:]) or any(gap <= b <= i for _, b in heads)
        rows["sentence_start"].append(bool(first and gap <= i))
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_features_of_random_texts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    text = "".join(rng.choice(list('ab. (")!:\n\n'), 400))
    found, expected = text_features(text), slow(text)
    for name in FEATURES:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        assert found[name].std() > 0


def test_a_unit_is_chosen_on_the_first_half_and_judged_on_the_second() -> None:
    rng = np.random.default_rng(0)
    n, half = 400, 200
    feature, noise = rng.normal(size=(2, n))
    states = {"0.h": rng.normal(size=(n, 6)), "0.c": rng.normal(size=(n, 5))}
    states["0.c"][:, 3] = noise - 2 * feature
    states["0.h"][half:, 1] = feature[half:]  # the best on the second half, where nobody may look
    flipped = np.concatenate([feature[:half], -feature[half:]])
    still = np.concatenate([np.ones(half), feature[half:]])
    found = choose_units(states, {"a": feature, "flipped": flipped, "still": still})
    assert set(found) == {"a", "flipped"}
    assert (found["a"].part, found["a"].unit) == ("0.c", 3)
    first, second = (np.corrcoef(states["0.c"][part, 3], feature[part])[0, 1] for part in (slice(half), slice(half, n)))
    assert found["a"].chosen == pytest.approx(first)
    assert found["a"].chosen < 0 < found["a"].held_out
    assert found["a"].held_out == pytest.approx(-second)
    assert found["flipped"].held_out == pytest.approx(second)


def test_what_a_character_alone_tells() -> None:
    ids, values = np.array([0, 1, 0, 1, 0, 1, 1, 2]), np.array([1.0, 0.0, 3.0, 0.5, 5.0, 1.0, 2.0, 4.0])
    said = [2.0, 0.25, 0.25, values[:4].mean()]  # 2 was never seen
    assert character_alone(ids, values) == pytest.approx(np.corrcoef(said, values[4:])[0, 1])


def counting(newline: int) -> Cell:
    """Two units: one counts the characters since a reset, one follows the input; `newline` resets if w is so."""

    def init(key: jax.Array, input_size: int) -> jax.Array:
        return 0.1 * jax.random.normal(key, (input_size,))

    def step(params: jax.Array, carry: dict[str, jax.Array], x: jax.Array):
        count = (carry["count"][..., 0] + 1) * (1 - x @ params)
        after = {"count": jnp.stack([count, x[..., newline]], -1), "noise": jnp.cos(37 * carry["noise"] + x[..., :1])}
        return after, after["count"]

    def init_carry(params: jax.Array, batch_shape: tuple[int, ...] = ()) -> dict[str, jax.Array]:
        return {"count": jnp.zeros((*batch_shape, 2)), "noise": jnp.zeros((*batch_shape, 1))}

    return Cell(init, init_carry, step)


def written(tmp_path):
    words, rng = ["to", "be", "or", "not"], np.random.default_rng(0)
    lines = [" ".join(rng.choice(words, rng.integers(1, 6))) for _ in range(400)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    return load_text(tmp_path / "text.txt", held_out=(0.4, 0.1))


def test_a_planted_unit_is_found_and_drawn(tmp_path) -> None:
    text = written(tmp_path)
    size, newline = len(text.vocabulary.symbols), text.vocabulary.symbols.index("\n")
    model = LanguageModel(counting(newline), softmax_head(size), size, size)
    params = init_language(model, jax.random.key(1))
    params = LanguageParams(jnp.eye(size), jnp.eye(size)[newline], params.head)
    found = find_units(model, params, text, seed=0)
    one = found.trained["line_position"]
    assert (one.part, one.unit, one.held_out) == ("count", 0, pytest.approx(1.0))
    assert set(found.trained) == {"line_position", "line_end", "word_position"}  # the text has nothing else
    assert found.untrained["line_position"].held_out < 0.9
    assert found.metrics()["unit_line_position"] == one.held_out
    position = text_features(text.raw.valid[0])["line_position"]
    assert "".join(found.symbols) == text.raw.valid[0]
    np.testing.assert_allclose(found.values["line_position"], (position - position.mean()) / position.std(), atol=1e-5)
    assert "| characters since the line began | count[0] | 1.00 | 1.00 |" in found.table()
    (path,) = found.figures(tmp_path).values()
    assert path.name == "unit_line_position.png"
    assert path.stat().st_size > 10_000


def test_units_of_any_carry_are_those_of_a_loop_over_steps(tmp_path) -> None:
    text = written(tmp_path)
    size = len(text.vocabulary.symbols)
    model = LanguageModel(stack(lstm(3), lru(2, state_size=2), gru(2)), softmax_head(size), size, 4)
    params, ids = init_language(model, jax.random.key(0)), text.splits.valid[0][:20]
    got, carry = read_states(model, params, ids), model.cell.init_carry(params.rnn, ())
    assert {name: units.shape for name, units in got.items()} == {
        "0.h": (20, 3),
        "0.c": (20, 3),
        "1": (20, 4),
        "2": (20, 2),
    }
    for t, token in enumerate(ids):
        carry, _ = stream_step(model.cell, params.rnn, carry, params.embedding[token])
        lower, ring, upper = carry
        for name, units in {"0.h": lower.h, "0.c": lower.c, "2": upper}.items():
            np.testing.assert_allclose(got[name][t], units, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got["1"][t], np.concatenate([ring.real, ring.imag]), rtol=1e-5, atol=1e-6)
