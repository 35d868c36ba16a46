"""moe-offload.toml: every flag is a key, flags beat the file, mistakes are named with their line."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from offload.cli import COMMANDS, main, parser
from offload.cli.config_file import ConfigFile, keys_of
from offload.errors import OptionError
from offload.planning import Rule


def command_of(name: str) -> argparse.ArgumentParser:
    return parser(name)[1][name]


def parsed(name: str, text: str, flags: list[str], folder: Path) -> argparse.Namespace:
    path = folder / "some.toml"
    path.write_text(text, encoding="utf-8")
    top, commands = parser(name)
    ConfigFile(path).apply(commands[name], lambda: keys_of(commands[name]))
    return top.parse_args([name, *flags])


def sample(action: argparse.Action) -> tuple[Any, Any]:
    """A value for the file, and what the flag's own parsing makes of it, not the default."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return (not action.default,) * 2
    if action.choices:
        value = next(c for c in action.choices if c != action.default)
        return value, value
    for value in (7, 0.5, "Q4_K", "some"):
        try:
            converted = action.type(str(value)) if callable(action.type) else str(value)
        except (ValueError, argparse.ArgumentTypeError, OptionError):
            continue
        if converted != action.default:
            repeated = isinstance(action, argparse._AppendAction)
            return ([value], [converted]) if repeated else (value, converted)
    raise AssertionError(action.dest)


@pytest.mark.parametrize("name", [module.__name__.rpartition(".")[2] for module in COMMANDS])
def test_every_flag_is_a_key(name: str, tmp_path: Path) -> None:
    """What the file says is what the flag would have said; keys and flags have the same names."""
    keys = keys_of(command_of(name))
    assert keys
    for key, action in keys.items():
        assert f"--{key.replace('_', '-')}" in action.option_strings, key
        value, converted = sample(action)
        found = getattr(parsed(name, f"{key} = {json.dumps(value)}", needed(name, key), tmp_path), key)
        assert found == converted, key


def needed(name: str, key: str) -> list[str]:
    """What the command cannot do without beside the key."""
    positional = [a for a in command_of(name)._actions if not a.option_strings and a.nargs != "?"]
    required = ["-p", "x"] if name == "generate" and key not in ("prompt", "file") else []
    return ["x"] * len(positional) + required


def test_flags_beat_the_file_and_the_file_beats_defaults(tmp_path: Path) -> None:
    text = 'context = 100\nstop = ["a", "b"]\nplacement_rules = ["x=CPU"]\nprompt = "p"\ndevice = "emulated"'
    found = parsed("generate", text, ["m", "--context", "200", "--stop", "c"], tmp_path)
    assert (found.context, found.stop, found.placement_rules) == (200, ["c"], ["x=CPU"])
    assert (found.prompt, found.device, found.cache_type) == ("p", "emulated", "f16")
    found = parsed("generate", text, ["m"], tmp_path)
    assert (found.context, found.stop) == (100, ["a", "b"])


def test_tables(tmp_path: Path) -> None:
    text = """
        n-cpu-moe = 3
        [gpu]
        memory = "22GiB"
        [[placement.rules]]
        match = "blk.(1[0-9]).ffn_.*_exps"
        device = "gpu"
        [[placement.rules]]
        match = "a=b,c"
        device = "CPU"
    """
    found = parsed("chat", text, ["m"], tmp_path)
    assert (found.n_cpu_moe, found.gpu_memory) == (3, "22GiB")
    assert found.placement_rules == [Rule("blk.(1[0-9]).ffn_.*_exps", "gpu"), Rule("a=b,c", "CPU")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\ndevise = "cpu"', r"line 2: unknown key 'devise'; did you mean 'device'\?"),
        ("[gpu]\n\nmemry = 1", r"line 3: unknown key 'gpu_memry'; did you mean 'gpu_memory'\?"),
        ("ctx_size = 100", r"line 1: unknown key 'ctx_size'; did you mean 'context'\?"),
        ('model = "a.gguf"', r"line 1: unknown key 'model'; the model is named on the command line"),
        ('context = "many"', r"line 1: context is 'many', which is no int"),
        ('mtp = "maybe"', r"line 1: mtp is 'maybe'; choose one of auto, on, off"),
        ('check_backends = "yes"', r"line 1: check_backends is 'yes'; it must be true or false"),
        ("context = true", r"line 1: context is True; it must be one text or number"),
        ('[[placement.rules]]\nmatch = "a"', r"a placement rule lacks 'device'; its keys are match and device"),
        ('[[placement.rules]]\nmach = "a"', r"line 2: a placement rule has no 'mach'"),
        ("context = = 1", r"is no TOML"),
    ],
)
def test_mistakes_are_named_with_their_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    assert main(["plan", "--shape", "glm-4.7", "--config", str(path)]) == 1
    import re

    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_a_file_in_the_current_folder_is_used_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["plan", "--shape", "glm-4.5-air", "--json"]
    (tmp_path / "moe-offload.toml").write_text('context = 4096\ndevice = "cpu"\ntemperature = 0.5\n', encoding="utf-8")
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["context"] == 4096
    assert "options from moe-offload.toml: context, device" in shown.err
    assert main([*arguments, "--context", "2048"]) == 0
    assert json.loads(capsys.readouterr().out)["context"] == 2048
    (tmp_path / "other.toml").write_text("context = 1024\n", encoding="utf-8")
    assert main([*arguments, "--config", "other.toml"]) == 0
    assert json.loads(capsys.readouterr().out)["context"] == 1024
    assert main([*arguments, "--config", "none.toml"]) == 1
    assert "cannot read the configuration from 'none.toml'" in " ".join(capsys.readouterr().err.split())
