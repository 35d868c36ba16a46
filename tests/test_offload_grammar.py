"""Grammars: what may be drawn, against naive matching; drafts, which change nothing; schemas, which are held."""

import json
import warnings
from typing import Any

import llguidance
import numpy as np
import pytest
import regex
from drafters import AlwaysRight, AlwaysWrong
from schemas import holds, random_schema

import offload
from offload import Grammar
from offload.errors import GrammarError
from offload.request import GenerationRequest
from offload.sampling import Calls, Matcher, Sampler, SamplingParams, Vocabulary, matcher
from offload.sequence import Sequence
from scheduler import Draft

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 3, "maximum": 200},
        "tags": {"type": "array", "items": {"enum": ["red", "green", None, 1.5]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
ARITHMETIC = """start: sum
sum: product (("+" | "-") product)*
product: atom (("*" | "/") atom)*
atom: NUMBER | "(" sum ")"
NUMBER: /[0-9]{1,4}/
"""
ANY_CALL = 'in_call[suffix="</tool_call>"]: /(?s:.*)/'
GRAMMARS = {
    "json": Grammar.json_schema(SCHEMA),
    "lark": Grammar.lark(ARITHMETIC),
    "regex": Grammar.regex(r"(ab|cd)+[0-9]{2,9}[x-z]*!"),
    "reasoning": Grammar.json_schema(SCHEMA).after_reasoning("</think>"),
    "calls": Grammar.lark(ARITHMETIC).or_calls(Calls("<tool_call>", ANY_CALL)),
}
PROMPT = "def fib(n):"


@pytest.fixture(scope="module")
def vocabulary(tiny: offload.LanguageModel) -> Vocabulary:
    return tiny.vocabulary


def draw_text(sampler: Sampler, tokenizer: Any, logits: Any, limit: int = 400) -> tuple[str, bool]:
    """The text that a sampler draws, and whether it came to its end."""
    tokens: list[int] = []
    assert sampler.matcher
    while len(tokens) < limit:
        token_id = sampler.draw(logits(len(tokens)), len(tokens), tokens[len(tokens) - 1 :]).token_id
        tokens.append(token_id)
        sampler.matcher.keep([token_id])
        if token_id in tokenizer.end_of_generation:
            return tokenizer.decode(tokens), True
    return tokenizer.decode(tokens), False


def test_schemas_are_held_whatever_the_model_wants(tiny: offload.LanguageModel, vocabulary: Vocabulary) -> None:
    """Random schemas under random logits, with and without drafted masks."""
    complete = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        schema = random_schema(rng)
        params = SamplingParams(temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=seed)
        sampler = Sampler(params, Matcher(vocabulary, Grammar.json_schema(schema), 0))
        text, ended = draw_text(sampler, tiny.tokenizer, lambda _, rng=rng: rng.standard_normal(4096, np.float32) * 3)
        complete += ended
        if ended:
            assert holds(json.loads(text), schema), (seed, text, schema)
    assert complete > 140


@pytest.mark.parametrize("pattern", [r"[a-f]{2,6}[0-9]+", r"(ab|cd)+\n?[0-9]{2,3}x", r"[^\x00-\x7f]{1,2}|[Tt]he .*\."])
def test_what_is_allowed_can_go_on_to_a_match(
    tiny: offload.LanguageModel, vocabulary: Vocabulary, pattern: str
) -> None:
    """Against partial matching of another library; the matcher may leave out what spells a forced text unusually."""
    rng = np.random.default_rng(0)
    tokens = [tiny.tokenizer.token_bytes(i) for i in range(vocabulary.size)]
    whole = {i for i, token in enumerate(tokens) if _is_text(token)} - set(tiny.tokenizer.hidden_ids)
    for _ in range(6):
        state, text = Matcher(vocabulary, Grammar.regex(pattern), 0), ""
        for _ in range(8):
            allowed = set(np.flatnonzero(state.allowed([])).tolist())
            ends = allowed & vocabulary.end_ids
            assert ends == (vocabulary.end_ids if regex.fullmatch(pattern, text) else set())
            possible = {i for i in whole if regex.fullmatch(pattern, text + tokens[i].decode(), partial=True)}
            assert (allowed & whole) <= possible
            assert bool(allowed & whole) == bool(possible)
            if len({tokens[i][:1] for i in possible}) > 1:  # nothing is forced
                assert allowed & whole == possible
            if not allowed & whole:
                break
            token_id = int(rng.choice(sorted(allowed & whole)))
            state.keep([token_id])
            text += tokens[token_id].decode()


def _is_text(token: bytes) -> bool:
    try:
        return bool(token.decode())
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("name", GRAMMARS)
def test_drafts_leave_no_trace(vocabulary: Vocabulary, name: str) -> None:
    """Masks behind drafts that were taken back are those of a matcher that never saw them."""
    rng = np.random.default_rng(1)
    state, kept = Matcher(vocabulary, GRAMMARS[name], 7), list[int]()
    for _ in range(12):
        for _ in range(3):
            ahead: list[int] = []
            for _ in range(int(rng.integers(0, 5))):
                ahead.append(int(rng.choice(np.flatnonzero(state.allowed(ahead)))))
            state.allowed(ahead)
            assert state.num_allowed(ahead) == len(ahead)
        accepted = ahead[: int(rng.integers(0, len(ahead) + 1))]
        state.keep(accepted)
        kept += accepted
        if vocabulary.end_ids & set(kept):
            break
        fresh = Matcher(vocabulary, GRAMMARS[name], 0)
        fresh.keep(kept)
        assert np.array_equal(fresh.allowed([]), state.allowed([]))
        assert state.position == 7 + len(kept)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.2])
