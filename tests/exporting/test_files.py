"""What an export writes: the records' own values, in their order, in the files of each format."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import helpers
from tests.exporting.conftest import about, run
from transforms.commit.layout import Layout
from transforms.exporting import parquet, vectors
from transforms.exporting.base import BadExport, Export, Place
from transforms.exporting.files import Output
from transforms.records import columns


def normalized(vector):
    return (vector / np.sqrt((vector.astype(np.float64) ** 2).sum())).astype(np.float32)


def test_parquet_has_the_values_of_the_records_in_their_order(output, tmp_path):
    run(output, f"--to={tmp_path / 'out'}", "--format=parquet")
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == [f"features-{i:05d}-of-00003.parquet" for i in range(3)]
    tables = [pq.read_table(path) for path in files]
    assert [len(table) for table in tables] == [6, 0, 4]
    assert len({table.schema.serialize().to_pybytes() for table in tables}) == 1
    for path, table in zip(sorted(output.glob("features-*")), tables, strict=True):
        records = helpers.read_features(path)
        assert table.column("key").to_pylist() == [record["key"][0].decode() for record in records]
        for name in ("image/width", "image/height", "image/class/label"):
            column = name if name == "image/class/label" else name.split("/")[1]
            assert table.column(column).to_pylist() == [record[name][0] for record in records]
        assert table.column("sha256").to_pylist() == [r["image/sha256"][0].decode() for r in records]
        assert table.column("image/filename").to_pylist() == [
            r["image/filename"][0].decode() for r in records
        ]
        assert table.column("tags").to_pylist() == [record["tags"] for record in records]
        for row, record in zip(table.column("embedding").to_pylist(), records, strict=True):
            assert np.array_equal(np.float32(row), record["embedding"])
    schema = tables[0].schema
    assert schema.field("embedding").type == pa.list_(pa.field("element", pa.float32(), False), 256)
    assert schema.field("key").type == pa.string()
    assert schema.field("tags").type == pa.list_(pa.int64())
    manifest = helpers.manifest(output)
    told = about(schema)
    assert told["manifest"] == manifest
    assert (told["model"], told["preprocessing"]) == (manifest["model"], manifest["preprocessing"])
    assert (told["precision"], told["request"]["normalize"]) == ("float32", "none")


def test_vectors_as_halves_of_unit_length(output, tmp_path):
    run(output, f"--to={tmp_path / 'out'}", "--format=parquet", "--dtype=float16", "--normalize=l2")
    table = pq.read_table(tmp_path / "out")
    assert table.schema.field("embedding").type.value_type == pa.float16()
    got = np.array(table.column("embedding").to_pylist(), np.float16)
    expected = [normalized(record["embedding"]).astype(np.float16) for record in helpers.read_all(output)]
    assert np.array_equal(got, np.array(expected))
    assert np.allclose(np.linalg.norm(got.astype(np.float32), axis=1), 1, atol=1e-3)


def test_npy_can_be_mapped_and_has_its_rows_beside_it(output, tmp_path):
    run(output, f"--to={tmp_path / 'out'}", "--format=npy")
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert names == [
        "img_emb/img_emb_00000.npy",
        "img_emb/img_emb_00002.npy",
        "metadata/metadata_00000.parquet",
        "metadata/metadata_00002.parquet",
    ]
    for number in (0, 2):
        records = helpers.read_features(output / f"features-{number:05d}-of-00003.tfrecord")
        array = np.load(tmp_path / "out" / "img_emb" / f"img_emb_{number:05d}.npy", mmap_mode="r")
        assert isinstance(array, np.memmap)
        assert np.array_equal(array, np.array([record["embedding"] for record in records]))
        table = pq.read_table(tmp_path / "out" / "metadata" / f"metadata_{number:05d}.parquet")
        assert table.column("key").to_pylist() == [record["key"][0].decode() for record in records]
        assert "embedding" not in table.column_names
        assert table.column("tags").to_pylist() == [record["tags"] for record in records]
        assert about(table.schema)["manifest"] == helpers.manifest(output)


def test_npy_as_halves(output, tmp_path):
    run(output, f"--to={tmp_path / 'out'}", "--format=npy", "--dtype=float16")
    array = np.load(tmp_path / "out" / "img_emb" / "img_emb_00002.npy")
    records = helpers.read_features(output / "features-00002-of-00003.tfrecord")
    assert array.dtype == np.float16
    assert np.array_equal(array, np.array([record["embedding"] for record in records]).astype(np.float16))


def test_zeros_stay_zeros_and_norms_do_not_depend_on_the_rows_beside():
    values = np.random.RandomState(0).rand(5, 6144).astype(np.float32)
    values[2] = 0
    out = vectors.l2_normalized(values)
    assert not out[2].any()
    for row in range(5):
        assert np.array_equal(vectors.l2_normalized(values[row : row + 1])[0], out[row])


class File:
    """A file of the door, in memory."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += data


