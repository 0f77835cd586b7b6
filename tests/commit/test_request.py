"""Two jobs on one output folder at once: harmless for equal requests; otherwise refused, and the difference named."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from pipeline import options, plan, prepare, verify, weights
from tests import helpers
from transforms import write
from transforms.commit import claim, writer

SIZES = (3, 2, 4, 1, 3)


@pytest.fixture
def request_of(tmp_path):
    """Flags of a job, and the output of an undisturbed run."""
    flags = [f"--input={helpers.write_shards(tmp_path / 'in', SIZES)}", "--batch_size=2"]
    helpers.job(*flags, output=tmp_path / "whole")
    return flags, helpers.contents(tmp_path / "whole")


def begin(flags, output) -> plan.Plan:
    """A job that has planned and started, without a shard yet."""
    config, _ = options.parse([*helpers.TINY, *flags, f"--output={output}"])
    planned = plan.make(config, weights.identify(config.model, True))
    prepare.prepare(planned)
    return planned


def test_two_processes_with_the_same_request_leave_what_one_leaves(tmp_path, request_of):
    flags, whole = request_of
    command = [sys.executable, "-m", "pipeline.main", *helpers.TINY, *flags, f"--output={tmp_path / 'out'}"]
    jobs = [
        subprocess.Popen(command, cwd=helpers.REPO, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    messages = [job.communicate(timeout=300)[1].decode() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], messages
    assert helpers.contents(tmp_path / "out") == whole
    assert verify.main([str(tmp_path / "out")]) == verify.COMPLETE


@pytest.mark.parametrize("commits_at_once", [1, write.COMMITS])
def test_a_job_that_is_overtaken_by_the_same_request_ends_well(
    tmp_path, request_of, monkeypatch, commits_at_once
):
    """It pauses before its second commit until another process has finished the job and cleaned up the folder."""
    monkeypatch.setattr(write, "COMMITS", commits_at_once)
    flags, whole = request_of
    output = tmp_path / "out"
    commits, lock = [], threading.Lock()
    plain = writer.ShardWriter.commit

    def overtaken_commit(self):
        with lock:
            if len(commits) == 1:
                helpers.job_process(*helpers.TINY, *flags, f"--output={output}")
                if commits_at_once == 1:  # else others of this job write there meanwhile
                    assert helpers.contents(output) == whole
                    assert not (output / ".tmp").exists()
            commits.append(self)
        return plain(self)

    monkeypatch.setattr(writer.ShardWriter, "commit", overtaken_commit)
    helpers.job(*flags, output=output)
    assert len(commits) > 1
    assert helpers.contents(output) == whole
    assert not (output / ".tmp").exists()


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("--image_size=48", "preprocessing.image_size = 32, this run asks for 48"),
        ("--precision=bfloat16", "precision = 'float32', this run asks for 'bfloat16'"),
    ],
)
def test_another_request_is_refused_by_name_before_there_is_a_receipt(
    tmp_path, request_of, capsys, flag, name
):
    flags, whole = request_of
    output = tmp_path / "out"
    begin(flags, output)
    before = helpers.contents(output)
    helpers.job(*flags, flag, output=output, expect=2)
    assert f"--output={output} is in use by a job with {name}" in capsys.readouterr().err
    assert helpers.contents(output) == before
    helpers.job(*flags, output=output)  # the same request continues
    assert helpers.contents(output) == whole


def test_other_images_under_the_same_number_of_shards_are_refused(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(helpers.encoded(1))
    begin([f"--input={tmp_path}/a"], tmp_path / "out")
    helpers.job(f"--input={tmp_path}/b", output=tmp_path / "out", expect=2)
    assert "list of images" in capsys.readouterr().err
    assert (tmp_path / "out" / "inputs.txt").read_text() == f"{tmp_path}/a/1.jpg\n"


def test_overwrite_takes_the_folder_over_and_the_other_job_cannot_commit(tmp_path, request_of, monkeypatch):
    monkeypatch.setattr(write, "COMMITS", 1)
    flags, _ = request_of
    output = tmp_path / "out"
    other = [*flags, "--image_size=48"]
    helpers.job(*other, output=tmp_path / "fresh")
    commits = []
    plain = writer.ShardWriter.commit

    def overtaken_commit(self):
        if not commits:
            helpers.job_process(*helpers.TINY, *other, "--overwrite", f"--output={output}")
        commits.append(self)
        return plain(self)

    monkeypatch.setattr(writer.ShardWriter, "commit", overtaken_commit)
    helpers.job(*flags, output=output, expect=1)
    assert helpers.contents(output) == helpers.contents(tmp_path / "fresh")


def test_the_note_of_a_job_of_an_earlier_version_counts(tmp_path, request_of, capsys):
    flags, whole = request_of
    output = tmp_path / "out"
    begin(flags, output)
    (output / ".tmp" / "running.json").rename(output / ".tmp" / "request.json")
    (output / "request.json").unlink()
    helpers.job(*flags, "--image_size=48", output=output, expect=2)
    assert "is in use by a job with preprocessing.image_size = 32" in capsys.readouterr().err
    helpers.job(*flags, output=output)
    assert helpers.contents(output) == whole


def test_the_note_of_a_job_goes_with_it(tmp_path, request_of):
    flags, _ = request_of
    planned = begin(flags, tmp_path / "out")
    assert (tmp_path / "out" / ".tmp" / "running.json").exists()
    claim.sweep_all(planned.layout)
    assert not (tmp_path / "out" / ".tmp").exists()
