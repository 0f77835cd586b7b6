"""The complete job from store to store, with fake-gcs-server for Cloud Storage and moto for S3."""

from __future__ import annotations

import json
import time

import pytest

from bit.export import main as export
from pipeline import verify
from pipeline.main import main
from tests import helpers, stores
from transforms.storage import door
from transforms.storage.stores import store_of

pytestmark = pytest.mark.xdist_group("stores")

SIZES = (3, 2, 4)


@pytest.fixture(scope="module", params=["gs", "s3"])
def store(request):
    with {"gs": stores.gcs, "s3": stores.s3}[request.param]() as emulated:
        emulated.use()
        yield emulated


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny network as a SavedModel on this machine."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    assert export(["--model=untrained/tiny", f"--output={path}"]) == 0
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(store: stores.Store, *flags: str, expect: int = 0) -> None:
    model = () if any(flag.startswith("--model=") for flag in flags) else ("--model=untrained/tiny",)
    code = main([*store.flags, f"--image_size={helpers.SIDE}", "--batch_size=2", *model, *flags])
    assert code == expect, f"exit code {code}, expected {expect}"


def features(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.startswith("features-")}


@pytest.fixture
def shards(store, tmp_path):
    """TFRecords on disk and in the store: (glob on disk, glob in the store)."""
    local = helpers.write_shards(tmp_path / "in", SIZES, suffix=".gz")
    folder = store.folder()
    stores.upload(folder, helpers.contents(tmp_path / "in"))
    return local, f"{folder}/in-*.tfrecord.gz"


def test_tfrecords_and_a_model_in_a_store_give_the_bytes_that_they_give_on_disk(
    store, shards, model, tmp_path
):
    local, remote = shards
    models = store.folder()
    stores.upload(f"{models}/tiny", helpers.contents(model))
    run(store, f"--input={local}", f"--output={tmp_path / 'out'}", f"--model={model}")
    output = store.folder()
    run(store, f"--input={remote}", f"--output={output}", f"--model={models}/tiny")
    got = stores.contents(output)
    assert len(features(got)) == len(SIZES)
    assert features(got) == features(helpers.contents(tmp_path / "out"))
    labels = [f"{index:05d}-of-{len(SIZES):05d}" for index in range(len(SIZES))]
    expected = {
        "manifest.json",
        "request.json",
        "input_files.txt",
        *(f"features-{label}.tfrecord" for label in labels),
    }
    assert set(got) == expected | {f"receipts/{label}.json" for label in labels}
    assert verify.main([*store.flags, output]) == verify.COMPLETE


def test_a_second_run_writes_nothing_and_a_lost_shard_is_made_again_alone(store, shards, tmp_path):
    output = store.folder()
    report = tmp_path / "report.json"
    flags = [f"--input={shards[1]}", f"--output={output}", f"--report_file={report}"]
    run(store, *flags)
    whole, before = stores.contents(output), stores.modified(output)
    run(store, *flags)
    assert json.loads(report.read_text())["shards_done_before"] == len(SIZES)
    assert stores.modified(output) == before
    label = "00001-of-00003"
    door.delete([f"{output}/receipts/{label}.json", f"{output}/manifest.json"])
    time.sleep(1.1)  # S3's times have a resolution of seconds
    run(store, *flags)
    assert stores.contents(output) == whole
    changed = {name for name, when in stores.modified(output).items() if when != before[name]}
    assert changed == {f"features-{label}.tfrecord", f"receipts/{label}.json", "manifest.json"}


def test_overwrite_leaves_nothing_of_the_earlier_run(store, shards):
    output, fresh = store.folder(), store.folder()
    flags = [f"--input={shards[1]}", "--pass_through=image/class/label"]
    run(store, f"--input={shards[1]}", f"--output={output}")
    stores.upload(output, {".tmp/00000-of-00003-claim-0.json": b"of a killed run"})
    run(store, *flags, f"--output={output}", expect=2)
    run(store, *flags, f"--output={output}", "--overwrite")
    run(store, *flags, f"--output={fresh}")
    assert stores.contents(output) == stores.contents(fresh)


def test_a_list_of_images_in_a_store_with_one_that_is_not_there(store):
    folder, output = store.folder(), store.folder()
    images = {f"photos/{seed}.png": helpers.encoded(seed, "PNG") for seed in range(5)}
    uris = [f"{folder}/{name}" for name in images]
    uris.insert(3, f"{folder}/photos/none.png")
    stores.upload(folder, {**images, "urls.txt": "\n".join(uris).encode()})
    run(store, f"--input={folder}/urls.txt", f"--output={output}", "--images_per_shard=4")
    files = stores.contents(output)
    assert len(features(files)) == 2
    manifest = json.loads(files["manifest.json"])
    assert (manifest["features"], manifest["failures_by_code"]) == (5, {"not_found": 1})
    (line,) = files["failures-00000-of-00002.jsonl"].splitlines()
    assert json.loads(line)["key"] == uris[3]
    assert verify.main([*store.flags, output]) == verify.COMPLETE


def test_image_files_by_glob(store):
    folder, output = store.folder(), store.folder()
    stores.upload(folder, {f"a/b/{seed}.jpg": helpers.encoded(seed) for seed in range(3)})
    run(store, f"--input={folder}/**.jpg", f"--output={output}")
    files = stores.contents(output)
    assert json.loads(files["manifest.json"])["features"] == 3
    assert files["inputs.txt"].decode().splitlines() == [f"{folder}/a/b/{seed}.jpg" for seed in range(3)]


@pytest.mark.parametrize("flag", ["input", "output", "model"])
def test_a_bucket_that_is_not_there_is_told_before_anything_starts(store, shards, capsys, flag):
    missing = f"{store.root}-not/there"
    flags = {"input": shards[1], "output": store.folder(), "model": "untrained/tiny"}
    flags[flag] = {"input": f"{missing}/*.tfrecord", "output": missing, "model": f"{missing}/model"}[flag]
    run(store, *(f"--{name}={value}" for name, value in flags.items()), expect=2)
    said = capsys.readouterr().err
    assert f"--{flag}={flags[flag]}" in said
    assert f"there is no bucket {stores.BUCKET}-not, or it is not visible from here" in said


def test_many_receipts_are_read_side_by_side(store):
    folder = store.folder()
    names = {f"{index:03d}": b"%d" % index for index in range(100)}
    stores.upload(folder, {"000": b"0"})
    for name, data in names.items():
        store_of(folder).create_only(f"{folder}/{name}", data)
    assert door.read_many([f"{folder}/{name}" for name in names]) == list(names.values())


def test_without_google_credentials_a_private_bucket_is_told_at_once(tmp_path):
    """In a new process, which has not searched for credentials; the store refuses anonymous clients."""
    from tests.http_server import HttpServer, answer

    class Private(HttpServer):
        async def _do_storage(self, ask):
            ask.writer.write(answer(b"{}", "401 Unauthorized"))

    pattern = helpers.write_shards(tmp_path / "in", (1,))
    with Private() as server:
        done = helpers.job_process(
            *helpers.TINY,
            f"--input={pattern}",
            "--output=gs://private/out",
            expect=2,
            env={
                "STORAGE_EMULATOR_HOST": server.url("").rstrip("/"),
                "NO_GCE_CHECK": "true",
                "HOME": str(tmp_path),
                "GOOGLE_APPLICATION_CREDENTIALS": "",
            },
        )
    assert "--output=gs://private/out cannot be read: no Google credentials were found" in done.stderr
    assert "GOOGLE_APPLICATION_CREDENTIALS" in done.stderr
    assert "Traceback" not in done.stderr
