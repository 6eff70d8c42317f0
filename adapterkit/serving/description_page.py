"""The page at `/docs`: the description of every route as HTML, without scripts or other sites."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from html import escape
from itertools import groupby
from typing import Any

from fastapi.responses import HTMLResponse, Response

from ..inference.page_style import PAGE_STYLE

STYLE = f"""
{PAGE_STYLE}
body {{ font: 16px/1.5 var(--sans); max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  background: var(--paper); color: var(--ink); }}
a {{ color: var(--accent); }}
code, pre {{ font: 14px/1.5 var(--mono); }}
pre {{ overflow-x: auto; padding: .5rem; border: 1px solid var(--line); background: var(--card); }}
section {{ border-top: 1px solid var(--line); padding: .5rem 0; }}
h3 {{ margin: .5rem 0; overflow-wrap: break-word; }}
td, th {{ text-align: left; vertical-align: top; padding: 0 1rem 0 0; }}
"""

Json = Mapping[str, Any]


def description_page(openapi: Json) -> Response:
    """The page of a description.

    Args:
        openapi: The description (OpenAPI 3.1).
    """
    title = f"{openapi['info']['title']} {openapi['info']['version']}"
    html = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>"
        f"<p>{escape(openapi['info'].get('description', ''))}</p>"
        '<p><a href="./">Page</a> · <a href="./openapi.json">openapi.json</a></p>'
        + "".join(_operations(openapi))
    )
    digest = b64encode(sha256(STYLE.encode()).digest()).decode()
    headers = {
        "content-security-policy": f"default-src 'none'; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return HTMLResponse(html, headers=headers)


def _operations(openapi: Json) -> Iterator[str]:
    found = [
        (operation.get("tags", ["other"])[0], path, method, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    found.sort(key=lambda one: one[0])  # stable: routes keep their order
    for tag, group in groupby(found, key=lambda one: one[0]):
        yield f"<h2>{escape(tag)}</h2>"
        for _, path, method, operation in group:
            yield f"<section><h3><code>{method.upper()} {escape(path)}</code></h3>"
            yield f"<p>{escape(operation.get('description', ''))}</p>"
            yield _parameters(operation)
            yield from _bodies("Body", operation.get("requestBody", {}), openapi)
            for status, response in operation["responses"].items():
                if status.startswith("2"):
                    yield from _bodies("Answer", response, openapi)
            yield "</section>"


def _parameters(operation: Json) -> str:
    rows = [
        f"<tr><td><code>{escape(one['name'])}</code><td>{escape(one['in'])}"
        f"<td>{'required' if one.get('required') else ''}<td>{escape(one.get('description', ''))}"
        for one in operation.get("parameters", ())
    ]
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _bodies(title: str, described: Json, openapi: Json) -> Iterator[str]:
    """The schema of a body for each of its media types."""
    for media_type, body in described.get("content", {}).items():
        schema = _resolved(body.get("schema", {}), openapi)
        text = json.dumps(schema, indent=2, ensure_ascii=False)
        yield f"<details><summary>{title}, {escape(media_type)}</summary><pre>{escape(text)}</pre>"
        yield "</details>"


def _resolved(schema: Any, openapi: Json) -> Any:
    """A schema with the schemas that it refers to; none of ours refers to itself."""
    if isinstance(schema, list):
        return [_resolved(one, openapi) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _resolved(openapi["components"]["schemas"][name], openapi)
    return {key: _resolved(value, openapi) for key, value in schema.items()}
