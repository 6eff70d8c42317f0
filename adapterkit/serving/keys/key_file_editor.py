"""Adding an API key to a key file, whose comments and other lines stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from ...atomic import write_file
from ...errors import AdapterkitError
from .key_file import KeySection, parse_keys, read_key_file


@dataclass(frozen=True)
class NewKey:
    """An API key that is added to a key file.

    Attributes:
        tenant: Name of its tenant.
        section: The key.
        key_id: Its id; the first digits of its hash if None.
        settings: Adapters and quotas of the tenant, as in the file. A new tenant without patterns
            may use the adapters whose names begin with its own.
    """

    tenant: str
    section: KeySection
    key_id: str | None
    settings: Mapping[str, Any]


def with_new_key(text: str, new: NewKey, source: str) -> str:
    """The content of a key file with one more key.

    Args:
        text: The content, which may be empty.
        new: The key.
        source: Name of the file in messages.

    Raises:
        AdapterkitError: The content is not valid, before or after the change. The tenant exists and
            other settings are given, or it has a key with this id.
    """
    before = parse_keys(text, source) if text.strip() else {}
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # does not break lines
    content = yaml.load(text) if text.strip() else CommentedMap()
    name = next((name for name in content if str(name) == new.tenant), None)
    if name is None:
        content[new.tenant] = _new_tenant(new)
    else:
        _add_key(content[name], new, source)
    out = StringIO()
    yaml.dump(content, out)
    changed = out.getvalue()
    after = parse_keys(changed, source)
    if {**after, **before} != after or len(after) != len(before) + 1:
        raise AdapterkitError(f"{source}: cannot be changed without a change of other keys")
    return changed


def _new_tenant(new: NewKey) -> dict[str, Any]:
    one = _key_values(new.section)
    keys = one if new.key_id is None else {"keys": {new.key_id: one}}
    patterns = CommentedSeq(new.settings.get("adapters", [f"{new.tenant}/*"]))
    patterns.fa.set_flow_style()
    return {**keys, **new.settings, "adapters": patterns}


def _add_key(tenant: CommentedMap, new: NewKey, source: str) -> None:
    place = f"{source}: {new.tenant}"
    given = [name for name in new.settings if new.settings[name] != tenant.get(name)]
    if given:
        raise AdapterkitError(
            f"{place} is there already, with its own {given[0]}; change it in the file"
        )
    if "keys" not in tenant:  # its only key becomes the first of several
        is_admin = tenant.pop("admin", False)
        only = CommentedMap()
        for name in ("key", "role", "expires"):
            if name in tenant:
                if name in tenant.ca.items:  # the comment behind it
                    only.ca.items[name] = tenant.ca.items[name]
                only[name] = tenant.pop(name)
        if is_admin:
            only["role"] = "admin"
        tenant.insert(0, "keys", {KeySection(only["key"]).default_id: only})
    key_id = new.key_id or new.section.default_id
    if key_id in map(str, tenant["keys"]):
        raise AdapterkitError(f"{place} has a key {key_id} already; choose another --id")
    tenant["keys"][key_id] = _key_values(new.section)


def _key_values(section: KeySection) -> dict[str, Any]:
    values: dict[str, Any] = {"key": section.key}
    if section.role != "user":
        values["role"] = section.role
    if section.expires is not None:
        values["expires"] = section.expires
    return values


def add_to_file(path: Path, new: NewKey) -> None:
    """Adds a key to a key file, or makes the file, which only its owner can read.

    The file appears complete or not at all, and keeps its mode and its owner.

    Raises:
        AdapterkitError: As in `with_new_key`, or the file cannot be read or written.
    """
    path = path.resolve()  # a link stays a link
    text = read_key_file(path) if path.exists() else ""
    changed = with_new_key(text, new, str(path))
    try:
        write_file(path, changed.encode(), is_secret=True)
    except OSError as error:
        raise AdapterkitError(f"{path}: cannot be written ({error.strerror})") from None
