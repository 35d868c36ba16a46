"""Compiled kernels by format, built when they are first needed; only their addresses go on from here."""

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experts import panels
from experts.activations import make_encoder
from experts.build import build_key
from experts.formats import Format
from experts.frame import MAX_ROWS
from experts.panels import Panel

_kept: list[Any] = []  # compiled functions live as long as the process: others hold their addresses


def keep(function: Any) -> int:
    """The address of a compiled C function, which is kept alive."""
    _kept.append(function)
    return int(function.address)


def num_compiled() -> int:
    """Kernels that this process had to compile, because the cache on disk did not hold them."""
    return sum(function.cache_hits == 0 for function in _kept)


@cache
def _blocks(name: str) -> ModuleType:
    return import_module(f"experts.blocks.{name.lower()}")


def panel(name: str) -> Panel | None:
    """How a format lies in panels, None for one that has no such layout."""
    return getattr(_blocks(name), "PANEL", None)


@cache
def _table(name: str, interleaved: bool) -> NDArray[np.int64]:
    return np.zeros(MAX_ROWS + 1, np.int64)


def _maker(fmt: Format, interleaved: bool) -> Any:
    found = panel(fmt.name) if interleaved else None
    if found is None:
        return _blocks(fmt.name).make_multiply
    return panels.make_multiply(fmt.name, found, fmt.block_weights, fmt.block_bytes)


def multiply(fmt: Format, interleaved: bool, m: int) -> int:
    """Address of the kernel for m rows."""
    return keep(_maker(fmt, interleaved)(m, build_key()))


def multiply_table(fmt: Format, interleaved: bool, rows: int) -> int:
    """Address of a table of kernels; entry m is the one for m rows, there for m up to `rows`, at most MAX_ROWS."""
    table = _table(fmt.name, interleaved)
    for m in range(1, min(rows, MAX_ROWS) + 1):
        if not table[m]:
            table[m] = multiply(fmt, interleaved, m)
    return int(table.ctypes.data)


@cache
def decoder(fmt: Format) -> int:
    """Address of the plain decoder of one row."""
    return keep(_blocks(fmt.name).make_decode(build_key()))


@cache
def encoder(encoding: str) -> int:
    """Address of the encoder of one row of activations."""
    return keep(make_encoder(encoding, build_key()))
