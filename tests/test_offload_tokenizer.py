"""The tokenizer: llama.cpp as oracle, round trips, streaming, bad vocabularies."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from llama_cpp import tokenizer_of, write_vocabulary
from tokenizers import models, pre_tokenizers, trainers

from offload.checkpoints.gguf import open_gguf
from offload.errors import CheckpointError, MoeOffloadError, PromptError, TokenizerError
from offload.tokenizer import BYTE_CHARACTERS, CL100K, PRE_TOKENIZERS, Tokenizer

CORPUS = """\
def fibonacci(number: int) -> int:
    if number < 2:
        return number  # it doesn't matter
    return fibonacci(number - 1) + fibonacci(number - 2)

class Expert(Module):
    def __init__(self, hidden_size=4096, num_experts=128):
        self.weights = [self.load(index) for index in range(num_experts)]

The router chooses eight experts for each token; their weights are read from main memory,
which is why they've become the bottleneck. We'll see that it isn't the arithmetic: I'm sure
you'd agree, and he's right too. In 2024, 1234567 of 9876 numbers were 3.14159.
Grüße aus Zürich, ça va? Ελληνικά и русский язык, 日本語のテキスト、中文文本。 한국어 العربية हिन्दी
"""
CONTROL = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "<sop>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<think>",
    "EOT",
)
USER_DEFINED = ("<tool_call>", "<|user", "<think>\n", "   ")
UNREACHABLE = "zebrafinch"  # an ordinary token to which no merges lead

TEXTS = (
    "", "a", " ", "\n", "\r\n", " \n \r\n\t x", "x" * 50, " " * 37 + "y", "tab\tand\ttab", "line\r\nline\rline\n\n\n",
    "def f(x):\n    return x**2  # it's 12345.678\n", "I'll DON'T we've they'RE it'S 'tis 'LLama",
    "1 12 123 1234 12345 1,234,567.89", "Zürich ça Ελληνικά русский 日本語テキスト 中文。한국어 हिन्दी العربية",
    "e\u0301 a\u0308\u0323 \u0301 क्षि", "😀 👩‍🚀 🏳️‍🌈 🇨🇭x",
    "\x00\x01\x07\x1b[0m\x7f\x85\u2028\u2029", "\u00a0\u3000\u2003 \u200b\ufeff",
    "\ufffd \ufffd\ufffd", "½ ² Ⅷ ٣٤٥ ①", "<|user|>hi<|assistant|>\n<think>\nok</think>", "<|user|x><|us<|user|>er|>",
    "<tool_call>f</tool_call>", "[gMASK]<sop>", "< |user|> <|USER|> EOT EOTs xEOT", "a     b   c",
    "€±°∑→ “quoted” ‘x’",
)  # fmt: skip
CHARACTERS = (
    *" \t\n\r'stREve0123456789.,!?-_()<>|/\\\"#$%&*+=~^`{}[]@:;",
    *"éß日本語가アー😀\u0301\u200d\u00a0\u3000\x00\x85½ا",
    *("<|user|>", "<think>", "'ll", "don't", "    "),
)


def random_texts(number: int) -> list[str]:
    rng = random.Random(1)
    return ["".join(rng.choices(CHARACTERS, k=rng.randint(1, 40))) for _ in range(number)]


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    """A vocabulary trained on CORPUS, as a GGUF file would describe it, padded to a multiple of 32."""
    bpe = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(CL100K), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = sorted(BYTE_CHARACTERS.values())
    bpe.train_from_iterator(
        [CORPUS], trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(bpe.to_str())["model"]
    ordinary = [*sorted(model["vocab"], key=model["vocab"].__getitem__), UNREACHABLE]
    tokens = [*ordinary, *CONTROL, *USER_DEFINED]
    types = [1] * len(ordinary) + [3] * len(CONTROL) + [4] * len(USER_DEFINED)
    unused = [f"[PAD{number}]" for number in range(-len(tokens) % 32)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "glm4",
        "tokenizer.ggml.tokens": tokens + unused,
        "tokenizer.ggml.token_type": np.array(types + [5] * len(unused), np.int32),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": tokens.index("[gMASK]"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|endoftext|>"),
    }


def build(metadata: dict[str, Any], **changes: Any) -> Tokenizer:
    """A tokenizer from `metadata` with keys changed, or left out where None."""
    changed = metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    kept = {key: value for key, value in changed.items() if value is not None}
    return Tokenizer.from_metadata(kept, len(metadata["tokenizer.ggml.tokens"]))


@pytest.fixture(scope="module")
def tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    return build(metadata)


@pytest.mark.parametrize(
    "pre", ["glm4", "chatglm-bpe", "llama-bpe", "qwen2", "qwen35", "deepseek-v3", "gpt-2", "default"]
)
def test_ids_equal_llama_cpp(tmp_path: Path, metadata: dict[str, Any], pre: str) -> None:
    write_vocabulary(tmp_path / "llama.gguf", metadata, pre)
    checkpoint = open_gguf(tmp_path / "llama.gguf")
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata, checkpoint.tensors["token_embd.weight"].shape[0])
    expected = tokenizer_of(tmp_path / "llama.gguf")
    for text in [*TEXTS, *random_texts(100)]:
        if tokenizer.add_bos and text.startswith("[gMASK]"):
            continue  # there llama.cpp puts a second one
        assert tokenizer.encode(text) == expected(text, True), text
        if "EOT" not in text:  # there llama.cpp takes a control token for a word
            assert tokenizer.encode(text, parse_special=False) == expected(text, False), text


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
@pytest.mark.parametrize("parse_special", [True, False])
def test_round_trip(metadata: dict[str, Any], pre: str, parse_special: bool) -> None:
    tokenizer = build(metadata, pre=pre, add_bos_token=False)
    for text in [*TEXTS, *random_texts(100), CORPUS]:
        assert tokenizer.decode(tokenizer.encode(text, parse_special), skip_special=False) == text


def test_every_character_round_trips(tokenizer: Tokenizer) -> None:
    text = "".join(chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000)[:: 0x110000 // 20000]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_in_text(tokenizer: Tokenizer) -> None:
    user, call = (tokenizer.encode(text)[0] for text in ("<|user|>", "<tool_call>"))
    assert tokenizer.token_bytes(user) == b"<|user|>"
    assert tokenizer.encode("<|user|><|user|>") == [user, user]
    assert user not in tokenizer.encode("<|user|>", parse_special=False)
    assert tokenizer.encode("<tool_call>", parse_special=False) == [call]
    assert len(tokenizer.encode("<think>\n")) == 1  # the longest text wins
    assert tokenizer.decode([user, call, user]) == "<tool_call>"
    assert tokenizer.decode([user], skip_special=False) == "<|user|>"


def test_text_from_outside_never_becomes_a_control_token(metadata: dict[str, Any], tokenizer: Tokenizer) -> None:
    control = {metadata["tokenizer.ggml.tokens"].index(text) for text in CONTROL}
    for text in [*CONTROL, *TEXTS, *random_texts(100)]:
        assert not control & set(tokenizer.encode(text, parse_special=False))


def test_unused_tokens_have_no_text(metadata: dict[str, Any]) -> None:
    tokens = [*metadata["tokenizer.ggml.tokens"][:-1], "[PAD]"]
    types = metadata["tokenizer.ggml.token_type"].copy()
    types[-1] = 5
    tokenizer = build(metadata, tokens=tokens, token_type=types)
    assert tokenizer.decode([len(tokens) - 1]) == ""
    assert len(tokenizer.encode("[PAD]")) > 1


@pytest.mark.parametrize(("pre", "whole"), [("glm4", True), ("llama-bpe", True), ("qwen2", False)])
def test_a_word_that_is_a_token_is_taken_whole_where_merges_are_ignored(
    metadata: dict[str, Any], pre: str, whole: bool
) -> None:
    tokenizer = build(metadata, pre=pre, add_bos_token=False)
    assert (len(tokenizer.encode(UNREACHABLE)) == 1) == whole


def test_bos_is_added_as_the_metadata_say(metadata: dict[str, Any]) -> None:
    bos = metadata["tokenizer.ggml.bos_token_id"]
    assert build(metadata).encode("a")[0] != bos
    with_bos = build(metadata, add_bos_token=True)
    assert with_bos.encode("a") == [bos, *build(metadata).encode("a")]
    assert with_bos.encode("") == [bos]
    assert with_bos.encode("[gMASK]a").count(bos) == 1
    assert build(metadata, pre="llama-bpe").add_bos
    assert not build(metadata, pre="llama-bpe", add_bos_token=False).add_bos
    assert build(metadata, bos_token_id=None).bos is None


def test_end_of_generation(metadata: dict[str, Any], tokenizer: Tokenizer) -> None:
    tokens = metadata["tokenizer.ggml.tokens"]
    texts = {tokens[token] for token in tokenizer.end_of_generation}
    assert texts == {"<|endoftext|>", "<|user|>", "<|observation|>"}
    named = build(metadata, eot_token_id=tokens.index("<sop>"), eom_token_id=tokens.index("[MASK]"))
    assert {tokens[token] for token in named.end_of_generation} == texts | {"<sop>", "[MASK]"}
    ordinary = build(metadata, token_type=np.ones(len(tokens), np.int32), eos_token_id=None)
    assert not ordinary.end_of_generation  # only control tokens end a generation


@pytest.mark.parametrize("skip_special", [True, False])
def test_streamed_pieces_are_the_decoded_text(tokenizer: Tokenizer, skip_special: bool) -> None:
    rng = random.Random(2)
    characters = [*tokenizer.encode("é日😀"), *range(256)]
    for _ in range(500):
        ids = rng.choices(characters if rng.random() < 0.5 else range(tokenizer.vocab_size), k=rng.randint(0, 20))
        stream = tokenizer.stream(skip_special)
        pieces = [stream.push(token) for token in ids]
        assert "".join(pieces) + stream.finish() == tokenizer.decode(ids, skip_special)


def byte_tokens(metadata: dict[str, Any], data: bytes) -> list[int]:
    """One token for each byte."""
    return [metadata["tokenizer.ggml.tokens"].index(BYTE_CHARACTERS[byte]) for byte in data]


def test_a_stream_never_emits_part_of_a_character(metadata: dict[str, Any], tokenizer: Tokenizer) -> None:
    text = "a😀\u0301é👩‍🚀x"
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in byte_tokens(metadata, text.encode())]
    assert [piece for piece in pieces if piece] == list(text)
    assert stream.finish() == ""


def test_an_incomplete_character_ends_as_a_replacement(metadata: dict[str, Any], tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    assert [stream.push(token) for token in byte_tokens(metadata, b"a\xf0\x9f")] == ["a", "", ""]
    assert stream.finish() == "\ufffd"


def test_token_bytes_are_exact(metadata: dict[str, Any], tokenizer: Tokenizer) -> None:
    every_byte = bytes(range(256))
    assert b"".join(map(tokenizer.token_bytes, byte_tokens(metadata, every_byte))) == every_byte
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(CORPUS))) == CORPUS.encode()


def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer) -> None:
    for token in (-1, tokenizer.vocab_size):
        with pytest.raises(TokenizerError, match=f"token is {token}, must be 0 to {tokenizer.vocab_size - 1}"):
            tokenizer.decode([token])


def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptError, match=r"half a surrogate pair, '\\ud83d' at character 2"):
        tokenizer.encode("ab\ud83d")


def test_a_vocabulary_must_fit_the_embedding(metadata: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match=r"has \d+ tokens with \d+ types, but the embedding has 151552 rows"):
        Tokenizer.from_metadata(metadata, 151552)
    with pytest.raises(TokenizerError, match="with 3 types"):
        build(metadata, token_type=np.ones(3, np.int32))


def test_empty_tokens_get_names(metadata: dict[str, Any]) -> None:
    tokens = [*metadata["tokenizer.ggml.tokens"][:-2], "", ""]
    assert build(metadata, tokens=tokens).vocab_size == len(tokens)


BAD = {
    "model": ({"model": "llama"}, TokenizerError, "is 'llama', supported is 'gpt2'"),
    "pre": ({"pre": "klingon"}, TokenizerError, "is 'klingon', known are chatglm-bpe, deepseek-coder"),
    "no tokens": ({"tokens": None}, CheckpointError, r"'tokenizer\.ggml\.tokens' \(list\) is missing"),
    "no types": ({"token_type": None}, CheckpointError, r"token_type' \(ndarray\) is missing"),
    "no merges": ({"merges": None}, CheckpointError, r"merges' \(list\) is missing"),
    "tokens of numbers": ({"tokens": np.arange(3)}, CheckpointError, "must be list, found ndarray"),
    "tokens of arrays": ({"tokens": [np.arange(3)]}, TokenizerError, "must be an array of strings"),
    "merge into nothing": ({"merges": ["t zzz"]}, TokenizerError, "merges lead to 'tzzz', which is no token"),
    "merge of nothing": ({"merges": ["t"]}, TokenizerError, "merges cannot be used"),
    "eos outside": ({"eos_token_id": 10**6}, TokenizerError, r"eos_token_id is 1000000, must be 0 to"),
    "eos text": ({"eos_token_id": "</s>"}, CheckpointError, "must be int, found str '</s>'"),
    "no bos to add": ({"add_bos_token": True, "bos_token_id": None}, TokenizerError, "add_bos_token"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_metadata(metadata: dict[str, Any], name: str) -> None:
    changes, error, match = BAD[name]
    with pytest.raises(error, match=match) as caught:
        build(metadata, **changes)
    assert isinstance(caught.value, MoeOffloadError)


def test_duplicate_tokens_are_named(metadata: dict[str, Any]) -> None:
    tokens = list(metadata["tokenizer.ggml.tokens"])
    tokens[300] = tokens[5]
    with pytest.raises(TokenizerError, match="tokens 5 and 300 are both"):
        build(metadata, tokens=tokens)


def test_missing_bytes_are_named(metadata: dict[str, Any]) -> None:
    tokens = ["?!?" if token == "a" else token for token in metadata["tokenizer.ggml.tokens"]]
    with pytest.raises(TokenizerError, match=r"no tokens for the bytes \[97\]"):
        build(metadata, tokens=tokens)
