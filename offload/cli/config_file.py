"""moe-offload.toml: a command's flags as keys of a file. What a flag is called and takes stands with the flag alone.

    device = "cuda"
    gpu_memory = "22GiB"

    [[placement.rules]]
    match = "blk.(1[0-9]).ffn_.*_exps"
    device = "gpu"

A key is the flag's name with `_` for `-`; a table's name and its keys are joined by `_` too. Flags beat the file.
"""

import argparse
import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import OptionError
from ..planning import Rule
from .files import read_text
from .other_names import NAMES

FILE_NAME = "moe-offload.toml"
NO_KEYS = ("help", "version", "config")
RULES = "placement_rules"  # whose elements may be tables


def add_config_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", metavar="FILE", help=f"flags as keys of a TOML file; {FILE_NAME} in this folder, if there is one"
    )


def file_of(argv: Sequence[str]) -> Path | None:
    """The file that the flags name, or the one in the current folder."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    named: Path | None = finder.parse_known_args(argv)[0].config
    if named is None:
        here = Path(FILE_NAME)
        return here if here.is_file() else None
    return named


def keys_of(command: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The flags of a command by the names of their keys."""
    return {a.dest: a for a in command._actions if a.option_strings and a.dest not in NO_KEYS}


class ConfigFile:
    """A file that was read: its keys, flattened, and its text, for the lines that errors name.

    Raises:
        OptionError: no such file, or no TOML.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = read_text(path, "configuration")
        try:
            self.values = dict(_flat("", tomllib.loads(self._text)))
        except tomllib.TOMLDecodeError as error:
            raise OptionError(f"{path} is no TOML: {error}") from None

    def apply(self, command: argparse.ArgumentParser, other_keys: Callable[[], Collection[str]]) -> list[str]:
        """Makes the file's values the command's defaults.

        Args:
            other_keys: of all commands; those of another command are passed over.

        Returns:
            The keys that the command has taken.

        Raises:
            OptionError: an unknown key, with the nearest known one, or a value that the flag does not take.
        """
        known, taken = keys_of(command), {}
        for key, value in self.values.items():
            if key in known:
                taken[key] = self._converted(known[key], value)
            elif key not in (everywhere := other_keys()):
                self._fail(key, f"unknown key {key!r}{_meant(key, everywhere)}")
        for key, value in taken.items():
            known[key].default = _Default(value) if isinstance(value, list) else value
        for group in command._mutually_exclusive_groups:
            if any(action.dest in taken for action in group._group_actions):
                group.required = False
        return list(taken)

    def _converted(self, action: argparse.Action, value: Any) -> Any:
        """The value as the flag's own parsing would have it."""
        if isinstance(action, argparse._AppendAction):
            return [self._one(action, part) for part in (value if isinstance(value, list) else [value])]
        if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
            if not isinstance(value, bool):
                self._fail(action.dest, f"{action.dest} is {value!r}; it must be true or false")
            return value
        return self._one(action, value)

    def _one(self, action: argparse.Action, value: Any) -> Any:
        if action.dest == RULES and isinstance(value, Mapping):
            return self._rule(value)
        if isinstance(value, bool | list | Mapping):
            self._fail(action.dest, f"{action.dest} is {value!r}; it must be one text or number")
        try:
            converted = action.type(str(value)) if callable(action.type) else str(value)
        except (ValueError, TypeError, argparse.ArgumentTypeError):
            kind = getattr(action.type, "__name__", "value")
            self._fail(action.dest, f"{action.dest} is {value!r}, which is no {kind}")
        if action.choices is not None and converted not in action.choices:
            self._fail(action.dest, f"{action.dest} is {value!r}; choose one of {', '.join(map(str, action.choices))}")
        return converted

    def _rule(self, table: Mapping[str, Any]) -> Rule:
        for name in table:
            if name not in ("match", "device"):
                self._fail(name, f"a placement rule has no {name!r}; its keys are match and device")
        try:
            return Rule(str(table["match"]), str(table["device"]))
        except KeyError as error:
            self._fail("rules", f"a placement rule lacks {error.args[0]!r}; its keys are match and device")

    def _fail(self, key: str, problem: str) -> NoReturn:
        """Names the line on which the key, or the last part of it, seems to stand."""
        parts = [key[i:] for i in range(len(key)) if i == 0 or key[i - 1] == "_"]
        lines = self._text.splitlines()
        found = (
            number
            for part in parts
            for number, line in enumerate(lines, 1)
            if re.match(rf'\s*(\[+[\w.]*)?"?\b{re.escape(part)}\b', line)
        )
        line = next(found, None)
        raise OptionError(f"{self.path}{f', line {line}' if line else ''}: {problem}")


def _meant(key: str, known: Collection[str]) -> str:
    """What to write instead, where that can be said."""
    ours = NAMES.get("--" + key.replace("_", "-"))
    if ours == "MODEL":
        return "; the model is named on the command line"
    near = [ours.removeprefix("--").replace("-", "_")] if ours else difflib.get_close_matches(key, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


class _Default(list):  # type: ignore[type-arg]
    """The file's list, which flags replace instead of adding to it."""

    def __copy__(self) -> list[Any]:
        return []


def _flat(prefix: str, table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys of tables joined by `_`."""
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        name = prefix + key.replace("-", "_")
        found += _flat(f"{name}_", value) if isinstance(value, Mapping) else [(name, value)]
    return found
