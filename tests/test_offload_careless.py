"""Full disks, memories that are too small, texts in no encoding, signals: one line says what is wrong."""

import io
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from glm_files import GlmFile, random_glm
from numba.core.compiler_lock import global_compiler_lock

import offload
from offload.checkpoints.pack import pack
from offload.checkpoints.writing import check_target, written_whole
from offload.cli import main
from offload.cli.signals import ended_in_order
from offload.errors import HardwareError, NotAGguf, OptionError, PromptError
from offload.hardware import find_hardware
from offload.hardware.store import user_path

ROOT = Path(__file__).parent.parent


def test_a_disk_that_fills_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"

    def fill() -> None:
        with written_whole(target) as path:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OptionError, match=r"out\.gguf cannot be written: No space left"):
        fill()
    assert not list(tmp_path.iterdir())
    with written_whole(target) as path:
        path.write_bytes(b"whole")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.gguf", b"whole")]


def test_room_is_looked_for_first(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"MB left, 1,000,000,000,000\.0 MB are needed"):
        check_target([tmp_path / "a"], 10**18)
    with pytest.raises(OptionError, match=r"none: No such file or directory: choose a folder that exists"):
        check_target([tmp_path / "none" / "a"], 1)


LIMITED = f"""
import resource, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from offload.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
sys.exit(main(sys.argv[1:]))
"""


def test_pack_says_which_file_could_not_be_written(tiny_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, "pack", str(tiny_path), str(tmp_path / "out.gguf")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ)
    assert ended.returncode == 1
    assert ended.stderr.strip() == f"error: {tmp_path / 'out.gguf'} cannot be written: File too large"
    assert not list(tmp_path.iterdir())


def test_pack_writes_to_no_folder(tiny_path: Path) -> None:
    with pytest.raises(OptionError, match="/ exists: choose another name"):
        pack(tiny_path, Path("/"))


def test_pack_sends_folders_to_convert(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotAGguf, match=r"folder of Hugging Face: `moe-offload convert`"):
        pack(tmp_path, tmp_path / "out.gguf")


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A model that allows any context."""
    file: GlmFile = random_glm().file
    file.metadata["glm4moe.context_length"] = 2**31 - 1
    return file.write(tmp_path / "endless.gguf")


def test_a_context_that_no_memory_holds_is_refused(endless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"takes [\d.]+ GB when it is full, this process may have .* lower --context"):
        offload.load(endless, context=2**31 - 1)
    monkeypatch.setattr("offload.planning.caches.free_memory", lambda: 1000)
    with pytest.warns(UserWarning, match=r"when it is full, 0\.0 GB are free now: lower --context"):
        offload.load(endless, context=64, layout="native")


def test_chat_names_the_encoding_it_cannot_read(
    glm_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("日本\n".encode()), encoding="ascii"))
    assert main(["chat", str(glm_path), "-n", "3"]) == 1
    assert "standard input is no text in ascii: set PYTHONUTF8=1" in capsys.readouterr().err


def test_a_prompt_in_no_encoding_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    """What Python makes of bytes on the command line that the locale does not know."""
    assert main(["generate", "nothing.gguf", "-p", "caf\udcc3\udca9"]) == 1
    assert "the prompt is no text in utf-8: write it in that" in capsys.readouterr().err


def test_text_that_the_terminal_cannot_show_is_replaced(
    glm_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "grammar").write_text('start: "é"', encoding="utf-8")
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    assert main(["generate", str(glm_path), "-p", "x", "-n", "4", "--grammar", str(tmp_path / "grammar")]) == 0
    assert shown.getvalue().strip() == b"?"


def test_sigterm_unwinds_and_is_restored() -> None:
    before, cleaned = signal.getsignal(signal.SIGTERM), []

    def told_to_end() -> None:
        with ended_in_order():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                cleaned.append(True)

    with pytest.raises(SystemExit) as ended:
        told_to_end()
    assert ended.value.code == 143
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_signals_wait_until_a_kernel_is_compiled(number: int, ends: type[BaseException]) -> None:
    reached = []

    def compile_one() -> None:
        with ended_in_order(), global_compiler_lock:
            with global_compiler_lock:
                os.kill(os.getpid(), number)
            reached.append("compiled")
        reached.append("after it")

    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ends):
        compile_one()
    assert reached == ["compiled"]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("module", ["numba", "offload.api", "offload.cli.serve"])
@pytest.mark.parametrize("is_wanted", [True, False])
def test_an_interrupt_during_the_imports_says_nothing(module: str, is_wanted: bool) -> None:
    """And it is passed over where the process was started to ignore it."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
