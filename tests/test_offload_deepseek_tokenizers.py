"""How DeepSeek's models cut text into words: llama.cpp as oracle, with a vocabulary that joins whatever is not cut."""

import random
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import tokenizer_of, write_vocabulary

from offload.tokenizer import BYTE_CHARACTERS, Tokenizer

CHARACTERS = (
    "aZéßǅЖժՠɂჇƻ\u0301ªʰ \t\n\r'.,!?-_(<|[$+`~^\x00\x7f\u00a0\x85¿§€«»！（～。、‘’“–日本龥ア한국กᴀἀאجا\u05be\u200d"
    "0123٣½²Ⅷ😀𝐀𐐀꞉ꞏ\ufffd"
)
HEBREW, CHINESE = "א", "日"  # pieces of their own beside a cased letter, and joined to others of their range


def is_number(character: str) -> bool:
    return unicodedata.category(character).startswith("N")


def joining(characters: str) -> dict[str, Any]:
    """A vocabulary of bytes and, where two of `characters` meet, of their neighbouring bytes.

    Numbers stay apart: they are so in the published vocabularies, and llama.cpp relies on it.
    """
    inside = {pair for c in characters for pair in zip(c.encode(), c.encode()[1:], strict=False)}
    numbers = [c for c in characters if is_number(c)]
    apart = inside | {(a.encode()[-1], b.encode()[0]) for a in numbers for b in numbers}
    pairs = sorted({(a.encode()[-1], b.encode()[0]) for a in characters for b in characters} - apart)
    random.Random(0).shuffle(pairs)
    bytes_ = [BYTE_CHARACTERS[byte] for byte in range(256)]
    tokens = [*bytes_, *(bytes_[a] + bytes_[b] for a, b in pairs), "[gMASK]", "<|endoftext|>"]
    unused = [f"[PAD{number}]" for number in range(-len(tokens) % 32)]
    types = [1] * (len(tokens) - 2) + [3, 3] + [5] * len(unused)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens + unused,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": [f"{bytes_[a]} {bytes_[b]}" for a, b in pairs],
        "tokenizer.ggml.bos_token_id": len(tokens) - 2,
        "tokenizer.ggml.eos_token_id": len(tokens) - 1,
    }


def compare(path: Path, pre: str, metadata: dict[str, Any], texts: list[str]) -> None:
    write_vocabulary(path, metadata, pre)
    ours = Tokenizer.from_metadata(metadata | {"tokenizer.ggml.pre": pre}, len(metadata["tokenizer.ggml.tokens"]))
    expected = tokenizer_of(path)
    for text in texts:
        assert ours.encode(text) == expected(text, True), ascii(text)


@pytest.mark.parametrize("pre", ["deepseek-llm", "deepseek-coder", "deepseek-v3"])
def test_random_texts_equal_llama_cpp(tmp_path: Path, pre: str) -> None:
    rng = random.Random(1)
    texts = ["".join(rng.choices(CHARACTERS, k=rng.randint(1, 3 if n < 1000 else 40))) for n in range(2000)]
    compare(tmp_path / "llama.gguf", pre, joining(CHARACTERS), texts)


@pytest.mark.parametrize("pre", ["deepseek-llm", "deepseek-coder"])
def test_every_letter_mark_and_sign_equals_llama_cpp(tmp_path: Path, pre: str) -> None:
    """Each one before a letter without case: one piece or two."""
    points = [chr(p) for p in range(0x21, 0x20000) if unicodedata.category(chr(p))[0] in "LMPS"]
    points = [p for p in points if not "㐀" <= p <= "龿" and not "가" <= p <= "힣"]  # all alike
    pairs = [p + (CHINESE if "ࠀ" <= p <= "龥" or "가" <= p <= "\ud7ff" else HEBREW) for p in points]
    last_bytes = "".join(chr(0x80 + last) for last in range(64)) + "".join(map(chr, range(0x21, 0x7F)))
    metadata = joining(last_bytes + HEBREW + CHINESE)
    texts = ["\n".join(pairs[start : start + 1000]) for start in range(0, len(pairs), 1000)]
    compare(tmp_path / "llama.gguf", pre, metadata, texts)


def test_wide_spaces_are_cut_as_the_published_patterns_say() -> None:
    """llama.cpp takes any white space beyond ASCII for a vertical tab, and so out of the ranges that hold it."""
    metadata = joining("\u3000\u2003aא")
    ours = Tokenizer.from_metadata(
        metadata | {"tokenizer.ggml.pre": "deepseek-llm"}, len(metadata["tokenizer.ggml.tokens"])
    )
    for space in "\u3000\u2003":
        assert ours.encode(f"א{space}a") == [*ours.encode("א"), *ours.encode(space), *ours.encode("a")]
