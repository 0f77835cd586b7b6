"""DecodeImages: encoded chunks in, pixel chunks out, decoded ahead on a thread pool while the model runs.

Images are decoded on threads of this process, without a copy. A library that crashes takes the process with it, and a
thread that hangs in one cannot be ended. So a shard whose earlier attempt never ended, and an image that takes too
long, are decoded in separate processes (`imaging.isolated`): slower, with the same pixels, and a crash or hang there
costs one image. After the first such image, this process decodes everything that way.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

import transforms.coders  # noqa: F401  # registers the coder of the chunks
from transforms import counters
from transforms.elements import Decoded, Encoded, EncodedChunk, Failure, PixelChunk, Shard
from transforms.errors import ItemError
from transforms.imaging import isolated, preprocess

CHUNKS_AHEAD = 2
_LOOK_SECONDS = 1.0  # how often a wait for an image checks whether to go on waiting
_LETHAL = ("decoder_crash", "decode_timeout")


@dataclass(frozen=True)
class DecodeSettings:
    """How images become pixels. `threads` is per process; 0 means one per CPU."""

    preprocessing: preprocess.Preprocessing
    batch_size: int
    threads: int = 0
    timeout_seconds: float = 60.0  # of one image

    @property
    def threads_here(self) -> int:
        """The number of decoding threads per process on this machine."""
        return self.threads or os.cpu_count() or 1


_POOL_LOCK = threading.Lock()
_POOLS: dict[tuple[str, int], ThreadPoolExecutor] = {}


def _pool(name: str, threads: int) -> ThreadPoolExecutor:
    """One pool per name and process, however many DoFn instances a runner makes."""
    with _POOL_LOCK:
        if (name, threads) not in _POOLS:
            _POOLS[name, threads] = ThreadPoolExecutor(threads, name)
        return _POOLS[name, threads]


_distrusted = threading.Event()  # set once an image has crashed or hung a decoder


def _distrust(why: str) -> None:
    if not _distrusted.is_set():
        _distrusted.set()
        logging.getLogger(__name__).warning("%s; from here on images are decoded in separate processes", why)


def decode_item(
    item: Encoded,
    row: int,
    preprocessing: preprocess.Preprocessing,
    pixels: np.ndarray,
    isolated_seconds: float | None = None,
) -> Decoded | Failure:
    """Decodes one image into `pixels[row]`: in a separate process, limited to `isolated_seconds`, unless that is None."""
    try:
        if isolated_seconds is None:
            width, height = preprocess.decode(item.data, preprocessing, pixels[row])
        else:
            width, height = isolated.decode(item.data, preprocessing, isolated_seconds, pixels[row])
    except ItemError as error:
        pixels[row] = 0
        if error.code in _LETHAL:
            _distrust(f"{item.key.decode('utf-8', 'backslashreplace')}: {error.code}")
        return Failure(item.key, item.position, "decode", error.code, str(error))
    return Decoded(
        item.key, item.position, row, width, height, hashlib.sha256(item.data).hexdigest(), item.passed
    )


class _OnThreads:
    """The images of a chunk, decoded on threads of this process.

    Each thread takes the next image until there is none: to submit each image to the pool, and wake a thread for it,
    would take a tenth of the time that a small image needs.
    """

    def __init__(self, images_by_row: Sequence[Encoded], settings: DecodeSettings, pixels: np.ndarray):
        self._settings = settings
        self._left = deque(enumerate(images_by_row))
        self._count = len(images_by_row)
        self._began: dict[int, tuple[float, Encoded]] = {}  # what each thread is decoding
        self._outcomes: dict[int, Decoded | Failure] = {}  # by row
        threads = min(settings.threads_here, len(images_by_row))
        pool = _pool("decode", settings.threads_here)
        self._futures = [pool.submit(self._work, number, pixels) for number in range(threads)]

    def _work(self, number: int, pixels: np.ndarray) -> None:
        began = time.monotonic()
        while True:
            try:
                row, item = self._left.popleft()
            except IndexError:
                counters.PROCESS.add(decode_seconds=time.monotonic() - began)
                return
            self._began[number] = time.monotonic(), item
            self._outcomes[row] = decode_item(item, row, self._settings.preprocessing, pixels)

    def outcomes(self) -> dict[int, Decoded | Failure]:
        """By row, without the images that were given up: those that take too long, and those waiting behind them."""
        for number, future in enumerate(self._futures):
            if len(self._outcomes) == self._count:  # the threads only have to notice that the queue is empty
                break
            if self._ended(number, future):
                future.result()  # raises what is not an image's fault
        return dict(self._outcomes)

    def _ended(self, number: int, future: Future) -> bool:
        seconds = self._settings.timeout_seconds
        while not future.done() and not wait([future], min(_LOOK_SECONDS, seconds)).done:
            began, item = self._began.get(number, (0.0, None))
            if item and time.monotonic() - began > seconds:
                key = item.key.decode("utf-8", "backslashreplace")
                _distrust(f"{key}: decoding takes longer than {seconds:g} s")
                self._left.clear()
                return future.done()
            if _distrusted.is_set():
                self._left.clear()
                if future.cancel():
                    return False
        return True


@dataclass(frozen=True)
class _Pending:
    """A chunk whose images are being decoded, on threads of this process or in separate ones."""

    chunk: EncodedChunk
    settings: DecodeSettings
    pixels: np.ndarray
    decoding: _OnThreads | list[Future]

    def result(self) -> PixelChunk:
        images_by_row = _images(self.chunk)
        pixels = self.pixels
        if isinstance(self.decoding, _OnThreads):
            outcomes = self.decoding.outcomes()
            late = [row for row in range(len(images_by_row)) if row not in outcomes]
            if late:
                pixels = pixels.copy()  # threads that were given up may still write into the old array
                again = {row: _isolated(images_by_row[row], row, self.settings, pixels) for row in late}
                outcomes |= {row: future.result() for row, future in again.items()}
        else:
            outcomes = {row: future.result() for row, future in enumerate(self.decoding)}
        rows = iter(range(len(images_by_row)))
        items = tuple(
            item if isinstance(item, Failure) else outcomes[next(rows)] for item in self.chunk.items
        )
        has_pixels = any(isinstance(item, Decoded) for item in items)
        return PixelChunk(
            self.chunk.shard, self.chunk.position, self.chunk.is_last, items, pixels if has_pixels else None
        )


def _images(chunk: EncodedChunk) -> list[Encoded]:
    return [item for item in chunk.items if isinstance(item, Encoded)]


def _isolated(item: Encoded, row: int, settings: DecodeSettings, pixels: np.ndarray) -> Future:
    def work() -> Decoded | Failure:
        began = time.monotonic()
        outcome = decode_item(item, row, settings.preprocessing, pixels, settings.timeout_seconds)
        counters.PROCESS.add(decode_seconds=time.monotonic() - began)
        return outcome

    return _pool("isolated", settings.threads_here).submit(work)


def submit(chunk: EncodedChunk, settings: DecodeSettings, isolate: bool = False) -> _Pending:
    """Starts decoding a chunk on threads of this process, or in separate processes if `isolate`.

    Its images take rows 0, 1, ... in order; an undecodable one leaves a zero row.
    """
    images_by_row, side = _images(chunk), settings.preprocessing.image_size
    pixels = np.empty((settings.batch_size if images_by_row else 0, side, side, 3), np.float32)
    # Only the unused rows: clearing a batch takes the worker thread as long as reading it.
    pixels[len(images_by_row) :] = 0
    decoding = (
        [_isolated(item, row, settings, pixels) for row, item in enumerate(images_by_row)]
        if isolate
        else _OnThreads(images_by_row, settings, pixels)
    )
    return _Pending(chunk, settings, pixels, decoding)


def _pixels(chunk: EncodedChunk, decoded: PixelChunk, image_size: int) -> dict[str, int]:
    """How many pixels were decoded, and how many of them in JPEGs that scaled decoding would decode at reduced size."""
    counts = {"pixels": 0, "scalable_pixels": 0}
    for item, outcome in zip(chunk.items, decoded.items, strict=True):
        if isinstance(item, Encoded) and isinstance(outcome, Decoded):
            counts["pixels"] += outcome.width * outcome.height
            if preprocess.can_scale(item.data, outcome.width, outcome.height, image_size):
                counts["scalable_pixels"] += outcome.width * outcome.height
    return counts


class DecodeImages(beam.DoFn):
    """EncodedChunk -> PixelChunk, in order, up to CHUNKS_AHEAD chunks behind.

    What is still in progress at the end of a shard is emitted while the next shard is being decoded, so the model
    does not wait at shard boundaries; `finish_bundle` emits the rest.

    Args:
      settings: how to decode.
      is_first_attempt: whether no attempt at a shard has begun before; called once per shard.
    """

    def __init__(self, settings: DecodeSettings, is_first_attempt: Callable[[Shard], bool]):
        self._settings = settings
        self._is_first_attempt = is_first_attempt

    def start_bundle(self):
        """Drops what a failed bundle left."""
        self._pending: deque[_Pending] = deque()
        self._isolate = False

    def process(self, chunk: EncodedChunk) -> Iterator[PixelChunk]:
        """Starts decoding a chunk and emits those that are due."""
        if chunk.position == 0:
            # A retry may contain the images that crashed a process before.
            self._isolate = chunk.shard.retry is not None or not self._is_first_attempt(chunk.shard)
        self._pending.append(submit(chunk, self._settings, self._isolate or _distrusted.is_set()))
        while len(self._pending) > CHUNKS_AHEAD:
            yield self._next()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Emits the chunks that are still being decoded."""
        while self._pending:
            yield WindowedValue(self._next(), MIN_TIMESTAMP, (GlobalWindow(),))

    def _next(self) -> PixelChunk:
        began = time.monotonic()
        pending = self._pending.popleft()
        chunk = pending.result()
        counts = _pixels(pending.chunk, chunk, self._settings.preprocessing.image_size)
        counters.PROCESS.waited("decode", began)
        counters.PROCESS.add(**counts)
        if chunk.is_last and not _distrusted.is_set():
            isolated.end_idle()
        return chunk
