"""Malicious image files, and the acceptable outcomes of each."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image

from tests.imaging import heif_files as avif
from tests.imaging import image_files as files

MAX_PIXELS = 20_000_000
SIDE = 4472  # a square that is just below MAX_PIXELS
RGB = files.picture()
JPEG = files.save(RGB, "JPEG", quality=90)
PROGRESSIVE = files.save(RGB, "JPEG", progressive=True)
INDICES = np.tile(np.arange(4, dtype=np.uint8), (6, 2))
_SIZE_OF_JPEG = struct.pack(">HH", *RGB.shape[:2])


def jpeg_of_size(width: int, height: int, data: bytes = JPEG) -> bytes:
    """A JPEG that states this size."""
    return data.replace(_SIZE_OF_JPEG, struct.pack(">HH", height, width), 1)


def segments(marker: int, body: bytes, count: int) -> bytes:
    """A JPEG with `count` marker segments before the picture."""
    return JPEG[:2] + (struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body) * count + JPEG[2:]


def jpeg_of_many_scans(side: int, scans: int) -> bytes:
    """A flat grey progressive JPEG; each scan of one coefficient says in a few bytes that all are zero."""
    blocks = (-(-side // 8)) ** 2
    quantization = b"\xff\xdb\0\x43\0" + b"\1" * 64
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\1\x11\0"
    # Of DC one code, '0', for "no difference"; of AC one code, '0', for a run of 2**14 + 14 bits blocks that end here.
    codes = b"\xff\xc4" + struct.pack(">H", 20) + b"\0" + b"\1" + bytes(15) + b"\0"
    codes += b"\xff\xc4" + struct.pack(">H", 20) + b"\x10" + b"\1" + bytes(15) + b"\xe0"
    first = b"\xff\xda\0\x08\1\1\0\0\0\0" + bytes(-(-blocks // 8))
    runs, bits = -(-blocks // ((1 << 15) - 1)), ""
    for run in range(runs):
        length = min((1 << 15) - 1, blocks - run * ((1 << 15) - 1))
        bits += "0" + format(max(length - (1 << 14), 0), "014b")
    bits += "1" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    more = b"".join(
        b"\xff\xda\0\x08\1\1\0" + bytes([1 + i % 63, 1 + i % 63, 0]) + body for i in range(scans - 1)
    )
    return b"\xff\xd8" + quantization + frame + codes + first + more + b"\xff\xd9"


def jpeg_of_two_headers(side: int, scans: int) -> bytes:
    """A progressive JPEG whose true header is overlooked by a reader that skips what libjpeg does not skip.

    Such a reader sees a small sequential picture with one scan, which is a comment to libjpeg. TurboJPEG refuses the
    sampling, so that Pillow gets the file.
    """

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body

    data = jpeg_of_many_scans(side, scans)
    scan_at = data.index(b"\xff\xda")
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\1\x11\0"
    odd = segment(0xC2, struct.pack(">BHHB", 8, side, side, 3) + b"\1\x22\0\2\x21\0\3\x12\0")
    shown = segment(0xC0, struct.pack(">BHHB", 8, 16, 16, 3) + b"\1\x11\0\2\x11\0\3\x11\0")
    shown += segment(0xDA, b"\3\1\0\2\x11\3\x11\0\x3f\0")
    hidden = data[2:scan_at].replace(frame, odd) + struct.pack(">BBH", 0xFF, 0xFE, 2 + len(shown))
    return data[:2] + struct.pack(">BBH", 0xFF, 0x00, 2 + len(hidden)) + hidden + shown + data[scan_at:]


def header(width: int, height: int, bits: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    """The body of a PNG's IHDR chunk."""
    return struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)


