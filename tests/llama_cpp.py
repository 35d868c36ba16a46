"""llama.cpp as an oracle: its tokens of a text, and the tokens that it continues with."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest


def greedy_tokens(path: Path, token_ids: list[int], count: int) -> list[int]:
    """Its most probable tokens, with float32 caches; fewer than `count` where it ends before."""
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 1024, 1, False, -1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    request = {
        "prompt": token_ids, "n_predict": count, "temperature": 0, "return_tokens": True, "cache_prompt": False,
    }  # fmt: skip
    body = json.dumps(request).encode()
    with urllib.request.urlopen(f"{server.listening_address}/completion", body) as reply:
        tokens: list[int] = json.load(reply)["tokens"]
    return tokens


def write_vocabulary(path: Path, metadata: dict[str, Any], pre: str) -> None:
    """The smallest model that llama.cpp loads: one layer of zeros around the vocabulary."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(metadata["tokenizer.ggml.tokens"])
    writer.add_token_types(metadata["tokenizer.ggml.token_type"].tolist())
    writer.add_token_merges(metadata["tokenizer.ggml.merges"])
    writer.add_bos_token_id(metadata["tokenizer.ggml.bos_token_id"])
    writer.add_eos_token_id(metadata["tokenizer.ggml.eos_token_id"])
    writer.add_tensor("token_embd.weight", np.zeros((len(metadata["tokenizer.ggml.tokens"]), 32), np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.zeros(32, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def tokenizer_of(path: Path) -> Iterator[Callable[[str, bool], list[int]]]:
    """llama.cpp's tokenizer for a file: (text, parse_special) -> ids."""
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 64, 1, False, -1
    server = xllamacpp.Server(params)
    url = f"{server.listening_address}/tokenize"

    def tokenize(text: str, parse_special: bool) -> list[int]:
        body = json.dumps({"content": text, "parse_special": parse_special, "add_special": True}).encode()
        with urllib.request.urlopen(url, body) as reply:
            ids: list[int] = json.load(reply)["tokens"]
        return ids

    yield tokenize
    del server  # stops it
