"""The vocabulary and the chat template of a Hugging Face folder, as metadata of a GGUF file."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, TokenizerError
from ..tokenizer import CONTROL, KEYS, UNUSED, USER_DEFINED
from .hf_names import HfArchitecture

NAMES = {"pad": "padding"}  # roles that GGUF calls otherwise
NORMAL = 1  # value of tokenizer.ggml.token_type


def tokenizer_metadata(folder: Path, config: dict[str, Any], kind: HfArchitecture, vocab_size: int) -> dict[str, Any]:
    """`tokenizer.*` keys from tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Args:
        vocab_size: rows of the embedding; ids that name no token become unused ones.

    Raises:
        CheckpointError: a file is missing, or no JSON.
        TokenizerError: another kind of tokenizer than byte-level BPE, or ids outside the vocabulary.
    """
    tokenizer = read_json(folder / "tokenizer.json")
    settings = read_json(folder / "tokenizer_config.json", {})
    model = tokenizer.get("model", {})
    if model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise TokenizerError(f"{folder / 'tokenizer.json'}: model is {model.get('type')!r}, supported is 'BPE' alone")
    tokens = [f"[PAD{number}]" for number in range(vocab_size)]
    types = np.full(vocab_size, UNUSED, np.int32)

    def put(token: str, number: int, token_type: int) -> None:
        if not 0 <= number < vocab_size:
            raise TokenizerError(f"token {token!r} has the id {number}, but the embedding has {vocab_size} rows")
        tokens[number], types[number] = token, token_type

    for token, number in model["vocab"].items():
        put(token, number, NORMAL)
    for added in tokenizer.get("added_tokens", []):
        put(added["content"], added["id"], CONTROL if added.get("special") else USER_DEFINED)
    metadata: dict[str, Any] = {
        KEYS + "model": "gpt2",
        KEYS + "pre": kind.pre,
        KEYS + "tokens": tokens,
        KEYS + "token_type": types,
        KEYS + "merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])],
    }
    if isinstance(settings.get("add_bos_token"), bool):
        metadata[KEYS + "add_bos_token"] = settings["add_bos_token"]
    ids = {token: number for number, token in enumerate(tokens)}
    for role, default in {"bos": "", "eos": "", "pad": "", **kind.special}.items():
        number = ids.get(_text(settings.get(f"{role}_token")) or default, config.get(f"{role}_token_id"))
        if isinstance(number, list):
            number = number[0] if number else None
        if number is not None:
            metadata[f"{KEYS}{NAMES.get(role, role)}_token_id"] = int(number)
    template = _template(folder, settings)
    return metadata if template is None else {**metadata, "tokenizer.chat_template": template}


def _text(token: Any) -> str | None:
    """A token's text; some folders wrap it in an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    return template if isinstance(template, str) else None


def read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        CheckpointError: no such file and no default, or no JSON object.
    """
    if default is not None and not path.exists():
        return default
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}): download it") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no JSON ({error}): download it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, not a JSON object: download it again")
    return value
