"""The page as one file: markup, style, script and data, of which only the data differ."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources
from typing import Any

MOST_BYTES = 14_500_000
_SCRIPTS = ("base.js", "sections.js", "pictures.js", "map.js")
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def room(data: dict[str, Any]) -> int:
    """How many bytes of base64 a page with this data has room for."""
    fixed = len(render({**data, "thumbnails": []}, title=""))
    quotes = 8 * len(data["keys"])
    return max(0, MOST_BYTES - fixed - quotes)


def render(data: dict[str, Any], title: str) -> bytes:
    """The page. Nothing in the data can end the element that holds it, and no other script than its own runs.

    Half a surrogate pair, which UTF-8 cannot hold, is escaped, as JSON does it, too."""
    style, script = _asset("page.css"), "".join(map(_asset, _SCRIPTS))
    parts = {
        "POLICY": f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
        "TITLE": html.escape(title),
        "STYLE": style,
        "DATA": as_json(data),
        "SCRIPT": script,
    }
    pieces = _asset("page.html").split("@@")  # text, name, text, name, ...
    pieces[1::2] = [parts[name] for name in pieces[1::2]]
    return "".join(pieces).encode("utf-8", "backslashreplace")


def as_json(data: Any) -> str:
    """JSON that may stand in a script element: without <, > and &."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


def _asset(name: str) -> str:
    return resources.files("pipeline.look").joinpath("assets", name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
