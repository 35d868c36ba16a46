"""Quantizers against the gguf package's and llama.cpp's own: the same error, nearly always the same bytes."""

import ctypes
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import gguf
import numpy as np
import pytest

from experts import FORMATS
from offload.quantize import ENCODERS, QUANTIZERS, quantize

ROOT = Path(__file__).parent.parent
COLUMNS = 1024


def weights(kind: str, rows: int = 64) -> np.ndarray:
    """Tensors of several characters: as trained, with outliers, one-sided, and hard cases in the first rows."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((rows, COLUMNS))
    if kind == "outliers":
        x = rng.standard_t(3, (rows, COLUMNS))
    if kind == "one-sided":
        x = np.abs(x) + 0.5
    x = (x * 0.02).astype(np.float32)
    x[0] = 0
    x[1, ::7] = 0
    x[2] = 0.01
    x[3] = np.float32(1e-9) * x[3]
    x[4] = -np.abs(x[4])
    return x


def rms(a: np.ndarray) -> float:
    return float(np.sqrt(np.mean(a.astype(np.float64) ** 2)))


def decoded(data: np.ndarray, name: str) -> np.ndarray:
    return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name])


def by_llama_cpp(x: np.ndarray, name: str) -> np.ndarray:
    pytest.importorskip("xllamacpp")
    library = ctypes.CDLL(str(import_module("xllamacpp.xllamacpp").__file__))
    chunk = library.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    address, count = ctypes.c_void_p, ctypes.c_int64
    chunk.argtypes = [ctypes.c_int, address, address, count, count, count, address]
    fmt = FORMATS[name]
    out = np.zeros((len(x), x.shape[1] // fmt.block_weights * fmt.block_bytes), np.uint8)
    written = chunk(fmt.ggml_type, x.ctypes.data, out.ctypes.data, 0, len(x), x.shape[1], None)
    assert written == out.size
    return out


@pytest.mark.parametrize("kind", ["normal", "outliers", "one-sided"])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_error_is_llama_cpps(name: str, kind: str) -> None:
    x = weights(kind)
    ours, theirs = quantize(x, name), by_llama_cpp(x, name)
    error, expected = rms(decoded(ours, name) - x), rms(decoded(theirs, name) - x)
    assert 0 < error <= 1.003 * expected
    for row in range(5):
        assert rms(decoded(ours, name)[row] - x[row]) <= 1.02 * rms(decoded(theirs, name)[row] - x[row]) + 1e-12
    same = np.all((ours == theirs).reshape(-1, FORMATS[name].block_bytes), axis=1)
    assert same.mean() > 0.7  # sums are made in another order, so a near tie may fall to the other side


@pytest.mark.parametrize("name", ["Q8_0", "Q5_0", "Q4_0"])
def test_bytes_are_the_gguf_packages(name: str) -> None:
    for kind in ("normal", "outliers", "one-sided"):
        x = weights(kind)
        np.testing.assert_array_equal(quantize(x, name), gguf.quants.quantize(x, gguf.GGMLQuantizationType[name]))


@pytest.mark.parametrize("name", ENCODERS)
def test_floats_are_rounded_as_by_the_gguf_package(name: str) -> None:
    x = weights("outliers")
    expected = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(quantize(x, name), expected.view(np.uint8).reshape(len(x), -1))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_threads_and_pieces_change_no_bit(name: str) -> None:
    x = np.tile(weights("normal"), (17, 4))
    whole = quantize(x, name)
    np.testing.assert_array_equal(np.concatenate([quantize(x[i : i + 50], name) for i in range(0, len(x), 50)]), whole)


DIGEST = """
import hashlib, numpy
from offload.quantize import quantize
values = numpy.random.default_rng(0).standard_normal((64, 1024)).astype(numpy.float32)
print([hashlib.sha256(quantize(values, name).tobytes()).hexdigest() for name in ("Q4_K", "Q6_K")])
"""


def test_neither_compiler_nor_cache_nor_processor_changes_a_bit(tmp_path: Path) -> None:
    """Kernels compiled in the process, then loaded from numba's cache; and compiled for the plainest processor."""
    plainest = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}

    def start(folder: str, **settings: str) -> subprocess.Popen[str]:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / folder), "PYTHONPATH": str(ROOT)} | settings
        return subprocess.Popen([sys.executable, "-c", DIGEST], env=environment, stdout=subprocess.PIPE, text=True)

    both = [start("here"), start("plain", **plainest)]
    digests = {process.communicate(timeout=120)[0] for process in both}
    digests.add(start("here").communicate(timeout=120)[0])
    assert len(digests) == 1
    assert len(digests.pop()) > 2 * 64


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_no_number_is_refused(value: float) -> None:
    x = weights("normal", 8)
    x[5, 100] = value
    for name in (*QUANTIZERS, *ENCODERS):
        with pytest.raises(ValueError, match="infinite or no number"):
            quantize(x, name)
