"""The input rule of versions before 0.2, so that their outputs are resumed from the same files."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from apache_beam.io.filesystem import FileMetadata

from transforms.sources import finding, left_out
from transforms.sources.base import ReadSettings
from transforms.sources.finding import Found
from transforms.storage import door

_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")


def find(patterns: Iterable[str], input_format: str, settings: ReadSettings) -> Found:
    """The input files by the old rule: only names decide; hidden files are included, linked folders are not.

    Raises BadInput where the files are of several kinds."""
    files: dict[str, FileMetadata] = {}
    for pattern in patterns:
        is_glob = finding.is_glob(pattern)
        matches = door.match(pattern) if is_glob or not pattern.endswith("/") else []
        if not matches and not is_glob:
            inside = door.match(door.join(pattern.rstrip("/"), "**"))
            matches = [file for file in inside if _in_folder(file.path, input_format)]
        written = left_out.ours(file.path for file in matches)
        files |= {file.path: file for file in matches if file.path not in written}
    return Found(finding.kind_of_all(files.values(), input_format, settings), list(files.values()))


def _in_folder(path: str, input_format: str) -> bool:
    name = posixpath.basename(path).lower()
    if input_format == "tfrecord" or (input_format == finding.AUTO and ".tfrecord" in name):
        return True
    return name.endswith(_SUFFIXES)
