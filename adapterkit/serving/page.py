"""The page at `/`: one file, under a policy that lets no script run but its own."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from fastapi.responses import HTMLResponse, Response

FILE = Path(__file__).parent / "page.html"


def page() -> Response:
    """The page with its headers.

    The policy (Content Security Policy Level 3) allows the file's own script and style by their
    hash and calls to this server, nothing else. Trusted Types are required and none may be made:
    no text can become markup, whatever a label or an answer holds.
    """
    html = FILE.read_text(encoding="utf-8")
    policy = {
        "default-src": "'none'",
        "script-src": _hashes(html, "script"),
        "style-src": _hashes(html, "style"),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(" ".join(rule) for rule in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return HTMLResponse(html, headers=headers)


def _hashes(html: str, tag: str) -> str:
    parts = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (b64encode(sha256(part.encode()).digest()).decode() for part in parts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
