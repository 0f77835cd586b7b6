"""The pictures behind features are found again, whatever kind of input they came from, and are checked."""

import csv
import io
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import helpers
from transforms.commit import receipts
from transforms.commit.layout import Layout
from transforms.sources import pictures
from transforms.sources.base import BadInput

BROKEN = 2  # this image of each input cannot be decoded


def images(count):
    return [b"no image" if i == BROKEN else helpers.encoded(i) for i in range(count)]


def tfrecords(folder):
    records = [helpers.example({"image/encoded": data}) for data in images(7)]
    helpers.write_tfrecord(folder / "a.tfrecord", records[:5])
    helpers.write_tfrecord(folder / "b.tfrecord", records[5:])
    return [f"{folder}/*.tfrecord"], []


def split_tfrecords(folder):
    return tfrecords(folder)[0], ["--split_bytes=2KiB"]


def listed(folder):
    with open(folder / "list.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["url", "name"])
        for i, data in enumerate(images(7)):
            (folder / f"{i}.jpg").write_bytes(data)
            writer.writerow([folder / f"{i}.jpg", f"name {i}"])
    return [f"{folder}/list.csv"], ["--uri_column=url", "--key_feature=name", "--images_per_shard=3"]


def image_files(folder):
    for i, data in enumerate(images(7)):
        (folder / f"{i}.jpg").write_bytes(data)
    return [f"{folder}/*.jpg"], ["--images_per_shard=4"]


def tars(folder):
    with tarfile.open(folder / "a.tar", "w") as tar:
        for i, data in enumerate(images(7)):
            member = tarfile.TarInfo(f"{i}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return [f"{folder}/a.tar"], []


def parquet(folder):
    rows = [{"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(images(7))]
    pq.write_table(pa.table({"image": rows}), folder / "a.parquet", row_group_size=3)
    return [f"{folder}/a.parquet"], ["--images_per_shard=4"]


KINDS = (tfrecords, split_tfrecords, listed, image_files, tars, parquet)


def made(kind, folder):
    """(layout, receipts, inputs) of a job on this kind of input."""
    (folder / "in").mkdir()
    inputs, flags = kind(folder / "in")
    helpers.job(f"--input={','.join(inputs)}", *flags, output=folder / "out")
    layout = Layout(str(folder / "out"))
    return layout, receipts.read_receipts(layout), inputs


def rows_of(layout, label):
    """Row -> SHA-256 of a shard's features."""
    records = helpers.read_features(layout.features(label))
    return {row: record["image/sha256"][0].decode() for row, record in enumerate(records)}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_pictures_of_some_rows(tmp_path, kind):
    layout, done, inputs = made(kind, tmp_path)
    assert len(done) > 1 or kind is tars
    found = pictures.find(layout, done, inputs)
    assert list(found) == [receipt.shard for receipt in done]
    good = iter(data for i, data in enumerate(images(7)) if i != BROKEN)
    for label, shard in found.items():
        wanted = rows_of(layout, label)
        expected = [(row, next(good)) for row in wanted]
        assert list(shard.read(wanted)) == expected
        if len(wanted) > 1:
            assert list(shard.read({1: wanted[1]})) == expected[1:2]
    assert next(good, None) is None


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not tars], ids=lambda kind: kind.__name__)
def test_the_pictures_of_an_unfinished_output(tmp_path, kind):
    """Of a shard after one that is not committed."""
    layout, done, inputs = made(kind, tmp_path)
    label = done[1].shard
    rows = rows_of(layout, label)
    whole = list(pictures.find(layout, done, inputs)[label].read(rows))
    assert len(whole) == len(rows) > 0
    # Lists are cut by the largest shard that is known.
    left = done[1:] if kind is not image_files else [done[1]]
    found = pictures.find(layout, left, inputs if kind is not image_files else ())
    assert list(found) == [receipt.shard for receipt in left]
    assert list(found[label].read(rows)) == whole


def test_image_files_need_no_input(tmp_path):
    layout, done, _ = made(image_files, tmp_path)
    found = pictures.find(layout, done)
    assert [len(list(shard.read(rows_of(layout, label)))) for label, shard in found.items()] == [3, 3]


def test_other_kinds_do(tmp_path):
    layout, done, _ = made(tars, tmp_path)
    assert pictures.find(layout, done) == {}


def test_inputs_of_another_output_are_refused(tmp_path):
    layout, done, _ = made(tfrecords, tmp_path)
    with pytest.raises(BadInput, match="is not the input of"):
        pictures.find(layout, done, [f"{tmp_path}/in/a.tfrecord"])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_has_changed_or_is_gone_is_left_out(tmp_path, kind):
    layout, done, inputs = made(kind, tmp_path)
    found = pictures.find(layout, done, inputs)
    label, shard = next(iter(found.items()))
    rows = rows_of(layout, label)
    assert [row for row, _ in shard.read({**rows, 0: "0" * 64})] == list(rows)[1:]
    for path in (tmp_path / "in").iterdir():
        path.unlink()
    assert list(shard.read(rows)) == []


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not image_files], ids=lambda kind: kind.__name__)
def test_an_input_that_has_grown_still_has_them(tmp_path, kind):
    layout, done, _ = made(kind, tmp_path)
    (path, *_) = sorted(p for p in (tmp_path / "in").iterdir() if p.suffix != ".jpg")
    if kind is listed:
        with open(path, "a") as stream:
            stream.write(f"{tmp_path}/in/0.jpg,further\n" * 3)
    shutil.copy(path, path.with_name(f"0{path.name}"))
    for sub in ("0", "z"):  # of the same name, and with other pictures
        (path.parent / sub).mkdir()
        shutil.copy(path, path.parent / sub / f"z{path.name}")
        others = next(p for p in sorted(path.parent.iterdir(), reverse=True) if p.suffix == path.suffix)
        shutil.copy(others, path.parent / sub / path.name)
    found = pictures.find(layout, done, [f"{tmp_path}/in/**{path.suffix}"])
    read = [len(list(shard.read(rows_of(layout, label)))) for label, shard in found.items()]
    assert read == [receipt.features for receipt in done]


def test_lists_of_one_name_come_in_their_order(tmp_path):
    for folder, seeds in (("a", (0, 1, 3)), ("b", (4, 5))):
        (tmp_path / folder).mkdir()
        for seed in seeds:
            (tmp_path / folder / f"{seed}.jpg").write_bytes(helpers.encoded(seed))
        (tmp_path / folder / "l.txt").write_text("".join(f"{seed}.jpg\n" for seed in seeds))
    inputs = [f"{tmp_path}/a/l.txt", f"{tmp_path}/b/l.txt"]
    helpers.job(f"--input={','.join(inputs)}", "--images_per_shard=2", output=tmp_path / "out")
    layout = Layout(str(tmp_path / "out"))
    found = pictures.find(layout, receipts.read_receipts(layout), inputs)
    read = [[row for row, _ in shard.read(rows_of(layout, label))] for label, shard in found.items()]
    assert read == [[0, 1], [0], [0, 1]]


def test_thumbnails_are_averages_of_the_picture():
    pixels = np.zeros((200, 400, 3), np.uint8)
    pixels[:, 200:] = 250
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    small = pictures.thumbnail(out.getvalue(), 4)
    assert (small.shape, small.dtype) == ((4, 4, 3), np.uint8)
    assert small[:, 0].max() == 0
    assert small[:, 3].min() == 250
