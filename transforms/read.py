"""ReadShards: a shard in, its images as encoded chunks out, in input order."""

from __future__ import annotations

import itertools
import posixpath
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import cast

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

import transforms.coders  # noqa: F401  # registers the coder of the chunks
from transforms import counters
from transforms.commit.retry import EVERY
from transforms.elements import Encoded, EncodedChunk, Failure, RecordFile, Shard, UriSlice
from transforms.errors import ItemError
from transforms.fetching.fetcher import Fetcher
from transforms.fetching.settings import FetchSettings
from transforms.fetching.uris import public_uri
from transforms.records import examples, tfrecord
from transforms.sources import uri_list
from transforms.sources.identity import Summed
from transforms.storage import door
from transforms.storage.reading import Reader

Item = Encoded | Failure


@dataclass(frozen=True)
class ReadSettings:
    """How inputs are read. `batch_size` is the number of images in a full chunk."""

    batch_size: int
    image_feature: str = "image/encoded"
    key_feature: str = ""  # '' for the default key, 'input-name#position'
    uri_column: str = "uri"
    pass_through: tuple[str, ...] = ()
    fetch: FetchSettings = field(default_factory=FetchSettings)

    @property
    def columns(self) -> uri_list.Columns:
        extra = (self.key_feature,) if self.key_feature and self.key_feature not in self.pass_through else ()
        return uri_list.Columns(self.uri_column, self.pass_through + extra)


def record_items(
    shard: Shard, source: RecordFile, settings: ReadSettings, due: Container[int] = EVERY
) -> Generator[Item, None, RecordFile]:
    """The images at the positions `due` of a TFRecord file; damage and unusable records as failures.

    Returns the file with its sum.
    """
    watched: list[Summed] = []

    def watch(reader: Reader) -> Summed:
        watched.append(Summed(reader, source))
        return watched[0]

    with door.open_input(source.uri, source.start, watch) as stream:
        seen = source.start
        in_file = not door.is_compressed(stream)
        aligned = source.first is not None
        for position, found in enumerate(tfrecord.read(stream, source.start, source.end, aligned)):
            if in_file:
                counters.PROCESS.add(units=found.offset - seen)
                seen = found.offset
            if position not in due:
                continue
            key = _default_key(shard.name, source, position)
            if isinstance(found, tfrecord.Damage):
                where = f"{found.length} bytes at offset {found.offset} of {public_uri(source.uri)}"
                yield Failure(key, position, "read", "damaged_record", f"{found.reason}: {where}")
                continue
            try:
                example = examples.parse(found.data)
                if settings.key_feature:
                    key = examples.key_of(example, settings.key_feature)
                image = examples.one_bytes(example, settings.image_feature)
            except ItemError as error:
                yield Failure(key, position, "read", error.code, str(error))
            else:
                yield Encoded(key, position, image, examples.select(example, settings.pass_through))
        counters.PROCESS.add(units=(source.end or source.size_bytes) - seen)
        return watched[0].finish()


def _default_key(name: str, source: RecordFile, position: int) -> bytes:
    """`name#position` in the whole file; `name[start]#position` in a range whose place was not counted."""
    stem = (
        f"{name}[{source.start}]#{position}" if source.first is None else f"{name}#{source.first + position}"
    )
    return stem.encode("utf-8", "surrogateescape")


def fetched_items(
    source: UriSlice,
    settings: ReadSettings,
    fetch: Callable[[str], bytes],
    pool: ThreadPoolExecutor,
    due: Container[int] = EVERY,
    limit: int | None = None,
) -> Iterator[Item]:
    """The images of a list's rows `due`, fetched ahead on `pool` within a bounded window, in the list's order.

    `limit` is how many rows are looked at.
    """
    ahead = 2 * max(settings.batch_size, settings.fetch.concurrency)
    waiting: deque = deque()
    try:
        for position, row in enumerate(itertools.islice(uri_list.rows(source, settings.columns), limit)):
            if position not in due:
                continue
            waiting.append(pool.submit(_fetch_row, position, row, source, settings, fetch))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _fetch_row(
    position: int, row: uri_list.Row, source: UriSlice, settings: ReadSettings, fetch: Callable[[str], bytes]
) -> Item:
    key = f"{posixpath.basename(source.uri)}[{source.start}]#{position}".encode("utf-8", "surrogateescape")
    try:
        if row.error:
            raise row.error
        key = _row_key(row, settings)
        passed = examples.from_columns({n: row.columns[n] for n in settings.pass_through if n in row.columns})
    except ItemError as error:
        return Failure(key, position, "read", error.code, str(error))
    except (ValueError, OverflowError) as error:  # text that is no Unicode, a number beyond 64 bits
        return Failure(key, position, "read", "bad_row", f"a value cannot be stored: {error}")
    began = time.monotonic()
    try:
        data = fetch(row.uri)
    except ItemError as error:
        return Failure(key, position, "fetch", error.code, str(error))
    finally:
        counters.PROCESS.add(fetch_seconds=time.monotonic() - began)
    return Encoded(key, position, data, passed)


