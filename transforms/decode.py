"""DecodeImages: encoded chunks in, pixel chunks out, decoded ahead in other processes while the model runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

import transforms.coders  # noqa: F401  # registers the coder of the chunks
from transforms import counters
from transforms.elements import Decoded, EncodedChunk, Failure, PixelChunk
from transforms.feeding import feeders
from transforms.feeding.batches import Batch
from transforms.feeding.feeders import Feeders
from transforms.feeding.settings import DecodeSettings

CHUNKS_AHEAD = 2


@dataclass(frozen=True)
class Pending:
    """A chunk whose images are being decoded; `batch` is None if it has none."""

    chunk: EncodedChunk
    batch: Batch | None

    def result(self) -> PixelChunk:
        """Waits for the images. Those that cannot be decoded are failures. Raises what is not an image's fault."""
        chunk = self.chunk
        results = self.batch.wait() if self.batch else []
        items: tuple[Decoded | Failure, ...] = tuple(results)
        if len(results) < len(chunk.items):
            decoded = iter(results)
            items = tuple(item if isinstance(item, Failure) else next(decoded) for item in chunk.items)
        has_pixels = any(isinstance(item, Decoded) for item in items)
        pixels = self.batch.pixels if self.batch and has_pixels else None
        return PixelChunk(chunk.shard, chunk.position, chunk.is_last, items, pixels)


def submit(chunk: EncodedChunk, to: Feeders) -> Pending:
    """Begins to decode a chunk. Its images take rows 0, 1, ... in order; one that fails leaves a zero row."""
    images = [item for item in chunk.items if not isinstance(item, Failure)]
    return Pending(chunk, to.submit(images) if images else None)


class DecodeImages(beam.DoFn):
    """EncodedChunk -> PixelChunk, in order, up to CHUNKS_AHEAD chunks behind.

    What is still in progress at the end of a shard is emitted while the next shard is being decoded, so the model
    does not wait at shard boundaries; `finish_bundle` emits the rest.
    """

    def __init__(self, settings: DecodeSettings):
        self._settings = settings
        self._feeders: Feeders | None = None

    def setup(self):
        """Starts the feeders, which all instances in this process share."""
        self._feeders = self._feeders or feeders.acquire(self._settings)

    def start_bundle(self):
        """Drops what a failed bundle left."""
        self._pending: deque[Pending] = deque()

    def process(self, chunk: EncodedChunk) -> Iterator[PixelChunk]:
        """Begins to decode a chunk and emits those that are due."""
        assert self._feeders, "setup has not been called"
        self._pending.append(submit(chunk, self._feeders))
        while len(self._pending) > CHUNKS_AHEAD:
            yield self._next()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Emits the chunks that are still being decoded."""
        while self._pending:
            yield WindowedValue(self._next(), MIN_TIMESTAMP, (GlobalWindow(),))

    def teardown(self):
        """Ends the feeders, unless another instance uses them."""
        self._pending = deque()
        if self._feeders:
            feeders.release(self._feeders)
            self._feeders = None

    def _next(self) -> PixelChunk:
        began = time.monotonic()
        chunk = self._pending.popleft().result()
        counters.PROCESS.waited("decode", began)
        return chunk
