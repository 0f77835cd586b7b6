"""BMP: the sizes in its several headers, its masks, and what is refused. Its pixels: test_pixels.py."""

import io
import itertools
import struct

import numpy as np
import pytest
from PIL import Image

from tests.imaging import image_files as files
from tests.imaging.pictures import RGB, decoded, refusal, resized
from transforms.imaging.bmp import FORMAT, reduce

PLAIN = files.save(RGB, "BMP")
ROWS = (np.arange(2 * 3 * 3, dtype=np.uint8) * 14).reshape(2, 3, 3)  # (height, width, RGB)


def bmp(header: bytes, rows: np.ndarray) -> bytes:
    """A BMP of 24 bits with this header and these rows, in the order in which they are stored."""
    body = b"".join(row[:, ::-1].tobytes() + bytes(-row.nbytes % 4) for row in rows)
    at = 14 + len(header)
    return struct.pack("<2sIHHI", b"BM", at + len(body), 0, 0, at) + header + body


def windows(width: int, height: int, compression: int = 0) -> bytes:
    return struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, compression, 0, 0, 0, 0, 0)


def test_the_file_is_kept_as_it_is():
    stored = reduce(PLAIN)
    assert (stored.data, stored.width, stored.height, stored.orientation) == (PLAIN, 61, 47, 1)


@pytest.mark.parametrize(
    "data",
    [
        bmp(windows(3, 2), ROWS[::-1]),  # from the bottom up
        bmp(windows(3, -2), ROWS),  # from the top down
        bmp(struct.pack("<IHHHH", 12, 3, 2, 1, 24), ROWS[::-1]) + bytes(4),  # OS/2
    ],
    ids=["bottom up", "top down", "os/2"],
)
def test_each_header_tells_the_size_and_the_order_of_the_rows(data):
    data += bytes(max(0, 54 - len(data)))
    stored = reduce(data)
    assert (stored.width, stored.height) == (3, 2)
    np.testing.assert_array_equal(FORMAT.decode(stored, 0), ROWS)
    np.testing.assert_array_equal(decoded(data), resized(ROWS))


@pytest.mark.parametrize("compression", [1, 2, 4, 5])
def test_compressed_pixels_are_refused(compression):
    code, message = refusal(bmp(windows(3, 2, compression), ROWS))
    assert (code, message) == ("unsupported_format", "a compressed BMP is not supported; convert it to PNG")


def masked(
    *masks: int, header_bytes: int = 40, height: int = 2, bits: int = 32, compression: int = 3
) -> bytes:
    """A BMP of 3 x 2 pixels of four bytes, whose first byte is 10, 14, 18, ..., with these masks of channels."""
    body = bytes(range(10, 34))
    head = struct.pack("<IiiHHIIiiII", header_bytes, 3, height, 1, bits, compression, 0, 0, 0, 0, 0)
    head += struct.pack(f"<{len(masks)}I", *masks)
    head += bytes(max(0, header_bytes - len(head)))
    return struct.pack("<2sIHHI", b"BM", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body


BYTE_MASKS = tuple(0xFF << 8 * byte for byte in range(4))
STORED = np.arange(10, 34, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4), 3)), ids=str)
def test_masks_of_whole_bytes_say_which_byte_is_which_colour(order):
    masks = [BYTE_MASKS[byte] for byte in order]
    colours = STORED[..., list(order)]
    (last,) = {*BYTE_MASKS} - {*masks}
    for data in (
        masked(*masks),
        masked(*masks, last, compression=6),
        masked(*masks, 0, header_bytes=56),
        masked(*masks, last, header_bytes=124),
    ):
        np.testing.assert_array_equal(decoded(data), resized(colours[::-1]))
    np.testing.assert_array_equal(decoded(masked(*masks, height=-2)), resized(colours))


def test_the_masks_that_pillow_knows_give_its_pixels():
    red_last, blue_last = BYTE_MASKS[2::-1], BYTE_MASKS[:3]
    for data in (masked(*red_last), masked(*blue_last, BYTE_MASKS[3], header_bytes=56)):
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decoded(data), resized(pixels))


@pytest.mark.parametrize(
    "data",
    [
        masked(0x3FF00000, 0xFFC00, 0x3FF),
        masked(0xF, 0xF0, 0xF00, bits=16),
        masked(bits=2, compression=0),
    ],
    ids=["10 bits", "4 bits", "2 bits per pixel"],
)
def test_what_pillow_does_not_know_is_not_called_damaged(data):
    code, message = refusal(data)
    assert code == "unsupported_format"
    assert message.startswith("this kind of BMP is not supported (Unsupported BMP ")
    assert message.endswith("; convert it to PNG")


def test_masked_pixels_that_are_not_all_there_are_refused():
    data = masked(*BYTE_MASKS[:3])
    assert refusal(data[:-1]) == ("truncated", "BMP ends at byte 89 of 90; fetch or copy it again")
    code, message = refusal(data[:10] + struct.pack("<I", 54) + data[14:])
    assert (code, "start at byte 54, inside its header" in message) == ("corrupt", True)


@pytest.mark.parametrize("size", [18, 53])
def test_a_file_that_ends_within_its_header_is_truncated(size):
    assert refusal(PLAIN[:size]) == (
        "truncated",
        f"BMP ends at byte {size}, inside its header; fetch or copy it again",
    )


def test_the_magic_looks_at_the_size_of_the_header():
    assert FORMAT.magic.match(PLAIN)
    assert not FORMAT.magic.match(b"BM is how a text may begin, too")
