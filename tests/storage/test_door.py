"""Every operation of the door, alike on a disk and on a store that knows no folders."""

from __future__ import annotations

import bz2
import gzip
import os

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from tests.storage.memory import MemoryStore
from transforms.storage import door, stores
from transforms.storage.errors import StorageFailed


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path, monkeypatch):
    if request.param == "disk":
        return f"{tmp_path}/folder"
    monkeypatch.setitem(stores._BY_SCHEME, "memory", MemoryStore())
    return "memory://folder"


def below(folder: str) -> list[str]:
    return [file.path[len(folder) + 1 :] for file in door.match(f"{folder}/**")]


def test_a_small_file_is_written_read_replaced_and_deleted(folder):
    path = f"{folder}/a/b"
    assert (door.exists(path), door.read_if_there(path)) == (False, None)
    with pytest.raises(FileNotFoundError, match=f"no file at {path}"):
        door.read_bytes(path)
    for data in (b"first", b"", b"second"):
        door.write_atomic(path, data)
        assert (door.exists(path), door.read_bytes(path)) == (True, data)
    assert below(folder) == ["a/b"]
    door.delete([path, f"{folder}/none"])
    assert not door.exists(path)


def test_a_file_is_created_only_once(folder):
    assert door.create_only(f"{folder}/claim", b"mine")
    assert not door.create_only(f"{folder}/claim", b"yours")
    assert door.read_bytes(f"{folder}/claim") == b"mine"
    assert below(folder) == ["claim"]


def test_placing_replaces_and_knows_a_missing_source(folder):
    door.write_atomic(f"{folder}/new", b"new")
    door.write_atomic(f"{folder}/old", b"old")
    assert door.place(f"{folder}/new", f"{folder}/old")
    assert door.read_bytes(f"{folder}/old") == b"new"
    assert not door.place(f"{folder}/none", f"{folder}/old")
    assert door.read_bytes(f"{folder}/old") == b"new"


def test_many_files_are_read_in_the_order_of_their_paths(folder):
    for index in range(5):
        door.write_atomic(f"{folder}/{index}", b"%d" % index)
    paths = [f"{folder}/{index}" for index in (3, 9, 0)]
    assert door.read_many(paths) == [b"3", None, b"0"]
    assert door.read_many([]) == []


def test_a_listing_is_sorted_and_has_sizes_but_no_folders(folder):
    for name in ("b", "a/c", "a.x", "a/d/e"):
        door.write_atomic(f"{folder}/{name}", name.encode())
    assert below(folder) == ["a.x", "a/c", "a/d/e", "b"]
    assert [file.size_in_bytes for file in door.match(f"{folder}/*")] == [3, 1]
    assert [file.path for file in door.match(f"{folder}/b")] == [f"{folder}/b"]
    assert door.match(f"{folder}/a") == door.match(f"{folder}/none/*") == []


def test_a_large_file_is_written_in_parts_and_read_from_anywhere(folder):
    data = os.urandom(3 << 20)
    stream = door.create(f"{folder}/large")
    for at in range(0, len(data), 700_000):
        stream.write(data[at : at + 700_000])
    door.close_durably(stream, f"{folder}/large")
    with door.open_binary(f"{folder}/large") as reader:
        assert reader.read(10) == data[:10]
        reader.seek(2_000_000)
        assert reader.read(10) == data[2_000_000:2_000_010]
        reader.seek(-5, os.SEEK_END)
        assert reader.read() == data[-5:]
    assert door.read_head(f"{folder}/large", 7) == data[:7]
    assert door.read_bytes(f"{folder}/large") == data


def test_what_is_given_up_leaves_no_file(folder):
    stream = door.create(f"{folder}/half")
    stream.write(b"half")
    door.discard(stream, f"{folder}/half")
    assert not door.exists(f"{folder}/half")


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("plain", bytes),
        ("a.gz", gzip.compress),
        ("gzip-whose-name-does-not-say-so", gzip.compress),
        ("a.bz2", bz2.compress),
    ],
)
def test_an_input_is_decompressed(folder, name, pack):
    door.write_atomic(f"{folder}/{name}", pack(b"0123456789"))
    with door.open_input(f"{folder}/{name}", start=3) as stream:
        assert stream.read() == b"3456789"
        assert door.is_compressed(stream) == (name != "plain")
    assert door.read_head(f"{folder}/{name}", 2) == pack(b"0123456789")[:2]


def test_a_missing_file_cannot_be_opened_and_the_message_says_which(folder):
    with pytest.raises(StorageFailed, match=f"^opening {folder}/none failed: "):
        door.open_binary(f"{folder}/none")


def test_an_empty_folder_is_removed_and_a_full_one_is_not(tmp_path):
    (tmp_path / "full" / "empty").mkdir(parents=True)
    door.remove_folder_if_empty(f"file://{tmp_path}/full")
    assert (tmp_path / "full").exists()
    door.remove_folder_if_empty(f"file://{tmp_path}/full/empty")
    assert not (tmp_path / "full" / "empty").exists()
    door.remove_folder_if_empty("gs://bucket/none")  # without a request


def test_paths_uris_and_what_is_said_of_a_store(tmp_path, monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)  # which tests beside this one may have set
    (tmp_path / "a").write_bytes(b"abc")
    assert door.read_bytes(f"file://{tmp_path}/a") == b"abc"
    assert door.stored_checksum(str(tmp_path / "a")) == "3"
    assert door.join("gs://bucket/out", "receipts", "*") == "gs://bucket/out/receipts/*"
    assert door.join("out/", "a") == "out/a"
    assert [door.is_local(path) for path in ("a", "file:///a", "s3://b/a")] == [True, True, False]
    assert [door.leaves_temporaries(path) for path in ("/a", "gs://b/a", "s3://b/a", "hdfs://h/a")] == [
        *(True, False, False),
        True,
    ]
    options = PipelineOptions(["--s3_endpoint_url=http://store:9000"])
    assert door.endpoint("s3://b/a", options) == "http://store:9000"
    assert door.endpoint("gs://b/a", options) == "https://storage.googleapis.com"
    assert door.endpoint("/a", options) == door.endpoint("hdfs://h/a", options) == ""


def test_a_file_that_cannot_be_created_is_no_endless_loop(tmp_path):
    (tmp_path / "file").symlink_to(tmp_path / "nowhere" / "file")
    with pytest.raises(StorageFailed, match="ENOENT"):
        door.create(str(tmp_path / "file"))
