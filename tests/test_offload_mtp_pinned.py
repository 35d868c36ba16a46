"""MTP tensors never cross backends: wrong builds fail the plan, the ledger and the guard, each by name."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from glm_files import GlmFile, random_glm

import experts
import offload
from offload.backends.eager.attention import DeviceCache
from offload.backends.eager.drafts import DeviceDraftSampler
from offload.backends.emulated.backend import EmulatedBackend
from offload.checkpoints.gguf import open_gguf
from offload.errors import PlacementError
from offload.ledger import HIDDEN, LOGITS, TOKENS, CrossingError, Ledger
from offload.placement import Placement, check_placement, default_placement, mtp_uses
from offload.transformer.config import config_of
from offload.transformer.mtp import MtpBlock
from scheduler.threshold import ConfidenceThreshold

DEVICE = "emulated"


def placement_of(file: GlmFile, tmp_path: Path, mtp_device: str | None = None) -> tuple[Placement, Any]:
    checkpoint = open_gguf(file.write(tmp_path / "model.gguf"))
    config = config_of(checkpoint)
    return default_placement(checkpoint.tensors, config, DEVICE, mtp_device), config


def moved(placement: Placement, device: str, *names: str) -> Placement:
    return replace(placement, tensors={**placement.tensors, **dict.fromkeys(names, device)})


def test_by_default_everything_but_the_trunks_experts_is_on_the_device(tmp_path: Path) -> None:
    placement, config = placement_of(random_glm().file, tmp_path)
    check_placement(placement, config)
    on_host = {name for name, device in placement.tensors.items() if device == "cpu"}
    assert on_host == {f"blk.{b}.ffn_{part}_exps.weight" for b in (1, 2) for part in ("gate", "up", "down")}
    assert placement.caches == dict.fromkeys(range(4), DEVICE)


@pytest.mark.parametrize(
    "name",
    ["token_embd.weight", "output.weight", "output_norm.weight", "blk.3.nextn.enorm.weight", "blk.3.attn_k.weight",
     "blk.3.ffn_gate_exps.weight", "blk.3.ffn_up_shexp.weight"],
)  # fmt: skip
def test_a_plan_that_takes_one_of_its_tensors_away_is_refused(name: str, tmp_path: Path) -> None:
    placement, config = placement_of(random_glm().file, tmp_path)
    with pytest.raises(PlacementError, match=rf"tensor {name} is placed on cpu.*--mtp-device emulated.*--mtp off"):
        check_placement(moved(placement, "cpu", name), config)


def test_a_plan_that_takes_its_cache_away_is_refused(tmp_path: Path) -> None:
    placement, config = placement_of(random_glm().file, tmp_path)
    with pytest.raises(PlacementError, match=r"the cache of block 3 is placed on cpu.*--mtp-device emulated"):
        check_placement(replace(placement, caches={**placement.caches, 3: "cpu"}), config)


def test_an_mtp_block_away_from_the_trunk_is_refused(tmp_path: Path, glm_path: Path) -> None:
    placement, config = placement_of(random_glm().file, tmp_path, mtp_device="cpu")
    with pytest.raises(PlacementError, match=r"output_norm.weight is placed on emulated, the MTP block .* on cpu"):
        check_placement(placement, config)
    with pytest.raises(PlacementError, match="--mtp-device emulated"):
        offload.load(glm_path, device=DEVICE, mtp_device="cpu")


@pytest.mark.parametrize(
    ("tied", "own", "shared"),
    [
        (False, False, {"token_embd.weight", "output.weight"}),
        (True, False, {"token_embd.weight"}),
        (False, True, set()),
        (True, True, set()),
    ],
)
def test_what_drafting_reads(tied: bool, own: bool, shared: set[str], tmp_path: Path) -> None:
    file = random_glm().file
    if own:
        file.tensors["blk.3.nextn.embed_tokens.weight"] = file.tensors["token_embd.weight"]
        file.tensors["blk.3.nextn.shared_head_head.weight"] = file.tensors["output.weight"]
    if tied:
        del file.tensors["output.weight"]
    placement, config = placement_of(file, tmp_path)
    used = set(mtp_uses(placement.tensors, config))
    assert {name for name in used if not name.startswith("blk.3.")} == {*shared, "output_norm.weight"}
    assert {name for name in placement.tensors if name.startswith("blk.3.")} <= used


@pytest.mark.parametrize(
    ("names", "device", "message"),
    [
        (["blk.0.attn_q.weight"], "cpu", r"blk.0.attn_q.weight is placed on cpu, but the trunk runs on emulated"),
        (["blk.1.ffn_gate_inp.weight"], "cpu", r"blk.1.ffn_gate_inp.weight is placed on cpu"),
        (["blk.1.ffn_up_exps.weight"], DEVICE, r"ffn_up_exps.*one layer's experts: place all three on one device"),
        (["blk.1.ffn_up_exps.weight"], "cuda:3", r"placed on cuda:3; routed experts stand on cpu or on emulated"),
    ],
)
def test_plans_that_cannot_run_are_refused(names: list[str], device: str, message: str, tmp_path: Path) -> None:
    placement, config = placement_of(random_glm().file, tmp_path)
    with pytest.raises(PlacementError, match=message):
        check_placement(moved(placement, device, *names), config)


def test_a_layers_experts_may_stand_on_the_device(glm_path: Path) -> None:
    """Its rows then cross no more; the experts chosen come down once, for the statistics."""
    plain = offload.load(glm_path, cache_type="f32", device=DEVICE, gpu_expert_layers=0)

    rules = [r"blk\.1\.ffn_.*_exps=emulated", r"blk\.2\.ffn_.*_exps=CPU"]
    model = offload.load(glm_path, cache_type="f32", device=DEVICE, check_backends=True, placement_rules=rules)
    before = model.backend.ledger.totals()
    logits = model.logits([1, 2, 3])
    assert model.backend.ledger.totals() - before == {
        ("tokens", "up"): 36, ("hidden", "down"): 3 * 64 * 4, ("sums", "up"): 3 * 64 * 4,
        ("routing", "down"): 3 * 3 * 8 + 3 * 3 * 4, ("logits", "down"): 3 * 264 * 4,
    }  # fmt: skip
    assert np.abs(logits - plain.logits([1, 2, 3])).max() < 1e-5
    step_bytes = []
    for each in (plain, model):
        generation = each.generate([1, 2, 3], max_tokens=3, draft=0, temperature=0)
        step_bytes.append(generation._engine.step([generation._sequence]).bytes_read)
    assert step_bytes[1] >= step_bytes[0]  # on the device every row reads its own experts


def test_the_ledger_counts_what_it_refuses() -> None:
    ledger = Ledger()
    ledger.add(HIDDEN, "down", 7)
    with ledger.drafting(read_backs=1):
        ledger.add(TOKENS, "up", 5)
        ledger.add(TOKENS, "down", 4)
        with pytest.raises(CrossingError, match=r"256 bytes.*hidden.* went down while drafting"):
            ledger.add(HIDDEN, "down", 256)
        with pytest.raises(CrossingError, match="more than once"):
            ledger.add(TOKENS, "down", 4)
    ledger.add(HIDDEN, "down", 1)
    assert ledger.totals() == {("hidden", "down"): 8, ("tokens", "up"): 5, ("tokens", "down"): 4, ("mtp", "down"): 256}


@pytest.fixture
def accelerated(glm_path: Path) -> offload.LanguageModel:
    return offload.load(glm_path, cache_type="f32", device=DEVICE, check_backends=True, gpu_expert_layers=0)


class Ways:
    """The two ways that a wrong build may take: through the hand-off, where the ledger sees it, or around it."""

    def __init__(self, backend: EmulatedBackend, through: bool):
        self._link, self._through = backend._link, through

    def down(self, role: str, x: torch.Tensor) -> np.ndarray:
        return self._link.down(role, x) if self._through else x.cpu().numpy()

    def up(self, role: str, x: np.ndarray) -> torch.Tensor:
        return self._link.up(role, x) if self._through else torch.from_numpy(x).to(DEVICE)


def embedding_on_the_cpu(model: offload.LanguageModel, ways: Ways, patch: pytest.MonkeyPatch) -> None:
    tensor = model.checkpoint.tensors["token_embd.weight"]
    table = experts.Matrix.from_bytes(experts.format_of(tensor.ggml_type), *tensor.shape, tensor.data)
    fill = MtpBlock.fill

    def wrong(block: MtpBlock, pairs: Any, hidden_TD: torch.Tensor) -> torch.Tensor:
        ids = pairs.host.token_ids  # known to the host, for rows that were verified
        with pytest.MonkeyPatch.context() as inner:
            rows = experts.gather_rows(table, ids)
            inner.setattr(EmulatedBackend, "embed", lambda *_: ways.up(HIDDEN, rows))
            return fill(block, pairs, hidden_TD)

    patch.setattr(MtpBlock, "fill", wrong)


def head_on_the_cpu(model: offload.LanguageModel, ways: Ways, patch: pytest.MonkeyPatch) -> None:
    finish = MtpBlock.finish

    def wrong(block: MtpBlock, pairs: Any, u_TD: torch.Tensor) -> Any:
        g_TD, logits_TV, ids = finish(block, pairs, u_TD)
        on_host = ways.down(HIDDEN, g_TD)
        return g_TD, ways.up(LOGITS, on_host @ np.ones((on_host.shape[1], logits_TV.shape[1]), np.float32)), ids

    patch.setattr(MtpBlock, "finish", wrong)


def cache_on_the_cpu(model: offload.LanguageModel, ways: Ways, patch: pytest.MonkeyPatch) -> None:
    assert model.mtp is not None
    write, cache = DeviceCache.write, model.mtp.cache

    def wrong(self: DeviceCache, layer: int, rows: Any, k: torch.Tensor, v: torch.Tensor) -> None:
        if self is cache:
            k, v = (ways.up(HIDDEN, ways.down(HIDDEN, part)) for part in (k, v))
        write(self, layer, rows, k, v)

    patch.setattr(DeviceCache, "write", wrong)


def state_out_and_back(model: offload.LanguageModel, ways: Ways, patch: pytest.MonkeyPatch) -> None:
    finish = MtpBlock.finish

    def wrong(block: MtpBlock, pairs: Any, u_TD: torch.Tensor) -> Any:
        g_TD, logits_TV, ids = finish(block, pairs, u_TD)
        return ways.up(HIDDEN, ways.down(HIDDEN, g_TD)), logits_TV, ids

    patch.setattr(MtpBlock, "finish", wrong)


def read_back_each_draft(model: offload.LanguageModel, ways: Ways, patch: pytest.MonkeyPatch) -> None:
    draw = DeviceDraftSampler.draw

    def wrong(self: DeviceDraftSampler, chosen: Any, logits_TV: torch.Tensor) -> torch.Tensor:
        token_ids = draw(self, chosen, logits_TV)
        assert ways.down(TOKENS, token_ids)[0] >= 0
        return token_ids

    patch.setattr(DeviceDraftSampler, "draw", wrong)


Wrong = Callable[[offload.LanguageModel, Ways, pytest.MonkeyPatch], None]
WRONG: list[Wrong] = [
    embedding_on_the_cpu, head_on_the_cpu, cache_on_the_cpu, state_out_and_back, read_back_each_draft
]  # fmt: skip


@pytest.mark.parametrize("through", [True, False], ids=["ledger", "guard"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_build_is_caught(
    accelerated: offload.LanguageModel, wrong: Wrong, through: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = accelerated.backend
    assert isinstance(backend, EmulatedBackend)
    wrong(accelerated, Ways(backend, through), monkeypatch)
    if wrong is read_back_each_draft and through:
        message = "more than once"
    else:
        message = "while drafting" if through else r"a tensor of the drafter .*test_offload_mtp_pinned.py:\d+ in "
    before = backend.ledger.totals()
    with pytest.raises(CrossingError, match=message):
        accelerated.generate([1, 2, 3, 4], max_tokens=6, draft=2, temperature=0).finish()
    crossed = backend.ledger.totals() - before
    assert (crossed["mtp", "down"] + crossed["mtp", "up"] > 0) == (through and wrong is not read_back_each_draft)


def test_a_policy_that_looks_at_drafts_reads_them_back_once(
    accelerated: offload.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on without having seen them, and drops behind the first that it doubts when it has."""
    down = []
    add = Ledger.add

    def counted(self: Ledger, role: str, direction: str, num_bytes: int) -> None:
        if self.is_drafting and direction == "down":
            down.append(num_bytes)
        add(self, role, direction, num_bytes)

    monkeypatch.setattr(Ledger, "add", counted)
    drafted = set()
    for least_p in (0.0, 0.006, 1.0):
        generation = accelerated.generate([1, 2, 3, 4], max_tokens=12, draft=1, temperature=0)
        engine, sequence = generation._engine, generation._sequence
        engine.policy = ConfidenceThreshold(3, least_p)
        engine.step([sequence])
        for _ in range(3):
            down.clear()
            draft = engine.step([sequence]).outcomes[0].draft
            assert down == [3 * 8]  # a token and its probability each
            assert all(p >= least_p for p in draft.p)
            drafted.add(len(draft))
    assert {0, 3} <= drafted


