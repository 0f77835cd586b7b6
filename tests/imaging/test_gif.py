"""GIFs: frames on their canvas, and missing colours."""

import numpy as np

from tests.imaging import image_files as files
from tests.imaging.pictures import COLOURS, INDICES, decoded, resized


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
