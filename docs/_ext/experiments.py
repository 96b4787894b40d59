"""The gallery of experiments: their cards, and their claims beside the committed results."""

import importlib
import re
from pathlib import Path
from typing import Any

from _ext.docstrings import prose
from _ext.files import write
from experiments.catalogue import experiment_names, load_experiment, load_results
from experiments.claims import applies, check_claim, claim_text

PICTURE = re.compile(r"!\[[^\]]*\]\((images/[^)]+)\)\s*\n\s*\n?\*[^*]*?`(?:python -m experiments\.)?(\w+)`", re.DOTALL)


def write_gallery(page: Path, docs: Path) -> None:
    """Writes the page. Pictures are those of docs/*.md whose caption names the experiment."""
    names = experiment_names()
    pictures = find_pictures(docs)
    rows = [f"| [`{name}`](#{name}) | {_cell(load_experiment(name).question)} |" for name in names]
    head = [INTRODUCTION, "\n".join(["| experiment | question |", "|---|---|", *rows])]
    write(page, "\n\n".join([*head, *(entry(name, pictures.get(name, [])) for name in names)]) + "\n")


INTRODUCTION = """(experiment-gallery)=
# The experiments

Each is one small module of `experiments/`, and its card here is the docstring of that module. A claim is a number with
bounds that `python -m experiments check NAME` holds against the committed result; the source says where the bound comes
from. `python -m experiments.NAME --smoke` runs an experiment tiny, in seconds."""


def find_pictures(docs: Path) -> dict[str, list[str]]:
    """`{experiment: pictures}` of the pages, told by their captions."""
    found: dict[str, list[str]] = {}
    for path in sorted(docs.glob("*.md")):
        for image, name in PICTURE.findall(path.read_text(encoding="utf-8")):
            found.setdefault(name, []).append(image)
    return found


def entry(name: str, pictures: list[str]) -> str:
    """The entry of one experiment."""
    card = (importlib.import_module(f"experiments.{name}").__doc__ or "").strip()
    question, _, rest = card.partition("\n")
    parts = [f"({name})=\n## {question.strip()}", f"`experiments/{name}.py`", prose(rest.strip("\n"))]
    parts += [f"![A picture of {name}](../{image})" for image in dict.fromkeys(pictures)]
    return "\n\n".join([*parts, claims(name)])


def claims(name: str) -> str:
    """Every claim with what was measured, and where the results come from."""
    results = load_results(name)
    rows = []
    for claim in load_experiment(name).claims:
        for stem, result in results.items():
            if applies(claim, result["config"]):
                value = result["metrics"].get(claim.metric, "missing")
                held = "yes" if check_claim(claim, result["metrics"]).holds else "**no**"
                number = f"{value:.4g}" if isinstance(value, float | int) else str(value)
                rows.append(f"| `{claim_text(claim)}` | {number} | {held} | {_cell(claim.source)} | `{stem}` |")
    if not results:
        return "No result is committed."
    table = ["| claim | measured | holds | source of the claim | result |", "|---|--:|---|---|---|", *rows]
    runs = [
        "| result | commit | took | on | versions |",
        "|---|---|---|---|---|",
        *map(_run, *zip(*results.items(), strict=True)),
    ]
    return "\n\n".join(["\n".join(table) if rows else "No claim is made about its results.", "\n".join(runs)])


def _run(stem: str, result: dict[str, Any]) -> str:
    device, versions = result["device"], result["versions"]
    where = f"{device['count']} x {device['kind']}, {device['cpu_count']} cores"
    commit = f"`{result['commit'][:10]}`" + (", with changes" if result["dirty"] else "") if result["commit"] else ""
    return f"| `{stem}` | {commit} | {result['seconds']:,.0f} s | {where} | jax {versions['jax']} |"


def _cell(text: str) -> str:
    return prose(text).replace("|", "\\|")
