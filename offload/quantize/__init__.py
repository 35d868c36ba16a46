"""Float weights to GGUF's formats, as well as llama.cpp does it without an importance matrix.

encoded = quantize(values, "Q4_K")   # float32 (rows, columns) -> uint8 (rows, row bytes)
"""

from .encode import ENCODERS, QUANTIZERS, quantize

__all__ = ["ENCODERS", "QUANTIZERS", "quantize"]
