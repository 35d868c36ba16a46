"""Quantize float32 matrices to Q4_K, Q5_K and Q6_K super-blocks in numpy, by searching a few scales per block.

The `gguf` package decodes these formats but does not write them. Super-blocks hold 256 weights. Offline use: clear
and vectorized over super-blocks, not fast.

Source: ggml-common.h of llama.cpp (block_q4_K, block_q5_K, block_q6_K) and get_scale_min_k4 of ggml-quants.c.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
SUPER_BLOCK = 256


def _half(x: NDArray[Any]) -> tuple[Floats, Bytes]:
    """The nearest float16 values, and their bytes with a trailing dimension of 2."""
    half = x.astype(np.float16)
    return half.astype(np.float32), half[..., None].view(np.uint8)


def _over(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """x / y where y is positive, 0 elsewhere."""
    quotient: NDArray[Any] = np.divide(x, y, out=np.zeros_like(x), where=y > 0)
    return quotient


def _best_scale_and_minimum(x: Floats, levels: int) -> tuple[Floats, Floats]:
    """Scale and minimum of each sub-block so that x is about scale * q - minimum with q in 0..levels.

    Tries a range of scales, solves least squares for (scale, minimum) given the codes, keeps the best.
    Weights count by rms + |x|, as llama.cpp has it without an importance matrix.
    """
    low = np.minimum(x.min(-1), 0)
    high = x.max(-1)
    weight = np.sqrt((x * x).mean(-1, keepdims=True)) + np.abs(x)
    best_scale, best_minimum = (high - low) / levels, -low
    best_error = np.full(low.shape, np.inf, np.float32)
    total = weight.sum(-1)
    for trial in np.linspace(-1.0, 1.0, 21):
        inverse = _over(np.full_like(low, levels + trial), high - low)
        q = np.clip(np.rint((x - low[..., None]) * inverse[..., None]), 0, levels)
        sum_q, sum_qq = (weight * q).sum(-1), (weight * q * q).sum(-1)
        sum_x, sum_qx = (weight * x).sum(-1), (weight * q * x).sum(-1)
        scale = _over(total * sum_qx - sum_x * sum_q, total * sum_qq - sum_q * sum_q)
        minimum = -_over(sum_x - scale * sum_q, total)
        positive_only = minimum < 0
        scale = np.where(positive_only, _over(sum_qx, sum_qq), scale)
        minimum = np.maximum(minimum, 0)
        error = (weight * (scale[..., None] * q - minimum[..., None] - x) ** 2).sum(-1)
        better = (error < best_error) & (scale > 0)
        best_error = np.where(better, error, best_error)
        best_scale, best_minimum = np.where(better, scale, best_scale), np.where(better, minimum, best_minimum)
    return best_scale, best_minimum


def _pack_six_bits(scales: Bytes, minimums: Bytes) -> Bytes:
    """Eight 6-bit scales and minimums (N, 8) each -> the 12 bytes of a Q4_K or Q5_K super-block (N, 12)."""
    packed = np.empty((len(scales), 12), np.uint8)
    packed[:, 0:4] = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    packed[:, 4:8] = minimums[:, :4] | (minimums[:, 4:] >> 4) << 6
    packed[:, 8:12] = (scales[:, 4:] & 15) | (minimums[:, 4:] & 15) << 4
    return packed


def _scaled_codes(x: Floats, levels: int) -> tuple[Bytes, Bytes]:
    """x (N, 256) -> (header bytes (N, 16): d, dmin and the packed scales; codes (N, 8, 32) in 0..levels)."""
    x = x.reshape(-1, 8, 32)
    scale, minimum = _best_scale_and_minimum(x, levels)
    d, d_bytes = _half(scale.max(-1) / 63)
    dmin, dmin_bytes = _half(minimum.max(-1) / 63)
    scales = np.clip(np.rint(_over(scale, np.broadcast_to(d[:, None], scale.shape))), 0, 63).astype(np.uint8)
    minimums = np.clip(np.rint(_over(minimum, np.broadcast_to(dmin[:, None], scale.shape))), 0, 63).astype(np.uint8)
    step, offset = (d[:, None] * scales)[..., None], (dmin[:, None] * minimums)[..., None]
    codes = np.clip(np.rint(_over(x + offset, np.broadcast_to(step, x.shape))), 0, levels).astype(np.uint8)
    return np.concatenate([d_bytes, dmin_bytes, _pack_six_bits(scales, minimums)], axis=-1), codes


def quantize_q4_k(x: Floats) -> Bytes:
    """x (N, 256) -> (N, 144)."""
    header, codes = _scaled_codes(x, 15)
    pairs = codes.reshape(-1, 4, 2, 32)  # the low nibbles of 32 bytes, then the high ones
    return np.concatenate([header, (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)], axis=-1)


def quantize_q5_k(x: Floats) -> Bytes:
    """x (N, 256) -> (N, 176): as Q4_K, with the fifth bits of sub-block i in bit i of 32 bytes."""
    header, codes = _scaled_codes(x, 31)
    fifth = ((codes >> 4) << np.arange(8, dtype=np.uint8)[:, None]).sum(1).astype(np.uint8)
    pairs = (codes & 15).reshape(-1, 4, 2, 32)
    return np.concatenate([header, fifth, (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)], axis=-1)


def quantize_q6_k(x: Floats) -> Bytes:
    """x (N, 256) -> (N, 210): 16 sub-blocks with signed 8-bit scales, codes -32..31."""
    x = x.reshape(-1, 16, 16)
    extreme = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)[..., 0]
    best, best_score = -extreme / 32, np.full(extreme.shape, -1, np.float32)
    weight = x * x
    for trial in np.linspace(-0.9, 0.9, 19):
        inverse = np.where(extreme == 0, 0, -(32 + trial) / np.where(extreme == 0, 1, extreme))
        q = np.clip(np.rint(x * inverse[..., None]), -32, 31)
        sum_qx, sum_qq = (weight * q * x).sum(-1), (weight * q * q).sum(-1)
        score = _over(sum_qx * sum_qx, sum_qq)
        better = score > best_score
        best_score, best = np.where(better, score, best_score), np.where(better, _over(sum_qx, sum_qq), best)
    largest = np.take_along_axis(best, np.abs(best).argmax(-1)[:, None], -1)[:, 0]
    d, d_bytes = _half(largest / -128)
    safe = np.where(d == 0, 1, d)[:, None]
    scales = np.where(d[:, None] == 0, 0, np.clip(np.rint(best / safe), -128, 127)).astype(np.int8)
    step = (d[:, None] * scales)[..., None]
    codes = np.clip(np.rint(np.divide(x, step, out=np.zeros_like(x), where=step != 0)), -32, 31) + 32
    halves = codes.astype(np.uint8).reshape(-1, 2, 4, 32)  # each half of 128: four runs of 32
    low = np.stack([halves[:, :, 0] & 15 | halves[:, :, 2] << 4, halves[:, :, 1] & 15 | halves[:, :, 3] << 4], axis=2)
    high = ((halves >> 4) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]).sum(2).astype(np.uint8)
    parts = [low.reshape(-1, 128), high.reshape(-1, 64), scales.view(np.uint8), d_bytes]
    return np.concatenate(parts, axis=-1)


QUANTIZERS = {"Q4_K": quantize_q4_k, "Q5_K": quantize_q5_k, "Q6_K": quantize_q6_k}


def quantize_k(x: Floats, name: str) -> Bytes:
    """x (..., n) with n a multiple of 256 -> bytes (..., n / 256 * block bytes) of the named format."""
    blocks = QUANTIZERS[name](np.ascontiguousarray(x, np.float32).reshape(-1, SUPER_BLOCK))
    return blocks.reshape(*x.shape[:-1], -1)
