"""The labelled examples of an input: one pass over it finds their places, labels, failures and typical size in pixels."""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.console import counted
from pipeline.finetune import labels
from pipeline.finetune.failures import Failed, NothingUsable, Place
from pipeline.finetune.labels import Label
from transforms.elements import Decoded, Encoded, Failure, Shard
from transforms.errors import ItemError
from transforms.feeding import feeders
from transforms.feeding.settings import DecodeSettings
from transforms.fetching.fetcher import Fetcher
from transforms.records import images
from transforms.sources import finding
from transforms.sources.base import Cutting, Item, Reading, ReadSettings

_SAMPLED = 256  # pictures whose sizes are looked at


@dataclass(frozen=True)
class Input:
    """Shards of one request, and how to read them. Not picklable: it has threads to fetch on.

    Attributes:
      name: 'input' or 'validation', the flag that names it.
      settings: with the type of the label's column.
      listing: the list of image files that the shards refer to, to be written at `listing_path` before they are read.
      problem: why no example can be read; '' if there is no such reason.
      mixed: of image files, the folders that hold folders of classes and files of no class.
      notes: on how the files are read, for the user.
    """

    name: str
    shards: tuple[Shard, ...]
    settings: ReadSettings
    fetcher: Fetcher
    pool: ThreadPoolExecutor
    kind: str
    listing_path: Path
    listing: bytes | None
    problem: str
    mixed: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def read(
        self, shard: Shard, due: Sequence[int] | set[int] | None = None, fetch: bool = True
    ) -> Iterator[Item]:
        """The items of a shard at the positions that are due, in order; without `fetch`, images behind URIs are empty."""
        reading = Reading(
            shard.name, self.settings, fetch=self.fetcher.fetch if fetch else _nothing, pool=self.pool
        )
        return shard.source.items(reading if due is None else replace(reading, due=due))

    def failure(self, shard: int, item: Failure) -> Failed:
        """A failure of the job's own steps in that shard, as `failures.jsonl` lists it."""
        key = text_of(item.key)
        return Failed(
            self.name, self.shards[shard].name, item.position, key, item.stage, item.code, item.message
        )

    def place(self, shard: int, position: int) -> Place:
        """Of an example, as `Failed` has it."""
        return self.name, self.shards[shard].name, position


def find(
    name: str,
    texts: Sequence[str],
    input_format: str,
    settings: ReadSettings,
    images_per_shard: int | None,
    listing: Path,
) -> Input:
    """The shards of values of --input, as the job cuts them. Writes nothing. Raises BadInput."""
    found = finding.find(texts, input_format, settings)
    mixed: frozenset[str] = frozenset()
    if found.kind.name == "images":  # whose label is their folder
        mixed = labels.mixed_folders(found.folders, (file.path for file in found.files))
        settings = replace(settings, pass_through=())
    cut = found.kind.cut(found.files, Cutting(settings, images_per_shard, None, str(listing)))
    shards = tuple(
        Shard(index, len(cut.sources), source, name)
        for index, (source, name) in enumerate(zip(cut.sources, cut.names, strict=True))
    )
    pool = ThreadPoolExecutor(settings.fetch.concurrency, "fetch")
    settings = replace(settings, kinds=cut.kinds)
    fetcher = Fetcher(settings.fetch)
    return Input(
        name,
        shards,
        settings,
        fetcher,
        pool,
        found.kind.name,
        listing,
        cut.listing,
        cut.problem,
        mixed,
        cut.notes,
    )


@dataclass(frozen=True)
class Examples:
    """Examples by place, sorted by shard and position; arrays of (n,).

    Attributes:
      shards, positions: int, into `Input.shards`, and in the shard.
      classes: int.
      held_out: float in [0, 1), a hash of the key: SHA-256's first 8 bytes over 2^64.
    """

    shards: np.ndarray
    positions: np.ndarray
    classes: np.ndarray
    held_out: np.ndarray

    def __len__(self) -> int:
        return len(self.shards)

    def where(self, chosen: np.ndarray) -> Examples:
        """Those that a mask of bool (n,) chooses."""
        return Examples(
            self.shards[chosen], self.positions[chosen], self.classes[chosen], self.held_out[chosen]
        )


