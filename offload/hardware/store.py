"""hardware.json: where it lies, how it is read, and how it is written so that nobody ever reads half of it."""

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import HardwareError
from .records import read_record
from .schema import SCHEMA, Hardware

ROOM_BYTES = 64 << 10  # that a profile may take
REPEAT = "run moe-offload profile to measure this machine"


def user_path() -> Path:
    """The file in the user's cache folder.

    Raises:
        HardwareError: the user has no home, as unknown users in containers.
    """
    try:
        home = Path.home()
    except RuntimeError:
        raise HardwareError(
            "this user has no home folder to keep a profile in: set HOME, or give --output FILE"
        ) from None
    if sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        folder = home / "Library" / "Caches"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return folder / "moe-offload" / "hardware.json"


def read_hardware(path: Path) -> Hardware:
    """Reads a profile.

    Raises:
        HardwareError: no such file, no JSON, another schema, or a wrong entry: which one, and what to do.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HardwareError(f"cannot read the profile {path}: {error.strerror}. {REPEAT.capitalize()}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise HardwareError(f"the profile {path} is not JSON ({error}): {REPEAT}") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise HardwareError(f"the profile {path} has schema {schema!r}; this version reads {SCHEMA}: {REPEAT}")
    try:
        hardware = read_record(Hardware, document)
        check(hardware)
    except ValueError as error:
        raise HardwareError(f"the profile {path} is damaged: {error}; {REPEAT}") from None
    return hardware


def check(hardware: Hardware) -> None:
    """Refuses what arithmetic could not be done with.

    Raises:
        ValueError: the entry, and what it must be.
    """
    ram = hardware.ram
    rates: dict[str, Any] = {"ram.read_bytes_per_s": ram.read_bytes_per_s, "ram.copy_bytes_per_s": ram.copy_bytes_per_s}
    rates |= {f"kernels.{name}": rows for name, rows in hardware.kernels.items()}
    rates |= {f"kernels_native.{name}": rows for name, rows in hardware.kernels_native.items()}
    rates |= {f"accelerators.{name}": a.memory_bytes_per_s for name, a in hardware.accelerators.items()}
    for name, link in hardware.links.items():
        rates |= {f"links.{name}.down": link.down.bytes_per_s, f"links.{name}.up": link.up.bytes_per_s}
    for place, rate in rates.items():
        values = list(rate.values()) if isinstance(rate, dict) else [rate]
        if not values or not all(value > 0 for value in values):
            raise ValueError(f"{place} is {rate}; bytes a second must be above 0, and at least one must be known")
    if missing := hardware.accelerators.keys() ^ hardware.links.keys():
        raise ValueError(f"links and accelerators must have the same names: {', '.join(sorted(missing))}")


def write_hardware(hardware: Hardware, path: Path) -> None:
    """Writes a profile beside its place and moves it there in one step: a reader sees the old or the new one.

    Raises:
        HardwareError: the folder cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(as_text(hardware))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise _unwritable(path, error) from None


def check_writable(path: Path) -> None:
    """To be called before anything is measured.

    Raises:
        HardwareError: the folder cannot be made or written to.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(ROOM_BYTES))
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> HardwareError:
    return HardwareError(f"cannot write the profile {path}: {error.strerror}. Choose another place with --output FILE")


def as_text(hardware: Hardware, indent: int | None = 1) -> str:
    """The JSON document, figures with 4 digits."""
    return json.dumps(rounded(asdict(hardware)), indent=indent) + "\n"


def rounded(value: Any) -> Any:
    """Numbers in it with 4 digits, keys as texts."""
    if isinstance(value, dict):
        return {str(key): rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
