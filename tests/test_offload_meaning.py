"""What a profile means: the planner's speeds for published models, and which change would help most."""

from dataclasses import replace

import pytest

from offload.cli import main
from offload.hardware import preset
from offload.profiling.meaning import CARD, CHANNELS, QUANTS, meanings, with_channels


def test_twice_the_channels_help_where_memory_bounds() -> None:
    before = preset("ddr5-6000")
    slow = {**before.kernels["IQ1_S"], 1: 0.3 * before.ram.best_bytes_per_s}
    wider = with_channels(before, 2)
    assert wider.ram.best_bytes_per_s == 2 * before.ram.best_bytes_per_s
    assert wider.kernels["Q4_K"][1] == 2 * before.kernels["Q4_K"][1]
    bound = with_channels(replace(before, kernels={"IQ1_S": slow}), 2)
    assert bound.kernels["IQ1_S"][1] == slow[1]


@pytest.mark.parametrize("name", ["ddr5-6000", "ddr5-6000+rtx-4090-pcie4"])
def test_models_on_a_machine(name: str) -> None:
    found = meanings(name)
    assert [(one.model, one.quant) for one in found] == [
        (model, quant) for model in ("glm-4.5-air", "glm-4.7") for quant in QUANTS
    ]
    for i in (0, 4):  # smaller weights, less memory, more speed
        speeds = [one.tokens_per_s for one in found[i : i + 4]]
        assert speeds == sorted(speeds)
        missing = [one.missing_bytes for one in found[i : i + 4]]
        assert missing == sorted(missing, reverse=True)
    assert found[0].missing_bytes == 0 < found[4].missing_bytes  # Air in Q8_0 takes 117 GB of 192 GiB, 4.7 380 GB
    for one in found:
        assert one.bound == "dram"
        assert one.gain > 1.5
        assert one.change in (CARD, CHANNELS)
        assert (one.change == CARD) <= ("+" not in name)


def test_the_report_ends_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--show", "ddr4-3200"]) == 0
    out = capsys.readouterr().out
    assert out.index("RAM, read") < out.index("What this means")
    assert "glm-4.7" in out
    assert "…" not in out  # all of it is there on 80 columns
