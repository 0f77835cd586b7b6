"""A job on faulty storage: transient faults leave the same bytes, permanent ones end it with a correct output."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from pipeline import verify
from tests import helpers
from tests.faulty import OPERATIONS, Faults, FaultyFileSystem
from transforms.storage import retrying
from transforms.storage.retrying import Limits

SIZES = (3, 2, 4)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short pauses, and a time limit that no slow machine exceeds."""
    monkeypatch.setattr(retrying, "LIMITS", Limits(60, 0.0001, 0.001))
    monkeypatch.setattr(retrying, "_BEFORE_THE_START_SECONDS", 60)


@pytest.fixture
def faults(monkeypatch):
    def use(**settings) -> Faults:
        configured = Faults(**settings)
        monkeypatch.setattr(FaultyFileSystem, "faults", configured)
        return configured

    return use


class Job:
    """A job on faulty:// with good and bad images, also gzipped, and the output of an undisturbed run."""

    def __init__(self, folder):
        self.folder = folder
        bad = helpers.example({"image/encoded": b"no image"})
        for index, seeds in enumerate(([0, 1, 2], [3, None], [4, None, 5])):
            examples = [bad if seed is None else helpers.image_example(seed) for seed in seeds]
            suffix = ".gz" if index == 1 else ""
            helpers.write_tfrecord(folder / "in" / f"in-{index}.tfrecord{suffix}", examples)
        self.run("whole")
        self.whole = helpers.contents(folder / "whole")

    def run(self, output: str, *flags: str, expect: int = 0) -> None:
        inputs = (f"--input=faulty://{self.folder}/in/in-*", "--batch_size=2")
        helpers.job(*inputs, *flags, output=f"faulty://{self.folder}/{output}", expect=expect)

    def has_begun(self, output: str) -> bool:
        """Whether planning is over: `.tmp` exists from then on."""
        return (self.folder / output / ".tmp").exists()

    def contents(self, output: str) -> dict[str, bytes]:
        return helpers.contents(self.folder / output)

    def check_committed(self, output: str) -> int:
        """Checks that each receipt's files equal those of the undisturbed run; returns the number of receipts."""
        files = self.contents(output)
        labels = [name[9:-5] for name in files if name.startswith("receipts/") and name.endswith(".json")]
        for label in labels:
            due = {name for name in self.whole if label in name}
            assert {name: files.get(name) for name in due} == {name: self.whole[name] for name in due}
        return len(labels)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return Job(tmp_path_factory.mktemp("faulty"))


@pytest.mark.parametrize("probability", [0.02, 0.1, 0.3])
def test_errors_that_pass_change_no_byte(job, faults, probability):
    for seed in range(3):
        active = faults(seed=seed, probability=probability)
        job.run(f"out-{probability}-{seed}")
        assert job.contents(f"out-{probability}-{seed}") == job.whole
        assert not (job.folder / f"out-{probability}-{seed}" / ".tmp").is_file()
        assert active.hit
    if probability == 0.3:  # all kinds of faults occurred
        assert {name.split()[0].rstrip(",") for name in active.hit} == set(OPERATIONS)
        assert {"read cut short", "write cut short", "rename, done raises"} <= set(active.hit)


STAYING = [
    ("read", "in-2.tfrecord", errno.EACCES),
    ("open", "in-1.tfrecord", errno.ENOENT),
    ("write", "00001-of-00003", errno.ENOSPC),
    ("create", "00001-of-00003", errno.EROFS),
    ("close", "00002-of-00003", errno.EDQUOT),
    ("rename", "features-00001", errno.EACCES),
    ("rename", "receipts/00002", errno.ENOSPC),
    ("rename", "manifest.json", errno.EROFS),
]


@pytest.mark.parametrize(("operation", "where", "number"), STAYING)
def test_an_error_that_stays_ends_the_job_and_leaves_what_is_correct(
    job, faults, capsys, operation, where, number
):
    output = f"stays-{STAYING.index((operation, where, number))}"

    def refuse(what: str, path: str) -> None:
        if what == operation and where in path and job.has_begun(output):
            raise OSError(number, os.strerror(number))

    faults(chosen=refuse)
    job.run(output, expect=1)
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert errno.errorcode[number] in line
    assert where in line
    assert "run the same command again" in line or number == errno.EACCES
    assert "Traceback" not in line
    assert job.check_committed(output) < 3 or "manifest" in where
    assert "manifest.json" not in job.contents(output)
    faults()
    job.run(output)
    assert job.contents(output) == job.whole
    assert verify.main([f"faulty://{job.folder}/{output}"]) == verify.COMPLETE


@pytest.mark.parametrize(
    ("operation", "where"),
    [
        ("read", "in-2.tfrecord"),
        ("open", "in-1.tfrecord"),
        ("write", ".tmp/00001-of"),
        ("rename", "receipts/00001"),
    ],
)
def test_what_hangs_is_given_up_by_name(job, faults, capsys, monkeypatch, operation, where):
    over = threading.Event()
    output = f"hangs-{operation}"

    def hang(what: str, path: str) -> None:
        if what == operation and where in path and job.has_begun(output):
            over.wait(300)

    monkeypatch.setattr(retrying, "LIMITS", Limits(5, 0.0001, 0.001))
    faults(chosen=hang)
    try:
        job.run(output, expect=1)
    finally:
        over.set()
    said = capsys.readouterr().err
    assert "nothing came back for 5 s" in said
    assert where in said
    job.check_committed(output)
    faults()
    job.run(output)
    assert job.contents(output) == job.whole


def test_an_error_that_never_passes_is_given_up(job, faults, capsys, monkeypatch):
    monkeypatch.setattr(retrying, "LIMITS", Limits(0.5, 0.0001, 0.01))

    def stutter(what: str, path: str) -> None:
        if what == "read" and "in-2" in path and job.has_begun("never"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    faults(chosen=stutter)
    job.run("never", expect=1)
    said = capsys.readouterr().err
    assert "in-2.tfrecord failed (" in said
    assert "tries): Input/output error (EIO)" in said
    job.check_committed("never")
    faults()
    job.run("never")
    assert job.contents("never") == job.whole


def test_a_gzipped_input_that_was_cut_is_told_in_the_ledger(tmp_path, faults):
    examples = [helpers.image_example(seed) for seed in range(3)]
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord.gz", examples)
    path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 3])
    helpers.job(f"--input={path}", "--max_failure_rate=1", output=tmp_path / "out")
    (line,) = helpers.read_ledger(tmp_path / "out")
    assert line["code"] == "damaged_record"
    assert "the compressed file is damaged" in line["message"]
    features = helpers.read_all(tmp_path / "out")
    assert 0 < len(features) < len(examples)
