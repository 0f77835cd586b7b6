"""`input_files.txt`: the files that an output is made of, one per line, where each holds several inputs.

A list of URIs has the bounds of its rows behind its path: `urls.csv[4:4096]`, as offsets like those of slices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from apache_beam.io.filesystem import FileMetadata

from transforms.commit.layout import Layout
from transforms.sources import listing, uri_list
from transforms.sources.base import WHOLE, Bounds, Kind, Source
from transforms.sources.uri_list import UriSlice
from transforms.storage import door

_BOUNDED = re.compile(rb"(.*)\[(\d+):(\d+)\]", re.DOTALL)


def content(
    kind: Kind, files: Iterable[FileMetadata], sources: Iterable[Source], bounds: Mapping[str, Bounds]
) -> bytes:
    """The content for files of a kind, cut into `sources` within `bounds`."""
    if kind not in uri_list.KINDS:
        return b"".join(listing.line(file.path) + b"\n" for file in files)
    within: dict[str, tuple[int, int]] = {}
    for source in sources:
        if isinstance(source, UriSlice):
            start, _ = within.get(source.uri, (source.start, 0))
            within[source.uri] = start, source.end
    lines = []
    for file in files:
        start, end = within.get(file.path) or (bounds.get(file.path, WHOLE)[0],) * 2  # without rows
        lines.append(listing.line(file.path) + b"[%d:%d]\n" % (start, end))
    return b"".join(lines)


def read(layout: Layout, is_list: bool) -> dict[str, Bounds] | None:
    """The files of an output by `line_of` their paths, in order, with the bounds of lists; None if it does not say them."""
    data = door.read_if_there(layout.input_files)
    return None if data is None else dict(_parsed(line, is_list) for line in data.split(b"\n")[:-1])


def _parsed(line: bytes, is_list: bool) -> tuple[str, Bounds]:
    match = _BOUNDED.fullmatch(line) if is_list else None
    (text,) = listing.texts((match[1] if match else line) + b"\n")
    return text, (int(match[2]), int(match[3])) if match else WHOLE


def line_of(path: str) -> str:
    """A path in the form in which the lists of an output have it."""
    return listing.texts(listing.line(path) + b"\n")[0]
