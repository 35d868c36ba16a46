"""argparse with short errors that say what was perhaps meant."""

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import NoReturn

from .other_names import INSTEAD, translated

NEGATIVE_NUMBER = re.compile(r"-\d|-\.\d")


class Parser(argparse.ArgumentParser):
    """No abbreviations: a flag that is nearly right is named, not guessed."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(allow_abbrev=False, **arguments)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n`{self.prog} --help` lists what can be given\n")

    def shorten_usage(self) -> None:
        """One line, once all arguments are there; the help lists the flags anyway."""
        positional = [a.dest.upper() if a.nargs != "?" else f"[{a.dest.upper()}]" for a in self._named_by_place()]
        self.usage = " ".join((self.prog, *positional, "[options]"))

    def checked(self, flags: Sequence[str]) -> list[str]:
        """The flags by the names that they have here; ends the process at the first that is unknown.

        Raises:
            OptionError: flags of other programs that contradict each other.
        """
        known = {*self._option_string_actions, *(a.dest.upper() for a in self._named_by_place())}
        flags = translated(flags, known)
        for flag in flags:
            if flag == "--":
                break
            name = flag.partition("=")[0]
            if not self._is_flag(name) or name in known:
                continue
            glued = not name.startswith("--") and name[:2] in known  # -n5
            if name in INSTEAD:
                self.error(f"unknown flag {name}: {INSTEAD[name]}")
            if not glued:
                near = difflib.get_close_matches(name, [flag for flag in known if flag.startswith("--")], 1)
                hint = f"did you mean {near[0]}?" if near else "a value that begins with - is written --FLAG=VALUE"
                self.error(f"unknown flag {name}; {hint}")
        return flags

    def _named_by_place(self) -> list[argparse.Action]:
        return [action for action in self._actions if not action.option_strings]

    @staticmethod
    def _is_flag(text: str) -> bool:
        return len(text) > 1 and text[0] == "-" and " " not in text and not NEGATIVE_NUMBER.match(text)
