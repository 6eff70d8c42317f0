"""A Helm chart as objects of Kubernetes, with the functions of Helm that our chart uses."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

from ruamel.yaml import YAML

SAFE = YAML(typ="safe", pure=True)
"""Reads and writes plain values."""


def render_chart(chart: Path, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The objects of a chart.

    Args:
        chart: Its folder.
        values: What differs from its own values.
    """
    from gotpl import Template

    own = SAFE.load((chart / "values.yaml").read_text(encoding="utf-8"))
    data = {
        "Chart": {"Name": SAFE.load((chart / "Chart.yaml").read_text("utf-8"))["name"]},
        "Release": {"Name": "adapters"},
        "Values": merged(own, values),
    }
    sources = {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted((chart / "templates").iterdir())
    }

    def include(name: str, context: Any) -> str:
        return str(templates.render_template(name, context)).strip("\n")

    templates = Template.from_sources(
        sources,
        functions={
            "include": include,
            "toYaml": _to_yaml,
            "nindent": lambda n, text: "\n" + indent(text, " " * n),
            "quote": lambda value: json.dumps(str(value)),
        },
    )
    texts = (templates.render_template(name, data) for name in sources if name.endswith(".yaml"))
    return [one for text in texts for one in SAFE.load_all(text) if one is not None]


def merged(own: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in which nested ones replace their own alone, as Helm does it."""
    found = dict(own)
    for key, value in values.items():
        nested = isinstance(value, Mapping) and isinstance(own.get(key), Mapping)
        found[key] = merged(own[key], value) if nested else value
    return found


def _to_yaml(value: Any) -> str:
    text = io.StringIO()
    SAFE.dump(_plain(value), text)
    return text.getvalue().rstrip("\n")


def _plain(value: Any) -> Any:
    """A value of a template without the types that the templates give it."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
