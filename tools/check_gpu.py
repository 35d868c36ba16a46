"""Checks the cuda backend on this machine's GPU, and shows where the time of a decode step goes.

    python -m tools.check_gpu
    python -m tools.check_gpu --model GLM-4.5-Air-Q4_K_M.gguf --steps 32

1. The kernels against references: the tests of tests/triton_checks.py, compiled for this GPU (from a checkout with its
   `test` extra installed).
2. Losslessness on the model: the same bits for a prompt row by row (replayed as CUDA graphs, and as it stands) and at
   once, the same text with and without drafts and for several sequences together, nothing of the MTP block crossing.
3. One decode step without drafts, split into its parts, with the routed experts where the plan puts them and with them
   on the CPU. What runs on the GPU runs while the CPU works or launches the next kernels: parts do not add up.

The last line is one JSON document. Exit code: 0 if all is right, 1 if not, 2 without a GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import experts
import offload
from offload.ledger import MTP
from offload.sampling import SamplingParams

ROOT = Path(__file__).parent.parent
PROMPT = "class Stack:\n    def push(self, item):\n"
PARTS = {  # of the names of kernels
    "linear_kernel": "products", "experts_kernel": "products", "embed_kernel": "products",
    "ranges_kernel": "attention", "join_kernel": "attention", "route_kernel": "router",
    "silu_times_kernel": "SwiGLU", "weighted_sums_kernel": "SwiGLU",
    "rms_norm_kernel": "norms and RoPE", "head_norm_rope_kernel": "norms and RoPE",
    "Memcpy": "copies", "Memset": "copies",
}  # fmt: skip


def agreement() -> bool:
    """Whether the kernels agree with their references."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # whatever this machine has: none is needed
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "--noconftest", "-p", "no:cacheprovider"]
    command.append("triton_checks.py")
    return subprocess.run(command, cwd=ROOT / "tests", env=environment, check=False).returncode == 0


def losslessness(path: Path, device: str) -> dict[str, bool]:
    """What must not change a bit, and whether it does."""
    load = partial(offload.load, path, device=device, context=512)
    whole, single = load(chunk_size=512), load(chunk_size=1)
    token_ids = whole.tokenizer.encode(PROMPT * 2)[:48]
    found = {"rows alone and together": np.array_equal(whole.logits(token_ids), single.logits(token_ids))}
    single.backend.graphs = None  # type: ignore[attr-defined]
    found["replayed and as it stands"] = np.array_equal(whole.logits(token_ids), single.logits(token_ids))
    del single
    on_cpu = load(check_backends=True, n_cpu_moe=whole.config.num_layers)
    for name, model in (("", whole), (", experts on the CPU", on_cpu)):
        found |= {what + name: is_so for what, is_so in _drafts_change_nothing(model).items()}
    found["several sequences alone and together"] = _company_changes_nothing(load(slots=3))
    return found


def _company_changes_nothing(model: offload.LanguageModel) -> bool:
    """Texts of different lengths, each in a slot of its own."""
    prompts = [model.tokenizer.encode(PROMPT * n) for n in (1, 2, 4)]
    settings = SamplingParams(temperature=0.8, seed=7)
    alone = [model.generate(ids, max_tokens=24, draft=0, temperature=0.8, seed=7).finish().tokens for ids in prompts]
    loop = model.serve()
    answers = [loop.submit(offload.GenerationRequest(ids, max_tokens=24, sampling=settings)) for ids in prompts]
    together = [answer.finish().tokens for answer in answers]
    loop.close()
    return alone == together


def _drafts_change_nothing(model: offload.LanguageModel) -> dict[str, bool]:
    same, crossed = True, 0
    for temperature in (0.0, 0.8):
        settings: dict[str, Any] = {"max_tokens": 32, "temperature": temperature, "seed": 7}
        plain = model.generate(PROMPT, draft=0, **settings).finish().tokens
        for drafter, draft in (("mtp", 1), ("mtp", 3), ("ngram", 2), ("auto", "auto")):
            result = model.generate(PROMPT, draft=draft, drafter=drafter, **settings).finish()
            same &= result.tokens == plain
            crossed += sum(num for (role, _), num in result.bytes_crossed.items() if role == MTP)
    return {"with and without drafts": same, "nothing of the MTP block crosses": crossed == 0}


@contextmanager
def timed_experts(seconds: list[float]) -> Iterator[None]:
    """Notes how long the CPU works on routed experts."""
    moe_ffn = experts.moe_ffn

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        out = moe_ffn(*args, **kwargs)
        seconds.append(time.perf_counter() - started)
        return out

    experts.moe_ffn = timed
    try:
        yield
    finally:
        experts.moe_ffn = moe_ffn


def decode_step(model: offload.LanguageModel, steps: int) -> dict[str, float]:
    """Milliseconds of a step without drafts, and of its parts."""
    import torch

    model.generate(PROMPT, max_tokens=8, draft=0, temperature=0).finish()  # compiles
    seconds: list[float] = []

    def run() -> int:
        seconds.clear()
        return len(model.generate(PROMPT, max_tokens=steps, draft=0, temperature=0).finish().tokens)

    with timed_experts(seconds):
        started = time.perf_counter()
        num = run()
        wall = time.perf_counter() - started
    parts = {"wall": wall / num, "routed experts on the CPU": sum(seconds) / num}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        num = run()
        torch.cuda.synchronize()
    on_gpu: Counter[str] = Counter()
    for event in profile.key_averages():
        part = next((part for name, part in PARTS.items() if event.key.startswith(name)), "torch's own operations")
        on_gpu["GPU: " + part] += event.self_device_time_total * 1e-6 / num
    parts |= dict(on_gpu.most_common())
    return {name: round(1e3 * value, 4) for name, value in parts.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(offload.__file__).parent / "models" / "tiny-glm.gguf")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    parser.add_argument("--steps", type=int, default=64, help="tokens that are timed")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print(f"no GPU: torch {torch.__version__} sees none. Nothing was checked")
        print(json.dumps({"gpu": None}))
        return 2
    import triton

    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(options.device), "torch": torch.__version__}
    print(found["gpu"], "torch", torch.__version__, "triton", triton.__version__)
    found |= {"triton": triton.__version__, "kernels agree": agreement()}
    found |= losslessness(options.model, options.device)
    model = offload.load(options.model, device=options.device, context=2048)
    found["decode step, ms"] = decode_step(model, options.steps)
    model = offload.load(options.model, device=options.device, context=2048, n_cpu_moe=model.config.num_layers)
    found["decode step with experts on the CPU, ms"] = decode_step(model, options.steps)
    print(*(f"{name}: {value}" for name, value in found.items()), sep="\n")
    print(json.dumps(found))
    return 1 if False in found.values() else 0


if __name__ == "__main__":
    raise SystemExit(main())
