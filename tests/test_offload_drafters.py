"""Draft models and a drafter of one's own, on every architecture: no token changes, and nothing of them crosses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drafters import AlwaysRight
from glm_files import GlmFile, random_glm
from moe_files import random_deepseek3, random_glm_flash, random_qwen3, random_qwen3moe

import offload
from offload.checkpoints.open import open_checkpoint
from offload.cli import main
from offload.drafting import Draft, Drafter, ModelDrafter, NoDrafter, check_on_one_device
from offload.errors import OptionError, PlacementError, PromptError, UnsupportedModel
from offload.ledger import CrossingError
from offload.loading.assemble import CacheSize, assemble
from offload.loading.layout import choose_layout
from offload.loading.tensors import usable_tensors
from offload.placement import default_placement
from offload.sampling import Sampler, SamplingParams
from offload.sequence import Sequence
from offload.transformer.config import config_of
from scheduler import FixedPlan
from tools.eagle_drafter import EagleDrafter

FILES: dict[str, Callable[[], GlmFile]] = {
    "glm4moe": lambda: random_glm().file,
    "qwen3moe": lambda: random_qwen3moe().file,
    "deepseek2": lambda: random_deepseek3().file,
    "glm-flash": lambda: random_glm_flash().file,
}
OTHER = {"glm4moe": "qwen3moe"}  # draft models; of all others GLM
PROMPT = [5, 17, 200, 33, 5, 17, 200, 33, 5, 17]
SAMPLINGS: tuple[dict[str, Any], ...] = ({"temperature": 0.0}, {"temperature": 0.9, "seed": 3, "top_p": 0.9})


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make().write(folder / f"{name}.gguf") for name, make in FILES.items()}


def run(
    model: offload.LanguageModel, drafter: str | Drafter, draft: int | str, sampling: dict[str, Any]
) -> tuple[list[int], np.ndarray, int]:
    """Tokens, the logits that each was drawn from, and how many drafts there were."""
    never = dict.fromkeys(model.tokenizer.end_of_generation, float("-inf"))
    num = 20 if model.backend.name == "cpu" else 6
    generation = model.generate(PROMPT, max_tokens=num, draft=draft, drafter=drafter, logit_bias=never, **sampling)
    engine, sequence, logits, drafted = generation._engine, generation._sequence, [], 0
    while len(sequence.token_ids) < sequence.limit:
        (outcome,) = engine.step([sequence]).outcomes
        logits.append(outcome.logits[: len(outcome.draws)])
        drafted += len(outcome.draft)
    return sequence.token_ids[len(PROMPT) :], np.concatenate([x for x in logits if len(x)]), drafted


@pytest.mark.parametrize("name", FILES)
def test_no_drafter_changes_a_token(paths: dict[str, Path], name: str) -> None:
    """A draft model and an EAGLE head; tokens and, bit by bit, logits."""
    model = offload.load(paths[name], cache_type="f32", draft_model=paths[OTHER.get(name, "glm4moe")])
    eagle = EagleDrafter(model.trunk, 1, np.random.default_rng(0))
    for sampling in SAMPLINGS:
        check_nothing_changes(model, [("model", 1), ("model", 3), ("auto", "auto"), (eagle, 2)], sampling)


@pytest.mark.parametrize("name", ["glm4moe", "deepseek2"])
def test_on_an_accelerator_nothing_of_a_drafter_crosses(paths: dict[str, Path], name: str) -> None:
    small = paths[OTHER.get(name, "glm4moe")]
    model = offload.load(paths[name], cache_type="f32", device="emulated", draft_model=small, check_backends=True)
    eagle = EagleDrafter(model.trunk, 1, np.random.default_rng(0))
    check_nothing_changes(model, [("model", 2), (eagle, 2)], SAMPLINGS[1])
    crossed = model.backend.ledger.totals()
    assert not crossed["mtp", "down"] + crossed["mtp", "up"]


def check_nothing_changes(
    model: offload.LanguageModel, drafters: list[tuple[str | Drafter, int | str]], sampling: dict[str, Any]
) -> None:
    plain, plain_logits, _ = run(model, "none", 0, sampling)
    for drafter, length in drafters:
        drafted, logits, count = run(model, drafter, length, sampling)
        assert drafted == plain
        assert np.array_equal(logits, plain_logits)
        assert count > 0 or length == "auto"


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("name", FILES)
def test_a_model_that_drafts_for_itself_is_always_right(
    paths: dict[str, Path], name: str, sampling: dict[str, Any]
) -> None:
    """It draws with the noise of the tokens, so at any temperature; prompts come in chunks."""
    model = offload.load(paths[name], cache_type="f32", chunk_size=4, draft_model=paths[name])
    never = dict.fromkeys(model.tokenizer.end_of_generation, float("-inf"))
    result = model.generate(PROMPT, max_tokens=20, draft=3, drafter="model", logit_bias=never, **sampling).finish()
    assert result.acceptance.drafted > 0
    assert set(result.acceptance.by_position) == {1.0}


@pytest.mark.parametrize("device", ["cpu", "emulated"])
def test_drafts_are_what_the_draft_model_writes(paths: dict[str, Path], device: str) -> None:
    """Also behind rejected drafts, and in a slot that another sequence has left; several sequences at once."""
    small = offload.load(paths["glm4moe"], cache_type="f32")
    model = offload.load(paths["qwen3moe"], cache_type="f32", device=device, draft_model=paths["glm4moe"], slots=3)
    drafter = model.drafters.passes
    assert isinstance(drafter, ModelDrafter)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 250, 5 + 9 * slot).tolist() for slot in range(3)]
    for lengths in ([2, 0, 3], [1, 4, 2], [3, 3, 3]):
        sequences = [
            Sequence(slot, text, 200, Sampler(SamplingParams(temperature=0)), frozenset())
            for slot, text in enumerate(texts)
        ]
        drafts = drafter.propose(sequences, FixedPlan(lengths))
        for text, length, draft in zip(texts, lengths, drafts, strict=True):
            expected = small.generate(text, max_tokens=max(1, length), draft=0, temperature=0).finish().tokens
            assert draft.token_ids == expected[:length]
        texts = [[*text, *draft.token_ids[:1], 7] for text, draft in zip(texts, drafts, strict=True)]
        texts[0] = texts[0][2:]


def test_a_dense_model_drafts(paths: dict[str, Path], tmp_path: Path) -> None:
    """Qwen3 beside Qwen3-MoE: the drafts are transformers' greedy tokens; alone it is refused by name."""
    random = random_qwen3()
    small = random.file.write(tmp_path / "qwen3.gguf")
    model = offload.load(paths["qwen3moe"], cache_type="f32", draft_model=small)
    text = [int(t) for t in np.random.default_rng(4).integers(0, 250, 30)]
    sequence = Sequence(0, text, 200, Sampler(SamplingParams(temperature=0)), frozenset())
    assert isinstance(model.drafters.passes, ModelDrafter)
    (draft,) = model.drafters.passes.propose([sequence], FixedPlan([4]))
    expected = list(text)
    for _ in range(4):
        with torch.no_grad():
            expected.append(int(random.trunk(torch.tensor([expected])).logits[0, -1].argmax()))
    assert draft.token_ids == expected[30:]
    check_nothing_changes(model, [("model", 2), ("auto", "auto")], SAMPLINGS[1])
    with pytest.raises(UnsupportedModel, match=r"qwen3.gguf: .*'qwen3' has no experts.*--draft-model"):
        offload.load(small)


