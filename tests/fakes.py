"""Values and stand-ins that tests of several steps share."""

from __future__ import annotations

import types

import numpy as np

from transforms.elements import Decoded, Encoded, Failure, FeatureChunk, PixelChunk, Shard
from transforms.sources.tfrecord import RecordFile

SHARD = Shard(1, 3, RecordFile("in.tfrecord", 100, 0.0), "in.tfrecord")


def good(position, data=b"x"):
    """An encoded image."""
    return Encoded(b"k%d" % position, position, data)


def bad(position):
    """An input that could not be read."""
    return Failure(b"k%d" % position, position, "read", "code", "why")


class FakeModel:
    """Means of each picture; raises or gives NaN for pictures that hold certain values."""

    identity = types.MappingProxyType({"route": "fake"})

    def __init__(self):
        self.calls = 0

    def __call__(self, pixels):
        self.calls += 1
        if (pixels == 13).any():
            raise RuntimeError("unlucky")
        means = pixels.mean((1, 2, 3))
        return {"embedding": np.where(means == 7, np.nan, means)[:, None].astype(np.float32)}

    def in_float32(self, pixels):
        return None


def pixel_chunk(values):
    """A chunk of pictures that hold one value each, in a batch of eight."""
    pixels = np.zeros((8, 2, 2, 3), np.float32)
    items = []
    for row, value in enumerate(values):
        pixels[row] = value
        items.append(Decoded(b"k%d" % row, row, row, 1, 1, ""))
    return PixelChunk(SHARD, 0, True, tuple(items), pixels)


def feature_chunk(position, count, last=False, shard=SHARD):
    """A chunk of `count` features, in a batch of four."""
    items = tuple(Decoded(b"k%d" % (position + i), position + i, i, 1, 1, "") for i in range(count))
    return FeatureChunk(shard, position, last, items, {"embedding": np.ones((4, 2), np.float32)}, {})
