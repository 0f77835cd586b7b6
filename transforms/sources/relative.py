"""Relative names in a list of URIs: the folder that they are relative to is decided once per list, at launch."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Container, Iterable
from typing import NamedTuple

from apache_beam.io.filesystem import BeamIOError

from transforms.fetching.uris import scheme_of
from transforms.sources.rows import Row
from transforms.storage import door
from transforms.storage.errors import is_transient

ROWS_READ = 1_000_000  # of a list, to find names that decide: some seconds at most
_NAMES_TRIED = 100
_ROOT = re.compile(r"([a-z][a-z0-9+.-]*://[^/]*)/?(.*)", re.IGNORECASE | re.DOTALL)


class Base(NamedTuple):
    """The folder of a list's relative names.

    Attributes:
      folder: as it is now.
      kept: as receipts keep it: "." for the list's own folder, which may move with the list; "" if there are no such names.
      problem: why no folder can be meant; "" if one can.
    """

    folder: str
    kept: str = ""
    problem: str = ""


def is_relative(uri: str) -> bool:
    """Whether a row holds a name that is relative to a folder."""
    return not uri.startswith("/") and scheme_of(uri) == "file" and uri.lstrip()[:5].lower() != "file:"


def address(folder: str, uri: str) -> str:
    """The path or URI of a row: `uri`, or what it means below `folder`, if it is relative."""
    if not folder or not is_relative(uri):
        return uri
    match = None if door.is_local(folder) else _ROOT.fullmatch(folder)
    if match is None:
        return os.path.join(folder, uri)
    # Stores take '.' and '..' for names; '..' does not lead out of a bucket.
    path = posixpath.normpath(posixpath.join("/", match[2], uri))
    return f"{match[1]}/{path.lstrip('/')}"


def own_folder(path: str) -> str:
    """The folder that a list lies in."""
    return (
        os.path.abspath(posixpath.dirname(door.local(path)))
        if door.is_local(path)
        else posixpath.dirname(path)
    )


def find(path: str, rows: Iterable[Row], schemes: Container[str]) -> Base:
    """The base of the list at `path`: its own folder or the working directory, where the first name that exists is.

    Args:
      rows: of the list, from its first; at most ROWS_READ are read.
      schemes: what may be fetched; a folder elsewhere is not asked.
    """
    own = own_folder(path)
    folders = list(dict.fromkeys(folder for folder in (own, os.getcwd()) if scheme_of(folder) in schemes))
    tried: list[str] = []
    others = 0
    for row in rows:
        if row.error or not is_relative(row.uri):
            others += not row.error
            continue
        for folder in folders:
            if _exists(address(folder, row.uri)):
                return Base(folder, "." if folder == own else folder)
        tried.append(row.uri)
        if len(tried) == _NAMES_TRIED:
            break
    all_miss = folders and tried and (len(tried) == _NAMES_TRIED or not others)
    return Base(own, "." if tried else "", _problem(path, folders, tried) if all_miss else "")


def _exists(path: str) -> bool:
    try:
        return door.exists(path)
    except (BeamIOError, OSError, ValueError) as error:
        if is_transient(error):
            raise
        return False  # no name that the store can have, or none that may be asked for


def _problem(path: str, folders: list[str], tried: list[str]) -> str:
    what = (
        "its only relative name does not exist"
        if len(tried) == 1
        else f"none of its first {len(tried)} relative names exists"
    )
    places = " and ".join(_shown(address(folder, tried[0])) for folder in folders)
    return (
        f"{path}: {what}: {_shown(tried[0])} was looked for as {places}, in the list's folder and in the working "
        "directory: put the list beside its images, start where they are, or write complete paths or URIs"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "...")
