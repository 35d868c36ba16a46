"""Which format llama.cpp's quantizer gives each tensor: for plans of models whose file is not here.

Source: llama.cpp, src/llama-quant.cpp (`llama_tensor_get_type`), without an importance matrix.
"""

import experts

from ..transformer.config import ModelConfig

# What a tensor gets whose rows are no multiple of 256.
FALLBACK = {"Q2_K": "IQ4_NL", "Q3_K": "IQ4_NL", "IQ4_XS": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
QUANTS = {  # name -> format of most tensors
    "bf16": "BF16", "f16": "F16", "q8_0": "Q8_0", "q6_k": "Q6_K", "q5_k_m": "Q5_K", "q4_k_m": "Q4_K", "q4_k_s": "Q4_K",
    "iq4_xs": "IQ4_XS", "q4_0": "Q4_0", "q3_k_m": "Q3_K", "q2_k": "Q2_K",
}  # fmt: skip


def format_in(quant: str, name: str, shape: tuple[int, ...], config: ModelConfig) -> experts.Format:
    """The format of a tensor in a file of this quantization, one of QUANTS."""
    if len(shape) == 1 or name.endswith("ffn_gate_inp.weight"):
        return experts.FORMATS["F32"]
    chosen = _wanted(quant, name, config)
    if shape[-1] % experts.FORMATS[chosen].block_weights:
        chosen = FALLBACK.get(chosen, "F16")
    return experts.FORMATS[chosen]


def _wanted(quant: str, name: str, config: ModelConfig) -> str:
    most = QUANTS[quant]
    if most in ("BF16", "F16", "Q8_0"):
        return most
    if name == "output.weight":
        return "Q6_K"
    block = name.split(".")[1]
    if not block.isdecimal():
        return most
    layer, num_layers = int(block), config.num_layers + config.num_mtp_layers
    eighth = num_layers // 8
    important = layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
    if ".attn_v." in name:
        named = {"q2_k": "Q4_K", "q3_k_m": "Q5_K" if layer < 2 else "Q4_K", "iq4_xs": "Q5_K"}
        named |= {"q4_k_s": "Q5_K"} if layer < 4 else {}
        named |= {"q4_k_m": "Q6_K", "q5_k_m": "Q6_K"} if important else {}
        return named.get(quant, most)
    if ".ffn_down" in name:
        named = {"q2_k": "Q3_K"} | ({"q4_k_s": "Q5_K", "iq4_xs": "Q5_K"} if layer < eighth else {})
        named |= {"q4_k_m": "Q6_K", "q5_k_m": "Q6_K", "q3_k_m": "Q4_K"} if important else {}
        named |= {"q3_k_m": "Q5_K"} if layer < num_layers // 16 else {}
        return named.get(quant, most)
    if ".attn_output." in name:
        return {"q2_k": "Q3_K", "q3_k_m": "Q4_K"}.get(quant, most)
    return most
