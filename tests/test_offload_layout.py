"""Layouts of the CPU's weights: chosen by free memory, the same bits in each, packed files."""

import sys
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest

import offload
from offload.checkpoints.checkpoint import Mapped, Tensor
from offload.checkpoints.gguf import open_gguf
from offload.checkpoints.pack import pack
from offload.cli import main
from offload.errors import CheckpointError, OptionError, UnsupportedModel
from offload.loading.layout import choose_layout

TINY_MODEL = Path(offload.__file__).parent / "models" / "tiny-glm.gguf"
PROMPT = "def fib(n):\n"


@pytest.fixture(scope="module")
def native():
    return offload.load(TINY_MODEL, layout="native", context=256)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    target = tmp_path_factory.mktemp("packed") / "packed.gguf"
    assert pack(TINY_MODEL, target) == [target]
    return target


def test_interleaved_weights_give_the_same_bits(native):
    model = offload.load(TINY_MODEL, layout="interleaved", context=256)
    ids = model.tokenizer.encode(PROMPT * 3)
    np.testing.assert_array_equal(model.logits(ids), native.logits(ids))
    assert model.layout.copied_bytes > 1e6
    assert str(model.layout).startswith("interleaved, 0.0 GB copied in")
    assert str(native.layout) == "native: rows as the file has them"


def test_a_packed_file_gives_the_same_bits(native, packed):
    source, copy = open_gguf(TINY_MODEL), open_gguf(packed)
    interleaved = {name for name, tensor in copy.tensors.items() if tensor.interleaved}
    assert interleaved == {name for name in source.tensors if "_exps." in name and name.split(".")[1] in "1234"}
    for name, tensor in source.tensors.items():
        same = tensor.data.tobytes() == copy.tensors[name].data.tobytes()
        assert same == (name not in interleaved)
    model = offload.load(packed, layout="native", context=256)
    assert str(model.layout) == "interleaved in the file"
    ids = model.tokenizer.encode(PROMPT)
    np.testing.assert_array_equal(model.logits(ids), native.logits(ids))


def test_packing_asks_before_it_destroys(packed, tmp_path):
    with pytest.raises(OptionError, match="exists: choose another name"):
        pack(TINY_MODEL, packed)
    with pytest.raises(CheckpointError, match="no routed experts"):
        pack(packed, tmp_path / "again.gguf")
    assert not list(tmp_path.iterdir())


def test_packed_experts_stand_on_the_cpu(packed, monkeypatch):
    """Were they placed on an accelerator, it would read nonsense."""
    monkeypatch.setattr(sys.modules["offload.loading.load"], "HOST", "elsewhere")
    with pytest.raises(UnsupportedModel, match=r"blk\.\d+\.ffn_gate_exps.*interleaved for the CPU"):
        offload.load(packed, layout="native")


def test_auto_follows_free_memory(monkeypatch):
    tensors = open_gguf(TINY_MODEL).tensors
    need = sum(t.num_bytes for name, t in tensors.items() if len(t.shape) > 1 and name != "token_embd.weight")
    monkeypatch.setattr("offload.loading.layout.free_memory", lambda: need + (3 << 30))
    assert str(choose_layout("auto", tensors)) == "interleaved"
    monkeypatch.setattr("offload.loading.layout.free_memory", lambda: need + 1000)
    assert str(choose_layout("auto", tensors)).startswith("native: rows as the file has them (a copy needs")
    assert str(choose_layout("interleaved", tensors)) == "interleaved"
    monkeypatch.setattr("offload.loading.layout.free_memory", lambda: 1000)
    with pytest.raises(OptionError, match=r"needs 0.0 GB, 0.0 GB are free. Use --layout native"):
        choose_layout("interleaved", tensors)
    with pytest.raises(OptionError, match="'x16'; choose one of auto, native, interleaved, expanded"):
        choose_layout("x16", tensors)


def test_codebooks_are_expanded_where_that_pays_and_fits(monkeypatch):
    """Of 2 x 32 rows of 256 weights in IQ2_S and in Q4_K: 82 bytes become 106, and 144 stay so."""
    types = {"IQ2_S": (82, gguf.GGMLQuantizationType.IQ2_S), "Q4_K": (144, gguf.GGMLQuantizationType.Q4_K)}
    tensors = {
        name: Tensor(name, int(kind), (2, 32, 256), Mapped(np.zeros((2, 32, num_bytes), np.uint8)))
        for name, (num_bytes, kind) in types.items()
    }
    need, more = 64 * (82 + 144), 64 * 24
    for machine in ({"speed": 60e9, "threads": 2}, {"speed": 5e9, "threads": 2}, {"speed": 60e9, "threads": 64}):
        expanded = machine == {"speed": 60e9, "threads": 2}
        monkeypatch.setattr("offload.loading.layout.read_bytes_per_s", partial(machine.get, "speed"))
        monkeypatch.setattr("experts.num_threads", partial(machine.get, "threads"))
        monkeypatch.setattr("offload.loading.layout.free_memory", lambda: need + more + (2 << 30))
        layout = choose_layout("auto", tensors)
        assert str(layout).startswith("interleaved, codebooks expanded" if expanded else "interleaved")
        found = {name: layout.stack(tensor) for name, tensor in tensors.items()}
        assert (found["IQ2_S"].format.name, found["IQ2_S"].row_bytes) == (
            ("IQ2_LEVELS", 106) if expanded else ("IQ2_S", 82)
        )
        assert (found["Q4_K"].format.name, found["Q4_K"].interleaved) == ("Q4_K", True)
        monkeypatch.setattr("offload.loading.layout.free_memory", lambda: need + more - 1 + (2 << 30))
        assert str(choose_layout("auto", tensors)) == "interleaved"
        assert str(choose_layout("interleaved", tensors)) == "interleaved"
        assert str(choose_layout("expanded", tensors)).startswith("interleaved, codebooks expanded")
    monkeypatch.setattr("offload.loading.layout.free_memory", lambda: need + more - 1)
    with pytest.raises(OptionError, match=r"layout expanded does not fit.*Use --layout auto"):
        choose_layout("expanded", tensors)


def test_a_budget_and_what_caches_will_take_are_kept(monkeypatch):
    """The budget needs no spare memory, but holds what stays in the mapped file too."""
    tensors = open_gguf(TINY_MODEL).tensors
    whole = sum(t.num_bytes for t in tensors.values())
    monkeypatch.setattr("offload.loading.layout.free_memory", lambda: whole + (2 << 30))
    assert str(choose_layout("auto", tensors)) == "interleaved"
    assert str(choose_layout("auto", tensors, whole)) == "interleaved"
    assert str(choose_layout("auto", tensors, whole - 1)).startswith("native")
    assert str(choose_layout("auto", tensors, reserved_bytes=whole)).startswith("native")
    with pytest.raises(OptionError, match="layout interleaved does not fit"):
        choose_layout("interleaved", tensors, whole - 1)


def test_pack_command(tmp_path, capsys):
    target = tmp_path / "copy.gguf"
    assert main(["pack", str(TINY_MODEL), str(target)]) == 0
    assert "copy.gguf: 0.02 GB" in capsys.readouterr().out
    assert main(["inspect", str(target)]) == 0
    assert "interleaved x" in capsys.readouterr().out.replace("\n", " ")
    assert main(["pack", str(TINY_MODEL), str(target)]) == 1
