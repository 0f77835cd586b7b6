"""AVIF: the pixels are Pillow's, whatever else the file holds, and no header is trusted."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.imaging import heif_files as build
from tests.imaging import image_files as files
from tests.imaging.hostile_images import outcome
from tests.imaging.pictures import RGB, RGBA, decoded, refusal, resized
from transforms.imaging.formats import format_of

FILMED = {"save_all": True, "append_images": 2 * [Image.fromarray(255 - RGB)]}
CLEAR_FILMED = {"save_all": True, "append_images": 2 * [Image.fromarray(255 - RGBA)]}
# From the header's timing on: a decoder model, delays, two operating points of a high level.
FULL = f"1 {'0' * 64} 1 001 01 1 00011 {'0' * 32} 00000 00100 1 00001 " + 2 * (
    f"{'0' * 12} 01000 1 1 {'0' * 9} 1 0000 "
)


def deep(bits: int) -> bytes:
    samples = np.random.RandomState(0).randint(0, 1 << bits, RGB.shape).astype(np.uint16)
    encoded = cv2.imencode(".avif", samples, [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_SPEED, 10])[1]
    return encoded.tobytes()


AS_PILLOW = {
    "4:2:0": files.save(RGB, "AVIF"),
    "4:2:2": files.save(RGB, "AVIF", subsampling="4:2:2"),
    "4:4:4": files.save(RGB, "AVIF", subsampling="4:4:4", quality=100),
    "grey": files.save(RGB, "AVIF", "L"),
    "limited range": files.save(RGB, "AVIF", range="limited"),
    "metadata": files.save(RGB, "AVIF", icc_profile=bytes(3000), xmp=bytes(3000), exif=files.exif(6)),
    "animated": files.save(RGB, "AVIF", **FILMED),
    "10 bits": deep(10),
    "12 bits": deep(12),
    "one pixel": files.save(Image.new("RGB", (1, 1), (9, 99, 199)), "AVIF"),
    "by hand": build.avif(build.coded(RGB)),
    "in three pieces": build.avif(build.coded(RGB), extents=3),
    "in the header": build.avif(build.coded(RGB), in_idat=True),
    "a general first brand": build.avif(build.coded(RGB), brand=b"mif1"),
}


@pytest.mark.parametrize("data", AS_PILLOW.values(), ids=AS_PILLOW)
def test_pixels_are_pillows(data):
    image = Image.open(io.BytesIO(data.replace(b"ftypmif1", b"ftypavif")))

    np.testing.assert_array_equal(decoded(data), resized(np.asarray(image.convert("RGB"))))


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": "4:4:4", "quality": 100}, CLEAR_FILMED], ids=["", "4:4:4", "film"]
)
def test_alpha_is_dropped_within_a_level_of_pillows_colours(options):
    data = files.save(RGBA, "AVIF", **options)
    colours = np.asarray(Image.open(io.BytesIO(data)))[..., :3]

    assert np.abs(decoded(data) - resized(np.ascontiguousarray(colours))).max() <= 1


def test_colours_stored_times_alpha_stay_so():
    half = np.dstack([np.full((40, 40, 3), 200, np.uint8), np.full((40, 40, 1), 128, np.uint8)])
    data = files.save(half, "AVIF", alpha_premultiplied=True, quality=100)

    assert abs(decoded(data).mean() - 200 * 128 / 255) < 2


@pytest.mark.parametrize("shared", [False, True], ids=["four tiles", "alike"])
def test_a_grid_is_put_together_and_cut_to_its_size(shared):
    tiles = [files.picture(64, 64, seed=0 if shared else seed) for seed in range(4)]
    items = [build.coded(tile, subsampling="4:4:4") for tile in tiles]
    data = build.avif(build.grid(2, 2, 120, 100), *items, tiles=(2, 3, 4, 5))
    pixels = [np.asarray(Image.open(io.BytesIO(build.avif(item)))) for item in items]
    expected = np.vstack([np.hstack(pixels[:2]), np.hstack(pixels[2:])])[:100, :120]

    np.testing.assert_array_equal(decoded(data), resized(expected))


@pytest.mark.parametrize("options", [{"exif": files.exif(6)}, CLEAR_FILMED], ids=["still", "film"])
def test_what_is_no_matter_of_the_still_picture_never_reaches_libavif(options):
    data = files.save(RGBA, "AVIF", icc_profile=b"P" * 3000, xmp=b"X" * 3000, **options)
    stored = format_of(data).reduce(data)

    assert len(stored.data) < 3000 < 6000 < len(data)
    assert not any(
        kind in stored.data for kind in (b"moov", b"auxC", b"Exif", b"prof", b"irot", b"PPP", b"XXX")
    )


PICTURE = build.coded(RGB)
SMALL_SEQUENCE, FRAME = build.sequence(61, 47), build.frame(False)
UNREAD = {
    "hevc in it": (build.avif(PICTURE._replace(kind=b"hvc1")), "unsupported_format", "'hvc1'"),
    "an unknown property that counts": (
        build.avif(PICTURE._replace(properties=(*PICTURE.properties, build.box(b"abcd"))), essential=128),
        "unsupported_format",
        "'abcd'",
    ),
    "a layer to be chosen": (
        build.avif(
            PICTURE._replace(properties=(*PICTURE.properties, build.box(b"lsel", b"\0\0"))), essential=128
        ),
        "unsupported_format",
        "'lsel'",
    ),
    "no still picture": (
        build.box(b"ftyp", b"avis", bytes(4), b"avis") + build.box(b"moov"),
        "corrupt",
        "no still",
    ),
    "a size of its own": (
        build.avif(build.coded(RGB, (60, 47))),
        "corrupt",
        "two sizes, 60 x 47 and 61 x 47",
    ),
    "frames of their own size": (
        build.claimed(61, 47, SMALL_SEQUENCE, build.frame(True)),
        "corrupt",
        "another size",
    ),
    "a switch frame": (
        build.claimed(61, 47, SMALL_SEQUENCE, build.frame(False, "0 11 1")),
        "corrupt",
        "another size",
    ),
    "a hidden frame of its own size": (
        build.claimed(61, 47, SMALL_SEQUENCE, FRAME, build.frame(True, "0 01 0 0 0")),
        "corrupt",
        "another size",
    ),
    "a second size": (build.claimed(61, 47, SMALL_SEQUENCE, build.sequence(61, 48)), "corrupt", "61 x 48"),
    "a full header, another size": (
        build.claimed(61, 47, build.sequence(62, 47, FULL)),
        "corrupt",
        "and 62 x 47",
    ),
    "a full header, its own size": (
        build.claimed(61, 47, build.sequence(61, 47, FULL), FRAME),
        "corrupt",
        "",
    ),
    "frames without a size": (build.claimed(61, 47, FRAME), "corrupt", "another size"),
    "no frame": (build.claimed(61, 47, SMALL_SEQUENCE), "corrupt", "0 frames"),
    "many frames": (build.claimed(61, 47, SMALL_SEQUENCE, *[FRAME] * 17), "corrupt", "17 frames"),
    "frames without pixels": (build.claimed(61, 47, SMALL_SEQUENCE, FRAME), "corrupt", ""),
}


@pytest.mark.parametrize(("data", "code", "words"), UNREAD.values(), ids=UNREAD)
def test_what_libavif_should_not_see_is_refused(data, code, words):
    refused_as, message = refusal(data)

    assert (refused_as, words in message) == (code, True), message


@pytest.mark.parametrize(
    ("grid", "tiles"),
    [
        (build.grid(2, 1, 120, 64), (2,)),
        (build.grid(2, 1, 120, 64), (2, 2)),
        (build.grid(2, 1, 130, 64), (2, 3)),
        (build.grid(2, 1, 64, 64), (2, 3)),
        (build.grid(1, 2, 64, 64), (2, 3)),
        (build.grid(2, 1, 120, 64), (2, 1)),
        (build.grid(2, 1, 120, 64), (2, 9)),
        (build.grid(2, 1, 120, 64)._replace(content=b"\0"), (2, 3)),
        (build.grid(2, 1, 120, 64)._replace(properties=(build.ispe(119, 64),)), (2, 3)),
    ],
    ids=range(9),
)
def test_a_grid_that_does_not_add_up_is_corrupt(grid, tiles):
    items = [build.coded(files.picture(64, 64, seed=seed)) for seed in range(2)]

    assert refusal(build.avif(grid, *items, tiles=tiles))[0] == "corrupt"


def test_tiles_far_larger_than_the_picture_are_corrupt():
    tile = build.coded(Image.new("L", (5000, 5000)))

    assert refusal(build.avif(build.grid(1, 1, 8, 8), tile, tiles=(2,)))[0] == "corrupt"
    assert (
        refusal(build.avif(build.grid(1, 1, 5000, 4000), tile, tiles=(2,)), max_pixels=10**6)[0]
        == "too_many_pixels"
    )


@pytest.mark.parametrize("size", [0, 1, 2, 7, 8, 2**31, 2**32 - 1])
@pytest.mark.parametrize(
    "kind", [b"meta", b"pitm", b"iloc", b"iinf", b"infe", b"iprp", b"ipco", b"ipma", b"ispe"]
)
def test_boxes_of_any_size_end_as_pixels_or_a_code(kind, size):
    data = files.save(RGB, "AVIF")
    at = data.index(kind) - 4
    damaged = data[:at] + struct.pack(">I", size) + data[at + 4 :]
    result = outcome(damaged, np.empty((32, 32, 3), np.float32))

    # 0 means "up to the end of the enclosing box", which may be true.
    assert result in ("corrupt", "truncated", "unsupported_format", "pixels" if size == 0 else "")
