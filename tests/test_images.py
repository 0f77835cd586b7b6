"""Decoding and resizing, held against TensorFlow and against what is known of each file."""

import importlib.machinery
import io
import pickle
import re
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests import image_files as files
from tests.helpers import REPO
from transforms.errors import ItemError
from transforms.imaging import native
from transforms.imaging.preprocess import Preprocessing, decode
from transforms.imaging.resize import resize

SIDE = 48
NATIVE_NAME = f"_native{importlib.machinery.EXTENSION_SUFFIXES[0]}"
RGB = files.picture()
RGBA = files.picture(channels=4)
CLEAR = np.dstack([RGB, np.zeros_like(RGB[..., 0])])
DEEP = np.random.RandomState(1).randint(0, 65536, (47, 61, 4)).astype(np.uint16)
INDICES = np.tile(np.arange(4, dtype=np.uint8), (6, 2))
JPEG = files.save(RGB, "JPEG", quality=90)


def decoded(data: bytes, **settings) -> np.ndarray:
    """The picture as the model sees it, float32 (side, side, 3)."""
    preprocessing = Preprocessing(**{"image_size": SIDE, **settings})
    out = np.full((preprocessing.image_size, preprocessing.image_size, 3), np.nan, np.float32)
    decode(data, preprocessing, out)
    return out


def resized(pixels: np.ndarray, side: int = SIDE) -> np.ndarray:
    """TensorFlow's resizing of uint8 pixels, grey, black-and-white or RGB."""
    if pixels.dtype == bool:
        pixels = np.where(pixels, 255, 0).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return tf.image.resize(pixels, (side, side), "bilinear", antialias=False).numpy()


def as_mode(mode: str, back: str) -> np.ndarray:
    """The picture as Pillow converts it to a mode and back."""
    return np.asarray(Image.fromarray(RGB).convert(mode).convert(back))


def light(cmyk: np.ndarray) -> np.ndarray:
    """RGB of ink, as TensorFlow computes it."""
    left = 255 - cmyk.astype(np.uint16)
    return (left[..., :3] * left[..., 3:] // 255).astype(np.uint8)


def high_byte(samples: np.ndarray) -> np.ndarray:
    return (samples >> 8).astype(np.uint8)


def refusal(data: bytes, **settings) -> tuple[str, str]:
    """(code, message) with which a file is refused."""
    with pytest.raises(ItemError) as caught:
        decoded(data, **settings)
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (375, 500),
        (47, 61),
        (1, 1),
        (1, 500),
        (5000, 1),
        (896, 895),
        (900, 20),
        (3, 40000),
        (65535, 20),
        (700, 17000),
    ],
)
@pytest.mark.parametrize("side", [224, 97, 1])
@pytest.mark.parametrize("built", [True, False], ids=["native", "numpy"])
def test_resizing_is_tensorflows_to_the_bit(height, width, side, built, monkeypatch):
    assert native.LIBRARY, "the native code is not built: ./run_tests.sh does it, with a C compiler"
    if not built:
        monkeypatch.setattr(native, "LIBRARY", None)
    pixels = np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)
    out = np.full((side, side, 3), np.nan, np.float32)

    resize(pixels, out)

    np.testing.assert_array_equal(out, resized(pixels, side))


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


@pytest.mark.parametrize("data", AS_TENSORFLOW.values(), ids=AS_TENSORFLOW)
def test_pixels_are_tensorflows(data):
    if data.startswith(b"\xff\xd8"):
        pixels = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    else:
        pixels = tf.io.decode_image(data, channels=3, expand_animations=False)

    np.testing.assert_array_equal(decoded(data), resized(pixels.numpy()))


# What TensorFlow does not read, or not so: each file, and the pixels in it.
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


@pytest.mark.parametrize(("data", "pixels"), AS_STORED.values(), ids=AS_STORED)
def test_pixels_are_those_in_the_file(data, pixels):
    np.testing.assert_array_equal(decoded(data), resized(pixels))


def test_alpha_of_a_lossy_webp_changes_no_colour():
    np.testing.assert_array_equal(
        decoded(files.save(CLEAR, "WEBP", exact=True)), decoded(files.save(RGB, "WEBP"))
    )


