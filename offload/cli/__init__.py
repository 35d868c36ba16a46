"""The commands: `moe-offload demo | generate | chat | inspect | plan | convert | pack | profile | serve | bench`."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from rich.markup import escape

from ..errors import MoeOffloadError
from . import bench, chat, convert, demo, generate, inspect, pack, plan, profile, serve
from .config_file import ConfigFile, add_config_option, file_of, keys_of
from .terminal import errors, show_warning

COMMANDS = (demo, generate, chat, inspect, plan, convert, pack, profile, serve, bench)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default only where there is one to name."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is None or action.default is False or action.default == []
        return action.help if nothing else super()._get_help_string(action)


def parser(name: str | None = None) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of all commands, and that of each by name; flags are there of the named one alone."""
    top = argparse.ArgumentParser(
        prog="moe-offload", description="Mixture-of-experts models with their experts in RAM."
    )
    top.add_argument("--version", action="version", version=version("moe-offload"))
    subparsers, commands = top.add_subparsers(metavar="COMMAND", required=True), {}
    for module in COMMANDS:
        own = module.__name__.rpartition(".")[2]
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands[own] = subparsers.add_parser(own, help=summary, description=summary, formatter_class=_Help)
        if own == name:
            _add_flags(command, module)
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
    if name in commands and (path := file_of(argv)) is not None:
        taken = ConfigFile(path).apply(commands[name], _all_keys)
        errors.print(f"options from {path}: {', '.join(taken) or 'none for this command'}", style="dim", soft_wrap=True)
    return top.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; 0 if it did what was asked, 1 for an error that the user can put right, 130 if interrupted."""
    warnings.showwarning = show_warning
    try:
        options = _options(sys.argv[1:] if argv is None else argv)
        options.run(options)
    except MoeOffloadError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        return 1
    return 0
