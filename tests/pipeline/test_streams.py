"""stdout and stderr that are closed, full, or without a reader change neither the work nor the exit code."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import helpers


@contextlib.contextmanager
def full() -> Iterator[int]:
    with open("/dev/full", "w") as stream:
        yield stream.fileno()


@contextlib.contextmanager
def without_a_reader() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def run(*command: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE, closed: str = ""):
    """Runs a module; `closed` is what a shell calls the closing of descriptors, such as '2>&-'."""
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    return subprocess.run(
        [*shell, sys.executable, "-m", *command],
        cwd=helpers.REPO,
        stdout=stdout,
        stderr=stderr,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    flags = [*helpers.TINY, f"--input={helpers.write_shards(folder / 'in', (3, 2))}", "--batch_size=2"]
    helpers.job(*flags, output=folder / "whole")
    return flags, helpers.contents(folder / "whole")


MODES = {
    "one worker": (),
    "threads": ("--direct_num_workers=2",),
    "processes": ("--direct_num_workers=1", "--direct_running_mode=multi_processing"),
}


@pytest.mark.parametrize(
    ("fate", "mode"),
    [
        ("closed", "processes"),
        ("full", "threads"),
        ("without a reader", "one worker"),
    ],
)
def test_a_job_without_stderr_ends_as_with_it(tmp_path, job, fate, mode):
    flags, whole = job
    command = ["pipeline.main", *flags, *MODES[mode], f"--output={tmp_path / 'out'}"]
    command.append(f"--report_file={tmp_path / 'report.json'}")
    if fate == "closed":
        done = run(*command, closed="0<&- 1>&- 2>&-")
    else:
        with {"full": full, "without a reader": without_a_reader}[fate]() as stream:
            done = run(*command, stdout=stream, stderr=stream)
    assert done.returncode == 0
    assert json.loads((tmp_path / "report.json").read_text())["status"] == "done"
    assert helpers.contents(tmp_path / "out") == whole


@pytest.mark.parametrize(("flag", "code", "status"), [
    ("--batch_size=0", 2, "refused"),
    ("--max_failure_rate=0", 3, "too_many_failures"),
    ("--output=/proc/none", 2, "refused"),
])  # fmt: skip
def test_other_exit_codes_stay_what_they_are(tmp_path, flag, code, status):
    bad = helpers.example({"image/encoded": b"no image"})
    helpers.write_tfrecord(tmp_path / "in.tfrecord", [helpers.image_example(1), bad])
    report = tmp_path / "report.json"
    command = ["pipeline.main", *helpers.TINY, f"--input={tmp_path / 'in.tfrecord'}"]
    command += [f"--output={tmp_path / 'out'}", f"--report_file={report}", flag]
    with without_a_reader() as stream:
        assert run(*command, stdout=stream, stderr=stream).returncode == code
    assert json.loads(report.read_text())["status"] == status


def test_a_failing_bundle_without_a_reader_is_reported(tmp_path, job):
    """Beam's worker threads print tracebacks; one that cannot be printed must not end the thread that prints it."""
    flags, _ = job
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "receipts").write_bytes(b"a file where the folder of receipts must be")
    report = tmp_path / "report.json"
    command = ["pipeline.main", *flags, *MODES["threads"], f"--output={tmp_path / 'out'}"]
    with without_a_reader() as stream:
        assert run(*command, f"--report_file={report}", stdout=stream, stderr=stream).returncode == 1
    assert "receipts" in json.loads(report.read_text())["error"]


COMMANDS = {
    "pipeline.verify": lambda output: ("--json", output),
    "samples.show": lambda output: (output,),
    "bit.models": lambda output: (),
    "pipeline.main": lambda output: ("--help",),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_whose_result_nobody_reads_ends_quietly(tmp_path, job, command):
    for name, data in job[1].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    arguments = COMMANDS[command](str(tmp_path))
    plain = run(command, *arguments)
    assert plain.stdout
    with without_a_reader() as stream:
        done = run(command, *arguments, stdout=stream)
    assert (done.returncode, done.stderr) == (plain.returncode, plain.stderr) == (0, plain.stderr)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert run(command, *arguments, closed="1>&-").returncode == 0
