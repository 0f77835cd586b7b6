"""Parquet files that hold images: as `datasets` writes them, odd columns, damage, and how lists are told apart."""

from __future__ import annotations

import collections
import datetime
import decimal
import errno
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest

from pipeline import verify
from tests import engines, helpers
from transforms.elements import Encoded, Failure
from transforms.errors import ItemError
from transforms.imaging import preprocess
from transforms.sources import finding, kinds, parquet_images
from transforms.sources.base import BadInput, Cutting, Reading, ReadSettings
from transforms.storage import disk
from transforms.storage.errors import StorageFailed

LENIENT = "--max_failure_rate=1"
DATASETS = "datasets==5.2.0"


def table(count=6, first=0, **columns):
    """Images in structs, and a label each."""
    seeds = range(first, first + count)
    images = [{"bytes": helpers.encoded(seed), "path": f"{seed}.jpg"} for seed in seeds]
    return pyarrow.table({"image": images, "label": list(seeds), **columns})


def write(path, content, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(content, path, **options)
    return path


def found(path, input_format="auto", **settings):
    return finding.find([str(path)], input_format, ReadSettings(2, **settings))


def cut(path, images_per_shard=1000, input_format="auto", **settings):
    cutting = Cutting(ReadSettings(2, **settings), images_per_shard, None, "")
    files = found(path, input_format, **settings)
    return files.kind.cut(files.files, cutting)


def read(path, images_per_shard=1000, **settings):
    """The items of all shards."""
    made = cut(path, images_per_shard, **settings)
    reading = [Reading(name, ReadSettings(2, **settings)) for name in made.names]
    return [item for source, one in zip(made.sources, reading, strict=True) for item in source.items(one)]


def summed(source, **settings):
    """The source as it is once all of it has been read."""
    items = source.items(Reading("x", ReadSettings(2, **settings)))
    while True:
        try:
            next(items)
        except StopIteration as end:
            return end.value


# as `datasets` writes them

PROGRAM = """
import sys
from datasets import ClassLabel, Dataset, Features, Image, Value
from datasets.table import embed_table_storage
folder, *paths = sys.argv[1:]
data = [open(path, "rb").read() for path in paths]
names = [path.rsplit("/", 1)[-1] for path in paths]
features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"]), "text": Value("string")})
columns = {"label": [i % 2 for i in range(len(paths))], "text": [f"no. {i}" for i in range(len(paths))]}
images = [{"bytes": one, "path": name} for one, name in zip(data, names)]
Dataset.from_dict({"image": images, **columns}, features=features).to_parquet(folder + "/embedded.parquet", batch_size=3)
only_paths = Dataset.from_dict({"image": paths, **columns}, features=features)
only_paths.to_parquet(folder + "/paths.parquet")
only_paths.with_format("arrow").map(embed_table_storage, batched=True).to_parquet(folder + "/from-paths.parquet")
whole = Dataset.from_dict({"image": images, **columns}, features=features)
for index in range(2):
    whole.shard(2, index, contiguous=True).to_parquet(f"{folder}/train-{index:05d}-of-00002.parquet")
"""


def python_with_datasets():
    """The interpreter of an environment with `datasets`, made once and kept."""
    name = f"{DATASETS.replace('==', '-')}-py{sys.version_info[0]}.{sys.version_info[1]}"
    return engines.environment(name, DATASETS, "pillow")


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A folder with files that `datasets` wrote, and with the same images as TFRecords."""
    folder = tmp_path_factory.mktemp("hugging-face")
    paths = []
    for seed in range(8):
        paths.append(folder / "photos" / f"{seed}.jpg")
        paths[-1].parent.mkdir(exist_ok=True)
        paths[-1].write_bytes(helpers.encoded(seed))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    command = [str(python_with_datasets()), "-c", PROGRAM, str(folder), *map(str, paths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    helpers.write_tfrecord(folder / "same.tfrecord", [helpers.image_example(seed) for seed in range(8)])
    return folder


def test_what_datasets_writes_gives_the_features_of_the_same_images_in_tfrecords(hugging_face, tmp_path):
    file = pyarrow.parquet.ParquetFile(hugging_face / "embedded.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [3, 3, 2]
    flags = ["--batch_size=4"]
    parquet = [
        f"--input={hugging_face}/embedded.parquet",
        "--pass_through=label,text",
        "--key_feature=image.path",
    ]
    helpers.job(*flags, *parquet, "--images_per_shard=6", output=tmp_path / "out")
    helpers.job(*flags, f"--input={hugging_face}/same.tfrecord", output=tmp_path / "same")
    rows, same = helpers.read_all(tmp_path / "out"), helpers.read_all(tmp_path / "same")
    assert len(list((tmp_path / "out").glob("features-*"))) == 2
    for index, (row, one) in enumerate(zip(rows, same, strict=True)):
        assert row["embedding"].tobytes() == one["embedding"].tobytes()
        assert row["image/sha256"] == one["image/sha256"]
        assert (row["label"], row["text"]) == ([index % 2], [f"no. {index}".encode()])
        assert row["key"] == [f"{index}.jpg".encode()]
    assert verify.main([str(tmp_path / "out")]) == verify.COMPLETE


def test_a_data_set_in_several_files_is_taken_by_a_glob_and_not_from_a_folder(hugging_face, tmp_path):
    helpers.job(f"--input={hugging_face}/train-*-of-*.parquet", output=tmp_path / "out")
    keys = [one["key"][0].decode() for one in helpers.read_all(tmp_path / "out")]
    assert keys == [f"train-{part:05d}-of-00002.parquet#{row}" for part in range(2) for row in range(4)]
    assert verify.main([str(tmp_path / "out")]) == verify.COMPLETE
    shutil.rmtree(tmp_path / "out")
    shutil.copy(hugging_face / "embedded.parquet", tmp_path)
    shutil.copy(hugging_face / "photos" / "0.jpg", tmp_path)
    files = finding.find([str(tmp_path)], "auto", ReadSettings(2))
    assert (files.kind.name, list(files.left_out.values())) == ("images", [".parquet"])


def test_images_that_a_data_set_only_refers_to_are_failures(hugging_face, tmp_path):
    helpers.job(f"--input={hugging_face}/paths.parquet", LENIENT, output=tmp_path / "out", expect=3)
    ledger = helpers.read_ledger(tmp_path / "out")
    assert [(line["position"], line["code"]) for line in ledger] == [(i, "missing_feature") for i in range(8)]
    assert f"holds no bytes here, only the path {hugging_face}/photos/0.jpg:" in ledger[0]["message"]
    remedied = read(hugging_face / "from-paths.parquet")  # as docs/inputs.md says
    assert [item.data for item in remedied] == [helpers.encoded(seed) for seed in range(8)]


# a whole job: ledger, resume, retry


def with_failures(path):
    """Nine rows in three row groups: null, no bytes, and no image are among them."""
    images = [{"bytes": helpers.encoded(seed), "path": None} for seed in range(9)]
    images[1], images[4] = None, {"bytes": b"", "path": None}
    images[5] = {"bytes": b"no image", "path": None}
    images[7] = {"bytes": None, "path": "cat.jpg"}
    return write(path, pyarrow.table({"image": images, "n": list(range(9))}), row_group_size=3)


def test_a_job_with_failures_is_resumed_retried_and_verified(tmp_path, capsys):
    path = with_failures(tmp_path / "in" / "a.parquet")
    flags = [f"--input={path}", "--images_per_shard=4", "--batch_size=2", "--pass_through=n", LENIENT]
    output = tmp_path / "out"
    helpers.job(*flags, output=output)
    ledger = helpers.read_ledger(output)
    assert [(line["key"], line["position"], line["code"], line["stage"]) for line in ledger] == [
        ("a.parquet#1", 1, "missing_feature", "read"),
        ("a.parquet#4", 1, "empty", "decode"),
        ("a.parquet#5", 2, "not_image", "decode"),
        ("a.parquet#7", 1, "missing_feature", "read"),
    ]
    features = helpers.read_all(output)
    assert [one["n"] for one in features] == [[n] for n in (0, 2, 3, 6, 8)]
    assert [one["key"] for one in features] == [[b"a.parquet#%d" % n] for n in (0, 2, 3, 6, 8)]
    assert verify.main([str(output)]) == verify.COMPLETE
    before = helpers.contents(output)

    (output / "receipts" / "00001-of-00003.json").unlink()
    helpers.job(*flags, output=output)
    assert helpers.contents(output) == before
    helpers.job(*flags, "--retry_failures", output=output)
    assert helpers.contents(output) == before
    assert verify.main([str(output)]) == verify.COMPLETE

    os.utime(path, (1, 1))  # touched: read again, and the same
    capsys.readouterr()
    helpers.job(*flags, output=output)
    assert "0 of 3 shards to do" in capsys.readouterr().err
    helpers.job(*flags, "--retry_failures", output=output)
    assert verify.main([str(output)]) == verify.COMPLETE

    data = path.read_bytes()
    at = data.index(b"no image")
    path.write_bytes(data[:at] + b"NO" + data[at + 2 :])
    os.utime(path, (2, 2))
    helpers.job(*flags, output=output, expect=2)
    assert "00001-of-00003 has changed since the shard was made" in (said := capsys.readouterr().err)
    assert "(crc32c differs)" in said
    write(path, table(9, n=list(range(9))), row_group_size=3)
    helpers.job(*flags, output=output, expect=2)
    assert "(size_bytes differs)" in capsys.readouterr().err


def test_failures_that_were_decoders_join_their_shards(tmp_path, monkeypatch, decoding_here):
    path = write(tmp_path / "a.parquet", table(7), row_group_size=2)
    flags = [f"--input={path}", "--images_per_shard=4", "--batch_size=2", LENIENT]
    helpers.job(*flags, output=tmp_path / "whole")
    original, bad = preprocess.decode, {helpers.encoded(n) for n in (1, 5)}

    def failing(data, *arguments):
        if data in bad:
            raise ItemError("corrupt", "for this test")
        return original(data, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(preprocess, "decode", failing)
        helpers.job(*flags, output=tmp_path / "out")
    lines = [(line["key"], line["code"]) for line in helpers.read_ledger(tmp_path / "out")]
    assert lines == [("a.parquet#1", "corrupt"), ("a.parquet#5", "corrupt")]
    helpers.job(*flags, "--retry_failures", output=tmp_path / "out")
    assert helpers.contents(tmp_path / "out") == helpers.contents(tmp_path / "whole")


def test_a_dry_run_looks_at_images(tmp_path, capsys):
    path = write(tmp_path / "a.parquet", table(40), row_group_size=20)
    helpers.job(f"--input={path}", "--images_per_shard=20", "--dry_run", output=tmp_path / "out")
    assert "dry run: 32 of 40 images, in 2 of 2 shards" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# how it is cut


@pytest.mark.parametrize(
    ("groups", "per_shard", "ranges"),
    [
        ([3, 3, 2], 6, [(0, 6), (6, 8)]),
        ([3, 3, 2], 5, [(0, 3), (3, 8)]),
        ([3, 3, 2], 1000, [(0, 8)]),
        ([10, 1], 4, [(0, 4), (4, 8), (8, 11)]),
        ([2, 10, 2], 4, [(0, 2), (2, 6), (6, 10), (10, 14)]),
        ([0, 4, 0, 4, 0], 4, [(0, 4), (4, 8)]),
        ([0], 4, []),
        ([], 4, []),
    ],
)
def test_shards_end_with_row_groups_where_they_can(groups, per_shard, ranges):
    assert list(parquet_images._ranges(groups, per_shard)) == ranges


def test_any_cut_has_all_rows_in_order_and_no_shard_is_too_large():
    lots = random.Random(0)
    for _ in range(500):
        groups = [lots.randint(0, 12) for _ in range(lots.randint(0, 8))]
        per_shard = lots.randint(1, 15)
        ranges = list(parquet_images._ranges(groups, per_shard))
        assert [row for start, end in ranges for row in range(start, end)] == list(range(sum(groups)))
        assert all(0 < end - start <= per_shard for start, end in ranges)
        borders = {sum(groups[:i]) for i in range(len(groups) + 1)}
        if max(groups, default=0) <= per_shard:
            assert all(start in borders for start, _ in ranges)


@pytest.mark.parametrize("per_shard", [1, 2, 3, 4, 7, 100])
def test_rows_are_the_same_however_they_are_cut(tmp_path, per_shard):
    path = write(tmp_path / "a.parquet", table(11), row_group_size=4)
    items = read(path, per_shard, pass_through=("label",))
    assert [item.data for item in items] == [helpers.encoded(seed) for seed in range(11)]
    assert [item.key for item in items] == [b"a.parquet#%d" % row for row in range(11)]
    assert cut(path, per_shard) == cut(path, per_shard)


def test_row_groups_that_are_larger_than_a_shard_are_told_of(tmp_path):
    path = write(tmp_path / "a.parquet", table(8), row_group_size=5)
    assert cut(path, 5).notes == ()
    (note,) = cut(path, 3).notes
    assert "more than --images_per_shard=3" in note
    assert "--images_per_shard=5 reads every row group once" in note


def test_empty_files_and_row_groups(tmp_path, capsys):
    helpers.job(
        f"--input={write(tmp_path / 'empty.parquet', table(1).slice(0, 0))}",
        output=tmp_path / "out",
        expect=2,
    )
    assert "lists no image" in capsys.readouterr().err
    with pyarrow.parquet.ParquetWriter(tmp_path / "a.parquet", table(1).schema) as writer:
        for count in (0, 2, 0, 1, 0):
            writer.write_table(table(count) if count else table(1).slice(0, 0))
    assert [item.data for item in read(tmp_path / "a.parquet", 2)] == [
        helpers.encoded(seed) for seed in (0, 1, 0)
    ]


def test_names_are_those_below_the_common_folder(tmp_path):
    for name in ("x/a.parquet", "y/a.parquet"):
        write(tmp_path / name, table(2))
    made = cut(f"{tmp_path}/*/*.parquet", 1)
    assert list(made.names) == ["x/a.parquet", "x/a.parquet", "y/a.parquet", "y/a.parquet"]
    key_at = kinds.keys(made.names[1], made.sources[1].identity(), "")
    assert key_at(0) == b"x/a.parquet#1"


# columns


def test_columns_keep_their_types(tmp_path):
    moment = datetime.datetime(2024, 5, 6, 7, 8, 9)
    columns = {
        "flag": pyarrow.array([True, False]),
        "small": pyarrow.array([-3, None], pyarrow.int8()),
        "half": pyarrow.array([0.5, 2.0], pyarrow.float16()),
        "double": pyarrow.array([0.25, None]),
        "words": pyarrow.array(["ä", None]),
        "large": pyarrow.array(["b", ""], pyarrow.large_string()),
        "raw": pyarrow.array([b"\xff\0", None]),
        "codes": pyarrow.array(["x", "y"]).dictionary_encode(),
        "ints": pyarrow.array([[1, 2], []]),
        "texts": pyarrow.array([["a", None, "b"], None]),
        "fixed": pyarrow.array([[1.5, 2.5], [3.5, 4.5]], pyarrow.list_(pyarrow.float32(), 2)),
        "time": pyarrow.array([moment, None], pyarrow.timestamp("us")),
        "price": pyarrow.array([decimal.Decimal("1.20"), None]),
        "meta": pyarrow.array([{"a": 1, "b": {"c": ["ü"]}}, None]),
        "boxes": pyarrow.array([[[1, 2], [3]], []]),
        "pairs": pyarrow.array([[("k", 1)], None], pyarrow.map_(pyarrow.string(), pyarrow.int32())),
        "nothing": pyarrow.nulls(2),
        "with.dot": pyarrow.array([7, 8]),
    }
    path = write(tmp_path / "a.parquet", table(2, **columns))
    names = (*columns, "meta.a", "meta.b.c", "image.path")
    helpers.job(
        f"--input={path}",
        f"--pass_through={','.join(names)}",
        "--image_feature=image",
        output=tmp_path / "out",
    )
    first, second = helpers.read_all(tmp_path / "out")
    passed = {name: list(first[name]) for name in names}
    assert passed == {
        "flag": [1],
        "small": [-3],
        "half": [0.5],
        "double": [0.25],
        "words": ["ä".encode()],
        "large": [b"b"],
        "raw": [b"\xff\0"],
        "codes": [b"x"],
        "ints": [1, 2],
        "texts": [b"a", b"b"],
        "fixed": [1.5, 2.5],
        "time": [b"2024-05-06 07:08:09"],
        "price": [b"1.20"],
        "meta": ['{"a": 1, "b": {"c": ["ü"]}}'.encode()],
        "boxes": [b"[[1, 2], [3]]"],
        "pairs": [b'[["k", 1]]'],
        "nothing": [],
        "with.dot": [7],
        "meta.a": [1],
        "meta.b.c": ["ü".encode()],
        "image.path": [b"0.jpg"],
    }
    empty = {name for name in names if not list(second[name])}
    assert empty == {
        "small", "double", "words", "raw", "ints", "texts", "time", "price", "meta", "boxes", "pairs", "nothing",
        "meta.a", "meta.b.c",
    }  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.binary(),
        pyarrow.large_binary(),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.binary()),
        pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
        pyarrow.struct(
            {"width": pyarrow.int32(), "bytes": pyarrow.large_binary(), "more": pyarrow.list_(pyarrow.int8())}
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "options", [{"compression": "zstd"}, {"compression": "none", "use_dictionary": False}], ids=str
)
def test_images_in_columns_of_many_types(tmp_path, kind, options):
    data = [helpers.encoded(seed) for seed in range(40)]
    values = [{"bytes": one} for one in data] if pyarrow.types.is_struct(kind) else data
    values[3] = None
    array = pyarrow.array(values, pyarrow.binary()).dictionary_encode() if "dictionary" in str(kind) else None
    array = pyarrow.array(values, kind) if array is None else array
    path = write(tmp_path / "a.parquet", pyarrow.table({"x": list(range(40)), "picture": array}), **options)
    items = read(path)
    assert items.pop(3) == Failure(
        b"a.parquet#3", 3, "read", "missing_feature", "the row has nothing in its image column 'picture'"
    )
    del data[3]
    assert [item.data for item in items] == data


def test_keys_of_columns(tmp_path):
    columns = {"id": [7, None], "name": ["https://x.org/a?X-Amz-Signature=secret", ""], "raw": [b"\xff", b""]}
    path = write(tmp_path / "a.parquet", table(2, **columns))
    for name, key in (("id", b"7"), ("name", b"https://x.org/a"), ("raw", b"\xff"), ("image.path", b"0.jpg")):
        first, second = read(path, key_feature=name, image_feature="image")
        assert first.key.startswith(key)
        assert b"secret" not in first.key
        if name != "image.path":
            assert (second.key, second.code) == (b"a.parquet#1", "missing_feature")


def test_values_that_no_record_can_hold_are_failures(tmp_path):
    big = pyarrow.array([1 << 63, 1], pyarrow.uint64())
    text = pyarrow.array([b"\xff", b"ok"]).view(pyarrow.string())
    path = write(tmp_path / "a.parquet", table(2, big=big, text=text))
    for name in ("big", "text"):
        first, second = read(path, pass_through=(name,))
        assert (first.code, first.key) == ("bad_row", b"a.parquet#0")
        assert isinstance(second, Encoded)


# lists and images begin alike


URIS = pyarrow.array(["a.jpg", "b.jpg"])
BYTES = pyarrow.array([b"1", b"2"])


@pytest.mark.parametrize(
    ("content", "settings", "kind"),
    [
        ({"uri": URIS, "n": [1, 2]}, {}, "parquet"),
        ({"url": URIS, "n": [1, 2]}, {"uri_column": "url"}, "parquet"),
        ({"uri": URIS, "hash": BYTES}, {"pass_through": ("hash",)}, "parquet"),
        ({"uri": URIS, "hash": BYTES}, {"key_feature": "hash"}, "parquet"),
        ({"uri": URIS, "n": [1, 2]}, {"image_feature": "n"}, "parquet"),
        ({"uri": URIS, "n": [1, 2]}, {"image_feature": "image"}, "parquet"),
        ({"uri": BYTES}, {}, "parquet"),
        ({"url": URIS, "jpg": BYTES}, {}, "parquet_images"),
        ({"uri": URIS, "jpg": BYTES}, {"image_feature": "jpg"}, "parquet_images"),
        ({"jpg": BYTES, "hash": BYTES}, {"image_feature": "jpg"}, "parquet_images"),
        ({"jpg": BYTES, "hash": BYTES}, {"pass_through": ("hash",)}, "parquet_images"),
        ({"image": [{"bytes": b"1", "path": "a"}] * 2, "n": [1, 2]}, {}, "parquet_images"),
    ],
)
def test_columns_tell_lists_from_images(tmp_path, content, settings, kind):
    path = write(tmp_path / "a.parquet", pyarrow.table(content))
    assert found(path, **settings).kind.name == kind
    for asked in ("parquet", "parquet_images"):
        assert found(path, asked, **settings).kind.name == asked
    if kind == "parquet_images":
        assert len(read(path, **settings)) == 2


REFUSED = {
    "both": (
        {"uri": URIS, "jpg": BYTES},
        (),
        "has both the column 'uri' of a list of URIs and images in 'jpg'",
    ),
    "several": ({"jpg": BYTES, "thumb": BYTES}, (), "several columns that can hold images, 'jpg', 'thumb'"),
    "neither": (
        {"n": [1, 2], "t": URIS},
        (),
        "has no column 'uri'; its columns are n, t: name them with --uri_column",
    ),
    "no such": ({"jpg": BYTES}, ("--image_feature=png",), "has no column 'png' with bytes"),
    "no bytes": ({"jpg": URIS}, ("--image_feature=jpg",), "its columns are jpg (string): name the one"),
    "asked": ({"n": [1, 2]}, ("--input_format=parquet_images",), "no column of images with bytes"),
    "passed": (
        {"jpg": BYTES, "n": [1, 2]},
        ("--pass_through=n,m,jpg.x",),
        "has no column 'm', 'jpg.x'; its columns",
    ),
    "key": ({"jpg": BYTES, "k": [[1], [2]]}, ("--key_feature=k",), "'k' is list<"),
    "key missing": ({"jpg": BYTES}, ("--key_feature=k",), "has no column 'k'"),
    "split": ({"jpg": BYTES}, ("--split_bytes=1MiB",), "--split_bytes cuts TFRecord files"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_decided_is_refused_with_the_columns(tmp_path, capsys, case):
    content, flags, message = REFUSED[case]
    path = write(tmp_path / "a.parquet", pyarrow.table(content))
    helpers.job(f"--input={path}", *flags, output=tmp_path / "out", expect=2)
    said = capsys.readouterr().err
    assert message in said
    assert str(path) in said
    if case == "both":
        assert "--input_format=parquet takes the list of URIs, --image_feature=COLUMN the images" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "settings", "twice"),
    [
        (("image", "label", "label"), {"pass_through": ("label",)}, "label"),
        (("image", "label", "label"), {"key_feature": "label"}, "label"),
        (("image", "image", "label"), {}, "image"),
        (("image", "image", "label"), {"image_feature": "image"}, "image"),
        (("image", "label", "label"), {}, ""),
    ],
)
def test_a_column_that_is_asked_for_must_have_a_name_of_its_own(tmp_path, names, settings, twice):
    columns = [pyarrow.array([b"x" if name == "image" else "x"]) for name in names]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, list(names)), path)
    if not twice:
        assert len(cut(path, 5, **settings).sources) == 1
        return
    with pytest.raises(
        BadInput, match=f"has 2 columns named '{twice}'; its columns are {', '.join(names)}: rename"
    ):
        cut(path, 5, **settings)


def test_a_format_that_is_asked_for_decides_where_there_is_both(tmp_path):
    photo = tmp_path / "0.jpg"
    photo.write_bytes(helpers.encoded(0))
    content = {"uri": [str(photo)], "jpg": [helpers.encoded(1)]}
    path = write(tmp_path / "a.parquet", pyarrow.table(content))
    for asked, key in (("parquet", str(photo).encode()), ("parquet_images", b"a.parquet#0")):
        helpers.job(f"--input={path}", f"--input_format={asked}", output=tmp_path / asked)
        assert [one["key"] for one in helpers.read_all(tmp_path / asked)] == [[key]]


def test_lists_and_images_do_not_mix(tmp_path, capsys):
    write(tmp_path / "a.parquet", table(1))
    write(tmp_path / "b.parquet", pyarrow.table({"uri": URIS}))
    helpers.job(f"--input={tmp_path}/*.parquet", output=tmp_path / "out", expect=2)
    assert "--input mixes kinds of files (parquet_images:" in capsys.readouterr().err


# damage


def broken(path, kind):
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    footer = len(data) - 8 - size
    return {
        "nothing": b"",
        "text": b"hello",
        "cut": data[:-10],
        "footer": data[:footer] + bytes(byte ^ 255 for byte in data[footer:-8]) + data[-8:],
        "encrypted": data[:-4] + b"PARE",
    }[kind]


@pytest.mark.parametrize("kind", ["nothing", "text", "cut", "footer", "encrypted"])
def test_a_file_without_a_footer_is_refused(tmp_path, capsys, kind):
    path = write(tmp_path / "a.parquet", table(2))
    path.write_bytes(broken(path, kind))
    helpers.job(f"--input={path}", output=tmp_path / "out", expect=2)
    said = capsys.readouterr().err
    assert f"{path} is not a Parquet file" in said


def page_of(path, group, column):
    """Where the first page of a column begins."""
    about = pyarrow.parquet.ParquetFile(path).metadata.row_group(group).column(column)
    return about.dictionary_page_offset or about.data_page_offset


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_damage_costs_the_rows_of_its_row_group(tmp_path, compression):
    path = write(
        tmp_path / "a.parquet", table(9), row_group_size=3, compression=compression, use_dictionary=False
    )
    at = page_of(path, 1, 0)
    data = path.read_bytes()
    path.write_bytes(data[:at] + b"\xff" * 40 + data[at + 40 :])
    flags = [f"--input={path}", "--images_per_shard=4", "--batch_size=2", "--pass_through=label", LENIENT]
    helpers.job(*flags, output=tmp_path / "out")
    ledger = helpers.read_ledger(tmp_path / "out")
    assert [(line["key"], line["position"], line["code"]) for line in ledger] == [
        (f"a.parquet#{row}", row - 3, "damaged_record") for row in (3, 4, 5)
    ]
    assert f"row group 1 of {path} cannot be read" in ledger[0]["message"]
    assert [list(one["label"]) for one in helpers.read_all(tmp_path / "out")] == [
        [n] for n in (0, 1, 2, 6, 7, 8)
    ]
    assert verify.main([str(tmp_path / "out")]) == verify.COMPLETE
    before = helpers.contents(tmp_path / "out")
    os.utime(path, (1, 1))
    helpers.job(*flags, output=tmp_path / "out")
    helpers.job(*flags, "--retry_failures", output=tmp_path / "out")
    assert helpers.contents(tmp_path / "out") == before


def test_flipped_bits_are_found_where_pages_have_checksums(tmp_path):
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pages = {"data_page_size": 1000, "write_batch_size": 1, "write_page_checksum": True}
    path = write(tmp_path / "a.parquet", table(40), **options, **pages)
    data = path.read_bytes()
    at = data.index(helpers.encoded(25)) + 200
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    items = read(path)
    assert len(items) == 40
    good = [item for item in items if isinstance(item, Encoded)]
    assert [item.data for item in good] == [helpers.encoded(seed) for seed in range(16)]
    assert {item.code for item in items[16:]} == {"damaged_record"}


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_ends_every_row_in_features_or_the_ledger(tmp_path, seed):
    lots = random.Random(seed)
    original = write(tmp_path / "a.parquet", table(12), row_group_size=4).read_bytes()
    footer = len(original) - 8 - int.from_bytes(original[-8:-4], "little")
    codes = collections.Counter()
    for _ in range(30):
        data = bytearray(original)
        for _ in range(lots.choice((1, 3, 50))):
            data[lots.randrange(4, footer)] = lots.randrange(256)
        (tmp_path / "a.parquet").write_bytes(data)
        items = read(tmp_path / "a.parquet", 5, pass_through=("label",))
        assert len(items) == 12
        assert [int(item.key.partition(b"#")[2]) for item in items if item.key] == list(range(12))
        codes.update(item.code for item in items if isinstance(item, Failure))
    assert codes["damaged_record"]


def test_an_error_of_storage_is_no_damage(tmp_path, monkeypatch):
    rows = [os.urandom(1 << 20) for _ in range(8)]  # beyond what is read at once
    path = write(tmp_path / "a.parquet", pyarrow.table({"image": rows}), row_group_size=4)
    (source,) = cut(path).sources

    def failing(file, offset, count):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    items = source.items(Reading("x", ReadSettings(2)))
    assert next(items).data == rows[0]
    monkeypatch.setattr(disk.DiskFile, "read_at", failing)
    with pytest.raises(StorageFailed, match="Permission denied"):
        list(items)


def test_a_file_that_changed_since_the_plan_is_not_read(tmp_path):
    path = write(tmp_path / "a.parquet", table(4))
    (source,) = cut(path).sources
    write(path, table(5))
    with pytest.raises(StorageFailed, match="has changed since the job was planned"):
        list(source.items(Reading("x", ReadSettings(2))))


# the same input or another


def test_a_sum_tells_the_same_rows_from_others(tmp_path):
    path = write(tmp_path / "a.parquet", table(6), row_group_size=3, compression="none", use_dictionary=False)
    settings = {"pass_through": ("label",), "key_feature": "image.path"}
    planned = cut(path, 3, **settings).sources
    assert planned[0].identity()["crc32c"] == ""
    before = [summed(source, **settings).identity() for source in planned]
    assert [source.change(one) for source, one in zip(planned, before, strict=True)] == ["", ""]
    shutil.copy(path, tmp_path / "copy")
    (tmp_path / "copy").rename(path)
    os.utime(path, (3, 3))
    assert [s.change(one) for s, one in zip(cut(path, 3, **settings).sources, before, strict=True)] == [
        "",
        "",
    ]
    for change in ({"label": 9}, {"image": {"bytes": helpers.encoded(4), "path": "9.jpg"}}, {"image": None}):
        rows = table(6).to_pylist()
        rows[4] |= change
        write(path, pyarrow.Table.from_pylist(rows), row_group_size=3)
        now = [replace(source, size_bytes=path.stat().st_size) for source in cut(path, 3, **settings).sources]
        told = [dict(one, size_bytes=path.stat().st_size) for one in before]
        assert [source.change(one) for source, one in zip(now, told, strict=True)] == ["", "crc32c"]
    assert json.loads(json.dumps(before[0])) == before[0]


def test_only_what_is_asked_for_is_read_and_a_limit_ends_it(tmp_path):
    path = write(tmp_path / "a.parquet", table(6), row_group_size=3)
    (source,) = cut(path).sources
    items = list(source.items(Reading("x", ReadSettings(2), limit=2)))
    assert [item.position for item in items] == [0, 1]
    items = list(source.items(Reading("x", ReadSettings(2), due=frozenset({1, 4}))))
    assert [item.position for item in items] == [1, 4]


def test_bad_input_in_cutting_names_the_file(tmp_path):
    path = write(tmp_path / "a.parquet", pyarrow.table({"jpg": BYTES, "thumb": BYTES}))
    with pytest.raises(BadInput, match=r"a\.parquet has several columns"):
        cut(path)
