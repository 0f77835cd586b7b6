"""BMP: the sizes in its several headers, and what is refused. Its pixels: test_pixels.py."""

import struct

import numpy as np
import pytest

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


@pytest.mark.parametrize("size", [18, 53])
def test_a_file_that_ends_within_its_header_is_truncated(size):
    assert refusal(PLAIN[:size]) == (
        "truncated",
        f"BMP ends at byte {size}, inside its header; fetch or copy it again",
    )


def test_the_magic_looks_at_the_size_of_the_header():
    assert FORMAT.magic.match(PLAIN)
    assert not FORMAT.magic.match(b"BM is how a text may begin, too")