def test_a_tiff_of_jpeg_strips_is_as_libjpeg_decodes_it():
    data = files.save(RGB, "TIFF", compression="jpeg")

    np.testing.assert_array_equal(decoded(data), resized(np.asarray(Image.open(io.BytesIO(data)))))


COLOURS = np.array([(10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200)], np.uint8)


def test_a_gif_frame_stands_on_a_black_canvas():
    canvas = np.zeros((16, 20, 3), np.uint8)
    canvas[7:13, 3:11] = COLOURS[INDICES]

    np.testing.assert_array_equal(decoded(files.gif((20, 16), INDICES, (3, 7))), resized(canvas))


def test_a_gif_frame_that_sticks_out_widens_the_canvas():
    canvas = np.zeros((8, 11, 3), np.uint8)
    canvas[2:, 3:] = COLOURS[INDICES]

    np.testing.assert_array_equal(decoded(files.gif((4, 4), INDICES, (3, 2))), resized(canvas))


def test_a_gif_index_without_a_colour_is_black():
    frame = INDICES.copy()
    frame[0, 0] = 7
    pixels = COLOURS[INDICES]
    pixels[0, 0] = 0

    np.testing.assert_array_equal(decoded(files.gif((8, 6), frame)), resized(pixels))


def test_a_webp_frame_stands_on_a_black_canvas():
    frame = files.save(RGB, "WEBP", lossless=True)[12:]
    place = b"".join(size.to_bytes(3, "little") for size in (3, 2, 60, 46, 100)) + b"\0"
    size = b"\x02\0\0\0" + (79).to_bytes(3, "little") + (59).to_bytes(3, "little")
    data = files.riff((b"VP8X", size), (b"ANIM", bytes(6)), (b"ANMF", place + frame))
    canvas = np.zeros((60, 80, 3), np.uint8)
    canvas[4:51, 6:67] = RGB

    np.testing.assert_array_equal(decoded(data), resized(canvas))


TURNS = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: np.rot90(stored, 2),
    4: lambda stored: stored[::-1],
    5: lambda stored: np.swapaxes(stored, 0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.swapaxes(np.rot90(stored, 2), 0, 1),
    8: lambda stored: np.rot90(stored, 1),
}
ORIENTABLE = {
    "jpeg": lambda o: files.save(RGB, "JPEG", quality=90, exif=files.exif(o)),
    "png": lambda o: files.save(RGB, "PNG", exif=files.exif(o)),
    "webp": lambda o: files.save(RGB, "WEBP", lossless=True, exif=files.exif(o)),
    "tiff": lambda o: files.tiff(RGB, 2, more={274: ("H", [o])}),
    "tiff lzw": lambda o: files.save(RGB, "TIFF", compression="tiff_lzw", tiffinfo={274: o}),
}


@pytest.mark.parametrize("make", ORIENTABLE.values(), ids=ORIENTABLE)
@pytest.mark.parametrize("orientation", TURNS)
def test_orientation_is_applied_or_ignored(make, orientation):
    data = make(orientation)
    stored = np.asarray(Image.open(io.BytesIO(JPEG))) if data.startswith(b"\xff\xd8") else RGB
    upright = TURNS[orientation](stored)
    out = np.empty((SIDE, SIDE, 3), np.float32)

    assert decode(data, Preprocessing(image_size=SIDE), out) == (61, 47)
    np.testing.assert_array_equal(out, resized(stored))
    size = decode(data, Preprocessing(image_size=SIDE, exif_orientation="apply"), out)
    assert size == (upright.shape[1], upright.shape[0])
    np.testing.assert_array_equal(out, resized(upright))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0" + b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 9, 0, 0),  # no such orientation
        b"Exif\0\0" + b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 4, 1, 6, 0, 0),  # not a short
        b"Exif\0\0" + b"II*\0" + struct.pack("<I", 1 << 30),  # points outside
        b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 65535),  # ends too early
        b"Exif\0\0nonsense",
    ],
)
def test_a_damaged_orientation_is_upright(exif):
    marker = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
    data = JPEG[:2] + marker + JPEG[2:]

    np.testing.assert_array_equal(decoded(data, exif_orientation="apply"), decoded(JPEG))


