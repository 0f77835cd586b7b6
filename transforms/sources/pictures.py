"""The pictures behind features, read again from the inputs: small ones, for people to look at, and only those asked for.

What made a shard is known from its receipt; where its input lies is not, but for image files, whose list is in the output.
So callers name the inputs again (`find`), from the kept request or a flag.
A picture that is no longer there, or no longer the one that was computed, is left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from apache_beam.io.filesystem import BeamIOError, FileMetadata

from transforms.commit import ledger
from transforms.commit.layout import LISTING, Layout
from transforms.commit.receipts import Receipt
from transforms.elements import Encoded, Shard
from transforms.errors import ItemError
from transforms.fetching.fetcher import Fetcher
from transforms.fetching.settings import FetchSettings
from transforms.imaging.preprocess import Preprocessing, decode
from transforms.records import images
from transforms.sources import finding, input_files, listing
from transforms.sources.base import WHOLE, BadInput, Bounds, Item, Reading, ReadSettings, Source
from transforms.sources.input_files import line_of
from transforms.sources.names import with_names
from transforms.sources.tfrecord import IMAGE_FEATURE
from transforms.sources.uri_list import UriSlice, is_list, list_name
from transforms.storage import door

_OVERSAMPLED = 4  # per side, then averaged: the model's resizing alone leaves patterns in small pictures


@dataclass(frozen=True)
class ShardPictures:
    """The pictures of one shard. Small and picklable."""

    layout: Layout  # of the features
    shard: Shard
    settings: ReadSettings
    inputs: int
    failures: int  # of these

    def read(self, rows: Mapping[int, str]) -> Iterator[tuple[int, bytes]]:
        """The encoded images of some rows of the shard's features, in order; those that cannot be read are left out.

        Args:
          rows: row in the shard's feature file -> the SHA-256 of its image, in hexadecimal.
        """
        row_at = dict(zip(self._positions(rows), sorted(rows), strict=True))
        if not row_at:
            return
        fetcher = Fetcher(self.settings.fetch)
        with (
            ThreadPoolExecutor(self.settings.fetch.concurrency, "fetch") as pool,
            contextlib.closing(fetcher),
        ):
            reading = Reading(
                self.shard.name, self.settings, row_at.keys(), fetcher.fetch, pool, limit=max(row_at) + 1
            )
            for item in _as_far_as_it_goes(self.shard.source.items(reading)):
                image = images.encoded(item)
                if isinstance(image, Encoded):
                    row = row_at[image.position]
                    if hashlib.sha256(image.data).hexdigest() == rows[row]:
                        yield row, image.data

    def _positions(self, rows: Mapping[int, str]) -> list[int]:
        """The positions of rows in the shard's input: failed inputs have no row."""
        failed: set[int] = set()
        if self.failures:
            lines = door.read_bytes(self.layout.failures(self.shard.label)).splitlines()
            failed = {ledger.parse(line).position for line in lines}
        successes = [position for position in range(self.inputs) if position not in failed]
        return [successes[row] for row in sorted(rows)]


def _as_far_as_it_goes(items: Generator[Item, None, Source]) -> Iterator[Item]:
    """The items of a source whose file may have been changed, moved or deleted since."""
    with contextlib.suppress(OSError, BeamIOError, BadInput):
        yield from items


def find(
    layout: Layout,
    receipts: Sequence[Receipt],
    inputs: Sequence[str] = (),
    input_format: str = finding.AUTO,
    fetch: FetchSettings | None = None,
) -> dict[str, ShardPictures]:
    """The pictures of an output's shards by label, as far as their inputs are known.

    Args:
      layout: the output.
      receipts: of its committed shards, in order.
      inputs: paths, folders and globs, as for --input of the job; not needed if its inputs were image files.
      input_format: as --input_format of the job.
      fetch: limits of fetching images by URI.

    Raises BadInput if the inputs are not those of the output, or cannot be read.
    """
    settings = _settings(receipts[0], fetch or FetchSettings())
    shards = _again(layout, receipts, inputs, input_format, settings) if inputs else _listed(layout, receipts)
    return {
        receipt.shard: ShardPictures(layout, shard, settings, receipt.inputs, receipt.failures)
        for receipt, shard in zip(receipts, shards, strict=False)
    }


def _settings(receipt: Receipt, fetch: FetchSettings) -> ReadSettings:
    schema = receipt.fingerprint["schema"]
    # The default of TFRecords stands in the fingerprint of every kind of input.
    image = "" if schema["image_feature"] == IMAGE_FEATURE else schema["image_feature"]
    return ReadSettings(1, image, schema["key_feature"], schema["uri_column"], (), fetch)


