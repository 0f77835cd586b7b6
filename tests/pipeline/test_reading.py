"""`from pipeline import read`: features as Arrow and NumPy."""

import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import export, read, reading
from tests import helpers, stores
from transforms.commit.committed import Damaged


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("read")
    pattern = helpers.write_shards(folder / "in", (3, 0, 2))
    helpers.job(f"--input={pattern}", "--pass_through=image/class/label", output=folder / "out")
    return folder / "out"


def test_batches_are_the_rows_of_a_parquet_export(output, tmp_path):
    assert export.main([str(output), f"--to={tmp_path}/to", "--format=parquet"]) == 0
    table = pa.Table.from_batches(read(str(output)))
    expected = pq.read_table(tmp_path / "to")
    assert table.equals(expected.replace_schema_metadata(None))
    assert read(str(output)).schema == expected.schema.remove_metadata()
    assert len(read(str(output))) == 5


def test_batches_are_bounded(output, monkeypatch):
    from transforms.exporting import base

    monkeypatch.setattr(base, "_MAX_BATCH_ROWS", 2)
    assert [len(batch) for batch in read(str(output))] == [2, 1, 2]


def test_only_the_columns_that_are_asked_for(output):
    table = pa.Table.from_batches(read(str(output), ["image/class/label", "key"]))
    assert table.column_names == ["image/class/label", "key"]
    assert table.column(0).to_pylist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "use", [list, len, lambda features: features.to_numpy(), lambda f: f.keys(), lambda f: f.schema]
)
def test_a_column_that_does_not_exist_is_refused_in_every_use(output, monkeypatch, use):
    everything = "key, embedding, width, height, sha256, image/class/label"
    assert ", ".join(read(str(output)).schema.names) == everything
    monkeypatch.setattr(reading.files, "records", None)  # before anything is read
    for names in (["label"], ["key", "label"], ["key", "label", "image/width"]):
        with pytest.raises(KeyError, match=f"no column 'label'; there are {everything}"):
            use(read(str(output), names))
    with pytest.raises(TypeError, match=r"columns=\['key'\]"):
        use(read(str(output), "key"))


def test_vectors_and_keys(output):
    records = helpers.read_all(output)
    features = read(str(output))
    vectors = features.to_numpy()
    assert (vectors.dtype, vectors.shape) == (np.float32, (5, 256))
    assert np.array_equal(vectors, np.array([record["embedding"] for record in records]))
    assert features.keys() == [record["key"][0].decode() for record in records]
    assert features.manifest == helpers.manifest(output)
    with pytest.raises(KeyError, match="no vector 'logits'"):
        features.to_numpy("logits")


@pytest.mark.parametrize("kind", [stores.gcs, stores.s3])
def test_from_a_store(output, kind):
    with kind() as store:
        store.use()
        folder = store.folder()
        stores.upload(folder, helpers.contents(output))
        assert np.array_equal(read(folder).to_numpy(), read(str(output)).to_numpy())


def test_what_is_not_complete_is_refused(output, tmp_path):
    with pytest.raises(ValueError, match="holds no output of this job"):
        read(str(tmp_path))
    stores.upload(str(tmp_path / "part"), helpers.contents(output))
    (tmp_path / "part" / "manifest.json").unlink()
    (tmp_path / "part" / "receipts" / "00000-of-00003.json").unlink()
    with pytest.raises(ValueError, match=r"is not finished: 2 of 3 shards.*partial=True"):
        read(str(tmp_path / "part"))
    assert read(str(tmp_path / "part"), partial=True).to_numpy().shape == (2, 256)


def test_damage_is_found(output, tmp_path):
    stores.upload(str(tmp_path / "part"), helpers.contents(output))
    path = tmp_path / "part" / "features-00000-of-00003.tfrecord"
    data = bytearray(path.read_bytes())
    data[400] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match=r"pipeline\.verify"):
        read(str(tmp_path / "part")).to_numpy()


def test_importing_brings_nothing_and_prints_nothing():
    program = (
        "import sys, pipeline; print([n for n in ('numpy', 'pyarrow', 'apache_beam') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_several_outputs_are_read_as_one(tmp_path):
    """Days of an input that grows: one had a broken picture only, and one found nothing new."""
    days = [{0: helpers.encoded(0), 1: helpers.encoded(1)}, {2: b"no picture"}, {}, {3: helpers.encoded(3)}]
    (tmp_path / "in").mkdir()
    for day, pictures in enumerate(days):
        for seed, data in pictures.items():
            (tmp_path / "in" / f"{seed}.jpg").write_bytes(data)
        flags = [f"--input={tmp_path}/in", f"--skip_done={tmp_path}/days/*"]
        helpers.job(*flags, output=tmp_path / "days" / str(day), expect=3 if day == 1 else 0)
    every = read(f"{tmp_path}/days/*")
    keys = [f"{tmp_path}/in/{seed}.jpg" for seed in (0, 1, 3)]
    assert every.keys() == keys
    assert pa.Table.from_batches(every)["key"].to_pylist() == keys
    assert (len(every), every.manifest["inputs"], every.manifest["failures"]) == (3, 4, 1)
    assert read([f"{tmp_path}/days/*", f"{tmp_path}/days/0/"]).keys() == keys
    (tmp_path / "days" / "9").mkdir()
    shutil.copy(tmp_path / "days" / "0" / "request.json", tmp_path / "days" / "9")
    assert read(f"{tmp_path}/days/*", partial=True).keys() == keys  # one was begun only
    shutil.rmtree(tmp_path / "days" / "9")
    some = read([f"{tmp_path}/days/3", f"{tmp_path}/days/0"])
    assert some.keys() == [keys[2], *keys[:2]]
    assert np.array_equal(some.to_numpy(), every.to_numpy()[[2, 0, 1]])
    for names, message in (
        (f"{tmp_path}/no/*", "names no output of this job"),
        ([], "an empty list names no output"),
        ([f"{tmp_path}/days/{day}" for day in (1, 2)], "names no output of this job with features"),
        (f"{tmp_path}/days/1", "every image failed"),
    ):
        with pytest.raises(ValueError, match=message):
            read(names)


def test_outputs_of_several_models_are_not(tmp_path):
    pattern = helpers.write_shards(tmp_path / "in", (1,))
    helpers.job(f"--input={pattern}", output=tmp_path / "a")
    helpers.job(f"--input={pattern}", "--image_size=40", output=tmp_path / "b")
    with pytest.raises(
        ValueError, match=r"b has preprocessing.image_size = 40, .*a has 32: take them one by one"
    ):
        read(f"{tmp_path}/*")