def harmless(kind: str) -> bytes:
    """The JPEG with a fault that cameras make."""
    scan = JPEG.index(b"\xff\xda")
    if kind == "scan parameters":
        return JPEG[: scan + 11] + bytes(3) + JPEG[scan + 14 :]
    if kind == "JFIF 7":
        return JPEG.replace(b"JFIF\0\1", b"JFIF\0\7")
    if kind == "colour profile":
        return JPEG[:2] + b"\xff\xe2\0\x10ICC_PROFILE\0\1\2" + JPEG[2:]
    if kind == "all of them":
        return (
            (JPEG[: scan + 11] + bytes(3) + JPEG[scan + 14 : -2]).replace(b"JFIF\0\1", b"JFIF\0\7")
            + bytes(99)
            + JPEG[-2:]
        )
    if kind == "trailing bytes":
        return JPEG + b"anything"
    filler = {"zeros": bytes(3000), "one zero": b"\0", "0x55": b"\x55" * 20, "0xff": b"\xff" * 20}[kind]
    return JPEG[:-2] + filler + JPEG[-2:]


@pytest.mark.parametrize(
    "kind",
    [
        "zeros",
        "one zero",
        "0x55",
        "0xff",
        "scan parameters",
        "JFIF 7",
        "all of them",
        "trailing bytes",
        "colour profile",
    ],
)
def test_faults_that_cameras_make_are_harmless(kind):
    np.testing.assert_array_equal(decoded(harmless(kind)), decoded(JPEG))


def half_a_gif() -> bytes:
    """A GIF whose structure is whole, but whose compressed data stop half-way."""
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
    "heic": (b"\0\0\0\x18ftypheic" + bytes(20), "unsupported_format"),
    "avif": (b"\0\0\0\x18ftypavif" + bytes(20), "unsupported_format"),
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


