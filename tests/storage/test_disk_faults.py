"""Faults of the local disk: full, read-only, or a file that has vanished. Full and read-only disks are real."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from pipeline import prepare, verify
from tests import helpers
from transforms import write
from transforms.commit import writer
from transforms.storage import disk


def mounted(folder: Path, options: str) -> bool:
    folder.mkdir()
    return (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
        ).returncode
        == 0
    )


@contextlib.contextmanager
def small_disk(folder: Path, size: str):
    """A disk of this size; skips the test where this user may not mount one."""
    if not mounted(folder, f"size={size}"):
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def request_of(tmp_path):
    flags = [f"--input={helpers.write_shards(tmp_path / 'in', (3, 2, 40))}", "--batch_size=2"]
    helpers.job(*flags, output=tmp_path / "whole")
    return flags, helpers.contents(tmp_path / "whole")


def check_committed(output: Path, whole: dict[str, bytes]) -> int:
    """Checks that shards with a receipt equal those of the undisturbed run; returns their number."""
    files = helpers.contents(output)
    labels = [name[9:-5] for name in files if name.startswith("receipts/") and name.endswith(".json")]
    for label in labels:
        due = {name: data for name, data in whole.items() if label in name}
        assert {name: files.get(name) for name in due} == due
    assert "manifest.json" not in files
    return len(labels)


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])  # threads: test_failed_writes.py
def test_a_full_disk_ends_the_job_and_room_lets_it_go_on(tmp_path, request_of, capsys, mode):
    flags, whole = request_of
    workers = 1 if mode == "in_memory" else 2
    flags = [*flags, f"--direct_running_mode={mode}", f"--direct_num_workers={workers}"]
    disk = tmp_path / "disk"
    with small_disk(disk, "128k"):
        (disk / "ballast").write_bytes(bytes(88 << 10))
        helpers.job(*flags, output=disk / "out", expect=1)
        said = capsys.readouterr().err
        assert (
            "failed: No space left on device (ENOSPC); make room there, then run the same command again"
            in said
        )
        assert str(disk / "out") in said
        assert "Traceback" not in said
        assert check_committed(disk / "out", whole) < 3
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        helpers.job(*flags, output=disk / "out")
        assert helpers.contents(disk / "out") == whole
        assert verify.main([str(disk / "out")]) == verify.COMPLETE


def test_a_disk_that_becomes_read_only_ends_the_job(tmp_path, request_of, capsys, monkeypatch):
    flags, whole = request_of
    disk = tmp_path / "disk"
    monkeypatch.setattr(write, "COMMITS", 1)
    with small_disk(disk, "4m"):
        plain = writer.ShardWriter.commit

        def commit(self):
            receipt = plain(self)
            if receipt.shard.startswith("00000"):  # as a kernel does after disk errors
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            return receipt

        monkeypatch.setattr(writer.ShardWriter, "commit", commit)
        helpers.job(*flags, output=disk / "out", expect=1)
        said = capsys.readouterr().err
        assert "Read-only file system (EROFS); the disk is mounted read-only" in said
        assert check_committed(disk / "out", whole) == 1
        helpers.job(*flags, output=disk / "out", expect=2)
        assert f"--output={disk / 'out'} cannot be written to" in capsys.readouterr().err
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        monkeypatch.undo()
        helpers.job(*flags, output=disk / "out")
        assert helpers.contents(disk / "out") == whole


@pytest.mark.parametrize("fate", ["gone", "shorter", "replaced by a folder"])
def test_an_input_that_is_not_what_it_was_when_its_turn_comes_is_named(
    tmp_path, request_of, capsys, monkeypatch, fate
):
    flags, whole = request_of
    victim = tmp_path / "in" / "in-00002-of-00003.tfrecord"
    content, status = victim.read_bytes(), os.stat(victim)
    plain = prepare.prepare

    def prepare_and_change(planned):
        plain(planned)
        victim.unlink()
        if fate == "shorter":
            victim.write_bytes(content[: len(content) // 2])
        elif fate == "replaced by a folder":
            victim.mkdir()

    monkeypatch.setattr(prepare, "prepare", prepare_and_change)
    helpers.job(*flags, output=tmp_path / "out", expect=1)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(victim) in line
    assert {"gone": "ENOENT", "shorter": "has changed since the job was planned"}.get(
        fate, "not a regular file"
    ) in line
    assert check_committed(tmp_path / "out", whole) < 3
    if victim.is_dir():
        victim.rmdir()
    victim.write_bytes(content)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    monkeypatch.undo()
    helpers.job(*flags, output=tmp_path / "out")
    assert helpers.contents(tmp_path / "out") == whole


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_system_that_syncs_no_folders_holds_outputs(tmp_path, monkeypatch, number):
    """As SMB's and VirtualBox's shares. A disk's errors are told."""
    plain = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if number == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(number)):
            disk.DISK.create_only(str(tmp_path / "a"), b"")
        return
    path = helpers.write_tfrecord(tmp_path / "in.tfrecord", [helpers.image_example(0)])
    helpers.job(f"--input={path}", output=tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").exists()
