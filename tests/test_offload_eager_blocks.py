"""Formats decoded by torch operations: exactly the gguf package's weights, also where they are kept in another one."""

import gguf
import numpy as np
import pytest
import torch
from expert_data import ALL, decoded, random_rows

import experts
from offload.backends.eager.blocks import FORMATS, IQ4_VALUES, decode, encode
from offload.backends.eager.expand import Expansions

VALUES = torch.tensor(IQ4_VALUES, dtype=torch.float32)
FEW = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")


def matrix_of(name: str, data: np.ndarray, columns: int) -> experts.Matrix:
    return experts.Matrix.from_bytes(experts.FORMATS[name], len(data), columns, data)


@pytest.mark.parametrize("name", FORMATS)
def test_decoding_is_exact(name: str) -> None:
    data = random_rows(name, 7, 768, np.random.default_rng(2))
    rows = decode(name, torch.from_numpy(data), 768, VALUES).numpy()
    np.testing.assert_array_equal(rows, decoded(name, data, 768))
    stack = decode(name, torch.from_numpy(data[:6]).unflatten(0, (2, 3)), 768, VALUES).numpy()
    np.testing.assert_array_equal(stack.reshape(6, 768), rows[:6])


@pytest.mark.parametrize("formats", [FORMATS, FEW], ids=["all", "few"])
@pytest.mark.parametrize("name", ALL)
def test_every_format_is_kept_without_loss(name: str, formats: tuple[str, ...]) -> None:
    data = random_rows(name, 5, 768, np.random.default_rng(3))
    expansions = Expansions(formats)
    kept = expansions.storable(matrix_of(name, data, 768))
    assert kept.format.name in formats
    assert len(expansions.lines()) == (name not in formats)
    np.testing.assert_array_equal(decode(kept.format.name, torch.from_numpy(kept.data), 768, VALUES).numpy(),
                                  decoded(name, data, 768))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kept"),
    [("MXFP4", "Q8_0"), ("IQ3_S", "Q6_K"), ("IQ3_XXS", "Q6_K"), ("Q3_K", "Q6_K"), ("Q5_0", "Q8_0"), ("IQ4_NL", "Q8_0"),
     ("Q2_K", "F32"), ("IQ2_XXS", "F32")],
)  # fmt: skip
def test_the_narrowest_format_is_taken(name: str, kept: str) -> None:
    data = random_rows(name, 40, 768, np.random.default_rng(4))
    expansions = Expansions(FEW)
    assert expansions.storable(matrix_of(name, data, 768)).format.name == kept
    assert expansions.lines()[0].startswith(f"{name} weights are kept as {kept}, which loses nothing")


def test_what_does_not_fit_is_widened() -> None:
    """Scales beyond half precision, and sums that only float32 holds, are found by looking."""
    data = random_rows("MXFP4", 3, 64, np.random.default_rng(5))
    data.reshape(3, 2, 17)[1, 1, 0] = 200  # 2**72
    assert Expansions(FORMATS).storable(matrix_of("MXFP4", data, 64)).format.name == "F32"
    ones = np.zeros((2, 1, 20), np.uint8)  # Q4_1, all weights 1
    ones[..., 2:4] = np.array([1], np.float16).view(np.uint8)
    assert Expansions(FEW).storable(matrix_of("Q4_1", ones.reshape(2, 20), 32)).format.name == "F16"


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0"])
def test_encoding_is_the_gguf_packages(name: str) -> None:
    """What caches are stored in; zeros among them."""
    x = np.random.default_rng(6).standard_normal((5, 2, 64)).astype(np.float32)
    x[1, :, :32] = 0
    x[2, :, :32] = np.arange(-16, 16) * np.float32(127 / 32)
    kind = gguf.GGMLQuantizationType[name]
    expected = gguf.quants.quantize(x, kind)
    ours = encode(name, torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(ours, np.ascontiguousarray(expected).view(np.uint8).reshape(ours.shape))