@pytest.mark.parametrize(("data", "code"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_by_name(data, code):
    assert refusal(data)[0] == code


@pytest.mark.parametrize("name", ["HEIC", "AVIF", "JPEG XL", "JPEG 2000", "SVG", "PDF", "PostScript"])
def test_a_known_format_is_named(name):
    sample = {"JPEG XL": "jpeg xl", "JPEG 2000": "jpeg 2000"}.get(name, name.lower())

    assert refusal(REFUSED[sample][0])[1].startswith(f"{name} is not supported; convert it to JPEG")


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
}


@pytest.mark.parametrize("data", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_cut_file_is_truncated(data, kept):
    assert refusal(data[: int(kept * len(data))])[0] == "truncated"


@pytest.mark.parametrize("data", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
def test_size_is_checked_before_decoding(data):
    assert decoded(data, max_pixels=61 * 47).shape == (SIDE, SIDE, 3)
    code, message = refusal(data, max_pixels=61 * 47 - 1)
    assert code == "too_many_pixels"
    assert "61 x 47 pixels is over the limit of 2866 pixels" in message
    assert "--max_pixels" in message


def test_scaled_decoding_is_near_and_keeps_the_size():
    smooth = np.asarray(Image.fromarray(files.picture(40, 30)).resize((1200, 900), Image.Resampling.BICUBIC))
    data = files.save(smooth, "JPEG", quality=95)
    exact, scaled = np.empty((2, SIDE, SIDE, 3), np.float32)

    assert decode(data, Preprocessing(image_size=SIDE), exact) == (1200, 900)
    assert decode(data, Preprocessing(image_size=SIDE, scaled_decoding=True), scaled) == (1200, 900)
    assert 0 < np.abs(exact - scaled).mean() < 2


def test_scaled_decoding_leaves_small_pictures_alone():
    np.testing.assert_array_equal(decoded(JPEG, scaled_decoding=True), decoded(JPEG))


def test_threads_do_not_disturb_each_other():
    data = [*AS_TENSORFLOW.values()] * 8
    alone = [decoded(one) for one in AS_TENSORFLOW.values()] * 8
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decoded, data))

    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(
    "settings",
    [{"exif_orientation": "turn"}, {"image_size": 0}, {"max_pixels": 0}],
    ids=lambda s: next(iter(s)),
)
def test_settings_that_make_no_sense_are_refused(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value!r}"):
        Preprocessing(**settings)


def test_settings_can_be_sent_to_a_worker():
    settings = Preprocessing(image_size=480, exif_orientation="apply")

    assert pickle.loads(pickle.dumps(settings)) == settings


def test_every_code_is_documented():
    sources = sorted((REPO / "transforms/imaging").glob("*.py"))
    raised = {code for path in sources for code in re.findall(r'ItemError\(\s*"(\w+)"', path.read_text())}
    _, codes = (REPO / "docs/images.md").read_text().split("## Codes")

    assert raised == set(re.findall(r"^\| `(\w+)` \|", codes, re.MULTILINE))
    assert len(raised) > 5


def test_a_second_scan_of_a_picture_that_has_one_is_never_read():
    """Nobody counts the scans of such a JPEG: libjpeg stops at the second, however many follow."""
    scan = JPEG[JPEG.rindex(b"\xff\xda") : -2]
    for more in (1, 5000):
        code, message = refusal(JPEG[:-2] + scan * more + JPEG[-2:])
        assert code == "corrupt"
        assert "more than one scan" in message


def test_without_the_native_code_a_process_says_so_once(caplog, monkeypatch):
    monkeypatch.setattr(native, "LIBRARY", None)
    native.tell_of_absence.cache_clear()
    for _ in range(2):
        decoded(JPEG)
    (record,) = caplog.records
    assert "python setup.py build_ext --inplace" in record.getMessage()


@pytest.mark.parametrize("content", [b"", b"no library", None], ids=["empty", "text", "another library"])
def test_a_library_that_cannot_be_used_is_left_alone(tmp_path, monkeypatch, caplog, content):
    if content is None:
        source = tmp_path / "other.c"
        source.write_text("int other;")
        subprocess.run(["cc", "-shared", "-o", tmp_path / NATIVE_NAME, source], check=True)
    else:
        (tmp_path / NATIVE_NAME).write_bytes(content)
    monkeypatch.setattr(native, "_why", "")
    assert native.load(tmp_path) is None
    native.tell_of_absence.cache_clear()
    native.tell_of_absence()
    assert f"cannot be loaded ({tmp_path / NATIVE_NAME}" in caplog.text


def test_a_library_of_another_version_is_left_alone(tmp_path, monkeypatch):
    shutil.copy(native.LIBRARY._name, tmp_path / NATIVE_NAME)
    monkeypatch.setattr(native, "_why", "")
    assert native.load(tmp_path) is not None
    monkeypatch.setattr(native, "_VERSION", -1)
    assert native.load(tmp_path) is None
    assert "another version" in native._why


def test_scaled_decoding_gives_the_same_without_the_native_code(monkeypatch):
    data = files.save(np.asarray(Image.fromarray(files.picture(40, 30)).resize((1200, 900))), "JPEG")
    with_it = [decoded(data, image_size=side, scaled_decoding=True) for side in (32, 100, 224, 500)]
    monkeypatch.setattr(native, "LIBRARY", None)
    for side, expected in zip((32, 100, 224, 500), with_it, strict=True):
        np.testing.assert_array_equal(decoded(data, image_size=side, scaled_decoding=True), expected)


def test_many_threads_keep_their_own_pixels():
    datas = [files.save(files.picture(60 + seed, 50), "JPEG") for seed in range(8)]
    expected = [decoded(data) for data in datas]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: decoded(datas[number % 8]), range(400)))
    for number, pixels in enumerate(found):
        np.testing.assert_array_equal(pixels, expected[number % 8])


def test_random_sizes_are_resized_to_tensorflows_bits():
    random = np.random.RandomState(7)
    for _ in range(60):
        height, width, side = [*random.randint(1, 700, 2).tolist(), int(random.randint(1, 300))]
        pixels = random.randint(0, 256, (height, width, 3)).astype(np.uint8)
        out = np.empty((side, side, 3), np.float32)
        resize(pixels, out)
        np.testing.assert_array_equal(out, resized(pixels, side), f"{width}x{height} to {side}")
