"""Models that lie anywhere: what comes out is an error of ours with a text, or a model that runs; and it costs little.

Every case is drawn from a seed. What lies in the header of a GGUF file alone is in test_offload_gguf_bad_files.
"""

import copy
import json
import math
import struct
import tracemalloc
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from glm_files import END, GlmFile, RandomGlm
from hf_files import write_folder
from moe_files import random_deepseek3
from test_offload_gguf_bad_files import info, text

import offload
from offload.checkpoints.open import open_checkpoint
from offload.errors import MoeOffloadError, NoScores
from offload.loading.tensors import usable_tensors
from offload.sampling import Grammar
from offload.tokenizer import Tokenizer
from offload.transformer.config import config_of

MOST_BYTES = 64 << 20  # of Python's and numpy's memory, for models of less than 1 MB
NUMBERS = [0, 1, 2, 7, 2**31 - 1, 2**32 - 1, 2**63, -1, -(2**63), 0.0, -1.0, 1e-12, 1e30, math.nan, math.inf]
OTHERS = [True, "", "x", "yarn", [], [1, 2, 3], ["a", "b"], [-1] * 264, ["x"] * 264, [99] * 264]
JSON_VALUES = [None, 0, 1, -1, 3.5, 2**70, 10**400, math.nan, math.inf, True, "x", "", [], [1], ["x"], {}, {"a": 1}]


def value(of: Any) -> bytes:
    """A value of metadata with its type, as it stands in a file."""
    if isinstance(of, bool):
        return struct.pack("<IB", 7, of)
    if isinstance(of, int):
        kind, form = (10, "Q") if of >= 2**63 else (4, "I") if 0 <= of < 2**32 else (11, "q")
        return struct.pack(f"<I{form}", kind, of)
    if isinstance(of, float):
        return struct.pack("<Id", 12, of)
    if isinstance(of, str):
        return struct.pack("<I", 8) + text(of.encode())
    if of and isinstance(of[0], str):
        return struct.pack("<IIQ", 9, 8, len(of)) + b"".join(text(part.encode()) for part in of)
    return struct.pack(f"<IIQ{len(of)}i", 9, 5, len(of), *of)


