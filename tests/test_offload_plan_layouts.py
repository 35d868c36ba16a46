"""Plans know the layout that loading would choose: its memory, its formats, its speed."""

from dataclasses import replace
from functools import partial

import pytest

import experts
from offload.backends.memory import total_bytes
from offload.checkpoints.checkpoint import Absent, Checkpoint, Tensor
from offload.hardware import Hardware, preset
from offload.loading.layout import choose_layout
from offload.planning import Workload
from offload.planning.changes import smallest_changes
from offload.planning.options import DeviceOptions
from offload.planning.plan import Plan, make_plan
from offload.planning.shapes import published
from offload.planning.target import target_of

GIB = 1 << 30
WORK = Workload(2048, "f16", 512)


def in_codebooks(name: str) -> Checkpoint:
    """GLM-4.5-Air with its experts in this format where rows of 1408 weights do not forbid it: gate and up."""
    air, fmt = published("glm-4.5-air", "q2_k"), experts.FORMATS[name]

    def changed(tensor: Tensor) -> Tensor:
        if "_exps." not in tensor.name or tensor.shape[-1] % fmt.block_weights:
            return tensor
        return replace(tensor, ggml_type=fmt.ggml_type, content=Absent(experts.row_bytes(fmt, tensor.shape[-1])))

    return replace(air, tensors={key: changed(tensor) for key, tensor in air.tensors.items()})


def machine(cores: int, expanded_bytes_per_s: float = 40e9, read_bytes_per_s: float = 60e9) -> Hardware:
    """With so many cores; expanded weights go through its kernels at this speed, those of the file at 10 GB/s."""
    some = preset("ddr5-6000")
    kernels = {name: {1: 10e9, 2: 9e9} for name in experts.FORMATS}
    return replace(
        some,
        machine=replace(some.machine, cores=cores, memory_bytes=192 * GIB),
        ram=replace(some.ram, read_bytes_per_s={cores: read_bytes_per_s}),
        kernels=kernels | {"IQ2_LEVELS": {1: expanded_bytes_per_s, 2: 0.9 * expanded_bytes_per_s}},
    )


def planned(checkpoint: Checkpoint, of: Hardware, layout: str = "auto", ram: int | None = None) -> Plan:
    options = DeviceOptions(device="cpu", ram=ram)
    target = replace(target_of(options, "ddr5-6000"), hardware=of)
    return make_plan(checkpoint, target, options, WORK, layout)


def expert_formats(plan: Plan) -> dict[str, int]:
    return {fmt: num_bytes for (role, _, fmt), num_bytes in plan.account.held.items() if role == "experts"}


def test_expanded_copies_are_counted_and_foretold() -> None:
    """82 bytes of IQ2_S become 106, and what is measured of those is what steps take."""
    model = in_codebooks("IQ2_S")
    plain, wide = planned(model, machine(2), "interleaved"), planned(model, machine(2))
    assert (plain.layout.name, wide.layout.name) == ("interleaved", "expanded")
    as_file, expanded = expert_formats(plain), expert_formats(wide)
    assert as_file.keys() - expanded.keys() == {"IQ2_S"}
    assert expanded["IQ2_LEVELS"] * 82 == as_file["IQ2_S"] * 106
    more = sum(wide.layout.added_bytes.values())
    assert wide.devices[-1].used_bytes - plain.devices[-1].used_bytes == more
    assert more > expanded["IQ2_LEVELS"] - as_file["IQ2_S"] > 0  # the MTP block's are among them
    seconds = [1 / plan.prediction.decode_tokens_per_s for plan in (plain, wide)]
    kinds = [{k: n for k, n in plan.account.read.items() if k.role == "experts"} for plan in (plain, wide)]
    at_10 = sum(n for k, n in kinds[0].items() if k.format == "IQ2_S") / 10e9
    at_40 = sum(n for k, n in kinds[1].items() if k.format == "IQ2_LEVELS") / 40e9
    assert seconds[0] - seconds[1] == pytest.approx(at_10 - at_40, rel=0.01)


def test_plans_choose_as_loading_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """On machines of few and many cores, fast and slow memory, much and little of it."""
    model = in_codebooks("IQ2_S")
    whole = total_bytes(model.tensors.values())
    found = set()
    for cores, speed in ((2, 60e9), (2, 5e9), (64, 60e9)):
        monkeypatch.setattr("offload.loading.layout.read_bytes_per_s", partial(float, speed))
        monkeypatch.setattr("experts.num_threads", partial(int, cores))
        monkeypatch.setattr("offload.loading.layout.free_memory", lambda: 192 * GIB)
        for ram in (None, 2 * whole, whole + 2 * GIB):
            plan = planned(model, machine(cores, read_bytes_per_s=speed), ram=ram)
            caches = plan.devices[-1].used_bytes - whole - sum(plan.layout.added_bytes.values())
            budget = None if ram is None else ram - caches
            assert plan.layout == choose_layout("auto", model.tensors, budget, caches).choice
            assert plan.fits
            found.add((cores, speed, ram, plan.layout.name))
    assert {case[:3] for case in found if case[3] == "expanded"} == {(2, 60e9, None), (2, 60e9, 2 * whole)}


def test_what_does_not_fit_is_planned_as_if_it_did() -> None:
    """Interleaved, as it would be with the memory that is named; asked for expanded, with that."""
    model = in_codebooks("IQ2_S")
    used = {}
    for layout in ("auto", "expanded"):
        plan = planned(model, machine(2), layout, ram=8 * GIB)
        assert not plan.fits
        options = DeviceOptions(device="cpu", ram=8 * GIB)
        target = replace(target_of(options, "ddr5-6000"), hardware=machine(2))
        (change,) = smallest_changes(model, target, options, WORK, plan)
        enough = int(float(change.removeprefix("--ram ").removesuffix("GiB")) * GIB)
        assert planned(model, machine(2), layout, ram=enough).fits
        used[layout] = plan.layout.name, enough
    assert used["auto"][0] == "interleaved"
    assert used["expanded"][0] == "expanded"
    assert used["expanded"][1] > used["auto"][1]
    native = planned(model, replace(machine(2), kernels_native={"IQ2_S": {1: 5e9}}), "native")
    assert native.layout.name == "native"
    assert (
        native.prediction.decode_tokens_per_s < planned(model, machine(2), "interleaved").prediction.decode_tokens_per_s
    )
