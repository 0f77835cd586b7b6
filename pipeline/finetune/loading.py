"""The batches of a training run: read, decoded in the feeders' processes and put together while the model trains."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bit.hyperrule import Resolution
from bit.training import Batch
from pipeline.finetune import order
from pipeline.finetune.examples import Examples, Failed, Input, failure_of
from pipeline.finetune.order import Order
from transforms.elements import Decoded, Failure
from transforms.feeding import feeders
from transforms.feeding.batches import Batch as Decoding
from transforms.feeding.feeders import Feeders
from transforms.feeding.settings import DecodeSettings
from transforms.sources.base import Item
from transforms.storage.errors import StorageFailed


class Reader:
    """Reads chosen examples of an input, some shards at once, each from its first to its last example that is due."""

    def __init__(self, source: Input, examples: Examples):
        self._source = source
        self._examples = examples

    def read(self, wanted: np.ndarray) -> Iterator[tuple[int, Item]]:
        """(example, item), in the order `wanted`, in which the examples of each shard ascend. Raises StorageFailed."""
        shards, positions = self._examples.shards[wanted], self._examples.positions[wanted]
        by_shard = np.argsort(shards, kind="stable")
        borders = np.flatnonzero(np.diff(shards[by_shard])) + 1
        due = {int(shards[rows[0]]): positions[rows] for rows in np.split(by_shard, borders) if len(rows)}
        left = {shard: len(rows) for shard, rows in due.items()}
        streams: dict[int, Iterator[Item]] = {}
        for example, shard, position in zip(
            wanted.tolist(), shards.tolist(), positions.tolist(), strict=True
        ):
            if shard not in streams:
                streams[shard] = iter(self._source.read(self._source.shards[shard], set(due[shard].tolist())))
            item = next(streams[shard], None)
            if item is None or item.position != position:
                name = self._source.shards[shard].name
                raise StorageFailed(
                    f"{name} has changed since its examples were counted: example {position} is missing; start anew with "
                    "another --output",
                    self._source.shards[shard].source.uri,
                    None,
                )
            yield example, item
            left[shard] -= 1
            if not left[shard]:
                del streams[shard]


@dataclass(frozen=True)
class _Piece:
    """Rows of an update: examples to be decoded, or, with a `decoding` of None, to be taken from the cache."""

    step: int
    rows: list[int]
    examples: list[int]
    decoding: Decoding | None
    failures: dict[int, Failed]  # by row
    is_last: bool
    count: int  # of rows in the update


class Loader:
    """The batches of each update from a step on. Two threads work ahead of the caller: at most two updates are in memory.

    Attributes:
      failed: examples that could not be read, fetched or decoded, by shard and position.
    """

    def __init__(
        self,
        source: Input,
        examples: Examples,
        plan: Order,
        resolution: Resolution,
        decode: DecodeSettings,
        cache: bool,
        keep: bool,
        flip: bool = True,
    ):
        """`cache` keeps decoded pictures, `keep` what files hold, in memory after the first time; without `flip` no
        picture is mirrored."""
        self.failed: dict[tuple[str, int], Failed] = {}
        self._source, self._examples, self._plan, self._resolution = source, examples, plan, resolution
        self._decode, self._keep, self._flip = decode, keep or plan.repeats, flip
        side = resolution.resize
        self._cache = np.zeros((len(examples), side, side, 3), np.uint8) if cache else None
        self._is_cached = np.zeros(len(examples), bool)  # and decoded without a failure
        self._ended = threading.Event()

    def batches(self, step: int) -> Generator[Batch, None, None]:
        """The batch of the update `step`, and of those that follow, without end. To be closed."""
        users = feeders.acquire(self._decode)
        # Each piece holds a slot of pixels.
        pieces: queue.Queue[Any] = queue.Queue(
            2 + -(-2 * self._decode.processes_here * 16 // self._decode.batch_size)
        )
        ready: queue.Queue[Any] = queue.Queue(1)
        threads = [
            threading.Thread(target=self._work, args=(self._pieces(users, step), pieces), daemon=True),
            threading.Thread(
                target=self._work,
                args=(self._assembled(_taken(pieces, self._ended), step), ready),
                daemon=True,
            ),
        ]
        try:
            for thread in threads:
                thread.start()
            yield from _taken(ready, self._ended)
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()
            feeders.release(users)
            self._ended.clear()

    def _work(self, values: Iterator[Any], to: queue.Queue[Any]) -> None:
        def put(value: Any) -> bool:
            while not self._ended.is_set():
                try:
                    to.put(value, timeout=0.1)
                    return True
                except queue.Full:
                    pass
            return False

        try:
            for value in values:
                if not put(value):
                    return
        except BaseException as error:
            put(error)

    def _pieces(self, users: Feeders, step: int) -> Iterator[_Piece]:
        plan = self._plan
        submitted = np.zeros(len(self._examples), bool)  # and therefore in the cache, once it is their turn
        kept: dict[int, Item] = {}
        held: dict[int, Item] = {}
        reads: Iterator[tuple[int, Item]] = iter(())
        epoch = -1
        while True:
            wanted = plan.update(step)
            if epoch != plan.epoch_of(step):
                epoch, held = plan.epoch_of(step), {}
                reads = self._reads(epoch, step, submitted, kept)

            def item_of(example: int) -> Item:
                while example not in held and example not in kept:  # noqa: B023
                    at, item = next(reads)  # noqa: B023
                    (kept if self._keep else held)[at] = item  # noqa: B023
                return kept[example] if example in kept else held.pop(example)  # noqa: B023

            for start in range(0, len(wanted), self._decode.batch_size):
                rows = range(start, min(start + self._decode.batch_size, len(wanted)))
                stored = [row for row in rows if self._cache is not None and submitted[wanted[row]]]
                fresh = [row for row in rows if row not in set(stored)]
                items = {row: item_of(int(wanted[row])) for row in fresh}
                submitted[wanted[fresh]] = self._cache is not None
                if self._cache is not None:  # no need for the files' contents any more
                    for row in fresh:
                        kept.pop(int(wanted[row]), None)
                yield self._piece(users, step, wanted, items, stored, rows.stop == len(wanted))
            step += 1

    def _piece(
        self,
        users: Feeders,
        step: int,
        wanted: np.ndarray,
        items: dict[int, Item],
        stored: list[int],
        is_last: bool,
    ) -> _Piece:
        failures = {
            row: self._failure(wanted[row], item) for row, item in items.items() if isinstance(item, Failure)
        }
        images = {row: item for row, item in items.items() if not isinstance(item, Failure)}
        decoding = users.submit(list(images.values())) if images else None
        rows = [*images, *stored]
        return _Piece(
            step, rows, [int(wanted[row]) for row in rows], decoding, failures, is_last, len(wanted)
        )

    def _reads(
        self, epoch: int, step: int, submitted: np.ndarray, kept: dict[int, Item]
    ) -> Iterator[tuple[int, Item]]:
        """What has yet to be read in this epoch."""
        plan = self._plan
        read, seen = plan.epoch(epoch)
        due = np.ones(len(read), bool)
        if not plan.repeats:
            due[seen[: (step - epoch * plan.updates_per_epoch) * plan.batch]] = False
        due[list(kept)] = False
        due &= ~submitted
        return Reader(self._source, self._examples).read(read[due[read]])

    def _assembled(self, pieces: Iterator[_Piece], step: int) -> Iterator[Batch]:
        side = self._resolution.resize
        while True:
            piece = next(pieces)
            count = piece.count
            pixels, present = np.zeros((count, side, side, 3), np.uint8), np.zeros(count, bool)
            examples = self._plan.update(step)
            while True:
                self._put(piece, pixels, present)
                if piece.is_last:
                    break
                piece = next(pieces)
            corners, flips = order.crops_and_flips(self._plan.seed, step, count, side, self._resolution.crop)
            yield Batch(pixels, self._examples.classes[examples], corners, flips & self._flip, present)
            step += 1

    def _put(self, piece: _Piece, pixels: np.ndarray, present: np.ndarray) -> None:
        results = piece.decoding.wait() if piece.decoding else []
        for index, (row, example) in enumerate(zip(piece.rows, piece.examples, strict=True)):
            if index >= len(results):
                assert self._cache is not None
                pixels[row], present[row] = self._cache[example], self._is_cached[example]
                continue
            result = results[index]
            if not isinstance(result, Decoded):
                piece.failures[row] = self._failure(example, result)
                continue
            assert piece.decoding
            # Rounded to whole levels as in the authors' PyTorch version: a quarter of the memory, in the cache too.
            np.rint(piece.decoding.pixels[result.row], out=piece.decoding.pixels[result.row])
            pixels[row], present[row] = piece.decoding.pixels[result.row], True
            if self._cache is not None:
                self._cache[example], self._is_cached[example] = pixels[row], True
        for failed in piece.failures.values():
            self.failed.setdefault((failed.shard, failed.position), failed)

    def _failure(self, example: int, failure: Failure) -> Failed:
        return failure_of(self._source.shards[self._examples.shards[example]], failure)


def _taken(values: queue.Queue[Any], ended: threading.Event) -> Iterator[Any]:
    while not ended.is_set():
        try:
            value = values.get(timeout=0.1)
        except queue.Empty:
            continue
        if isinstance(value, BaseException):
            raise value
        yield value


def decoded(
    source: Input, examples: Examples, settings: DecodeSettings, failed: Callable[[Failed], None]
) -> Generator[tuple[np.ndarray, np.ndarray, np.ndarray], None, None]:
    """All examples once, in order, as the job sees them: (float32 (batch_size, side, side, 3), rows, examples) of each batch."""
    users = feeders.acquire(settings)
    try:
        ahead: list[tuple[Decoding, list[int]]] = []
        items: list[Any] = []
        at: list[int] = []
        for example, item in Reader(source, examples).read(np.arange(len(examples))):
            if isinstance(item, Failure):
                failed(failure_of(source.shards[examples.shards[example]], item))
                continue
            items.append(item)
            at.append(example)
            if len(items) == settings.batch_size:
                ahead.append((users.submit(items), at))
                items, at = [], []
                if len(ahead) > 2:
                    yield _waited(*ahead.pop(0), source, examples, failed)
        if items:
            ahead.append((users.submit(items), at))
        for one in ahead:
            yield _waited(*one, source, examples, failed)
    finally:
        feeders.release(users)


def _waited(
    decoding: Decoding, at: list[int], source: Input, examples: Examples, failed: Callable[[Failed], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, of = [], []
    for row, (result, example) in enumerate(zip(decoding.wait(), at, strict=True)):
        if isinstance(result, Decoded):
            rows.append(row)
            of.append(example)
        else:
            failed(failure_of(source.shards[examples.shards[example]], result))
    return decoding.pixels, np.array(rows, int), np.array(of, int)
