"""The export for TensorBoard's projector, as a real TensorBoard serves it."""

import io
import json
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests import engines, helpers
from tests.exporting.conftest import run
from transforms.exporting import tensorboard


class Served:
    """A TensorBoard and its projector's API."""

    def __init__(self, port):
        self._url = f"http://localhost:{port}/data/plugin/projector"

    def get(self, route, **query):
        with urllib.request.urlopen(
            f"{self._url}/{route}?{urllib.parse.urlencode(query)}", timeout=60
        ) as answer:
            return answer.read()


@pytest.fixture
def serve():
    started = []

    def start(folder):
        (port,) = engines.free_ports(1)
        command = [
            sys.executable,
            "-m",
            "tensorboard.main",
            f"--logdir={folder}",
            f"--port={port}",
            "--load_fast=false",
        ]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        served, deadline = Served(port), time.monotonic() + 120
        while True:
            assert started[-1].poll() is None
            try:
                served.get("runs")
                return served
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.5)

    yield start
    for process in started:
        process.terminate()
        process.wait(60)


def tiles(png, side, count):
    """The pictures of a sprite image, in order."""
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    per_row = pixels.shape[1] // side
    assert pixels.shape[0] % side == pixels.shape[1] % side == 0
    return [
        pixels[
            side * (i // per_row) : side * (i // per_row + 1), side * (i % per_row) : side * (i % per_row + 1)
        ]
        for i in range(count)
    ]


def test_tensorboard_serves_vectors_metadata_and_pictures(output, tmp_path, serve):
    run(output, f"--to={tmp_path}/to", "--format=tensorboard", f"--input={output.parent}/in/*.tfrecord")
    served = serve(tmp_path / "to")
    records = helpers.read_all(output)
    assert json.loads(served.get("runs")) == ["."]
    (embedding,) = json.loads(served.get("info", run="."))["embeddings"]
    assert (embedding["tensorName"], embedding["tensorShape"]) == ("embedding", [10, 256])
    data = np.frombuffer(served.get("tensor", run=".", name="embedding"), np.float32).reshape(10, 256)
    assert np.array_equal(data, np.array([record["embedding"] for record in records]))
    header, *rows = [
        line.split("\t") for line in served.get("metadata", run=".", name="embedding").decode().splitlines()
    ]
    assert header[:4] == ["key", "width", "height", "sha256"]
    assert [row[0] for row in rows] == [record["key"][0].decode() for record in records]
    assert [row[header.index("tags")] for row in rows] == [", ".join(map(str, r["tags"])) for r in records]
    sprite = served.get("sprite_image", run=".", name="embedding")
    side = embedding["sprite"]["singleImageDim"][0]
    for record, tile in zip(records, tiles(sprite, side, 10), strict=True):
        seed = int(record["image/filename"][0].decode().removesuffix(".jpg"))
        expected = Image.fromarray(helpers.picture(seed)).resize((side, side), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(expected, float) - tile).mean() < 6


def test_a_picture_that_is_gone_or_another_one_gets_an_empty_tile(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(4):
        (photos / f"{seed}.jpg").write_bytes(helpers.encoded(seed))
    helpers.job(f"--input={photos}", "--images_per_shard=2", output=tmp_path / "out")
    (photos / "1.jpg").unlink()
    (photos / "2.jpg").write_bytes(helpers.encoded(77))
    run(tmp_path / "out", f"--to={tmp_path}/to", "--format=tensorboard")  # which knows where image files are
    pictures = tiles((tmp_path / "to" / "sprite.png").read_bytes(), 64, 4)
    assert [bool((tile == 0x80).all()) for tile in pictures] == [False, True, True, False]


@pytest.mark.parametrize("name", ["a\nb.jpg", " a.jpg", "a\r.jpg", "a%20b.jpg", "\udcff.jpg"])
def test_a_picture_is_found_whatever_its_name(tmp_path, name):
    photos = tmp_path / "photos"
    photos.mkdir()
    for file in (name, "z.jpg"):
        (photos / file).write_bytes(helpers.encoded(3))
    helpers.job(f"--input={photos}", output=tmp_path / "out")
    run(tmp_path / "out", f"--to={tmp_path}/to", "--format=tensorboard")
    first, second = tiles((tmp_path / "to" / "sprite.png").read_bytes(), 64, 2)
    assert not (first == 0x80).all()
    assert (first == second).all()


def test_without_pictures_there_is_no_sprite_and_a_message(output, tmp_path, capsys):
    shutil.copytree(output, tmp_path / "out")
    (tmp_path / "out" / "request.json").unlink()
    run(tmp_path / "out", f"--to={tmp_path}/to", "--format=tensorboard")
    assert "without pictures: --input" in capsys.readouterr().err
    assert not (tmp_path / "to" / "sprite.png").exists()
    assert "sprite" not in (tmp_path / "to" / "projector_config.pbtxt").read_text()


def test_other_inputs_are_refused(output, tmp_path, capsys):
    pattern = helpers.write_shards(tmp_path / "other", (2, 2))
    run(output, f"--to={tmp_path}/to", "--format=tensorboard", f"--input={pattern}", expect=2)
    assert f"is not the input of {output}" in capsys.readouterr().err


def test_a_sample_is_spread_evenly_over_the_shards(output, tmp_path):
    run(output, f"--to={tmp_path}/to", "--format=tensorboard", "--limit=4")
    keys = [line.split("\t")[0] for line in (tmp_path / "to" / "metadata.tsv").read_text().splitlines()[1:]]
    every = [record["key"][0].decode() for record in helpers.read_all(output)]
    assert keys == [every[row] for row in (0, 2, 5, 7)]
    assert (tmp_path / "to" / "tensors.bytes").stat().st_size == 4 * 256 * 4
    assert not (tmp_path / "to" / ".export" / "parts").exists()


@pytest.mark.parametrize(
    ("limit", "sizes"), [(10, (3, 0, 4)), (5, (7, 1, 0, 9)), (1, (4, 4)), (7, (100, 23))]
)
def test_parts_agree_on_the_sample(limit, sizes):
    rows, first, taken = sum(sizes), 0, []
    for size in sizes:
        inside = tensorboard.sample(limit, rows, first, size)
        assert all(0 <= row < size for row in inside)
        taken += [first + row for row in inside]
        first += size
    assert taken == sorted(set(taken))
    assert len(taken) == min(limit, rows)
    gaps = np.diff([*taken, rows])
    assert taken[0] == 0
    assert gaps.max() - gaps.min() <= 1


def test_cells_hold_no_character_that_ends_them():
    schema = pa.schema([("key", pa.binary()), ("text", pa.string()), ("tags", pa.list_(pa.string()))])
    batch = pa.RecordBatch.from_pylist(
        [{"key": b"a\xff\t", "text": "b\r\nc\td", "tags": ["x", "y\n"]}], schema
    )
    assert tensorboard._table(batch, with_header=True) == "key\ttext\ttags\na\\xff \tb c d\tx, y\n"


@pytest.mark.parametrize(
    ("count", "side"), [(1, 64), (10_000, 64), (16_384, 64), (16_385, 63), (1_000_000, 8)]
)
def test_a_sprite_is_never_larger_than_browsers_take(count, side):
    assert tensorboard.side_of_tiles(count) == side
    assert side * np.ceil(np.sqrt(count)) <= 8192
