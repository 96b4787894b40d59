"""Copies the notebooks into the site, with links that hold from there."""

import json
import re
from pathlib import Path

from _ext.files import remove_others, write


def copy(source: Path, target: Path) -> None:
    """Copies `source/*.ipynb` to `target`, and takes away those that are gone."""
    paths = sorted(source.glob("*.ipynb"))
    for path in paths:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["metadata"].setdefault("language_info", {"name": "python", "pygments_lexer": "ipython3"})
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = moved("".join(cell["source"]))
        write(target / path.name, json.dumps(notebook, ensure_ascii=False, indent=1) + "\n")
    remove_others(target, "*.ipynb", {path.name for path in paths})


def moved(text: str) -> str:
    """Relative links of notebooks/ as they are from docs/notebooks/; what is not on the site becomes its path.

    >>> moved("[a](../docs/design.md), [b](../rnn_jax/types.py), [c](02_b.ipynb)")
    '[a](../design.md), `rnn_jax/types.py`, [c](02_b.ipynb)'
    """
    return without_files(re.sub(r"(\]\(|src=\")\.\./docs/", r"\1@site/", text)).replace("@site/", "../")


def without_files(text: str) -> str:
    """Links to files of the repository that are not on the site, as paths.

    >>> without_files("[the table](../benchmarks/results/cpu.md#x), [b](images/b.png)")
    '`benchmarks/results/cpu.md`, [b](images/b.png)'
    """
    return re.sub(r"(?<!!)\[[^\]]*\]\(\.\./([^)#]+)[^)]*\)", r"`\1`", text)