def _again(
    layout: Layout,
    receipts: Sequence[Receipt],
    inputs: Sequence[str],
    input_format: str,
    settings: ReadSettings,
) -> Iterator[Shard]:
    """The shards, each in the file that it was made of. The inputs may have further files by now, and lists further rows."""
    found = finding.find(inputs, input_format, settings)
    files = {line_of(file.path): file for file in found.files}
    if again := found.kind.again:
        paths = _paths(receipts, _own(layout, receipts, files))
    else:  # image files
        before = listing.texts(door.read_if_there(layout.listing) or b"")
        paths = before if set(before) <= files.keys() else []
    if not paths:
        raise BadInput(
            f"--input={','.join(inputs)} is not the input of {layout.folder}: it has not all of the files in its receipts, from "
            f"{receipts[0].name} on"
        )
    if again is None:
        yield from _listed(layout, receipts)
    else:
        for receipt, path in zip(receipts, paths, strict=True):
            yield Shard(*_place(receipt), again(files[path], receipt.input, settings), receipt.name)


def _own(layout: Layout, receipts: Sequence[Receipt], files: Mapping[str, FileMetadata]) -> dict[str, Bounds]:
    """The files that the output is made of, with the bounds of lists, as far as it says them; else all that are there."""
    own = input_files.read(layout, is_list(receipts[0].input))
    return own if own and own.keys() <= files.keys() else dict.fromkeys(files, WHOLE)


def _paths(receipts: Sequence[Receipt], within: Mapping[str, Bounds]) -> list[str]:
    """The file of each shard; none if there is one without."""
    if is_list(receipts[0].input):
        return _paths_of_lists(receipts, within)
    by_name = with_names(list(within), list(dict.fromkeys(receipt.name for receipt in receipts)))
    return [by_name[receipt.name] for receipt in receipts] if by_name else []


def _paths_of_lists(receipts: Sequence[Receipt], within: Mapping[str, Bounds]) -> list[str]:
    """The same for lists, of which the names of shards have no folder: they come in their order."""
    remaining = list(within)
    out: list[str] = []
    before, end = "", 0
    for receipt in receipts:
        name, start = list_name(receipt.name), receipt.input["start"]
        if name != before or start < end or not _holds(within[out[-1]], receipt):
            holding = [p for p in remaining if posixpath.basename(p) == name and _holds(within[p], receipt)]
            if not holding:
                return []
            del remaining[: remaining.index(holding[0]) + 1]
            out.append(holding[0])
        else:
            out.append(out[-1])
        before, end = name, receipt.input["end"]
    return out


def _holds(bounds: Bounds, receipt: Receipt) -> bool:
    start, end = bounds
    return start <= receipt.input["start"] and (end is None or receipt.input["end"] <= end)


def _place(receipt: Receipt) -> tuple[int, int]:
    """(index, of) of a shard: not all shards of an unfinished output have a receipt."""
    index, of = map(int, receipt.shard.split("-of-"))
    return index, of


def _listed(layout: Layout, receipts: Sequence[Receipt]) -> Iterator[Shard]:
    """The shards, if their inputs are image files: the list of these is a part of the output."""
    if not door.exists(layout.listing):
        return
    for receipt in receipts:
        if not receipt.name.startswith(f"{LISTING}["):
            return
        start, end, rows, digest = (receipt.input[name] for name in ("start", "end", "rows", "sha256"))
        source = UriSlice(layout.listing, listing.FORMAT, start, end, rows, digest)
        yield Shard(*_place(receipt), source, receipt.name)


def thumbnail(data: bytes, side: int) -> np.ndarray:
    """An encoded image as a square, whatever its shape, uint8 (side, side, 3). Raises ItemError.

    A record's `image/width` and `image/height` tell how to stretch it back.
    """
    large = _OVERSAMPLED * side
    pixels = np.empty((large, large, 3), np.float32)
    decode(data, Preprocessing(image_size=large, scaled_decoding=True), pixels)
    blocks = pixels.reshape(side, _OVERSAMPLED, side, _OVERSAMPLED, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def thumbnails(
    pictures: ShardPictures, rows: Mapping[int, str], side: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Row -> its thumbnail, for those of `rows` that can be read: see `ShardPictures.read` and `thumbnail`."""
    for row, data in pictures.read(rows):
        with contextlib.suppress(ItemError):
            yield row, thumbnail(data, side)
