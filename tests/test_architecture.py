"""Who may import whom, how long a file may be, and that every public name explains itself."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rnn_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
GROUND = ("types", "checks", "caching", "tree", "products", "gated_step", "initializers")

ALLOWED = {
    **dict.fromkeys(GROUND, GROUND),
    "cells": (*GROUND, "cells"),
    "unroll": (*GROUND, "unroll"),
    "forcing": (*GROUND, "unroll", "forcing"),
    "decoding": (*GROUND, "unroll", "decoding"),
    "attention": (*GROUND, "unroll", "compose", "dropout", "layers", "attention"),
    "exposure": (*GROUND, "unroll", "losses", "exposure"),
    "gradient_clipping": (*GROUND, "gradient_clipping"),
    "losses": (*GROUND, "losses"),
    "ctc": (*GROUND, "ctc"),
    "features": (*GROUND, "features"),
    "metrics": (*GROUND, "metrics"),
    "heads": (*GROUND, "heads"),
    "token_heads": (*GROUND, "losses", "token_heads"),
    "analysis": (*GROUND, "analysis"),
    "frames": (*GROUND, "heads", "frames"),
    "streaming": (*GROUND, "unroll", "streaming"),
    "music": (*GROUND, "unroll", "metrics", "heads", "frames", "data", "music"),
    "language": (*GROUND, "unroll", "dropout", "metrics", "token_heads", "data", "training", "language"),
    "plotting": ("plotting",),
    "report": ("report", "plotting", "training"),
    "data": (*GROUND, "data"),
}
"""What the parts that have few friends may import of the package."""

FLAX_MODULES = ("flax.linen", "flax.nnx", "torch", "keras", "haiku", "equinox", "onnx")
ABOVE_UNROLL = ("attention", "decoding", "training", "analysis", "interop", "data", "plotting", "report")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, with the names that are taken from it: `a.b` and `a.b.c`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; name the module in full"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(path: Path) -> str:
    """The part of the package that a file belongs to: its first folder or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def own(path: Path) -> set[str]:
    """The parts of the package that a file imports; `rnn_jax` for names taken from its front."""
    parts = set()
    for name in imports(path):
        if within(name, ("rnn_jax",)):
            first = [*name.split("."), ""][1]
            known = (PACKAGE / first).is_dir() or (PACKAGE / f"{first}.py").is_file()
            if first:
                parts.add(first if known else "rnn_jax")
    return parts


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_imports_go_one_way(path: Path) -> None:
    here, used = part(path), own(path)
    if here == "__init__":
        return
    assert "rnn_jax" not in used, f"{ids(path)} imports from the front of the package; name the module"
    if here in ALLOWED:
        wrong = used - set(ALLOWED[here])
        assert not wrong, f"{ids(path)} must not import {sorted(wrong)}"
    if here == "compose":
        wrong = used & set(ABOVE_UNROLL)
        assert not wrong, f"{ids(path)} must not import {sorted(wrong)}"
    if here in ("training", "analysis"):
        concrete = [name for name in imports(path) if within(name, ("rnn_jax.cells",))]
        assert not concrete, f"{ids(path)} must take any cell, and imports {concrete}"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_foreign_libraries_stay_in_their_place(path: Path) -> None:
    here, names = part(path), list(imports(path))
    if here != "interop":
        wrong = [name for name in names if within(name, FLAX_MODULES)]
        assert not wrong, f"only rnn_jax/interop imports flax modules and torch; {ids(path)} imports {wrong}"
    if here not in ("interop", "training"):
        assert not [name for name in names if within(name, ("flax",))], f"{ids(path)} imports flax"
    if here == "data":
        assert not [name for name in names if within(name, ("jax", "jaxlib", "flax", "optax"))], f"{ids(path)}: NumPy"
    assert not [name for name in names if within(name, ("experiments", "tests"))], f"{ids(path)} imports experiments"


@pytest.mark.parametrize(
    "path",
    [path for folder in ("rnn_jax", "experiments", "tests") for path in sorted((ROOT / folder).rglob("*.py"))],
    ids=ids,
)
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_scan_of_imports_sees_every_form(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "import flax.linen as nn\n\ndef f():\n    from rnn_jax import cells\n    from rnn_jax import lstm\n"
    )
    assert list(imports(file)) == ["flax.linen", "rnn_jax", "rnn_jax.cells", "rnn_jax", "rnn_jax.lstm"]
    assert own(file) == {"cells", "rnn_jax"}
    assert within("flax.linen.Dense", FLAX_MODULES)
    assert not within("flax.struct", FLAX_MODULES)


@pytest.mark.parametrize(
    "module",
    [
        f"rnn_jax{part}"
        for part in (
            "",
            ".cells",
            ".unroll",
            ".forcing",
            ".attention",
            ".decoding",
            ".analysis",
            ".interop",
            ".plotting",
            ".report",
            ".streaming",
        )
    ],
)
def test_every_public_name_has_a_docstring(module: str) -> None:
    public = importlib.import_module(module)
    if not hasattr(public, "__all__"):
        pytest.skip(f"{module} has no __all__")
    silent = [
        name
        for name in public.__all__
        if (inspect.isfunction(getattr(public, name)) or inspect.isclass(getattr(public, name)))
        and not inspect.getdoc(getattr(public, name))
    ]
    assert not silent, f"{module}: no docstring on {silent}"
