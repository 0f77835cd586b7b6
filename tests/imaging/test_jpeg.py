"""JPEGs: harmless faults, damaged orientations, several scans, and scaled decoding."""

import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tests.imaging import image_files as files
from tests.imaging.pictures import JPEG, SIDE, decoded, refusal, resized
from transforms.imaging.preprocess import Preprocessing, decode


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


def test_a_second_scan_of_a_picture_that_has_one_is_never_read():
    """The scans of such a JPEG are not counted: libjpeg stops at the second, however many follow."""
    scan = JPEG[JPEG.rindex(b"\xff\xda") : -2]
    for more in (1, 5000):
        code, message = refusal(JPEG[:-2] + scan * more + JPEG[-2:])
        assert code == "corrupt"
        assert "more than one scan" in message


def test_scaled_decoding_is_near_and_keeps_the_size():
    smooth = np.asarray(Image.fromarray(files.picture(40, 30)).resize((1200, 900), Image.Resampling.BICUBIC))
    data = files.save(smooth, "JPEG", quality=95)
    exact, scaled = np.empty((2, SIDE, SIDE, 3), np.float32)

    assert decode(data, Preprocessing(image_size=SIDE), exact) == (1200, 900)
    assert decode(data, Preprocessing(image_size=SIDE, scaled_decoding=True), scaled) == (1200, 900)
    assert 0 < np.abs(exact - scaled).mean() < 2


def test_scaled_decoding_leaves_small_pictures_alone():
    np.testing.assert_array_equal(decoded(JPEG, scaled_decoding=True), decoded(JPEG))


@pytest.mark.parametrize(("side", "eighths"), [(32, 1), (224, 2), (300, 3), (450, 4), (451, 8)])
@pytest.mark.parametrize("options", [{}, {"subsampling": "4:4:4"}, {"progressive": True}], ids=str)
def test_scaled_decoding_gives_the_pixels_of_libjpegs(side, eighths, options):
    large = np.asarray(Image.fromarray(files.picture(40, 30)).resize((1200, 900)))
    data = files.save(large, "JPEG", **options)
    factor = {} if eighths == 8 else {"min_height": side, "min_width": side}
    pixels = simplejpeg.decode_jpeg(data, **factor)

    assert pixels.shape == (-(-900 * eighths // 8), 150 * eighths, 3)
    np.testing.assert_array_equal(decoded(data, image_size=side, scaled_decoding=True), resized(pixels, side))
