"""The sample photographs, the input that is made of them, and the look at a job's output."""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from samples import make_input, show

PHOTOS = {
    "astronaut.jpg": ("JPEG", "RGB", (512, 512)),
    "brick.tiff": ("TIFF", "L", (512, 512)),
    "camera.png": ("PNG", "L", (512, 512)),
    "chelsea.png": ("PNG", "RGB", (451, 300)),
    "china.jpg": ("JPEG", "RGB", (640, 427)),
    "clock.png": ("PNG", "L", (400, 300)),
    "coffee.webp": ("WEBP", "RGB", (600, 400)),
    "flower.jpg": ("JPEG", "RGB", (640, 427)),
    "grass.jpg": ("JPEG", "L", (512, 512)),
    "gravel.gif": ("GIF", "P", (512, 512)),
    "hubble_deep_field.jpg": ("JPEG", "RGB", (1000, 872)),
    "retina.jpg": ("JPEG", "RGB", (1411, 1411)),
    "rocket.jpg": ("JPEG", "RGB", (640, 427)),
}


def test_every_photo_decodes():
    properties = {}
    for path in make_input.photo_paths():
        with Image.open(path) as image:
            image.load()
            properties[path.name] = (image.format, image.mode, image.size)
    assert properties == PHOTOS


def test_the_licence_table_lists_exactly_the_files_and_only_free_licences():
    text = (make_input.PHOTOS / "LICENSES.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line[:2] == "| "
    ]
    assert rows[0] == ["file", "what it shows", "author", "licence", "source"]
    listed = [row[0].strip("`") for row in rows[1:]]
    present = sorted(path.name for path in make_input.PHOTOS.iterdir() if path.name != "LICENSES.md")
    assert listed == present
    assert {row[3] for row in rows[1:]} == {"public domain", "[CC0 1.0]", "[CC BY 2.0]"}
    assert all(len(row) == 5 and all(row) for row in rows)
    assert re.search(r"^\[CC BY 2.0\]: https://creativecommons.org/licenses/by/2.0/$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def sample_input(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    make_input.main([str(folder)])
    return folder


def test_the_shards_hold_every_photo_in_order(sample_input):
    shards = sorted((sample_input / "tfrecords").iterdir())
    assert [shard.name for shard in shards] == [f"photos-0000{i}-of-00003.tfrecord" for i in range(3)]
    names, labels = [], []
    per_shard = []
    for shard in shards:
        records = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
        per_shard.append(len(records))
        for record in records:
            features = tf.train.Example.FromString(record).features.feature
            (name,) = features["image/filename"].bytes_list.value
            path = make_input.PHOTOS / name.decode()
            assert features["image/encoded"].bytes_list.value[0] == path.read_bytes()
            assert features["image/format"].bytes_list.value[0].decode() == PHOTOS[path.name][0].lower()
            assert features["image/class/text"].bytes_list.value[0].decode() == path.stem.replace("_", " ")
            names.append(path.name)
            labels += features["image/class/label"].int64_list.value
    assert per_shard == [4, 4, 5]
    assert names == list(PHOTOS)
    assert labels == list(range(13))


def test_the_list_holds_every_photo_by_absolute_path(sample_input):
    lines = (sample_input / "photos.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [str(make_input.PHOTOS / name) for name in PHOTOS]
    assert all(Path(line).is_absolute() and Path(line).is_file() for line in lines)


def test_the_input_is_the_same_bytes_each_time(sample_input, tmp_path):
    make_input.write_input(tmp_path)
    files = sorted(path.relative_to(sample_input) for path in sample_input.rglob("*") if path.is_file())
    assert len(files) == 4
    assert all((tmp_path / file).read_bytes() == (sample_input / file).read_bytes() for file in files)


def write_features(folder: Path, shards: list[dict[bytes, list[float]]]) -> None:
    for index, records in enumerate(shards):
        path = folder / f"features-{index:05d}-of-{len(shards):05d}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for key, embedding in records.items():
                feature = {
                    "key": tf.train.Feature(bytes_list=tf.train.BytesList(value=[key])),
                    "embedding": tf.train.Feature(float_list=tf.train.FloatList(value=embedding)),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())


def test_show_names_the_nearest_image_by_cosine(tmp_path, capsys):
    write_features(tmp_path, [{b"a": [3, 4, 0], b"longer": [0, 0, 2]}, {b"c": [6, 8, 0.1]}])
    assert show.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "key     dimension    norm  cosine  nearest",
        "a               3    5.00   1.000  c",
        "longer          3    2.00   0.010  c",
        "c               3   10.00   1.000  a",
    ]


def test_show_limits_what_it_reads_and_can_show_one_record(tmp_path, capsys):
    write_features(tmp_path, [{b"a": [3, 4], b"b": [0, 1]}])
    assert show.main([str(tmp_path), "--limit=1"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["a            2    5.00"]


def test_show_says_what_to_do_without_records(tmp_path, capsys):
    assert show.main([str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"no record in {tmp_path}/features-*.tfrecord: pass the --output folder of a job\n"


def test_nearest_ignores_the_length_of_vectors():
    neighbours, cosines = show.nearest(np.array([[1, 0], [0, 5], [100, 1]], np.float32))
    assert neighbours.tolist() == [2, 2, 0]
    np.testing.assert_allclose(cosines, [0.99995, 0.0099995, 0.99995], rtol=1e-5)
