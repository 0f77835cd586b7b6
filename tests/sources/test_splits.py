"""--split_bytes: the shards of a cut file, joined, equal the output for the complete file."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import io
import json

import pytest

from pipeline import options, verify
from tests import helpers
from transforms.elements import Encoded
from transforms.records import images, tfrecord
from transforms.sources import splits
from transforms.sources.base import Reading
from transforms.sources.tfrecord import RecordFile

LENIENT = "--max_failure_rate=1"


def starts_of(data: bytes) -> list[int]:
    return [item.offset for item in tfrecord.read(io.BytesIO(data))]


def plain(nested: bool = True) -> bytes:
    """Records of many sizes, one of them larger than several ranges, and one that itself contains records."""
    inner = b"".join(map(tfrecord.frame, [b"a" * 300, b"b" * 300])) if nested else b"c" * 600
    examples = [helpers.image_example(seed) for seed in range(6)]
    examples[3:3] = [b"", helpers.example({"image/encoded": b"d" * 9000, "image/filename": "big"})]
    examples.append(helpers.example({"image/encoded": inner * 5, "image/filename": "nested"}))
    return b"".join(map(tfrecord.frame, examples))


def insert(data: bytes, at: int, garbage: bytes) -> bytes:
    start = starts_of(data)[at]
    return data[:start] + garbage + data[start:]


def flip(data: bytes, at: int, byte: int) -> bytes:
    """Flips a bit in a record's header (byte 0 to 11) or data."""
    start = starts_of(data)[at]
    return data[: start + byte] + bytes([data[start + byte] ^ 4]) + data[start + byte + 1 :]


FILES = {
    "whole": lambda data: data,
    "garbage": lambda data: insert(data, 2, b"\1" * 5000),
    "garbage first": lambda data: insert(data, 0, b"\1" * 700),
    "garbage last": lambda data: data + b"\1" * 3000,
    "few bytes last": lambda data: data + b"\1" * 5,
    "header": lambda data: flip(data, 4, 3),
    "data": lambda data: flip(data, 1, 200),
    "cut": lambda data: data[:-50],
    "zeros": lambda data: data + bytes(4000),
    "nothing": lambda data: b"",
}


@functools.cache
def config(key: str = "") -> options.JobConfig:
    argv = ["--input=in", "--output=out", "--model=untrained/tiny", f"--key_feature={key}"]
    return options.parse(argv)[0]


def cut(path, size: int, key: str = "") -> list[RecordFile]:
    ranges, notes = splits.cut([RecordFile(str(path), path.stat().st_size, 0.0)], size, counted=not key)
    assert (len(ranges), notes) == (1, ())
    return ranges[0]


def items(path, source: RecordFile, key: str = "") -> list:
    return list(map(images.encoded, source.items(Reading(path.name, config(key).read))))


@pytest.mark.parametrize("name", FILES)
def test_the_ranges_of_a_file_hold_what_the_file_holds(tmp_path, name):
    path = tmp_path / "in.tfrecord"
    path.write_bytes(FILES[name](plain()))
    size = path.stat().st_size
    (whole,) = cut(path, 1 << 30)
    expected = items(path, whole)
    borders = starts_of(path.read_bytes())  # ranges that end exactly where damage or a record begins
    for split in {1, 7, 100, 1000, 2500, 8192, *borders[1:], *(at + 1 for at in borders), size + 1}:
        ranges = cut(path, split)
        assert [part.start for part in ranges[1:]] == [part.end for part in ranges[:-1]]
        joined = []
        for part in ranges:
            in_part = items(path, part)
            assert [item.position for item in in_part] == list(range(len(in_part)))
            assert in_part or not size
            assert part.first == len(joined)
            joined += [dataclasses.replace(item, position=part.first + item.position) for item in in_part]
        assert joined == expected
    assert len(cut(path, 1)) == max(1, len(expected))


