"""Synthetic files have the character that they were asked for, here and in llama.cpp."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import quants
from llama_cpp import greedy_tokens

import offload
from scheduler import AcceptanceCounter
from tools.synthetic_blocks import SCALE_AT, RandomBlocks, fitting

ACCEPTANCE, OVERLAP = (0.9, 0.7, 0.5), 0.35
ROOT = Path(__file__).parent.parent


def make(out: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "tools.make_synthetic", str(out), "--preset", "tiny", *options]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return Path(json.loads(found.stdout.splitlines()[0])["parts"][0])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chances = ",".join(map(str, ACCEPTANCE))
    return make(tmp_path_factory.mktemp("synthetic") / "a.gguf", "--acceptance", chances, "--overlap", str(OVERLAP))


@pytest.mark.parametrize("kind", list(SCALE_AT))
def test_random_blocks_have_the_size_that_was_asked_for(kind: T) -> None:
    found = quants.dequantize(RandomBlocks(0).tensor(kind, 64, 512, 0.02), kind)
    assert found.shape == (64, 512)
    assert found.std() == pytest.approx(0.02, rel=0.05)
    assert abs(found.mean()) < 0.002


def test_rows_that_do_not_divide_fall_back_as_in_published_files() -> None:
    assert [fitting(T.Q4_K, n) for n in (1536, 1408, 40)] == [T.Q4_K, T.Q5_0, T.F16]
    assert fitting(T.F32, 7) == T.F32


def test_the_text_counts_and_drafts_are_right_as_often_as_asked(path: Path) -> None:
    model = offload.load(path)
    acceptance, shared, uses = AcceptanceCounter(), 0, 0
    rng = np.random.default_rng(0)
    for _ in range(6):
        start = int(rng.integers(0, 1700))
        prompt = [start + 2 * i for i in range(6)]
        generation = model.generate(prompt, max_tokens=70, draft=3, drafter="mtp", temperature=0)
        engine, sequence = generation._engine, generation._sequence
        while len(sequence.token_ids) < sequence.limit:
            step = engine.step([sequence])
            (outcome,) = step.outcomes
            acceptance.observe(len(outcome.draft), outcome.accepted)
            for ids_TK in step.expert_ids:
                rows = [set(row.tolist()) for row in ids_TK[: outcome.accepted + 1]]
                shared += sum(len(a & b) for a, b in pairwise(rows))
                uses += sum(len(row) for row in rows[1:])
        assert sequence.token_ids == [(start + 2 * i) % 2034 for i in range(len(sequence.token_ids))]
    reached = [1.0, *acceptance.by_position]
    for j, chance in enumerate(ACCEPTANCE):
        assert reached[j + 1] / reached[j] == pytest.approx(chance, abs=0.1)
    assert shared / uses == pytest.approx(OVERLAP, abs=0.04)


def test_a_second_character_shares_the_experts(path: Path, tmp_path: Path) -> None:
    experts = path.with_name(path.name.replace("00001-of", "00002-of"))
    os.link(experts, tmp_path / "experts.gguf")
    other = make(tmp_path / "b.gguf", "--acceptance", "0.2", "--experts-from", str(tmp_path / "experts.gguf"))
    assert other.with_name("b-00002-of-00002.gguf").samefile(experts)
    model = offload.load(other)
    result = model.generate([10, 12, 14], max_tokens=80, draft=1, drafter="mtp", temperature=0).finish()
    assert result.tokens == [16 + 2 * i for i in range(80)]
    assert result.acceptance.by_position[0] < 0.4


def test_a_part_without_the_experts_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        make(tmp_path / "c.gguf", "--experts-from", str(path))
    assert "name the second part" in failure.value.stderr
    assert not list(tmp_path.iterdir())


def test_llama_cpp_says_the_same_text(path: Path) -> None:
    assert greedy_tokens(path, [40, 42, 44, 46], 60) == [48 + 2 * i for i in range(60)]


def test_impossible_characters_are_refused(tmp_path: Path) -> None:
    for options in (["--acceptance", "1.5"], ["--acceptance", "1,1,1,1,1,1"]):
        with pytest.raises(subprocess.CalledProcessError) as found:
            make(tmp_path / "c.gguf", *options)
        assert "give 1 to 5 chances" in found.value.stderr
