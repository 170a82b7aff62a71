"""Reads a TOML file into nested frozen dataclasses: once, at start, refusing what it does not know."""

import dataclasses
import math
import tomllib
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

SIZE_LIMIT: Final = 262_144  # bytes
_PLAIN: Final = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
T = TypeVar("T")


class ConfigError(Exception):
    """A configuration cannot be used. The message names file and key, never a value."""


def named(key: str, **options: Any) -> Any:
    """Return a dataclass field that stands in the file as `key`, where that is no Python name (`class`)."""
    return dataclasses.field(metadata={"key": key}, **options)


def load_config(path: Path, cls: type[T]) -> T:
    """Return `cls`, a dataclass, filled from the TOML file at `path`.

    Fields may be str, int, float (finite), bool, Path (relative ones start at the file's folder), enums and literals of
    text, tuples of one type, mappings from text, `X | None`, and dataclasses again. Those without default are needed.

    Raises:
        ConfigError: unreadable file, no TOML, unknown or missing key, wrong type, or a ValueError of a `__post_init__`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from error
    if len(data) > SIZE_LIMIT:
        raise ConfigError(f"{path}: larger than {SIZE_LIMIT} bytes")
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        # The parser's words name line and column; a UnicodeDecodeError's would quote bytes.
        where = str(error) if isinstance(error, tomllib.TOMLDecodeError) else type(error).__name__
        raise ConfigError(f"{path}: not TOML: {where}") from error
    try:
        return parse_config(table, cls, folder=path.absolute().parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(table: Mapping[str, object], cls: type[T], *, folder: Path) -> T:
    """Return `cls` filled from a parsed table; as `load_config` does."""
    found: T = _table(table, cls, "", folder)
    return found


def _table(table: Mapping[str, object], cls: Any, where: str, folder: Path) -> Any:
    hints = get_type_hints(cls)
    fields = {field.metadata.get("key", field.name): field for field in dataclasses.fields(cls) if field.init}
    prefix = f"{where}." if where else ""
    for key in table:
        if key not in fields:
            raise ConfigError(f"unknown key {prefix}{key!s}")
    values: dict[str, object] = {}
    for key, field in fields.items():
        if key in table:
            values[field.name] = _value(table[key], hints[field.name], prefix + key, folder)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"missing key {prefix}{key}")
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{where or 'the file'}: {error}") from error


def _value(value: object, hint: Any, where: str, folder: Path) -> object:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = [arg for arg in args if arg is not types.NoneType]
        if len(inner) != 1:
            raise TypeError(f"{where}: a field of several types")  # a mistake in the program, not in the file
        return _value(value, inner[0], where, folder)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} must be a list")
        return tuple(_value(item, args[0], f"{where}[{index}]", folder) for index, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        items = _as_table(value, where)
        return {key: _value(item, args[1], f"{where}.{key}", folder) for key, item in items.items()}
    if dataclasses.is_dataclass(hint):
        return _table(_as_table(value, where), hint, where, folder)
    return _scalar(value, hint, where, folder)


def _scalar(value: object, hint: Any, where: str, folder: Path) -> object:
    if hint is Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise ConfigError(f"{where} must be a path")
        return folder / value
    if get_origin(hint) is Literal:
        return _choice(value, {choice: choice for choice in get_args(hint)}, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _choice(value, {member.value: member for member in hint}, where)
    if hint not in _PLAIN:
        raise TypeError(f"{where}: fields of type {hint!r} cannot be read")
    if hint is float and type(value) is int:
        value = float(value)
    # Exact types: in Python true is an int as well. A text with a NUL cannot be passed on to the system.
    if type(value) is not hint or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"{where} must be {_PLAIN[hint]}")
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{where} holds a NUL")
    return value


def _as_table(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a table")
    return value


def _choice(value: object, choices: Mapping[object, object], where: str) -> object:
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{where} must be one of: {', '.join(str(choice) for choice in choices)}")
    return choices[value]
