"""The command line: `moe-offload demo | generate | chat | inspect | convert | pack | profile | serve | bench`."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version

from rich.markup import escape

from ..errors import MoeOffloadError
from . import bench, chat, convert, demo, generate, inspect, pack, profile, serve
from .terminal import errors, show_warning

COMMANDS = (demo, generate, chat, inspect, convert, pack, profile, serve, bench)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default only where there is one to name."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is None or action.default is False or action.default == []
        return action.help if nothing else super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="moe-offload", description="Mixture-of-experts models with their experts in RAM."
    )
    top.add_argument("--version", action="version", version=version("moe-offload"))
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary, formatter_class=_Help)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; 0 if it did what was asked, 1 for an error that the user can put right, 130 if interrupted."""
    options = parser().parse_args(argv)
    warnings.showwarning = show_warning
    try:
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
