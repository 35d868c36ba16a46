"""Opens a model, whatever its files are."""

import re
from pathlib import Path

from ..errors import NotAGguf
from .checkpoint import Checkpoint
from .gguf import open_gguf
from .gguf_latent import split_latent
from .hf_folder import is_hf_folder, open_folder
from .hub import is_on_hub, local_path
from .hub_headers import header_files


def open_checkpoint(path: str | Path, with_data: bool = True) -> Checkpoint:
    """A GGUF file, any part of a split one, a Hugging Face folder or any safetensors file in it.

    Args:
        path: or hf://USER/REPO[:QUANT], which is downloaded; only its headers, if the bytes are not wanted.
        with_data: whether the tensors' bytes are wanted; of GGUF files the headers will do otherwise.

    Raises:
        CheckpointError: no such file, or it is damaged or not supported.
    """
    if is_on_hub(path) and not with_data:
        with header_files(path) as headers:
            return open_checkpoint(headers, with_data)
    path = local_path(path)
    if not path.exists():
        raise NotAGguf(f"{path}: there is no such file or folder{_hint(str(path))}")
    folder = path.parent if path.name.endswith((".safetensors", ".safetensors.index.json")) else path
    if not is_hf_folder(folder) and any(folder.glob("*.safetensors")):
        raise NotAGguf(f"{folder}: has safetensors files, but no config.json: download the whole folder")
    return open_folder(folder) if is_hf_folder(folder) else split_latent(open_gguf(path, with_data))


def _hint(path: str) -> str:
    """What to do, if it is the name of something that others download."""
    if not re.fullmatch(r"[\w.-]+/[\w.:-]+", path) or path.endswith((".gguf", ".safetensors")):
        return ""
    return f". If it is a repository of Hugging Face, write hf://{path}, or -hf {path}"
