"""DecodeImages: encoded chunks in, pixel chunks out, decoded ahead on a thread pool while the model runs."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from transforms import images, tally
from transforms.elements import Decoded, Encoded, EncodedChunk, Failure, ItemError, PixelChunk

CHUNKS_AHEAD = 2


@dataclass(frozen=True)
class DecodeSettings:
    """How images become pixels. `threads` is per process; 0 stands for one a CPU."""

    preprocessing: images.Preprocessing
    batch_size: int
    threads: int = 0


_POOL_LOCK = threading.Lock()
_POOLS: dict[int, ThreadPoolExecutor] = {}


def _pool(threads: int) -> ThreadPoolExecutor:
    """One pool a process, however many DoFn instances a runner makes."""
    with _POOL_LOCK:
        if threads not in _POOLS:
            _POOLS[threads] = ThreadPoolExecutor(threads or os.cpu_count() or 1, "decode")
        return _POOLS[threads]


def decode_item(
    item: Encoded, row: int, preprocessing: images.Preprocessing, pixels: np.ndarray
) -> Decoded | Failure:
    """Decodes one image into `pixels[row]`."""
    try:
        width, height = images.decode(item.data, preprocessing, pixels[row])
    except ItemError as error:
        pixels[row] = 0
        return Failure(item.key, item.position, "decode", error.code, str(error))
    return Decoded(
        item.key, item.position, row, width, height, hashlib.sha256(item.data).hexdigest(), item.passed
    )


@dataclass(frozen=True)
class _Pending:
    """A chunk whose images are being decoded."""

    chunk: EncodedChunk
    pixels: np.ndarray
    items: tuple[Future | Failure, ...]

    def result(self) -> PixelChunk:
        items = tuple(item.result() if isinstance(item, Future) else item for item in self.items)
        pixels = self.pixels if any(isinstance(item, Decoded) for item in items) else None
        return PixelChunk(self.chunk.shard, self.chunk.position, self.chunk.is_last, items, pixels)


def submit(chunk: EncodedChunk, settings: DecodeSettings, pool: ThreadPoolExecutor) -> _Pending:
    """Starts decoding a chunk. Its images stand in rows 0, 1, ... in order, so an undecodable one leaves a zero row."""
    side = settings.preprocessing.image_size
    pixels = np.empty((settings.batch_size if len(chunk) else 0, side, side, 3), np.float32)
    pixels[len(chunk) :] = 0  # not all of it: clearing a batch takes the worker thread as long as reading it
    items: list[Future | Failure] = []
    row = 0
    for item in chunk.items:
        if isinstance(item, Failure):
            items.append(item)
        else:
            items.append(pool.submit(decode_item, item, row, settings.preprocessing, pixels))
            row += 1
    return _Pending(chunk, pixels, tuple(items))


class DecodeImages(beam.DoFn):
    """EncodedChunk -> PixelChunk, in order, a few chunks behind.

    What is still in flight at the end of a shard is emitted while the next shard is being decoded, so the model
    does not wait at shard boundaries; `finish_bundle` emits the rest.
    """

    def __init__(self, settings: DecodeSettings):
        self._settings = settings

    def start_bundle(self):
        self._pending: deque[_Pending] = deque()

    def process(self, chunk: EncodedChunk) -> Iterator[PixelChunk]:
        self._pending.append(submit(chunk, self._settings, _pool(self._settings.threads)))
        while len(self._pending) > CHUNKS_AHEAD:
            yield self._next()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._pending:
            yield WindowedValue(self._next(), MIN_TIMESTAMP, (GlobalWindow(),))

    def _next(self) -> PixelChunk:
        began = time.monotonic()
        chunk = self._pending.popleft().result()
        tally.PROCESS.add(decode_wait_seconds=time.monotonic() - began)
        return chunk
