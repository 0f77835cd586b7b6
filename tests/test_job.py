"""The whole job with the tiny network: what goes in, what comes out, and that nothing is lost."""

import csv
import gc
import hashlib
import json
import os
import subprocess
import threading

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from bit import load, models
from tests import helpers
from transforms.imaging.preprocess import Preprocessing, decode
from transforms.sources.tfrecord import RecordFile


def children() -> set[int]:
    """Ids of the processes that this one has started and that run."""
    command = ["ps", "-o", "pid=,stat=,comm=", "--ppid", str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    return {int(pid) for pid, state, name in lines if not state.startswith("Z") and name != "ps"}


@pytest.fixture(scope="module")
def expected():
    """The plain functions, without Beam: seed of a picture -> its vector."""
    model = load.load(models.resolve("untrained/tiny"), "", image_size=helpers.SIDE, batch_size=1)

    def vector(data: bytes) -> np.ndarray:
        pixels = np.zeros((1, helpers.SIDE, helpers.SIDE, 3), np.float32)
        decode(data, Preprocessing(image_size=helpers.SIDE), pixels[0])
        return model(pixels)["embedding"][0]

    return vector


def test_equals_the_plain_functions_over_shards_and_chunks(tmp_path, expected):
    sizes = (7, 4, 0, 1)  # more than one chunk, exactly one, none, a part of one
    pattern = helpers.write_shards(tmp_path / "in", sizes)
    helpers.job(f"--input={pattern}", "--batch_size=4", output=tmp_path / "out")
    seed = 0
    for index, size in enumerate(sizes):
        name = f"in-{index:05d}-of-00004.tfrecord"
        records = helpers.read_features(tmp_path / "out" / f"features-{index:05d}-of-00004.tfrecord")
        assert [record["key"] for record in records] == [[f"{name}#{i}".encode()] for i in range(size)]
        for record in records:
            data = helpers.encoded(seed)
            helpers.assert_close(record["embedding"], expected(data))
            assert record["image/width"] == [48]
            assert record["image/height"] == [40]
            assert record["image/sha256"] == [hashlib.sha256(data).hexdigest().encode()]
            assert set(record) == {"key", "embedding", "image/width", "image/height", "image/sha256"}
            seed += 1
    manifest = helpers.manifest(tmp_path / "out")
    assert (manifest["inputs"], manifest["features"], manifest["failures"], manifest["shards_done"]) == (
        12,
        12,
        0,
        4,
    )
    assert manifest["untrained"] is True
    assert not list((tmp_path / "out").glob("failures-*"))
    assert not (tmp_path / "out" / ".tmp").exists()


def test_a_vector_does_not_depend_on_neighbours_or_batch_size(tmp_path):
    pattern = helpers.write_shards(tmp_path / "in", (5,))
    lone = helpers.write_tfrecord(tmp_path / "lone.tfrecord", [helpers.image_example(3)])
    helpers.job(f"--input={pattern}", "--batch_size=4", output=tmp_path / "together")
    helpers.job(f"--input={lone}", "--batch_size=4", output=tmp_path / "alone")
    helpers.job(f"--input={pattern}", "--batch_size=3", output=tmp_path / "smaller")
    together, smaller = helpers.read_all(tmp_path / "together"), helpers.read_all(tmp_path / "smaller")
    (alone,) = helpers.read_all(tmp_path / "alone")
    assert alone["embedding"].tobytes() == together[3]["embedding"].tobytes()
    for record, other in zip(together, smaller, strict=True):
        helpers.assert_close(record["embedding"], other["embedding"])


@pytest.mark.parametrize("model", [(), ("--model=untrained/r50x1", "--image_size=96")], ids=["tiny", "r50x1"])
def test_a_hole_in_a_batch_changes_no_other_vector(tmp_path, model):
    """A damaged record and one without an image take a row each, which stays zero, as they are found while decoding."""
    examples = [helpers.image_example(seed) for seed in range(7)]
    helpers.write_tfrecord(tmp_path / "whole" / "in.tfrecord", examples)
    examples[2] = helpers.example({"other": b"x"})
    path = helpers.write_tfrecord(tmp_path / "holes" / "in.tfrecord", examples)
    data = bytearray(path.read_bytes())
    data[sum(len(example) + 16 for example in examples[:5]) + 200] ^= 1
    path.write_bytes(data)
    for name in ("whole", "holes"):
        flags = [f"--input={tmp_path / name}", "--batch_size=4", "--max_failure_rate=0.5"]
        helpers.job(*flags, *model, output=tmp_path / f"{name}-out")
    lines = [(line["position"], line["code"]) for line in helpers.read_ledger(tmp_path / "holes-out")]
    assert lines == [(2, "missing_feature"), (5, "damaged_record")]
    whole = {record["key"][0]: record for record in helpers.read_all(tmp_path / "whole-out")}
    holes = {record["key"][0]: record for record in helpers.read_all(tmp_path / "holes-out")}
    assert set(whole) - set(holes) == {b"in.tfrecord#2", b"in.tfrecord#5"}
    assert len({record["embedding"].tobytes() for record in holes.values()}) == 5
    for key, record in holes.items():
        assert record["embedding"].tobytes() == whole[key]["embedding"].tobytes()


def test_jobs_in_one_process_leave_no_descriptor_process_or_thread(tmp_path, capsys):
    """Ten in turn, of which each third fails once its feeders run."""
    pattern = helpers.write_shards(tmp_path / "in", (3, 2))

    def run(number: int) -> None:
        output = tmp_path / str(number)
        if number % 3 == 2:
            (output / "receipts").parent.mkdir()
            (output / "receipts").write_text("a file where the folder of receipts must be")
        expect = 1 if number % 3 == 2 else 0
        flags = [f"--input={pattern}", "--batch_size=2", "--decode_processes=2"]
        helpers.job(*flags, "--direct_num_workers=2", output=output, expect=expect)

    def state() -> tuple[int, set[int], int]:
        gc.collect()
        threads = [thread for thread in threading.enumerate() if thread.name in ("feeders", "decode")]
        return len(os.listdir("/proc/self/fd")), children(), len(threads)

    for number in range(3):  # what is loaded once
        run(number)
    before = state()
    for number in range(3, 13):
        run(number)
    descriptors, processes, threads = state()
    assert threads <= before[2]  # `pipeline.extract` keeps some, if other tests have used it
    assert processes <= before[1]
    assert descriptors <= before[0]


def test_equal_images_get_equal_records(tmp_path):
    """Duplicates are not merged: each input has its record, and its sha256 tells which are equal."""
    first, other = helpers.image_example(1), helpers.image_example(2)
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", [first, other, first])
    helpers.job(f"--input={path}", output=tmp_path / "out")
    first, second, third = helpers.read_all(tmp_path / "out")
    assert first["image/sha256"] == third["image/sha256"] != second["image/sha256"]
    assert first["embedding"].tobytes() == third["embedding"].tobytes() != second["embedding"].tobytes()
    assert first["key"] != third["key"]


def test_gzip_and_plain_input_give_the_same_bytes(tmp_path):
    plain = helpers.write_shards(tmp_path / "plain", (3, 2))
    helpers.write_shards(tmp_path / "zipped", (3, 2), ".gz")
    for path in (tmp_path / "zipped").iterdir():  # one by suffix, one by its first bytes
        if "00000-of" in path.name:
            path.rename(path.with_suffix(""))
    helpers.job(f"--input={plain}", "--key_feature=image/filename", output=tmp_path / "a")
    files = f"{tmp_path}/zipped/in-00000-of-00002.tfrecord,{tmp_path}/zipped/in-00001-of-00002.tfrecord.gz"
    helpers.job(f"--input={files}", "--key_feature=image/filename", output=tmp_path / "b")
    a, b = ({n: d for n, d in helpers.contents(tmp_path / f).items() if n.startswith("feat")} for f in "ab")
    assert a == b
    assert [record["key"] for record in helpers.read_all(tmp_path / "a")] == [
        [b"%d.jpg" % i] for i in range(5)
    ]


def test_passed_features_are_unchanged(tmp_path):
    more = {"text": ["a", "é"], "scores": [0.5, 1.25], "empty": []}
    examples = [helpers.image_example(0, **more), helpers.image_example(1)]
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", examples)
    names = "image/class/label,text,scores,empty,image/filename"
    helpers.job(f"--input={path}", f"--pass_through={names}", output=tmp_path / "out")
    first, second = helpers.read_all(tmp_path / "out")
    assert first["image/class/label"] == [0]
    assert first["text"] == [b"a", "é".encode()]
    assert first["scores"].tolist() == [0.5, 1.25]
    assert first["empty"] == []
    assert second["image/class/label"] == [1]
    assert "text" not in second


def test_bad_images_go_to_the_ledger_and_cost_nothing_else(tmp_path, expected):
    good = helpers.encoded(1)
    examples = [
        helpers.image_example(0),
        helpers.example({"image/encoded": good[:-60]}),
        helpers.example({"image/encoded": b"not an image at all"}),
        helpers.example({"other": b"x"}),
        b"\xff\xff\xff not an example",
        helpers.image_example(1),
    ]
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", examples)
    helpers.job(f"--input={path}", "--batch_size=2", "--max_failure_rate=0.9", output=tmp_path / "out")
    records = helpers.read_all(tmp_path / "out")
    assert [record["key"] for record in records] == [[b"in.tfrecord#0"], [b"in.tfrecord#5"]]
    for record, seed in zip(records, (0, 1), strict=True):
        helpers.assert_close(record["embedding"], expected(helpers.encoded(seed)))
    ledger = helpers.read_ledger(tmp_path / "out")
    assert [(line["position"], line["stage"], line["code"]) for line in ledger] == [
        (1, "decode", "truncated"),
        (2, "decode", "not_image"),
        (3, "read", "missing_feature"),
        (4, "read", "bad_example"),
    ]
    assert all(set(line) == {"key", "position", "stage", "code", "message"} for line in ledger)
    manifest = helpers.manifest(tmp_path / "out")
    assert (manifest["inputs"], manifest["features"], manifest["failures"]) == (6, 2, 4)
    assert manifest["failures_by_code"] == {
        "bad_example": 1,
        "missing_feature": 1,
        "not_image": 1,
        "truncated": 1,
    }


def test_damaged_bytes_become_a_ledger_line_with_their_place(tmp_path):
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", [helpers.image_example(i) for i in range(4)])
    data = bytearray(path.read_bytes())
    size = len(data) // 4
    data[2 * size + 50] ^= 1
    path.write_bytes(data)
    helpers.job(f"--input={path}", output=tmp_path / "out")
    assert [record["key"] for record in helpers.read_all(tmp_path / "out")] == [
        [f"in.tfrecord#{i}".encode()] for i in (0, 1, 3)
    ]
    (line,) = helpers.read_ledger(tmp_path / "out")
    assert line["code"] == "damaged_record"
    assert "at offset" in line["message"]


@pytest.fixture
def photos(tmp_path):
    """Five image files of several formats, in order of their names."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = []
    for seed, (kind, suffix) in enumerate(
        [("JPEG", "jpg"), ("PNG", "png"), ("BMP", "bmp"), ("WEBP", "webp"), ("TIFF", "tiff")]
    ):
        path = folder / f"{seed}.{suffix}"
        path.write_bytes(helpers.encoded(seed, kind))
        paths.append(path)
    return paths


def write_list(folder, kind, paths):
    """A list of URIs of the given kind with a label column, one row naming a file that is not there."""
    path = folder / f"list.{kind}"
    rows = [{"url": str(p), "label": i, "text": f'a "{i}",\nb'} for i, p in enumerate(paths)]
    rows.insert(2, {"url": str(folder / "gone.jpg"), "label": 99, "text": "gone"})
    if kind == "txt":
        path.write_text("\n".join(row["url"] for row in rows) + "\n\n")
    elif kind in ("csv", "tsv"):
        with open(path, "w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=4)
    return path


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "jsonl", "parquet"])
def test_lists_of_uris(tmp_path, photos, expected, kind):
    path = write_list(tmp_path, kind, photos)
    columns = [] if kind == "txt" else ["--uri_column=url", "--pass_through=label,text"]
    helpers.job(
        f"--input={path}", "--images_per_shard=2", "--batch_size=2", *columns, output=tmp_path / "out"
    )
    assert len(list((tmp_path / "out").glob("features-*-of-00003.tfrecord"))) == 3
    records = helpers.read_all(tmp_path / "out")
    assert [record["key"] for record in records] == [[str(p).encode()] for p in photos]
    for index, (record, photo) in enumerate(zip(records, photos, strict=True)):
        helpers.assert_close(record["embedding"], expected(photo.read_bytes()))
        if kind != "txt":
            assert record["label"] == ([str(index).encode()] if kind in ("csv", "tsv") else [index])
            assert record["text"] == [f'a "{index}",\nb'.encode()]
    (line,) = helpers.read_ledger(tmp_path / "out")
    assert (line["key"], line["position"], line["code"]) == (str(tmp_path / "gone.jpg"), 0, "not_found")


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_is_taken_with_those_within_but_for_other_files(tmp_path, slash):
    for name in ("a.jpg", "sub/b.jpg", "sub/sub/c.PNG", "notes.txt", "sub/.DS_Store"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(helpers.encoded(len(name), "PNG" if name.endswith("PNG") else "JPEG"))
    helpers.job(f"--input={tmp_path}/photos{slash}", output=tmp_path / "out")
    (path,) = (tmp_path / "out").glob("features-*")
    names = [example["key"][0].decode().rsplit("photos/")[-1] for example in helpers.read_features(path)]
    assert names == ["a.jpg", "sub/b.jpg", "sub/sub/c.PNG"]


@pytest.mark.parametrize("what", ["folder", "glob"])
def test_image_files_by_folder_or_glob(tmp_path, photos, what):
    (tmp_path / "photos" / "notes.md").write_text("not an image")
    pattern = tmp_path / "photos" if what == "folder" else f"{tmp_path}/photos/*.[bjptw]*"
    helpers.job(f"--input={pattern}", "--images_per_shard=3", output=tmp_path / "out")
    assert [record["key"] for record in helpers.read_all(tmp_path / "out")] == [
        [str(p).encode()] for p in photos
    ]
    assert (tmp_path / "out" / "inputs.txt").read_text().splitlines() == [str(p) for p in photos]


def test_worker_threads_and_processes_give_the_same_bytes(tmp_path):
    pattern = helpers.write_shards(tmp_path / "in", (5, 3, 4, 2))
    helpers.job(f"--input={pattern}", "--batch_size=4", output=tmp_path / "one")
    for mode in ("multi_threading", "multi_processing"):
        helpers.job(
            f"--input={pattern}",
            "--batch_size=4",
            "--direct_num_workers=2",
            f"--direct_running_mode={mode}",
            output=tmp_path / mode,
        )
        assert helpers.contents(tmp_path / mode) == helpers.contents(tmp_path / "one")


@pytest.mark.parametrize("mode", ["multi_threading", "in_memory"])
def test_worker_threads_share_one_model(tmp_path, monkeypatch, mode):
    loads = []
    original = load.load

    def counted(*arguments, **settings):
        loads.append(threading.current_thread().name)
        return original(*arguments, **settings)

    monkeypatch.setattr(load, "load", counted)
    pattern = helpers.write_shards(tmp_path / "in", (3, 3, 3, 3))
    flags = [f"--input={pattern}", "--direct_num_workers=3", f"--direct_running_mode={mode}"]
    helpers.job(*flags, output=tmp_path / "out")
    assert len(loads) == 1
    assert helpers.manifest(tmp_path / "out")["features"] == 12


def test_worker_threads_take_shards_at_once(tmp_path, monkeypatch):
    """Each of two workers reads a shard that only ends when the other one's has begun."""
    both = threading.Barrier(2, timeout=60)
    original = RecordFile.items

    def meeting(*arguments):
        both.wait()
        return original(*arguments)

    monkeypatch.setattr(RecordFile, "items", meeting)
    pattern = helpers.write_shards(tmp_path / "in", (2, 2))
    helpers.job(f"--input={pattern}", "--direct_num_workers=2", output=tmp_path / "out")
    assert helpers.manifest(tmp_path / "out")["shards_done"] == 2
