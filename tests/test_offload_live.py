"""The live line: its figures are those of the last seconds, and the terminal is whole again afterwards."""

import io
import os
import re
import time
from itertools import count
from pathlib import Path

import pytest

from offload.cli import live, main
from offload.cli.live import LiveStats
from offload.result import Result


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is a second later than the one before."""
    clock = count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(live.shutil, "get_terminal_size", lambda: os.terminal_size((60, 24)))


def grow(result: Result, tokens: int) -> None:
    """A second in which so many tokens came, for 2 GB each."""
    result.tokens += [7] * tokens
    result.decode_s += 1.0
    result.decode_bytes += tokens * 2 * 10**9
    result.acceptance.observe(2, 1)


@pytest.mark.usefixtures("seconds")
def test_the_line_tells_of_the_last_seconds() -> None:
    result, stats = Result(), LiveStats(40e9, Terminal())
    with stats:
        for tokens in (100, 5, 10, 10, 10):
            grow(result, tokens)
            stats.update(result)
        line = stats.line(result)
    assert line.startswith("135 tokens | 10.0 tokens/s | accepted 5 of 10 drafts | ")
    assert line.endswith(" | 20.0 GB/s, 50% of 40.0")
    assert LiveStats(0.0, Terminal())._ceiling == 0


@pytest.mark.usefixtures("seconds")
def test_the_terminal_is_given_back() -> None:
    screen, result = Terminal(), Result()
    with LiveStats(40e9, screen) as stats:
        for _ in range(3):
            grow(result, 4)
            stats.update(result)
    text = screen.getvalue()
    assert text.count("\x1b[1;23r") == 1  # text keeps out of the last line
    assert text.endswith("\x1b7\x1b[r\x1b[24;1H\x1b[2K\x1b8")
    assert text.count("\x1b7") == text.count("\x1b8")
    shown = re.findall(r"\x1b\[2m(.*?)\x1b\[0m", text)
    assert shown[-1].startswith("12 tokens | 4.0 tokens/s")
    assert all(len(line) < 60 for line in shown)


@pytest.mark.usefixtures("seconds")
def test_lines_of_text_where_there_is_no_terminal() -> None:
    file, result = io.StringIO(), Result()
    with LiveStats(0.0, file) as stats:
        for _ in range(12):
            grow(result, 1)
            stats.update(result)
    assert "\x1b" not in file.getvalue()
    assert len(file.getvalue().splitlines()) == 2  # one in 5 s
    assert "% of" not in file.getvalue()


def test_the_flag(glm_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FILE_S", 0.0)
    arguments = ["generate", str(glm_path), "-p", "in the", "-n", "6", "--seed", "2"]
    assert main(arguments) == 0
    plain = capsys.readouterr()
    assert main([*arguments, "--stats"]) == 0
    with_stats = capsys.readouterr()
    assert with_stats.out == plain.out
    assert " tokens/s | accepted " in with_stats.err
