"""Large files that get their name when they are whole: what is interrupted leaves nothing behind."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OptionError


def check_target(targets: Sequence[Path], num_bytes: int) -> None:
    """To be called before anything is computed.

    Args:
        targets: of one folder.
        num_bytes: of all of them together.

    Raises:
        OptionError: a target exists, the folder does not, or it has not so much room.
    """
    folder = targets[0].parent
    for target in targets:
        if target.exists():
            raise OptionError(f"{target} exists: choose another name, or remove it first")
    try:
        room = os.statvfs(folder)
    except OSError as error:
        raise OptionError(f"{folder}: {error.strerror}: choose a folder that exists") from None
    left = room.f_bavail * room.f_frsize
    if num_bytes > left:
        raise OptionError(f"{folder} has {left / 1e6:,.1f} MB left, {num_bytes / 1e6:,.1f} MB are needed")


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """The path to write to, which becomes the target's if nothing fails.

    Raises:
        OptionError: the system refuses to write: the disk is full, or the folder may not be written to.
    """
    unfinished = target.with_name(target.name + ".unfinished")
    try:
        yield unfinished
        unfinished.rename(target)
    except OSError as error:
        raise OptionError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink()
