"""Measuring a machine: all is read, what disturbs is noticed, what cannot be measured is said. No speeds here."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import experts
from experts.threads.topology import Topology, topology
from offload.cli import main
from offload.errors import HardwareError
from offload.hardware import limits, preset, read_hardware, store
from offload.hardware.probe import ITEM_BYTES, Probe
from offload.profiling import accelerators, busy, caches, disk, expert_speed, latencies, links, nodes, ram
from offload.profiling import profile as profiling
from offload.profiling.busy import Reading, Watch
from offload.profiling.samples import Sample, in_turn


def test_the_probe_reads_and_copies_everything() -> None:
    probe = Probe(8 << 20)
    probe.read()
    assert (probe.sums == 0).all()  # an even number of ones, xored
    probe.data[-1] = 7
    probe.read()
    assert probe.sums[-1].max() == 6
    probe.data[: 4 << 20] = np.random.default_rng(0).integers(0, 256, 4 << 20, dtype=np.uint8)
    probe.copy_half()
    assert np.array_equal(probe.data[: 4 << 20], probe.data[4 << 20 :])
    probe.data[:512] = 0
    probe.data[3] = 5
    probe.reread(512, 3)
    assert probe.sums[0, 3] == 5  # an odd number of times
    probe.reread(512, 4)
    assert probe.sums[0, 3] == 0


def test_runs_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    samples = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, budget_s=0.0, least=4)
    assert "".join(calls) == "ab" * 5
    assert [len(sample.seconds) for sample in samples.values()] == [4, 4]


def test_medians_and_spread() -> None:
    sample = Sample(tuple(float(n) for n in range(11)))
    assert sample.median == 5
    assert sample.spread == pytest.approx(8 / 5)
    assert sample.rate(10) == 2


def test_numbers_of_threads() -> None:
    assert ram.thread_counts(1) == [1]
    assert ram.thread_counts(2) == [1, 2]
    assert ram.thread_counts(20) == [1, 2, 3, 4, 6, 8, 12, 16, 20]
    assert ram.knee({1: 20.0, 2: 39.0, 4: 57.0, 8: 60.0, 16: 59.0}) == 4
    assert ram.knee({1: 20.0}) == 1
    before = experts.num_threads()
    read = ram.read_by_threads(Probe(2 << 20), [1, before], 0.0)
    assert list(read) == sorted({1, before})
    assert experts.num_threads() == before


def _file(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_caches_are_counted_once(tmp_path: Path) -> None:
    for cpu in range(4):
        entries = [("Data", 1, "32K", cpu), ("Instruction", 1, "32K", cpu), ("Unified", 2, "1024K", cpu // 2 * 2)]
        for i, (kind, level, size, shared) in enumerate([*entries, ("Unified", 3, "16384K", 0)]):
            folder = f"sys/devices/system/cpu/cpu{cpu}/cache/index{i}"
            for name, text in (("type", kind), ("level", level), ("size", size), ("shared_cpu_list", shared)):
                _file(tmp_path, f"{folder}/{name}", f"{text}\n")
    assert caches.cache_bytes(tmp_path) == {"L1": 128 << 10, "L2": 2 << 20, "L3": 16 << 20}
    assert caches.cache_bytes(tmp_path / "nothing") == {}


def test_bandwidth_by_size() -> None:
    found = caches.read_by_size(Probe(1 << 20), 0.0)
    assert list(found) == [1 << n for n in range(14, 21)]
    assert all(rate > 0 for rate in found.values())


@pytest.mark.parametrize("version", [1, 2])
def test_memory_ends_at_the_control_group(version: int, tmp_path: Path) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    mounted = "sys/fs/cgroup/memory" if version == 1 else "sys/fs/cgroup"
    _file(tmp_path, "proc/self/cgroup", "7:cpu:/a\n4:memory:/a/b\n" if version == 1 else "0::/a/b\n")
    inactive = "total_inactive_file" if version == 1 else "inactive_file"
    for folder, limit, used in (("", "max", 0), ("/a", 100 << 20, 90 << 20), ("/a/b", 1 << 62, 20 << 20)):
        _file(tmp_path, f"{mounted}{folder}/{names[0]}", f"{limit}\n")
        _file(tmp_path, f"{mounted}{folder}/{names[1]}", f"{used}\n")
        _file(tmp_path, f"{mounted}{folder}/memory.stat", f"anon 5\n{inactive} {3 << 20}\n")
    assert limits.free_memory(tmp_path) == 13 << 20
    assert limits.all_memory(tmp_path) == 100 << 20
    assert limits.all_memory(tmp_path / "nothing") > 100 << 20
    assert limits.free_memory(tmp_path / "nothing") > 13 << 20


def test_too_little_memory_is_said() -> None:
    assert profiling.probe_bytes(32 << 30, 32 << 20) == 512 << 20
    assert profiling.probe_bytes(32 << 30, 1 << 30) == 4 << 30
    assert profiling.probe_bytes(200 << 20, 32 << 20) == 100 << 20
    with pytest.raises(HardwareError, match=r"needs 1074 MB, 2 times the caches.* 1049 MB are free .*control group"):
        profiling.probe_bytes(1000 << 20, 512 << 20)


QUIET = Reading(at_s=0.0, busy_s=0.0, own_s=0.0, stolen_s=0.0, swapped_bytes=0, throttled=0)
TWO = Topology((frozenset([0]), frozenset([1])), {0: frozenset([0, 1])})


@pytest.mark.parametrize(
    ("after", "reasons"),
    [
        (Reading(1.0, 1.9, 1.8, 0.0, 0, 0), []),
        (Reading(1.0, 1.9, 1.0, 0.0, 0, 0), ["other processes are at work on the 2 processors"]),
        (Reading(0.01, 1.9, 1.0, 0.0, 0, 0), []),  # too short for the system's clock
        (Reading(1.0, 1.0, 1.0, 0.2, 0, 0), ["the host gives processor time to other machines"]),
        (Reading(1.0, 1.0, 1.0, 0.0, 4096, 0), ["memory is being swapped"]),
        (Reading(1.0, 1.0, 1.0, 0.0, 0, 1), ["processors were held back, by heat or by a limit of the control group"]),
    ],
)
def test_what_disturbs_is_noticed(after: Reading, reasons: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_freq", lambda: SimpleNamespace(current=3000.0, min=0.0, max=3000.0))
    assert Watch(TWO).reasons(QUIET, after) == reasons


def test_one_processor_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    one = Topology((frozenset([0]),), {0: frozenset([0])})
    assert Watch(one).reasons(QUIET, Reading(1, 1, 0.5, 0, 0, 0)) == [
        "other processes are at work on the only processor"
    ]


def test_slow_clocks_and_limits_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_freq", lambda: SimpleNamespace(current=1200.0, min=0.0, max=3000.0))
    assert Watch(TWO).reasons(QUIET, Reading(1, 1, 1, 0, 0, 0)) == ["processors run at 1200 of 3000 MHz"]
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    assert Watch(TWO).reasons(QUIET, Reading(1, 1, 1, 0, 0, 0)) == []
    assert Watch(Topology(TWO.cores, TWO.nodes, 1.5)).result().reasons == (
        "the control group grants 1.5 of 2 processors",
    )


def test_affected_figures_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    readings = iter([QUIET, Reading(1, 1, 1, 0, 0, 0), QUIET, Reading(1, 2, 1, 0, 0, 0)])
    watch = Watch(TWO)
    monkeypatch.setattr(watch, "read", lambda: next(readings))
    for name in ("ram", "kernels"):
        with watch.during(name):
            pass
    assert watch.result().affected == ("kernels",)


def test_processes_that_load_all_processors_are_noticed() -> None:
    spin = [sys.executable, "-S", "-c", "while True: pass"]
    spinning = [subprocess.Popen(spin) for _ in topology().cpus]
    watch = Watch()
    try:
        with watch.during("ram"):
            time.sleep(0.5)
    finally:
        for process in spinning:
            process.kill()
            process.wait()
    assert watch.result().affected == ("ram",)
    assert any("other processes" in reason for reason in watch.result().reasons)


def test_every_pair_of_nodes_is_read() -> None:
    found = nodes.read_across({0: topology().cpus}, 4 * ITEM_BYTES, 0.0)
    assert list(found) == ["0 <- 0"]
    assert found["0 <- 0"] > 0


def test_a_disk_is_read_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = disk.measure_disk(tmp_path, 1, 0.0)
    assert found.path == str(tmp_path)
    assert found.read_bytes_per_s > 0
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: None)  # as where the cache is not to be dropped
    assert disk.measure_disk(tmp_path, 1, 0.0).cached
    with pytest.raises(disk.DiskError, match=r"nowhere: No such file"):
        disk.measure_disk(tmp_path / "nowhere", 1, 0.0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(disk.DiskError, match="too little room"):
        disk.measure_disk(tmp_path, 1, 0.0)


def test_links_and_hand_offs() -> None:
    """The host's memory stands for an accelerator's."""
    link = links.measure_link(torch.device("cpu"), 0.0, (4096, 65536))
    assert list(link.up.pageable) == [4096, 65536]
    assert link.up.pinned == {}
    assert link.down.bytes_per_s == max(link.down.pageable.values())
    assert 0 < link.up.latency_s < 1
    assert links.hand_off_s(torch.device("cpu"), 0.0) > 0


def test_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "_memory_bytes", lambda _: 8 << 20)
    monkeypatch.setattr(accelerators, "_name", lambda _: "stand-in")
    found = accelerators.measure_accelerator(torch.device("cpu"), 0.0, side=16)
    assert (found.name, found.memory_bytes) == ("stand-in", 8 << 20)
    assert min(found.memory_bytes_per_s, found.flops or 0, found.launch_s or 0) > 0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is measured, tiny."""
    for name, value in {"HIDDEN": 256, "FFN": 256, "CACHES": 0}.items():
        monkeypatch.setattr(expert_speed, name, value)
    monkeypatch.setattr(profiling, "PROBE_BYTES", 4 << 20)
    monkeypatch.setattr(profiling, "LEAST_BYTES", 1 << 20)
    monkeypatch.setattr(caches, "last_level_cache_bytes", lambda: 1 << 20)
    monkeypatch.setattr(latencies, "REGIONS", 2)
    monkeypatch.setattr(profiling, "QUICK", profiling.Scope(0.0, ("Q4_K", "IQ2_XXS"), (1, 2), disk_bytes=1))


