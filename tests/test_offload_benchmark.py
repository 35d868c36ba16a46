"""The benchmark: its ceiling against closed forms, its counts against the engine's, its document. No speeds here."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import offload
from offload.backends.emulated.tensor import MEMORY
from offload.benchmark import energy, peer
from offload.benchmark.ceiling import Ceiling, ceiling_of, step_bytes
from offload.benchmark.corpus import TASKS, Text, corpus, filler
from offload.benchmark.energy import EnergyMeter
from offload.benchmark.parts import ATTENTION, DENSE, EXPERTS, HEAD, REST, timed_parts
from offload.benchmark.prompts import experts_by_rows, prompt_seconds
from offload.benchmark.race import Race
from offload.benchmark.run import LONGEST_TEXT, Settings
from offload.cli import main
from offload.errors import OptionError
from offload.hardware import CARDS, preset
from offload.hardware.find import Found


@pytest.fixture(scope="module")
def tiny_slots(tiny_path: Path) -> offload.LanguageModel:
    return offload.load(tiny_path, slots=4, context=1024)


def test_the_corpus_has_every_task(tiny: offload.LanguageModel) -> None:
    texts = corpus(tiny, TASKS)
    assert [text.task for text in texts] == [*TASKS, *TASKS]
    assert all(16 < len(text.token_ids) < LONGEST_TEXT for text in texts)
    assert len({text.token_ids for text in texts}) == len(texts)
    template = tiny.tokenizer.encode("[gMASK]<sop><|user|>")
    assert corpus(tiny, ("chat",))[0].token_ids[: len(template)] == tuple(template)
    with pytest.raises(OptionError, match="task 'poetry' is unknown; choose of code, prose, chat, extraction"):
        corpus(tiny, ("poetry",))


def test_texts_of_short_tokens_are_cut(tiny: offload.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tiny.tokenizer), "encode", lambda self, text, **_: list(text.encode()))
    texts = corpus(tiny, TASKS, depth=20)
    assert max(len(text.token_ids) for text in texts) == 20 + LONGEST_TEXT


def test_depth_is_text_before_the_prompt(tiny: offload.LanguageModel) -> None:
    before, plain, deep = filler(tiny, 300), corpus(tiny, ("code",))[0], corpus(tiny, ("code",), 300)[0]
    assert len(before) == 300
    assert deep.token_ids == before + plain.token_ids
    assert '"""' in tiny.tokenizer.decode(before)


def test_a_token_reads_what_the_engine_counts(tiny: offload.LanguageModel) -> None:
    """The ceiling's bytes are those of a step without drafts at the same position."""
    steps = []
    generation = tiny.generate(filler(tiny, 50), max_tokens=4, draft=0, temperature=0)
    real = generation._engine.step
    generation._engine.step = lambda sequences: steps.append(real(sequences)) or steps[-1]  # type: ignore[method-assign,func-returns-value]
    generation.finish()
    assert [step.bytes_read for step in steps[1:]] == [step_bytes(tiny, 50 + n)["cpu"] for n in (1, 2, 3)]


def test_the_ceiling_is_bytes_over_bandwidth(tiny: offload.LanguageModel) -> None:
    assert Ceiling({"cpu": 10e9, "cuda:0": 100e9}, "").tokens_per_s(
        {"cpu": 10**9, "cuda:0": 5 * 10**9}
    ) == pytest.approx(1 / 0.15)
    hardware = replace(preset("ddr5-6000"), ram=replace(preset("ddr5-6000").ram, read_bytes_per_s={1: 30e9, 64: 30e9}))
    assert ceiling_of(tiny, Found(hardware, "here"), 1e9).bytes_per_s == {"cpu": 30e9}
    assert ceiling_of(tiny, None, 1e9).bytes_per_s == {"cpu": 1e9}
    busy = replace(hardware, busy=replace(hardware.busy, affected=("ram",)))
    ceiling = ceiling_of(tiny, Found(busy, "here"), 1e9)
    assert ceiling.bytes_per_s == {"cpu": 1e9}
    assert "busy" in ceiling.source


def test_the_ceiling_knows_the_accelerators_memory() -> None:
    card = SimpleNamespace(clock=SimpleNamespace(card=CARDS["rtx-3090-pcie4"]), name="emulated")
    model: Any = SimpleNamespace(backend=card)
    assert ceiling_of(model, None, 1e9).bytes_per_s == {"cpu": 1e9, "emulated": 936e9}
    hardware = preset("ddr5-6000+rtx-4090-pcie4")
    known = replace(hardware, accelerators={"cuda:0": hardware.accelerators["rtx-4090-pcie4"]})
    model.backend = SimpleNamespace(name="cuda")
    assert ceiling_of(model, Found(known, "here"), 1e9).bytes_per_s["cuda"] == 1008e9


