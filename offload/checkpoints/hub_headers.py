"""Models on the Hugging Face Hub of which only the headers are fetched, so that plans need no download."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import HubError, TruncatedFile
from .gguf_header import Header
from .hub import TIMEOUT_S, HubModel, find
from .hub_errors import explained
from .safetensors_header import LENGTH_BYTES

FIRST_BYTES = 1 << 18  # holds the header of most parts; a large vocabulary needs some 10 MB
GROWTH = 4  # of what is there, while a header is not whole
MAX_BYTES = 1 << 28
NUM_REQUESTS = 8  # at once


@contextmanager
def header_files(path: str | Path) -> Iterator[Path]:
    """The model's files in a folder that goes away: of full length, but tensors are holes that read as zeros.

    Args:
        path: hf://USER/REPO[:QUANT].

    Raises:
        HubError: it cannot be fetched.
        CheckpointError: a file is of another kind, or damaged.
    """
    model = find(path)
    if model.folder:
        yield model.path_in(model.folder)
        return
    with TemporaryDirectory(prefix="moe-offload-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / model.repository.rpartition("/")[2]
        with explained(model.repository), ThreadPoolExecutor(NUM_REQUESTS) as pool:
            list(pool.map(lambda name: _fetch(model, name, folder / name), model.files))
        yield model.path_in(folder)


def _fetch(model: HubModel, name: str, local: Path) -> None:
    """The header of a file with tensors, all of any other."""
    size = model.sizes[name]
    local.parent.mkdir(parents=True, exist_ok=True)
    local.touch()
    end = min(size, FIRST_BYTES if name.endswith((".gguf", ".safetensors")) else size)
    _extend(model, name, local, end)
    while end < size and not _has_header(local):
        if end >= MAX_BYTES:
            raise HubError(f"{model.repository}: the header of {name} is not whole after {end} bytes: it is damaged")
        end = min(size, end * GROWTH)
        _extend(model, name, local, end)
    with local.open("ab") as file:
        file.truncate(size)


def _has_header(local: Path) -> bool:
    if local.suffix == ".safetensors":
        with local.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        return LENGTH_BYTES + length <= local.stat().st_size
    try:
        Header(local, with_data=False)
    except TruncatedFile:
        return False
    return True


def _extend(model: HubModel, name: str, local: Path, end: int) -> None:
    """Appends the next bytes of a file, up to `end`."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    start = local.stat().st_size
    if start == end:
        return
    wanted = build_hf_headers() | {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    url = hf_hub_url(model.repository, name, revision=model.revision)
    with http_stream_backoff("GET", url, headers=wanted, timeout=TIMEOUT_S) as response, local.open("ab") as file:
        hf_raise_for_status(response)
        if response.status_code != 206 and end < model.sizes[name]:
            raise HubError(f"{response.url} serves no ranges of files: download the model, then plan")
        for chunk in response.iter_bytes():
            file.write(chunk)
    if local.stat().st_size != end:
        raise HubError(f"{response.url} ended early: run the command again")
