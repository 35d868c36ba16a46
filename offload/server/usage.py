"""Counts and times at the end of an answer, as clients of OpenAI's protocol and of llama.cpp read them."""

from collections.abc import Sequence
from typing import Any

from ..serving import Answer


def usage(answers: Sequence[Answer], num_prompts: int, reasoning_tokens: int | None = None) -> dict[str, Any]:
    """Tokens of all choices; a prompt that several share counts once."""
    per_prompt = max(1, len(answers) // num_prompts)
    first = [answer.result for answer in answers[::per_prompt]]
    results = [answer.result for answer in answers]
    prompt, completion = sum(r.prompt_tokens for r in first), sum(len(r.tokens) for r in results)
    drafted = sum(r.acceptance.drafted for r in results)
    accepted = sum(r.acceptance.accepted for r in results)
    details = {"accepted_prediction_tokens": accepted, "rejected_prediction_tokens": drafted - accepted}
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(r.prompt_reused for r in first)},
        "completion_tokens_details": details
        | ({} if reasoning_tokens is None else {"reasoning_tokens": reasoning_tokens}),
    }


def timings(answer: Answer) -> dict[str, Any]:
    """llama.cpp's names."""
    result = answer.result
    return {
        "cache_n": result.prompt_reused,
        "prompt_n": result.prompt_tokens - result.prompt_reused,
        "prompt_ms": round(result.prompt_s * 1e3, 3),
        "prompt_per_second": round(result.prompt_tokens_per_s, 3),
        "predicted_n": len(result.tokens),
        "predicted_ms": round(result.decode_s * 1e3, 3),
        "predicted_per_second": round(result.decode_tokens_per_s, 3),
        "draft_n": result.acceptance.drafted,
        "draft_n_accepted": result.acceptance.accepted,
        "acceptance_by_position": [round(share, 4) for share in result.acceptance.by_position],
    }
