"""The page at /docs: all requests and their parameters, from the OpenAPI document; no script, no network."""

from collections.abc import Mapping
from functools import cache
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from .page import HEADERS

Schema = Mapping[str, Any]

PATH = "/docs"
LIMITS = {
    "minimum": "at least {}", "maximum": "at most {}",
    "minItems": "at least {} of them", "maxItems": "at most {} of them",
    "minLength": "at least {} characters", "maxLength": "at most {} characters",
}  # fmt: skip
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: requests</title>
<link rel="icon" href="/page/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/page/docs.css">
</head>
<body>
<h1>{title} {version}</h1>
<p>The same for programs: <a href="/openapi.json">openapi.json</a>. Parameters that are not named here are ignored.</p>
<h2>Requests</h2>
{requests}
<h2>Objects</h2>
{objects}
</body>
</html>
"""


def add_docs(app: FastAPI) -> None:
    """Serves the page; routes that are added later are not on it."""

    @cache
    def page() -> str:
        return docs_page(app.openapi())

    async def docs() -> HTMLResponse:
        return HTMLResponse(page(), headers=HEADERS)

    app.add_api_route(PATH, docs, include_in_schema=False)


def docs_page(document: Schema) -> str:
    """An OpenAPI document as HTML."""
    requests = [
        _request(method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    objects = [_object(name, schema) for name, schema in document["components"]["schemas"].items()]
    info = {key: escape(document["info"][key]) for key in ("title", "version")}
    return PAGE.format(**info, requests="\n".join(requests), objects="\n".join(objects))


def _request(method: str, path: str, operation: Schema) -> str:
    lines = [f"<h3><code>{method} {escape(path)}</code></h3>", f"<p>{escape(operation.get('description', ''))}</p>"]
    bodies = {"Body": operation.get("requestBody")} | {
        f"Answer {status}": answer for status, answer in operation["responses"].items() if status.startswith("2")
    }
    for name, body in bodies.items():
        for kind, content in (body or {}).get("content", {}).items():
            lines.append(f"<p>{name}: {_type(content.get('schema', {}))} ({escape(kind)})</p>")
    return "\n".join(lines)


def _object(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    rows = [
        f"<tr><th><code>{escape(key)}</code></th><td>{'required' if key in required else ''}</td>"
        f"<td>{_type(value)}</td><td>{escape(value.get('description', ''))}</td></tr>"
        for key, value in schema.get("properties", {}).items()
    ]
    described = f"<p>{escape(schema.get('description', ''))}</p>"
    table = f"<table>{''.join(rows)}</table>" if rows else f"<p>{_type(schema)}</p>"
    return f'<h3 id="{escape(name)}">{escape(name)}</h3>\n{described}\n{table}'


def _type(schema: Schema) -> str:
    """What a value may be, in words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(_type(branch) for branch in schema[union] if branch.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        words = [f"list of {_type(schema.get('items', {}))}"]
    else:
        words = [escape(str(schema.get("type", "any")))]
    return ", ".join(words + [text.format(schema[key]) for key, text in LIMITS.items() if key in schema])
