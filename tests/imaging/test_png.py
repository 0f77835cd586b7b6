"""PNG: what a file is reduced to, and how damage is told. Its pixels: test_pixels.py."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.imaging import image_files as files
from tests.imaging.pictures import RGB, decoded, refusal, resized
from transforms.errors import ItemError
from transforms.imaging.png import FORMAT, reduce

PLAIN = files.save(RGB, "PNG")
HEADER = struct.pack(">IIBBBBB", 8, 4, 8, 2, 0, 0, 0)
PIXELS = (b"IDAT", zlib.compress((b"\0" + bytes(range(24))) * 4))


def chunks(data: bytes) -> list[bytes]:
    """The names of a PNG's chunks."""
    names, at = [], 8
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        names.append(name)
        at += 12 + size
    return names


def test_only_what_the_pixels_need_is_kept():
    more = [(b"tEXt", b"key\0text"), (b"gAMA", bytes(4)), (b"iCCP", b"x"), (b"tRNS", bytes(6))]
    stored = reduce(files.png(HEADER, *more, PIXELS))
    assert chunks(stored.data) == [b"IHDR", b"IDAT", b"IEND"]
    assert (stored.width, stored.height, stored.orientation) == (8, 4, 1)
    assert stored.data == files.png(HEADER, PIXELS)
    np.testing.assert_array_equal(
        FORMAT.decode(stored, 0), np.tile(np.arange(24, dtype=np.uint8).reshape(1, 8, 3), (4, 1, 1))
    )


def test_of_an_animation_the_first_picture_is_kept():
    control = (b"fcTL", bytes(26))
    later = (b"fdAT", struct.pack(">I", 1) + PIXELS[1])
    stored = reduce(files.png(HEADER, (b"acTL", bytes(8)), control, PIXELS, control, later))
    assert stored.data == files.png(HEADER, PIXELS)


def test_bytes_behind_the_end_are_dropped():
    assert reduce(PLAIN + b"junk" * 100) == reduce(PLAIN)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_that_of_the_exif_chunk(orientation):
    assert reduce(files.save(RGB, "PNG", exif=files.exif(orientation))).orientation == orientation


def test_a_damaged_exif_chunk_costs_the_orientation_only():
    data = files.save(RGB, "PNG", exif=files.exif(6))
    at = data.index(b"eXIf") + 4
    damaged = data[:at] + b"\xff" + data[at + 1 :]
    assert reduce(damaged).orientation == 1
    np.testing.assert_array_equal(decoded(damaged), resized(RGB))


@pytest.mark.parametrize("lost", [1, 12, 13, 100, len(PLAIN) - 9])
def test_a_file_that_ends_early_is_truncated(lost):
    code, message = refusal(PLAIN[:-lost])
    assert (code, message[:17]) == ("truncated", "PNG ends at byte ")


def test_a_flipped_bit_in_the_pixels_is_found_by_the_checksum():
    at = PLAIN.index(b"IDAT") + 20
    damaged = PLAIN[:at] + bytes([PLAIN[at] ^ 1]) + PLAIN[at + 1 :]
    code, message = refusal(damaged)
    assert code == "corrupt"
    assert message.startswith(
        f"PNG is damaged: checksum of the IDAT chunk at byte {PLAIN.index(b'IDAT') - 4};"
    )


@pytest.mark.parametrize(
    ("data", "code", "what"),
    [
        (files.png(HEADER, (b"ABCD", b""), PIXELS), "corrupt", "unknown critical chunk b'ABCD' at byte 33"),
        (files.png(HEADER), "corrupt", "no IDAT chunk"),
        (files.png(HEADER[:-1], PIXELS), "corrupt", "no IHDR chunk at its start"),
        (PLAIN[:8] + files.png(HEADER, PIXELS)[33:], "corrupt", "no IHDR chunk at its start"),
        (files.png(HEADER, (b"CgBI", bytes(4)), PIXELS), "unsupported_format", "Apple's CgBI"),
    ],
)
def test_what_is_wrong_with_its_structure_is_said(data, code, what):
    with pytest.raises(ItemError, match=what) as caught:
        reduce(data)
    assert caught.value.code == code


def test_the_reduced_file_decodes_to_the_same_pixels():
    stored = reduce(PLAIN)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored.data))), RGB)
