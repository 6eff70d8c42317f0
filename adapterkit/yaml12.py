"""YAML 1.2 files that people write: recipes, changes to them, key files."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode


class _Constructor(SafeConstructor):
    """Plain values only; a key given twice, a key that is not a text and a cycle are errors."""

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        if node in self.recursive_objects:
            raise YAMLError(f"line {node.start_mark.line + 1}: a value contains itself")
        return super().construct_object(node, deep=True)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> Any:
        keys = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                raise YAMLError(f"line {line}: a key must be a text")
            if key.value in keys:
                raise YAMLError(f"line {line}: the key '{key.value}' is given twice")
            keys.add(key.value)
        return super().construct_mapping(node, deep=True)


# The core schema of YAML 1.2 has neither dates nor the value "=": they are texts.
for _tag in ("timestamp", "value"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_tag}", _Constructor.construct_yaml_str)


def read_yaml(text: str) -> Any:
    """Reads one YAML 1.2 document as plain values (core schema: `no` and `on` are texts).

    Raises:
        ValueError: The text is not YAML. The message is one line and names the place.
    """
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _Constructor
    try:
        return reader.load(text)
    except YAMLError as error:
        raise ValueError(_one_line(error)) from None
    except RecursionError:
        raise ValueError("the YAML is nested too deeply to be read") from None


def write_yaml(content: Mapping[str, Any]) -> str:
    """Plain values as YAML 1.2, a line for each key, and collections of single values in a line."""
    writer, out = YAML(typ="safe", pure=True), StringIO()
    writer.default_flow_style = None
    writer.allow_unicode = True
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # typed as None
    writer.width = 1000
    writer.dump(content, out)
    return out.getvalue()


def _one_line(error: YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error).splitlines()[0]
    problem = getattr(error, "problem", None) or getattr(error, "context", "")
    return f"line {mark.line + 1}, column {mark.column + 1}: not YAML, {problem}"
