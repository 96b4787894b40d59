"""Files that are only touched when they change, so that Sphinx builds again only what is new."""

from pathlib import Path


def write(path: Path, text: str) -> None:
    """Writes a text, unless the file holds it already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def remove_others(folder: Path, pattern: str, keep: set[str]) -> None:
    """Deletes what an earlier build left there and this one has not written."""
    for path in folder.glob(pattern):
        if path.name not in keep:
            path.unlink()
