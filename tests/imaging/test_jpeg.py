"""JPEGs: stray bytes and other harmless faults, damaged orientations, several scans, and scaled decoding."""

import re
import struct

import numpy as np
import pytest
import simplejpeg
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.imaging import image_files as files
from tests.imaging.pictures import JPEG, RGB, SIDE, decoded, refusal, resized
from transforms.errors import ItemError
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


EXIF = files.save(RGB, "JPEG", quality=90, exif=files.exif(6))
KINDS = {
    "baseline": JPEG,
    "progressive": files.save(RGB, "JPEG", progressive=True),
    "grey": files.save(RGB, "JPEG", "L"),
    "odd sampling": files.grey_jpeg_of_odd_sampling(),
    "cmyk": files.save(RGB, "JPEG", "CMYK"),
    "restarts": files.save(RGB, "JPEG", restart_marker_blocks=1),
    "exif": EXIF,
}


def segment_starts(data: bytes) -> list[int]:
    """The offset of each segment of the header, then that of the first scan."""
    starts = [2]
    while data[starts[-1] + 1] != 0xDA:
        starts.append(starts[-1] + 2 + int.from_bytes(data[starts[-1] + 2 : starts[-1] + 4], "big"))
    return starts


def tensorflows(data: bytes) -> np.ndarray:
    """The picture as the model sees it, by TensorFlow alone."""
    return resized(tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy())


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    "stray",
    [b"\x20", b"\0\0", b"\xff", b"\xff\0", b"\xff\xff\0\xff", b"\xff\x01\xff\xd3x", bytes(range(255)) * 300],
    ids=["blank", "zeros", "fill", "stuffed", "mixed", "markers without effect", "long"],
)
def test_stray_bytes_before_any_segment_are_passed_over(data, stray):
    """As webcams of Logitech and TinyJPEG write them."""
    starts = segment_starts(data)
    for at in starts:
        if at > 2 or stray[0] == 0xFF:  # the third byte tells that it is a JPEG, to TensorFlow, too
            new = data[:at] + stray + data[at:]
            np.testing.assert_array_equal(decoded(new), decoded(data))
            np.testing.assert_array_equal(decoded(new), tensorflows(new))
    assert len(starts) > 4


def test_stray_bytes_between_the_segments_of_a_later_scan_are_passed_over():
    progressive = KINDS["progressive"]
    tables = [found.start() for found in re.finditer(rb"\xff\xc4\0", progressive)]
    ends = [at + 2 + progressive[at + 3] for at in tables]
    scans = [end for end in ends if progressive[end : end + 3] == b"\xff\xda\0"]
    for stray in (b"\x20", b"\xff\0" * 9, bytes(range(228))):
        data = progressive
        for at in scans[:0:-1]:
            data = data[:at] + stray + data[at:]
        np.testing.assert_array_equal(decoded(data), decoded(progressive))
        np.testing.assert_array_equal(decoded(data), tensorflows(data))
    assert len(scans) > 5


@pytest.mark.parametrize("length", [0, 1, 2, 3, 8, 30])
def test_what_is_beyond_the_length_of_a_segment_is_passed_over(length):
    at = JPEG.index(b"\xff\xdb")
    comment = b"\xff\xe1" + struct.pack(">H", length) + b"Exif, but its length is too small"
    data = JPEG[:at] + comment + JPEG[at:]

    np.testing.assert_array_equal(decoded(data), decoded(JPEG))
    np.testing.assert_array_equal(decoded(data), tensorflows(data))


def test_a_marker_of_adobes_that_is_too_short_does_not_count():
    cmyk = KINDS["cmyk"]
    at = cmyk.index(b"\xff\xee\0\x0eAdobe")
    data = cmyk[:at] + b"\xff\xee\0\7Adobe" + cmyk[at + 16 :]

    np.testing.assert_array_equal(decoded(data), tensorflows(data))
    assert np.abs(decoded(data) - decoded(cmyk)).mean() > 20


def test_the_orientation_is_read_between_stray_bytes():
    for at in segment_starts(EXIF)[1:]:
        data = EXIF[:at] + b"\0\0\x20" + EXIF[at:]
        np.testing.assert_array_equal(
            decoded(data, exif_orientation="apply"), decoded(EXIF, exif_orientation="apply")
        )


def test_the_size_behind_stray_bytes_is_checked_before_decoding():
    """A frame header among them is one, to libjpeg as here; so is one behind a marker that cannot be."""
    at = JPEG.index(b"\xff\xc0")
    for stray in (b"\0\0", b"\0\xff\0", b"\0" + JPEG[at : at + 5] + b"\x40\0\x40\0" + JPEG[at + 9 : at + 19]):
        assert refusal(JPEG[:at] + stray + JPEG[at:], max_pixels=61 * 47 - 1)[0] == "too_many_pixels"


def test_a_header_that_goes_over_into_other_bytes_is_damaged():
    assert refusal(JPEG[:20] + bytes(100)) == (
        "corrupt",
        "JPEG is damaged: no marker from byte 20 on; fetch or copy it again",
    )
    code, message = refusal(JPEG[:20] + b"\0\xff\xd8" + JPEG[20:])
    assert (code, "marker 0xd8 at byte 21, inside its header" in message) == ("corrupt", True)
    for cut in (JPEG[:20], JPEG[:20] + b"\xff\xff", JPEG[:20] + b"\0\xff\xdb\0"):
        assert refusal(cut) == (
            "truncated",
            f"JPEG ends at byte {len(cut)}, inside its header; fetch or copy it again",
        )


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_is_read_of_a_header_gives_tensorflows_pixels(data):
    """Random bytes between, over or in place of those of the header."""
    original = data.draw(st.sampled_from(list(KINDS.values())))
    starts = segment_starts(original)
    header = original[: starts[-1]]
    markers = st.sampled_from(
        [b"\xff", b"\0", b"\xff\xda", b"\xff\xc0", b"\xff\xc4\0\2", b"\xff\xee\0\7Adobe"]
    )
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(starts) | st.integers(3, starts[-1]))
        stray = b"".join(data.draw(st.lists(markers | st.binary(max_size=4), max_size=4)))
        header = header[:at] + stray + header[at + data.draw(st.sampled_from([0, 0, 0, len(stray), 1])) :]
    new = header + original[starts[-1] :]
    try:
        pixels = decoded(new)
    except ItemError:
        return
    np.testing.assert_array_equal(pixels, tensorflows(new))


@pytest.mark.parametrize("place", ["behind the last row", "before a restart marker"])
def test_left_over_compressed_data_are_probably_damage(place):
    if place == "behind the last row":
        data = JPEG[:-2] + bytes(range(228)) + JPEG[-2:]
    else:
        at = KINDS["restarts"].index(b"\xff\xd0")
        data = KINDS["restarts"][:at] + bytes(range(228)) + KINDS["restarts"][at:]
    code, message = refusal(data)
    assert code == "corrupt"
    # libjpeg does not count what it has read ahead.
    assert re.fullmatch(
        r"JPEG is probably damaged: at least 22\d bytes of its compressed data are left over; "
        r"fetch or copy it again, or save it again if the picture looks right",
        message,
    )


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