def written(sizes, schema):
    """A Parquet file of rows that come in batches of these sizes."""
    file, start, batches = File(), 0, []
    for size in sizes:
        batches.append(pa.RecordBatch.from_arrays([pa.array(range(start, start + size))], schema=schema))
        start += size
    parquet.write(Output(file), schema, batches)
    return file.data


def test_row_groups_do_not_depend_on_the_batches_that_come(monkeypatch):
    monkeypatch.setattr(parquet, "_MAX_GROUP_ROWS", 10)
    schema = pa.schema([("x", pa.int64())])
    one = written([35], schema)
    assert one == written([10, 10, 10, 5], schema) == written([9, 2, 0, 13, 11], schema)
    file = pq.ParquetFile(pa.BufferReader(one))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [10, 10, 10, 5]
    assert pq.read_table(pa.BufferReader(one)).column("x").to_pylist() == list(range(35))


def test_what_float16_cannot_hold_is_refused_by_name(tmp_path, capsys):
    folder = tmp_path / "out"
    pattern = helpers.write_shards(tmp_path / "in", (2,))
    helpers.job(f"--input={pattern}", output=folder)
    rewrite(folder, [1e5] * 256)
    run(folder, f"--to={tmp_path / 'halves'}", "--format=parquet", "--dtype=float16", expect=1)
    error = capsys.readouterr().err.splitlines()[-1]
    assert "embedding of 'in-00000-of-00001.tfrecord#0' has the value 100000" in error
    assert "--normalize=l2" in error
    assert not list((tmp_path / "halves").glob("features-*"))
    run(folder, f"--to={tmp_path / 'unit'}", "--format=parquet", "--dtype=float16", "--normalize=l2")


@pytest.mark.parametrize(
    ("name", "normalize", "remedy"),
    [
        ("embedding", "none", "use --dtype=float32, or --normalize=l2"),
        ("logits", "none", "use --dtype=float32"),
        ("logits", "l2", "use --dtype=float32"),  # the embedding's length only
    ],
)
def test_the_remedy_is_one_that_helps(tmp_path, name, normalize, remedy):
    manifest = '{"model": 0, "preprocessing": 0, "precision": ""}'
    request = Export(Layout("in"), Place("out"), "parquet", "float16", normalize, 1, 1, manifest, "{}")
    vector = pa.list_(pa.field("element", pa.float32(), False), 2)
    records = pa.schema([("key", pa.string()), (name, vector)])
    batch = columns.batch([helpers.example({"key": "a", name: [1e5, 1.0]})], records)
    with pytest.raises(BadExport) as raised:
        vectors.convert(request, batch, vectors.schema(request, records))
    assert str(raised.value).endswith(remedy)


def rewrite(folder, embedding, **more):
    """Gives the records of a job's only shard another embedding and other features, and the receipt their checksum."""
    from transforms.commit.files import FileWriter

    path, name = folder / "features-00000-of-00001.tfrecord", "features-00000-of-00001.tfrecord"
    records = helpers.read_features(path)
    writer = FileWriter(str(path), name)
    for record in records:
        values = {n: [*v] if n != "embedding" else embedding for n, v in record.items()}
        from transforms.records import tfrecord

        writer.write(tfrecord.frame(helpers.example({**values, **more})))
    writer.close()
    receipt = json.loads((folder / "receipts" / "00000-of-00001.json").read_text())
    summary = writer.summary()
    receipt["files"] = [{"name": name, "bytes": summary.bytes, "crc32c": summary.crc32c}]
    (folder / "receipts" / "00000-of-00001.json").write_text(json.dumps(receipt))


def test_logits_and_top_k_are_lists(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    pattern = helpers.write_shards(tmp_path / "in", (2,))
    helpers.job(f"--input={pattern}", output=folder)
    extra = {
        "logits": [0.5, 1.5, 2.5],
        "top_k/class": [2, 1],
        "top_k/probability": [0.75, 0.25],
        "top_k/synset": ["n2", "n1"],
        "top_k/name": ["zwei", "eins"],
    }
    rewrite(folder, [1.0] * 256, **extra)
    path = folder / "receipts" / "00000-of-00001.json"
    receipt = json.loads(path.read_text())
    receipt["outputs"] = {"embedding": 256, **{name: len(values) for name, values in extra.items()}}
    path.write_text(json.dumps(receipt))
    run(folder, f"--to={tmp_path / 'parquet'}", "--format=parquet")
    table = pq.read_table(tmp_path / "parquet")
    for name, values in extra.items():
        assert table.column(name.replace("/", "_")).to_pylist() == [values, values]
    assert table.schema.field("logits").type.list_size == 3
    assert table.schema.field("top_k_probability").type == pa.list_(pa.float32())
