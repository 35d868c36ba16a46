"""Models that many tests share."""

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from glm_files import RandomGlm, random_glm
from servers import served
from serving import WatchedStep, watched_steps

import offload
from offload.serving import ServingLoop

signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background of a shell begin by ignoring it
torch.set_num_threads(1)  # its tensors are small here, and its threads wait for cores that other work holds

LONGEST = (  # files by how long they take where kernels are compiled first
    "test_experts_linear.py",
    "test_experts_isa.py",
    "test_offload_plan.py",
    "test_offload_cuda.py",
    "test_experts_layout.py",
    "test_offload_accelerator.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: no worker is left alone with one at the end."""
    order = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


@pytest.fixture(autouse=True, scope="session")
def modules_apart() -> Iterator[None]:
    """Collections do not go through all that was imported: half a second each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def unknown_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the machine has that tests run on, and what was measured there, must not change what they see."""
    path = tmp_path_factory.mktemp("cache") / "hardware.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offload.hardware.store.user_path", lambda: path)
        patch.setattr("offload.backends.devices.DRIVERS", {"cuda": (), "xpu": ()})
        yield


@pytest.fixture(scope="session")
def glm() -> RandomGlm:
    return random_glm()


@pytest.fixture(scope="session")
def glm_path(glm: RandomGlm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return glm.file.write(tmp_path_factory.mktemp("models") / "glm.gguf")


@pytest.fixture(scope="session")
def model(glm_path: Path) -> offload.LanguageModel:
    """The random model with float32 caches."""
    return offload.load(glm_path, cache_type="f32", chunk_size=16)


@pytest.fixture(scope="session")
def tiny_path() -> Path:
    return Path(offload.__file__).parent / "models" / "tiny-glm.gguf"


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> offload.LanguageModel:
    """The trained model of the package."""
    return offload.load(tiny_path)


@pytest.fixture(scope="session")
def slotted(tiny_path: Path) -> offload.LanguageModel:
    """The trained model of the package with room for four sequences, to be served."""
    return offload.load(tiny_path, slots=4)


@pytest.fixture(scope="session")
def chunked(tiny_path: Path) -> offload.LanguageModel:
    """The same with short contexts, which reads prompts in short chunks."""
    return offload.load(tiny_path, slots=4, chunk_size=32, context=512)


@pytest.fixture(scope="module")
def loop(slotted: offload.LanguageModel) -> Iterator[ServingLoop]:
    """That runs the requests of a file's server."""
    loop = slotted.serve()
    yield loop
    loop.close()


@pytest.fixture
def short_loop(chunked: offload.LanguageModel) -> Iterator[ServingLoop]:
    """That lets at most four requests wait, for one test."""
    loop = chunked.serve(max_waiting=4)
    yield loop
    loop.close()


@pytest.fixture
def steps(short_loop: ServingLoop, monkeypatch: pytest.MonkeyPatch) -> list[WatchedStep]:
    """The steps of that loop, as they are done."""
    return watched_steps(short_loop, monkeypatch)


@pytest.fixture(scope="module")
def address(loop: ServingLoop) -> Iterator[str]:
    """Of a server over that loop."""
    with served(loop, model_name="tiny") as address:
        yield address
