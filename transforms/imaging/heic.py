"""HEIC, as phones write it: the still picture, decoded by pillow-heif (extra `heic`), that is, by libheif and libde265."""

from __future__ import annotations

import functools
import io
import re
from types import ModuleType

import numpy as np

from transforms.errors import ItemError
from transforms.imaging import heif, pillow
from transforms.imaging.base import Format, Stored
from transforms.imaging.hevc import check_frames

_CODEC = heif.Codec("HEIC", b"heic", b"hvc1", b"hvcC", check_frames, is_cropped=True)


@functools.cache
def _library() -> ModuleType:
    """Imported by those who decode such a picture."""
    try:
        import pillow_heif
    except ImportError as error:
        raise ItemError(
            "unsupported_format",
            "HEIC needs another package: install the extra, bit-features[heic], wherever images are decoded",
        ) from error
    pillow_heif.options.DECODE_THREADS = 1  # per picture: the job decodes several at once
    return pillow_heif


def decode(stored: Stored, least_side: int) -> np.ndarray:
    """The pixels as pillow-heif gives them."""
    image = _library().open_heif(io.BytesIO(stored.data))
    pixels = np.asarray(image) if image.mode == "RGB" else pillow.pixels_of(image.to_pillow())
    if pixels.shape[:2] != (stored.height, stored.width):  # a crop beyond the picture, too
        raise heif.two_sizes("HEIC", (stored.width, stored.height), pixels.shape[1::-1])
    return pixels


FORMAT = Format(
    "HEIC",
    # The first brand, also that of a sequence, or one of the compatible brands.
    re.compile(rb"....ftyp(he[iv][cx]|.{8}([ -~]{4})*?hei[cx])", re.DOTALL),
    (".heic", ".heif", ".hif"),
    lambda data: heif.reduce(data, _CODEC),
    decode,
    ("pillow-heif",),
)
