"""How the input differs from the one that an output was begun with, and the shortest way on, in words. Writes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipeline.console import counted
from transforms.commit import request
from transforms.commit.layout import Layout
from transforms.commit.receipts import Receipt
from transforms.elements import Shard
from transforms.fetching.uris import public_uri
from transforms.sources import listing as listings
from transforms.sources.base import Source
from transforms.sources.uri_list import UriSlice
from transforms.storage import door

OTHERWISE = "use another --output, or --overwrite to start again"
ONLY_NEW = "--skip_done={} with another --output does only the new {}; --overwrite does all again"
_OF_ROWS = ("name", "start", "end", "rows", "sha256")  # what differs where a list has other rows
_BOUNDS = re.compile(r"\[\d+:\d+\]$")  # behind the name of a list, in the name of a shard


class Change(NamedTuple):
    """What has changed, such as '1 file gone, such as a.jpg'; '' if that is not known. `remedy`: what to do about it."""

    what: str
    remedy: str = OTHERWISE


def find(
    layout: Layout,
    existing: Sequence[Receipt],
    shards: Sequence[Shard],
    listing: bytes | None,
    images_per_shard: int | None,
) -> Change:
    """What has changed of the input as a whole.

    Args:
      layout: of the output.
      existing: its receipts, at least one.
      shards: of the run that would go on there.
      listing: the image files of that run, None for input of another kind.
      images_per_shard: what its request says of that.
    """
    is_complete = all(receipt.shard.endswith(f"-of-{len(existing):05d}") for receipt in existing)
    change = None
    if listing is not None:
        before = door.read_if_there(layout.listing)
        change = (
            None if before is None else _of_files(layout, listings.texts(before), listings.texts(listing))
        )
    elif is_complete:
        old, new = ([_BOUNDS.sub("", one.name) for one in named] for named in (existing, shards))
        # Else they are relative to another folder now.
        change = _of_files(layout, old, new) if set(old) & set(new) else None
    if change is None and is_complete:
        change = _of_rows(layout, existing, shards)
    return change or Change("", f"{_other_size(layout, existing, images_per_shard)}{OTHERWISE}")


def of_source(source: Source, field: str) -> str:
    """How the input of a single shard differs, by the field of its identity, or its name, that does."""
    are_rows = isinstance(source, UriSlice) and field in _OF_ROWS
    return "its rows are others" if are_rows else f"{field} differs"


def _of_files(layout: Layout, before: Iterable[str], now: Iterable[str]) -> Change | None:
    old, new = dict.fromkeys(before), dict.fromkeys(now)
    gone, more = [name for name in old if name not in new], [name for name in new if name not in old]
    what = ", ".join(
        f"{counted(len(names), 'file')} {how}, such as {public_uri(names[0])}"
        for how, names in (("gone", gone), ("new", more))
        if names
    )
    return Change(what, OTHERWISE if gone else ONLY_NEW.format(layout.folder, "files")) if what else None


def _of_rows(layout: Layout, existing: Sequence[Receipt], shards: Sequence[Shard]) -> Change | None:
    if any(shard.source.inputs is None for shard in shards):
        return None
    old, new = sum(_rows(existing)), sum(shard.source.inputs or 0 for shard in shards)
    remedy = ONLY_NEW.format(layout.folder, "rows, if they are at its end") if new > old else OTHERWISE
    return Change(f"{counted(new, 'row')}, where there were {old:,}", remedy) if old not in (0, new) else None


def _rows(existing: Sequence[Receipt]) -> list[int]:
    """How many rows each shard has; none where shards are not made of rows."""
    rows = [receipt.input.get("rows") for receipt in existing]
    return [] if None in rows else [int(count) for count in rows if count is not None]


def _other_size(layout: Layout, existing: Sequence[Receipt], size: int | None) -> str:
    """The beginning of a remedy, if the request cuts the input into other shards than the output's."""
    rows = _rows(existing)
    if not size or not rows:
        return ""
    known = (request.kept(layout) or {}).get("images_per_shard")
    if size == (known or max(rows)):
        return ""
    reason = f", as the output was begun with {known}" if known else " if the output was begun with another"
    return f"leave out --images_per_shard={size}{reason}; else "