def test_experts_of_neighbours() -> None:
    ids_TK = np.array([[0, 1], [1, 2], [3, 4], [3, 4], [0, 5], [0, 1]], np.int32)
    assert experts_by_rows([ids_TK]) == {1: [2.0], 2: [(3 + 2 + 3) / 3], 3: [(5 + 5) / 2], 4: [5.0], 6: [6.0]}


def test_prompts_are_computed_anew(tiny_slots: offload.LanguageModel) -> None:
    seconds, routed = prompt_seconds(tiny_slots, 40, 2)
    assert len(seconds) == 2
    assert len(routed) == tiny_slots.config.num_moe_layers
    assert routed[0].shape == (40, tiny_slots.config.num_used_experts)


@pytest.mark.parametrize("sequences", [1, 2])
def test_lanes_write_the_same_text(sequences: int, tiny_slots: offload.LanguageModel) -> None:
    race = Race(tiny_slots, (0, 2), tokens=6)
    texts = corpus(tiny_slots, TASKS)
    trunk = tiny_slots.trunk
    for number in range(2):
        race.run(texts[number * sequences :][:sequences], counts=number > 0)
    race.split(texts[sequences:][:sequences])
    plain, drafted = race.lanes
    assert plain.tokens == drafted.tokens == 5 * sequences  # the prompt's step gives the first
    assert plain.reuse.steps == 5
    assert drafted.reuse.steps <= plain.reuse.steps
    assert drafted.drafted > 0 == plain.drafted
    assert plain.accepted == {0: 5 * sequences}
    assert sum(n * count for n, count in drafted.accepted.items()) == drafted.acceptance.accepted
    assert set(drafted.by_task) == {text.task for text in texts[sequences:][:sequences]}
    assert [len(lane.speeds) for lane in race.lanes] == [1, 1]
    assert not plain.parts_s, "what speeds are taken from is not split"
    assert 0 < sum(race.split_lanes[1].parts_s.values()) <= race.split_lanes[1].seconds
    for lane in race.split_lanes:  # a verification falls apart into what its layers do
        assert not {"verify", "learning"} & set(lane.parts_s)
        assert all(lane.parts_s[part] > 0 for part in (ATTENTION, EXPERTS, DENSE, HEAD, REST, "sampling"))
    assert tiny_slots.trunk is trunk, "elsewhere nothing is timed"
    assert tiny_slots.slots.num_free == 4


def test_parts_of_an_emulated_step_are_in_the_cards_time(tiny_path: Path) -> None:
    """They sum up to its clock; experts on the host are among them."""
    model = offload.load(tiny_path, device="emulated", context=64, mtp="off", gpu_expert_layers=0)
    MEMORY.limit_bytes = None
    race = Race(model, (0,), tokens=4)
    race.split([Text("code", tuple(range(40, 60)))])
    (lane,) = race.split_lanes
    split = (ATTENTION, EXPERTS, DENSE, HEAD, REST, "sampling")
    assert sum(lane.parts_s[part] for part in split) == pytest.approx(lane.seconds, rel=0.01)
    assert lane.parts_s[EXPERTS] > lane.parts_s[HEAD] > 0
    with timed_parts(model) as parts:
        model.trunk.layers.backend.clock.transfer(1 << 30)  # type: ignore[attr-defined]
        assert parts.split({"verify": 1.0}) == {"verify": 1.0}  # nothing ran: nothing is split


def _zone(root: Path, name: str, joules: float) -> Path:
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    (folder / "max_energy_range_uj").write_text("10000000\n")
    return folder / "energy_uj"


def test_energy_is_summed_over_packages_and_wraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_cards", list)
    assert EnergyMeter(tmp_path).joules() is None
    first, _ = _zone(tmp_path, "intel-rapl:0", 9.0), _zone(tmp_path, "intel-rapl:1", 1.0)
    _zone(tmp_path, "intel-rapl:0:0", 100.0)  # a part of a package
    meter = EnergyMeter(tmp_path)
    assert meter.sources == ["RAPL"]
    assert meter.joules() == 10.0
    first.write_text("2000000\n")
    assert meter.joules() == 13.0


ARGUMENTS = ["--prompts", "8,16", "-n", "4", "--rounds", "2", "--tasks", "code,chat", "--drafts", "0,1,auto"]