signal.signal(signal.SIGINT, signal.default_int_handler if {is_wanted} else signal.SIG_IGN)
class Interrupted:
    def find_spec(name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupted)
from offload.__main__ import main
sys.argv[1:] = ["--version"]
sys.exit(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == ""
    assert (ended.returncode, bool(ended.stdout)) == ((130, False) if is_wanted else (0, True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stop": "end"}, "stop is 'end'; it must be a list of texts"),  # not its letters
        ({"stop": [3]}, r"stop is \[3\]; it must be a list of texts"),
        ({"max_tokens": 2.5}, r"max_tokens is 2\.5; it must be at least 1, a whole number"),
        ({"max_tokens": "3"}, "max_tokens is 3; it must be at least 1, a whole number"),
        ({"draft": None}, "draft is None; it must be 0"),
        ({"stop": None}, "stop is None; it must be a list of texts"),
        ({"stop": (text for text in "ab")}, "stop is <generator .*; it must be a list of texts"),
        ({"explain": 3}, "explain is 3; it must be a function"),
        ({"grammar": "x"}, "grammar is 'x'; it must be one, such as"),
        ({"drafter": 3}, "drafter is 3; choose one of auto, mtp"),
        ({"seed": 1.5}, r"seed is 1\.5; the legal range is 0\.\.18446744073709551615, whole numbers"),
        ({"top_k": 2.5}, r"top_k is 2\.5; the legal range is 0"),
        ({"temperature": "x"}, r"temperature is x; the legal range is 0\.0\.\.100\.0"),
        ({"temperature": None}, "temperature is None; the legal range"),
        ({"logit_bias": [1]}, r"logit_bias is \[1\]; it must map token ids to numbers"),
        ({"logit_bias": {5: 1e308}}, r"logit_bias \{5: 1e\+308\}: .* a bias is -inf or -1e\+30\.\.1e\+30"),
        ({"logit_bias": {5.5: 1.0}}, r"logit_bias \{5\.5: 1\.0\}: ids are whole numbers"),
        ({"logit_bias": dict.fromkeys(range(264), -math.inf)}, "logit_bias bans all 264 tokens: leave at least 1"),
    ],
)
def test_arguments_of_wrong_types_are_named(
    model: offload.LanguageModel, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        model.generate([1], **arguments)


@pytest.mark.parametrize("prompt", [[1.5], [None], ["1"], [[1]], b"ab", 5, None])
def test_prompts_that_are_no_tokens_are_named(model: offload.LanguageModel, prompt: Any) -> None:
    for run in (model.generate, model.logits):
        with pytest.raises(PromptError, match=r"the prompt (is|must be) .*a list of token ids"):
            run(prompt)
    with pytest.raises(PromptError, match="the prompt is 'text'; it must be a list of token ids"):
        model.logits("text")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("context", 8.5, r"context is 8\.5; the legal range is 2\.\.512 tokens"),
        ("slots", None, "slots is None; it must be at least 1"),
        ("chunk_size", 1.5, r"chunk_size is 1\.5; it must be at least 1"),
        ("threads", 1.5, r"threads is 1\.5; it must be a whole number"),
        ("gpu_memory", "24GiB", "gpu_memory is 24GiB; it must be at least 0, a whole number"),
    ],
)
def test_sizes_of_wrong_types_are_named(glm_path: Path, name: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        offload.load(glm_path, **{name: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "none.gguf", "-p", "x", "--logprobs", "-1"], "logprobs is -1; the legal range is 0.."),
        (["generate", "none.gguf", "-p", "x", "--drafter", "model"], "--drafter model: name the model by --draft"),
        (["chat", "none.gguf", "--drafter", "mtp", "--mtp", "off"], "--drafter mtp and --mtp off contradict"),
        (["generate", "none.gguf", "-f", "."], "cannot read the prompt from '.': Is a directory"),
        (["generate", "none.gguf", "-p", "x", "--grammar", "no"], "grammar from 'no': No such file or directory"),
        (["generate", "none.gguf", "--config", "no", "-p", "x"], "configuration from 'no': No such file or directory"),
        (["demo", "-n", "0"], "max_tokens is 0; it must be at least 1"),
        (["demo", "--temperature", "-1"], "temperature is -1.0; the legal range is"),
        (["bench", "none.gguf", "--drafts", "0,-1"], "draft is -1; it must be 0 (off) or more"),
        (["serve", "none.gguf", "--top-p", "9"], "top_p is 9.0; the legal range is 0.0..1.0"),
        (["serve", "none.gguf", "--draft", "-3"], "draft is -3; it must be 0 (off) or more"),
        (["serve", "none.gguf", "--max-waiting", "-1"], "max_waiting is -1; the legal range is 0.."),
        (["plan", "--shape", "glm-4.7", "--slots", "0"], "slots is 0; it must be at least 1"),
        (["plan", "--shape", "glm-4.7", "--chunk-size", "0"], "chunk_size is 0; it must be at least 1"),
        (["profile", "--output", "."], "cannot write the profile .: it is a folder. Choose another place"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And without a word of Python's."""
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Errno" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["generate", "m", "-p", "x", "--draft", "x"],
            "argument --draft: 'x' is neither a number of tokens nor 'auto'",
        ),
        (["bench", "m", "--sequences", "1;2"], "argument --sequences: '1;2' is no list of numbers, such as 1,4"),
    ],
)
def test_values_of_no_kind(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_a_closed_standard_input_is_no_prompt(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(["generate", "none.gguf", "-f", "-"]) == 1
    assert "cannot read the prompt from standard input: it is closed" in capsys.readouterr().err


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an unknown one in a container."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(HardwareError, match="no home folder to keep a profile in: set HOME, or give --output FILE"):
        user_path()
    monkeypatch.setattr("offload.hardware.store.user_path", user_path)
    assert find_hardware() is None


def test_a_full_context_names_only_ways_out_that_there_are(glm_path: Path) -> None:
    allowed = offload.load(glm_path, context=8).config.context_length
    for context, advice in (
        (8, rf"shorten it, or raise the context \(the model allows {allowed}\)$"),
        (allowed, "it$"),
    ):
        model = offload.load(glm_path, context=context)
        with pytest.raises(offload.errors.ContextFull, match=advice):
            model.generate([1] * (context + 1))


def test_names_in_a_file_are_shown_as_they_stand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets are the marks of the library that draws tables; chat templates are full of them."""
    file: GlmFile = random_glm().file
    file.template = "[INST] {{ messages }} [/INST]"
    file.metadata["general.name"] = "[/red]"
    path = file.write(tmp_path / "[bold]model.gguf")
    assert main(["inspect", str(path), "--metadata", "--tensors"]) == 0
    shown = capsys.readouterr().out
    assert "[INST] {{ messages }} [/INST]" in shown
    assert "[/red]" in shown
    assert main(["generate", str(path), "-p", "x", "-n", "1"]) == 0
    file.tensors["blk.0.[/b].weight"] = file.tensors.pop("output_norm.weight")
    assert main(["inspect", str(file.write(tmp_path / "other.gguf")), "--tensors"]) == 0
    assert "[/b]" in capsys.readouterr().out
