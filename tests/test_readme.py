"""The examples of the README and of docs/ are tests, and their tables name what exists."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.listing import results_table
from rnn_jax import CELLS, unroll
from rnn_jax.training import read_metrics

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
README, TRAINING = PAGES["README.md"], PAGES["training.md"]
STREAMING, STRATEGIES = PAGES["streaming.md"], PAGES["strategies.md"]


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


def test_the_analysis_example_measures() -> None:
    names: dict = {}
    exec(compile(block("analysis example", PAGES["analysis.md"]), "analysis.md", "exec"), names)
    assert float(names["spectrum"].exponents[0]) < 0
    assert (jnp.diff(names["reach"].log_norm[-50:]) > -1).all()
    assert bool(names["found"].converged[0])
    h = names["point"]
    assert jnp.allclose(names["still"](h), h, atol=1e-4)
    assert names["modes"].num_unstable == 0
    exec(compile(block("taps example", PAGES["analysis.md"]), "analysis.md", "exec"), names)
    layers = ["0.forward.c", "0.forward.h", "0.backward.c", "0.backward.h", "1.c", "1.h"]
    assert [text.get_text() for text in names["ax"].get_yticklabels()] == layers
    assert all(norms.shape == (50, 4) and (norms[-1] > 0).all() for norms in names["norms"].values())


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


def test_the_streaming_examples_give_the_numbers_of_unroll() -> None:
    names: dict = {}
    exec(compile(block("streaming example", STREAMING), "streaming.md", "exec"), names)
    assert names["pool"].num_programs == 26
    a, first, both = np.split(names["ys"], [30]), names["first"], names["both"]
    came = np.concatenate([first[None], both[:1], names["some"]])
    np.testing.assert_allclose(came, a[0], rtol=1e-5, atol=1e-6)
    for rest in (names["rest"], names["again"][:, 0], names["again"][:, 1]):
        np.testing.assert_allclose(rest, a[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both[1], first, rtol=1e-5, atol=1e-6)  # b begins with the same sample
    assert names["pool"].streams == (names["a"], names["c"])
    small: dict = {}
    exec(compile(block("streaming example"), "README.md", "exec"), small)
    assert small["y"].shape == (1,)
    assert small["ys"].shape == (12, 2, 1)


def test_the_exported_example_runs_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(block("streaming example", STREAMING), "streaming.md", "exec"), names)
    exec(compile(block("export example", STREAMING), "streaming.md", "exec"), names)
    source = block("loading example", STREAMING)
    source += "\nassert 'rnn_jax' not in sys.modules\nnp.savez('said.npz', y=y, ys=ys, **carry)\n"
    done = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, lengths = np.load("said.npz"), jnp.array([51, 8])
    carry, ys = unroll(names["cell"], names["params"], jnp.ones((51, 2, 3)), lengths=lengths)
    np.testing.assert_allclose(np.concatenate([said["y"][None], said["ys"]]), ys, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(said["0/h"], carry[0].h, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(said["0/c"], carry[0].c, rtol=1e-5, atol=1e-6)


def test_the_memory_example_orders_the_strategies() -> None:
    names: dict = {}
    exec(compile(block("memory example", STRATEGIES), "strategies.md", "exec"), names)
    scan, chunked, recursive = names["found"].values()
    assert scan > 50 * chunked > 50 * recursive


def test_the_newton_example_converges_and_starts_warm() -> None:
    names: dict = {}
    exec(compile(block("newton example", STRATEGIES), "strategies.md", "exec"), names)
    assert names["info"].converged.all()
    assert (names["info"].iterations <= 6).all()
    assert (names["later"].iterations <= 1).all()
    scanned = unroll(names["cell"], names["params"], names["xs"])[1]
    np.testing.assert_allclose(names["ys"], scanned, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_somewhere(page: str) -> None:
    folder = ROOT if (ROOT / page).is_file() else ROOT / "docs"
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)|<img src=\"([^\"]+)\"", PAGES[page])
    for target in (one or other for one, other in targets):
        assert target.startswith("https://") or (folder / target).exists(), f"{page} links to {target}"


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
