"""Our docstrings as Markdown: sections in Google's style, indented equations, code between single backticks."""

import inspect
import re
from collections.abc import Callable

SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Examples?|Notes?|References|Warnings?):\s*$")
ENTRY = re.compile(r"(\*{0,2}\w[\w.]*(?:, \*{0,2}\w[\w.]*)*): (?=\S)")
LISTS = ("Args", "Attributes", "Raises")


def to_markdown(docstring: str, link: Callable[[str], str | None] = lambda name: None) -> str:
    """Writes a docstring as Markdown.

    Args:
        docstring: the docstring.
        link: gives the target of a name that stands between backticks, or None.

    Returns:
        Markdown: prose, equations as literal blocks, and each section under its name in bold.
    """
    parts: list[str] = []
    title, body = "", []
    for line in [*inspect.cleandoc(docstring).splitlines(), "End:"]:
        match = SECTION.match(line)
        if not match and line != "End:":
            body.append(line)
            continue
        parts.append(_section(title, inspect.cleandoc("\n" + "\n".join(body)), link))
        title, body = match[1] if match else "", []
    return "\n\n".join(part for part in parts if part)


def equation(docstring: str) -> str:
    """The first indented block before any section: the equations of a cell."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    first = next(block for block in blocks if block.startswith("    "))
    return inspect.cleandoc("\n" + first)


def _section(title: str, body: str, link: Callable[[str], str | None]) -> str:
    if not body:
        return ""
    if not title:
        return prose(body, link)
    if title.startswith("Example"):
        return f"**{title}**\n\n{_example(body, link)}"
    if title in LISTS:
        body = _entries(body, link)
    else:
        body = prose(body, link)
    return f"**{title}**\n\n{body}"


def _entries(body: str, link: Callable[[str], str | None]) -> str:
    """`name: text` as a list."""
    items: list[list[str]] = []
    for line in body.splitlines():
        if not items or (line and not line[0].isspace()):
            items.append([line])
        else:
            items[-1].append(line.strip())
    lines = []
    for item in items:
        text = "\n".join(item).strip()
        match = ENTRY.match(text)
        name, text = (f"**{inline(match[1])}**: ", text[match.end() :]) if match else ("", text)
        lines.append(f"- {name}" + inline(text, link).replace("\n\n", "\n\n  ").replace("\n", "\n  "))
    return "\n".join(lines)


def _example(body: str, link: Callable[[str], str | None]) -> str:
    """Prose, and every paragraph that holds a prompt as a session."""
    paragraphs = re.split(r"\n\s*\n", body)
    return "\n\n".join(f"```pycon\n{text}\n```" if ">>>" in text else prose(text, link) for text in paragraphs)


def prose(text: str, link: Callable[[str], str | None] = lambda name: None) -> str:
    """Paragraphs and lists as they are; what is indented by four or more after an empty line is a literal block."""
    out: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        if block.startswith("    "):
            literal = inspect.cleandoc("\n" + block)
            if out and out[-1].endswith("\n```") and literal:
                out[-1] = f"{out[-1][:-4]}\n\n{literal}\n```"
            else:
                out.append(f"```{_language(literal)}\n{literal}\n```")
        elif ">>> " in block:
            out.append(f"```pycon\n{block}\n```")
        else:
            out.append(inline(block, link))
    return "\n\n".join(out)


def _language(literal: str) -> str:
    return "bash" if re.match(r"(\S+/)?(python|pip|srun|mpirun) |\w+=\S+ python", literal) else "text"


def inline(text: str, link: Callable[[str], str | None] = lambda name: None) -> str:
    """Escapes what Markdown would take for markup outside of code, and links arXiv, URLs and names in backticks."""
    pieces = re.split(r"(``?[^`]+``?)", text)
    for i, piece in enumerate(pieces):
        if i % 2:
            target = link(piece.strip("`"))
            pieces[i] = f"[{piece}](#{target})" if target else piece
        else:
            piece = re.sub(r"([*<>\[\]$\\])", r"\\\1", piece)
            piece = re.sub(r"(?m)^(\s*)([#+|]|\d+\.)(?=\s|$|\|)", _escape_start, piece)
            piece = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", piece)
            piece = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", piece)
            pieces[i] = (
                re.sub(r"(https?://[^\s,;)]*[^\s,;).])", r"<\1>", piece.replace("\\_", "_"))
                if "http" in piece and "arxiv.org/abs" not in piece
                else piece
            )
    return "".join(pieces)


def _escape_start(match: re.Match[str]) -> str:
    space, mark = match[1], match[2]
    return f"{space}{mark[:-1]}\\." if mark[-1] == "." else f"{space}\\{mark}"
