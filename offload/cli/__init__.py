"""The commands: `moe-offload demo | generate | chat | inspect | plan | convert | pack | profile | serve | bench`."""

import argparse
import difflib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from ..errors import MoeOffloadError
from . import bench, chat, convert, demo, generate, inspect, pack, plan, profile, serve
from .config_file import ConfigFile, add_config_option, file_of, keys_of
from .other_names import COMMANDS as OTHER_COMMANDS
from .parser import Parser
from .signals import ended_in_order
from .terminal import errors, show_error, show_warning

COMMANDS = (demo, generate, chat, inspect, plan, convert, pack, profile, serve, bench)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default only where there is one to name."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is None or action.default is False or action.default == []
        return action.help if nothing else super()._get_help_string(action)


def parser(name: str | None = None) -> tuple[Parser, dict[str, Parser]]:
    """The parser of all commands, and that of each by name; flags are there of the named one alone."""
    top = Parser(prog="moe-offload", description="Mixture-of-experts models with their experts in RAM.")
    top.add_argument("--version", action="version", version=version("moe-offload"))
    subparsers, commands = top.add_subparsers(metavar="COMMAND", parser_class=Parser), {}
    for module in COMMANDS:
        own = module.__name__.rpartition(".")[2]
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands[own] = subparsers.add_parser(own, help=summary, description=summary, formatter_class=_Help)
        if own == name:
            _add_flags(command, module)
            command.shorten_usage()
    return top, commands


def _add_flags(command: argparse.ArgumentParser, module: Any) -> None:
    module.add_arguments(command)
    add_config_option(command)
    command.set_defaults(run=module.run)


def _all_keys() -> set[str]:
    """What may stand in a configuration file, whatever the command."""
    keys: set[str] = set()
    for module in COMMANDS:
        command = argparse.ArgumentParser()
        _add_flags(command, module)
        keys |= keys_of(command).keys()
    return keys


def _options(argv: Sequence[str]) -> argparse.Namespace:
    """Flags, then the configuration file, then defaults."""
    name = argv[0] if argv else None
    top, commands = parser(name)
    if name is None:
        top.print_help()
        top.exit(2)
    if name not in commands:
        if not name.startswith("-"):
            near = OTHER_COMMANDS.get(name) or next(iter(difflib.get_close_matches(name, commands, 1)), None)
            top.error(f"unknown command {name!r}" + (f"; did you mean {near!r}?" if near else ""))
        return top.parse_args(argv)
    flags = commands[name].checked(argv[1:])
    if (path := file_of(flags)) is not None:
        taken = ConfigFile(path).apply(commands[name], _all_keys)
        used = f"options from {path}: {', '.join(taken) or 'none for this command'}"
        errors.print(used, style="dim", markup=False, soft_wrap=True)
    return top.parse_args([name, *flags])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; 0 if it did what was asked, 1 for an error that the user can put right, 130 if interrupted."""
    warnings.showwarning = show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what a terminal cannot show is no error
    try:
        options = _options(sys.argv[1:] if argv is None else argv)
        with ended_in_order():
            options.run(options)
    except MoeOffloadError as error:
        show_error(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        return 1
    except OSError as error:  # a full disk, a folder that may not be written to
        show_error(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
        return 1
    except MemoryError:
        show_error("the memory is full: lower --context or --slots, or take --layout native")
        return 1
    return 0
