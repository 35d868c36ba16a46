"""Chat templates: what Hugging Face's render, what they refuse, and bad programs."""

import warnings
from typing import Any

import numpy as np
import pytest

from offload.chat_template import GLM_TEMPLATE, ChatTemplate
from offload.errors import TemplateError
from offload.tokenizer import BYTE_CHARACTERS, Tokenizer

HELLO = [{"role": "user", "content": "hello"}]

# What published templates use: namespaces, macros, loop controls, trimmed blocks, tojson, string methods.
TYPICAL = """\
{%- macro text(content) -%}
    {%- if content is string -%}{{ content }}{%- endif -%}
{%- endmacro -%}
{{ bos_token }}
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{% if tools %}
<tools>
    {% for tool in tools %}
{{ tool | tojson }}
    {% endfor %}
</tools>
{% endif %}
{%- for m in messages %}
    {%- if m.role == 'skip' %}{% continue %}{% endif %}
<|{{ m.role }}|>{{ text(m.content).strip() }}{{ '*' if loop.index0 == ns.last }}
    {%- for call in m.tool_calls or [] %}
        {%- for key, value in call.function.arguments.items() %}
[{{ key }}={{ value if value is string else value | tojson(ensure_ascii=False) }}]
        {%- endfor %}
    {%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>
    {{- '<think></think>' if enable_thinking is defined and not enable_thinking }}
{%- endif %}"""

CONVERSATION = [
    {"role": "system", "content": " Be <brief> & kind. "},
    {"role": "user", "content": "Wetter in Zürich?"},
    {"role": "skip", "content": "x"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function", "function": {"name": "w", "arguments": {"city": "Zürich", "days": [1, 2]}}}
        ],
    },
    {"role": "tool", "content": "日"},
]
TOOLS = [{"type": "function", "function": {"name": "w", "description": "wind & <weather> für dich"}}]


def test_renders_what_a_template_says() -> None:
    rendered = ChatTemplate(TYPICAL, bos="<s>").render(CONVERSATION, TOOLS, enable_thinking=False)
    assert rendered == (
        "<s><tools>\n"
        '{"type": "function", "function": {"name": "w", "description": "wind & <weather> für dich"}}\n'
        "</tools>\n"
        "<|system|>Be <brief> & kind.<|user|>Wetter in Zürich?*<|assistant|>[city=Zürich][days=[1, 2]]<|tool|>日"
        "<|assistant|><think></think>"
    )


@pytest.mark.parametrize(("source", "tools"), [(TYPICAL, None), (TYPICAL, TOOLS), (GLM_TEMPLATE, None)])
@pytest.mark.parametrize("arguments", [{}, {"enable_thinking": False}, {"enable_thinking": True}])
def test_equals_transformers(source: str, arguments: dict[str, Any], tools: list[dict[str, Any]] | None) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [message | {"content": message["content"] or ""} for message in CONVERSATION]
    for add_generation_prompt in (True, False):
        expected, _ = utils.render_jinja_template(
            [messages], tools=tools, chat_template=source, add_generation_prompt=add_generation_prompt,
            bos_token="<s>", eos_token="", **arguments,
        )  # fmt: skip
        ours = ChatTemplate(source, bos="<s>").render(CONVERSATION, tools, add_generation_prompt, **arguments)
        assert ours == expected[0]


def test_the_built_in_form_is_that_of_glm() -> None:
    glm = ChatTemplate(GLM_TEMPLATE)
    assert glm.render(HELLO) == "[gMASK]<sop><|user|>\nhello<|assistant|>"
    assert glm.render(HELLO, enable_thinking=True) == glm.render(HELLO)
    assert glm.render(HELLO, add_generation_prompt=False) == "[gMASK]<sop><|user|>\nhello"
    thinking_off = "[gMASK]<sop><|user|>\nhello/nothink<|assistant|>\n<think></think>"
    assert glm.render(HELLO, enable_thinking=False) == thinking_off
    conversation = [
        {"role": "system", "content": "s"},
        *HELLO,
        {"role": "assistant", "content": "<think>hm</think>\nyes"},
        {"role": "tool", "content": "42"},
    ]
    assert glm.render(conversation) == (
        "[gMASK]<sop><|system|>\ns<|user|>\nhello<|assistant|>\n<think></think>\nyes"
        "<|observation|>\n<tool_response>\n42\n</tool_response><|assistant|>"
    )
    with pytest.raises(TemplateError, match="has no tools"):
        glm.render(HELLO, TOOLS)


def metadata(**changes: str) -> dict[str, Any]:
    tokens = [*BYTE_CHARACTERS.values(), "<s>", "</s>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "glm4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([1] * 256 + [3, 3], np.int32),
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
        **changes,
    }


def test_from_metadata() -> None:
    found = metadata(**{"tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"})
    template = ChatTemplate.from_metadata(found, Tokenizer.from_metadata(found, 258))
    assert template.render(HELLO) == "<s>hello</s>"


