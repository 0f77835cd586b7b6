"""JPEGs at an eighth of their size: the pixels of libjpeg-turbo, or none at all."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from transforms.imaging import native
from transforms.imaging.eighth import decode_eighth, room_bytes
from transforms.imaging.jpeg import read_jpeg

SIZES = ((64, 64), (8, 8), (61, 47), (257, 129), (16, 200), (1, 1))


@pytest.fixture(autouse=True)
def built():
    assert native.LIBRARY, "the native code is not built: ./run_tests.sh does it, with a C compiler"


def picture(seed: int, width: int, height: int) -> np.ndarray:
    """Smooth areas, edges and grain, more and less of each by `seed`, in all colours."""
    random = np.random.RandomState(seed)
    coarse = random.uniform(0, 255, (1 + seed % 9, 1 + seed % 7, 3)).astype(np.uint8)
    enlarged = Image.fromarray(coarse).resize((width, height), random.choice([0, 1, 2, 3]))
    grain = random.normal(0, random.choice([0, 3, 20, 90]), (height, width, 3))
    return np.clip(np.asarray(enlarged) + grain, 0, 255).astype(np.uint8)


def saved(pixels: np.ndarray, mode: str | None = None, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def ours(data: bytes) -> np.ndarray | None:
    stored = read_jpeg(data)
    return decode_eighth(stored, np.full(room_bytes(stored), 99, np.uint8))


def libjpegs(data: bytes) -> np.ndarray:
    """As `decoders` has it scaled; raises ValueError on anything that it warns of."""
    stored = read_jpeg(data)
    height, width = -(-stored.height // 8), -(-stored.width // 8)
    pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=2)
    assert pixels.shape == (height, width, 3)
    return pixels


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("layout", ["4:2:0", "4:2:2", "4:4:4", "grey"])
def test_the_pixels_are_libjpegs(layout, size):
    decoded = 0
    for seed in range(12):
        pixels = picture(seed, *size)
        quality = (5, 40, 75, 90, 98)[seed % 5]
        if layout == "grey":
            data = saved(pixels[..., 0], quality=quality)
        else:
            data = saved(pixels, quality=quality, subsampling=layout, optimize=bool(seed % 2))
        found = ours(data)
        if found is not None:
            decoded += 1
            np.testing.assert_array_equal(found, libjpegs(data), f"seed {seed}")
    assert decoded >= 10, "most are decoded"


@pytest.mark.parametrize("every", [{"restart_marker_blocks": 3}, {"restart_marker_rows": 1}], ids=str)
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_restart_markers(every, subsampling):
    data = saved(picture(2, 300, 170), quality=85, subsampling=subsampling, **every)
    assert data.count(b"\xff\xd1") > 1
    np.testing.assert_array_equal(ours(data), libjpegs(data))


def test_long_codes_and_the_deepest_contrast():
    random = np.random.RandomState(0)
    for quality in (30, 100):
        pixels = np.repeat(random.choice([0, 255], (200, 200, 1)), 3, axis=2).astype(np.uint8)
        data = saved(pixels, quality=quality, subsampling="4:2:0")
        np.testing.assert_array_equal(ours(data), libjpegs(data))


@pytest.mark.parametrize(
    "data",
    [
        saved(picture(1, 99, 77), progressive=True),
        simplejpeg.encode_jpeg(picture(1, 99, 77), 75, "RGB", "440"),
        saved(picture(1, 99, 77), keep_rgb=True),
        saved(picture(1, 99, 77), "CMYK"),
    ],
    ids=["progressive", "4:4:0", "RGB", "CMYK"],
)
def test_what_it_leaves_to_libjpeg(data):
    assert ours(data) is None


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xdb\x00\x43\x05" + b"\1" * 64,  # a quantization table of a number that there is not
        b"\xff\xc4\x00\x14\x04" + b"\1" + bytes(16),  # a Huffman table of one
        b"\xff\xe0\x00\x10JFIF\0\2\1\0\0\1\0\1\0\0",  # JFIF 2
    ],
    ids=["quantization", "Huffman", "JFIF"],
)
def test_headers_that_libjpeg_refuses_or_warns_of_are_its_to_judge(segment):
    data = saved(picture(1, 99, 77))
    assert ours(data) is not None
    data = data[:2] + segment + data[2:]
    assert ours(data) is None
    with pytest.raises(ValueError, match=r"."):
        libjpegs(data)


def test_without_native_code_libjpeg_does_it(monkeypatch):
    data = saved(picture(1, 80, 80))
    monkeypatch.setattr(native, "LIBRARY", None)
    assert ours(data) is None


def test_a_damaged_file_is_libjpegs_to_judge():
    """Cut, changed and lengthened files: either there are no pixels, or libjpeg gives the same without a word."""
    random = np.random.RandomState(0)
    kinds = [
        saved(picture(seed, 120, 90), quality=60, subsampling=layout, restart_marker_blocks=blocks)
        for seed, layout, blocks in ((1, "4:2:0", 0), (2, "4:2:0", 4), (3, "4:4:4", 0), (4, "4:2:2", 7))
    ]
    decoded = 0
    for number in range(4000):
        data = bytearray(kinds[number % len(kinds)])
        start = data.index(b"\xff\xda") if number % 2 else 2
        for _ in range(random.randint(1, 3)):
            at = random.randint(start, len(data))
            kind = random.randint(4)
            if kind == 0:
                data[at] = random.randint(256)
            elif kind == 1:
                data[at] ^= 1 << random.randint(8)
            elif kind == 2:
                del data[at : at + random.randint(1, 40)]
            else:
                data[at:at] = random.bytes(random.randint(1, 4))
        try:
            found = ours(bytes(data))
        except Exception:  # already the header is unreadable
            continue
        if found is not None:
            decoded += 1
            np.testing.assert_array_equal(found, libjpegs(bytes(data)), f"number {number}")
    assert decoded > 100, "some changes leave a sound file"
