"""Image files: the list that they are written to, and the keys that follow from it."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from apache_beam.io.filesystem import FileMetadata

from tests import helpers
from transforms.sources.base import BadInput, Cutting, Reading, ReadSettings
from transforms.sources.image_files import KIND


def cut(*paths: str, images_per_shard: int = 2, **settings):
    cutting = Cutting(ReadSettings(2, **settings), images_per_shard, None, "out/inputs.txt")
    return KIND.cut([FileMetadata(path, 1) for path in paths], cutting)


def test_shards_are_runs_of_lines_of_the_list():
    sources, names, notes, listing, rows, _ = cut("/p/a.jpg", "/p/ü.jpg", "gs://b/c d.png")
    assert listing == "/p/a.jpg\n/p/ü.jpg\ngs://b/c d.png\n".encode()
    assert list(names) == ["inputs.txt[0:19]", "inputs.txt[19:34]"]
    assert (notes, rows) == ((), 2)
    assert [(part.uri, part.format, part.start, part.end, part.rows) for part in sources] == [
        ("out/inputs.txt", "listing", 0, 19, 2),
        ("out/inputs.txt", "listing", 19, 34, 1),
    ]
    assert [part.sha256 for part in sources] == [
        hashlib.sha256(listing[:19]).hexdigest(),
        hashlib.sha256(listing[19:]).hexdigest(),
    ]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/p/a\nb.jpg", b"file:///p/a%0Ab.jpg"),
        ("/p/a.jpg ", b"file:///p/a.jpg%20"),
        ("/p/%20.jpg", b"/p/%20.jpg"),
        ("/p/\udcff.jpg", b"/p/\xff.jpg"),  # a name that is not UTF-8
        ("/p/\udcff\n.jpg", b"file:///p/%FF%0A.jpg"),
    ],
)
def test_a_name_that_a_line_cannot_hold_becomes_a_uri(path, line):
    assert cut(path).listing == line + b"\n"


def test_a_name_that_no_uri_of_a_store_can_hold_is_refused():
    with pytest.raises(BadInput, match=r"'gs://b/a\\nb.jpg': a name with a line break"):
        cut("gs://b/a\nb.jpg")


@pytest.mark.parametrize("settings", [{"key_feature": "id"}, {"pass_through": ("label",)}])
def test_image_files_have_no_columns(settings):
    with pytest.raises(BadInput, match="image files have no columns"):
        cut("/p/a.jpg", **settings)


def test_the_images_are_those_of_the_list_and_their_keys_follow_from_it(tmp_path):
    paths = []
    for seed, name in enumerate(("a.jpg", "b\n.jpg", "c.jpg")):
        (tmp_path / name).write_bytes(helpers.encoded(seed))
        paths.append(str(tmp_path / name))
    listing = tmp_path / "inputs.txt"
    cutting = Cutting(ReadSettings(2), 2, None, str(listing))
    made = KIND.cut([FileMetadata(path, 1) for path in paths], cutting)
    listing.write_bytes(made.listing)

    def fetch(uri: str) -> bytes:
        return f"bytes of {uri}".encode()

    with ThreadPoolExecutor(2) as pool:
        reading = Reading("shard", ReadSettings(2), fetch=fetch, pool=pool)
        items = [item for source in made.sources for item in source.items(reading)]
    assert [(item.position, item.data) for item in items] == [
        (0, f"bytes of {tmp_path}/a.jpg".encode()),
        (1, f"bytes of file://{tmp_path}/b%0A.jpg".encode()),
        (0, f"bytes of {tmp_path}/c.jpg".encode()),
    ]
    keys = [
        KIND.keys(name, source.identity(), str(listing))
        for name, source in zip(made.names, made.sources, strict=True)
    ]
    assert [keys[0](0), keys[0](1), keys[1](0)] == [item.key for item in items]
    assert keys[1](1) is None
    listing.write_bytes(made.listing.replace(b"a.jpg", b"x.jpg"))
    other = KIND.keys(made.names[0], made.sources[0].identity(), str(listing))
    assert other(0) == b"(inputs.txt is not the list that this shard was made of)"
    listing.unlink()
    assert KIND.keys(made.names[0], made.sources[0].identity(), str(listing)) is None
    assert KIND.keys("list.txt[0:20]", made.sources[0].identity(), str(tmp_path / "a.jpg")) is None


def test_names_and_first_bytes_of_pictures():
    assert KIND.is_named("a.jpeg")
    assert not KIND.is_named("a.txt")
    assert KIND.sniff(helpers.encoded(0, "PNG"))
    assert not KIND.sniff(b"text")