@pytest.mark.parametrize("name", GRAMMARS)
def test_drafts_change_nothing(tiny: offload.LanguageModel, name: str, temperature: float) -> None:
    settings: dict[str, Any] = {"grammar": GRAMMARS[name], "temperature": temperature, "seed": 5, "max_tokens": 24}
    plain = tiny.generate(PROMPT, draft=0, **settings).finish()
    assert plain.tokens
    prompt_ids = tiny.tokenizer.encode(PROMPT)
    cases = [("mtp", 1), ("mtp", 2), ("mtp", 3), ("mtp", 5), ("ngram", 3), ("auto", "auto")]
    own = [(AlwaysRight(prompt_ids, plain.tokens), 4), (AlwaysWrong(prompt_ids, plain.tokens), 3)]
    for drafter, draft in [*cases, *own]:
        result = tiny.generate(PROMPT, drafter=drafter, draft=draft, **settings).finish()
        assert (result.tokens, result.text, result.finish_reason) == (plain.tokens, plain.text, plain.finish_reason)


CALL = "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{1}</arg_value>\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("3+4", True),
        (CALL, True),
        (f"\n{CALL}\n{CALL}", True),
        (CALL[:-3], False),
        (f"{CALL}3+4", False),
        (f"3+4{CALL}", False),
        ("a call:", False),
    ],
)
def test_calls_in_place_of_an_answer(
    tiny: offload.LanguageModel, vocabulary: Vocabulary, text: str, is_whole: bool
) -> None:
    """The answer or calls, never both; also behind reasoning."""
    grammar = GRAMMARS["calls"]
    for form, before in ((grammar, ""), (grammar.after_reasoning("</think>"), "so be it</think>\n")):
        token_ids = [*tiny.tokenizer.encode(before + text), *sorted(vocabulary.end_ids)[:1]]
        assert (Matcher(vocabulary, form, 0).num_allowed(token_ids) == len(token_ids)) == is_whole


def test_answers_are_held_to_the_schema(tiny: offload.LanguageModel) -> None:
    """Through the whole model, with drafts; also behind reasoning."""
    for seed in range(4):
        result = tiny.generate(PROMPT, grammar=GRAMMARS["json"], seed=seed, temperature=1.0, max_tokens=200).finish()
        assert result.finish_reason == "stop"
        assert holds(json.loads(result.text), SCHEMA)
    cut = tiny.generate(PROMPT, grammar=GRAMMARS["json"], seed=1, max_tokens=4).finish()
    assert cut.finish_reason == "length"
    thoughts = tiny.tokenizer.encode("because it is so</think>")
    biased = {thoughts[-1]: 20.0}  # the tiny model never ends its reasoning by itself
    result = tiny.generate(PROMPT, grammar=GRAMMARS["reasoning"], logit_bias=biased, max_tokens=200).finish()
    _, _, answer = result.text.partition("</think>")
    assert result.finish_reason == "stop"
    assert holds(json.loads(answer), SCHEMA)


