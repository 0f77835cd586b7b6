"""Image files of a folder or glob: their paths are written to a list in the output folder, whose rows are the inputs.

Sources refer to byte ranges of that list, because a million paths do not fit into a job's graph.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from apache_beam.io.filesystem import FileMetadata

from transforms.commit.layout import LISTING
from transforms.imaging import formats
from transforms.sources import text_rows
from transforms.sources.base import BadInput, Cut, Cutting, KeyAt, Kind
from transforms.sources.shard_size import rows_per_shard
from transforms.sources.uri_list import UriSlice, key_of_uri, shard_name
from transforms.storage import door


def _cut(files: Sequence[FileMetadata], cutting: Cutting) -> Cut:
    if cutting.read.pass_through or cutting.read.key_feature:
        raise BadInput(
            "image files have no columns: omit --pass_through and --key_feature, or pass a list of their paths"
        )
    listing = b"".join(_line(file.path) + b"\n" for file in files)
    rows = cutting.images_per_shard or rows_per_shard(len(files), cutting.read.batch_size)
    slices = text_rows.cut_listing(listing, rows)
    sources = [UriSlice(cutting.listing, text_rows.LISTING, *bounds) for bounds in slices]
    return Cut(sources, [shard_name(source) for source in sources], listing=listing, images_per_shard=rows)


def _line(path: str) -> bytes:
    """A path as a line of the list. Where a line cannot hold it, as with a line break, it is a file: URI."""
    if "\n" in path or path != path.strip():
        if not door.is_local(path):
            raise BadInput(
                f"{path!r}: a name with a line break, or blanks at its ends, cannot be read there: rename it"
            )
        path = f"file://{quote(os.path.abspath(door.local(path)), errors='surrogateescape')}"
    return path.encode("utf-8", "surrogateescape")


def _keys(name: str, identity: Mapping[str, Any], listing: str) -> KeyAt | None:
    """The paths in the list, if it is still the list that the shard was made of."""
    if not name.startswith(f"{LISTING}[") or not door.exists(listing):
        return None
    content = door.read_bytes(listing)[identity["start"] : identity["end"]]
    if hashlib.sha256(content).hexdigest() != identity["sha256"]:
        return lambda position: f"({LISTING} is not the list that this shard was made of)".encode()
    uris = content.decode("utf-8", "surrogateescape").split("\n")[:-1]
    return lambda position: key_of_uri(uris[position]) if position < len(uris) else None


KIND = Kind(
    "images",
    is_named=lambda name: name.endswith(formats.SUFFIXES),
    sniff=formats.is_image,
    cut=_cut,
    keys=_keys,
    from_folders=True,
    unnamed_in_folders=True,
)
