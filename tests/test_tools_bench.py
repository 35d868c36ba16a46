"""The benchmark times what it says: ggml's graph and our step compute the same, and every timing adds up."""

import numpy as np
import pytest

from experts import FORMATS, moe_ffn
from offload.hardware.probe import PROBE_BYTES, Probe
from offload.profiling.random_layer import HALF_FIELDS, random_layer
from tools.bench_ggml import Ggml, GgmlLayer, GgmlStep
from tools.bench_step import Bench, Shape


@pytest.mark.parametrize(
    ("name", "repack"), [("Q4_K", False), ("Q6_K", False), ("Q8_0", False), ("IQ4_XS", False), ("Q4_K", True)]
)
def test_ggml_computes_the_same_step(name: str, repack: bool) -> None:
    """Both round activations to 8 bits in the same way, so only the order of sums differs."""
    pytest.importorskip("xllamacpp")
    layer = random_layer(FORMATS[name], 6, 512, 256)
    rng = np.random.default_rng(3)
    x_TD = rng.standard_normal((3, 512), dtype=np.float32)
    ids_TK = np.array([[0, 5], [5, 2], [3, 1]], np.int32)
    weights_TK = rng.uniform(0.2, 1, (3, 2)).astype(np.float32)
    theirs = GgmlLayer(Ggml(2), layer, repack)
    if not theirs.runs:
        assert repack
        pytest.skip(f"ggml does not repack {name} on this processor")
    step = GgmlStep(theirs, 3, 2)
    expected = (step.run(x_TD, ids_TK) * weights_TK[:, :, None]).sum(axis=1)
    ours = moe_ffn(x_TD, ids_TK, weights_TK, layer)
    step.free()
    theirs.free()
    assert np.abs(ours - expected).max() < 0.02 * expected.std()


def test_timings_count_each_distinct_expert_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "_read_s", lambda bench: 0.01)
    bench = Bench(Shape(num_experts=16, top_k=4, hidden=256, ffn=256), repeats=1, with_ggml=False)
    timings = list(bench.run("Q4_K", ["native"], ["constant", "disjoint"], [1, 3, 5]))
    expert_bytes = 3 * 256 * 144
    assert [(t.experts, t.rows, t.bytes_read // expert_bytes) for t in timings] == [
        ("constant", 1, 4), ("constant", 3, 4), ("constant", 5, 4), ("disjoint", 1, 4), ("disjoint", 3, 12),
    ]  # fmt: skip
    for timing in timings:
        assert timing.seconds > 0
        assert timing.roofline_bytes_per_s == PROBE_BYTES / 4 / 0.01
        assert timing.share >= 0.999 * timing.bytes_per_s / timing.roofline_bytes_per_s  # the mean of two shares
        assert timing.ggml_s is None


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_random_weights_are_finite(name: str) -> None:
    assert set(HALF_FIELDS) <= set(FORMATS)
    layer = random_layer(FORMATS[name], 2, 256, 256)
    x = np.ones((1, 256), np.float32)
    out = moe_ffn(x, np.array([[0, 1]], np.int32), np.ones((1, 2), np.float32), layer)
    assert np.isfinite(out).all()
    assert layer.gate.address % 64 == 0


def test_the_roofline_reads_everything() -> None:
    probe = Probe()
    probe.read()
    assert (probe.sums == 0).all()  # an even number of ones, xored
    probe.data[PROBE_BYTES - 1] = 7
    probe.read()
    assert probe.sums[-1].max() == 6
