"""Without a flag the number of rows and the batch size alone decide how an input is cut."""

import math

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import helpers
from transforms.sources import finding
from transforms.sources.base import Cutting, ReadSettings
from transforms.sources.shard_size import COUNTED, rows_per_shard


@pytest.mark.parametrize(
    ("rows", "batch_size", "size"),
    [
        (1, 32, 32),
        (1000, 32, 32),  # a folder of pictures: 32 commits instead of one
        (1000, 128, 128),
        (6400, 32, 32),
        (6401, 32, 64),
        (50_000, 128, 256),
        (204_801, 32, 1024),
        (10_000_000, 32, 1024),
        (10_000_000, 100, 1100),  # the next whole number of batches
        (10_000_000, 3000, 3000),
        (0, 7, 7),
    ],
)
def test_the_size_of_a_shard(rows, batch_size, size):
    assert rows_per_shard(rows, batch_size) == size


@given(rows=st.integers(0, 10**8), batch_size=st.integers(1, 5000))
def test_whole_batches_about_200_shards_and_never_too_large(rows, batch_size):
    size = rows_per_shard(rows, batch_size)
    assert size % batch_size == 0
    assert size <= max(1024, 1023 + batch_size)
    assert size == batch_size or size >= 1024 or 100 <= math.ceil(rows / size) <= 200
    assert rows_per_shard(max(rows, COUNTED), batch_size) == rows_per_shard(COUNTED, batch_size)


def cut(path, **settings):
    found = finding.find([str(path)], "auto", ReadSettings(settings.pop("batch_size", 2), **settings))
    cutting = Cutting(ReadSettings(2, **settings), None, None, "out/inputs.txt")
    made = found.kind.cut(found.files, cutting)
    return made.images_per_shard, [source.inputs for source in made.sources]


def txt(folder):
    (folder / "list.txt").write_text(
        "".join(f"/{row}.jpg\n\n" for row in range(500))
    )  # blank lines are no rows
    return folder / "list.txt"


def csv(folder):
    (folder / "list.csv").write_text("uri,text\n" + "".join(f'/{row}.jpg,"a\nb"\n' for row in range(500)))
    return folder / "list.csv"


def jsonl(folder):
    (folder / "list.jsonl").write_text("".join(f'{{"uri": "/{row}.jpg"}}\n' for row in range(500)))
    return folder / "list.jsonl"


def parquet(folder):
    table = pyarrow.table({"uri": [f"/{row}.jpg" for row in range(500)]})
    pyarrow.parquet.write_table(table, folder / "list.parquet", row_group_size=100)
    return folder / "list.parquet"


def images(folder):
    for row in range(500):
        (folder / f"{row:03}.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


@pytest.mark.parametrize("make", [txt, csv, jsonl, parquet, images])
def test_each_kind_that_has_rows_is_cut_like_this(tmp_path, make):
    assert cut(make(tmp_path)) == (4, [4] * 125)


def test_the_rows_of_all_lists_count(tmp_path):
    txt(tmp_path)
    (tmp_path / "other.txt").write_text("/a.jpg\n" * 801)
    size, rows = cut(tmp_path / "*.txt")
    assert (size, sum(rows), len(rows)) == (8, 1301, 63 + 101)


def test_a_parquet_file_with_images_is_not_cut_within_its_row_groups(tmp_path):
    """Each part of a row group would read it from its start."""
    rows = [{"bytes": helpers.encoded(0), "path": "0.jpg"}] * 30
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "in.parquet", row_group_size=9)
    assert cut(tmp_path / "in.parquet") == (10, [9, 9, 9, 3])
