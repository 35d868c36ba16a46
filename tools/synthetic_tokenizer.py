"""A byte-level vocabulary of any size with GLM's special tokens, and what a file says about it."""

from gguf import GGUFWriter
from gguf.constants import TokenType

from offload.tokenizer import BYTE_CHARACTERS

SPECIAL = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<think>", "</think>", "<tool_call>", "</tool_call>",
)  # fmt: skip
MERGES = ("t h", "i n", "e r", "a n", "th e", "o n", "in g", "an d")
TEMPLATE = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def num_ordinary(vocab_size: int) -> int:
    """Token ids below this are text; special tokens follow."""
    return vocab_size - len(SPECIAL)


def add_tokenizer(writer: GGUFWriter, vocab_size: int) -> None:
    ordinary = num_ordinary(vocab_size)
    known = [*(BYTE_CHARACTERS[byte] for byte in range(256)), *(merge.replace(" ", "") for merge in MERGES)]
    tokens = [*known, *(f"[unused{i}]" for i in range(len(known), ordinary)), *SPECIAL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("glm4")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * ordinary + [TokenType.CONTROL] * len(SPECIAL))
    writer.add_token_merges(list(MERGES))
    ids = {token: ordinary + i for i, token in enumerate(SPECIAL)}
    writer.add_eos_token_id(ids["<|endoftext|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_eot_token_id(ids["<|user|>"])
    writer.add_eom_token_id(ids["<|observation|>"])
    writer.add_bos_token_id(ids["[gMASK]"])
    writer.add_chat_template(TEMPLATE)