@pytest.mark.usefixtures("small")
def test_steps_of_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a step share experts, steps do not; weights are counted once."""
    chosen: list[np.ndarray] = []
    real = expert_speed.moe_ffn

    def watched(x: Any, ids: np.ndarray, weights: Any, layer: Any) -> np.ndarray:
        chosen.append(ids)
        return real(x, ids, weights, layer)

    monkeypatch.setattr(expert_speed, "moe_ffn", watched)
    speeds = expert_speed.measure_format("Q4_K", (1, 3), 0.0)
    assert [(s.layout, list(s.samples)) for s in speeds] == [("native", [1, 3]), ("interleaved", [1, 3])]
    assert all(s.long_rows > 0 for s in speeds)
    assert {s.bytes_read for s in speeds} == {8 * 3 * 256 * 144}
    three = [ids for ids in chosen if len(ids) == 3][::2]  # of one layout
    assert all((ids == ids[0]).all() for ids in three)
    assert not set(three[0][0]) & set(three[1][0])
    assert {s.layout for s in expert_speed.measure_format("BF16", (1,), 0.0)} == {"native"}


@pytest.mark.usefixtures("small")
def test_expanded_weights_are_measured_once_under_their_own_name() -> None:
    """Two formats become the same; a layer takes 66, 66 and 106 bytes for 256 weights, or the first two."""
    layouts = profiling.Profile(profiling.Scope(0.0, ("IQ2_XXS", "Q4_K", "IQ2_S"), (1,))).layouts()
    assert layouts == {
        "IQ2_XXS": ["native", "interleaved", "expanded"],
        "Q4_K": ["native", "interleaved"],
        "IQ2_S": ["native", "interleaved"],
    }
    found = {s.format: s.bytes_read for s in expert_speed.measure_format("IQ2_XXS", (1,), 0.0)}
    assert found == {"IQ2_XXS": 8 * 3 * 256 * 66, "IQ2_LEVELS": 8 * 3 * 256 * 106}
    blocks = 3 * 256 * expert_speed.num_experts("IQ2_XXS")
    assert expert_speed.layer_bytes("IQ2_XXS", layouts["IQ2_XXS"]) == blocks * (66 + 66 + 106)
    assert expert_speed.layer_bytes("IQ2_XXS", layouts["Q4_K"]) == blocks * (66 + 66)


@pytest.mark.usefixtures("small")
def test_the_command_measures_keeps_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, picture = tmp_path / "cache" / "hardware.json", tmp_path / "picture.svg"
    assert main(["profile", "--quick", "--output", str(path), "--plot", str(picture), "--json"]) == 0
    captured = capsys.readouterr()
    kept = read_hardware(path)
    assert json.loads(captured.out.splitlines()[-1]) == json.loads(path.read_text())
    assert list(kept.kernels) == ["Q4_K", "IQ2_XXS", "IQ2_LEVELS"]
    assert list(kept.long_rows) == list(kept.kernels)
    assert list(kept.kernels_native) == ["Q4_K", "IQ2_XXS"]
    assert list(kept.kernels["Q4_K"]) == [1, 2]
    assert kept.machine.cores == len(topology().cores)
    assert kept.disk is not None
    assert "RAM, read" in captured.out
    assert "<svg" in picture.read_text()
    assert main(["profile", "--show", str(path)]) == 0
    assert "Q4_K" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_one_core_and_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Topology((frozenset([0]),), {0: frozenset([0])})
    monkeypatch.setattr(ram, "topology", lambda: one)
    monkeypatch.setattr(busy, "topology", lambda: one)
    before = experts.num_threads()
    experts.set_threads(1)
    try:
        scope = profiling.Scope(0.0, ("Q8_0",), (1,))
        hardware = profiling.Profile(scope).run()
        assert list(hardware.ram.read_bytes_per_s) == [1]
        assert hardware.ram.knee_threads == 1
        monkeypatch.setattr(limits, "free_memory", lambda: 8 << 20)
        profile = profiling.Profile(scope)
        assert profile.run().kernels == {}
        assert any(note.startswith("Q8_0 is left out: it needs") for note in profile.notes)
        assert "torch sees no accelerator" in profile.notes[-1]
    finally:
        experts.set_threads(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "picture.pdf"], "must end in .png, .svg, .html"),
        (["--plot", "/nowhere/picture.png"], "there is no folder /nowhere"),
        (["--show", "ddr9"], "or a preset: ddr4-3200"),
        (["--show", "."], "there is no profile at"),
        (["--disk", "/nowhere"], "there is no such folder"),
        (["--output", "/proc/nowhere/hardware.json"], "cannot write the profile"),
    ],
)
def test_bad_options_end_in_clear_messages(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(store, "user_path", lambda: tmp_path / "hardware.json")
    assert main(["profile", *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["profile", "--show", "ddr5-6000", "--plot", str(tmp_path / "picture.png")]) == 1
    assert "pip install 'moe-offload[plot]'" in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_what_was_measured_is_kept_where_no_picture_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    path = tmp_path / "hardware.json"
    assert main(["profile", "--quick", "--output", str(path), "--plot", str(tmp_path / "x.png"), "--json"]) == 1
    captured = capsys.readouterr()
    assert "x.png: No space left on device" in captured.err
    assert json.loads(captured.out.splitlines()[-1]) == json.loads(path.read_text())


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
def test_titles_may_hold_any_sign(suffix: str, tmp_path: Path) -> None:
    """They are names out of files: neither mathematics nor markup."""
    from offload.plotting import new_figure, write_plot

    title = '$x_{</title><script src="http://nowhere">'
    write_plot(new_figure(1, 1, title)[0], path := tmp_path / f"picture{suffix}")
    assert b"<script" not in path.read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
def test_pictures_open_without_a_network(suffix: str, tmp_path: Path) -> None:
    from offload.plotting import write_plot
    from offload.profiling.plots import plot

    figure = plot(preset("epyc-12ch+rtx-5090-pcie5"))
    titles = [ax.get_title() for ax in figure.axes if ax.get_visible()]
    assert titles == ["Experts under the roofline of the memory", "Read bandwidth of the RAM"]
    write_plot(figure, path := tmp_path / f"picture{suffix}")
    content = path.read_bytes()
    assert {".png": b"\x89PNG", ".svg": b"<?xml", ".html": b"<!doctype html>"}[suffix] in content[:20]
    assert b'src="http' not in content
    assert b'href="http' not in content
