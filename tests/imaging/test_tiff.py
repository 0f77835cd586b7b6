"""TIFFs whose strips are JPEGs."""

import io

import numpy as np
from PIL import Image

from tests.imaging import image_files as files
from tests.imaging.pictures import RGB, decoded, resized


def test_a_tiff_of_jpeg_strips_is_as_libjpeg_decodes_it():
    data = files.save(RGB, "TIFF", compression="jpeg")

    np.testing.assert_array_equal(decoded(data), resized(np.asarray(Image.open(io.BytesIO(data)))))
