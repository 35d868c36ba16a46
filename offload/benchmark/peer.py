"""llama.cpp on the same file and the same prompts, in a process of its own, through the xllamacpp package.

The process reads a job from standard input and writes its result, a JSON object each.
"""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import OptionError

PEERS = ("llama.cpp",)
_COUNTS = {"drafted": "draft_n", "accepted": "draft_n_accepted"}


def check_peer(name: str) -> None:
    """To be called before anything is measured.

    Raises:
        OptionError: another peer, or the package is missing.
    """
    if name not in PEERS:
        raise OptionError(f"peer {name!r} is unknown; choose of {', '.join(PEERS)}")
    if find_spec("xllamacpp") is None:
        raise OptionError("--peer llama.cpp needs the package xllamacpp: pip install xllamacpp")


def run_peer(
    path: Path,
    threads: int,
    context: int,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    tokens: int,
    draft: int,
) -> dict[str, Any]:
    """Tokens/s of each prompt, and of decoding `tokens` behind each text, at temperature 0.

    Args:
        draft: tokens that its MTP block drafts in every step; 0 runs it without.

    Returns:
        engine, version, prompt_tokens_per_s and decode_tokens_per_s, each a list; drafted and accepted, over all texts.

    Raises:
        OptionError: llama.cpp could not run the file; what it said last.
    """
    job = {"path": str(path), "threads": threads, "context": context, "tokens": tokens, "draft": draft}
    job |= {"prompts": [list(ids) for ids in prompts], "texts": [list(ids) for ids in texts]}
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=json.dumps(job), capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise OptionError(f"llama.cpp could not run {path.name}; it said: {said}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _main() -> None:
    import xllamacpp

    job = json.load(sys.stdin)
    params = xllamacpp.CommonParams()
    params.model.path = job["path"]
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = job["context"], 1, True, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job["threads"]
    if job["draft"]:
        params.load_mtp = True
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
        drafter = params.speculative.draft
        drafter.n_max, drafter.n_min, drafter.p_min = job["draft"], 0, 0.0
        drafter.cpuparams.n_threads = drafter.cpuparams_batch.n_threads = job["threads"]
    server = xllamacpp.Server(params)

    def timings(token_ids: list[int], tokens: int) -> dict[str, Any]:
        request = {
            "prompt": token_ids,
            "n_predict": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "cache_prompt": False,
        }
        no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with no_proxy.open(f"{server.listening_address}/completion", json.dumps(request).encode()) as reply:
            return dict(json.load(reply)["timings"])

    timings(job["texts"][0], 4)
    read = [timings(ids, 1)["prompt_per_second"] for ids in job["prompts"]]
    decoded = [timings(ids, job["tokens"]) for ids in job["texts"]]
    rates = [1000 * (t["predicted_n"] - 1) / t["predicted_ms"] for t in decoded]  # its clock starts at the first token
    result: dict[str, Any] = {"engine": "llama.cpp", "version": f"xllamacpp {xllamacpp.__version__}"}
    result |= {"prompt_tokens_per_s": read, "decode_tokens_per_s": rates}
    result |= {name: sum(t.get(key, 0) for t in decoded) for name, key in _COUNTS.items()}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _main()
