"""llama.cpp as an oracle: the tokens that it continues with."""

import json
import urllib.request
from pathlib import Path

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
