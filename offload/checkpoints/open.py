"""Opens a model, whatever its files are."""

from pathlib import Path

from .checkpoint import Checkpoint
from .gguf import open_gguf
from .gguf_latent import split_latent
from .hf_folder import is_hf_folder, open_folder


def open_checkpoint(path: str | Path, with_data: bool = True) -> Checkpoint:
    """A GGUF file, any part of a split one, a Hugging Face folder or any safetensors file in it.

    Args:
        with_data: whether the tensors' bytes are wanted; of GGUF files the headers will do otherwise.

    Raises:
        CheckpointError: no such file, or it is damaged or not supported.
    """
    path = Path(path)
    folder = path.parent if path.name.endswith((".safetensors", ".safetensors.index.json")) else path
    return open_folder(folder) if is_hf_folder(folder) else split_latent(open_gguf(path, with_data))
