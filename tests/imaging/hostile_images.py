"""Decodes malicious image files, and good ones with random damage.

`python -m tests.imaging.hostile_images cases` decodes the files, `python -m tests.imaging.hostile_images COUNT [SEED]` that
many damaged ones, within a limit of CPU time, and prints the outcomes as JSON lines.
"""

from __future__ import annotations

import itertools
import json
import random
import resource
import struct
import sys
import zlib
from collections import Counter

import numpy as np
from PIL import Image

from tests.imaging import heif_files as avif
from tests.imaging import image_files as files
from tests.imaging.hostile_files import INDICES, MAX_PIXELS, cases
from transforms.errors import ItemError
from transforms.imaging.preprocess import Preprocessing, decode

SETTINGS = Preprocessing(image_size=32, exif_orientation="apply", max_pixels=MAX_PIXELS)
CPU_SECONDS_MAX = 600


def good_ones() -> list[bytes]:
    """Small good pictures of many kinds, to be damaged."""
    small = files.picture(29, 23)
    deep = np.random.RandomState(1).randint(0, 65536, (23, 29, 3)).astype(np.uint16)
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - small)]}

    def saved(image_format: str, *modes: str, **options) -> list[bytes]:
        return [files.save(small, image_format, mode, **options) for mode in modes or ("RGB",)]

    return [
        *saved("JPEG", "RGB", "L", "CMYK"),
        *saved("JPEG", progressive=True),
        *saved("JPEG", subsampling="4:4:4"),
        *saved("JPEG", restart_marker_blocks=1),
        *saved("JPEG", exif=files.exif(6)),
        files.grey_jpeg_of_odd_sampling(),
        *saved("PNG", "RGB", "L", "P", "1", "RGBA"),
        files.interlaced_png(small),
        files.deep(deep, ".png"),
        *saved("WEBP", "RGB", "RGBA"),
        *saved("WEBP", lossless=True),
        *saved("WEBP", **frames),
        *saved("GIF"),
        *saved("GIF", **frames),
        files.gif((20, 16), INDICES, (3, 7), transparent=1),
        files.gif((8, 24), np.tile(INDICES, (4, 1)), interlaced=True),
        *saved("BMP", "RGB", "P", "1", "RGBA"),
        *saved("TIFF", "RGB", "P", "CMYK"),
        *itertools.chain.from_iterable(saved("TIFF", compression=name) for name in _TIFF_COMPRESSIONS),
        *saved("TIFF", "1", compression="group3"),
        *saved("TIFF", "1", compression="group4"),
        *saved("TIFF", big_tiff=True),
        files.tiff(deep, 2, ">"),
        files.tiff(small, 2, planes=2),
        *saved("AVIF", "RGB", "RGBA", "L"),
        *saved("AVIF", subsampling="4:4:4"),
        *saved("AVIF", **frames),
        avif.avif(avif.grid(2, 1, 50, 23), *[avif.coded(small)] * 2, tiles=(2, 3)),
        *map(avif.heic_of, (small, np.ascontiguousarray(small[:23, :31]))),
        avif.heic(avif.grid(2, 1, 100, 60), *[avif.hevc(np.zeros((64, 64, 3), np.uint8))] * 2, tiles=(2, 3)),
    ]


_TIFF_COMPRESSIONS = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd", "jpeg")
_VALUES = [byte * count for byte in (b"\0", b"\xff") for count in (1, 2, 4)]
_VALUES += [b"\x7f\xff", b"\x80\0", b"\0\0\0\1", b"\1\0\0\0", b"\xff\xd9", b"\xff\xda"]


def damaged(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """One to six random changes."""
    new = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        at = chance.randrange(len(new)) if len(new) > 1 else 0
        if chance.random() < 0.5:
            at = min(at, chance.randrange(200))  # damage to headers does most harm
        kind, length = chance.randrange(8), chance.choice((1, 2, 4, 16, 100))
        if kind <= 2:
            new[at : at + 1] = bytes([(new[at] if new else 0) ^ 1 << chance.randrange(8)])
        elif kind == 3:
            value = chance.choice(_VALUES)
            new[at : at + len(value)] = value
        elif kind == 4:
            new[at : at + length] = chance.randbytes(length)
        elif kind == 5:
            del new[at : at + length]
        elif kind == 6:
            new[at:at] = new[at : at + length] * chance.choice((1, 2, 50))
        else:
            other = chance.choice(others)
            new[at:] = other[min(at, len(other)) :]
    return _with_right_checksums(bytes(new)) if chance.random() < 0.8 else bytes(new)


def _with_right_checksums(data: bytes) -> bytes:
    """A damaged PNG with valid checksums, so that the damage gets past them."""
    if not data.startswith(b"\x89PNG"):
        return data
    new, at = bytearray(data), 8
    while at + 12 <= len(new) and at + 12 + (size := int.from_bytes(new[at : at + 4], "big")) <= len(new):
        new[at + 8 + size : at + 12 + size] = struct.pack(">I", zlib.crc32(new[at + 4 : at + 8 + size]))
        at += 12 + size
    return bytes(new)


def outcome(data: bytes, pixels: np.ndarray) -> str:
    """'pixels', a failure code, or the error raised."""
    try:
        width, height = decode(data, SETTINGS, pixels)
    except ItemError as error:
        return error.code
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    if not (0 <= pixels.min() <= pixels.max() <= 255) or width * height > MAX_PIXELS:
        return f"{width} x {height} pixels from {pixels.min()} to {pixels.max()}"
    return "pixels"


def _peak_mib(reset: bool = False) -> int:
    """Peak memory of this process; since the last call with `reset`, if the system supports it."""
    try:
        with open("/proc/self/status") as status:
            peak = next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmHWM"))
        if reset:
            with open("/proc/self/clear_refs", "w") as switch:
                switch.write("5")
        return peak
    except OSError:
        unit = 20 if sys.platform == "darwin" else 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> unit


def main(what: str, seed: int = 1) -> None:
    resource.setrlimit(
        resource.RLIMIT_CPU, (CPU_SECONDS_MAX, CPU_SECONDS_MAX) if what == "cases" else (-1, -1)
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pixels = np.empty((SETTINGS.image_size, SETTINGS.image_size, 3), np.float32)
    if what == "cases":
        for name, data, expected in cases():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            base = _peak_mib(reset=True) and _peak_mib()
            result = outcome(data, pixels)
            seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
            line = {"name": name, "outcome": result, "expected": sorted(expected), "bytes": len(data)}
            print(json.dumps({**line, "seconds": seconds, "mib": _peak_mib() - base}), flush=True)
        return
    pictures, counts = good_ones(), Counter[str]()
    _peak_mib(reset=True)
    base = _peak_mib()
    for number in itertools.islice(itertools.count(), int(what)):
        chance = random.Random(f"{seed} {number}")
        data = damaged(chance.choice(pictures), pictures, chance)
        result = outcome(data, pixels)
        counts[result] += 1
        if counts[result] == 1:
            print(json.dumps({"number": number, "outcome": result, "data": data.hex()}), flush=True)
    print(json.dumps({"counts": counts, "mib": _peak_mib() - base}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
