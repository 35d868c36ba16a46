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
from experts import FORMATS, Matrix, isa, linear
from expert_data import random_rows
isa.force(sys.argv[1])
results = []
for name in ("Q8_0", "Q5_0", "Q5_1", "MXFP4", "Q3_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ3_S"):
    rng = np.random.default_rng(5)
    matrix = Matrix.from_bytes(FORMATS[name], 9, 512, random_rows(name, 9, 512, rng))
    x = rng.standard_normal((1, 512)).astype(np.float32)
    results.append(linear(x, matrix))
assert isa.level() == sys.argv[1]
np.save(sys.argv[2], np.stack(results))
"""


def run(level: str, path: Path) -> np.ndarray:
    tests = Path(__file__).parent
    command = f"import sys; sys.path[:0] = {[str(tests), str(tests.parent)]!r}\n{PROGRAM}"
    subprocess.run([sys.executable, "-c", command, level, str(path)], check=True, timeout=300)
    return np.load(path)


def test_levels_agree_to_the_bit(tmp_path: Path) -> None:
    """Integer parts are exact everywhere, and float parts are the same operations on the same lanes."""
    allowed = isa.LEVELS[isa.LEVELS.index(isa.best()) :]
    results = {level: run(level, tmp_path / f"{level}.npy") for level in allowed}
    for result in results.values():
        np.testing.assert_array_equal(result, results[allowed[0]])


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