def test_a_read_back_for_each_draft_is_caught_whoever_decides(
    accelerated: offload.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_back_each_draft(accelerated, Ways(accelerated.backend, True), monkeypatch)  # type: ignore[arg-type]
    generation = accelerated.generate([1, 2, 3, 4], max_tokens=12, draft="auto", drafter="mtp", temperature=0)
    generation._engine.policy = ConfidenceThreshold(3, 0.0)
    with pytest.raises(CrossingError, match="more than once"):
        generation.finish()


def test_the_sound_build_passes(accelerated: offload.LanguageModel) -> None:
    result = accelerated.generate([1, 2, 3, 4], max_tokens=6, draft=2, temperature=0).finish()
    assert result.acceptance.drafted > 0
    assert result.bytes_crossed["mtp", "down"] == result.bytes_crossed["mtp", "up"] == 0


def moves() -> Iterator[Any]:
    def weight(model: Any) -> torch.Tensor:
        return model.mtp.weights.projection.data

    def cache(model: Any) -> torch.Tensor:
        return model.mtp.cache.k_LNGSB[0]

    eh_proj = r"blk.3.nextn.eh_proj.weight \(uint8, \(64, 512\)\) left emulated:0 by aten._to_copy.* in "
    yield "a weight", lambda m: weight(m).cpu(), eh_proj
    yield "a weight through the hand-off", lambda m: m.backend.to_host(LOGITS, weight(m)), eh_proj
    yield "a view of a weight", lambda m: weight(m)[3:4, 1:].to("cpu"), r"blk.3.nextn.eh_proj.weight \(uint8, \(1, 511"
    yield (
        "a cache",
        lambda m: torch.empty(cache(m).shape, dtype=torch.uint8).copy_(cache(m)),
        r"keys of the MTP cache .* aten.copy_",
    )
    yield "one number", lambda m: weight(m)[0, 0].item(), r"eh_proj.weight .*_local_scalar_dense"
    yield "a tensor of the model", lambda m: (cache(m) + 1).cpu(), r"a tensor of the model \(uint8"
    yield "to the device", lambda m: torch.ones(3).to(DEVICE), r"a tensor of the model \(float32, \(3\)\) left cpu"


@pytest.mark.parametrize(("move", "message"), [pytest.param(m, text, id=name) for name, m, text in moves()])
def test_the_guard_names_tensor_operation_and_place(
    accelerated: offload.LanguageModel, move: Callable[[Any], object], message: str
) -> None:
    with accelerated.backend.work(), pytest.raises(CrossingError, match=message):
        move(accelerated)