def test_forbidden_drafts_cost_nothing(tiny: offload.LanguageModel) -> None:
    """They are cut before the trunk sees them: every verified draft is one that could have been drawn."""
    grammar = Grammar.lark('start: "abcdefgh" | "abxyz" | "q"')
    plain = tiny.generate(PROMPT, draft=0, grammar=grammar, temperature=0).finish()
    wrong = AlwaysWrong(tiny.tokenizer.encode(PROMPT), plain.tokens)
    result = tiny.generate(PROMPT, draft=3, drafter=wrong, grammar=grammar, temperature=0).finish()
    assert result.tokens == plain.tokens
    assert result.acceptance.drafted == 0
    state = Matcher(tiny.vocabulary, grammar, 0)
    good = tiny.tokenizer.encode("abc")
    bad = tiny.tokenizer.encode("}")
    sequence = Sequence(0, [1], 100, Sampler(SamplingParams(), state), frozenset())
    state.position = 1
    allowed = sequence.allowed(Draft([*good, *bad, *good], [0.5] * (2 * len(good) + len(bad)), "x"))
    assert allowed.token_ids == good[: len(allowed)]
    assert len(allowed.p) == len(allowed) <= len(good)
    assert sequence.allowed(allowed) is allowed  # policies know their offers by identity


def test_on_an_accelerator_the_first_draft_is_allowed_and_nothing_changes(glm_path: Any) -> None:
    model = offload.load(glm_path, cache_type="f32", chunk_size=16, device="emulated", check_backends=True)
    grammar = Grammar.regex("[a-e ]{60,90}")
    for temperature in (0.0, 1.0):
        settings: dict[str, Any] = {"grammar": grammar, "temperature": temperature, "max_tokens": 10}
        plain = model.generate("in the", draft=0, **settings).finish()
        assert set(plain.text) <= set("abcde ")
        before = model.backend.ledger.totals()
        for draft in (1, 3):
            result = model.generate("in the", draft=draft, drafter="mtp", **settings).finish()
            assert result.tokens == plain.tokens
            if draft == 1:
                assert result.acceptance.drafted >= result.reuse.steps - 1 > 3  # none was cut; the last has no room
        crossed = model.backend.ledger.totals() - before
        assert not crossed["mtp", "down"] + crossed["mtp", "up"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grammar.json_schema("{"), "the JSON schema is not valid JSON"),
        (lambda: Grammar.json_schema("[1]"), "must be an object, true or false"),
        (lambda: Grammar.json_schema({"type": "foo"}), "the JSON schema cannot be used: Invalid type: foo"),
        (lambda: Grammar.json_schema({"enum": []}), "the JSON schema cannot be used: Unsatisfiable"),
        (lambda: Grammar.json_schema(False), "the JSON schema cannot be used: Unsatisfiable"),
        (lambda: Grammar.json_schema({"not": {}}), "Unimplemented keys"),
        (lambda: Grammar.json_schema({"$ref": "#/none"}), "does not exist"),
        (lambda: Grammar.regex("("), "the regular expression cannot be used"),
        (lambda: Grammar.lark('start: "a" ['), "the Lark grammar cannot be used"),
        (lambda: Grammar.lark("start: other"), 'unknown name: "other"'),
        (lambda: Grammar.lark("start: AB\nAB: /x/ & /y/"), "the Lark grammar allows no text"),
    ],
)
def test_grammars_that_cannot_be_followed_are_refused_first(model: Any, make: Any, message: str) -> None:
    num_steps = model.backend.ledger.totals(), [slot.num_cached for slot in model.slots]
    with pytest.raises(GrammarError, match=regex.escape(message)):
        model.generate("in the", grammar=make())
    assert (model.backend.ledger.totals(), [slot.num_cached for slot in model.slots]) == num_steps


