"""Latent rows in F32."""

from experts.attention import f32
from experts.attention.latent import floats

KERNELS = floats.kernels(f32.KERNELS, f32.load, f32.BYTES)
