"""HEIC: the pixels are pillow-heif's, whatever else the file holds, and no header is trusted."""

import io
import struct
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from tests.imaging import heif_files as build
from tests.imaging import image_files as files
from tests.imaging.hostile_images import outcome
from tests.imaging.pictures import RGB, RGBA, decoded, refusal, resized
from transforms.errors import ItemError
from transforms.imaging import heic, heif
from transforms.imaging.formats import format_of
from transforms.imaging.heif_items import Item

WHOLE = files.picture(128, 64)  # a size that needs no crop


def theirs(data: bytes) -> np.ndarray:
    return np.asarray(pillow_heif.open_heif(io.BytesIO(data)).to_pillow().convert("RGB"))


def tiled(pixels: np.ndarray, side: int, **options) -> bytes:
    """A grid of tiles, as phones write it."""
    pillow_heif.options.GRID_TILE_SIZE = side
    try:
        return build.heic_of(pixels, **options)
    finally:
        pillow_heif.options.GRID_TILE_SIZE = 0


def ten_bits() -> bytes:
    samples = np.random.RandomState(0).randint(0, 1 << 16, WHOLE.shape).astype(np.uint16)
    file = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", WHOLE.shape[1::-1], samples.tobytes()).save(file, quality=90)
    return file.getvalue()


AS_PILLOW_HEIF = {
    "4:2:0": build.heic_of(WHOLE),
    "4:2:2": build.heic_of(WHOLE, chroma=422),
    "4:4:4": build.heic_of(WHOLE, chroma=444, quality=100),
    "cropped": build.heic_of(RGB),
    "frames that exceed it": build.heic_of(files.picture(100, 76)),
    "grey": build.heic_of(Image.fromarray(RGB).convert("L")),
    "metadata": build.heic_of(WHOLE, exif=bytes(3000), xmp=bytes(3000), icc_profile=bytes(3000)),
    "10 bits": ten_bits(),
    "one pixel": build.heic_of(np.full((1, 1, 3), (9, 99, 199), np.uint8)),
    "tiles": tiled(files.picture(300, 200), 128),
    "by hand": build.heic(build.hevc(WHOLE)),
    "in three pieces": build.heic(build.hevc(WHOLE), extents=3),
    "in the header": build.heic(build.hevc(WHOLE), in_idat=True),
    "a general first brand": build.heic(build.hevc(WHOLE), brand=b"mif1"),
    "the brand of a sequence": build.heic(build.hevc(WHOLE), brand=b"hevc"),
    "another first brand": build.heic(build.hevc(WHOLE), brand=b"MiHB"),
    "with a film behind it": build.heic_of(WHOLE) + b"MotionPhoto_Data\0\0\0\x18ftypmp42",
    "with a blank behind it": build.heic_of(WHOLE) + b"\n",
}


@pytest.mark.parametrize("data", AS_PILLOW_HEIF.values(), ids=AS_PILLOW_HEIF)
def test_pixels_are_pillow_heifs(data):
    assert format_of(data).name == "HEIC"
    np.testing.assert_array_equal(decoded(data), resized(theirs(data)))


