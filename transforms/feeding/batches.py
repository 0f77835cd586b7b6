"""A batch of images that is being decoded, and the pieces of it that feeders are given."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from transforms.elements import Decoded, Encoded, Failure, Record

Image = Encoded | Record
_PIECE_IMAGES = 32  # each costs this process a wake-up; feeders idle at the end of a chunk if they are larger
_PIECE_BYTES = 8 << 20


class Batch:
    """Images in order of their rows; `pixels` is float32 (batch_size, side, side, 3), complete once `wait` returns."""

    def __init__(self, images: Sequence[Image], slot: int, pixels: np.ndarray):
        self.images = images
        self.slot = slot
        self.pixels = pixels
        self._results: list[Decoded | Failure | None] = [None] * len(images)
        self._left = len(images)
        self._done = threading.Event()
        self._error: BaseException | None = None

    def wait(self) -> list[Decoded | Failure]:
        """The results by row, once all are there. Raises what is not an image's fault."""
        self._done.wait()
        if self._error:
            raise self._error
        return self._results  # type: ignore[return-value]  # all are there

    def put(self, rows: Sequence[int], results: Sequence[Decoded | Failure]) -> None:
        """Adds the results of some rows; called once for each row."""
        for row, result in zip(rows, results, strict=True):
            self._results[row] = result
        self._left -= len(rows)
        if not self._left:
            self._done.set()

    def fail(self, error: BaseException) -> None:
        """Ends the wait with an error, unless all results are there."""
        if self._left:
            self._error = self._error or error
            self._done.set()


@dataclass(frozen=True)
class Piece:
    """Rows of a batch that one feeder decodes. `deaths`: of feeders by its image, if it has been singled out."""

    batch: Batch
    rows: Sequence[int]
    deaths: int = 0

    @cached_property
    def images(self) -> list[Image]:
        """In the order of `rows`."""
        return [self.batch.images[row] for row in self.rows]


def pieces(batch: Batch, feeders: int) -> Iterator[Piece]:
    """The pieces of a batch, of about equal numbers of images for each of the feeders."""
    count = min(_PIECE_IMAGES, -(-len(batch.images) // feeders))
    sizes = [len(image.data) for image in batch.images]
    start = 0
    while start < len(sizes):
        end = min(start + count, len(sizes))
        while end > start + 1 and sum(sizes[start:end]) > _PIECE_BYTES:
            end -= 1
        yield Piece(batch, range(start, end))
        start = end
