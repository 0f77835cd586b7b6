"""The batches of a training run: read, decoded in the feeders' processes and put together while the model trains."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bit.hyperrule import Resolution
from bit.training import Batch
from pipeline.finetune import order
from pipeline.finetune.examples import Examples, Input
from pipeline.finetune.failures import Failed, may_pass
from pipeline.finetune.order import Order
from transforms.elements import Decoded, Failure
from transforms.feeding import feeders
from transforms.feeding.batches import Batch as Decoding
from transforms.feeding.feeders import Feeders
from transforms.feeding.settings import DecodeSettings
from transforms.sources.base import Item
from transforms.storage.errors import StorageFailed

T = TypeVar("T")
_BLOCK = 1 << 16  # examples whose places are Python's numbers at a time
_NEVER = sys.maxsize  # epoch
_ENDING_SECONDS = 1.0  # for a thread that may wait for a host


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
        for example, shard, position in _triples(wanted, shards, positions):
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


def _triples(*columns: np.ndarray) -> Iterator[tuple[int, int, int]]:
    for start in range(0, len(columns[0]), _BLOCK):
        yield from zip(*(column[start : start + _BLOCK].tolist() for column in columns), strict=True)


class Update(NamedTuple):
    """What an update sees.

    Attributes:
      examples: int (n,), of the batch's rows.
      failed: those of them that were tried and could not be read, fetched or decoded. A row that is neither there nor
        among these failed before.
    """

    batch: Batch
    examples: np.ndarray
    failed: list[Failed]


@dataclass(frozen=True)
class _Piece:
    """Rows of an update: examples to be decoded, or, with a `decoding` of None, to be taken from the cache."""

    rows: list[int]
    examples: list[int]
    decoding: Decoding | None
    failures: list[Failed]
    is_last: bool
    count: int  # of rows in the update


class Loader:
    """The batches of each update from a step on. Two threads work ahead of the caller: at most two updates are in memory.

    A picture that is damaged or gone is not tried again. One that failed in epoch e for a reason that may pass is, from epoch
    2e + 1 on: so a dead host is asked in few epochs, and a picture that comes back is missed for half a run at most.
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
        self._source, self._examples, self._plan, self._resolution = source, examples, plan, resolution
        self._decode, self._keep, self._flip = decode, keep or plan.repeats, flip
        side = resolution.resize
        self._cache = np.zeros((len(examples), side, side, 3), np.uint8) if cache else None
        self._is_cached = np.zeros(len(examples), bool)  # and decoded without a failure
        self._due_from = np.zeros(len(examples), np.int64)  # the epoch; later ones only after a failure

    def batches(self, step: int, check: Callable[[], None]) -> Generator[Update, None, None]:
        """The update `step`, and those that follow, without end. To be closed. `check` is called while it waits."""
        users = feeders.acquire(self._decode)
        # Each piece holds a slot of pixels.
        slots = 2 + -(-2 * self._decode.processes_here * 16 // self._decode.batch_size)
        ended = threading.Event()
        pieces = ahead(self._pieces(users, step), slots, check, ended)
        updates = ahead(self._assembled(pieces, step), 1, check, ended)
        try:
            yield from updates
        finally:
            ended.set()
            feeders.release(users)  # a thread that waits for them then ends
            updates.close()

    def _pieces(self, users: Feeders, step: int) -> Generator[_Piece, None, None]:
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

            def item_of(example: int) -> Item | None:
                if self._due_from[example] > epoch:  # noqa: B023
                    for items in (held, kept):  # noqa: B023
                        items.pop(example, None)
                    return None
                while example not in held and example not in kept:  # noqa: B023
                    at, item = next(reads)  # noqa: B023
                    (kept if self._keep else held)[at] = item  # noqa: B023
                item = kept[example] if example in kept else held.pop(example)  # noqa: B023
                if isinstance(item, Failure):
                    kept.pop(example, None)
                    self._due_from[example] = 2 * epoch + 1 if may_pass(item) else _NEVER  # noqa: B023
                return item

            for start in range(0, len(wanted), self._decode.batch_size):
                rows = range(start, min(start + self._decode.batch_size, len(wanted)))
                stored = [row for row in rows if self._cache is not None and submitted[wanted[row]]]
                fresh = [row for row in rows if row not in set(stored)]
                items = {row: item_of(int(wanted[row])) for row in fresh}
                if self._cache is not None:  # no need for the files' contents any more
                    for row, item in items.items():
                        submitted[wanted[row]] |= item is not None and not isinstance(item, Failure)
                        kept.pop(int(wanted[row]), None)
                yield self._piece(users, wanted, items, stored, rows.stop == len(wanted))
            step += 1

    def _piece(
        self,
        users: Feeders,
        wanted: np.ndarray,
        items: dict[int, Item | None],
        stored: list[int],
        is_last: bool,
    ) -> _Piece:
        failures = [
            self._failure(wanted[row], item) for row, item in items.items() if isinstance(item, Failure)
        ]
        images = {
            row: item for row, item in items.items() if item is not None and not isinstance(item, Failure)
        }
        decoding = users.submit(list(images.values())) if images else None
        rows = [*images, *stored]
        return _Piece(rows, [int(wanted[row]) for row in rows], decoding, failures, is_last, len(wanted))

    def _reads(
        self, epoch: int, step: int, submitted: np.ndarray, kept: dict[int, Item]
    ) -> Iterator[tuple[int, Item]]:
        """What has yet to be read in this epoch."""
        plan = self._plan
        read, seen = plan.epoch(epoch)
        due = self._due_from <= epoch
        if not plan.repeats:
            due[seen[: (step - epoch * plan.updates_per_epoch) * plan.batch]] = False
        due[list(kept)] = False
        due &= ~submitted
        return Reader(self._source, self._examples).read(read[due[read]])

    def _assembled(self, pieces: Iterator[_Piece], step: int) -> Generator[Update, None, None]:
        side = self._resolution.resize
        for piece in pieces:
            count = piece.count
            pixels, present = np.zeros((count, side, side, 3), np.uint8), np.zeros(count, bool)
            failed = self._put(piece, pixels, present)
            while not piece.is_last:
                piece = next(pieces)
                failed += self._put(piece, pixels, present)
            examples = self._plan.update(step)
            corners, flips = order.crops_and_flips(self._plan.seed, step, count, side, self._resolution.crop)
            batch = Batch(pixels, self._examples.classes[examples], corners, flips & self._flip, present)
            yield Update(batch, examples, failed)
            step += 1

    def _put(self, piece: _Piece, pixels: np.ndarray, present: np.ndarray) -> list[Failed]:
        """Puts the rows of a piece in their places; returns what has failed."""
        results = piece.decoding.wait() if piece.decoding else []
        failed = [*piece.failures]
        for index, (row, example) in enumerate(zip(piece.rows, piece.examples, strict=True)):
            if index >= len(results):
                assert self._cache is not None
                pixels[row], present[row] = self._cache[example], self._is_cached[example]
                continue
            result = results[index]
            if not isinstance(result, Decoded):
                self._due_from[example] = _NEVER
                failed.append(self._failure(example, result))
                continue
            assert piece.decoding
            # Rounded to whole levels as in the authors' PyTorch version: a quarter of the memory, in the cache too.
            np.rint(piece.decoding.pixels[result.row], out=piece.decoding.pixels[result.row])
            pixels[row], present[row] = piece.decoding.pixels[result.row], True
            if self._cache is not None:
                self._cache[example], self._is_cached[example] = pixels[row], True
        return failed

    def _failure(self, example: int, failure: Failure) -> Failed:
        return self._source.failure(self._examples.shards[example], failure)


def ahead(
    values: Generator[T, None, None],
    depth: int,
    check: Callable[[], None],
    ended: threading.Event | None = None,
) -> Generator[T, None, None]:
    """The values, made in a thread, at most `depth` of them ahead of the caller. To be closed.

    `check` is called while it waits: what it raises ends the wait, though not a thread that waits for a host. Several that pass
    values on to each other share `ended`, which the last of them sets."""
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    over = ended or threading.Event()

    def put(value: Any, error: BaseException | None = None) -> bool:
        while not over.is_set():
            try:
                ready.put((value, error), timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def work() -> None:
        try:
            with closing(values):
                if all(put(value) for value in values):
                    put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while not over.is_set():
            check()
            try:
                value, error = ready.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield value
    finally:
        if ended is None:  # else what was raised here has yet to pass through the others
            over.set()
        thread.join(_ENDING_SECONDS)


class Pictures(NamedTuple):
    """Decoded examples: row `rows[i]` of `pixels`, float32 (batch_size, side, side, 3), is the example `examples[i]`."""

    pixels: np.ndarray
    rows: np.ndarray
    examples: np.ndarray
    keys: list[bytes]
    failed: list[Failed]


def decoded(source: Input, examples: Examples, settings: DecodeSettings) -> Generator[Pictures, None, None]:
    """All examples once, in order, as the job sees them, in batches of which some rows may be unused."""
    users = feeders.acquire(settings)
    try:
        waiting: list[tuple[Decoding, list[int]]] = []
        items: list[Any] = []
        at: list[int] = []
        failed: list[Failed] = []
        for example, item in Reader(source, examples).read(np.arange(len(examples))):
            if isinstance(item, Failure):
                failed.append(source.failure(examples.shards[example], item))
                continue
            items.append(item)
            at.append(example)
            if len(items) == settings.batch_size:
                waiting.append((users.submit(items), at))
                items, at = [], []
                if len(waiting) > 2:
                    yield _waited(*waiting.pop(0), source, examples)
        if items:
            waiting.append((users.submit(items), at))
        for one in waiting:
            yield _waited(*one, source, examples)
        if failed:
            none = np.zeros(0, int)
            yield Pictures(np.zeros((0, *settings.shape[1:]), np.float32), none, none, [], failed)
    finally:
        feeders.release(users)


def _waited(decoding: Decoding, at: list[int], source: Input, examples: Examples) -> Pictures:
    rows, of, keys, failed = [], [], [], []
    for row, (result, example) in enumerate(zip(decoding.wait(), at, strict=True)):
        if isinstance(result, Decoded):
            rows.append(row)
            of.append(example)
            keys.append(result.key)
        else:
            failed.append(source.failure(examples.shards[example], result))
    return Pictures(decoding.pixels, np.array(rows, int), np.array(of, int), keys, failed)
