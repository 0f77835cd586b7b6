"""Shards keep their order above 100,000 of them, where labels of five digits and more do not sort as their numbers do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import duplicates, export, read, verify
from pipeline.look import command as look
from samples.show import read_records
from tests import helpers
from tests.look.conftest import data_of
from transforms.commit import receipts
from transforms.commit.layout import Layout
from transforms.exporting.base import Part

LABELS = ["99999-of-100002", "100000-of-100002", "100001-of-100002"]
IMAGES = ((0, 1), (2,), (2, 3, 0))  # seeds; those of equal pictures are equal
ROWS = [(label, row) for label, seeds in zip(LABELS, IMAGES, strict=True) for row in range(len(seeds))]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The last three shards of an output of 100,002; keys say which record it is."""
    folder = tmp_path_factory.mktemp("many")
    for index, seeds in enumerate(IMAGES):
        records = [
            helpers.image_example(seed, **{"image/filename": f"{LABELS[index]}#{row}"})
            for row, seed in enumerate(seeds)
        ]
        helpers.write_tfrecord(folder / "in" / f"in-{index}.tfrecord", records)
    helpers.job(f"--input={folder}/in", "--key_feature=image/filename", output=folder / "out")
    for index, label in enumerate(LABELS):
        relabel(folder / "out", f"{index:05d}-of-00003", label, index)
    return folder / "out"


def relabel(output: Path, old: str, new: str, index: int) -> None:
    for path in (*output.glob(f"features-{old}*"), output / "receipts" / f"{old}.json"):
        path.rename(path.with_name(path.name.replace(old, new)))
    path = output / "receipts" / f"{new}.json"
    receipt = json.loads(path.read_text().replace(old, new))
    path.write_text(json.dumps({**receipt, "versions": {"numpy": f"{index}"}}))


def keys():
    return [f"{label}#{row}" for label, row in ROWS]


def test_receipts_and_labels(output):
    layout = Layout(str(output))
    assert receipts.labels(layout) == LABELS
    assert [receipt.shard for receipt in receipts.each(layout)] == LABELS


def test_reading(output):
    features = read(str(output), partial=True)
    assert features.keys() == keys()
    assert features.manifest["versions"]["numpy"] == ["0", "1", "2"]
    assert [record.key for record in read_records(output)] == keys()


def test_verify_derives_the_manifest_that_the_job_writes(output, tmp_path):
    shutil.copytree(output, tmp_path / "out")
    manifest = read(str(output), partial=True).manifest
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    problems = [str(problem) for problem in verify.check_folder(Layout(str(tmp_path / "out")))]
    missing = [problem.split("/")[-1].split(".")[0] for problem in problems if "is missing" in problem]
    assert missing[:2] == ["00000-of-100002", "00001-of-100002"]
    assert len(missing) == 99_999
    assert problems[len(missing) :] == [
        f"{tmp_path}/out/manifest.json: counts 100002 shards, but 3 have a receipt"
    ]


def test_readers_of_an_export_find_its_files_in_order(output, tmp_path):
    for format in ("parquet", "npy", "tensorboard"):
        flags = [str(output), f"--to={tmp_path}/{format}", f"--format={format}", "--partial"]
        assert export.main(flags) == 0
    assert [path.name for path in sorted((tmp_path / "parquet").iterdir())] == [
        "features-099999-of-100002.parquet",
        "features-100000-of-100002.parquet",
        "features-100001-of-100002.parquet",
    ]
    assert pq.read_table(tmp_path / "parquet")["key"].to_pylist() == keys()
    assert pq.read_table(tmp_path / "npy" / "metadata")["key"].to_pylist() == keys()
    arrays = [np.load(path) for path in sorted((tmp_path / "npy" / "img_emb").iterdir())]
    assert np.array_equal(np.concatenate(arrays), read(str(output), partial=True).to_numpy())
    lines = (tmp_path / "tensorboard" / "metadata.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in lines] == keys()


def test_duplicates(output, tmp_path):
    to = tmp_path / "duplicates.parquet"
    assert duplicates.main([str(output), f"--to={to}", "--threshold=1", "--partial"]) == 0
    table = pq.read_table(to).to_pylist()
    first, second, third = LABELS
    groups = [{(row["shard"], row["row"]) for row in table if row["group"] == group} for group in (0, 1)]
    assert groups == [{(first, 0), (third, 2)}, {(second, 0), (third, 0)}]


def test_look(output, tmp_path):
    assert look.main([str(output), f"--to={tmp_path}/look.html", "--partial"]) == 0
    assert data_of(tmp_path / "look.html")["keys"] == keys()


@pytest.mark.parametrize(
    ("label", "number"),
    [
        ("00003-of-00012", "00003"),
        ("99999-of-100000", "99999"),
        ("99999-of-100001", "099999"),
        ("00000-of-1000001", "0000000"),
        ("100000-of-1000000", "100000"),
    ],
)
def test_numbers_have_as_many_digits_as_the_largest(label, number):
    part = Part(label, 1, 0, None)
    assert (part.number, part.name) == (number, f"{number}-of-{label.split('-of-')[1]}")
