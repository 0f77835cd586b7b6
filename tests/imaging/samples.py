"""Files of every format that is read, by name; and of formats that are not, with their failure codes."""

import struct

import numpy as np
from PIL import Image

from tests.imaging import image_files as files
from tests.imaging.heif_files import heic_of
from tests.imaging.pictures import CLEAR, DEEP, INDICES, JPEG, RGB, RGBA, as_mode, high_byte, light

AS_TENSORFLOW = {
    "jpeg": JPEG,
    "jpeg 4:4:4": files.save(RGB, "JPEG", subsampling="4:4:4"),
    "jpeg progressive": files.save(RGB, "JPEG", progressive=True),
    "jpeg grey": files.save(RGB, "JPEG", "L"),
    "jpeg cmyk": files.save(RGB, "JPEG", "CMYK"),
    "jpeg cmyk without Adobe's marker": files.save(RGB, "JPEG", "CMYK").replace(b"Adobe", b"Nobod"),
    "jpeg odd sampling": files.grey_jpeg_of_odd_sampling(),
    "png": files.save(RGB, "PNG"),
    "png interlaced": files.interlaced_png(RGB),
    "png alpha": files.save(RGBA, "PNG"),
    "png grey": files.save(RGB, "PNG", "L"),
    "png grey alpha": files.save(RGBA, "PNG", "LA"),
    "png palette": files.save(RGB, "PNG", "P"),
    "png palette transparent": files.save(RGB, "PNG", "P", transparency=bytes(range(256))),
    "png 1 bit": files.save(RGB, "PNG", "1"),
    "png 16 bits": files.deep(DEEP[..., :3], ".png"),
    "png 16 bits alpha": files.deep(DEEP, ".png"),
    "png 16 bits grey": files.deep(DEEP[..., :1], ".png"),
    "webp": files.save(RGB, "WEBP"),
    "webp lossless": files.save(RGB, "WEBP", lossless=True),
    "gif": files.save(RGB, "GIF"),
    "gif interlaced": files.gif((8, 24), np.tile(INDICES, (4, 1)), interlaced=True),
    "gif transparent": files.gif((8, 6), INDICES, transparent=1),
    "gif grey": files.gif((8, 6), INDICES, palette=[(i, i, i) for i in range(4)]),
    "gif animated": files.save(RGB, "GIF", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
    "bmp": files.save(RGB, "BMP"),
    "bmp alpha": files.save(RGBA, "BMP"),
    "bmp grey": files.save(RGB, "BMP", "L"),
}
# What TensorFlow does not read, or reads differently: each file, and the pixels in it.
AS_STORED = {
    "png clear": (files.save(CLEAR, "PNG"), RGB),
    "webp clear": (files.save(CLEAR, "WEBP", lossless=True, exact=True), RGB),
    "webp animated": (
        files.save(RGB, "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        RGB,
    ),
    "bmp 1 bit": (files.save(RGB, "BMP", "1"), as_mode("1", "1")),
    "bmp palette": (files.save(RGB, "BMP", "P"), as_mode("P", "RGB")),
    "tiff bilevel": (files.save(RGB, "TIFF", "1", compression="group4"), as_mode("1", "1")),
    "tiff palette": (files.save(RGB, "TIFF", "P"), as_mode("P", "RGB")),
    "tiff cmyk lzw": (
        files.save(Image.frombytes("CMYK", (61, 47), RGBA.tobytes()), "TIFF", compression="tiff_lzw"),
        light(RGBA),
    ),
    "tiff cmyk 16 bits": (files.tiff(DEEP, 5), light(high_byte(DEEP))),
    "tiff of two pages": (
        files.save(RGB, "TIFF", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        RGB,
    ),
    "bigtiff": (files.save(RGB, "TIFF", big_tiff=True), RGB),
}
for _compression in ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma", "zstd"):
    AS_STORED[_compression] = (files.save(RGB, "TIFF", compression=_compression), RGB)
for _order in "<>":
    AS_STORED[f"tiff 16 bits {_order}"] = (files.tiff(DEEP[..., :3], 2, _order), high_byte(DEEP[..., :3]))
    AS_STORED[f"tiff 16 bits alpha {_order}"] = (
        files.tiff(DEEP, 2, _order, extra=[2]),
        high_byte(DEEP[..., :3]),
    )
    AS_STORED[f"tiff grey alpha {_order}"] = (files.tiff(RGBA[..., :2], 1, _order, extra=[2]), RGBA[..., 0])
    for _planes in (1, 2):
        _name = f"{_order}, {_planes} plane(s)"
        AS_STORED[f"tiff {_name}"] = (files.tiff(RGB, 2, _order, _planes), RGB)
        AS_STORED[f"tiff clear {_name}"] = (files.tiff(CLEAR, 2, _order, _planes, extra=[2]), RGB)
        AS_STORED[f"tiff grey {_name}"] = (files.tiff(RGB[..., :1], 1, _order, _planes), RGB[..., 0])
        AS_STORED[f"tiff white zero {_name}"] = (
            files.tiff(RGB[..., :1], 0, _order, _planes),
            255 - RGB[..., 0],
        )
        AS_STORED[f"tiff cmyk {_name}"] = (files.tiff(RGBA, 5, _order, _planes), light(RGBA))
        AS_STORED[f"tiff 16 bits grey {_name}"] = (
            files.tiff(DEEP[..., :1], 1, _order, _planes),
            high_byte(DEEP[..., 0]),
        )
ONE_OF_EACH = {
    "jpeg": JPEG,
    "progressive": files.save(RGB, "JPEG", progressive=True),
    "png": files.save(RGB, "PNG"),
    "webp": files.save(RGB, "WEBP"),
    "animated webp": files.save(RGB, "WEBP", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
    "gif": files.save(RGB, "GIF"),
    "bmp": files.save(RGB, "BMP"),
    "tiff": files.save(RGB, "TIFF"),
    "tiff lzw": files.save(RGB, "TIFF", compression="tiff_lzw"),
    "avif": files.save(RGB, "AVIF"),
    "heic": heic_of(RGB),
    "animated avif": files.save(RGB, "AVIF", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
}


def half_a_gif() -> bytes:
    """A GIF with an intact structure whose compressed data stop half-way."""
    data = files.gif((8, 24), np.random.RandomState(0).randint(0, 4, (24, 8)).astype(np.uint8))
    block = 13 + 12 + 10 + 1
    half = data[block] // 2
    return data[:block] + bytes([half]) + data[block + 1 : block + 1 + half] + b"\0;"


GREY_16 = DEEP[..., :1]
REFUSED = {
    "no bytes": (b"", "empty"),
    "text": (b"hello world", "not_image"),
    "html": (b"\xef\xbb\xbf \n<!DOCTYPE html><html>", "not_image"),
    "json": (b'{"error": 404}', "not_image"),
    "zip": (b"PK\x03\x04" + bytes(30), "not_image"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "not_image"),
    "start of a jpeg": (b"\xff\xd8", "not_image"),
    "riff of sound": (b"RIFF\x24\0\0\0WAVEfmt ", "not_image"),
    "heif": (b"\0\0\0\x18ftypmif1" + bytes(20), "unsupported_format"),
    "heic without picture": (b"\0\0\0\x18ftypheic" + bytes(20), "corrupt"),
    "avif without picture": (b"\0\0\0\x18ftypavif" + bytes(20), "corrupt"),
    "mp4": (b"\0\0\0\x18ftypisom" + bytes(20), "unsupported_format"),
    "jpeg xl": (b"\xff\x0a" + bytes(20), "unsupported_format"),
    "jpeg 2000": (files.save(RGB, "JPEG2000"), "unsupported_format"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format"),
    "pdf": (b"%PDF-1.7" + bytes(20), "unsupported_format"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_format"),
    "photoshop": (b"8BPS\0\1" + bytes(20), "unsupported_format"),
    "icon": (files.save(RGB, "ICO", sizes=[(16, 16)]), "unsupported_format"),
    "netpbm": (files.save(RGB, "PPM"), "unsupported_format"),
    "jpeg of 12 bits": (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "unsupported_format"),
    "jpeg lossless": (JPEG.replace(b"\xff\xc0", b"\xff\xc3"), "unsupported_format"),
    "jpeg of two components": (JPEG.replace(b"\0\x3d\3", b"\0\x3d\2"), "unsupported_format"),
    "jpeg with its height behind": (
        JPEG.replace(struct.pack(">HH", 47, 61), struct.pack(">HH", 0, 61)),
        "unsupported_format",
    ),
    "png of apple": (files.png(b"", (b"CgBI", bytes(4))).replace(b"IHDR", b"CgBI"), "unsupported_format"),
    "bmp in runs": (
        files.save(RGB, "BMP", "P")[:30] + b"\1\0\0\0" + files.save(RGB, "BMP", "P")[34:],
        "unsupported_format",
    ),
    "tiff of floats": (files.save(RGB, "TIFF", "F"), "unsupported_format"),
    "tiff of 32 bits": (files.save(RGB, "TIFF", "I"), "unsupported_format"),
    "tiff of Lab": (files.tiff(RGB, 8), "unsupported_format"),
    "tiff of YCbCr": (files.tiff(RGB, 6), "unsupported_format"),
    "tiff of five samples": (
        files.tiff(np.dstack([RGBA, RGB[..., :1]]), 2, extra=[2, 0]),
        "unsupported_format",
    ),
    "tiff of 16 bits in planes": (files.tiff(DEEP[..., :3], 2, planes=2), "unsupported_format"),
    "tiff of 16 bits, white is zero": (files.tiff(GREY_16, 0), "unsupported_format"),
    "tiff of 16 bits grey with alpha": (files.tiff(DEEP[..., :2], 1, extra=[2]), "unsupported_format"),
    "tiff of WebP": (files.tiff(RGB, 2, more={259: ("H", [50001])}), "unsupported_format"),
    "tiff without size": (files.tiff(RGB, 2, more={256: ("I", [0])}), "corrupt"),
    "gif without colours": (files.gif((8, 6), INDICES).replace(b"\x81", b"\x01", 1), "corrupt"),
    "gif without picture": (b"GIF89a\4\0\4\0\0\0\0;", "corrupt"),
    "gif with half its picture": (half_a_gif(), "truncated"),
    "webp without picture": (files.riff((b"VP8X", bytes(10))), "corrupt"),
    "png with an unknown critical chunk": (files.flat_png(8, 8, (b"ABCD", b"")), "corrupt"),
    "png without pixels": (files.png(struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)), "corrupt"),
    "jpeg with left-over data": (JPEG[:-2] + bytes(range(30)) + JPEG[-2:], "corrupt"),
    "jpeg without a frame": (JPEG[: JPEG.index(b"\xff\xc0")] + JPEG[JPEG.index(b"\xff\xda") :], "corrupt"),
}
