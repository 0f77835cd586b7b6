"""What is wrong with content ends a start with 2, the file, the place and what to do; a store that does not answer, with 1."""

from __future__ import annotations

import errno
import gzip
import json
import os
import zlib

import pyarrow
import pyarrow.parquet
import pytest

from tests import helpers
from tests.faulty import Faults, FaultyFileSystem
from transforms.storage import retrying
from transforms.storage.retrying import Limits


def ended(capsys, code, *flags, output):
    """The one line with which a job that was never started ends."""
    helpers.job(*flags, output=output, expect=code)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert not list(output.glob("features-*-of-*")) or "receipts" in said or ".tmp" in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return line


def parquet(path, column, values, damage):
    """A file of two row groups of which the second is damaged, or the footer."""
    table = pyarrow.table({column: values})
    pyarrow.parquet.write_table(
        table, path, row_group_size=len(values) // 2, compression="snappy", use_dictionary=False
    )
    data = bytearray(path.read_bytes())
    about = pyarrow.parquet.read_metadata(path).row_group(1).column(0)
    start = len(data) - 30 if damage == "footer" else about.data_page_offset
    size = 20 if damage == "footer" else about.total_compressed_size
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)


URIS = [f"/{number:0100d}.jpg" for number in range(2000)]
PACKED = gzip.compress("".join(f"{uri}\n" for uri in URIS).encode())
CONTENT = {
    "cut.txt.gz": (PACKED[:-1000], "of its text, after ", "make or copy it again"),
    "junk.txt.gz": (
        PACKED + b"junk",
        "of its text, after 2000 rows: Not a gzipped file",
        "make or copy it again",
    ),
    "flipped.txt.gz": (
        PACKED[:1000] + b"\xff" * 1000 + PACKED[2000:],
        "of its text",
        "make or copy it again",
    ),
    "a.jsonl.zst": (b"\x28\xb5\x2f\xfd" + b"junk" * 9, "the zstd data is damaged", "make or copy it again"),
    "a.txt.deflate": (
        zlib.compress(b"/a.jpg\n"),
        "it is packed as deflate",
        "unpack it, or pack it with gzip",
    ),
    "a.csv": (
        zlib.compress(b"uri\n/a.jpg\n" * 99),
        "it is packed as zlib",
        "unpack it, or pack it with gzip",
    ),
    "b.csv": (b'uri,"text\n/a.jpg,x\n', "the first row, which names the columns, is not CSV", "correct it"),
    "wide.txt": (
        "/a.jpg\n".encode("utf-16-le"),
        "looks like UTF-16 without a byte-order mark",
        "save it as UTF-8",
    ),
    "a.tfrecord.lz4": (b"\x04\x22\x4d\x18abcdefgh", "it is packed as lz4", "unpack it, or pack it with gzip"),
    "b.tfrecord": (zlib.compress(bytes(9999)), "it is packed as zlib", "unpack it, or pack it with gzip"),
    "a.tar": (b"7z\xbc\xaf\x27\x1c" + bytes(999), "it is packed as 7z", "unpack it, or pack it with gzip"),
    "unnamed": (
        b"PK\x03\x04\x14\0\0\0" + bytes(999),
        "it is packed as zip",
        "unpack it, or pack it with gzip",
    ),
    "plain.txt.xz": (b"/a.jpg\n", "its name says that it is compressed", "make or copy it again"),
    "empty.txt": (b"", "lists no image", "nothing to do"),
    "empty.txt.gz": (gzip.compress(b""), "lists no image", "nothing to do"),
    "empty.jsonl": (b"\xef\xbb\xbf\n", "lists no image", "nothing to do"),
    "empty.csv": (b"", "has no column 'uri'", "--uri_column"),
    "semicolons.csv": (b"url;n\n/a.jpg;1\n", "its columns are url, n:", "--uri_column"),
    "tabs.tsv": (b"url\tn, and m\n/a.jpg\t1\n", "its columns are url, n, and m:", "--uri_column"),
    "headless.tsv": (b"photos/a 1.jpg\ta cat\n", "are photos/a 1.jpg, a cat", "has to name the columns"),
    "headless.csv": (b"photos/a 1.jpg,a cat\n", "are photos/a 1.jpg, a cat", "has to name the columns"),
    "headless-urls.csv": (b"https://h/a?i=1\n", "are https://h/a?i=1", "has to name the columns"),
    "empty.parquet": (b"", "is not a Parquet file", "--input_format"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_content_that_cannot_be_read(tmp_path, capsys, name):
    content, place, remedy = CONTENT[name]
    (tmp_path / name).write_bytes(content)
    line = ended(capsys, 2, f"--input={tmp_path / name}", output=tmp_path / "out")
    assert name in line
    assert place in line
    assert remedy in line


@pytest.mark.parametrize("column", ["uri", "image"])
@pytest.mark.parametrize("damage", ["page", "footer"])
def test_damaged_parquet(tmp_path, capsys, column, damage):
    path = tmp_path / "in.parquet"
    values = URIS if column == "uri" else [helpers.encoded(0)] * 8
    parquet(path, column, values, damage)
    flags = (f"--input={path}", "--max_failure_rate=1")
    if (column, damage) == ("image", "page"):  # each row is in the ledger, and the other row group is used
        helpers.job(*flags, output=tmp_path / "out")
        assert [line["code"] for line in helpers.read_ledger(tmp_path / "out")] == ["damaged_record"] * 4
        return
    line = ended(capsys, 2, *flags, output=tmp_path / "out")
    place = "row group 1, of rows 1000 to 1999, is damaged" if damage == "page" else "is not a Parquet file"
    assert f"{path}" in line
    assert place in line
    assert "make or copy the file again" in line or damage == "footer"


def test_a_cut_file_of_records_without_a_suffix_is_read_as_far_as_it_goes(tmp_path):
    whole = helpers.write_tfrecord(tmp_path / "in.gz", [helpers.image_example(seed) for seed in range(3)])
    path = tmp_path / "records"
    path.write_bytes(whole.read_bytes()[:-20])
    helpers.job(f"--input={path}", "--max_failure_rate=1", output=tmp_path / "out")
    assert len(helpers.read_all(tmp_path / "out")) == 2
    assert [line["code"] for line in helpers.read_ledger(tmp_path / "out")] == ["damaged_record"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("receipts/00001-of-00002.json", b""),
        ("receipts/00000-of-00002.json", b"[1]"),
        ("receipts/00000-of-00002.json", "failures_by_code"),
        ("receipts/00001-of-00002.json", "fingerprint"),
        (".tmp/retrying.json", b"half a no"),
    ],
)
def test_damaged_notes_of_earlier_runs(tmp_path, capsys, name, content):
    flags = (f"--input={helpers.write_shards(tmp_path / 'in', (1, 1))}", "--pass_through=image/class/label")
    helpers.job(*flags, output=tmp_path / "out")
    path = tmp_path / "out" / name
    if isinstance(content, str):
        content = json.dumps({**json.loads(path.read_text()), content: "damaged"}).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    capsys.readouterr()
    line = ended(capsys, 2, *flags, output=tmp_path / "out")
    assert name in line
    assert "delete it and run" in line


def test_a_damaged_manifest_is_written_again(tmp_path):
    flag = f"--input={helpers.write_shards(tmp_path / 'in', (1,))}"
    helpers.job(flag, output=tmp_path / "out")
    before = helpers.contents(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_bytes(b'{"shards_done"')
    helpers.job(flag, output=tmp_path / "out")
    assert helpers.contents(tmp_path / "out") == before


# stores that do not answer


@pytest.fixture
def silent(monkeypatch):
    """A store on which an operation on files of that name fails, as it may not the next time."""
    monkeypatch.setattr(retrying, "LIMITS", Limits(0.05, 0.001, 0.001))

    def use(operation: str, name: str, number: int = errno.ETIMEDOUT) -> None:
        def fail(what: str, path: str) -> None:
            if what == operation and name in path:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(FaultyFileSystem, "faults", Faults(chosen=fail))

    return use


INPUTS = {
    "a.tfrecord": helpers.write_tfrecord,
    "list.txt": lambda path: path.write_text("/a.jpg\n"),
    "list.jsonl.gz": lambda path: path.write_bytes(gzip.compress(b'{"uri": "/a.jpg"}\n')),
    "list.parquet": lambda path: pyarrow.parquet.write_table(pyarrow.table({"uri": ["/a.jpg"]}), path),
    "a.tar": lambda path: path.write_bytes(bytes(10240)),
}


@pytest.mark.parametrize("operation", ["list", "open", "read"])
@pytest.mark.parametrize("name", INPUTS)
def test_an_input_whose_store_does_not_answer_may_be_tried_again(tmp_path, capsys, silent, name, operation):
    path = tmp_path / name
    INPUTS[name](path, [helpers.image_example(0)]) if name == "a.tfrecord" else INPUTS[name](path)
    silent(operation, name)
    line = ended(capsys, 1, f"--input=faulty://{path}", output=tmp_path / "out")
    assert name in line
    assert "run the same command again" in line
    silent(operation, name, errno.EACCES)  # but what the store refuses stays refused
    assert name in ended(capsys, 2, f"--input=faulty://{path}", output=tmp_path / "out")


def test_an_output_whose_store_does_not_answer_may_be_tried_again(tmp_path, capsys, silent):
    flag = f"--input={helpers.write_shards(tmp_path / 'in', (1,))}"
    silent("list", "receipts")
    helpers.job(flag, f"--output=faulty://{tmp_path}/out", output=tmp_path / "out", expect=1)
    assert "run the same command again" in capsys.readouterr().err