def test_what_goes_beyond_the_matchers_limits_is_said(
    model: offload.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is ended, in the same place with drafts and without."""
    limits = llguidance.LLParserLimits(max_items_in_row=20, verbose_errors=False)
    monkeypatch.setattr(matcher, "LIMITS", limits)
    grammar, lengths = Grammar.lark('start: a\na: "x" a | "x"'), []
    end_ids = dict.fromkeys(model.tokenizer.end_of_generation, -50.0)
    for draft in (0, 3):
        generation = model.generate("in the", grammar=grammar, draft=draft, logit_bias=end_ids, temperature=0)
        with pytest.raises(GrammarError, match=r"the text could not follow the Lark grammar to its end: .*20"):
            generation.finish()
        lengths.append(len(generation.result.tokens))
    assert lengths[0] == lengths[1] > 5
    settings: dict[str, Any] = {"grammar": grammar, "logit_bias": end_ids, "temperature": 0}
    for length in range(lengths[0] - 4, lengths[0]):  # what a step drew behind a stop string is no part of the text
        for drafter in ("none", "ngram"):
            found = model.generate("in the", draft=3, drafter=drafter, stop=["x" * length], **settings).finish()
            assert (found.text, found.finish_reason) == ("", "stop")


def test_the_grammar_decides_where_a_bias_bans_all_it_leaves(model: offload.LanguageModel) -> None:
    banned = dict.fromkeys(model.tokenizer.end_of_generation, float("-inf"))
    for temperature in (0.0, 1.0):
        result = model.generate(
            "in the", grammar=Grammar.regex("a"), logit_bias=banned, temperature=temperature, max_tokens=9
        ).finish()
        assert (result.text, result.finish_reason) == ("a", "stop")


def test_a_mask_is_as_if_other_tokens_did_not_exist(vocabulary: Vocabulary) -> None:
    """Filters see the allowed tokens alone: probabilities are those of a model that has no others."""
    rng = np.random.default_rng(0)
    allowed_V = Matcher(vocabulary, Grammar.regex("[a-m]+"), 0).allowed([])
    ids = np.flatnonzero(allowed_V)
    for seed, settings in enumerate([{"temperature": 0}, {}, {"top_k": 0, "top_p": 0.5}, {"top_k": 3, "min_p": 0.0}]):
        params = SamplingParams(seed=seed, **settings)
        logits = rng.standard_normal(vocabulary.size).astype(np.float32) * 4
        masked = Sampler(params, Matcher(vocabulary, Grammar.regex("[a-m]+"), 5)).draw(logits, 5, [])
        others = np.full_like(logits, -np.inf)
        others[ids] = logits[ids]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            plain = Sampler(params).draw(others, 5, [])
        assert masked.token_id == plain.token_id
        assert masked.p == pytest.approx(plain.p)


def test_what_a_grammar_forces_is_drafted_and_always_right(tiny: offload.LanguageModel) -> None:
    grammar = Grammar.lark('start: ("alpha" | "beta") " and then exactly this, word by word: " /[0-9]{3}/')
    for temperature in (0.0, 1.0):
        settings: dict[str, Any] = {"grammar": grammar, "temperature": temperature, "max_tokens": 60}
        plain = tiny.generate(PROMPT, draft=0, **settings).finish()
        result = tiny.generate(PROMPT, drafter="ngram", draft=6, **settings).finish()
        assert result.tokens == plain.tokens
        assert result.acceptance.accepted == result.acceptance.drafted > 10
        assert result.reuse.steps < plain.reuse.steps / 2
    state = Matcher(tiny.vocabulary, grammar, 0)
    state.keep(tiny.tokenizer.encode("alpha"))
    forced = state.forced(5)
    assert len(forced) == 5
    for i, token_id in enumerate(forced):
        assert np.flatnonzero(state.allowed(forced[:i])).tolist() == [token_id]
    assert state.forced(0) == []


def test_several_sequences_follow_their_own_grammars(slotted: offload.LanguageModel) -> None:
    """Four at once, with drafts: each is byte for byte what it is alone without them."""
    names = (*GRAMMARS, *GRAMMARS)
    sampling = [SamplingParams(temperature=(0.0, 0.9)[i % 2], seed=i) for i in range(len(names))]
    prompt = slotted.tokenizer.encode(PROMPT)
    alone = [
        slotted.generate(
            prompt, grammar=GRAMMARS[name], draft=0, max_tokens=30, temperature=params.temperature, seed=params.seed
        ).finish()
        for name, params in zip(names, sampling, strict=True)
    ]
    loop = slotted.serve()
    try:
        answers = [
            loop.submit(
                GenerationRequest(prompt, 30, sampling=params, draft=("auto", 3)[i % 2], grammar=GRAMMARS[name])
            )
            for i, (name, params) in enumerate(zip(names, sampling, strict=True))
        ]
        results = [answer.finish() for answer in answers]
    finally:
        loop.close()
    assert [r.tokens for r in results] == [r.tokens for r in alone]
    assert [r.text for r in results] == [r.text for r in alone]
    assert sum(r.acceptance.drafted for r in results) > 20
