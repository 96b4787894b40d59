"""Reads the configuration of a run back into its dataclass, and compares two."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from rnn_jax.report import differing_fields
from rnn_jax.training.run_dir import to_plain

__all__ = ["diff_configs", "load_config"]

C = TypeVar("C")


def load_config(config_type: type[C], path: str | Path) -> C:
    """Reads a configuration that a run wrote down.

    Fields may be bool, int, float, str, `Path`, None, `Literal`, tuples, lists, dicts with text as
    keys, dataclasses, and unions of these, of which the first that fits is taken.

    Args:
      config_type: the dataclass.
      path: the directory of a run, or a JSON file such as its `config.json`.

    Returns:
      the configuration, equal to the one the run was started with.

    Raises:
      ValueError: there is no such file or it is not JSON; a field is unknown (the text suggests
        close names) or missing; or a value has another type than its field, which the text names
        with dots.

    Example:
      >>> import tempfile
      >>> Config = dataclasses.make_dataclass("Config", [("sizes", tuple[int, ...], (8,)), ("seed", int, 0)])
      >>> path = Path(tempfile.mkdtemp()) / "config.json"
      >>> _ = path.write_text('{"sizes": [8, 4], "seed": 3}')
      >>> load_config(Config, path)
      Config(sizes=(8, 4), seed=3)
    """
    if not (isinstance(config_type, type) and dataclasses.is_dataclass(config_type)):
        raise ValueError(f"`config_type` must be a dataclass, got {config_type!r}")
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(f"`path` must be a run directory with a config.json or a JSON file, got {str(path)!r}")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`path` must hold JSON, got {str(file)!r}: {error}") from error
    return _read_dataclass(config_type, value, "")


def diff_configs(a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configurations differ.

    Args:
      a: a dataclass instance, or nested plain data as `config.json` holds it.
      b: the other.

    Returns:
      `{dotted name: (value in a, value in b)}`, as plain data; `rnn_jax.report.ABSENT` where one
      lacks the field.

    Raises:
      ValueError: one is not made of fields.

    Example:
      >>> Config = dataclasses.make_dataclass("Config", [("cell", str, "gru"), ("seed", int, 0)])
      >>> diff_configs(Config(), Config(cell="lstm"))
      {'cell': ('gru', 'lstm')}
    """
    plain = [to_plain(config) for config in (a, b)]
    for name, config, given in zip("ab", plain, (a, b), strict=True):
        if not isinstance(config, Mapping):
            raise ValueError(f"`{name}` must be a dataclass instance or a mapping, got {given!r}")
    return {name: (values[0], values[1]) for name, values in differing_fields(plain).items()}


def _read_dataclass(config_type: Any, value: Any, name: str) -> Any:
    """An object into a dataclass: the same fields, no more, no fewer."""
    if not isinstance(value, Mapping):
        raise _wrong(name, f"an object with the fields of {config_type.__name__}", value)
    hints = typing.get_type_hints(config_type)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(config_type) if field.init}
    prefix = f"{name}." if name else ""
    problems = [f"unknown {prefix}{field}{_suggestion(field, list(fields))}" for field in value if field not in fields]
    problems += [f"missing {prefix}{field}" for field in fields if field not in value]
    if problems:
        raise ValueError(f"`path` must hold exactly the fields of {config_type.__name__}, got {', '.join(problems)}")
    return config_type(**{field: _read(hint, value[field], f"{prefix}{field}") for field, hint in fields.items()})


def _suggestion(field: str, names: list[str]) -> str:
    close = difflib.get_close_matches(field, names)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _read(hint: Any, value: Any, name: str) -> Any:
    """A JSON value into what an annotation asks for."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(hint, value, name)
    if origin is Literal:
        return _read_literal(args, value, name)
    if origin in (Union, types.UnionType):
        return _read_union(args, value, name)
    if tuple in (hint, origin):
        return _read_tuple(args or (Any, ...), value, name)
    if list in (hint, origin):
        return list(_read_tuple((args[0] if args else Any, ...), value, name))
    if dict in (hint, origin) and (not args or args[0] is str):
        if not isinstance(value, Mapping):
            raise _wrong(name, "an object", value)
        return {key: _read(args[1] if args else Any, item, f"{name}.{key}") for key, item in value.items()}
    return _read_simple(hint, value, name)


def _read_simple(hint: Any, value: Any, name: str) -> Any:
    """Numbers, text, None; a whole number may stand for a float, and text for a path."""
    if hint in (None, type(None)):
        if value is not None:
            raise _wrong(name, "null", value)
        return None
    json_type = {bool: bool, int: int, float: (int, float), str: str, Path: str}.get(hint)
    if json_type is None:
        raise ValueError(f"`{name}` has a type that cannot be read from JSON: {hint!r}")
    if not isinstance(value, json_type) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(name, hint.__name__, value)
    return hint(value)


def _read_literal(allowed: tuple[Any, ...], value: Any, name: str) -> Any:
    for item in allowed:
        if item == value and type(item) is type(value):
            return item
    close = _suggestion(value, [str(item) for item in allowed]) if isinstance(value, str) else ""
    raise _wrong(name, f"one of {', '.join(map(repr, allowed))}", f"{value!r}{close}", shown=True)


def _read_union(members: tuple[Any, ...], value: Any, name: str) -> Any:
    """The first member that fits; where only one could, its own error says more."""
    others = [member for member in members if member is not type(None)]
    if value is None and len(others) < len(members):
        return None
    if len(others) == 1:
        return _read(others[0], value, name)
    for member in others:
        try:
            return _read(member, value, name)
        except ValueError:
            continue
    raise _wrong(name, " or ".join(getattr(member, "__name__", str(member)) for member in members), value)


def _read_tuple(args: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong(name, "a list", value)
    if args[1:] == (...,):
        args = (args[0],) * len(value)
    if len(value) != len(args):
        raise _wrong(name, f"a list of {len(args)}", value)
    return tuple(
        _read(hint, item, f"{name}[{index}]") for index, (hint, item) in enumerate(zip(args, value, strict=True))
    )


def _wrong(name: str, expected: str, value: Any, *, shown: bool = False) -> ValueError:
    """The error of a value that does not fit; `shown`: the value is text for people already."""
    where = f"`{name}`" if name else "`path`"
    return ValueError(f"{where} must {'be' if name else 'hold'} {expected}, got {value if shown else repr(value)}")
