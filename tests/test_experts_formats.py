"""The table of formats agrees with the gguf package; unknown formats are refused by name."""

import gguf
import pytest

from experts import FORMATS, UnsupportedFormat, format_of, row_bytes

OWN = {"FP8_E4M3"}  # GGUF files do not have them


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - OWN))
def test_sizes_are_those_of_gguf(name: str) -> None:
    fmt = FORMATS[name]
    kind = gguf.GGMLQuantizationType[name]
    assert fmt.ggml_type == int(kind)
    assert (fmt.block_weights, fmt.block_bytes) == gguf.GGML_QUANT_SIZES[kind]
    assert format_of(int(kind)) is fmt


def test_own_formats_have_numbers_that_gguf_does_not_use() -> None:
    taken = {int(kind) for kind in gguf.GGMLQuantizationType}
    assert not {FORMATS[name].ggml_type for name in OWN} & taken
    assert row_bytes(FORMATS["FP8_E4M3"], 384) == 3 * (4 + 128)


@pytest.mark.parametrize("ggml_type", [28, 100, 139, 777])
def test_formats_without_a_kernel_are_refused(ggml_type: int) -> None:
    """Names of types are the file reader's business."""
    with pytest.raises(UnsupportedFormat, match=rf"type {ggml_type};.*F32.*Q4_K"):
        format_of(ggml_type)


def test_row_bytes() -> None:
    assert row_bytes(FORMATS["Q4_K"], 5120) == 2880
    assert row_bytes(FORMATS["F16"], 7) == 14
    for columns in (0, -256, 100):
        with pytest.raises(ValueError, match=f"256 weights, not {columns}"):
            row_bytes(FORMATS["Q4_K"], columns)