def test_alpha_is_dropped_not_blended():
    colours = build.heic_of(np.ascontiguousarray(RGBA[..., :3]))

    assert np.abs(decoded(build.heic_of(RGBA)) - decoded(colours)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_files_own_rotation_takes_the_place_of_exif(orientation):
    full = {"chroma": 444}  # others are turned before they have their colours
    data = build.heic_of(RGB, exif=files.exif(orientation).tobytes(), **full)  # as rotation and mirroring

    np.testing.assert_array_equal(decoded(data, exif_orientation="apply"), resized(theirs(data)))
    np.testing.assert_array_equal(decoded(data), resized(theirs(build.heic_of(RGB, **full))))


def test_what_is_no_matter_of_the_picture_never_reaches_libheif():
    data = build.heic_of(RGBA, exif=b"E" * 3000, xmp=b"X" * 3000, icc_profile=b"P" * 3000)
    stored = format_of(data).reduce(data)

    assert len(stored.data) < 3000 < 9000 < len(data)
    assert not any(kind in stored.data for kind in (b"auxC", b"Exif", b"prof", b"EEE", b"PPP", b"XXX"))


def test_without_the_package_the_ledger_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heic._library.cache_clear()
    try:
        code, message = refusal(build.heic_of(RGB))
    finally:
        heic._library.cache_clear()

    assert code == "unsupported_format"
    assert "bit-features[heic]" in message


PICTURE = build.hevc(WHOLE)
OTHER = build.hevc(files.picture(192, 64))


def parameters(item: build.Item) -> bytes:
    """The sequence parameter set of a picture, with its length, as it may stand among the data."""
    content = item.properties[1]
    at = content.index(b"\x42\x01\x01")
    return b"\0\0" + content[at - 2 : at + int.from_bytes(content[at - 2 : at], "big")]


def clap(*numbers: int) -> bytes:
    return build.box(b"clap", struct.pack(">8I", *numbers))


def all_parameters(item: build.Item) -> bytes:
    """All parameter sets of a picture, with their lengths."""
    content, at, out = item.properties[1][8:], 23, b""
    for _ in range(content[22]):
        assert content[at + 1 : at + 3] == b"\0\1"
        size = int.from_bytes(content[at + 3 : at + 5], "big")
        out += b"\0\0" + content[at + 3 : at + 5 + size]
        at += 5 + size
    return out


TURN, MIRROR = build.box(b"irot", b"\1"), build.box(b"imir", b"\0")


def with_property(item: build.Item, *boxes: bytes) -> build.Item:
    return item._replace(properties=(*item.properties, *boxes))


def configured(change) -> bytes:
    """A file with another description of its frames."""
    content = change(bytearray(PICTURE.properties[1][8:]))
    return build.heic(
        PICTURE._replace(properties=(PICTURE.properties[0], build.box(b"hvcC", bytes(content))))
    )


def cleared(content: bytearray) -> bytearray:
    content[22] = 0
    return content


UNREAD = {
    "av1 in it": (build.heic(PICTURE._replace(kind=b"av01")), "unsupported_format", "'av01'"),
    "descriptions among the data": (
        build.heic(PICTURE._replace(kind=b"hev1")),
        "unsupported_format",
        "'hev1'",
    ),
    "a crop by parts of a pixel": (
        build.heic(with_property(PICTURE, clap(127, 2, 64, 1, 0, 1, 0, 1))),
        "unsupported_format",
        "a crop",
    ),
    "a crop by nothing": (
        build.heic(with_property(PICTURE, clap(64, 0, 64, 1, 0, 1, 0, 1))),
        "unsupported_format",
        "a crop",
    ),
    "a crop after a rotation": (
        build.heic(with_property(PICTURE, TURN, clap(64, 1, 32, 1, 0, 1, 0, 1))),
        "unsupported_format",
        "a crop after",
    ),
    "a crop to more": (build.heic(with_property(PICTURE, clap(130, 1, 64, 1, 0, 1, 0, 1))), "corrupt", ""),
    "a crop beyond it": (
        build.heic(with_property(PICTURE, clap(64, 1, 32, 1, 50, 1, 0, 1))),
        "corrupt",
        "64 x 32 and 46 x 32",
    ),
    "no still picture": (
        build.box(b"ftyp", b"heic", bytes(4), b"hevc") + build.box(b"moov"),
        "corrupt",
        "no still",
    ),
    "a size of its own": (build.heic(build.hevc(WHOLE, (120, 64))), "corrupt", "and 128 x 64"),
    "frames of another size": (
        build.heic(PICTURE._replace(properties=(PICTURE.properties[0], OTHER.properties[1]))),
        "corrupt",
        "128 x 64 and 192 x 64",
    ),
    "no description": (configured(cleared), "corrupt", "0 descriptions"),
    "a short description": (configured(lambda content: content[:40]), "corrupt", ""),
    "another description among the data": (
        build.heic(PICTURE._replace(content=parameters(OTHER) + PICTURE.content)),
        "corrupt",
        "128 x 64 and 192 x 64",
    ),
    "two frames": (build.heic(PICTURE._replace(content=2 * PICTURE.content)), "corrupt", "2 frames"),
    "no frame": (build.heic(PICTURE._replace(content=b"\0\0\0\x03\x4e\x01\x80")), "corrupt", "0 frames"),
    "half a frame": (build.heic(PICTURE._replace(content=PICTURE.content[:200])), "corrupt", "a unit of"),
    "a unit of nothing": (build.heic(PICTURE._replace(content=bytes(400))), "corrupt", "a unit of 0"),
}


@pytest.mark.parametrize(("data", "code", "words"), UNREAD.values(), ids=UNREAD)
def test_what_libheif_should_not_see_is_refused(data, code, words):
    refused_as, message = refusal(data)

    assert (refused_as, words in message) == (code, True), message


def test_a_crop_hides_no_picture_that_is_far_larger():
    """Which would be decoded whole, whatever --max_pixels says."""
    crop = (b"clap", clap(64, 1, 64, 1, 0, 1, 0, 1)[8:], True)
    sizes = {side: (b"ispe", build.ispe(side, side)[8:], True) for side in (4000, 5000)}

    assert heif._cropped(Item(b"hvc1", [sizes[4000], crop]), "HEIC") == (64, 64)
    with pytest.raises(ItemError, match="a crop to 64 x 64 of 5000 x 5000 pixels"):
        heif._cropped(Item(b"hvc1", [sizes[5000], crop]), "HEIC")


READ = {
    "its description among the data": PICTURE._replace(content=all_parameters(PICTURE) + PICTURE.content),
    "a crop in halves": with_property(PICTURE, clap(128, 2, 64, 2, 0, 1, 0, 1)),
    "a crop, then a rotation": with_property(PICTURE, clap(64, 1, 32, 1, 0, 1, 0, 1), TURN),
    "a rotation, then mirrored": with_property(PICTURE, TURN, MIRROR),
    "mirrored, then a rotation": with_property(PICTURE, MIRROR, TURN),
}


@pytest.mark.parametrize("item", READ.values(), ids=READ)
def test_what_libheif_does_with_a_picture_is_done(item):
    data = build.heic(item)
    turned = decoded(data, exif_orientation="apply")

    assert (
        np.abs(turned - resized(theirs(data))).mean() < 3
    )  # libheif turns before colours have their full size


def test_tiles_that_share_a_long_description_take_no_time():
    """31 KB took 3 seconds, and four times the tiles four times as long."""
    small = build.hevc(np.zeros((64, 64, 3), np.uint8))
    unit = parameters(small)[2:]
    content = small.properties[1][8 : 8 + 22] + b"\x01" + b"\x21" + struct.pack(">H", 200) + unit * 200
    item = build.Item(b"hvc1", (small.properties[0], build.box(b"hvcC", content)), small.content)

    assert refusal(build.heic(item)) == ("corrupt", refusal(build.heic(item))[1])
    assert "200 descriptions" in refusal(build.heic(item))[1]


def test_a_frame_far_larger_than_what_is_shown_of_it_is_refused():
    """Of 192 x 64 pixels, all but 61 columns hidden by the sequence parameter set itself."""
    item = build.hevc(files.picture(64, 64))
    content = bytearray(item.properties[1][8:])
    at = content.index(b"\x42\x01\x01")
    size = int.from_bytes(content[at - 2 : at], "big")
    # Profile and level of one layer; numbers 0 and 1 (4:2:0); 192 x 64; hidden on the right 64 pairs of columns.
    bits = "0000 000 1" + "0" * 96 + "1 010 " + golomb(192) + golomb(64) + "1 1 " + golomb(64) + "1 1"
    unit = b"\x42\x01" + build.packed(bits)
    content[at - 2 : at + size] = struct.pack(">H", len(unit)) + unit
    file = build.heic(item._replace(properties=(item.properties[0], build.box(b"hvcC", bytes(content)))))

    assert refusal(file)[0] == "corrupt"
    assert "192 x 64 pixels for a picture of 64 x 64" in refusal(file)[1]


def golomb(number: int) -> str:
    digits = f"{number + 1:b}"
    return "0" * (len(digits) - 1) + digits + " "


@pytest.mark.parametrize("size", [0, 1, 2, 7, 8, 2**31, 2**32 - 1])
@pytest.mark.parametrize("kind", [b"meta", b"iloc", b"iprp", b"ipco", b"ipma", b"ispe", b"hvcC", b"clap"])
def test_boxes_of_any_size_end_as_pixels_or_a_code(kind, size):
    data = build.heic_of(RGB)
    at = data.index(kind) - 4
    damaged = data[:at] + struct.pack(">I", size) + data[at + 4 :]
    result = outcome(damaged, np.empty((32, 32, 3), np.float32))

    # 0 means "up to the end of the enclosing box", which may be true.
    assert result in ("corrupt", "truncated", "unsupported_format", "pixels" if size == 0 else "")


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_ends_as_pixels_or_a_code(seed):
    random = np.random.RandomState(seed)
    data = bytearray(tiled(files.picture(150, 100), 64) if seed % 2 else build.heic_of(RGB))
    for at in random.randint(0, len(data), random.randint(1, 9)):
        data[at] = random.randint(256)
    result = outcome(bytes(data), np.empty((32, 32, 3), np.float32))

    assert result in ("pixels", "corrupt", "truncated", "unsupported_format", "not_image", "too_many_pixels")
