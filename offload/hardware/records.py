"""Reads JSON into frozen dataclasses, strictly: what is missing, unknown or of a wrong kind is named with its place."""

import difflib
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def read_record(kind: type[T], value: Any, place: str = "") -> T:
    """A dataclass of this kind from parsed JSON. Numbers of bytes, seconds and counts are finite and not negative.

    Raises:
        ValueError: the place, what stands there, and what must.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{place or 'the file'} is {_shown(value)}; it must be an object")
    hints, known = get_type_hints(kind), {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            raise ValueError(f"{_joined(place, name)} is unknown" + (f"; did you mean {near[0]}?" if near else ""))
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{_joined(place, name)} is missing")
    return kind(**{name: _read(hints[name], value[name], _joined(place, name)) for name in value})


def _read(kind: Any, value: Any, place: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):  # with None
        (inner,) = (k for k in arguments if k is not type(None))
        return None if value is None else _read(inner, value, place)
    if is_dataclass(kind):
        return read_record(kind, value, place)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{place} is {_shown(value)}; it must be a list")
        return tuple(_read(arguments[0], part, f"{place}[{i}]") for i, part in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} is {_shown(value)}; it must be an object")
        return {_key(arguments[0], k, place): _read(arguments[1], v, _joined(place, k)) for k, v in value.items()}
    return _scalar(kind, value, place)


def _scalar(kind: type, value: Any, place: str) -> Any:
    if kind in (float, int) and not isinstance(value, bool) and isinstance(value, int | float):
        if not (math.isfinite(value) and value >= 0) or (kind is int and value != int(value)):
            raise ValueError(f"{place} is {value}; it must be a {'whole ' if kind is int else ''}number of 0 or more")
        return kind(value)
    if kind in (str, bool) and isinstance(value, kind):
        return value
    expected = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}[kind]
    raise ValueError(f"{place} is {_shown(value)}; it must be {expected}")


def _key(kind: type, key: str, place: str) -> Any:
    if kind is int and not key.isdecimal():
        raise ValueError(f"{place} has the key {key!r}; it must be a whole number")
    return kind(key)


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else str(name)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
