"""How blocks of each format decode, in registers: one small file for each format.

A decoder takes pointers to encoded rows (bytes; N, 1, 1), numbers of groups in a row (1, G, 1) and lanes in a group
(1, 1, W), and returns float32 (N, G, W): what weight `lane` of group `group` is. Weights of a group share their scale.
Decoding is exact: scale times quant fits float32, so that only the subtraction of an offset rounds.
"""

import triton
import triton.language as tl

from .floats import decode_floats
from .iq4_nl import decode_iq4_nl
from .iq4_xs import decode_iq4_xs
from .q2_k import decode_q2_k
from .q3_k import decode_q3_k
from .q4_0 import decode_q4_0
from .q4_1 import decode_q4_1
from .q4_k import decode_q4_k
from .q5_0 import decode_q5_0
from .q5_1 import decode_q5_1
from .q5_k import decode_q5_k
from .q6_k import decode_q6_k
from .q8_0 import decode_q8_0

GROUP_SIZE = {  # weights of a group
    "F32": 32, "F16": 32, "BF16": 32, "Q8_0": 32, "Q4_0": 32, "Q4_1": 32, "Q5_0": 32, "Q5_1": 32, "IQ4_NL": 32,
    "Q2_K": 16, "Q3_K": 16, "Q4_K": 32, "Q5_K": 32, "Q6_K": 16, "IQ4_XS": 32,
}  # fmt: skip
FORMATS = tuple(GROUP_SIZE)


@triton.jit
def decode(FORMAT: tl.constexpr, rows, group, lane, columns):
    """float32 (N, G, W); `columns` is the length of a row."""
    if FORMAT == "F32":
        weights = decode_floats(tl.float32, rows, group, lane, columns)
    elif FORMAT == "F16":
        weights = decode_floats(tl.float16, rows, group, lane, columns)
    elif FORMAT == "BF16":
        weights = decode_floats(tl.bfloat16, rows, group, lane, columns)
    elif FORMAT == "Q8_0":
        weights = decode_q8_0(rows, group, lane)
    elif FORMAT == "Q4_0":
        weights = decode_q4_0(rows, group, lane)
    elif FORMAT == "Q4_1":
        weights = decode_q4_1(rows, group, lane)
    elif FORMAT == "Q5_0":
        weights = decode_q5_0(rows, group, lane)
    elif FORMAT == "Q5_1":
        weights = decode_q5_1(rows, group, lane)
    elif FORMAT == "IQ4_NL":
        weights = decode_iq4_nl(rows, group, lane)
    elif FORMAT == "Q2_K":
        weights = decode_q2_k(rows, group, lane)
    elif FORMAT == "Q3_K":
        weights = decode_q3_k(rows, group, lane)
    elif FORMAT == "Q4_K":
        weights = decode_q4_k(rows, group, lane)
    elif FORMAT == "Q5_K":
        weights = decode_q5_k(rows, group, lane)
    elif FORMAT == "Q6_K":
        weights = decode_q6_k(rows, group, lane)
    else:
        tl.static_assert(FORMAT == "IQ4_XS")
        weights = decode_iq4_xs(rows, group, lane)
    return weights
