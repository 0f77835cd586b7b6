"""`inputs.txt`, the job's own list of image files: one path per line, whatever bytes its name has.

A line is the path itself where it can be. Keys are the lines as they stand there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from urllib.parse import quote

from transforms.fetching.uris import public_uri
from transforms.sources.rows import Row, Slice, slices
from transforms.storage import door

FORMAT = "listing"  # of a source
_STORED = re.compile(r"(?i)[a-z][a-z0-9+.-]*://")


def line(path: str) -> bytes:
    """The line of a path, without its line break.

    With a line break in it, or blanks at its ends, a local path is a file: URI. On a store, where names have no escapes,
    a path with a line break is a JSON string.
    """
    if not door.is_local(path):
        return json.dumps(path).encode() if "\n" in path else path.encode("utf-8", "surrogateescape")
    if "\n" in path or path != path.strip() or _unquoted(path) != path:
        path = f"file://{quote(os.path.abspath(door.local(path)), errors='surrogateescape')}"
    return path.encode("utf-8", "surrogateescape")


def cut(listing: bytes, rows_per_slice: int) -> Iterator[Slice]:
    """The slices of a list."""
    rows = io.BytesIO(listing)  # whose lines end with \n alone
    return slices(((raw, len(raw), True) for raw in rows), 0, rows_per_slice)


def read(path: str, start: int, end: int) -> Iterator[Row | str]:
    """The rows of a slice, then, as the last item, the SHA-256 of what was read."""
    digest, at = hashlib.sha256(), start
    with door.open_binary(path, until=end) as stream:
        stream.seek(start)
        while at < end and (raw := stream.readline()):
            digest.update(raw)
            at += len(raw)
            yield Row(_text(raw), {})
    yield digest.hexdigest()


def texts(content: bytes) -> list[str]:
    """The paths and file: URIs of complete lines."""
    return [_text(raw) for raw in content.split(b"\n")[:-1]]


def address(text: str) -> str:
    """What is to be fetched for a row: local names that look like URIs, such as `http:a.jpg`, are paths."""
    return text if _STORED.match(text) or text.startswith("/") else f"./{text}"


def key(text: str) -> bytes:
    """The key of a row."""
    return (public_uri(text) if "://" in text else text).encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return _unquoted(raw.removesuffix(b"\n").decode("utf-8", "surrogateescape"))


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        path = json.loads(text)
    except ValueError:
        return text
    return path if isinstance(path, str) and "\n" in path and _STORED.match(path) else text
