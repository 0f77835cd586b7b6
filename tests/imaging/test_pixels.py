"""The pixels of every format, compared with TensorFlow's or with those known to be in the file."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.imaging import image_files as files
from tests.imaging.pictures import RGB, SIDE, decoded, resized
from tests.imaging.samples import AS_STORED, AS_TENSORFLOW
from transforms.imaging.preprocess import Preprocessing, decode


@pytest.mark.parametrize("data", AS_TENSORFLOW.values(), ids=AS_TENSORFLOW)
def test_pixels_are_tensorflows(data):
    if data.startswith(b"\xff\xd8"):
        pixels = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    else:
        pixels = tf.io.decode_image(data, channels=3, expand_animations=False)

    np.testing.assert_array_equal(decoded(data), resized(pixels.numpy()))


@pytest.mark.parametrize(("data", "pixels"), AS_STORED.values(), ids=AS_STORED)
def test_pixels_are_those_in_the_file(data, pixels):
    np.testing.assert_array_equal(decoded(data), resized(pixels))


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
    "avif": lambda o: files.save(RGB, "AVIF", exif=files.exif(o)),
}


@pytest.mark.parametrize("make", ORIENTABLE.values(), ids=ORIENTABLE)
@pytest.mark.parametrize("orientation", TURNS)
def test_orientation_is_applied_or_ignored(make, orientation):
    data = make(orientation)
    lossy = data.startswith(b"\xff\xd8") or data[4:8] == b"ftyp"
    stored = np.asarray(Image.open(io.BytesIO(make(1)))) if lossy else RGB
    upright = TURNS[orientation](stored)
    out = np.empty((SIDE, SIDE, 3), np.float32)

    assert decode(data, Preprocessing(image_size=SIDE), out) == (61, 47)
    np.testing.assert_array_equal(out, resized(stored))
    size = decode(data, Preprocessing(image_size=SIDE, exif_orientation="apply"), out)
    assert size == (upright.shape[1], upright.shape[0])
    np.testing.assert_array_equal(out, resized(upright))
