"""Globs over the objects of a bucket, by Beam's rules: `*` stays within a folder, `**` crosses folders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from apache_beam.io.filesystem import FileMetadata, FileSystem

PAGE_OBJECTS = 1000  # per request; no store lists more at once
_PATTERN = re.compile(r"(?s)(\s*[a-z0-9]+://([^/*?[]+))(?:/(.*))?", re.IGNORECASE)


class Glob(NamedTuple):
    """What a pattern asks of a bucket.

    Attributes:
      root: SCHEME://BUCKET/, with which all paths begin.
      prefix: with which the names of all matching objects begin.
      delimiter: "/" if no match lies in a folder below `prefix`, so that a listing may leave those out; else "".
      names: which names match; None if only the object named `prefix` does.
    """

    root: str
    bucket: str
    prefix: str
    delimiter: str
    names: re.Pattern[str] | None

    def files(self, objects: Iterable[tuple[str, int, datetime]]) -> list[FileMetadata]:
        """Those of `objects` (name, size in bytes, time) that match, without those that stand for folders."""
        return [
            FileMetadata(self.root + name, size, _seconds(updated))
            for name, size, updated in objects
            if not name.endswith("/") and (self.names is None or self.names.match(name))
        ]


def parse(pattern: str) -> Glob:
    """The glob of a pattern; one that ends in a slash matches the files directly in that folder.

    Raises ValueError if the pattern does not name a bucket.
    """
    parts = _PATTERN.fullmatch(pattern)
    if parts is None:
        raise ValueError(
            f"{pattern} is not SCHEME://BUCKET/OBJECT, where OBJECT may be a glob and BUCKET may not"
        )
    root, bucket, names = parts[1] + "/", parts[2], parts[3] or ""
    if pattern.endswith("/"):
        names += "*"
    prefix = re.split(r"[*?[]", names, maxsplit=1)[0]
    if prefix == names:
        return Glob(root, bucket, prefix, "", None)
    may_cross_folders = re.search(r"\*\*|[/?[]", names[len(prefix) :])
    delimiter = "" if may_cross_folders else "/"
    return Glob(root, bucket, prefix, delimiter, re.compile(FileSystem.translate_pattern(names)))


def _seconds(time: datetime) -> float:
    """Seconds since the epoch, rounded as Beam rounds them: receipts hold such times."""
    return time.replace(microsecond=0).timestamp() + time.microsecond / 1e6
