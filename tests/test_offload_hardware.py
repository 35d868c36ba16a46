"""Profiles of machines: what is written is read back, damage is named, and nothing half-written is ever seen."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import offload
from offload.errors import HardwareError
from offload.hardware import CARDS, Hardware, find_hardware, host_device, preset, read_hardware, write_hardware
from offload.hardware import find as finding
from offload.hardware.machine import differences, program_version, this_machine
from offload.hardware.store import as_text, user_path
from offload.step_cost import step_cost_of


def measured() -> Hardware:
    """A profile as if it had been made here."""
    return replace(preset("ddr5-6000+rtx-4090-pcie4"), machine=this_machine())


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "hardware.json"
    write_hardware(measured(), path)
    back = read_hardware(path)
    assert as_text(back) == path.read_text(encoding="utf-8")
    assert back.ram.read_bytes_per_s == {1: 30e9, 2: 60e9, 3: 68e9, 4: 68e9, 8: 68e9, 16: 68e9}
    assert back.accelerators["rtx-4090-pcie4"].memory_bytes == 24 << 30
    assert [p.name for p in path.parent.iterdir()] == ["hardware.json"]


KEYS = ["schema", "version", "machine", "busy", "ram", "links", "accelerators", "disk", "kernels", "latency_s"]


def test_the_document_has_the_named_keys() -> None:
    document = json.loads(as_text(measured()))
    assert list(document)[: len(KEYS)] == KEYS
    assert {"read_bytes_per_s", "knee_threads", "copy_bytes_per_s"} <= set(document["ram"])
    assert float(document["kernels"]["Q4_K"]["2"]) > 0


def _set(*place: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def damage(document: dict[str, Any]) -> None:
        for name in place[:-1]:
            document = document[name]
        document[place[-1]] = to

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d["ram"].pop("knee_threads"), r"ram\.knee_threads is missing"),
        (lambda d: d.pop("kernels"), "kernels is missing"),
        (_set("schema", to=2), "has schema 2; this version reads 1"),
        (_set("ram", "knee_treads", to=2), r"ram\.knee_treads is unknown; did you mean knee_threads\?"),
        (_set("ram", "knee_threads", to=1.5), r"ram\.knee_threads is 1\.5; it must be a whole number"),
        (_set("ram", "copy_bytes_per_s", to=0), r"ram\.copy_bytes_per_s is 0\.0; .* above 0"),
        (_set("ram", "copy_bytes_per_s", to=-1), r"ram\.copy_bytes_per_s is -1; it must be a number of 0 or more"),
        (_set("ram", "copy_bytes_per_s", to="fast"), r"ram\.copy_bytes_per_s is 'fast'; it must be a number"),
        (_set("ram", "copy_bytes_per_s", to=float("nan")), r"ram\.copy_bytes_per_s is nan"),
        (_set("ram", "read_bytes_per_s", to={}), r"ram\.read_bytes_per_s is \{\}"),
        (_set("ram", "read_bytes_per_s", to={"two": 1e9}), "the key 'two'; it must be a whole number"),
        (_set("kernels", "Q4_K", "1", to=0), r"kernels\.Q4_K"),
        (_set("machine", to=[]), r"machine is \[\]; it must be an object"),
        (_set("machine", "cpu", to=7), r"machine\.cpu is 7; it must be a text"),
        (_set("busy", "reasons", to="load"), r"busy\.reasons is 'load'; it must be a list"),
        (_set("busy", "reasons", to=[1]), r"busy\.reasons\[0\] is 1"),
        (_set("links", to={}), "links and accelerators must have the same names: rtx-4090-pcie4"),
    ],
)
def test_damage_is_named(damage: Callable[[dict[str, Any]], None], message: str, tmp_path: Path) -> None:
    document = json.loads(as_text(measured()))
    damage(document)
    path = tmp_path / "hardware.json"
    path.write_text(json.dumps(document))
    with pytest.raises(HardwareError, match=message) as caught:
        read_hardware(path)
    assert "moe-offload profile" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", '{"schema": 1', "[]", "\x00\xff"])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "hardware.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(HardwareError, match="moe-offload profile"):
        read_hardware(path)


WRITES_FOR_EVER = """
import sys
from pathlib import Path
from offload.hardware import preset, write_hardware
while True:
    for name in ("ddr4-3200", "epyc-12ch"):
        write_hardware(preset(name), Path(sys.argv[1]))
        print(flush=True)
