"""Pictures as arrays, and the job's and TensorFlow's decoding of files of them."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.imaging import image_files as files
from transforms.errors import ItemError
from transforms.imaging.preprocess import Preprocessing, decode

SIDE = 48
RGB = files.picture()
RGBA = files.picture(channels=4)
CLEAR = np.dstack([RGB, np.zeros_like(RGB[..., 0])])
DEEP = np.random.RandomState(1).randint(0, 65536, (47, 61, 4)).astype(np.uint16)
INDICES = np.tile(np.arange(4, dtype=np.uint8), (6, 2))
COLOURS = np.array([(10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200)], np.uint8)
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
    """(code, message) of the error for a refused file."""
    with pytest.raises(ItemError) as caught:
        decoded(data, **settings)
    return caught.value.code, str(caught.value)
