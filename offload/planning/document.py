"""A plan as one JSON document."""

from typing import Any

from .plan import Plan


def as_json(plan: Plan, changes: list[str]) -> dict[str, Any]:
    """Bytes, tokens and tokens a second.

    `layout` is that of weights on the host; expanded ones stand under the format that they have then.
    `used_bytes` is what weights and caches take; beside them a device needs room for what a step takes for a moment,
    which `fits` counts.
    """
    prediction = plan.prediction
    return {
        "fits": plan.fits,
        "changes": changes,
        "context": plan.context,
        "devices": [
            {"name": d.name, "kind": d.kind, "budget_bytes": d.budget_bytes, "used_bytes": d.used_bytes}
            for d in plan.devices
        ],
        "layout": plan.layout.name,
        "tensors": [
            {"role": role, "device": device, "format": fmt, "bytes": num_bytes}
            for (role, device, fmt), num_bytes in plan.account.held.items()
        ],
        "kv_bytes_per_token": plan.kv_bytes_per_token,
        "bytes_per_token": plan.account.by_device(),
        "predicted": {
            "decode_tokens_per_s": prediction.decode_tokens_per_s,
            "decode_tokens_per_s_with_drafts": prediction.decode_tokens_per_s_with_drafts,
            "prompt_tokens_per_s": prediction.prompt_tokens_per_s,
            "bound": prediction.bound,
        },
    }
