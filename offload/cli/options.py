"""Flags that several commands share; their defaults come from where the values are used."""

import argparse
from collections.abc import Collection
from dataclasses import fields
from typing import Any

from experts.threads.team import PINNING

from ..api import AUTO, DRAFTERS
from ..backends.processor import LEVELS
from ..errors import OptionError
from ..loading.context import DEFAULT_CONTEXT
from ..loading.layout_choice import LAYOUTS
from ..quantize.choice import NAMES
from ..request import GenerationRequest, sampling_params
from ..sampling import SamplingParams
from ..transformer.kv_cache import CACHE_TYPES
from .devices import add_device_options, device_options

MODEL = "GGUF file, Hugging Face folder, or -hf USER/REPO[:QUANT], a repository of the Hugging Face Hub"
SOURCE = ("quantize", "mtp_quantize", "mtp_model")
HELP = {
    "temperature": "0 takes the most probable token",
    "top_k": "keep the K most probable tokens, 0 for all",
    "top_p": "keep the tokens that make up this probability, 1 for all",
    "min_p": "keep tokens of at least this share of the largest probability",
    "repetition_penalty": "divide the logits of tokens seen, 1 is off",
    "presence_penalty": "subtract from the logits of tokens seen",
    "frequency_penalty": "subtract for each time a token was seen",
    "penalty_last_n": "tokens that penalties look back",
    "seed": "of the noise that tokens are drawn with",
}


def add_load_options(command: argparse.ArgumentParser) -> None:
    add_cache_options(command)
    add_processor_options(command)
    add_device_options(command)


def add_cache_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("model")
    group.add_argument(
        "-c", "--context", type=int, help=f"tokens in the cache; the model's own up to {DEFAULT_CONTEXT}"
    )
    group.add_argument("--cache-type", choices=tuple(CACHE_TYPES), default="f16", help="of keys and values")
    group.add_argument("--chunk-size", type=int, default=512, help="prompt tokens computed together")
    group.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="auto",
        help="of the CPU's weights; auto: a faster copy if it fits; expanded: IQ1, IQ2 and IQ3_S take up to 1.6 times "
        "the memory and fewer instructions",
    )
    group.add_argument("--mtp-model", metavar="FILE", help="GGUF file with the MTP block, for a model without one")
    add_quantize_options(group)


def add_quantize_options(group: argparse._ActionsContainer) -> None:
    group.add_argument("--quantize", choices=NAMES, help="matrices of floats or FP8 to this format")
    group.add_argument(
        "--mtp-quantize", choices=NAMES, help="the MTP block and the head it uses; q8_0 if others are quantized"
    )


def add_processor_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("processor")
    group.add_argument("-t", "--threads", type=int, help="of the kernels; one for each physical core")
    group.add_argument("--isa", choices=LEVELS, default="auto", help="vector instructions, at most what there are")
    group.add_argument(
        "--pin", choices=PINNING, default="auto", help="keep each thread on a core; auto: on its memory node"
    )


def load_options(options: argparse.Namespace) -> dict[str, Any]:
    names = ("context", "cache_type", "chunk_size", "layout", "threads", "isa", "pin", *SOURCE)
    return {name: getattr(options, name) for name in names} | device_options(options)


def add_generation_options(command: argparse.ArgumentParser, **defaults: Any) -> None:
    group = command.add_argument_group("generation")
    group.add_argument(
        "-n", "--max-tokens", type=int, default=defaults.pop("max_tokens", 256), help="end after this many"
    )
    group.add_argument(
        "--draft", type=draft_length, default=AUTO, metavar="N", help="tokens drafted a step, 0 turns drafting off"
    )
    group.add_argument("--drafter", choices=DRAFTERS, default=AUTO, help="who drafts")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text (repeatable)")
    group.add_argument(
        "--logit-bias", action="append", default=[], metavar="ID=BIAS", help="add to a token's logit (repeatable)"
    )
    add_sampling_options(group, **defaults)


def add_sampling_options(group: argparse._ArgumentGroup, names: Collection[str] = tuple(HELP), **defaults: Any) -> None:
    for parameter in fields(SamplingParams):
        if parameter.name in names:
            default = defaults.get(parameter.name, parameter.default)
            flag = "--" + parameter.name.replace("_", "-")
            group.add_argument(flag, type=type(parameter.default), default=default, help=HELP[parameter.name])


def draft_length(text: str) -> int | str:
    """A number of tokens, or "auto"."""
    try:
        return text if text == AUTO else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of tokens nor {AUTO!r}") from None


def generation_options(options: argparse.Namespace) -> dict[str, Any]:
    names = ("max_tokens", "draft", "drafter", "stop")
    given = {name: getattr(options, name) for name in names} | sampling_options(options)
    return given | {"logit_bias": _biases(options.logit_bias)}


def check_generation(options: argparse.Namespace) -> None:
    """What can be refused before a model is loaded.

    Raises:
        OptionError: a value outside its legal range.
    """
    given = generation_options(options)
    more = {"logit_bias": given["logit_bias"], "logprobs": getattr(options, "logprobs", None)}
    sampling = sampling_params(**sampling_options(options), **more)
    GenerationRequest((), given["max_tokens"], given["stop"], sampling, given["draft"], given["drafter"])
    if given["drafter"] == "model" and not options.draft_model:
        raise OptionError("--drafter model: name the model by --draft-model FILE")
    if given["drafter"] == "mtp" and options.mtp == "off":
        raise OptionError("--drafter mtp and --mtp off contradict each other: leave one of them out")


def sampling_options(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in HELP if hasattr(options, name)}


def _biases(texts: list[str]) -> dict[int, float]:
    biases = {}
    for text in texts:
        token_id, _, bias = text.partition("=")
        try:
            biases[int(token_id)] = float(bias)
        except ValueError:
            raise OptionError(f"--logit-bias {text!r}: write a token id and a number, such as 42=-1.5") from None
    return biases
