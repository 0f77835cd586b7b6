"""Image files of a folder or glob: their paths are written to a list in the output folder, whose rows are the inputs.

Sources refer to byte ranges of that list, because a million paths do not fit into a job's graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.io.filesystem import FileMetadata

from transforms.commit.layout import LISTING
from transforms.imaging import formats
from transforms.sources import listing
from transforms.sources.base import BadInput, Cut, Cutting, KeyAt, Kind
from transforms.sources.shard_size import rows_per_shard
from transforms.sources.uri_list import UriSlice, shard_name
from transforms.storage import door


def _cut(files: Sequence[FileMetadata], cutting: Cutting) -> Cut:
    if cutting.read.pass_through or cutting.read.key_feature:
        raise BadInput(
            "image files have no columns: omit --pass_through and --key_feature, or pass a list of their paths"
        )
    content = b"".join(listing.line(file.path) + b"\n" for file in files)
    rows = cutting.images_per_shard or rows_per_shard(len(files), cutting.read.batch_size)
    slices = listing.cut(content, rows)
    sources = [UriSlice(cutting.listing, listing.FORMAT, *bounds) for bounds in slices]
    return Cut(sources, [shard_name(source) for source in sources], listing=content, images_per_shard=rows)


def _keys(name: str, identity: Mapping[str, Any], path: str) -> KeyAt | None:
    """The paths in the list at `path`, if it is still the list that the shard was made of."""
    if not name.startswith(f"{LISTING}[") or not door.exists(path):
        return None
    content = door.read_bytes(path)[identity["start"] : identity["end"]]
    if hashlib.sha256(content).hexdigest() != identity["sha256"]:
        return lambda position: f"({LISTING} is not the list that this shard was made of)".encode()
    texts = listing.texts(content)
    return lambda position: listing.key(texts[position]) if position < len(texts) else None


KIND = Kind(
    "images",
    is_named=lambda name: name.endswith(formats.SUFFIXES),
    sniff=formats.is_image,
    cut=_cut,
    keys=_keys,
    from_folders=True,
    unnamed_in_folders=True,
)
