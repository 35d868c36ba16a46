"""Attention on the processor: a cache of keys and values in several types, and grouped heads that read it.

cached = KeysValues(CACHE_TYPES["q8_0"], head_size, keys, values)     # bytes of one layer, see storage.py
write_rows(k_TGC, v_TGC, cached, slots_T, positions_T)                # rounded to the type
y_THC = attention(q_THC, cached, slots_T, positions_T)                # each row sees positions 0..its own
"""

from experts.attention.read import attention
from experts.attention.storage import CACHE_TYPES, CacheType, KeysValues, storage_shapes
from experts.attention.write import write_rows

__all__ = ["CACHE_TYPES", "CacheType", "KeysValues", "attention", "storage_shapes", "write_rows"]
