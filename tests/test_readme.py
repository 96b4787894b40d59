"""The README's example is a test, and its tables name what exists."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.catalogue import results_table
from rnn_jax import CELLS, unroll

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    match = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert match, f"README.md has no block marked {marker!r}"
    return match[1]


def test_the_example_runs_and_streaming_gives_the_same_numbers() -> None:
    source = block("example")
    assert len(source.strip().splitlines()) <= 15
    names: dict = {}
    exec(compile(source, "README.md", "exec"), names)
    assert names["ys"].shape == (100, 4, 32)
    assert (names["ys"][3:, 2] == 0).all()
    assert (names["ys"][:, 3] == 0).all()
    assert jnp.allclose(names["y"][0], names["ys"][-1, 0], atol=1e-5)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(names["grads"]))


def test_the_forcing_example_is_one_program_from_forced_to_free() -> None:
    names: dict = {}
    exec(compile(block("forcing example"), "README.md", "exec"), names)
    assert names["logits_at"]._cache_size() == 1
    before = jnp.concatenate([jnp.zeros((1, 4), jnp.int32), names["targets"][:-1]])
    shifted = unroll(names["cell"], names["params"], names["embedding"][before])[1]
    assert jnp.allclose(names["forced"], shifted, atol=1e-5)
    assert jnp.allclose(names["free"][0], shifted[0], atol=1e-5)
    assert not jnp.allclose(names["free"], shifted, atol=1e-2)


def test_the_commands_do_their_own_set_up() -> None:
    for marker in ("run command", "test command"):
        command = block(marker).strip()
        assert "\n" not in command
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e ")


def test_every_cell_is_in_the_table() -> None:
    table = README[README.index("| cell |") : README.index("- **`unroll`**")]
    for name in CELLS:
        assert f"`{name}`" in table, f"add `{name}` to the table of cells in README.md"


def test_the_results_table_is_the_committed_results() -> None:
    assert results_table() in README, "update it: python -m experiments table"
