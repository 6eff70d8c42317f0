"""The identity of a backbone: a hash of everything that its answers depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ..atomic import content_digest
from .tokenizer import TextEncoder

PROBES = (
    "The quick brown fox, jumping over 2 lazy dogs; isn't it 3.14 o'clock (GMT)?",
    "ÀÉÎÕÜ àéîõü ÇÑ çñ ŁØÅ łøå ßẞ İıŞğ ﬁﬂ Ⅻ ½ ² ™ € \u2013 — … “x” «y»",
    "Ελλάδα ΑΒΓ Москва ЁЙ שָׁלוֹם مرحبا नमस्ते สวัสดี 東京は晴れ 한국어 "
    "\uff21\uff22\uff23\uff11\uff12 ｶﾞ 你好。",
    " two  spaces\ttab\nline\u00a0nbsp\u200bzero\u3000wide \u0000\ufffd 😀👍🏽 ",
)
"""Texts that show how a tokenizer normalises, divides and marks texts: characters of many scripts,
cases, forms and widths, all of which Unicode has had for years. No special token is in them."""


def probe_pairs() -> tuple[list[str], list[str | None]]:
    """The probes as single texts and as pairs, as `TextEncoder.encode` takes them."""
    return [*PROBES, *PROBES], [None for _ in PROBES] + list(reversed(PROBES))


def fingerprint(weights: str, settings: Mapping[str, Any], reader: TextEncoder) -> str:
    """`sha256:` and the hash of weights, settings and tokenizer.

    Two libraries may write one tokenizer in different files. So its vocabulary counts, and the ids
    and token types that it gives to `PROBES`, which show what its files say of normalisation,
    division into words and special tokens.

    Args:
        weights: Fingerprint of the weights.
        settings: What else changes the model's answers, by name; values that JSON has.
        reader: Its tokenizer.
    """
    tokens = sorted(reader.vocabulary.items(), key=lambda item: item[1])
    vocabulary = "".join(f"{number} {token}\n" for token, number in tokens)
    content = {
        "weights": weights,
        "settings": dict(settings),
        "vocabulary": hashlib.sha256(vocabulary.encode()).hexdigest(),
        "probes": [(one.ids, one.type_ids) for one in reader.encode(*probe_pairs())],
    }
    return content_digest(json.dumps(content, sort_keys=True).encode())