def test_a_missing_template_is_replaced_with_one_warning() -> None:
    template = ChatTemplate.from_metadata(metadata(), Tokenizer.from_metadata(metadata(), 258))
    with pytest.warns(UserWarning, match="has no chat template: using the form of GLM"):
        assert template.render(HELLO) == ChatTemplate(GLM_TEMPLATE).render(HELLO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        template.render(HELLO)


def test_text_parts_are_joined_and_null_is_empty() -> None:
    template = ChatTemplate("{{ messages[0].content }}|")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert template.render([{"role": "user", "content": parts}]) == "ab|"
    assert template.render([{"role": "assistant", "content": None}]) == "|"
    assert template.render([{"role": "assistant"}]) == "|"


def test_arguments_of_tool_calls_may_be_json() -> None:
    template = ChatTemplate(
        "{% for k, v in messages[0].tool_calls[0].function.arguments.items() %}{{ k }}={{ v }};{% endfor %}"
    )
    call = {"function": {"name": "f", "arguments": '{"a": 1, "b": "x"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert template.render([message]) == "a=1;b=x;"
    assert call["function"]["arguments"] == '{"a": 1, "b": "x"}'  # the caller's messages stay as they are
    with pytest.raises(TemplateError, match="arguments of a tool call of message 0 are no JSON"):
        template.render([{**message, "tool_calls": [{"function": {"arguments": "{"}}]}])
    with pytest.raises(TemplateError, match="tool calls of message 0 must have a function, found 7"):
        template.render([{**message, "tool_calls": [7]}])


BAD_MESSAGES = {
    "none": ([], "no messages"),
    "a text": (["hello"], "message 0 must be an object with a text as role, found 'hello'"),
    "no role": ([*HELLO, {"content": "x"}], "message 1 must be an object with a text as role"),
    "role 7": ([{"role": 7, "content": "x"}], "message 0 must be an object with a text as role"),
    "content 7": ([{"role": "user", "content": 7}], "content of message 0 must be a text, a list .* found 7"),
    "an image": ([{"role": "user", "content": [{"type": "image_url"}]}], "parts of the content .* 'image_url'"),
    "bare part": ([{"role": "user", "content": ["x"]}], "parts of the content of message 0 must have the form"),
    "no text": ([{"role": "user", "content": [{"type": "text"}]}], "parts of the content of message 0"),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_bad_messages(name: str) -> None:
    messages, match = BAD_MESSAGES[name]
    with pytest.raises(TemplateError, match=match):
        ChatTemplate(GLM_TEMPLATE).render(messages)


@pytest.mark.parametrize("source", ["\n{% if %}", "\n{{ x", "\n{% frobnicate %}", "\n{% endfor %}"])
def test_a_broken_template_is_refused_with_its_line(source: str) -> None:
    with pytest.raises(TemplateError, match=r"^chat template, line 2: "):
        ChatTemplate(source)


BAD_PROGRAMS = {
    "refusal": ("{{ raise_exception('roles must alternate') }}", "refuses the messages: roles must alternate$"),
    "undefined": ("x\n\n{{ nothing.field }}", "^chat template, line 3: UndefinedError: 'nothing' is undefined"),
    "in a macro": ("{% macro f(x) %}\n{{ x + 1 }}\n{% endmacro %}\n{{ f('a') }}", "line 2: TypeError"),
    "long range": ("{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError: Range too big"),
    "long output": (
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "the prompt exceeds 67108864 characters",
    ),
    "long text": ("{{ 'x' * 10 ** 10 }}", "a repetition exceeds"),
    "long list": ("{{ 10 ** 10 * [1] }}", "a repetition exceeds"),
    "large power": ("{{ 10 ** 65 }}", r"10 \*\* 65 is too large"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "escape": ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    "mutation": ("{{ messages.append(1) }}", "SecurityError"),
    "other file": ("{% include '/etc/passwd' %}", "chat template, line 1: TypeError: no loader"),
}


@pytest.mark.parametrize("name", BAD_PROGRAMS)
def test_bad_programs(name: str) -> None:
    source, match = BAD_PROGRAMS[name]
    template = ChatTemplate(source)
    with pytest.raises(TemplateError, match=match):
        template.render(HELLO)


def test_arithmetic_is_as_usual() -> None:
    assert ChatTemplate("{{ 2 ** 10 }} {{ 3 * 4 }} {{ 2 * '-' }} {{ [0] * 2 }}").render(HELLO) == "1024 12 -- [0, 0]"


def test_strftime_now() -> None:
    assert int(ChatTemplate("{{ strftime_now('%Y') }}").render(HELLO)) >= 2024


def test_tojson_options() -> None:
    template = ChatTemplate("{{ {'b': 'é<', 'a': 1} | tojson(indent=1, sort_keys=true, ensure_ascii=true) }}")
    assert template.render(HELLO) == '{\n "a": 1,\n "b": "\\u00e9<"\n}'