def test_the_command_prints_one_document(
    tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offload.benchmark.run.measured_now", lambda: 20e9)
    picture = tmp_path / "picture.svg"
    options = [*ARGUMENTS, "--sequences", "1,2", "--depths", "0,32", "--plot", str(picture)]
    assert main(["bench", str(tiny_path), *options]) == 0
    out = capsys.readouterr().out
    document = json.loads(out.splitlines()[-1])
    assert "ceiling" in out
    assert [entry["tokens"] for entry in document["prompt"]] == [8, 16]
    kinds = [(e["depth"], e["sequences"], e["draft"]) for e in document["decode"]]
    assert kinds == [(d, s, k) for d in (0, 32) for s in (1, 2) for k in (0, 1, "auto")]
    for entry in document["decode"]:
        assert {"median_tokens_per_s", "p10", "p90", "share_of_ceiling"} <= set(entry)
        share = entry["median_tokens_per_s"] / entry["ceiling_tokens_per_s"]
        assert entry["share_of_ceiling"] == pytest.approx(share, rel=1e-2)
    keys = {
        "versions",
        "command",
        "machine",
        "ceiling_tokens_per_s",
        "acceptance_by_position",
        "experts_by_layer",
        "bytes",
    }
    assert keys | {"peer"} <= set(document)
    assert document["peer"] is None
    assert list(document["experts_by_layer"]) == ["1", "2", "3", "4", "6", "8"]
    assert set(document["acceptance_by_task"]["1"]) == {"code", "chat"}
    assert "<svg" in picture.read_text()


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs xllamacpp")
def test_a_peer_runs_the_same_file(tiny_path: Path) -> None:
    found = peer.run_peer(tiny_path, 1, 256, [range(100, 120)], [range(100, 110), range(200, 210)], 4, draft=0)
    assert (found["engine"], found["drafted"]) == ("llama.cpp", 0)
    assert [len(found[name]) for name in ("prompt_tokens_per_s", "decode_tokens_per_s")] == [1, 2]
    assert min(found["decode_tokens_per_s"]) > 0
    with pytest.raises(OptionError, match=r"llama\.cpp could not run nothing\.gguf; it said: "):
        peer.run_peer(Path("nothing.gguf"), 1, 256, [], [[1]], 4, draft=0)
    found = peer.run_peer(tiny_path, 1, 256, [], [range(100, 110)], 8, draft=1)
    assert found["prompt_tokens_per_s"] == []
    assert 0 <= found["accepted"] <= found["drafted"]
    assert found["drafted"] > 0


def test_a_peer_drafts_as_far_as_we_do(
    tiny_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_peer(*arguments: Any, draft: int) -> dict[str, Any]:
        speeds = {"prompt_tokens_per_s": [100.0 for _ in arguments[3]], "decode_tokens_per_s": [10.0 + draft]}
        return {"engine": "llama.cpp", "version": "1", **speeds, "drafted": 7 * draft, "accepted": 3 * draft}

    monkeypatch.setattr("offload.benchmark.run.measured_now", lambda: 20e9)
    monkeypatch.setattr("offload.benchmark.run.run_peer", run_peer)
    monkeypatch.setattr("offload.cli.bench.check_peer", lambda name: None)
    settings = ["--prompts", "8", "--drafts", "2,auto", "--rounds", "1", "-n", "2", "--tasks", "code"]
    assert main(["bench", str(tiny_path), *settings, "--peer", "llama.cpp"]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])["peer"]
    assert (found["prompt_tokens_per_s"], found["decode_tokens_per_s"]) == ({"8": 100.0}, 10.0)
    assert [(e["draft"], e["median_tokens_per_s"], e["accepted"]) for e in found["decode"]] == [
        (0, 10.0, 0),
        (2, 12.0, 6),
    ]
    assert "decode, 2 drafts a step" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "poetry"], "task 'poetry' is unknown"),
        (["--sequences", "0"], "sequences is [0]; each must be 1 or more"),
        (["-n", "1"], "tokens is 1, rounds 5; they must be at least 2 and 1"),
        (["--plot", "x.pdf"], "must end in .png"),
        (["--hardware", "ddr9"], "no profile 'ddr9'"),
    ],
)
def test_bad_options(
    arguments: list[str],
    message: str,
    tiny_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("offload.benchmark.run.measured_now", lambda: 20e9)
    assert main(["bench", str(tiny_path), "--prompts", "8", *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_missing_peer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match="pip install xllamacpp"):
        peer.check_peer("llama.cpp")
    with pytest.raises(OptionError, match=r"peer 'ollama' is unknown; choose of llama\.cpp"):
        peer.check_peer("ollama")


def test_settings_make_room() -> None:
    settings = Settings(prompts=(128,), depths=(0, 1000), sequences=(1, 4), drafts=(0, 2))
    assert settings.slots == 8
    assert settings.context >= 1000 + LONGEST_TEXT + settings.tokens