class Scan(NamedTuple):
    """What one pass found. `classes` of the examples are numbers of `labels`, in order of their first occurrence."""

    examples: Examples
    labels: list[Label]
    failed: list[Failed]
    sample: list[
        tuple[int, Encoded]
    ]  # shard and item, the lowest hashes: chosen evenly, and the same each time
    image_bytes: float  # on average, as stored; 0 where the pass saw no image


def scan(source: Input, label_of: Callable[[Encoded], Label], tick: Callable[[int, int], None]) -> Scan:
    """Passes over the input once, without fetching. `tick` is called with the numbers of shards and examples so far."""
    # Numbers side by side: ten million tuples of them would take gigabytes.
    shards, positions, classes, chances = array("i"), array("q"), array("i"), array("d")
    numbers: dict[Label, int] = {}
    failed: list[Failed] = []
    sample: list[tuple[float, int, int, Encoded]] = []
    total_bytes = 0
    for index, shard in enumerate(source.shards):
        for item in map(images.encoded, source.read(shard, fetch=False)):
            if isinstance(item, Failure):
                failed.append(source.failure(index, item))
                continue
            try:
                label = label_of(item)
            except ItemError as error:
                failure = Failure(item.key, item.position, "label", error.code, str(error))
                failed.append(source.failure(index, failure))
                continue
            chance = key_hash(item.key)
            shards.append(index)
            positions.append(item.position)
            classes.append(numbers.setdefault(label, len(numbers)))
            chances.append(chance)
            total_bytes += len(item.data)
            order = (-chance, -index, -item.position)
            if len(sample) < _SAMPLED:
                heapq.heappush(sample, (*order, replace(item, passed=b"")))
            elif order > sample[0][:3]:
                heapq.heapreplace(sample, (*order, replace(item, passed=b"")))
        tick(index + 1, len(shards))
    examples = Examples(*(np.asarray(column) for column in (shards, positions, classes, chances)))
    chosen = [(-shard, item) for _, shard, _, item in sorted(sample, key=lambda entry: entry[:3])]
    return Scan(examples, list(numbers), failed, chosen, total_bytes / max(1, len(shards)))


def renumbered(found: Examples, numbers: Sequence[int]) -> Examples:
    """The examples of a scan with the class of each label, in the order of `Scan.labels`."""
    return replace(found, classes=np.array(numbers, np.int32)[found.classes])


def sample(source: Input, found: Scan, decode: DecodeSettings) -> tuple[float, float, list[Failed]]:
    """The median area in pixels of the sampled pictures, as stored, their mean size in bytes, and those that cannot be used.

    Raises NothingUsable if all are of these."""
    shards: list[int] = []
    items: list[Encoded] = []
    failed: list[Failed] = []

    def read(entry: tuple[int, Encoded]) -> Item | None:
        shard, item = entry
        return item if item.data else next(iter(source.read(source.shards[shard], {item.position})), None)

    with ThreadPoolExecutor(source.settings.fetch.concurrency, "sample") as readers:
        pictures = list(readers.map(read, found.sample))
    for (shard, _), one in zip(found.sample, pictures, strict=True):
        if isinstance(one, Encoded):
            shards.append(shard)
            items.append(one)
        elif isinstance(one, Failure):
            failed.append(source.failure(shard, one))
    users = feeders.acquire(decode)
    areas = []
    try:
        for start in range(0, len(items), decode.batch_size):
            stop = start + decode.batch_size
            results = users.submit(items[start:stop]).wait()
            for shard, result in zip(shards[start:stop], results, strict=False):
                if isinstance(result, Decoded):
                    areas.append(result.width * result.height)
                else:
                    failed.append(source.failure(shard, result))
    finally:
        feeders.release(users)
    if not areas:
        such = f", such as {failed[0]}" if failed else ""
        raise NothingUsable(
            f"the resolution would follow from {counted(len(found.sample), 'picture')}, of which none can be used{such}",
            failed,
        )
    return float(np.median(areas)), float(np.mean([len(item.data) for item in items])), failed


def key_hash(key: bytes) -> float:
    """A number in [0, 1) that depends on the key only, evenly spread."""
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2.0**64


def text_of(key: bytes) -> str:
    """A key as it is shown."""
    return key.decode("utf-8", "backslashreplace")


def _nothing(uri: str) -> bytes:
    return b""
