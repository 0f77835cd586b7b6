"""Small pictures of the sample, read again by the job's own sources, as WebP within a given space."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from pipeline.look.scan import Row
from transforms.sources import pictures
from transforms.sources.pictures import ShardPictures

_SIDES = ((1000, 128), (2500, 96), (1 << 62, 64))  # up to how many pictures, side in pixels
_QUALITIES = (75, 50, 25, 5)
_LARGEST_BYTES = 8192  # of one picture, where there is room
_THREADS = 4  # shards read at once: their pictures may be far away


def read(rows: Sequence[Row], found: Mapping[str, ShardPictures], room: int) -> list[str]:
    """The thumbnail of each row as WebP in base64, '' where it cannot be read any more; at most `room` bytes in all."""
    if not rows:
        return []
    most = min(_LARGEST_BYTES, room // len(rows) // 4 * 3)
    side = next(side for count, side in _SIDES if len(rows) <= count)
    by_shard: dict[str, dict[int, int]] = {}
    for number, row in enumerate(rows):
        if row.label in found:
            by_shard.setdefault(row.label, {})[row.index] = number

    def of_shard(label: str) -> list[tuple[int, str]]:
        numbers = by_shard[label]
        digests = {index: rows[number].sha256 for index, number in numbers.items()}
        tiles = pictures.thumbnails(found[label], digests, side)
        return [(numbers[index], base64.b64encode(webp(tile, most)).decode()) for index, tile in tiles]

    out = [""] * len(rows)
    with ThreadPoolExecutor(_THREADS, "pictures") as pool:
        for thumbnails in pool.map(of_shard, by_shard):
            for number, text in thumbnails:
                out[number] = text
    return out


def webp(tile: np.ndarray, most: int) -> bytes:
    """A picture, uint8 (side, side, 3), as WebP of at most `most` bytes; b'' if no quality is as small as that."""
    for quality in _QUALITIES:
        out = io.BytesIO()
        Image.fromarray(tile).save(out, "WEBP", quality=quality, method=4)
        if out.tell() <= most:
            return out.getvalue()
    return b""
