"""Image files that a folder or glob brings: their paths are written to a list beside the output, whose rows are the inputs.

Sources refer to byte ranges of that list, because a million paths do not fit into a job's graph.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.io.filesystem import FileMetadata

from transforms.imaging import sniff
from transforms.sources import text_rows
from transforms.sources.base import BadInput, Cut, Cutting, KeyAt, Kind
from transforms.sources.uri_list import UriSlice, key_of_uri, shard_name
from transforms.storage import door

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")


def _cut(files: Sequence[FileMetadata], cutting: Cutting) -> Cut:
    if cutting.read.pass_through or cutting.read.key_feature:
        raise BadInput(
            "image files have no columns: leave --pass_through and --key_feature out, or write a list"
        )
    listing = b"".join(file.path.encode("utf-8", "surrogateescape") + b"\n" for file in files)
    slices = text_rows.cut_stream("txt", io.BytesIO(listing), cutting.images_per_shard)
    sources = [UriSlice(cutting.listing, "txt", *one) for one in slices]
    return Cut(sources, [shard_name(source) for source in sources], listing=listing)


def _keys(name: str, identity: Mapping[str, Any], listing: str) -> KeyAt | None:
    """The paths in the list, while it is the list that the shard was made of."""
    if not name.startswith("inputs.txt[") or not door.exists(listing):
        return None
    content = door.read_bytes(listing)[identity["start"] : identity["end"]]
    if hashlib.sha256(content).hexdigest() != identity["sha256"]:
        return lambda position: b"(inputs.txt is not the list that this shard was made of)"
    uris = content.decode("utf-8", "surrogateescape").split("\n")[:-1]
    return lambda position: key_of_uri(uris[position]) if position < len(uris) else None


KIND = Kind(
    "images",
    is_named=lambda name: name.endswith(SUFFIXES),
    sniff=lambda head: sniff.is_image(head),
    cut=_cut,
    keys=_keys,
    from_folders=True,
    unnamed_in_folders=True,
)
