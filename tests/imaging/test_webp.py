"""WebP: alpha, and frames on their canvas."""

import numpy as np

from tests.imaging import image_files as files
from tests.imaging.pictures import CLEAR, RGB, decoded, resized


def test_alpha_of_a_lossy_webp_changes_no_colour():
    np.testing.assert_array_equal(
        decoded(files.save(CLEAR, "WEBP", exact=True)), decoded(files.save(RGB, "WEBP"))
    )


def test_a_webp_frame_stands_on_a_black_canvas():
    frame = files.save(RGB, "WEBP", lossless=True)[12:]
    place = b"".join(size.to_bytes(3, "little") for size in (3, 2, 60, 46, 100)) + b"\0"
    size = b"\x02\0\0\0" + (79).to_bytes(3, "little") + (59).to_bytes(3, "little")
    data = files.riff((b"VP8X", size), (b"ANIM", bytes(6)), (b"ANMF", place + frame))
    canvas = np.zeros((60, 80, 3), np.uint8)
    canvas[4:51, 6:67] = RGB

    np.testing.assert_array_equal(decoded(data), resized(canvas))
