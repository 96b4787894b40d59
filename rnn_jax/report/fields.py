"""Nested fields, such as those of a configuration: read, flattened, compared."""

import enum
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["ABSENT", "Absent", "differing_fields", "field_text", "flatten", "read_object"]


class Absent(enum.Enum):
    """The value of a field that is not there.

    Example:
      >>> Absent.ABSENT
      absent
    """

    ABSENT = "absent"

    def __repr__(self) -> str:
        return self.value


ABSENT = Absent.ABSENT
"""What `differing_fields` shows where a configuration lacks a field."""


def flatten(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one mapping from dotted names.

    Args:
      fields: mappings inside mappings; everything else counts as a value.

    Returns:
      `{dotted name: value}`; an empty mapping inside is a value.

    Example:
      >>> flatten({"seed": 0, "model": {"cell": "gru", "sizes": [8, 4]}})
      {'seed': 0, 'model.cell': 'gru', 'model.sizes': [8, 4]}
    """
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}.{inner}": item for inner, item in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def differing_fields(configs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """The fields in which configurations differ, with the value in each.

    Args:
      configs: nested plain data, as `config.json` holds it.

    Returns:
      `{dotted name: one value for each configuration}`, in the order of the fields; `ABSENT` where
      a configuration lacks the field. NaN equals NaN. Empty where all are equal.

    Example:
      >>> differing_fields([{"cell": "gru", "data": {"size": 8}}, {"cell": "gru", "data": {"size": 16}}])
      {'data.size': (8, 16)}
      >>> differing_fields([{"cell": "gru"}, {}])
      {'cell': ('gru', absent)}
    """
    differing: dict[str, tuple[Any, ...]] = {}
    for name in dict.fromkeys(name for config in configs for name in config):
        values = tuple(config.get(name, ABSENT) for config in configs)
        if all(isinstance(value, Mapping) for value in values):
            differing |= {f"{name}.{inner}": items for inner, items in differing_fields(values).items()}
        elif any(_key(value) != _key(values[0]) for value in values):
            differing[name] = values
    return differing


def field_text(value: Any) -> str:
    """Writes the value of a field: text as it is, everything else as JSON.

    Args:
      value: plain data or `ABSENT`.

    Returns:
      the text.

    Example:
      >>> field_text("gru"), field_text([8, 4]), field_text(None), field_text(ABSENT)
      ('gru', '[8, 4]', 'null', 'absent')
    """
    if isinstance(value, Absent):
        return value.value
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_object(run_dir: Path, name: str) -> dict[str, Any]:
    """Reads a JSON object that a run directory must hold.

    Args:
      run_dir: directory of a run.
      name: name of the file.

    Returns:
      the object.

    Raises:
      ValueError: there is no such file, or no JSON object in it.

    Example:
      >>> read_object(Path("no/such/run"), "config.json")
      Traceback (most recent call last):
      ValueError: `run_dir` must hold config.json, as start_run writes it, got 'no/such/run'
    """
    path = run_dir / name
    if not path.is_file():
        raise ValueError(f"`run_dir` must hold {name}, as start_run writes it, got {str(run_dir)!r}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{name} in {str(run_dir)!r} must be JSON, got: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} in {str(run_dir)!r} must be a JSON object, got {value!r}")
    return value


def _key(value: Any) -> str:
    """Equal values have equal keys; 1 equals 1.0, and NaN equals NaN."""
    if isinstance(value, list):
        return f"[{', '.join(map(_key, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{name!r}: {_key(item)}' for name, item in value.items()))}}}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return repr(value)
