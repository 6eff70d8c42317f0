"""YAML that people write: recipes, changes to them, key files."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Safe YAML without its two traps: a key given twice, of which plain YAML keeps the last in
    silence, is refused; and no, yes, on, off and dates are texts, as in YAML 1.2."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.YAMLError(f"line {key.start_mark.line + 1}: a key must be a text")
        if key.value in seen:
            line = key.start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: the key '{key.value}' is given twice")
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_BOOL, _DATE = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in (_BOOL, _DATE)]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))


def read_yaml(text: str) -> Any:
    """YAML as plain values.

    Raises:
        ValueError: It is none; the message is one line and names the place.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506
    except yaml.YAMLError as error:
        raise ValueError(_one_line(error)) from None
    except RecursionError:
        raise ValueError("not YAML that can be read, it is nested too deeply") from None


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error).splitlines()[0]
    return (
        f"line {mark.line + 1}, column {mark.column + 1}: not YAML, {getattr(error, 'problem', '')}"
    )
