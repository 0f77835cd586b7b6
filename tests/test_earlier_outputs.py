"""Outputs that an earlier version made (tests/golden/output) are resumed, verified and retried by this one."""

import json
import shutil

import pytest

from pipeline import verify
from pipeline.main import main
from tests import helpers
from tests.golden.output.make import RUNS
from transforms.elements import IMAGE

GOLDEN = helpers.REPO / "tests" / "golden" / "output"
FLAGS = ("--model=untrained/tiny", "--image_size=32", "--batch_size=4")


@pytest.fixture(params=sorted(RUNS))
def run(request, tmp_path, monkeypatch):
    """The folder of one output, in a copy of the golden folder that is the working directory; and how to run its job."""
    for name in ("photos", "records", f"outputs/{request.param}"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    for file in GOLDEN.glob("list.*"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    # How it was cut is in its receipts.
    own = [flag for flag in RUNS[request.param] if not flag.startswith("--images_per_shard")]
    flags = (*FLAGS, f"--output=outputs/{request.param}", *own)
    return tmp_path / "outputs" / request.param, lambda *more: main([*flags, *more])


def features(folder):
    """What does not depend on the processor: all but the vectors."""
    return [{**record, "embedding": record["embedding"].shape} for record in helpers.read_all(folder)]


def ledger(folder):
    """Without the addresses that messages have only now, where the key is another column."""
    lines = helpers.read_ledger(folder)
    return [{**line, "message": line["message"].partition(IMAGE)[0]} for line in lines]


def without_versions(path):
    values = json.loads(path.read_text())
    del values["versions"], values["files"]
    values["input"].pop("modified", None)  # a checkout gives files the time of now
    return values


def test_it_is_complete_and_nothing_is_done_again(run):
    folder, job = run
    before = helpers.contents(folder)
    assert verify.main([str(folder)]) == 0
    assert job() == 0
    assert helpers.contents(folder) == before


def test_a_shard_that_is_lost_is_made_as_it_was(run):
    folder, job = run
    before, records, lines = helpers.contents(folder), features(folder), ledger(folder)
    lost = next(folder.glob("receipts/00001-*"))
    receipt = without_versions(lost)
    lost.unlink()
    (folder / "manifest.json").unlink()
    assert job() == 0
    assert verify.main([str(folder)]) == 0
    assert (features(folder), ledger(folder)) == (records, lines)
    assert without_versions(lost) == receipt
    after = helpers.contents(folder)
    lists = set() if "inputs.txt" in before else {"input_files.txt"}
    assert set(after) == {*before, "request.json"} | lists
    assert all(
        after[name] == before[name] for name in before if "00001" not in name and name != "manifest.json"
    )


def test_its_failures_can_be_tried_again(run):
    folder, job = run
    failures = {line["code"] for line in helpers.read_ledger(folder)}
    if "not_found" in failures:
        (folder.parents[1] / "photos" / "missing.jpg").write_bytes(helpers.encoded(7))
    assert job("--retry_failures") == 0
    assert verify.main([str(folder)]) == 0
    assert {line["code"] for line in helpers.read_ledger(folder)} == failures - {"not_found"}
