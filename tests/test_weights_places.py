"""Jobs whose official weights come from another of the three places: the same request, the same bytes, or a refusal by name."""

import json
import shutil
import socket

import numpy as np
import pytest

from bit import mirrors
from bit.export import export
from bit.models import ARCHITECTURES
from bit.weights import Arrays, Untrained, shapes
from pipeline import verify
from pipeline.main import main
from tests import helpers
from tests.places import Places, archive, npz, safetensors

pytestmark = pytest.mark.xdist_group("weights places")  # so that one process exports the weights

# One whose loading takes no seconds, under an official name.
SMALL, R50X1 = ARCHITECTURES["tiny"], ARCHITECTURES["r50x1"]
MODEL = "bit/m-r50x1/ilsvrc2012_classification"
BUCKET = f"{mirrors.BUCKET}/BiT-M-R50x1-ILSVRC2012.npz"
WEIGHTS = Untrained(SMALL, 1000)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("module") / "m"
    export(WEIGHTS, str(folder), head=True, side=helpers.SIDE)
    urls = [place.url for place in mirrors.mirrors(BUCKET, True)]
    return dict(zip(urls, (npz(WEIGHTS), archive(folder, "w"), safetensors(WEIGHTS)), strict=True))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "r50x1", SMALL)


@pytest.fixture
def places(files, tmp_path, monkeypatch):
    monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)
    with Places() as server:
        server.files = dict(files)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def job(places, tmp_path, monkeypatch):
    """Runs the job with an empty cache and the weights from one place only; returns the exit code."""
    pattern = helpers.write_shards(tmp_path / "in", (2, 3))

    def run(place, *more, output="out", model=MODEL):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        monkeypatch.setenv("BIT_CACHE_DIR", str(tmp_path / "cache"))
        places.answers = {name: 403 for name in ("bucket", "kaggle", "hf") if name != place}
        flags = [f"--model={model}", f"--image_size={helpers.SIDE}", "--batch_size=2", f"--input={pattern}"]
        return main([*flags, f"--output={tmp_path / output}", *more])

    return run


def features(folder):
    return {path.name: path.read_bytes() for path in folder.glob("features-*")}


def lose_the_second_shard(output):
    for path in (*output.glob("*/00001-of-*"), *output.glob("features-00001-*"), output / "manifest.json"):
        path.unlink()


def test_a_job_resumes_with_the_weights_of_any_place_under_any_name(job, tmp_path):
    output = tmp_path / "out"
    assert job("bucket") == 0
    whole, manifest = features(output), helpers.manifest(output)
    assert len(whole) == 2
    assert manifest["model"]["weights"] == BUCKET
    routes = {"kaggle": "folded_saved_model", "hf": "npz"}
    names = {"kaggle": "google/bit/tensorFlow2/m-r50x1-ilsvrc2012-classification/1"}
    for place, route in routes.items():
        lose_the_second_shard(output)
        assert job(place, model=names.get(place, MODEL)) == 0
        assert features(output) == whole
        receipt = json.loads((output / "receipts" / "00001-of-00002.json").read_text())
        assert receipt["model"]["route"] == route
        assert receipt["model"]["arrays"] == manifest["loaded_model"]["arrays"]
        assert receipt["fingerprint"]["model"]["weights"] == BUCKET
        assert helpers.manifest(output)["loaded_model"]["arrays"] == manifest["loaded_model"]["arrays"]
        assert verify.main([str(output)]) == 0


def test_other_weights_under_the_same_name_are_refused_by_name(job, places, tmp_path, capsys):
    output = tmp_path / "out"
    assert job("bucket") == 0
    lose_the_second_shard(output)

    def changed(name):
        value = WEIGHTS.array(name)
        if name == "block4/unit01/c/standardized_conv2d/kernel":
            value.reshape(-1)[0] = np.nextafter(value.reshape(-1)[0], np.float32(2))
        return value

    other = Arrays(WEIGHTS.architecture, WEIGHTS.classes, changed)
    assert set(shapes(other.architecture)) > {"block4/unit01/c/standardized_conv2d/kernel"}
    hugging_face = mirrors.mirrors(BUCKET, True)[-1].url
    places.files[hugging_face] = safetensors(other)
    assert job("hf") == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "OtherWeights" in error
    assert "model.arrays = 'sha256:" in error
    assert [path.name for path in output.glob("receipts/*")] == ["00000-of-00002.json"]
    assert job("hf", "--overwrite") == 0

    # Two runs that mixed them all the same, as with a note that was deleted, are found out, too.
    receipt = output / "receipts" / "00001-of-00002.json"
    values = json.loads(receipt.read_text())
    values["model"]["arrays"] = "sha256:1234"
    receipt.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    assert verify.main([str(output)]) != 0
    (output / "features-00000-of-00002.tfrecord").unlink()
    (output / "receipts" / "00000-of-00002.json").unlink()
    assert job("hf") == 1
    assert "sha256:1234" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("https://tfhub.dev/google/bit/m-r50x1/ilsvrc2012_classification/1",) * 2,
        ("gs://bit_models/BiT-M-R50x1-ILSVRC2012.npz", "checksums:0123456789abcdef"),
    ],
)
def test_what_an_earlier_version_made_goes_on(job, tmp_path, name, weights):
    output = tmp_path / "out"
    assert job("hf") == 0
    whole = features(output)
    lose_the_second_shard(output)
    (path,) = output.glob("receipts/*")
    values = json.loads(path.read_text())
    values["fingerprint"]["model"] = {"name": name, "weights": weights}
    del values["model"]["arrays"]
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    assert job("bucket", model=name) == 0
    assert features(output) == whole
    assert verify.main([str(output)]) == 0


def test_offline_the_job_uses_the_cache_or_is_refused(job, places, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name server was asked"))
        assert job("bucket", "--offline") == 2
        error = capsys.readouterr().err
        assert f"\n  {tmp_path}/cache/storage.googleapis.com/bit_models/BiT-M-R50x1-ILSVRC2012.npz\n" in error
        assert job("bucket", "--offline", model="gs://mine/model.npz") == 2
        assert "gs://mine/model.npz is on a store, and --offline asks none" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
        assert places.asked == []
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # keeps the cache
    file = tmp_path / "cache" / "storage.googleapis.com" / "bit_models" / "BiT-M-R50x1-ILSVRC2012.npz"
    file.parent.mkdir(parents=True)
    file.write_bytes(places.files[BUCKET])
    assert job("bucket", "--offline") == 0
    assert places.asked == []


def test_a_module_that_is_not_the_checkpoint_is_refused(job, places, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "r50x1", R50X1)
    folder = tmp_path / "other"
    export(Untrained(SMALL, 1000), str(folder), head=True, side=helpers.SIDE)
    places.files[mirrors.mirrors(BUCKET, True)[1].url] = archive(folder)
    assert job("kaggle") != 0
    assert "another member of the family" in capsys.readouterr().err