def png_pixels(width: int, height: int, bits: int, samples: int) -> tuple[bytes, bytes]:
    return b"IDAT", zlib.compress(bytes((1 + -(-width * bits * samples // 8)) * height), 9)


def bmp(
    width: int, height: int, bits: int = 24, compression: int = 0, colours: int = 0, at: int = 54
) -> bytes:
    head = struct.pack(
        "<2sIIIIiiHHIIiiII", b"BM", 154, 0, at, 40, width, height, 1, bits, compression, 0, 1, 1, colours, 0
    )
    return head + bytes(100)


def webp_canvas(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    size = b"\x02\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return files.riff((b"VP8X", size), *chunks)


def webp_frame(left: int, top: int) -> tuple[bytes, bytes]:
    place = b"".join(n.to_bytes(3, "little") for n in (left // 2, top // 2, 60, 46, 100)) + b"\0"
    return b"ANMF", place + files.save(RGB, "WEBP", lossless=True)[12:]


def tiff_of_jpeg(strip: bytes, strips: int = 1) -> bytes:
    """A small TIFF whose strips are all the same JPEG."""
    plain = files.tiff(RGB, 2, more={259: ("H", [7])})
    at = len(plain) + (len(plain) & 1)
    more = {259: ("H", [7]), 273: ("I", [at] * strips), 279: ("I", [len(strip)] * strips), 278: ("I", [1])}
    rough = files.tiff(RGB, 2, more=more)
    more[273] = ("I", [len(rough)] * strips)
    return files.tiff(RGB, 2, more=more) + strip


def with_next_page(data: bytes, at: bytes) -> bytes:
    """A TIFF whose next page's tags are stated to be at `at`."""
    (table,) = struct.unpack_from("<I", data, 4)
    end = table + 2 + 12 * struct.unpack_from("<H", data, table)[0]
    return data[:end] + at + data[end + 4 :]


def flat(image_format: str, mode: str, side: int = SIDE, **options) -> bytes:
    return files.save(Image.new(mode, (side, side)), image_format, **options)


def cases() -> Iterator[tuple[str, bytes, set[str]]]:
    """Name, file, and acceptable outcomes: 'pixels' or codes."""
    fine, many, either = {"pixels"}, {"too_many_pixels"}, {"corrupt", "truncated"}
    zeros = bytes(50_000_000)
    # More pixels than allowed, by the header.
    yield "jpeg bomb", jpeg_of_size(65500, 65500), many
    yield "progressive bomb", jpeg_of_size(65500, 65500, PROGRESSIVE), many
    yield "png bomb", files.flat_png(100_000, 100_000), many
    yield "png of 2**31 - 1", files.png(header(2**31 - 1, 2**31 - 1), (b"IDAT", b"x")), many
    yield "gif bomb", files.gif((65535, 65535), INDICES), many
    yield "gif frame beyond its screen", files.gif((8, 6), INDICES, (65000, 65000)), many
    yield "webp bomb", webp_canvas(1 << 24, 1 << 24, (b"VP8L", b"\x2f" + bytes(20))), many
    yield "webp frame far off", webp_canvas(61, 47, (b"ANIM", bytes(6)), webp_frame(1 << 24, 1 << 24)), many
    yield (
        "webp of 16383",
        files.riff((b"VP8L", b"\x2f" + ((16382 << 14) | 16382).to_bytes(4, "little") + bytes(20))),
        many,
    )
    yield "bmp bomb", bmp(2**31 - 1, 2**31 - 1), many
    yield "bmp upside down", bmp(2**31 - 1, -(2**31)), many
    yield "tiff bomb", files.tiff(RGB, 2, more={256: ("I", [2**32 - 1]), 257: ("I", [2**32 - 1])}), many
    # As many pixels as allowed, in few bytes.
    for name, data in (("jpeg", JPEG), ("progressive", PROGRESSIVE)):
        yield f"{name} that lacks nearly all", jpeg_of_size(SIDE, SIDE, data), {"truncated"}
        yield f"{name} in one column", jpeg_of_size(300, 65000, data), {"truncated"}
    yield "jpeg flat", flat("JPEG", "RGB"), fine
    yield "progressive flat", flat("JPEG", "RGB", progressive=True), fine
    yield "cmyk progressive flat", flat("JPEG", "CMYK", progressive=True), fine
    yield "jpeg of 100 scans", jpeg_of_many_scans(2000, 100), fine
    yield "jpeg of 101 scans", jpeg_of_many_scans(SIDE, 101), {"too_many_scans"}
    yield "jpeg of 1,000,000 scans", jpeg_of_many_scans(500, 1_000_000), {"too_many_scans"}
    yield "jpeg of two headers", jpeg_of_two_headers(500, 40_000), {"too_many_scans"}
    yield "jpeg of two headers and sizes", jpeg_of_two_headers(20_000, 2), many
    # Bytes that libjpeg passes over between segments.
    for name, stray in (
        ("zeros", bytes(8_000_000)),
        ("fill bytes", b"\xff" * 2_000_000),
        ("stuffed bytes", b"\xff\0" * 2_000_000),
        ("markers without effect", b"\xff\xd0" * 2_000_000),
        ("stray bytes in 100,000 places", b"\0\xff\xfe\0\2" * 100_000),
    ):
        yield f"jpeg of {name}", JPEG[:20] + stray + JPEG[20:], fine
    last = PROGRESSIVE.rindex(b"\xff\xda")
    yield (
        "progressive of stray bytes in 100,000 places",
        PROGRESSIVE[:last] + stray + PROGRESSIVE[last:],
        fine,
    )
    yield "png flat", files.flat_png(SIDE, SIDE), fine
    yield "png flat 16 bits", files.png(header(SIDE, SIDE, 16, 6), png_pixels(SIDE, SIDE, 16, 4)), fine
    yield "png that lacks all", files.png(header(SIDE, SIDE, 16, 6), (b"IDAT", zlib.compress(b""))), either
    yield (
        "png with too much",
        files.png(header(8, 8), (b"IDAT", zlib.compress(zeros, 9))),
        {"pixels", "corrupt"},
    )
    yield "gif flat", flat("GIF", "P"), fine
    yield "webp flat", flat("WEBP", "RGB", lossless=True), fine
    yield "webp flat lossy", flat("WEBP", "RGB"), fine
    yield "bmp of one bit", flat("BMP", "1"), fine
    yield "tiff flat", flat("TIFF", "RGB", compression="tiff_adobe_deflate"), fine
    yield "tiff cmyk flat", flat("TIFF", "CMYK", compression="tiff_lzw"), fine
    yield "tiff bilevel flat", flat("TIFF", "1", compression="group4"), fine
    yield "tiff of JPEG flat", flat("TIFF", "RGB", compression="jpeg"), fine
    # Metadata.
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 65535) + bytes(60_000)
    for name, marker, body in (
        ("exif", 0xE1, exif),
        ("comments", 0xFE, b"c" * 65_000),
        ("profiles", 0xE2, b"ICC_PROFILE\0\1\1" + bytes(65_000)),
        ("nothings", 0xFE, b""),
    ):
        yield f"jpeg of {name}", segments(marker, body, 300), fine
    yield "jpeg before a film", JPEG + random.Random(1).randbytes(8_000_000), fine
    yield "progressive before a film", PROGRESSIVE + random.Random(1).randbytes(8_000_000), fine
    bomb = zlib.compress(zeros, 9)
    yield "png zTXt bomb", files.flat_png(8, 8, *[(b"zTXt", b"key\0\0" + bomb)] * 20), fine
    yield "png iTXt bomb", files.flat_png(8, 8, *[(b"iTXt", b"key\0\1\0\0\0" + bomb)] * 20), fine
    yield "png iCCP bomb", files.flat_png(8, 8, (b"iCCP", b"key\0\0" + bomb)), fine
    yield "png iTXt of 10 MB", files.flat_png(8, 8, (b"iTXt", b"key\0\0\0\0\0" + zeros[:10_000_000])), fine
    yield "png of 100,000 chunks", files.flat_png(8, 8, *[(b"tEXt", b"key\0x")] * 100_000), fine
    yield "png eXIf", files.flat_png(8, 8, (b"eXIf", exif[6:])), fine
    still = files.save(RGB, "WEBP")[12:]
    pieces = [(b"VP8 ", still[8:]), *((kind, zeros[:10_000_000]) for kind in (b"ICCP", b"EXIF", b"XMP "))]
    yield "webp metadata", webp_canvas(61, 47, *pieces), fine
    comment = b"!\xfe" + (b"\xff" + b"c" * 255) * 40_000 + b"\0"
    yield "gif comment", files.gif((8, 6), INDICES, before=comment), fine
    yield (
        "gif extensions",
        files.gif((8, 6), INDICES, before=b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0" * 50_000),
        fine,
    )
    yield "tiff of 65,000 tags", files.tiff(RGB, 2, more={n: ("H", [1]) for n in range(400, 65_400)}), fine
    yield "tiff profile", files.tiff(RGB, 2, more={34675: ("B", zeros[:10_000_000])}), fine
    # Tags that state more than there is.
    good = files.tiff(RGB, 2)
    for tag in (258, 273, 279):
        entry = struct.pack("<H", tag)
        at = good.index(entry, struct.unpack_from("<I", good, 4)[0])
        huge = good[: at + 4] + struct.pack("<I", 2**32 - 1) + good[at + 8 :]
        yield f"tiff of 2**32 - 1 values of tag {tag}", huge, either
    yield (
        "tiff of many strips",
        files.tiff(RGB, 2, more={273: ("I", [8] * 500_000), 279: ("I", [3] * 500_000)}),
        {"pixels", *either},
    )
    yield "tiff in a circle", with_next_page(good, good[4:8]), fine
    yield "tiff of a huge JPEG", tiff_of_jpeg(jpeg_of_size(65500, 65500)), either
    yield "tiff of a JPEG that lacks nearly all", tiff_of_jpeg(jpeg_of_size(SIDE, SIDE)), either
    yield "tiff of many scans", tiff_of_jpeg(jpeg_of_many_scans(200, 5000)), {"too_many_scans", *either}
    yield "tiff of one JPEG many times", tiff_of_jpeg(flat("JPEG", "RGB", 2000), 5000), either
    yield (
        "tiff of huge tiles",
        files.tiff(RGB, 2, more={322: ("I", [65520]), 323: ("I", [65520]), 324: ("I", [8]), 325: ("I", [8])}),
        either,
    )
    # More than one picture.
    control = b"fcTL", struct.pack(">IIIIIHHBB", 0, 2**31 - 1, 2**31 - 1, 0, 0, 1, 1, 0, 0)
    later = [control, (b"fdAT", bytes(4) + bomb)] * 50
    yield "apng", files.flat_png(8, 8, (b"acTL", struct.pack(">II", 2**31 - 1, 0)), *later), fine
    yield "webp of 2000 frames", webp_canvas(61, 47, (b"ANIM", bytes(6)), *[webp_frame(0, 0)] * 2000), fine
    frame = files.gif((8, 6), INDICES)
    frames = b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\2\1\0\0"
    yield "gif of 100,000 frames", frame[:-1] + frames * 100_000 + b";", fine
    second = struct.pack("<HHHII", 1, 256, 4, 1, 2**32 - 1)
    yield "tiff with a huge second page", with_next_page(good, struct.pack("<I", len(good))) + second, fine
    yield "icon of BMP", files.save(RGB, "ICO", sizes=[(16, 16)], bitmap_format="bmp"), {"unsupported_format"}
    # Files that are two things, or none.
    yield "png that is a jpeg", b"\x89PNG\r\n\x1a\n" + JPEG, either
    yield "gif that is a png", b"GIF89a" + files.save(RGB, "PNG"), either
    yield "jpeg, then png", JPEG + files.save(RGB, "PNG"), fine
    for magic in (
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"II*\0",
        b"MM\0*",
        b"II+\0",
        b"BM" + bytes(12) + b"\x28\0\0\0",
        b"\0\0\0\x18ftypavif",
        b"\0\0\0\x18ftypheic",
    ):
        yield f"{magic[:4]!r} and no more", magic, either
        yield f"{magic[:4]!r} and zeros", magic + bytes(1000), {*either, "unsupported_format"}
        yield f"{magic[:4]!r} and ones", magic + b"\xff" * 1000, {*either, "unsupported_format"}
    yield "zeros", bytes(1000), {"not_image"}
    yield from _avif_cases()
    yield from _heic_cases()
    # Colours.
    pixels = png_pixels(8, 8, 8, 1)
    yield (
        "png palette that lacks colours",
        files.png(
            header(8, 8, 8, 3),
            (b"PLTE", b"\1\2\3"),
            (b"IDAT", zlib.compress(b"\0" + b"\xff" * 8 + bytes(63))),
        ),
        {"pixels", "corrupt"},
    )
    yield "png without palette", files.png(header(8, 8, 8, 3), pixels), {"pixels", "corrupt"}
    yield (
        "png palette of 1000",
        files.png(header(8, 8, 8, 3), (b"PLTE", bytes(3000)), pixels),
        {"pixels", "corrupt"},
    )
    for bits, colour in ((3, 0), (16, 3), (1, 2), (8, 5), (255, 255)):
        yield (
            f"png of {bits} bits, colour {colour}",
            files.png(header(8, 8, bits, colour), pixels),
            {"corrupt"},
        )
    yield "png without size", files.png(header(0, 8), pixels), {"corrupt"}
    at = JPEG.index(b"\xff\xc0") + 11
    for sampling in (0x00, 0x10, 0x5F, 0xFF):
        yield f"jpeg sampling {sampling:#04x}", JPEG[:at] + bytes([sampling]) + JPEG[at + 1 :], {"corrupt"}
    for bits, compression, colours in (
        (2, 0, 0),
        (64, 0, 0),
        (0, 0, 0),
        (8, 0, 2**31),
        (24, 4, 0),
        (24, 5, 0),
        (32, 3, 0),
        (32, 6, 0),
    ):
        yield (
            f"bmp of {bits} bits, compression {compression}, {colours} colours",
            bmp(4, 4, bits, compression, colours),
            {"pixels", *either, "unsupported_format"},
        )
    yield "bmp whose pixels are elsewhere", bmp(4, 4, at=2**31), either
    intact = files.gif((8, 6), INDICES)
    for size in (0, 1, 12, 255):
        yield f"gif codes of {size} bits", intact[:35] + bytes([size]) + intact[36:], {"pixels", *either}
    for tag, kind, values in (
        (258, "H", [8, 4, 16]),
        (277, "H", [65535]),
        (277, "H", [0]),
        (278, "I", [0]),
        (317, "H", [3]),
        (284, "H", [9]),
        (262, "H", [99]),
        (259, "H", [65535]),
        (320, "H", [1]),
    ):
        yield (
            f"tiff with tag {tag} of {values}",
            files.tiff(RGB, 2, more={tag: (kind, values)}),
            {"pixels", *either, "unsupported_format"},
        )


def _avif_cases() -> Iterator[tuple[str, bytes, set[str]]]:
    fine, many, either = {"pixels"}, {"too_many_pixels"}, {"corrupt", "truncated"}
    frame, picture, huge = avif.frame(False), avif.coded(RGB), avif.sequence(65000, 65000)
    flat_picture = avif.coded(Image.new("RGB", (SIDE, SIDE)), subsampling="4:4:4")
    yield "avif bomb", avif.claimed(65000, 65000, huge, frame), many
    yield "avif that claims too much", avif.avif(avif.coded(RGB, (65000, 65000))), {*many, *either}
    yield "avif that claims 0", avif.avif(avif.coded(RGB, (0, 0))), either
    yield "avif flat", avif.avif(flat_picture), fine
    deep = np.full((SIDE, SIDE, 3), 4095, np.uint16)
    encoded = cv2.imencode(".avif", deep, [cv2.IMWRITE_AVIF_DEPTH, 12, cv2.IMWRITE_AVIF_SPEED, 10])[1]
    yield "avif flat of 12 bits", encoded.tobytes(), fine
    yield (
        "avif of more than it claims",
        avif.avif(flat_picture._replace(properties=picture.properties)),
        either,
    )
    yield "avif of a huge frame", avif.claimed(8, 8, avif.sequence(8, 8), avif.frame(True)), either
    yield "avif of a huge sequence", avif.claimed(8, 8, huge, frame), either
    yield (
        "avif of a huge second sequence",
        avif.claimed(8, 8, avif.sequence(8, 8), frame, huge, frame),
        either,
    )
    yield (
        "avif of 100,000 frames",
        avif.claimed(SIDE, SIDE, avif.sequence(SIDE, SIDE), frame * 100_000),
        either,
    )
    yield "avif of 5,000,000 units", avif.claimed(8, 8, avif.unit(2, b"") * 5_000_000), either
    yield (
        "avif grid bomb",
        avif.avif(avif.grid(2, 2, 65000, 65000), *[picture] * 4, tiles=(2, 3, 4, 5)),
        {*many, *either},
    )
    yield (
        "avif of one tile many times",
        avif.avif(avif.grid(200, 200, 61 * 200, 47 * 200), picture, tiles=[2] * 40_000),
        either,
    )
    yield (
        "avif of huge tiles",
        avif.avif(avif.grid(1, 1, 8, 8), avif.coded(Image.new("RGB", (9000, 9000))), tiles=(2,)),
        either,
    )
    yield "avif grid within itself", avif.avif(avif.grid(1, 1, 61, 47), picture, tiles=(1,)), either
    yield "avif of 2000 pieces", avif.avif(picture, extents=2000), {"pixels", *either}
    # Boxes.
    for name, inside in (
        ("200,000 boxes", avif.box(b"free") * 200_000),
        ("boxes 100,000 deep", b"".join(struct.pack(">I4s", 8 * n, b"meta") for n in range(100_000, 0, -1))),
        ("a box of 2**63 bytes", struct.pack(">I4sQ", 1, b"free", 1 << 63)),
        ("a box of no end", struct.pack(">I4s", 0, b"free")),
        ("a box of 4 bytes", struct.pack(">I4s", 4, b"free")),
    ):
        yield f"avif of {name}", avif.avif(picture, more=inside), {"pixels", *either}
    film = files.save(RGB, "AVIF", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    yield "avif whose film is damaged", film.replace(b"stsz", b"stsz" + b"\xff" * 8), {"pixels", *either}
    intact = avif.avif(picture)
    at = intact.index(b"iloc") + 12
    yield "avif of 65,535 pictures", intact[: at - 2] + b"\xff\xff" + intact[at:], either
    yield "avif of a picture elsewhere", intact[: at + 8] + b"\x7f" * 8 + intact[at + 16 :], either
    shared = avif.avif(picture._replace(content=b"\x0a\xff\xff\xff\x7f" + bytes(8_000_000)))
    yield "avif of a unit without end", shared, either


def _heic_cases() -> Iterator[tuple[str, bytes, set[str]]]:
    """What differs from AVIF: the container is read by the same code."""
    fine, many, either = {"pixels"}, {"too_many_pixels"}, {"corrupt", "truncated"}
    small, large = (avif.hevc(np.zeros((side, side, 3), np.uint8)) for side in (64, 768))
    side, tiles = 4470, range(2, 38)  # even, as colours are halved
    yield "heic flat", avif.heic(avif.grid(6, 6, side, side), *[large] * len(tiles), tiles=tiles), fine
    yield (
        "heic that claims too much",
        avif.heic(small._replace(properties=(avif.ispe(65000, 65000),))),
        either,
    )
    huge = (small.properties[0], avif.hevc(np.zeros((64, 9024, 3), np.uint8)).properties[1])
    yield "heic of a huge frame", avif.heic(small._replace(properties=huge)), either
    yield "heic of 10,000 frames", avif.heic(small._replace(content=small.content * 10_000)), either
    units = b"\0\0\0\2\x4e\1" * 5_000_000
    yield "heic of 5,000,000 units", avif.heic(small._replace(content=small.content + units)), either
    grid = avif.grid(200, 200, 64 * 200, 64 * 200)
    yield "heic of one tile many times", avif.heic(grid, small, tiles=[2] * 40_000), either
    yield (
        "heic grid bomb",
        avif.heic(avif.grid(2, 2, 65000, 65000), *[small] * 4, tiles=(2, 3, 4, 5)),
        {*many, *either},
    )
