"""Bytes of encoded weights that one core decodes at most in a second, by format: measured on a Zen 4 server."""

CODEBOOKS = {  # so much arithmetic that few cores do not keep up with memory
    "IQ3_S": 12e9, "IQ3_XXS": 9e9, "IQ2_S": 6e9, "IQ2_XS": 7e9, "IQ2_XXS": 11e9, "IQ1_M": 3.7e9, "IQ1_S": 3.9e9,
    "IQ3_S_LEVELS": 22e9, "IQ2_LEVELS": 20e9, "IQ1_M_LEVELS": 13e9, "IQ1_S_LEVELS": 18e9,
}  # fmt: skip
CORE_BYTES_PER_S = {
    "Q8_0": 16e9, "Q6_K": 15e9, "Q5_K": 14e9, "Q4_K": 15e9, "Q3_K": 12e9, "Q2_K": 10e9, "Q4_0": 15e9, "Q5_0": 14e9,
    "Q5_1": 14e9, "Q4_1": 15e9, "IQ4_NL": 15e9, "IQ4_XS": 15e9, "MXFP4": 15e9, **CODEBOOKS,
}  # fmt: skip
