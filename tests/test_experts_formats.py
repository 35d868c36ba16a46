"""The table of formats agrees with the gguf package; unknown formats are refused by name."""

import gguf
import pytest

from experts import FORMATS, UnsupportedFormat, format_of, row_bytes


@pytest.mark.parametrize("name", FORMATS)
def test_sizes_are_those_of_gguf(name: str) -> None:
    fmt = FORMATS[name]
    kind = gguf.GGMLQuantizationType[name]
    assert fmt.ggml_type == int(kind)
    assert (fmt.block_weights, fmt.block_bytes) == gguf.GGML_QUANT_SIZES[kind]
    assert format_of(int(kind)) is fmt


@pytest.mark.parametrize(
    ("ggml_type", "words"),
    [
        (139, ["IQ4_K", "139", "ik_llama.cpp"]),
        (144, ["IQ4_KS", "ik_llama.cpp"]),
        (212, ["Q4_K_R4", "ik_llama.cpp"]),
        (150, ["Q8_K128", "ik_llama.cpp"]),
        (777, ["777", "ik_llama.cpp"]),
        (28, ["F64", "no kernel"]),
        (100, ["100", "no kernel"]),
    ],
)
def test_unsupported_formats_are_named(ggml_type: int, words: list[str]) -> None:
    with pytest.raises(UnsupportedFormat) as caught:
        format_of(ggml_type)
    for word in [*words, "Q4_K", "F32"]:
        assert word in str(caught.value)


def test_row_bytes() -> None:
    assert row_bytes(FORMATS["Q4_K"], 5120) == 2880
    assert row_bytes(FORMATS["F16"], 7) == 14
    for columns in (0, -256, 100):
        with pytest.raises(ValueError, match=f"256 weights, not {columns}"):
            row_bytes(FORMATS["Q4_K"], columns)
