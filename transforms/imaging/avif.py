"""AVIF 1.1: the still picture of a file, animated or not, decoded by Pillow, that is, by libavif and dav1d."""

from __future__ import annotations

import re

import numpy as np
from PIL import AvifImagePlugin, features

from transforms.errors import ItemError
from transforms.imaging import heif, pillow
from transforms.imaging.av1 import check_frames
from transforms.imaging.base import Format, Stored

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # per picture: the job decodes several at once

_CODEC = heif.Codec("AVIF", b"avif", b"av01", b"av1C", lambda configuration, *picture: check_frames(*picture))


def decode(stored: Stored, least_side: int) -> np.ndarray:
    """The pixels as Pillow gives them."""
    if not features.check("avif"):
        raise ItemError("unsupported_format", "this build of Pillow reads no AVIF; install the one from PyPI")
    image = pillow.opened(stored.data, "AVIF")
    if image.size != (stored.width, stored.height):
        raise heif.two_sizes("AVIF", (stored.width, stored.height), image.size)
    return pillow.pixels_of(image)


FORMAT = Format(
    "AVIF",
    # The first brand, or one of the compatible brands: those are printable, and what follows them is not.
    re.compile(rb"....ftyp(avi[fs]|(mif1|msf1)....([ -~]{4})*?avi[fs])", re.DOTALL),
    (".avif", ".avifs"),
    lambda data: heif.reduce(data, _CODEC),
    decode,
    ("pillow",),
)
