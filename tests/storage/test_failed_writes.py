"""Writes that fail for good: the job ends soon, by itself, in every mode, and leaves no file and no process behind."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests import engines, faulty_proxy, helpers, stores
from tests.storage.test_disk_faults import small_disk

SECONDS = 240  # below the patience that the job has with storage, 300 s


class Running:
    """A job in a process of its own, with two workers."""

    def __init__(
        self, tmp_path: Path, output: Path | str, mode: str, *before: str, flags: Sequence[str] = ()
    ):
        pattern = helpers.write_shards(tmp_path / "in", (40,) * 8)
        self._offspring = engines.Offspring()
        flags = [*flags, "--batch_size=8", "--direct_num_workers=2", f"--direct_running_mode={mode}"]
        command = [sys.executable, "-m", "pipeline.main", *helpers.TINY, *flags]
        self.process = subprocess.Popen(
            [*before, *command, f"--input={pattern}", f"--output={output}"],
            cwd=helpers.REPO,
            env={**os.environ, **self._offspring.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + SECONDS
        while not path.exists():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def error(self) -> str:
        """The line that the job ends with."""
        try:
            out, err = self.process.communicate(timeout=SECONDS)
        finally:
            left = self._offspring.left(seconds=0 if self.process.poll() is None else 30)
        assert (self.process.returncode, out) == (1, ""), err
        assert not left
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        return line


def unneeded(folder: Path) -> list[str]:
    """What is left in the folder of unfinished files, but for the note of the run, claims, and what was claimed."""
    names = os.listdir(folder)
    claimed = tuple(name.partition("-claim-")[0] for name in names if "-claim-" in name)
    return [name for name in names if name != "running.json" and not name.startswith(claimed)]


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])  # processes: test_disk_faults.py
def test_a_full_disk(tmp_path, mode):
    disk = tmp_path / "disk"
    with small_disk(disk, "400k"):
        job = Running(tmp_path, disk / "out", mode)
        assert "No space left on device (ENOSPC); make room there" in job.error()
        assert not unneeded(disk / "out" / ".tmp")


def test_a_folder_that_may_no_longer_be_written_to(tmp_path):
    job = Running(tmp_path, tmp_path / "out", "multi_threading", *helpers.without_roots_rights())
    unfinished = tmp_path / "out" / ".tmp"
    job.wait_for(tmp_path / "out" / "request.json")  # the last file before the run starts
    unfinished.chmod(0o555)
    assert "Permission denied (EACCES)" in job.error()
    unfinished.chmod(0o755)
    assert not unneeded(unfinished)


@pytest.mark.parametrize("mode", ["in_memory", pytest.param("multi_processing", marks=pytest.mark.soak)])
def test_a_folder_that_has_vanished(tmp_path, mode):
    job = Running(tmp_path, tmp_path / "out", mode)
    job.wait_for(tmp_path / "out" / "request.json")  # the last file before the run starts
    (tmp_path / "out").rename(
        tmp_path / "moved"
    )  # at once, unlike a removal, while the job makes files there
    (tmp_path / "out").write_bytes(b"")
    assert str(tmp_path / "out" / ".tmp") in job.error()


@pytest.mark.xdist_group("stores")
@pytest.mark.parametrize(
    "mode", ["multi_threading", pytest.param("multi_processing", marks=pytest.mark.soak)]
)
def test_a_store_that_refuses(tmp_path, mode):
    with stores.s3() as store, faulty_proxy.in_front_of(store.flags[0].partition("=")[2]) as (proxy, url):
        proxy.chosen = lambda method, path: "403" if method == "PUT" and ".tfrecord" in path else ""
        job = Running(tmp_path, store.folder(), mode, flags=(f"--s3_endpoint_url={url}", *store.flags[1:]))
        line = job.error()
    assert "writing s3://" in line
    assert "(Trouble) when calling the PutObject operation" in line


# What is left open by the end of an interpreter, each in a cycle, and so alive until the interpreter is finalized.
LEFT_OPEN = """
import builtins, os, sys
import pyarrow, pyarrow.parquet
from transforms.sources.summed import Summed
from transforms.storage import door

plain, gzipped, parquet, new = sys.argv[1:]

def left(what):
    cycle = [what]
    cycle.append(cycle)
    builtins.kept = [cycle, getattr(builtins, "kept", None)]
    return what

left(door.create(new)).write(bytes(99))
left(door.open_binary(plain)).read(9)
left(door.open_input(gzipped)).read(9)
left(pyarrow.parquet.ParquetFile(door.open_binary(parquet)))
left(Summed(door.open_unbuffered(plain), plain, os.path.getsize(plain))).read(9)

def lines():
    with door.open_binary(plain) as stream:
        yield from stream

next(left(lines()))
"""


def test_an_interpreter_that_ends_waits_for_nothing_that_is_still_open(tmp_path):
    (tmp_path / "plain").write_bytes(b"line\n" * 99)
    (tmp_path / "gzipped").write_bytes(gzip.compress(b"line\n" * 99))
    pyarrow.parquet.write_table(pyarrow.table({"a": [1, 2]}), tmp_path / "parquet")
    paths = [str(tmp_path / name) for name in ("plain", "gzipped", "parquet", "new")]
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, *paths], cwd=helpers.REPO, capture_output=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    new = tmp_path / "new"
    assert not new.exists() or new.read_bytes() == b""


def test_what_nobody_closes_is_not_written_by_garbage_collection(tmp_path):
    from transforms.storage import door

    stream = door.create(str(tmp_path / "file"))
    stream.write(b"half a record")
    del stream
    assert (tmp_path / "file").read_bytes() == b""
