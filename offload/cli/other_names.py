"""Flags as users of llama.cpp and vLLM type them: by their names here, or with what to do instead."""

from collections.abc import Collection, Sequence
from itertools import islice

from ..checkpoints.hub import PREFIX
from ..errors import OptionError

# Their name -> the one here. A name that stands for a command's MODEL goes away, its value stays.
NAMES = {
    "-m": "MODEL",
    "--model": "MODEL",
    "-hf": "MODEL",
    "-hfr": "MODEL",
    "--hf-repo": "MODEL",
    "-hfd": "--draft-model",
    "-hfrd": "--draft-model",
    "--hf-repo-draft": "--draft-model",
    "--ctx-size": "--context",
    "--max-model-len": "--context",
    "--n-predict": "--max-tokens",
    "--predict": "--max-tokens",
    "--temp": "--temperature",
    "-s": "--seed",
    "--repeat-penalty": "--repetition-penalty",
    "--repeat-last-n": "--penalty-last-n",
    "-ctk": "--cache-type",
    "--cache-type-k": "--cache-type",
    "-ctv": "--cache-type",
    "--cache-type-v": "--cache-type",
    "--kv-cache-dtype": "--cache-type",
    "-ncmoe": "--n-cpu-moe",
    "-b": "--chunk-size",
    "--batch-size": "--chunk-size",
    "-ub": "--chunk-size",
    "--ubatch-size": "--chunk-size",
    "-md": "--draft-model",
    "--model-draft": "--draft-model",
    "--draft-max": "--draft",
    "-np": "--slots",
    "--parallel": "--slots",
    "--max-num-seqs": "--slots",
    "-a": "--model-name",
    "--alias": "--model-name",
    "--served-model-name": "--model-name",
    "-sys": "--system",
    "--system-prompt": "--system",
    "-r": "--stop",
    "--reverse-prompt": "--stop",
}
REPOSITORIES = tuple(name for name in NAMES if name.startswith(("-hf", "--hf")))  # whose values are USER/REPO[:QUANT]
CACHE_TYPES = (("-ctk", "--cache-type-k"), ("-ctv", "--cache-type-v"))

_LAYERS = (
    "attention, caches and dense layers all stand on --device; --gpu-expert-layers N, or --n-cpu-moe N, says how many "
    "layers' experts stand there too"
)
_ONE_DEVICE = "one accelerator is used; --device cuda:N names it"
_MAPPED = "files are mapped; --layout interleaved copies the weights to memory, --layout native leaves them there"
_NO_SAMPLER = "there is no such sampler"
_CHAT = "moe-offload chat MODEL talks with a model"

INSTEAD = {
    "-ngl": _LAYERS,
    "--gpu-layers": _LAYERS,
    "--n-gpu-layers": _LAYERS,
    "-cmoe": "--gpu-expert-layers 0 keeps all experts on the CPU",
    "--cpu-moe": "--gpu-expert-layers 0 keeps all experts on the CPU",
    "--gpu-memory-utilization": "--gpu-memory SIZE takes bytes, such as 22GiB",
    "-sm": _ONE_DEVICE,
    "--split-mode": _ONE_DEVICE,
    "-ts": _ONE_DEVICE,
    "--tensor-split": _ONE_DEVICE,
    "-mg": _ONE_DEVICE,
    "--main-gpu": _ONE_DEVICE,
    "-tp": _ONE_DEVICE,
    "--tensor-parallel-size": _ONE_DEVICE,
    "-fa": "there is one attention, and nothing to set: leave it out",
    "--flash-attn": "there is one attention, and nothing to set: leave it out",
    "--mlock": _MAPPED,
    "--mmap": _MAPPED,
    "--no-mmap": _MAPPED,
    "-tb": "--threads counts for prompts too",
    "--threads-batch": "--threads counts for prompts too",
    "-cnv": _CHAT,
    "--conversation": _CHAT,
    "-i": _CHAT,
    "--interactive": _CHAT,
    "--jinja": "the model's own chat template is always used: leave it out",
    "--chat-template": "the model's own chat template is used",
    "-hff": "name the quantization, -hf USER/REPO:QUANT",
    "--hf-file": "name the quantization, -hf USER/REPO:QUANT",
    "-hft": "set HF_TOKEN, or log in with `hf auth login`",
    "--hf-token": "set HF_TOKEN, or log in with `hf auth login`",
    "--grammar-file": "--grammar FILE takes a Lark grammar, not GBNF",
    "--mirostat": _NO_SAMPLER,
    "--typical": _NO_SAMPLER,
    "--dynatemp-range": _NO_SAMPLER,
    "--xtc-probability": _NO_SAMPLER,
    "--dry-multiplier": _NO_SAMPLER,
}

COMMANDS = {
    "run": "chat",
    "cli": "chat",
    "server": "serve",
    "complete": "generate",
    "completion": "generate",
    "quantize": "convert",
    "show": "inspect",
    "benchmark": "bench",
}


def translated(flags: Sequence[str], known: Collection[str]) -> list[str]:
    """The flags with names from elsewhere replaced by those here; what is known here stays.

    Args:
        known: the command's own flags, and "MODEL" if it takes one.

    Raises:
        OptionError: keys and values of different types.
    """
    _check_cache_types(flags)
    result: list[str] = []
    rest = iter(flags)
    for flag in rest:
        if flag == "--":
            return [*result, flag, *rest]
        name, equals, value = flag.partition("=")
        ours = NAMES.get(name, name)
        if name in known or ours not in known:
            result.append(flag)
            continue
        values = [value] if equals else []
        if name in REPOSITORIES:
            values = [PREFIX + found.removeprefix(PREFIX) for found in values or islice(rest, 1)]
        result += values if ours == "MODEL" else ["=".join([ours, *values])]
    return result


def _check_cache_types(flags: Sequence[str]) -> None:
    kinds = {flags[i + 1] for names in CACHE_TYPES for i, flag in enumerate(flags[:-1]) if flag in names}
    if len(kinds) > 1:
        raise OptionError(
            f"the cache is to hold {' and '.join(sorted(kinds))}: keys and values have one type, --cache-type"
        )
