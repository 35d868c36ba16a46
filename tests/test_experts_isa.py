"""Every level of vector instructions gives the same bits, and the level is the processor's best unless forced."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experts import isa

PROGRAM = """
import sys
import numpy as np
from experts import FORMATS, Matrix, interleave, isa, linear
from experts.attention import CACHE_TYPES, KeysValues, attention, storage_shapes, write_rows
from experts.norms import rms_norm
from experts.rope import head_norm_rope, rope_table
from experts.router import route
from expert_data import random_rows
isa.force(sys.argv[1])
results = []
natives, panels = ("FP8_E4M3", "Q8_0", "Q6_K", "IQ3_S", "IQ1_M"), ("Q4_K", "Q5_0", "IQ4_XS")
for name in natives + panels:
    rng = np.random.default_rng(5)
    matrix = Matrix.from_bytes(FORMATS[name], 16, 1280, random_rows(name, 16, 1280, rng))
    if name in panels:
        matrix = interleave(matrix, np.empty(matrix.data.size, np.uint8))
    x = rng.standard_normal((1, 1280)).astype(np.float32)
    results.append(linear(x, matrix))
rng = np.random.default_rng(6)
for name, kind in CACHE_TYPES.items():
    k, v, q = (rng.standard_normal((600, heads, 32)).astype(np.float32) for heads in (1, 1, 6))
    cache = KeysValues(kind, 32, *(np.zeros(shape, np.uint8) for shape in storage_shapes(kind, (1, 1), 600, 32)))
    write_rows(k, v, cache, np.zeros(600, np.int64), np.arange(600))
    results += [cache.keys, cache.values]
    if name in ("f16", "q8_0"):
        results.append(attention(q[:4], cache, np.zeros(4, np.int64), np.array([0, 40, 512, 599])))
x = rng.standard_normal((3, 300)).astype(np.float32)
results.append(rms_norm(x, x[0], 1e-5))
results += route(x, x[1], 8, True, 2.5)
head_norm_rope(q, np.arange(600), rope_table(600, 24, 1e4), q[0, 0].copy(), 1e-5)
results.append(q)
assert isa.level() == sys.argv[1]
np.savez(sys.argv[2], *results)
"""


def run(level: str, path: Path) -> dict[str, np.ndarray]:
    tests = Path(__file__).parent
    command = f"import sys; sys.path[:0] = {[str(tests), str(tests.parent)]!r}\n{PROGRAM}"
    subprocess.run([sys.executable, "-c", command, level, str(path)], check=True, timeout=600)
    with np.load(path) as arrays:
        return dict(arrays)


def test_levels_agree_to_the_bit(tmp_path: Path) -> None:
    """Integer parts are exact everywhere, and float parts are the same operations on the same lanes."""
    allowed = isa.LEVELS[isa.LEVELS.index(isa.best()) :]
    results = {level: run(level, tmp_path / f"{level}.npz") for level in allowed}
    for result in results.values():
        for name, array in results[allowed[0]].items():
            np.testing.assert_array_equal(result[name], array)


def test_force_checks_its_argument() -> None:
    with pytest.raises(ValueError, match="unknown level 'sse9': one of avx512vnni"):
        isa.force("sse9")
    assert isa.level() in isa.LEVELS
    assert "" not in isa.features()


def test_every_level_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isa, "features", lambda: frozenset({"avx2", "fma", "f16c", "avx512f", "avx512bw"}))
    assert isa.best() == "avx2"
    assert [isa.missing(level) for level in isa.LEVELS] == [
        ["avx512dq", "avx512vl", "avx512vnni"],
        ["avx512dq", "avx512vl"],
        [],
        [],
    ]
    with pytest.raises(ValueError, match="'avx512' needs avx512dq, avx512vl: this processor has at most 'avx2'"):
        isa.force("avx512")
