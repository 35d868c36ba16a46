"""Attention over a latent cache: one row for each position that all heads share, and that is key and value in one.

    latent = LatentRows(CACHE_TYPES["f16"], row_size, rows)               # bytes of one layer
    write_latent(x_TC, latent, slots_T, positions_T)
    y_THC = latent_attention(q_THC, latent, slots_T, positions_T)

Rows lie as keys do (see ../storage.py), in blocks of 16 positions, and nothing is kept twice.

Source: DeepSeek-V2 (arXiv:2405.04434, section 2.1), with the projections of keys and values absorbed.
"""

from experts.attention.latent.read import latent_attention
from experts.attention.latent.storage import LatentRows, latent_shape
from experts.attention.latent.write import write_latent

__all__ = ["LatentRows", "latent_attention", "latent_shape", "write_latent"]
