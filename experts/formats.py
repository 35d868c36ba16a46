"""The one table of weight formats: sizes of a block and how the other operand of a product is encoded."""

from dataclasses import dataclass

from experts.errors import UnsupportedFormat


@dataclass(frozen=True)
class Format:
    """How weights are stored.

    Attributes:
        name: Name in GGUF, "Q4_K".
        ggml_type: Number in GGUF.
        block_weights: Weights of one block; 1 for floats.
        block_bytes: Bytes of one block.
        activation: Encoding of the rows it is multiplied with: "f32", "int8x32", "int8x32sums" or "int8x256".
    """

    name: str
    ggml_type: int
    block_weights: int
    block_bytes: int
    activation: str


FORMATS: dict[str, Format] = {
    fmt.name: fmt
    for fmt in (
        Format("F32", 0, 1, 4, "f32"),
        Format("F16", 1, 1, 2, "f32"),
        Format("BF16", 30, 1, 2, "f32"),
        Format("Q8_0", 8, 32, 34, "int8x32"),
        Format("Q4_0", 2, 32, 18, "int8x32"),
        Format("Q4_1", 3, 32, 20, "int8x32sums"),
        Format("Q5_0", 6, 32, 22, "int8x32"),
        Format("Q5_1", 7, 32, 24, "int8x32sums"),
        Format("IQ4_NL", 20, 32, 18, "int8x32"),
        Format("MXFP4", 39, 32, 17, "int8x32"),
        Format("Q2_K", 10, 256, 84, "int8x256"),
        Format("Q3_K", 11, 256, 110, "int8x256"),
        Format("Q4_K", 12, 256, 144, "int8x256"),
        Format("Q5_K", 13, 256, 176, "int8x256"),
        Format("Q6_K", 14, 256, 210, "int8x256"),
        Format("IQ4_XS", 23, 256, 136, "int8x256"),
        Format("IQ3_S", 21, 256, 110, "int8x256"),
        Format("IQ3_XXS", 18, 256, 98, "int8x256"),
        Format("IQ2_S", 22, 256, 82, "int8x256"),
        Format("IQ2_XS", 17, 256, 74, "int8x256"),
        Format("IQ2_XXS", 16, 256, 66, "int8x256"),
    )
}

_BY_TYPE = {fmt.ggml_type: fmt for fmt in FORMATS.values()}

# Only for messages: formats of GGUF without a kernel here.
_GGML_NAMES = {
    9: "Q8_1", 15: "Q8_K", 19: "IQ1_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip

# Only for messages: types that exist in ik_llama.cpp alone (its ggml.h).
_IK_LLAMA_NAMES = {
    133: "Q6_0", 134: "IQ1_BN", 135: "IQ2_BN", 136: "Q8_K64", 137: "IQ2_K", 138: "IQ3_K", 139: "IQ4_K", 140: "IQ5_K",
    141: "IQ6_K", 144: "IQ4_KS", 145: "IQ2_KS", 146: "IQ4_KSS", 147: "Q8_K16", 148: "Q8_K32", 149: "Q8_KR8",
    150: "Q8_K128", 151: "Q8_KV", 152: "IQ5_KS", 153: "IQ2_KT", 154: "IQ3_KT", 155: "IQ4_KT", 156: "IQ3_KS",
    157: "IQ2_KL", 158: "IQ1_KT", 202: "Q4_0_R8", 206: "Q5_0_R4", 208: "Q8_0_R8", 210: "Q2_K_R4", 211: "Q3_K_R4",
    212: "Q4_K_R4", 213: "Q5_K_R4", 214: "Q6_K_R4", 216: "IQ2_XXS_R4", 217: "IQ2_XS_R4", 218: "IQ3_XXS_R4",
    219: "IQ1_S_R4", 220: "IQ4_NL_R4", 221: "IQ3_S_R4", 222: "IQ2_S_R4", 223: "IQ4_XS_R8", 229: "IQ1_M_R4",
    230: "BF16_R16", 233: "Q6_0_R4", 335: "IQ2_BN_R4", 337: "IQ2_K_R4", 338: "IQ3_K_R4", 339: "IQ4_K_R4",
    340: "IQ5_K_R4", 344: "IQ4_KS_R4", 352: "IQ5_KS_R4", 398: "Q8_KV_R8", 399: "Q8_K_R8",
}  # fmt: skip


def format_of(ggml_type: int) -> Format:
    """The format with this number in GGUF.

    Raises:
        UnsupportedFormat: No kernel here decodes it; the message names it and lists the supported ones.
    """
    found = _BY_TYPE.get(ggml_type)
    if found is not None:
        return found
    supported = ", ".join(FORMATS)
    if 133 <= ggml_type <= 158 or ggml_type >= 200:
        name = _IK_LLAMA_NAMES.get(ggml_type)
        what = f"{name} (type {ggml_type})" if name else f"type {ggml_type}"
        raise UnsupportedFormat(f"weight format {what} is known only to ik_llama.cpp; supported: {supported}")
    name = _GGML_NAMES.get(ggml_type, "unknown")
    raise UnsupportedFormat(f"weight format {name} (type {ggml_type}) has no kernel; supported: {supported}")


def row_bytes(fmt: Format, columns: int) -> int:
    """Bytes of one row of `columns` weights.

    Raises:
        ValueError: `columns` is not a positive multiple of the block.
    """
    if columns <= 0 or columns % fmt.block_weights:
        raise ValueError(f"{fmt.name} rows hold a positive multiple of {fmt.block_weights} weights, not {columns}")
    return columns // fmt.block_weights * fmt.block_bytes
