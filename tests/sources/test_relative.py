"""Relative names in lists: which folder they are relative to."""

from __future__ import annotations

import json

import boto3
import pyarrow
import pyarrow.parquet
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from tests import helpers
from tests.emulators import BUCKET, s3_emulator
from transforms.errors import ItemError
from transforms.sources import finding, relative
from transforms.sources.base import Cutting, ReadSettings
from transforms.sources.rows import Row
from transforms.storage.errors import StorageFailed

SCHEMES = ("file", "gs", "s3", "https")


@pytest.mark.parametrize(
    ("folder", "uri", "address"),
    [
        ("/list", "a/b.jpg", "/list/a/b.jpg"),
        ("/list", "./b [1]#?%20.jpg", "/list/./b [1]#?%20.jpg"),
        ("/list", "../b.jpg", "/list/../b.jpg"),
        ("/list", "/b.jpg", "/b.jpg"),
        ("/list", "file:///b.jpg", "file:///b.jpg"),
        ("/list", "file:b.jpg", "file:b.jpg"),
        ("/list", "https://h/b.jpg", "https://h/b.jpg"),
        ("/list", "data:,b", "data:,b"),
        ("", "b.jpg", "b.jpg"),
        ("gs://bucket/lists", "a/b.jpg", "gs://bucket/lists/a/b.jpg"),
        ("gs://bucket/lists", "./a/../b#?.jpg", "gs://bucket/lists/b#?.jpg"),
        ("gs://bucket/lists", "../../../b.jpg", "gs://bucket/b.jpg"),
        ("s3://bucket", "b.jpg", "s3://bucket/b.jpg"),
        ("s3://bucket", "/b.jpg", "/b.jpg"),
    ],
)
def test_address(folder, uri, address):
    assert relative.address(folder, uri) == address


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A list's folder and the working directory."""
    lists, cwd = tmp_path / "lists", tmp_path / "cwd"
    lists.mkdir()
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    return lists, cwd


def base(folders, *uris, **options):
    rows = [Row(uri, {}) if uri else Row("", {}, ItemError("bad_row", "none")) for uri in uris]
    found = relative.find(f"{folders[0]}/list.txt", rows, options.get("schemes", SCHEMES))
    assert found.kept in ("", "." if found.folder == str(folders[0]) else found.folder)
    return found.folder, found.problem


def test_the_first_name_that_exists_decides(folders):
    lists, cwd = folders
    (lists / "in-list.jpg").touch()
    (cwd / "in-cwd.jpg").touch()
    (lists / "both.jpg").touch()
    (cwd / "both.jpg").touch()
    assert base(folders, "none.jpg", "in-list.jpg", "in-cwd.jpg") == (str(lists), "")
    assert base(folders, "none.jpg", "in-cwd.jpg", "in-list.jpg") == (str(cwd), "")
    assert base(folders, "both.jpg", "in-cwd.jpg") == (str(lists), "")
    assert base(folders, "", "https://h/a", "in-cwd.jpg") == (str(cwd), "")
    assert base(folders, *["none.jpg"] * 99, "in-cwd.jpg") == (str(cwd), "")


def test_what_decides_nothing(folders):
    lists, _ = folders
    assert base(folders, "/a.jpg", "https://h/a") == (str(lists), "")
    assert base(folders) == (str(lists), "")
    assert base(folders, "", "") == (str(lists), "")
    assert base(folders, "n/a", "https://h/a") == (str(lists), "")  # one bad row of a good list
    assert base(folders, "none.jpg", schemes=("https",)) == (str(lists), "")  # nothing may be read there


def test_a_list_of_which_nothing_exists_is_refused(folders):
    lists, cwd = folders
    for uris in (["a\0.jpg"] * 3, ["none.jpg"] * 100 + ["https://h/a"], ["x" * 9999]):
        assert base(folders, *uris)[1]
    assert base(folders, "none.jpg", "no.jpg")[1] == (
        f"{lists}/list.txt: none of its first 2 relative names exists: 'none.jpg' was looked for as "
        f"'{lists}/none.jpg' and '{cwd}/none.jpg', in the list's folder and in the working directory: put the list "
        "beside its images, start where they are, or write complete paths or URIs"
    )


def test_a_store_that_does_not_answer_says_nothing_of_a_name(folders, monkeypatch):
    def exists(path):
        raise StorageFailed("looking for it failed", path, None, is_transient=True)

    monkeypatch.setattr(relative.door, "exists", exists)
    with pytest.raises(StorageFailed, match="looking for it failed"):
        base(folders, "none.jpg")


