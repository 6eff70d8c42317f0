"""The page at `/`: a single file, with a policy that allows no other scripts."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from fastapi.responses import HTMLResponse, Response

from ..cjk import HAN
from ..inference.page_style import PAGE_STYLE

FILE = Path(__file__).parent / "page.html"


def page() -> Response:
    """The page with its headers.

    The policy (Content Security Policy Level 3) allows only the script and the style of the file,
    by their hashes, and requests to this server. It requires Trusted Types and allows no policy
    that creates them, so the text of a label or an answer can never become markup.
    """
    html = _render()
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


def _render() -> str:
    """The file with colours and fonts, and with the range of Chinese characters, by which its
    script finds words."""
    characters = HAN.encode("ascii", "backslashreplace").decode()  # \uXXXX in JavaScript
    html = FILE.read_text(encoding="utf-8")
    return html.replace("{{ STYLE }}", PAGE_STYLE).replace("{{ HAN }}", characters)


def _hashes(html: str, tag: str) -> str:
    parts = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (b64encode(sha256(part.encode()).digest()).decode() for part in parts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
