"""Latent rows in BF16."""

from experts.attention import bf16
from experts.attention.latent import floats

KERNELS = floats.kernels(bf16.KERNELS, bf16.load, bf16.BYTES)
