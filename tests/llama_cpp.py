"""llama.cpp as an oracle: its tokens of a text, and the tokens that it continues with."""

import json
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest


def server_of(path: Path, context: int = 1024) -> Any:
    """Its server for a file, which ends when nothing refers to it any more.

    Caches are float32, without flash attention, which would round the queries to half precision. It has one thread:
    several spin while they wait for each other, and hold the cores that other tests need.
    """
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = context, 1, False, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(params)


def asked(server: Any, path: str, **request: Any) -> Any:
    """The server's answer to a request."""
    with urllib.request.urlopen(f"{server.listening_address}/{path}", json.dumps(request).encode()) as reply:
        return json.load(reply)


def continued(server: Any, token_ids: list[int], count: int, never: Iterable[int] = ()) -> list[int]:
    """The most probable tokens that follow, of these none; fewer than `count` where the text ends before."""
    settings: dict[str, Any] = {"temperature": 0, "return_tokens": True, "cache_prompt": False}
    bias = [[token_id, False] for token_id in never]
    answer = asked(server, "completion", prompt=token_ids, n_predict=count, logit_bias=bias, **settings)
    return list(answer["tokens"])


def greedy_tokens(path: Path, token_ids: list[int], count: int) -> list[int]:
    """The same of a file."""
    return continued(server_of(path), token_ids, count)


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


def tokenizer_of(path: Path) -> Callable[[str, bool], list[int]]:
    """llama.cpp's tokenizer for a file: (text, parse_special) -> ids."""
    server = server_of(path, context=64)

    def tokenize(text: str, parse_special: bool) -> list[int]:
        return list(asked(server, "tokenize", content=text, parse_special=parse_special, add_special=True)["tokens"])

    return tokenize
