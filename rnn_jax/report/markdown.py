"""A report a person reads: `report.md` in a run directory, with its table, pictures and links."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnn_jax.report.fields import field_text, flatten, read_object

__all__ = ["markdown_table", "write_report"]


def write_report(
    run_dir: str | Path,
    *,
    title: str,
    intro: str,
    metrics_rows: Sequence[Mapping[str, Any]],
    figures: Mapping[str, str | Path],
    links: Mapping[str, str | Path],
    notes: Sequence[str] = (),
) -> Path:
    """Writes `report.md` into a run directory.

    The configuration and the environment are read from `config.json` and `environment.json`,
    which `rnn_jax.training.start_run` wrote there. All links are relative to the report, so the
    directory can be moved or sent to someone.

    Args:
      run_dir: directory of a run.
      title: heading of the report.
      intro: a paragraph: the question, what was done, what came out (Markdown).
      metrics_rows: rows of one table; the keys of the first row are its columns.
      figures: `{caption: picture}`; pictures are paths inside `run_dir`, absolute or relative to
        it, shown in this order.
      links: `{text: file}` for what cannot be shown, such as audio or MIDI; paths as above.
      notes: sentences to stand out below the introduction, for example that training was cut
        short (`rnn_jax.training.describe_fit`).

    Returns:
      the path of the report.

    Raises:
      ValueError: `run_dir` lacks its two files, a picture or linked file is missing or lies
        outside of `run_dir`, or the rows have different keys.
      FileExistsError: the run already has a report.

    Example:
      >>> import tempfile
      >>> run_dir = Path(tempfile.mkdtemp())
      >>> _ = (run_dir / "config.json").write_text('{"hidden_size": 8}')
      >>> _ = (run_dir / "environment.json").write_text('{"backend": "cpu"}')
      >>> rows = [{"model": "GRU", "nll": 8.541}]
      >>> path = write_report(
      ...     run_dir, title="A run", intro="What is it?", metrics_rows=rows, figures={}, links={}
      ... )
      >>> print(path.read_text().split("## Configuration")[0].strip())
      # A run
      <BLANKLINE>
      What is it?
      <BLANKLINE>
      ## Result
      <BLANKLINE>
      | model | nll |
      | --- | ---: |
      | GRU | 8.541 |
    """
    run_dir = Path(run_dir)
    config = read_object(run_dir, "config.json")
    environment = read_object(run_dir, "environment.json")
    parts = [f"# {title}", intro.strip()]
    parts += ["\n".join(f"> {line}" for line in note.strip().splitlines()) for note in notes]
    if metrics_rows:
        parts += ["## Result", markdown_table(metrics_rows)]
    for caption, path in figures.items():
        parts += [f"![{caption}]({_relative(run_dir, path, 'figures')})", f"*{caption}*"]
    if links:
        items = [f"- [{text}]({_relative(run_dir, path, 'links')})" for text, path in links.items()]
        parts += ["## Files", "\n".join(items)]
    parts += ["## Configuration", _field_table(config)]
    parts += ["## Environment", _field_table(environment)]
    report = run_dir / "report.md"
    with report.open("x", encoding="utf-8") as file:
        file.write("\n\n".join(parts) + "\n")
    return report


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes rows as a Markdown table; columns of numbers are aligned to the right.

    Args:
      rows: at least one mapping; all have the keys of the first, in any order. Floats are shown
        with four significant digits.

    Returns:
      the table, without a line break at its end.

    Raises:
      ValueError: there is no row, or two rows have different keys.

    Example:
      >>> print(markdown_table([{"cell": "lstm", "nll": 8.67123}]))
      | cell | nll |
      | --- | ---: |
      | lstm | 8.671 |
    """
    if not rows:
        raise ValueError("`rows` must hold at least one row, got none")
    columns = list(rows[0])
    for number, row in enumerate(rows):
        if set(row) != set(columns):
            raise ValueError(f"`rows[{number}]` must have the keys {columns}, got {list(row)}")
    numeric = [all(_is_number(row[column]) for row in rows) for column in columns]
    lines = [columns, ["---:" if number else "---" for number in numeric]]
    lines += [[_cell(row[column]) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _relative(run_dir: Path, path: str | Path, argument: str) -> str:
    """The link from the report to a file of the run, in the form Markdown wants."""
    full = (run_dir / path).resolve()
    if not full.is_file():
        # A path that already starts with the run directory, as `run_dir / "a.png"` does.
        full = Path(path).resolve()
    if not full.is_file():
        raise ValueError(f"`{argument}` must be existing files, got {str(path)!r}")
    if not full.is_relative_to(run_dir.resolve()):
        raise ValueError(f"`{argument}` must lie inside `run_dir`, got {str(path)!r}")
    return full.relative_to(run_dir.resolve()).as_posix().replace(" ", "%20")


def _field_table(fields: Mapping[str, Any]) -> str:
    """Nested fields as a table of dotted names and values."""
    rows = [{"field": name, "value": field_text(value)} for name, value in flatten(fields).items()]
    return markdown_table(rows) if rows else "None."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    """One cell of a table: nothing in it may end the cell or the line."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
