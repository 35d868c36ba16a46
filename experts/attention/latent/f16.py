"""Latent rows in F16."""

from experts.attention import f16
from experts.attention.latent import floats

KERNELS = floats.kernels(f16.KERNELS, f16.load, f16.BYTES)
