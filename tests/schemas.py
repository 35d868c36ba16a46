"""Random JSON schemas, and naive validation."""

from typing import Any

import numpy as np


def holds(value: Any, schema: Any) -> bool:
    """Naive validation of the keywords that the tests use."""
    if isinstance(schema, bool):
        return schema
    if "anyOf" in schema:
        return any(holds(value, part) for part in schema["anyOf"])
    if "enum" in schema:
        return any(value == one and type(value) is type(one) for one in schema["enum"])
    match schema["type"]:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
        case "string":
            return isinstance(value, str) and len(value) <= schema["maxLength"]
        case "array":
            few = isinstance(value, list) and schema.get("minItems", 0) <= len(value) <= schema["maxItems"]
            return few and all(holds(item, schema["items"]) for item in value)
        case "object":
            known = isinstance(value, dict) and set(schema["required"]) <= set(value) <= set(schema["properties"])
            return known and all(holds(item, schema["properties"][key]) for key, item in value.items())
    raise AssertionError(schema)


def random_schema(rng: np.random.Generator, depth: int = 3) -> Any:
    """Nothing in it may go on for ever."""
    kinds = ["null", "boolean", "integer", "string", "enum", "array", "object", "anyOf"]
    match kinds[rng.integers(0, len(kinds) if depth else 5)]:
        case "integer":
            low = int(rng.integers(-500, 500))
            return {"type": "integer", "minimum": low, "maximum": low + int(rng.integers(0, 1000))}
        case "string":
            return {"type": "string", "maxLength": int(rng.integers(0, 9))}
        case "enum":
            return {
                "enum": [["a", 1, None, True, -2.5, 'ü\n"x', "</think>"][i] for i in rng.choice(7, 3, replace=False)]
            }
        case "array":
            least = int(rng.integers(0, 2))
            items = random_schema(rng, depth - 1)
            return {"type": "array", "items": items, "minItems": least, "maxItems": least + int(rng.integers(0, 3))}
        case "object":
            names = [
                str(name)
                for name in rng.choice(["a", "b b", "ключ", 'd"e', ""], int(rng.integers(0, 4)), replace=False)
            ]
            return {
                "type": "object",
                "properties": {name: random_schema(rng, depth - 1) for name in names},
                "required": names[: len(names) // 2],
                "additionalProperties": False,
            }
        case "anyOf":
            return {"anyOf": [random_schema(rng, depth - 1) for _ in range(2)]}
        case kind:
            return {"type": kind}
