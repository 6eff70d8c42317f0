"""The card of an adapter folder, `adapterkit.json`: all that PEFT's own files leave out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import AdapterError
from ..schema import dump
from .adapter import MOST_MEMBERS, Adapter
from .stacking import DIGEST, ParentRef
from .stacking import WEIGHTS as WEIGHTS

CARD = "adapterkit.json"


CARD_PARTS = {
    "method": ("type",),
    "task": ("type",),
    "backbone": ("name", "fingerprint", "lower_case"),
    "metrics": (),
    "training": (),
}
"""Parts of the card and what each must say; the last two may be left out."""


LINE = 100
"""Most characters of a line of a card, where it can be broken."""


def card(adapter: Adapter, members: Sequence[str] = ()) -> dict[str, Any]:
    """What `adapterkit.json` says: all that PEFT's own files leave out.

    Args:
        adapter: The adapter.
        members: Digests of the files of its further members.
    """
    return {
        "adapterkit": __version__,
        "name": adapter.name,
        "backbone": {
            "name": adapter.backbone,
            "fingerprint": adapter.fingerprint,
            "lower_case": adapter.lower_case,
        },
        "method": dump(adapter.method),
        "task": dump(adapter.task),
        **(
            {}
            if adapter.on_top_of is None
            else {"on_top_of": vars(ParentRef.of(adapter.on_top_of))}
        ),
        **({"members": list(members)} if members else {}),
        "metrics": {split: dict(scores) for split, scores in adapter.metrics.items()},
        "training": dict(adapter.training),
    }


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of an adapter folder.

    Raises:
        AdapterError: It is not there or not one.
    """
    if not folder.is_dir():
        raise AdapterError(f"{folder}: there is no such folder")
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"{folder}: not an adapter folder, {name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{folder / name}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise AdapterError(f"{folder / name}: expected a JSON object")
    return content


def read_card(folder: str | Path) -> dict[str, Any]:
    """`adapterkit.json` of an adapter folder, with every part it must have.

    Raises:
        AdapterError: It is not there, or a part is missing or garbled.
    """
    folder = Path(folder)
    content = read_json(folder, CARD)
    for part, keys in CARD_PARTS.items():
        held = content.get(part) if keys else content.setdefault(part, {})
        if not isinstance(held, dict) or any(key not in held for key in keys):
            raise AdapterError(f"{folder}: {CARD} lacks or garbles '{part}'")
    told = content.get("members", [])
    sound = isinstance(told, list) and all(DIGEST.fullmatch(str(digest)) for digest in told)
    if not sound or len(told) >= MOST_MEMBERS:
        raise AdapterError(
            f"{folder}: {CARD}: members: expected up to {MOST_MEMBERS - 1} digests (sha256:...), "
            f"got {told!r:.80}"
        )
    return content


def backbone_of(folder: Path) -> str | None:
    """Name of the backbone that an adapter folder was trained on; None if it has no card.

    Raises:
        AdapterError: The card is garbled.
    """
    return str(read_card(folder)["backbone"]["name"]) if (folder / CARD).is_file() else None


def n_members(content: Mapping[str, Any]) -> int:
    """Members of the adapter that a card speaks of; 1 for most."""
    return 1 + len(content.get("members", ()))


def to_json(content: Mapping[str, Any]) -> bytes:
    """JSON in lines of at most `LINE` characters, where they can be broken."""
    return f"{_lines(content)}\n".encode()


def _lines(content: Any, indent: str = "") -> str:
    """JSON in lines as a person would break it, so that labels and curves take few of them."""
    whole = json.dumps(content, ensure_ascii=False)
    if len(indent) + len(whole) <= LINE or not isinstance(content, (Mapping, list, tuple)):
        return whole
    inner = f"{indent}  "
    lines: list[str] = []
    if isinstance(content, Mapping):
        begin, end = "{}"
        for key, value in content.items():
            lines.append(f"{json.dumps(key, ensure_ascii=False)}: {_lines(value, inner)}")
    else:
        begin, end = "[]"
        for item in (_lines(value, inner) for value in content):
            fits = lines and len(inner) + len(lines[-1]) + len(item) + 2 <= LINE
            if fits and "\n" not in lines[-1] + item:
                lines[-1] += f", {item}"
            else:
                lines.append(item)
    return "\n".join([begin, inner + f",\n{inner}".join(lines), indent + end])
