"""All kinds of input. A new kind is one module and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transforms.sources import image_files, parquet_images, tfrecord, uri_list, webdataset
from transforms.sources.base import KeyAt, Kind

KINDS: tuple[Kind, ...] = (
    tfrecord.KIND,
    webdataset.KIND,
    parquet_images.KIND,  # before lists, which accept any Parquet file
    *uri_list.KINDS,
    image_files.KIND,
)


def keys(name: str, identity: Mapping[str, Any], listing: str) -> KeyAt:
    """The default keys of a committed shard, from its receipt; None at positions that cannot be known without the input."""
    for kind in reversed(KINDS):  # image files first: their receipts look like those of lists
        key_at = kind.keys(name, identity, listing)
        if key_at is not None:
            return key_at
    return lambda position: None
