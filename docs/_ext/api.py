"""The reference: a page for each public module, an entry for each public name, from docstrings and sources."""

import ast
import dataclasses
import functools
import importlib
import inspect
import itertools
import pkgutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from _ext.docstrings import to_markdown
from _ext.files import remove_others, write


def public_modules() -> list[str]:
    """`rnn_jax`, and all modules and packages in it with `__all__`."""
    package = importlib.import_module("rnn_jax")
    names = (f"rnn_jax.{module.name}" for module in pkgutil.iter_modules(package.__path__))
    return ["rnn_jax", *(name for name in names if hasattr(importlib.import_module(name), "__all__"))]


def public_names(module_name: str) -> list[str]:
    """The public names of a module, in its order, without modules."""
    module = importlib.import_module(module_name)
    return [name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType) and len(name) > 1]


@functools.cache
def homes() -> dict[int, str]:
    """Where each public object has its entry, by identity: the first page that has its name, `rnn_jax` before all."""
    found: dict[int, str] = {}
    for module_name in public_modules():
        for name in public_names(module_name):
            found.setdefault(id(getattr(importlib.import_module(module_name), name)), f"{module_name}.{name}")
    return found


def write_pages(folder: Path) -> None:
    """Writes `index.md` and one page for each public module."""
    rows = []
    for module_name in public_modules():
        write(folder / f"{file_name(module_name)}.md", page(module_name))
        first = inspect.cleandoc(importlib.import_module(module_name).__doc__ or "").split("\n\n")[0]
        first = " ".join(first.split()).replace("|", "\\|")
        rows.append(f"| [`{module_name}`]({file_name(module_name)}.md) | {first} |")
    toctree = "\n".join(map(file_name, public_modules()))
    text = "\n".join(["(api-reference)=", "# Reference", "", "| module | what |", "|---|---|", *rows])
    write(folder / "index.md", f"{text}\n\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n")
    remove_others(folder, "*.md", {"index.md", *(f"{file_name(name)}.md" for name in public_modules())})


def file_name(module_name: str) -> str:
    """The name of a module's page, which must not be the path of an object: `rnn_jax.unroll` is a function too."""
    return module_name.replace(".", "-")


def page(module_name: str) -> str:
    """The page of a module: its docstring, its own entries under the files that define them, and what is elsewhere."""
    module = importlib.import_module(module_name)
    sections: dict[str, list[str]] = {}
    elsewhere = []
    for name in public_names(module_name):
        value, home = getattr(module, name), homes()[id(getattr(module, name))]
        if home == f"{module_name}.{name}":
            sections.setdefault(_part(value, module_name), []).append(entry(home, value, module))
        else:
            elsewhere.append(f"[`{name}`](#{home})")
    lines = [f"# {module_name}", to_markdown(module.__doc__ or "", functools.partial(_link, module))]
    if elsewhere:
        lines.append("Documented in its other home: " + ", ".join(elsewhere) + ".")
    for part, entries in sorted(sections.items(), key=lambda item: (item[0] != "rnn_jax.cells", item[0])):
        if len(sections) > 1 and part:
            first = inspect.cleandoc(importlib.import_module(part).__doc__ or part).split("\n\n")[0]
            lines.append(f"## {part}\n\n" + to_markdown(first, functools.partial(_link, module)))
        lines += entries
    return "\n\n".join(lines) + "\n"


def _part(value: Any, module_name: str) -> str:
    """The module that defines an object, down to one level below the page; constants come first."""
    where = getattr(value, "__module__", None) if callable(value) else None
    if not where or not where.startswith("rnn_jax"):
        return ""
    return ".".join(where.split(".")[: module_name.count(".") + 2])


def _link(module: ModuleType, name: str) -> str | None:
    """The entry of a name in backticks: of the page's module or of `rnn_jax`, with or without the module before it."""
    for path in (f"{module.__name__}.{name}", f"rnn_jax.{name}", name):
        owner, _, last = path.rpartition(".")
        if owner in public_modules() and last in public_names(owner):
            return homes()[id(getattr(importlib.import_module(owner), last))]
    return None


def entry(path: str, value: Any, module: ModuleType) -> str:
    """The entry of one object: signature or fields, docstring, methods."""
    link = functools.partial(_link, module)
    if inspect.isclass(value):
        doc = value.__doc__ or ""
        text = _fields(value) + to_markdown("" if doc.startswith(f"{value.__name__}(") else doc, link)
        text += "".join(f"\n\n{_described('method', name, method, link)}" for name, method in _methods(value))
        return f"::::{{py:class}} {path}{_init_arguments(value)}\n\n{text}\n::::"
    if inspect.isfunction(inspect.unwrap(value)):
        return _described("function", path, value, link)
    text = to_markdown(_constant_doc(path.rpartition(".")[2], module), link)
    return f"::::{{py:data}} {path}\n\n{text}\n::::"


def _described(kind: str, path: str, function: Any, link: Any) -> str:
    doc = to_markdown(inspect.unwrap(function).__doc__ or "", link)
    colons = "::::" if kind == "function" else ":::"
    return f"{colons}{{py:{kind}}} {path}{_signature(function)}\n\n{doc}\n{colons}"


def _tree(value: Any) -> Any:
    """The syntax tree of an object's source."""
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(value)))).body[0]


def _signature(function: Any) -> str:
    """Arguments and result as they are written in the source."""
    node = _tree(function)
    for arguments in (node.args.posonlyargs, node.args.args):
        if arguments and arguments[0].arg in ("self", "cls"):
            del arguments[0]
    return f"({ast.unparse(node.args)})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def _init_arguments(value: type) -> str:
    return _signature(value.__init__) if inspect.isfunction(value.__init__) and not _has_fields(value) else ""


def _has_fields(value: type) -> bool:
    return hasattr(value, "_fields") or dataclasses.is_dataclass(value)


def _fields(value: type) -> str:
    """The fields of a NamedTuple or dataclass as they are written, with their shapes in comments."""
    if not _has_fields(value):
        return ""
    lines = inspect.getsource(value).splitlines()
    nodes = [node for node in _tree(value).body if isinstance(node, ast.AnnAssign)]
    offset = next(i for i, line in enumerate(lines) if line.lstrip().startswith("class "))
    shift = offset - (_tree(value).lineno - 1)
    rows = ["\n".join(lines[node.lineno - 1 + shift : node.end_lineno + shift]) for node in nodes]
    return f"```python\n{textwrap.dedent(chr(10).join(rows))}\n```\n\n" if rows else ""


def _methods(value: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class of ours defines and explains."""
    for name, member in vars(value).items():
        function = getattr(member, "fget", getattr(member, "__func__", member))
        if name[0] != "_" and inspect.isfunction(function) and function.__doc__:
            yield name, function


@functools.cache
def _constant_docs(root: str) -> dict[str, str]:
    """The strings below assignments in all files of a package."""
    found: dict[str, str] = {}
    for path in sorted(Path(root).rglob("*.py") if Path(root).is_dir() else [Path(root)]):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for one, other in itertools.pairwise(body):
            if isinstance(one, ast.Assign | ast.AnnAssign) and isinstance(other, ast.Expr):
                target = one.targets[0] if isinstance(one, ast.Assign) else one.target
                if isinstance(other.value, ast.Constant) and isinstance(target, ast.Name):
                    found.setdefault(target.id, str(other.value.value))
    return found


def _constant_doc(name: str, module: ModuleType) -> str:
    file = Path(str(module.__file__))
    return _constant_docs(str(file.parent if file.name == "__init__.py" else file)).get(name, "")
