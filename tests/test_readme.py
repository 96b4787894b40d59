"""The examples of the README and of docs/ are tests, and their tables name what exists."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.catalogue import results_table
from rnn_jax import CELLS, unroll
from rnn_jax.training import read_metrics

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


TRAINING = (Path(__file__).parent.parent / "docs" / "training.md").read_text(encoding="utf-8")


def block(marker: str, page: str = README) -> str:
    match = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    assert match, f"there is no block marked {marker!r}"
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


def test_the_training_example_trains_and_is_there_at_once_when_run_again(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    first: dict = {}
    again: dict = {}
    exec(compile(block("training example", TRAINING), "training.md", "exec"), first)
    errors = [row["train/error"] for row in read_metrics(tmp_path / "runs" / "waves")]
    assert errors[-1] < 0.1 * errors[0]
    exec(compile(block("training example", TRAINING), "training.md", "exec"), again)
    assert again["info"].history == first["info"].history
    for one, other in zip(*(jax.tree.leaves(names["state"].params) for names in (first, again)), strict=True):
        assert (one == other).all()


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
