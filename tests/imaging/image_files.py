"""Image files of every format, built from arrays, including those that no encoder here writes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image


def picture(width: int = 61, height: int = 47, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth colours with grain, uint8 (height, width, channels)."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width] / 9.0
    waves = [np.sin(x * random.uniform(0.2, 1) + y * random.uniform(0.2, 1) + c) for c in range(channels)]
    return np.clip(128 + 90 * np.stack(waves, 2) + random.normal(0, 9, (height, width, 1)), 0, 255).astype(
        np.uint8
    )


def save(pixels: np.ndarray | Image.Image, image_format: str, mode: str = "", **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.squeeze(pixels))
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, image_format, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def deep(pixels: np.ndarray, extension: str) -> bytes:
    """A file of uint16 samples in RGB order, which Pillow does not write."""
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(pixels.shape[2], [0])
    return cv2.imencode(extension, np.ascontiguousarray(pixels[..., order]))[1].tobytes()


def png(header: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks, with valid checksums."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def flat_png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """An all-white bilevel PNG in few bytes."""
    compressor = zlib.compressobj(9)
    row = b"\0" + b"\xff" * -(-width // 8)
    rows_at_once = max(1, (1 << 20) // len(row))
    body = b"".join(
        compressor.compress(row * min(rows_at_once, height - top)) for top in range(0, height, rows_at_once)
    )
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return png(header, *more, (b"IDAT", body + compressor.flush()))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP file of these chunks."""
    body = b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def gif(
    canvas: tuple[int, int],
    frame: np.ndarray,
    place: tuple[int, int] = (0, 0),
    palette: Sequence[tuple[int, int, int]] = ((10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200)),
    transparent: int | None = None,
    before: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    """A GIF with one frame of palette indices at `place` on its canvas, and `before` in front of the frame."""
    image = Image.fromarray(frame)
    image.putpalette(b"".join(bytes(colour) for colour in palette).ljust(768, b"\0"))
    encoded = save(image, "GIF", optimize=False, interlace=int(interlaced))
    start = encoded.index(b",", 13 + (3 << ((encoded[10] & 7) + 1)))
    bits = max(1, (len(palette) - 1).bit_length())
    parts = [b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x80 | (bits - 1), 0, 0)]
    parts.append(b"".join(bytes(colour) for colour in palette).ljust(3 << bits, b"\0"))
    if transparent is not None:
        parts.append(b"!\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0")
    height, width = frame.shape
    parts.append(before + b"," + struct.pack("<HHHHB", *place, width, height, 0x40 if interlaced else 0))
    return b"".join((*parts, encoded[start + 10 : -1], b";"))


def tiff(
    pixels: np.ndarray,
    photometric: int,
    order: str = "<",
    planes: int = 1,
    extra: Sequence[int] = (),
    more: Mapping[int, tuple[str, Sequence[int]]] | None = None,
) -> bytes:
    """An uncompressed TIFF of uint8 or uint16 samples, in one plane or several; `more` adds or replaces tags."""
    height, width, samples = pixels.shape
    stored = (
        (pixels.transpose(2, 0, 1) if planes == 2 else pixels)
        .astype(pixels.dtype.newbyteorder(order))
        .tobytes()
    )
    strips = samples if planes == 2 else 1
    tags: dict[int, tuple[str, Sequence[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8 * pixels.itemsize] * samples),
        259: ("H", [1]),
        262: ("H", [photometric]),
        273: ("I", [8 + i * len(stored) // strips for i in range(strips)]),
        277: ("H", [samples]),
        278: ("I", [height]),
        279: ("I", [len(stored) // strips] * strips),
        284: ("H", [planes]),
    }
    if extra:
        tags[338] = ("H", extra)
    tags |= more or {}
    table, outside = b"", b""
    outside_at = 8 + len(stored) + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        body = struct.pack(order + kind * len(values), *values)
        table += struct.pack(order + "HHI", tag, {"H": 3, "I": 4, "B": 1}[kind], len(values))
        if len(body) <= 4:
            table += body.ljust(4, b"\0")
        else:
            table += struct.pack(order + "I", outside_at + len(outside))
            outside += body
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "I", 8 + len(stored))
    return head + stored + struct.pack(order + "H", len(tags)) + table + bytes(4) + outside


def grey_jpeg_of_odd_sampling(side: int = 40) -> bytes:
    """A mid-grey JPEG whose chroma layout (2x1, 1x1, 2x1) TurboJPEG does not know."""
    model = save(np.full((side, side, 3), 128, np.uint8), "JPEG", subsampling="4:4:4")
    at = model.index(b"\xff\xc0")
    header = bytearray(model[: model.index(b"\xff\xda") + 14])
    for component, sampling in enumerate((0x21, 0x11, 0x21)):
        header[at + 11 + 3 * component] = sampling
    # Per block: no difference of the mean, end of block, in the Huffman codes of T.81, Annex K.
    luma, chroma = "001010", "0000"
    units = -(-side // 16) * -(-side // 8)
    bits = (luma * 2 + chroma * 3) * units
    bits += "1" * (-len(bits) % 8)
    return bytes(header) + int(bits, 2).to_bytes(len(bits) // 8, "big") + b"\xff\xd9"


def interlaced_png(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 (height, width, 3) in Adam7 order, unfiltered."""
    height, width = pixels.shape[:2]
    starts_and_steps = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    rows = []
    for left, top, right_step, down_step in starts_and_steps:
        part = pixels[top::down_step, left::right_step]
        if part.size:
            rows += [b"\0" + row.tobytes() for row in part]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return png(header, (b"IDAT", zlib.compress(b"".join(rows))))
