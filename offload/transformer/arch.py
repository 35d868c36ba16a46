"""The tensors of an architecture as tables: name, shape, and what they are for.

Shape letters: V vocabulary, D hidden, Q query heads x head size, A key-value heads x head size, C head size, I dense
FFN, E experts, F expert FFN, X shared experts' FFN, W two hidden states side by side; of latent attention H heads,
N rank of queries, U query heads x query size, M row of the cache, L rank of keys and values, P plain dimensions of a
head, S values of a head, O heads x values of a head.
"""

from collections.abc import Iterator, Mapping

from .config import ARCHITECTURES, ModelConfig

ATTENTION = {
    "attn_norm.weight": "D",
    "attn_q.weight": "QD",
    "attn_q.bias": "Q",
    "attn_k.weight": "AD",
    "attn_k.bias": "A",
    "attn_v.weight": "AD",
    "attn_v.bias": "A",
    "attn_output.weight": "DQ",
    "attn_q_norm.weight": "C",
    "attn_k_norm.weight": "C",
}
LATENT_ATTENTION = {
    "attn_norm.weight": "D",
    "attn_kv_a_mqa.weight": "MD",
    "attn_kv_a_norm.weight": "L",
    "attn_k_b.weight": "HLP",  # a head's keys, transposed: takes a query into latent space
    "attn_v_b.weight": "HSL",  # and what it read out of it
    "attn_output.weight": "DO",
}
COMPRESSED_QUERIES = {"attn_q_a.weight": "ND", "attn_q_a_norm.weight": "N", "attn_q_b.weight": "UN"}
PLAIN_QUERIES = {"attn_q.weight": "UD"}
DENSE_FFN = {"ffn_gate.weight": "ID", "ffn_up.weight": "ID", "ffn_down.weight": "DI"}
EXPERT_FFN = {
    "ffn_gate_inp.weight": "ED",
    "exp_probs_b.bias": "E",
    "ffn_gate_exps.weight": "EFD",
    "ffn_up_exps.weight": "EFD",
    "ffn_down_exps.weight": "EDF",
}
SHARED_FFN = {"ffn_gate_shexp.weight": "XD", "ffn_up_shexp.weight": "XD", "ffn_down_shexp.weight": "DX"}
MTP = {
    "nextn.eh_proj.weight": "DW",
    "nextn.enorm.weight": "D",
    "nextn.hnorm.weight": "D",
    "nextn.shared_head_norm.weight": "D",
    "nextn.embed_tokens.weight": "VD",
    "nextn.shared_head_head.weight": "VD",
}
OUTSIDE_BLOCKS = {"token_embd.weight": "VD", "output_norm.weight": "D", "output.weight": "VD"}

# Files may lack these: norms of models without QK norm, biases, a head tied to the embedding, an MTP block that
# shares both.
OPTIONAL = {
    "attn_q.bias",
    "attn_k.bias",
    "attn_v.bias",
    "attn_q_norm.weight",
    "attn_k_norm.weight",
    "exp_probs_b.bias",
    "output.weight",
    "nextn.shared_head_norm.weight",
    "nextn.embed_tokens.weight",
    "nextn.shared_head_head.weight",
}

ROLES = {
    **dict.fromkeys(ATTENTION, "attention"),
    **dict.fromkeys({**LATENT_ATTENTION, **COMPRESSED_QUERIES, **PLAIN_QUERIES}, "attention"),
    **{architecture.ffn_norm: "attention" for architecture in ARCHITECTURES.values()},
    **dict.fromkeys(DENSE_FFN, "dense"),
    **dict.fromkeys(SHARED_FFN, "shared"),
    **dict.fromkeys(EXPERT_FFN, "experts"),
    "ffn_gate_inp.weight": "router",
    "exp_probs_b.bias": "router",
    "token_embd.weight": "embedding",
    "output_norm.weight": "head",
    "output.weight": "head",
}


def shape_of(letters: str, config: ModelConfig) -> tuple[int, ...]:
    """Shape of a tensor, slowest dimension first."""
    sizes = {
        "V": config.vocab_size,
        "D": config.hidden_size,
        "Q": config.num_heads * config.head_size,
        "A": config.num_kv_heads * config.head_size,
        "C": config.head_size,
        "I": config.dense_ffn_size,
        "E": config.num_experts,
        "F": config.expert_ffn_size,
        "X": config.num_shared_experts * config.expert_ffn_size,
        "W": 2 * config.hidden_size,
    }
    if config.latent is not None:
        latent, num_heads = config.latent, config.num_heads
        sizes |= {"H": num_heads, "N": latent.q_rank, "M": config.head_size, "L": latent.kv_rank}
        sizes |= {"P": latent.plain_size, "S": latent.value_size}
        sizes |= {"U": num_heads * config.query_size, "O": num_heads * latent.value_size}
    return tuple(sizes[letter] for letter in letters)


def block_tensors(config: ModelConfig, block: int) -> Mapping[str, str]:
    """Names (without `blk.N.`) and shape letters of a block's tensors."""
    attention = {**_attention(config), ARCHITECTURES[config.architecture].ffn_norm: "D"}
    if block < config.num_dense_layers:
        return {**attention, **DENSE_FFN}
    shared = SHARED_FFN if config.num_shared_experts else {}
    mtp = MTP if block >= config.num_layers else {}
    return {**attention, **EXPERT_FFN, **shared, **mtp}


def _attention(config: ModelConfig) -> Mapping[str, str]:
    if config.latent is None:
        return ATTENTION
    return {**LATENT_ATTENTION, **(COMPRESSED_QUERIES if config.latent.q_rank else PLAIN_QUERIES)}


def expected_tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Every tensor of the model: full name, shape, and whether it must be there."""
    for name, letters in OUTSIDE_BLOCKS.items():
        yield name, shape_of(letters, config), name not in OPTIONAL
    for block in range(config.num_layers + config.num_mtp_layers):
        for name, letters in block_tensors(config, block).items():
            yield f"blk.{block}.{name}", shape_of(letters, config), name not in OPTIONAL


def role_of(name: str, config: ModelConfig) -> str:
    """What a tensor is for: one of ROLES' values, or `mtp` for all of the MTP block, or `other`."""
    prefix, _, rest = name.partition(".")
    if prefix != "blk":
        return ROLES.get(name, "other")
    block, _, suffix = rest.partition(".")
    if block.isdecimal() and int(block[:9]) >= config.num_layers:
        return "mtp"
    return ROLES.get(suffix, "other")
