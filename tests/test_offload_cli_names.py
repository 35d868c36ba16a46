"""What users of other programs type, and what they mistype: taken, or answered by what was meant."""

import argparse
from pathlib import Path

import pytest

import offload
from offload.cli import main, parser
from offload.cli.other_names import INSTEAD, NAMES
from offload.errors import MoeOffloadError, OptionError


def parsed(*flags: str) -> argparse.Namespace:
    top, commands = parser(flags[0])
    return top.parse_args([flags[0], *commands[flags[0]].checked(flags[1:])])


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """What is said of flags that end the process."""
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 2  # with one line that names the help
    return said


def test_flags_of_llama_cpp_are_taken() -> None:
    line = "generate -m M.gguf -p x -c 300 -n 5 -t 2 --temp 0.5 -s 7 -ctk q8_0 -ctv q8_0 -ot exps=CPU --n-cpu-moe 3"
    found = parsed(*line.split(), "--repeat-penalty=1.1", "-ub", "64", "-md", "D.gguf")
    assert (found.model, found.prompt, found.context, found.max_tokens, found.threads) == ("M.gguf", "x", 300, 5, 2)
    assert (found.temperature, found.seed, found.cache_type, found.n_cpu_moe) == (0.5, 7, "q8_0", 3)
    assert (found.repetition_penalty, found.chunk_size, found.draft_model) == (1.1, 64, "D.gguf")
    assert found.placement_rules == ["exps=CPU"]
    served = parsed("serve", "--model=M.gguf", "-np", "2", "--ctx-size", "300", "-a", "name")
    assert (served.model, served.slots, served.context, served.model_name) == ("M.gguf", 2, 300, "name")


def test_names_from_elsewhere_lead_to_flags_that_exist() -> None:
    commands = {name: parser(name)[1][name] for name in ("generate", "chat", "serve")}
    ours = {flag for command in commands.values() for flag in command._option_string_actions}
    assert set(NAMES.values()) - {"MODEL"} <= ours
    assert not ours & (NAMES.keys() | INSTEAD.keys())


def test_a_value_that_looks_like_a_flag_from_elsewhere_stays() -> None:
    assert parsed("generate", "M", "--prompt=-m", "-n5", "--stop", "a -m b").stop == ["a -m b"]
    assert parsed("generate", "M", "-p", "-1 is", "-n5").max_tokens == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("generate M -p x --contxt 5", "unknown flag --contxt; did you mean --context?"),
        ("generate M -p x --max-token 5", "unknown flag --max-token; did you mean --max-tokens?"),
        ("generate M -p x -ngl 99", "unknown flag -ngl: attention, caches and dense layers all stand on --device"),
        ("chat M --gpu-memory-utilization=0.9", "--gpu-memory SIZE takes bytes"),
        ("generate M -p x --flash-attn", "leave it out"),
        ("generate M -p x --zzzzzzzz", "unknown flag --zzzzzzzz; a value that begins with - is written --FLAG=VALUE"),
        ("generate M -p -x", "unknown flag -x; a value that begins with - is written"),
        ("generate -p x", "required: model"),
        ("generat M", "unknown command 'generat'; did you mean 'generate'?"),
        ("run M", "unknown command 'run'; did you mean 'chat'?"),
        ("--hlp", "unrecognized arguments: --hlp"),
    ],
)
def test_mistakes_are_answered_in_two_lines(capsys: pytest.CaptureFixture[str], flags: str, message: str) -> None:
    assert message in refused(capsys, *flags.split())


def test_keys_and_values_have_one_type() -> None:
    with pytest.raises(OptionError, match="f16 and q8_0: keys and values have one type"):
        parsed("generate", "M", "-p", "x", "-ctk", "q8_0", "-ctv", "f16")


def test_no_command_shows_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "generate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-n", "-1"], "max_tokens is -1; it must be at least 1"),
        (["--temperature", "nan"], "temperature is nan"),
        (["--draft", "-2"], "draft is -2"),
        (["-p", ""], "the prompt is empty"),
    ],
)
def test_options_are_checked_before_the_model_is_opened(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["generate", "no/such.gguf", "-p", "x", *flags]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_what_is_no_model_is_named_with_the_fix(tmp_path: Path) -> None:
    def said(path: Path | str) -> str:
        with pytest.raises(MoeOffloadError) as caught:
            offload.load(path)
        return str(caught.value)

    assert said("zai-org/GLM-4.7").endswith("write hf://zai-org/GLM-4.7, or -hf zai-org/GLM-4.7")
    assert said(tmp_path / "a.gguf").endswith("there is no such file or folder")
    assert "holds no model" in said(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    assert f"one of {tmp_path / 'a.gguf'}, {tmp_path / 'b.gguf'}" in said(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "no config.json: download the whole folder" in said(tmp_path)
    assert "no config.json" in said(tmp_path / "model.safetensors")


def test_an_error_of_the_system_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(options: argparse.Namespace) -> None:
        raise OSError(28, "No space left on device", "some.file")

    monkeypatch.setattr("offload.cli.inspect.run", full)
    assert main(["inspect"]) == 1
    assert capsys.readouterr().err == "error: some.file: No space left on device\n"
