"""Resizing to the bits of tf.image.resize, several times faster and without TensorFlow."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from transforms import native

_BAND_ROWS = 28  # of output: the float32 rows behind this many stay in a core's second-level cache


@dataclass(frozen=True)
class _Axis:
    """The two source pixels behind each output pixel along one side, and their weights; arrays of (side,)."""

    lower: np.ndarray  # int32
    upper: np.ndarray  # int32: the next pixel, or the same at the end
    share: np.ndarray  # float32: the weight of `upper`
    pointers: native.Axis


@functools.lru_cache(maxsize=1024)
def _axis(size: int, side: int) -> _Axis:
    # float32 from the first step, as in tensorflow/core/kernels/image/resize_bilinear_op.cc: the rounding matters.
    scale = np.float32(size) / np.float32(side)
    centres = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    below = np.floor(centres)
    lower = np.clip(below.astype(np.int32), 0, size - 1)
    upper = np.minimum(lower + 1, size - 1)
    # Before the first pixel, and exactly on a pixel, only one source pixel counts.
    share = np.where((below < 0) | (centres == below), np.float32(0), centres - below)
    inside = int(np.count_nonzero(lower < size - 2))
    return _Axis(lower, upper, share, native.Axis(lower.ctypes.data, share.ctypes.data, inside))


def resize(pixels: np.ndarray, out: np.ndarray) -> None:
    """Resizes to a square: bilinear, half-pixel centres, no antialiasing.

    Gives the bits of tf.image.resize(method='bilinear', antialias=False) on every processor, with and without the
    native code.

    Args:
      pixels: uint8 (height, width, 3); may be a flipped or transposed view.
      out: float32 (side, side, 3), C-contiguous; filled with values in [0, 255].

    Raises MemoryError if there is no memory for two rows.
    """
    rows, columns = _axis(pixels.shape[0], out.shape[0]), _axis(pixels.shape[1], out.shape[0])
    if native.LIBRARY is None:
        native.warn_missing()
        _resize_with_numpy(pixels, rows, columns, out)
        return
    pixels = np.ascontiguousarray(pixels)
    failed = native.LIBRARY.resize(
        pixels.ctypes.data, *pixels.shape[:2], out.shape[0], rows.pointers, columns.pointers, out.ctypes.data
    )
    if failed:
        raise MemoryError


def _resize_with_numpy(pixels: np.ndarray, rows: _Axis, columns: _Axis, out: np.ndarray) -> None:
    def across(band: np.ndarray) -> np.ndarray:
        left, right = (band[:, of].astype(np.float32) for of in (columns.lower, columns.upper))
        return left + (right - left) * columns.share[:, None]

    for start in range(0, len(out), _BAND_ROWS):
        band = slice(start, start + _BAND_ROWS)
        upper, lower = across(pixels[rows.lower[band]]), across(pixels[rows.upper[band]])
        out[band] = upper + (lower - upper) * rows.share[band, None, None]