def test_on_the_command_line(paths: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    model, small = str(paths["qwen3moe"]), str(paths["glm4moe"])
    flags = ["-p", "in the", "-n", "8", "--temperature", "0", "--json", "--draft", "2"]
    assert main(["generate", model, *flags, "--drafter", "model", "--draft-model", small]) == 0
    drafted = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert drafted["drafted"] > 0
    assert main(["generate", model, *flags, "--drafter", "none"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tokens"] == drafted["tokens"]


def test_another_vocabulary_is_refused_by_its_first_token(paths: dict[str, Path], tmp_path: Path) -> None:
    file = random_glm().file
    file.tokens[33], file.tokens[34] = file.tokens[34], file.tokens[33]
    other = file.write(tmp_path / "other.gguf")
    with pytest.raises(OptionError, match=r"other.gguf has another vocabulary: token 33 is '.' there and '.' in"):
        offload.load(paths["qwen3moe"], draft_model=other)
    file = random_glm().file
    file.tokens.pop(), file.token_types.pop()
    for name in ("token_embd.weight", "output.weight"):
        file.tensors[name] = file.tensors[name][:-1]
    with pytest.raises(OptionError, match="263 tokens instead of 264"):
        offload.load(paths["qwen3moe"], draft_model=file.write(tmp_path / "fewer.gguf"))


def test_who_drafts_is_said_once(paths: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="mtp is on and there is a draft_model"):
        offload.load(paths["glm4moe"], draft_model=paths["qwen3moe"], mtp="on")
    model = offload.load(paths["glm4moe"], draft_model=paths["qwen3moe"])
    assert model.mtp is None
    with pytest.raises(OptionError, match="'mtp': a draft model was loaded in place"):
        model.generate(PROMPT, drafter="mtp")
    with pytest.raises(OptionError, match=r"'model': there is no draft model.*--draft-model FILE"):
        offload.load(paths["glm4moe"]).generate(PROMPT, drafter="model")


def split_draft_model(model: offload.LanguageModel, path: Path) -> ModelDrafter:
    """A draft model whose experts stand on the host, which no plan allows."""
    checkpoint = open_checkpoint(path)
    config = config_of(checkpoint)
    tensors = usable_tensors(checkpoint, config, "off")
    placement = default_placement(tensors, config, model.backend.name)
    with pytest.raises(PlacementError, match=r"ffn_.*_exps.weight of the draft model is placed on cpu, the rest"):
        check_on_one_device(placement)
    backends = {"cpu": offload.load(path).backend, model.backend.name: model.backend}
    trunk, _ = assemble(tensors, config, placement, backends, choose_layout("native", {}), CacheSize(1, 64, "f32"))
    return ModelDrafter(trunk, 16)


def test_a_draft_model_that_is_split_is_caught(paths: dict[str, Path]) -> None:
    """By the plan, and if that is passed by, by the ledger."""
    model = offload.load(paths["glm4moe"], context=64, cache_type="f32", device="emulated", check_backends=True)
    drafter = split_draft_model(model, paths["qwen3moe"])
    with pytest.raises(CrossingError, match=r"\(hidden\) went down while drafting"):
        model.generate(PROMPT, max_tokens=4, draft=1, drafter=drafter, temperature=0).finish()


def test_a_drafter_with_a_backend_of_its_own_is_refused(paths: dict[str, Path]) -> None:
    model, other = (offload.load(paths["glm4moe"], cache_type="f32") for _ in range(2))
    eagle = EagleDrafter(other.trunk, 1, np.random.default_rng(0))
    with pytest.raises(PlacementError, match="EagleDrafter computes on cpu by a backend of its own"):
        model.generate(PROMPT, drafter=eagle)


def test_taps_that_are_not_there_are_named(paths: dict[str, Path]) -> None:
    model, drafter = offload.load(paths["glm4moe"]), AlwaysRight(PROMPT, [])
    drafter.taps = (3,)  # type: ignore[assignment]
    with pytest.raises(OptionError, match=r"AlwaysRight taps layer 3; the trunk has 0\.\.2"):
        model.generate(PROMPT, drafter=drafter)


LIES: list[tuple[Any, str]] = [
    (None, "proposes None; it must be a list of 1"),
    ([], r"proposes \[\]; it must be a list of 1"),
    ([[5]], r"proposes \[5\]; it must be a Draft"),
    ([Draft([-1])], r"drafts token -1; the legal range is 0\.\.263"),
    ([Draft([2**70])], r"drafts token 1180591620717411303424; the legal range"),
    ([Draft(["a"])], "drafts .*; it must be token ids and numbers"),  # type: ignore[list-item]
    ([Draft([5], [7.0])], r"is confident by \[7\.0\] in 1 tokens; it must be 0 to 1"),
    ([Draft([5], [0.5, 0.5])], r"is confident by \[0\.5, 0\.5\] in 1 tokens"),
]


class Careless(NoDrafter):
    """Says the same in every step."""

    def __init__(self, drafts: Any):
        self.drafts = drafts

    def propose(self, sequences: Any, plan: Any) -> Any:
        return self.drafts


@pytest.mark.parametrize(("drafts", "message"), LIES)
def test_what_is_no_draft_is_refused_by_name(paths: dict[str, Path], drafts: Any, message: str) -> None:
    model = offload.load(paths["glm4moe"], cache_type="f32")
    with pytest.raises(OptionError, match=f"Careless {message}"):
        model.generate(PROMPT, drafter=Careless(drafts), draft=2).finish()


@pytest.mark.parametrize("draft", [2, "auto"])
def test_arrays_and_drafts_beyond_the_limit_change_nothing(paths: dict[str, Path], draft: int | str) -> None:
    model = offload.load(paths["glm4moe"], cache_type="f32")
    plain = model.generate(PROMPT, max_tokens=5, draft=0).finish().tokens
    arrays = Draft(np.full(40, 5), np.full(40, 1.0))  # type: ignore[arg-type]
    for drafter in (Careless([arrays]), AlwaysRight(PROMPT, [*plain, *[5] * 40])):
        assert model.generate(PROMPT, max_tokens=5, draft=draft, drafter=drafter).finish().tokens == plain


def test_a_step_that_fails_half_way_leaves_no_gap(paths: dict[str, Path]) -> None:
    """Its tokens were drawn and never shown: who goes on is told so."""

    class Failing(NoDrafter):
        def observe(self, observations: Any) -> None:
            if len(observations[0].sequence.token_ids) > len(PROMPT) + 3:
                raise ZeroDivisionError

    model = offload.load(paths["glm4moe"], cache_type="f32")
    plain = model.generate(PROMPT, max_tokens=8, draft=0).finish().tokens
    generation = model.generate(PROMPT, max_tokens=8, draft=2, drafter=Failing())
    with pytest.raises(ZeroDivisionError):
        generation.finish()
    assert generation.result.tokens == plain[:3]
    with pytest.raises(PromptError, match="a step of this generation failed half way: begin it anew"):
        generation.finish()
    assert model.generate(PROMPT, max_tokens=8).finish().tokens == plain


def test_tapped_states_are_those_of_the_kept_rows(paths: dict[str, Path]) -> None:
    """Whatever was drafted: as a plain pass over the whole text shows them."""
    model = offload.load(paths["glm4moe"], cache_type="f32")
    seen: dict[int, np.ndarray] = {}

    class Taps(AlwaysRight):
        taps = (0, 2)  # type: ignore[assignment]

        def observe(self, observations: Any) -> None:
            for o in observations:
                for i in range(len(o.next_token_ids)):
                    seen[o.start + i] = np.concatenate([o.tapped[0][i], o.tapped[2][i]])

    plain = model.generate(PROMPT, max_tokens=12, draft=0, temperature=0).finish().tokens
    drafter = Taps(PROMPT, [t if i % 3 else t ^ 1 for i, t in enumerate(plain)])
    text = [*PROMPT, *model.generate(PROMPT, max_tokens=12, draft=3, drafter=drafter, temperature=0).finish().tokens]
    assert text == [*PROMPT, *plain]
    from offload.transformer.rows import Rows

    tapped = model.trunk.forward(Rows.consecutive(0, 0, text), taps=(0, 2)).tapped
    for position, states in seen.items():
        assert np.array_equal(states, np.concatenate([tapped[0][position], tapped[2][position]]))
    assert len(seen) >= 10
