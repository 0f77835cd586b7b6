"""Globs over the objects of a bucket, by Beam's rules: `*` stays within a folder, `**` crosses folders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from apache_beam.io.filesystem import FileMetadata, FileSystem

PAGE_OBJECTS = 1000  # per request; no store lists more at once
_SPECIAL = re.compile(r"[*?[{]")
_ESCAPED = re.compile(r"\[([*?[{])\]")
_START = re.compile(rf"(?s)(?:[^*?[]|{_ESCAPED.pattern})*")  # of a pattern, up to its first glob character
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
    prefix, rest = _split(names)
    if not rest:
        return Glob(root, bucket, prefix, "", None)
    return Glob(root, bucket, prefix, "" if _crosses_folders(rest) else "/", regex(names))


def may_cross_folders(pattern: str) -> bool:
    """Whether a match may lie in a folder below the one in which all matches begin."""
    return _crosses_folders(_split(pattern)[1])


def _crosses_folders(rest: str) -> bool:
    return bool(re.search(r"\*\*|[/?[]", rest))


def escape(path: str) -> str:
    """A pattern that matches only `path`, whatever glob characters and braces it has."""
    return _SPECIAL.sub(r"[\g<0>]", path)


def literal(pattern: str) -> str | None:
    """The only path that a pattern can match; None for a glob."""
    return _unescaped(pattern) if _START.fullmatch(pattern) else None


def folder(pattern: str) -> str:
    """The deepest folder below which everything lies that a pattern with escaped names matches; '' without such names."""
    start, rest = _split(pattern)
    return start.rpartition("/")[0] if start + rest != pattern else ""


def regex(pattern: str) -> re.Pattern[str]:
    """What paths must match, by Beam's rules."""
    # Python warns of a '[' in a set.
    return re.compile(FileSystem.translate_pattern(pattern).replace("[[]", r"\["))


def _split(pattern: str) -> tuple[str, str]:
    """What all matches begin with, and the rest, from the first glob character on."""
    start = _START.match(pattern)
    assert start is not None
    return _unescaped(start[0]), pattern[start.end() :]


def _unescaped(pattern: str) -> str:
    return _ESCAPED.sub(r"\1", pattern)


def _seconds(time: datetime) -> float:
    """Seconds since the epoch, rounded as Beam rounds them: receipts hold such times."""
    return time.replace(microsecond=0).timestamp() + time.microsecond / 1e6
