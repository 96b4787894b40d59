"""The site: it builds without a warning, its links lead somewhere, and all that is public is on it."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.catalogue import experiment_names
from rnn_jax import CELLS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

from _ext import api, cells, docstrings, experiments, notebooks  # noqa: E402

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
needs_sphinx = pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None
        for name in ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx_copybutton")
    ),
    reason="sphinx is not installed",
)


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_and_their_headings_are_there(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        if target.startswith("https://") or not target:
            continue  # a label of the site alone is Sphinx's to find
        path = page.parent / target
        assert path.exists(), f"{page.name} links to {target}"
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in map(slug, headings), f"{page.name} links to {target}#{anchor}"


def test_every_page_is_in_the_index():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([\w/]+)$", index, re.MULTILINE))
    assert {path.stem for path in DOCS.glob("*.md")} - {"index"} <= listed


def test_the_first_example_runs():
    source = re.search(r"<!-- first example -->\n```python\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(source[1], "index.md", "exec"), names)
    np.testing.assert_allclose(names["y"][:3], names["ys"][0, :3], rtol=1e-5, atol=1e-6)


def test_modules_without_a_page_are_known():
    inside = {"caching", "checks", "compose", "dropout", "gradient_clipping", "init_report", "layers", "products"}
    modules = {path.stem for path in (DOCS.parent / "rnn_jax").glob("*.py")} - {"__init__"}
    paged = {name.partition(".")[2] for name in api.public_modules()}
    assert modules - paged == inside | {"types"}  # what users need of these is in `rnn_jax`


@pytest.mark.parametrize("module_name", api.public_modules())
def test_every_public_name_has_an_entry(module_name):
    page = api.page(module_name)
    for name in api.public_names(module_name):
        home = api.homes()[id(getattr(importlib.import_module(module_name), name))]
        assert re.search(rf"\{{py:\w+\}} {re.escape(home)}\b|\(#{re.escape(home)}\)", page), f"{module_name}.{name}"


def test_every_experiment_has_its_card_and_claims():
    for name in experiment_names():
        entry = experiments.entry(name, [])
        assert f"python -m experiments.{name}" in entry
        assert "| commit |" in entry or "No result is committed." in entry


def test_the_cost_of_known_cells_is_counted():
    i, h = 7, 12
    assert cells.cost("elman", i, h) == (i * h + h * h + h, h, i * h + h * h)
    assert cells.cost("lstm", i, h) == (4 * (i * h + h * h + h), 2 * h, 4 * (i * h + h * h) + 3 * h)
    assert cells.cost("conv_lstm", i, h).products == 36 * (i * h + h * h) + 3 * h
    assert cells.cost("lru", i, h)[:2] == (3 * i * h + 2 * h * h + 3 * h, 2 * h)


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_has_equations_and_formulas(name):
    assert " = " in docstrings.equation(CELLS[name].__doc__)
    assert all(cells.formulas(name))
    assert f"`rnn_jax.{name}`" in cells.entry(name)


def test_the_response_of_a_network_that_adds_is_its_input():
    ys, carry, output = cells.impulse_response("irnn")  # W_h = I and ReLU: what came stays
    np.testing.assert_allclose(carry[:, -1], carry[:, 0], rtol=1e-5)
    np.testing.assert_allclose(output, carry, rtol=1e-5)
    np.testing.assert_allclose(ys[-1], ys[0], rtol=1e-5)


def test_docstrings_become_markdown():
    text = docstrings.to_markdown(
        "A *star* of [T, B].\n\n    y = a * x\n\nArgs:\n    a, b: two\n        lines.\n    **rest: `a`.\n\n"
        "References:\n    arXiv:1406.1078.\n",
        {"a": "m.a"}.get,
    )
    assert "A \\*star\\* of \\[T, B\\]." in text
    assert "```text\ny = a * x\n```" in text
    assert "- **a, b**: two\n  lines.\n- **\\*\\*rest**: [`a`](#m.a)." in text
    assert "[arXiv:1406.1078](https://arxiv.org/abs/1406.1078)" in text


def test_links_of_notebooks_hold_from_their_copies():
    text = "[a](../docs/design.md) ![b](../docs/images/b.png) [c](../rnn_jax/types.py) [d](02_d.ipynb)"
    assert notebooks.moved(text) == "[a](../design.md) ![b](../images/b.png) `rnn_jax/types.py` [d](02_d.ipynb)"


@needs_sphinx
def test_the_site_builds_without_a_warning(tmp_path):
    copy = tmp_path / "docs"
    shutil.copytree(DOCS, copy, ignore=shutil.ignore_patterns("_build", "notebooks"))
    for folder in ("rnn_jax", "experiments", "notebooks"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-D", "nb_execution_mode=off"]
    done = subprocess.run([*command, "docs", "html"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("index", "coming_from", "generated/cells", "generated/experiments", "generated/api/rnn_jax"):
        assert (tmp_path / "html" / f"{name}.html").is_file()
    assert list((tmp_path / "html" / "notebooks").glob("*.html"))
