"""The profile that a command works with: a preset, a file, or what was measured here; and what must be said of it."""

from dataclasses import dataclass
from pathlib import Path
from warnings import warn

from ..errors import HardwareError
from . import store
from .cards import CARDS
from .machine import differences, is_foreign
from .presets import COMPUTERS, is_preset, preset
from .schema import Hardware


@dataclass(frozen=True)
class Found:
    hardware: Hardware
    source: str  # the preset's name or the file's path
    notes: tuple[str, ...] = ()  # in what it differs from this machine, and which of its figures a busy machine gave

    @property
    def is_foreign(self) -> bool:
        """Figures of another machine than this one."""
        return is_foreign(self.hardware)


def find_hardware(name: str | Path | None = None) -> Found | None:
    """A preset or a file by name; without one the user's own profile, None where there is none yet.

    Raises:
        HardwareError: neither a preset nor a file, or a file that cannot be read.
    """
    if name is None:
        try:
            path = store.user_path()
        except HardwareError:  # where nothing can be kept, nothing was
            return None
        return _noted(store.read_hardware(path), str(path)) if path.is_file() else None
    text = str(name)
    if is_preset(text):
        try:
            return _noted(preset(text), text)
        except KeyError as error:
            raise HardwareError(f"no card {error.args[0]!r} is known; choose one of {', '.join(CARDS)}") from None
    path = Path(text)
    if not path.is_file():
        raise HardwareError(
            f"no profile {text!r}: name a file that moe-offload profile --output wrote, or a preset: "
            f"{', '.join(COMPUTERS)}, with a card such as {next(iter(COMPUTERS))}+{next(iter(CARDS))}"
        )
    return _noted(store.read_hardware(path), text)


def profile_of_this_machine() -> Hardware | None:
    """The user's own profile, if it was made on this machine; a warning says why another one is not used."""
    try:
        found = find_hardware()
    except HardwareError as error:
        warn(str(error), stacklevel=3)
        return None
    if found is not None and found.is_foreign:
        warn(f"the profile {found.source} is not used: {'; '.join(found.notes)}", stacklevel=3)
        return None
    return found.hardware if found else None


def _noted(hardware: Hardware, source: str) -> Found:
    notes = differences(hardware)
    if hardware.busy.affected:
        notes.append(f"the machine was busy when these were measured: {', '.join(hardware.busy.affected)}")
    return Found(hardware, source, tuple(notes))