@pytest.mark.parametrize("name", FILES)
def test_with_keys_of_their_own_the_ranges_are_cut_without_reading(tmp_path, name, monkeypatch):
    path = tmp_path / "in.tfrecord"
    path.write_bytes(FILES[name](plain(nested=False)))
    size = path.stat().st_size
    key = "image/filename"

    def essentials(items) -> list:
        return [
            (item.key, item.data) if isinstance(item, Encoded) else (item.code, item.message)
            for item in items
        ]

    expected = essentials(items(path, RecordFile(str(path), size, 0.0), key))
    borders = starts_of(path.read_bytes())
    monkeypatch.setattr(tfrecord, "starts", None)
    for split in (50, 1000, 2500, 8192, *borders[1:], *(at + 1 for at in borders[1:])):
        ranges = cut(path, split, key)
        assert len(ranges) == max(1, -(-size // split))
        assert [item for part in ranges for item in essentials(items(path, part, key))] == expected


@pytest.mark.parametrize("split", ["1", "3KiB", "20KiB"])
def test_the_job_on_a_cut_file_gives_what_it_gives_on_the_whole(tmp_path, split):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tfrecord").write_bytes(insert(plain(), 4, b"\1" * 5000))
    helpers.write_tfrecord(tmp_path / "in" / "b.tfrecord", [helpers.image_example(9)])
    flags = [f"--input={tmp_path}/in", "--batch_size=2", LENIENT]
    helpers.job(*flags, output=tmp_path / "whole")
    output = tmp_path / "cut"
    helpers.job(*flags, f"--split_bytes={split}", output=output)

    def joined(folder):
        return b"".join(path.read_bytes() for path in sorted(folder.glob("features-*")))

    assert joined(output) == joined(tmp_path / "whole")
    lines = []
    for path in sorted(output.glob("failures-*")):
        label = path.name[len("failures-") : -len(".jsonl")]
        first = json.loads((output / "receipts" / f"{label}.json").read_text())["input"].get("first", 0)
        for line in map(json.loads, path.read_text().splitlines()):
            lines.append({**line, "position": first + line["position"]})
    assert lines == helpers.read_ledger(tmp_path / "whole")
    assert verify.main([str(output)]) == verify.COMPLETE
    shards = helpers.manifest(output)["shards"]
    assert (shards == 11, 2 < shards < 11, shards == 2) == (split == "1", split == "3KiB", split == "20KiB")
    before = helpers.contents(output)
    helpers.job(*flags, f"--split_bytes={split}", output=output)
    assert helpers.contents(output) == before


def test_another_split_over_a_started_output_is_refused_by_name(tmp_path, capsys):
    path = tmp_path / "in.tfrecord"
    path.write_bytes(plain())
    helpers.job(f"--input={path}", "--split_bytes=4KiB", LENIENT, output=tmp_path / "out")
    for flags in ([], ["--split_bytes=5KiB"]):
        helpers.job(f"--input={path}", *flags, output=tmp_path / "out", expect=2)
        assert "made with split_bytes = 4096" in capsys.readouterr().err


def test_compressed_files_stay_whole_and_a_note_says_so(tmp_path, capsys):
    helpers.write_tfrecord(tmp_path / "in" / "a.tfrecord.gz", [helpers.image_example(i) for i in range(3)])
    (tmp_path / "in" / "b.tfrecord").write_bytes(gzip.compress(plain()))  # its name does not say so
    helpers.job(f"--input={tmp_path}/in", "--split_bytes=1", LENIENT, output=tmp_path / "out")
    messages = capsys.readouterr().err
    assert "2 compressed files stay one shard each" in messages
    assert "a.tfrecord.gz" in messages
    assert helpers.manifest(tmp_path / "out")["shards"] == 2


def test_only_files_of_records_can_be_cut(tmp_path, capsys):
    (tmp_path / "list.txt").write_text("/a.jpg\n")
    helpers.job(f"--input={tmp_path}/list.txt", "--split_bytes=1MiB", output=tmp_path / "out", expect=2)
    assert "--split_bytes cuts TFRecord files" in capsys.readouterr().err


def test_counting_reads_the_headers_only(tmp_path):
    path = tmp_path / "in.tfrecord"
    record = tfrecord.frame(bytes(1 << 20))
    path.write_bytes(record * 20)
    read = []

    class Watched(io.FileIO):
        def read(self, count=-1):
            read.append(count)
            return super().read(count)

    with Watched(path) as stream:
        assert list(tfrecord.starts(stream, path.stat().st_size)) == [len(record) * i for i in range(20)]
    assert read == [12] * 20
