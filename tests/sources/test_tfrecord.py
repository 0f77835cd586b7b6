"""TFRecord files as a source: keys, what is refused at launch, and what each record becomes."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import lzma
import pickle
import re

import google_crc32c
import pytest
from backports import zstd

from tests import helpers
from transforms.elements import Encoded, Failure, Fields, Record
from transforms.records import examples, images, tfrecord
from transforms.sources.base import BadInput, Cutting, Reading, ReadSettings
from transforms.sources.tfrecord import KIND, RecordFile
from transforms.storage import door

GOOD = {"image/encoded": b"bytes", "id": b"one", "label": 7}


def source(path, *records: bytes, junk: bytes = b"") -> RecordFile:
    path.write_bytes(b"".join(map(tfrecord.frame, records)) + junk)
    return RecordFile(str(path), path.stat().st_size, 5.0)


def items(source: RecordFile, name: str = "in", **reading) -> list:
    """What the source yields, with the images of the records as they are found where they are decoded."""
    settings = reading.pop("settings", ReadSettings(2))
    return list(map(images.encoded, source.items(Reading(name, settings, **reading))))


def cut(*paths, **settings):
    cutting = Cutting(ReadSettings(2, **settings), 100, None, "")
    return KIND.cut([file for path in paths for file in door.match(str(path))], cutting)


def test_each_record_is_an_image_or_a_failure_at_its_place(tmp_path):
    junk = b"\1" * 20
    whole = source(
        tmp_path / "in",
        helpers.example(GOOD),
        helpers.example({"id": b"no image"}),
        helpers.example({"image/encoded": [b"a", b"b"]}),
        b"\xff\xff",
        junk=junk,
    )
    good, *failures = items(whole)
    assert good == Encoded(b"in#0", 0, b"bytes", b"")
    assert [(f.key, f.position, f.stage, f.code) for f in failures] == [
        (b"in#1", 1, "read", "missing_feature"),
        (b"in#2", 2, "read", "missing_feature"),
        (b"in#3", 3, "read", "bad_example"),
        (b"in#4", 4, "read", "damaged_record"),
    ]
    at = whole.size_bytes - len(junk)
    assert failures[3].message.endswith(f": 20 bytes at offset {at} of {tmp_path}/in")


def test_a_record_is_neither_checked_nor_parsed_while_it_is_read(tmp_path):
    """It is a view into the block that was read; only of the last one it must be known where it ends."""
    data = helpers.example(GOOD)
    whole = source(tmp_path / "in", b"no example", data, data)
    settings = ReadSettings(2, key_feature="id", pass_through=("label",))
    fields = Fields("image/encoded", "id", ("label",))
    at = [0, len(b"no example") + 16, len(b"no example") + len(data) + 32]
    read = list(whole.items(Reading("in", settings)))
    assert read == [
        Record(b"in#%d" % i, i, record, tfrecord.frame(record)[-4:], fields, f"{tmp_path}/in", at[i])
        for i, record in enumerate([b"no example", data, data])
    ]
    assert all(isinstance(record.data, memoryview) for record in read)
    assert pickle.loads(pickle.dumps(read)) == read


def test_keys_and_features_of_a_record_that_are_asked_for(tmp_path):
    whole = source(tmp_path / "in", helpers.example(GOOD), helpers.example({"image/encoded": b"2"}))
    settings = ReadSettings(2, key_feature="id", pass_through=("label",))
    first, second = items(whole, settings=settings)
    passed = examples.Example()
    passed.features.MergeFromString(first.passed)
    assert (first.key, first.data) == (b"one", b"bytes")
    assert {name: list(f.int64_list.value) for name, f in passed.features.feature.items()} == {"label": [7]}
    assert isinstance(second, Failure)
    assert (second.key, second.code) == (b"in#1", "missing_feature")
    assert items(whole, settings=ReadSettings(2, image_feature="id"))[0].data == b"one"


def test_positions_that_are_due_and_a_limit(tmp_path):
    whole = source(tmp_path / "in", *[helpers.example({"image/encoded": b"%d" % i}) for i in range(6)])
    assert [item.data for item in items(whole, due={1, 4})] == [b"1", b"4"]
    assert [item.data for item in items(whole, limit=2)] == [b"0", b"1"]


def test_a_source_that_was_read_knows_its_checksum(tmp_path):
    whole = source(tmp_path / "in", helpers.example(GOOD))
    reading = whole.items(Reading("in", ReadSettings(2)))
    next(reading)
    with pytest.raises(StopIteration) as end:
        next(reading)
    crc = f"{google_crc32c.value((tmp_path / 'in').read_bytes()):08x}"
    assert end.value.value == dataclasses.replace(whole, crc32c=crc)


def test_identities_of_a_file_and_of_a_range():
    whole = RecordFile("a", 100, 5.0, crc32c="0badcafe")
    content = {"size_bytes": 100, "modified": 5.0, "crc32c": "0badcafe"}
    assert (whole.identity(), whole.units, whole.inputs) == (content, 100, None)
    part = dataclasses.replace(whole, start=40, end=90, first=3)
    assert (part.identity(), part.units) == ({**content, "start": 40, "end": 90, "first": 3}, 50)
    assert whole.change(content) == ""
    assert whole.change({**content, "size_bytes": 99}) == "size_bytes"
    assert part.change({**part.identity(), "start": 41}) == "start"


@pytest.mark.parametrize(
    ("identity", "key"),
    [
        ({"size_bytes": 100}, b"in#2"),
        ({"start": 40, "end": 90, "first": 3}, b"in#5"),
        ({"start": 40, "end": 90, "first": None}, b"in[40]#2"),
    ],
)
def test_default_keys_follow_from_a_receipt(identity, key):
    assert KIND.keys("in", identity, "")(2) == key


@pytest.mark.parametrize("identity", [{"rows": 3}, {"kind": "webdataset"}])
def test_receipts_of_other_kinds_are_left_to_them(identity):
    assert KIND.keys("in", identity, "") is None


def test_a_file_is_recognized_by_its_name_or_its_first_record():
    record = tfrecord.frame(helpers.example(GOOD))
    assert KIND.is_named("train.tfrecord-00000-of-00002.gz")
    assert not KIND.is_named("train.tar")
    assert [KIND.sniff(head) for head in (record, record[:20], b"", b"\x89PNG" + bytes(30), b"a text")] == [
        *(True, True, True),
        *(False, False),
    ]


def test_each_file_is_one_shard_named_below_the_common_folder(tmp_path):
    for name in ("x/a.tfrecord", "y/b.tfrecord"):
        helpers.write_tfrecord(tmp_path / name, [helpers.example(GOOD)])
    sources, names, notes, listing, *_ = cut(tmp_path / "*/*")
    assert [file.uri for file in sources] == [f"{tmp_path}/x/a.tfrecord", f"{tmp_path}/y/b.tfrecord"]
    assert (list(names), notes, listing) == (["x/a.tfrecord", "y/b.tfrecord"], (), None)


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (b"no records, whatever the name says", {}, "is not a TFRecord file: no record header"),
        (tfrecord.frame(b"\xff\xff"), {}, "the job reads TFRecords of tf.Example"),
        (
            tfrecord.frame(helpers.example(GOOD)),
            {"key_feature": "key", "pass_through": ("label", "text")},
            "no feature 'key', 'text' in .*; there are id, image/encoded, label: set --image_feature",
        ),
        (
            tfrecord.frame(helpers.example({"jpg": b""})),
            {},
            "no feature 'image/encoded' in .*; there are jpg",
        ),
    ],
)
def test_files_that_cannot_be_meant_are_refused_before_the_start(tmp_path, content, settings, message):
    (tmp_path / "a.tfrecord").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        cut(tmp_path / "a.tfrecord", **settings)


def test_a_file_whose_beginning_alone_is_damaged_is_not_refused(tmp_path):
    data = bytearray(b"".join(tfrecord.frame(helpers.example(GOOD)) for _ in range(3)))
    data[14] ^= 1
    (tmp_path / "a.tfrecord").write_bytes(data)
    (whole,) = cut(tmp_path / "a.tfrecord").sources
    assert [type(item) for item in items(whole)] == [Failure, Encoded, Encoded]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd.compress])
def test_members_of_a_compressed_file_are_one_file_and_damage_is_a_line(tmp_path, pack):
    frames = [tfrecord.frame(helpers.example({**GOOD, "label": number})) for number in range(4)]
    members = [pack(b"".join(frames[:2]) + frames[2][:9]), pack(b""), pack(frames[2][9:] + frames[3])]
    path = tmp_path / "in"
    for data, codes in ((b"".join(members), []), (b"".join(members) + b"junk", ["damaged_record"])):
        path.write_bytes(data)
        found = items(RecordFile(str(path), len(data), 5.0))
        assert [item.data for item in found[:4]] == [b"bytes"] * 4
        assert [(item.position, item.code) for item in found[4:]] == [(4, code) for code in codes]
    path.write_bytes(b"".join(members)[:-6])
    found = items(RecordFile(str(path), path.stat().st_size, 5.0))
    assert [item.data for item in found[:2]] == [b"bytes"] * 2
    assert {item.code for item in found if isinstance(item, Failure)} == {"damaged_record"}


def test_a_file_that_is_not_compressed_as_its_name_says_is_refused(tmp_path):
    (tmp_path / "a.tfrecord.bz2").write_bytes(b"not compressed by bzip2")
    with pytest.raises(BadInput, match=rf"{re.escape(str(tmp_path))}/a\.tfrecord\.bz2 cannot be read: "):
        cut(tmp_path / "a.tfrecord.bz2")
