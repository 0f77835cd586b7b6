"""Names of objects and how many connections a client of a store keeps."""

from __future__ import annotations

import re

CONNECTIONS = 32  # of one client
_OBJECT = re.compile(r"(?s)[a-z0-9]+://([^/]+)/(.+)")


def split(path: str) -> tuple[str, str]:
    """Bucket and object of gs://bucket/object or s3://bucket/key."""
    match = _OBJECT.fullmatch(path)
    if match is None:
        raise ValueError(f"{path} names no object: SCHEME://BUCKET/OBJECT is expected")
    return match[1], match[2]