def written(path: Path, metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    infos, data = b"", b""
    for name, values in tensors.items():
        infos += info(name.encode(), values.shape[::-1], 0, len(data))
        data += np.ascontiguousarray(values, np.float32).tobytes()
        data += bytes(-len(data) % 32)
    entries = b"".join(text(key.encode()) + value(of) for key, of in metadata.items())
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + entries + infos
    path.write_bytes(header + bytes(-len(header) % 32) + data)
    return path


def metadata_of(file: GlmFile) -> dict[str, Any]:
    key = "tokenizer.ggml."
    return file.metadata | {
        key + "model": "gpt2",
        key + "pre": "glm4",
        key + "tokens": file.tokens,
        key + "token_type": file.token_types,
        key + "merges": ["t h", "i n"],
        key + "eos_token_id": END,
        key + "bos_token_id": END,
        key + "add_bos_token": False,
        "tokenizer.chat_template": file.template,
        "split.count": 1,
    }


def opened(path: Path) -> None:
    """All of loading but the weights."""
    checkpoint = open_checkpoint(path)
    config = config_of(checkpoint)
    usable_tensors(checkpoint, config)
    Tokenizer.from_metadata(checkpoint.metadata, config.vocab_size)


def runs_or_is_refused(path: Path, load: bool) -> None:
    try:
        opened(path)
        if load:
            model = offload.load(path, context=64)
            model.generate([1, 2, 3], max_tokens=3, draft=2, temperature=0).finish()
    except MoeOffloadError as error:
        said = str(error)
    else:
        return
    assert 20 < len(said) < 2000, said


@pytest.fixture(autouse=True)
def cheap() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an MTP block that is left out; arithmetic must stay silent
        tracemalloc.start()
        try:
            yield
            assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("name", ["glm4moe", "deepseek2"])
def test_lying_metadata(glm: RandomGlm, tmp_path: Path, name: str) -> None:
    file = glm.file if name == "glm4moe" else random_deepseek3().file
    sound = metadata_of(file)
    cases = [(key, of) for key in sound for of in (None, *NUMBERS, *OTHERS)]
    opened(written(tmp_path / "sound.gguf", sound, file.tensors))
    for number in np.random.default_rng(0).choice(len(cases), 80, replace=False):
        key, of = cases[number]
        changed = {k: v for k, v in sound.items() if k != key} | ({} if of is None else {key: of})
        runs_or_is_refused(written(tmp_path / "m.gguf", changed, file.tensors), load=number % 8 == 0)


@pytest.mark.parametrize(
    ("key", "of", "message"),
    [
        ("rope.freq_base", 1.0, "rope.freq_base is 1.0; the legal range is 2.0.."),
        ("rope.scaling.yarn_log_multiplier", math.nan, "yarn_log_multiplier is nan"),
        ("rope.scaling.yarn_log_multiplier", 1e30, "yarn_log_multiplier is 1e.30; the legal range is -100.0..100.0"),
        ("attention.layer_norm_rms_epsilon", -1.0, "layer_norm_rms_epsilon is -1.0"),
        ("attention.head_count", 0, "head_count is 0; the legal range is 1.."),
        ("expert_used_count", 9, "expert_used_count is 9; the legal range is 1..4"),
        ("expert_group_count", 3, "8 experts cannot form 3 groups"),
        ("nextn_predict_layers", 9, "nextn_predict_layers is 9; the legal range is 0..3"),
    ],
)
def test_numbers_out_of_range_are_named(tmp_path: Path, key: str, of: float, message: str) -> None:
    file = random_deepseek3().file
    with pytest.raises(MoeOffloadError, match=message):
        opened(written(tmp_path / "m.gguf", metadata_of(file) | {f"deepseek2.{key}": of}, file.tensors))


def test_damaged_bytes(glm: RandomGlm, tmp_path: Path) -> None:
    """Bytes of the header and of the list of tensors changed, one to three at a time; or the file cut anywhere."""
    sound = glm.file.write(tmp_path / "sound.gguf").read_bytes()
    header = gguf.GGUFReader(tmp_path / "sound.gguf").data_offset
    rng = np.random.default_rng(1)
    for number in range(80):
        damaged = bytearray(sound)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(4, header)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
        end = int(rng.integers(4, len(sound))) if number % 5 == 0 else len(sound)
        (tmp_path / "m.gguf").write_bytes(damaged[:end])
        runs_or_is_refused(tmp_path / "m.gguf", load=number % 8 == 0)


def places(document: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON document; of long lists and objects the first and the last."""
    if place:
        yield place
    parts = list(document.items()) if isinstance(document, dict) else []
    parts = list(enumerate(document)) if isinstance(document, list) else parts
    for key, part in parts if len(parts) < 40 else [*parts[:2], parts[-1]]:
        yield from places(part, (*place, key))


def replaced(document: Any, place: tuple[Any, ...], of: Any) -> Any:
    changed = inner = copy.deepcopy(document)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = of
    return changed


ADDED: dict[str, Any] = {
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale_all_dim": 1},
    "rope_parameters": {"rope_theta": 10000.0},
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "bos_token_id": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "cases"),
    [("config.json", 80), ("tokenizer.json", 40), ("tokenizer_config.json", 20), ("model.safetensors.index.json", 20)],
)
def test_lying_folders(glm: RandomGlm, tmp_path: Path, name: str, cases: int) -> None:
    folder = write_folder(tmp_path / "m", glm.file, num_files=2, **ADDED)
    opened(folder)
    document = json.loads((folder / name).read_text())
    documents = [replaced(document, place, of) for place in places(document) for of in JSON_VALUES]
    for number in np.random.default_rng(2).choice(len(documents), min(cases, len(documents)), replace=False):
        (folder / name).write_text(json.dumps(documents[number]))
        runs_or_is_refused(folder, load=number % 16 == 0)


@pytest.mark.parametrize(
    ("name", "place", "of", "message"),
    [
        ("config.json", "architectures", [[]], r"architecture \[\] is not supported"),
        ("config.json", "rope_scaling", "yarn", "rope_scaling is 'yarn', not an object"),
        ("config.json", "quantization_config", {"quant_method": "gptq"}, "quantized by 'gptq'; FP8, BF16"),
        (
            "model.safetensors.index.json",
            "weight_map",
            {"a": "../x.safetensors"},
            r"1 of 1 files are not there: \.\./x",
        ),
        ("config.json", "rms_norm_eps", 10**400, "must be a number"),
        ("tokenizer.json", "added_tokens", [{}], "None with the id None is no token"),
        ("tokenizer.json", "added_tokens", 3, "added_tokens is 3, not a list"),
        ("tokenizer.json", "model", None, "model is None, supported is 'BPE'"),
        ("tokenizer_config.json", "chat_template", [3, {"name": "default", "template": 4}], None),
    ],
)
def test_wrong_types_in_folders_are_named(
    glm: RandomGlm, tmp_path: Path, name: str, place: str, of: Any, message: str | None
) -> None:
    folder = write_folder(tmp_path / "m", glm.file)
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | {place: of}))
    if message is None:
        return opened(folder)
    with pytest.raises(MoeOffloadError, match=message):
        opened(folder)
    return None


def test_a_template_that_is_no_text_is_named(glm: RandomGlm, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", glm.file)
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(MoeOffloadError, match=r"chat_template\.jinja: cannot be read"):
        opened(folder)


def with_one(file: GlmFile, name: str, of: float, path: Path) -> offload.LanguageModel:
    """The model with one of its weights changed."""
    changed = file.tensors[name].copy()
    changed[3, 5] = of
    return offload.load(replace(file, tensors=file.tensors | {name: changed}).write(path), context=64)


SETTINGS: tuple[dict[str, Any], ...] = ({"temperature": 0}, {}, {"grammar": Grammar.regex("[a-z]+")}, {"top_k": 0})


@pytest.mark.parametrize("of", [math.nan, math.inf])
def test_drafts_that_are_no_numbers_change_nothing(glm: RandomGlm, tmp_path: Path, of: float) -> None:
    model = with_one(glm.file, "blk.3.nextn.eh_proj.weight", of, tmp_path / "m.gguf")
    for settings in SETTINGS:
        plain, drafted = (model.generate([1, 2], max_tokens=12, draft=n, **settings).finish() for n in (0, 3))
        assert (drafted.tokens, drafted.text) == (plain.tokens, plain.text)


@pytest.mark.parametrize("of", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_said(glm: RandomGlm, tmp_path: Path, of: float) -> None:
    model = with_one(glm.file, "blk.0.attn_output.weight", of, tmp_path / "m.gguf")
    for settings in SETTINGS:
        with pytest.raises(NoScores, match="scores of token 2 are no finite numbers: its file is damaged"):
            model.generate([1, 2], **settings).finish()
