"""Image files: the list that they are written to, and the keys that follow from it."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from apache_beam.io.filesystem import FileMetadata

from pipeline import verify
from tests import helpers
from transforms.sources.base import BadInput, Cutting, Reading, ReadSettings
from transforms.sources.image_files import KIND


def cut(*paths: str, images_per_shard: int = 2, **settings):
    cutting = Cutting(ReadSettings(2, **settings), images_per_shard, None, "out/inputs.txt")
    return KIND.cut([FileMetadata(path, 1) for path in paths], cutting)


def test_shards_are_runs_of_lines_of_the_list():
    sources, names, notes, listing, rows, _, problem = cut("/p/a.jpg", "/p/ü.jpg", "gs://b/c d.png")
    assert listing == "/p/a.jpg\n/p/ü.jpg\ngs://b/c d.png\n".encode()
    assert list(names) == ["inputs.txt[0:19]", "inputs.txt[19:34]"]
    assert (notes, rows, problem) == ((), 2, "")
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


@pytest.mark.parametrize(
    ("path", "line", "key", "fetched"),
    [
        ("gs://b/a\nb.jpg", b'"gs://b/a\\nb.jpg"', None, None),
        ("s3://b/\udcff\n\u2028", b'"s3://b/\\udcff\\n\\u2028"', b"s3://b/\xff\n\xe2\x80\xa8", None),
        ("gs://b/a.jpg ", b"gs://b/a.jpg ", None, None),
        ("gs://b/a\r\t.jpg\r", b"gs://b/a\r\t.jpg\r", None, None),
        ('gs://b/"a"', b'gs://b/"a"', None, None),
        ('"a".jpg', b'"a".jpg', None, './"a".jpg'),
        ('"gs://b/a\\nb"', b"file://CWD/%22gs%3A/b/a%5Cnb%22", b"file://CWD/%22gs%3A/b/a%5Cnb%22", "URI"),
        ("http:a.jpg", b"http:a.jpg", None, "./http:a.jpg"),
        ("data:,a.jpg", b"data:,a.jpg", None, "./data:,a.jpg"),
        ("file:a.jpg", b"file:a.jpg", None, "./file:a.jpg"),
        ("/p/a\r\t\x0b\x85b#?%20.jpg", b"/p/a\r\t\x0b\xc2\x85b#?%20.jpg", None, None),
        ("\u3000a.jpg", b"file://CWD/%E3%80%80a.jpg", b"file://CWD/%E3%80%80a.jpg", "URI"),
    ],
)
def test_each_name_is_one_line_one_key_and_one_address(path, line, key, fetched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = line.replace(b"CWD", bytes(tmp_path))
    key = key.replace(b"CWD", bytes(tmp_path)) if key else path.encode("utf-8", "surrogateescape")
    cutting = Cutting(ReadSettings(2), 2, None, "inputs.txt")
    made = KIND.cut([FileMetadata(p, 1) for p in ("/first.jpg", path, "/last.jpg")], cutting)
    assert made.listing == b"/first.jpg\n" + line + b"\n/last.jpg\n"
    (tmp_path / "inputs.txt").write_bytes(made.listing)
    with ThreadPoolExecutor(1) as pool:
        fetch = lambda uri: uri.encode("utf-8", "surrogateescape")  # noqa: E731
        reading = Reading("shard", ReadSettings(2), fetch=fetch, pool=pool)
        items = [item for source in made.sources for item in source.items(reading)]
    assert [item.key for item in items] == [b"/first.jpg", key, b"/last.jpg"]
    expected = line if fetched == "URI" else (fetched or path).encode("utf-8", "surrogateescape")
    assert items[1].data == expected
    keys = KIND.keys(made.names[0], made.sources[0].identity(), "inputs.txt")
    assert [keys(0), keys(1)] == [b"/first.jpg", key]


def test_whatever_a_folder_holds_is_one_input(tmp_path):
    names = [b"a\nb.jpg", b"c\rd.jpg", b"\r\n.jpg", b" e .jpg ", b"\tf.jpg", b"g'\"`$.jpg", b"h\xff\xfe.jpg", b"#i?j%0A%.jpg",
             b"http:k.jpg", b"data:,l.jpg", b"file:m.jpg", b"[n]*{o,p}.jpg", b"-q\\r.jpg",
             "s\u2028\u0085t\u3000.jpg".encode()]  # fmt: skip
    for seed, name in enumerate(names):
        (tmp_path / "in" / os.fsdecode(name)).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(helpers.encoded(seed))
    (tmp_path / "in" / "broken\n[0].jpg").write_bytes(b"no picture")
    output = tmp_path / "out"
    flags = (f"--input={tmp_path}/in",)
    helpers.job(*flags, output=output)
    digests = {hashlib.sha256(helpers.encoded(seed)).hexdigest().encode() for seed in range(len(names))}
    records = helpers.read_all(output)
    assert {record["image/sha256"][0] for record in records} == digests
    assert len({record["key"][0] for record in records}) == len(names)
    (line,) = helpers.read_ledger(output)
    assert line["key"] == f"file://{tmp_path}/in/broken%0A%5B0%5D.jpg"
    assert verify.main([str(output)]) == 0
    (tmp_path / "in" / "broken\n[0].jpg").write_bytes(helpers.encoded(99))
    helpers.job(*flags, "--retry_failures", output=output)
    assert len(helpers.read_all(output)) == len(names) + 1
    assert verify.main([str(output)]) == 0


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
