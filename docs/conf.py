"""The documentation site: `python -m sphinx -W -b html docs docs/_build/html`; without running notebooks, with
`-D nb_execution_mode=off`.

Pages here are plain Markdown. The reference, the galleries and the copies of the notebooks are written into
`docs/generated` and `docs/notebooks` before each build, from docstrings, compiled steps and committed results.
"""

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

from _ext import api, cells, experiments, notebooks  # noqa: E402

from rnn_jax import __version__  # noqa: E402

project = "rnn_jax"
author = copyright = "The rnn_jax developers"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx_copybutton"]
exclude_patterns = ["_build", "_ext"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_output_stderr = "remove"
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

python_maximum_signature_line_length = 88
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = "rnn_jax"
html_copy_source = False
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}


def write_pages(app: Any) -> None:
    """Writes all generated pages; Sphinx looks for pages after this."""
    del app
    generated = DOCS / "generated"
    api.write_pages(generated / "api")
    cells.write_gallery(generated / "cells.md")
    experiments.write_gallery(generated / "experiments.md", DOCS)
    notebooks.copy(DOCS.parent / "notebooks", DOCS / "notebooks")


def mend_links(app: Any, name: str, source: list[str]) -> None:
    """The pages of docs/ link to files of the repository; on the site these are paths, but for the notebooks."""
    del app
    if "/" not in name:
        source[0] = notebooks.without_files(source[0].replace("](../notebooks/", "](notebooks/"))


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", mend_links)
    app.connect("builder-inited", write_pages)