def write_list(path, names):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"uri": names}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"uri": name}) + "\n" for name in names))
    else:
        path.write_text("\n".join((["uri"] if path.suffix == ".csv" else []) + names) + "\n")


NAMES = ["photos/missing.jpg", "photos/0.jpg", "photos/1.jpg", "photos/2.jpg"]


@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl", "parquet"])
def test_names_far_behind_complete_addresses_decide(folders, monkeypatch, suffix):
    lists, cwd = folders
    (cwd / "a.jpg").touch()
    write_list(lists / f"l.{suffix}", [f"https://h/{row}.jpg" for row in range(3000)] + ["none.jpg", "a.jpg"])
    for rows_read, folder in ((3001, lists), (3002, cwd), (relative.ROWS_READ, cwd)):
        monkeypatch.setattr(relative, "ROWS_READ", rows_read)
        found = finding.find([str(lists / f"l.{suffix}")], finding.AUTO, ReadSettings(2))
        cut = found.kind.cut(found.files, Cutting(ReadSettings(2), 1000, None, ""))
        assert {source.folder for source in cut.sources} == {str(folder)}
        assert {source.base for source in cut.sources} == {"." if folder == lists else str(folder)}
        assert not cut.problem


@pytest.mark.parametrize(
    ("suffix", "where"),
    [("txt", "list"), ("csv", "list"), ("jsonl", "list"), ("parquet", "list"), ("csv", "cwd")],
)
def test_a_job_finds_them_and_keys_stay_the_text_of_the_list(folders, tmp_path, suffix, where):
    lists, cwd = folders
    photos = (lists if where == "list" else cwd) / "photos"
    photos.mkdir()
    for seed in range(3):
        (photos / f"{seed}.jpg").write_bytes(helpers.encoded(seed))
    write_list(lists / f"l.{suffix}", NAMES)
    flags = (f"--input=../lists/l.{suffix}", "--images_per_shard=2")
    helpers.job(*flags, output=tmp_path / "out")
    assert [record["key"] for record in helpers.read_all(tmp_path / "out")] == [
        [n.encode()] for n in NAMES[1:]
    ]
    (line,) = helpers.read_ledger(tmp_path / "out")
    assert (line["key"], line["code"]) == (NAMES[0], "not_found")
    (photos / "missing.jpg").write_bytes(helpers.encoded(9))
    helpers.job(*flags, "--retry_failures", output=tmp_path / "out")
    assert len(helpers.read_all(tmp_path / "out")) == 4


def test_a_job_of_which_nothing_exists_writes_nothing_and_one_that_is_done_stays_done(
    folders, tmp_path, capsys
):
    lists, _ = folders
    write_list(lists / "l.txt", ["0.jpg", "1.jpg"])
    flags = (f"--input={lists}/l.txt",)
    helpers.job(*flags, output=tmp_path / "out", expect=2)
    assert f"'{lists}/0.jpg'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for seed in range(2):
        (lists / f"{seed}.jpg").write_bytes(helpers.encoded(seed))
    helpers.job(*flags, output=tmp_path / "out")
    for seed in range(2):
        (lists / f"{seed}.jpg").unlink()
    helpers.job(*flags, output=tmp_path / "out")  # nothing is left to do
    assert len(helpers.read_all(tmp_path / "out")) == 2


def test_a_list_on_a_store(folders, tmp_path):
    _, cwd = folders
    with s3_emulator() as endpoint:
        login = {
            "aws_access_key_id": "testing",
            "aws_secret_access_key": "testing",
            "region_name": "us-east-1",
        }
        client = boto3.client("s3", endpoint_url=endpoint, **login)
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="lists/photos/0.jpg", Body=helpers.encoded(0))
        client.put_object(Bucket=BUCKET, Key="lists/l.txt", Body=b"./photos/0.jpg\n")
        client.put_object(Bucket=BUCKET, Key="lists/local.txt", Body=b"0.jpg\n")
        (cwd / "0.jpg").write_bytes(helpers.encoded(1))
        flags = (
            "--s3_access_key_id=testing", "--s3_secret_access_key=testing", "--s3_region_name=us-east-1",
            f"--s3_endpoint_url={endpoint}",
        )  # fmt: skip
        try:
            for name, key in (("l", b"./photos/0.jpg"), ("local", b"0.jpg")):
                output = tmp_path / name
                helpers.job(f"--input=s3://{BUCKET}/lists/{name}.txt", *flags, output=output)
                assert [record["key"] for record in helpers.read_all(output)] == [[key]]
        finally:
            FileSystems.set_options(PipelineOptions([]))
