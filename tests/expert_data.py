"""Encoded weights and slow references for the tests of `experts`; the references import nothing from it."""

import gguf
import numpy as np

# Where the float16 fields of a block lie; everything else may be any byte.
HALF_FIELDS = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "IQ4_NL": (0,),
    "MXFP4": (),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_XS": (0,),
    "IQ3_S": (0,),
    "IQ3_XXS": (0,),
    "IQ2_S": (0,),
    "IQ2_XS": (0,),
    "IQ2_XXS": (0,),
    "IQ1_M": (),
    "IQ1_S": (0,),
}
BLOCK = {name: gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]] for name in HALF_FIELDS}  # weights, bytes
FLOATS = ("F32", "F16", "BF16")
QUANTIZED = tuple(BLOCK)
SMALL_BLOCKS = tuple(name for name in QUANTIZED if BLOCK[name][0] == 32)
FP8 = "FP8_E4M3"
ALL = (*FLOATS, FP8, *QUANTIZED)


def random_rows(name, rows, columns, rng):
    """uint8 (rows, row bytes) of random blocks with finite scales."""
    if name == "F32":
        return rng.standard_normal((rows, columns)).astype(np.float32).view(np.uint8)
    if name == "F16":
        return rng.standard_normal((rows, columns)).astype(np.float16).view(np.uint8)
    if name == "BF16":
        values = rng.standard_normal((rows, columns)).astype(np.float32)
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    if name == FP8:
        data = rng.integers(0, 256, (rows, columns // 128, 132), dtype=np.uint8)
        data[data & 127 == 127] = 0  # no number
        data[..., :4] = rng.uniform(-0.02, 0.02, (*data.shape[:2], 1)).astype(np.float32).view(np.uint8)
        return data.reshape(rows, -1)
    weights, num_bytes = BLOCK[name]
    assert columns % weights == 0
    data = rng.integers(0, 256, (rows, columns // weights, num_bytes), dtype=np.uint8)
    for field in HALF_FIELDS[name]:
        scales = rng.uniform(-0.02, 0.02, (*data.shape[:2], 1)).astype(np.float16)
        data[:, :, field : field + 2] = scales.view(np.uint8)
    if name == "IQ1_M":  # the four quarters of the scale are the upper nibbles of the last four 16-bit numbers
        scales = rng.uniform(-0.02, 0.02, data.shape[:2]).astype(np.float16).view(np.uint16)
        for quarter in range(4):
            byte = data[:, :, 49 + 2 * quarter]
            byte[:] = byte & 15 | (scales >> 4 * quarter & 15) << 4
    if name == "MXFP4":
        data[:, :, 0] = rng.integers(118, 124, data.shape[:2])  # exponents
    return data.reshape(rows, -1)


def e4m3(byte):
    """The number that eight bits stand for, by the definition of the format."""
    sign, exponent, mantissa = -1 if byte & 128 else 1, byte >> 3 & 15, byte & 7
    return sign * (2.0 ** (exponent - 7) * (1 + mantissa / 8) if exponent else 2.0**-6 * mantissa / 8)


E4M3 = np.array([e4m3(byte) for byte in range(256)], np.float32)


def decoded(name, data, columns):
    """float32 (rows, columns) as the gguf package decodes it."""
    if name == FP8:
        blocks = data.reshape(len(data), -1, 132)
        scales = np.ascontiguousarray(blocks[..., :4]).view(np.float32)
        words = blocks[..., 4:].reshape(*blocks.shape[:2], 2, 16, 4)  # byte k of word i: weight 16 * (3 - k) + i
        in_order = np.flip(words, -1).swapaxes(-1, -2).reshape(*blocks.shape[:2], 128)
        return (E4M3[in_order] * scales).reshape(len(data), columns)
    kind = gguf.GGMLQuantizationType[name]
    return gguf.quants.dequantize(np.ascontiguousarray(data), kind).reshape(len(data), columns)


def rounded(name, x):
    """float64 (T, columns): the activations after the encoding that the format asks for."""
    if name in (*FLOATS, FP8):
        return x.astype(np.float64)
    block = 32 if BLOCK[name][0] == 32 else 256
    blocks = x.reshape(len(x), -1, block)
    peak = np.abs(blocks).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(peak > 0, np.float32(127) / peak, np.float32(0))
    quants = np.rint(blocks * inverse).astype(np.float64)
    scale = peak / np.float32(127)
    if block == 32:
        mantissa, exponent = np.frexp(scale)
        scale = np.ldexp(np.rint(mantissa * 2048) / np.float32(2048), exponent)  # 11 significant bits
    return (quants * scale.astype(np.float64)).reshape(x.shape)


def naive_ffn(x, gate, up, down, formats):
    """float64 (T, outputs) of dense float32 matrices whose formats decide how activations are rounded."""
    gated = rounded(formats[0], x) @ gate.astype(np.float64).T
    upped = rounded(formats[1], x) @ up.astype(np.float64).T
    hidden = gated / (1 + np.exp(-gated)) * upped
    return rounded(formats[2], hidden.astype(np.float32)) @ down.astype(np.float64).T


def naive_moe(x, expert_ids, weights, stacks, formats):
    """float64 (T, D): the routed experts by loops over rows and choices."""
    gate, up, down = stacks
    out = np.zeros((len(x), down.shape[1]))
    for t in range(len(x)):
        for k, e in enumerate(expert_ids[t]):
            y = naive_ffn(x[t : t + 1], gate[e], up[e], down[e], formats)[0]
            out[t] += np.float64(weights[t, k]) * y
    return out