def _row_key(row: uri_list.Row, settings: ReadSettings) -> bytes:
    """The key of a row: its URI, or what its key column holds; never with the signature of a signed URL."""
    value: object = row.uri
    if settings.key_feature:
        value = row.columns.get(
            settings.key_feature, row.uri if settings.key_feature == settings.uri_column else None
        )
        if value is None or value == "":
            raise ItemError(
                "missing_feature", f"the row has nothing in its key column {settings.key_feature!r}"
            )
    text = str(value)
    return (public_uri(text) if "://" in text else text).encode("utf-8", "surrogateescape")


def chunks(shard: Shard, items: Iterable[Item], batch_size: int) -> Iterator[EncodedChunk]:
    """Groups items so that a chunk has `batch_size` images, failures not counted; the last one says so.

    Failures travel in the chunk at their place. A run of them does not grow a chunk without bound. The shard of the
    last chunk has the source that `items` returned, if they did.
    """
    source = shard.source

    def to_the_end() -> Iterator[Item]:
        nonlocal source
        source = (yield from cast(Generator[Item, None, RecordFile | None], items)) or source

    held: list[Item] = []
    start = images = 0
    for item in to_the_end():
        if images == batch_size or len(held) == 8 * batch_size:
            yield EncodedChunk(shard, start, False, tuple(held))
            start, images, held = start + len(held), 0, []
        held.append(item)
        images += isinstance(item, Encoded)
    yield EncodedChunk(replace(shard, source=source), start, True, tuple(held))


class ReadShards(beam.DoFn):
    """Shard -> EncodedChunk... Skips a shard that was committed meanwhile, as by another attempt.

    A chunk is passed on while a thread reads the one behind it. So the last chunk of a shard is passed on while the
    next shard is opened, and that of the last shard by `finish_bundle`.

    Args:
      settings: how to read.
      due: the positions in a shard that are to be done, or None if it is committed.
    """

    def __init__(self, settings: ReadSettings, due: Callable[[Shard], Container[int] | None]):
        self._settings = settings
        self._due = due

    def setup(self):
        self._fetcher, self._pool = _fetching(self._settings.fetch)
        self._thread = ThreadPoolExecutor(1, "read")

    def start_bundle(self):
        self._held: EncodedChunk | None = None

    def process(self, shard: Shard) -> Iterator[EncodedChunk]:
        due = self._due(shard)
        if due is None:
            return
        if isinstance(shard.source, RecordFile):
            items: Iterable[Item] = record_items(shard, shard.source, self._settings, due)
        else:
            items = fetched_items(shard.source, self._settings, self._fetcher.fetch, self._pool, due)
        found = chunks(shard, items, self._settings.batch_size)
        while True:
            reading = self._thread.submit(_next, found)
            yield from self._pass_on()
            began = time.monotonic()
            self._held = reading.result()
            counters.PROCESS.waited("read", began)
            if self._held.is_last:
                return

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for chunk in self._pass_on():
            yield WindowedValue(chunk, MIN_TIMESTAMP, (GlobalWindow(),))

    def teardown(self):
        self._thread.shutdown(wait=False)

    def _pass_on(self) -> Iterator[EncodedChunk]:
        chunk, self._held = self._held, None
        if chunk is not None:  # an empty one counts
            by_row = len(chunk.items) if isinstance(chunk.shard.source, UriSlice) else 0
            counters.PROCESS.add(in_images=len(chunk.items), units=by_row)
            yield chunk


def _next(chunks_read: Iterator[EncodedChunk]) -> EncodedChunk:
    began = time.monotonic()
    chunk = next(chunks_read)
    counters.PROCESS.add(read_seconds=time.monotonic() - began)
    return chunk


_FETCHING_LOCK = threading.Lock()
_FETCHING: dict[FetchSettings, tuple[Fetcher, ThreadPoolExecutor]] = {}


def _fetching(settings: FetchSettings) -> tuple[Fetcher, ThreadPoolExecutor]:
    """The client and threads of this process, however many DoFn instances a runner makes: their limits hold for it."""
    with _FETCHING_LOCK:
        if settings not in _FETCHING:
            _FETCHING[settings] = Fetcher(settings), ThreadPoolExecutor(settings.concurrency, "fetch")
        return _FETCHING[settings]
