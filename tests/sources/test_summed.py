"""Whether an input is still the one that a shard was made of."""

from __future__ import annotations

import os
import shutil

import google_crc32c
import pytest

from pipeline import verify
from tests import helpers
from transforms import read
from transforms.elements import Record, Shard
from transforms.sources import summed, uri_list
from transforms.sources.base import Reading, ReadSettings
from transforms.sources.tfrecord import RecordFile
from transforms.storage import door
from transforms.storage.errors import StorageFailed


def record_file(path, **more) -> RecordFile:
    status = os.stat(path)
    return RecordFile(str(path), status.st_size, status.st_mtime, **more)


@pytest.fixture(params=["", ".gz"])
def finished(tmp_path, request):
    """A finished job over three shards: (flags, input files, output)."""
    pattern = helpers.write_shards(tmp_path / "in", (3, 2, 4), request.param)
    flags = [f"--input={pattern}", "--batch_size=2"]
    helpers.job(*flags, output=tmp_path / "out")
    return flags, sorted((tmp_path / "in").iterdir()), tmp_path / "out"


def test_a_receipt_holds_the_sum_of_the_bytes_that_were_read(finished):
    _, inputs, output = finished
    for path, receipt in zip(inputs, sorted(output.glob("receipts/*")), strict=True):
        assert f'"crc32c": "{google_crc32c.value(path.read_bytes()):08x}"' in receipt.read_text()


def test_an_input_that_was_touched_or_copied_is_known_by_its_bytes(finished, tmp_path):
    flags, inputs, output = finished
    whole = helpers.contents(output)
    os.utime(inputs[0], (1, 1))
    shutil.copy(inputs[1], tmp_path / "copy")  # with another time
    os.replace(tmp_path / "copy", inputs[1])
    helpers.job(*flags, output=output)
    assert helpers.contents(output) == whole
    (output / "receipts" / "00000-of-00003.json").unlink()
    helpers.job(*flags, output=output)
    assert verify.main([str(output)]) == verify.COMPLETE


def test_an_input_whose_bytes_changed_is_refused_by_name_although_its_size_did_not(finished, capsys):
    flags, inputs, output = finished
    data = bytearray(inputs[1].read_bytes())
    data[-1] ^= 1
    inputs[1].write_bytes(data)
    os.utime(inputs[1], (1, 1))
    whole = helpers.contents(output)
    helpers.job(*flags, output=output, expect=2)
    said = capsys.readouterr().err
    assert f"has changed since the shard was made: {inputs[1]} (crc32c differs)" in said
    assert helpers.contents(output) == whole


@pytest.mark.parametrize("cut", [(0, None), (0, 1000), (1000, 5000), (70_000, 80_000), (5000, None)])
@pytest.mark.parametrize("read_before", [0, 1, 3000, 200_000])
def test_the_sum_is_of_the_range_whatever_was_read_before(tmp_path, cut, read_before):
    data = os.urandom(150_000)
    (tmp_path / "in").write_bytes(data)
    source = record_file(tmp_path / "in", start=cut[0], end=cut[1])
    streams = []

    def watch(reader):
        streams.append(summed.Summed(reader, source.uri, source.size_bytes, source.start, source.end))
        return streams[0]

    with door.open_input(source.uri, source.start, watch) as stream:
        assert stream.read(read_before) == data[cut[0] :][:read_before]
        assert streams[0].finish() == f"{google_crc32c.value(data[slice(*cut)]):08x}"
    again = summed.crc32c(source.uri, source.size_bytes, source.start, source.end)
    assert again == f"{google_crc32c.value(data[slice(*cut)]):08x}"


def test_a_file_that_changed_between_plan_and_reading_is_named(tmp_path):
    path = helpers.write_tfrecord(tmp_path / "in", [helpers.image_example(0)])
    source = record_file(path)
    helpers.write_tfrecord(path, [helpers.image_example(0), helpers.image_example(1)])
    with pytest.raises(StorageFailed, match=r"/in failed: it has changed since the job was planned"):
        list(source.items(Reading("in", ReadSettings(2))))


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_a_list_that_changed_between_plan_and_reading_is_named(tmp_path, kind):
    lines = {"txt": "a{}.png", "csv": "a{}.png", "jsonl": '{{"uri": "a{}.png"}}'}[kind]
    head = "uri\n" if kind == "csv" else ""
    path = tmp_path / f"list.{kind}"
    path.write_text(head + "".join(lines.format(i) + "\n" for i in range(5)))
    columns = uri_list.columns_of(ReadSettings(2))
    slices = list(uri_list.slices(str(path), kind, ReadSettings(2), 2))
    assert [row.uri for part in slices for row in part.read(columns)] == [f"a{i}.png" for i in range(5)]
    path.write_text(path.read_text().replace("a3", "b3"))
    assert len(list(slices[0].read(columns))) == 2
    with pytest.raises(
        StorageFailed, match=r"list\..*\[.*failed: the list has changed since the job was planned"
    ):
        list(slices[1].read(columns))


def test_the_last_chunk_tells_what_was_read(tmp_path):
    path = helpers.write_tfrecord(tmp_path / "in", [helpers.image_example(i) for i in range(5)])
    source = record_file(path)
    shard = Shard(0, 1, source, "in")
    chunks = list(read.chunks(shard, source.items(Reading("in", ReadSettings(2))), 2))
    assert [chunk.shard.source.crc32c for chunk in chunks[:-1]] == ["", ""]
    assert chunks[-1].shard.source.crc32c == f"{google_crc32c.value(path.read_bytes()):08x}"
    assert all(isinstance(item, Record) for chunk in chunks for item in chunk.items)