"""


def test_no_half_written_profile_is_ever_read(tmp_path: Path) -> None:
    """Read again and again while another process writes, and once more after that was killed."""
    path = tmp_path / "hardware.json"
    command = [sys.executable, "-c", WRITES_FOR_EVER, str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        seen = [read_hardware(path).machine.preset for _ in range(200)]
        while len(set(seen)) < 2:  # a busy machine may have given the writer no time meanwhile
            assert writer.poll() is None
            seen.append(read_hardware(path).machine.preset)
        writer.send_signal(signal.SIGKILL)
    assert set(seen) == {"ddr4-3200", "epyc-12ch"}
    read_hardware(path)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HardwareError, match=r"cannot write the profile .*hardware\.json.* --output"):
        write_hardware(measured(), tmp_path / "file" / "hardware.json")


def test_a_full_disk_is_noticed_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(finding.store.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(HardwareError, match=r"hardware\.json: No space left on device\. Choose another place"):
        finding.store.check_writable(tmp_path / "hardware.json")


def test_a_failed_write_leaves_the_old_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hardware.json"
    write_hardware(measured(), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HardwareError, match="No space left on device"):
        write_hardware(preset("ddr4-3200"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_foreign_and_stale_profiles_are_said() -> None:
    here = measured()
    assert differences(here) == []
    another = replace(here.machine, cpu="Z80", memory_bytes=64 << 10)
    cpu, memory, version = differences(replace(here, machine=another, version="0.0.1"))
    assert "Z80" in cpu
    assert "0.0 GB" in memory
    assert "0.0.1" in version
    assert program_version() in version
    (nominal,) = differences(preset("ddr4-3200"))
    assert "nominal" in nominal


def test_profiles_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.json"
    monkeypatch.setattr(finding.store, "user_path", lambda: path)
    assert find_hardware() is None
    write_hardware(replace(measured(), busy=replace(measured().busy, affected=("ram",))), path)
    found = find_hardware()
    assert found is not None
    assert not found.is_foreign
    assert found.notes == ("the machine was busy when these were measured: ram",)
    by_path, by_name = find_hardware(path), find_hardware("epyc-12ch+rtx-5090-pcie5")
    assert by_path is not None
    assert by_path.hardware == found.hardware
    assert by_name is not None
    assert by_name.is_foreign
    assert list(by_name.hardware.accelerators) == ["rtx-5090-pcie5"]
    with pytest.raises(HardwareError, match=r"no card 'rtx-1' is known; choose one of rtx-3060"):
        find_hardware("ddr5-6000+rtx-1")
    with pytest.raises(HardwareError, match=r"no profile 'ddr6'.*ddr5-6000"):
        find_hardware("ddr6")


def test_only_a_profile_of_this_machine_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.json"
    monkeypatch.setattr(finding.store, "user_path", lambda: path)
    assert finding.profile_of_this_machine() is None
    write_hardware(measured(), path)
    assert finding.profile_of_this_machine() == read_hardware(path)
    write_hardware(replace(measured(), machine=replace(this_machine(), cpu="Z80")), path)
    with pytest.warns(UserWarning, match="not used: it was made on another processor"):
        assert finding.profile_of_this_machine() is None
    path.write_text("{")
    with pytest.warns(UserWarning, match="is not JSON"):
        assert finding.profile_of_this_machine() is None


def test_steps_are_priced_by_the_profile(model: offload.LanguageModel) -> None:
    """Twice the bandwidth, half the seconds; what a busy machine gave is not used."""
    here, (trunk, mtp) = measured(), (model.trunk, model.mtp)
    ram = here.ram
    fast = replace(
        here,
        ram=replace(ram, read_bytes_per_s={n: 2 * rate for n, rate in ram.read_bytes_per_s.items()}),
        kernels={name: {n: 2 * rate for n, rate in rows.items()} for name, rows in here.kernels.items()},
    )
    cost, faster = step_cost_of(trunk, mtp, here), step_cost_of(trunk, mtp, fast)
    assert faster.expert_s_L == pytest.approx(cost.expert_s_L / 2)
    assert faster.reuse_s_L == pytest.approx(cost.reuse_s_L / 2)
    assert faster.position_s == pytest.approx(cost.position_s / 2)
    busy = replace(here, busy=replace(here.busy, affected=("ram",)))
    assert step_cost_of(trunk, mtp, busy).expert_s_L == pytest.approx(step_cost_of(trunk, mtp).expert_s_L)


def test_the_profile_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_path() == tmp_path / "moe-offload" / "hardware.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/ada")
    assert user_path() == Path("/home/ada/.cache/moe-offload/hardware.json")


def test_figures_between_and_beside_the_measured_ones() -> None:
    here = measured()
    ram = replace(here.ram, read_bytes_per_s={2: 40.0, 4: 60.0})
    assert [ram.bytes_per_s(n) for n in (1, 2, 3, 4, 9)] == [20, 40, 50, 60, 60]
    some = replace(here, ram=ram, kernels={"Q4_K": {1: 30.0, 3: 20.0}, "Q8_0": {1: 60.0}, "Q6_K": {1: 45.0}})
    assert some.expert_bytes_per_s("Q4_K") == 30
    assert some.expert_bytes_per_s("Q4_K", 2) == pytest.approx(24)  # seconds of a byte: 1/30, 1/24, 1/20, 1/17.14
    assert some.expert_bytes_per_s("Q4_K", 4) == pytest.approx(120 / 7)
    assert some.expert_bytes_per_s("IQ1_S") == pytest.approx(45)  # as Q6_K, the one in the middle
    fast = replace(some, ram=replace(ram, read_bytes_per_s={2: 60e9}), kernels={"Q8_0": {1: 60e9}})
    for cores, rate in ((2, 2 * 3.9e9), (64, 60e9)):  # their arithmetic bounds codebooks where cores are few
        of = replace(fast, machine=replace(fast.machine, cores=cores))
        assert (of.expert_bytes_per_s("IQ1_S"), of.expert_bytes_per_s("Q5_K")) == (pytest.approx(rate), 60e9)
    device = host_device(some)
    assert device.bytes_per_s == 60
    assert device.row_share == pytest.approx(0.25)
    assert device.format_share["Q4_K"] == 0.5
    assert host_device(some, threads=3).bytes_per_s == 50


@pytest.mark.parametrize("card", CARDS)
def test_presets_know_every_card(card: str) -> None:
    hardware = preset(f"ddr4-3200+{card}")
    assert hardware.links[card].up.bytes_per_s == CARDS[card].link_bytes_per_s
    assert hardware.machine.preset.endswith(card)
