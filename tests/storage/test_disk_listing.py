"""Listings of local folders: as long as it takes while files come, and no further down than a match can lie."""

import os
import time

import pytest

from transforms.storage import disk, door, retrying
from transforms.storage.errors import StorageFailed
from transforms.storage.retrying import Limits


@pytest.fixture
def folder(tmp_path):
    for name in ("f-1", "f-2", "g", "receipts/f-3", "receipts/4.json", "receipts/old/f-5"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("f*", ["f-1", "f-2"]),
        ("*", ["f-1", "f-2", "g"]),
        ("", ["f-1", "f-2", "g"]),
        ("receipts/*", ["receipts/4.json", "receipts/f-3"]),
        ("*/f-*", ["receipts/f-3"]),
        ("receipts/**", ["receipts/4.json", "receipts/f-3", "receipts/old/f-5"]),
        ("**f-*", ["f-1", "f-2", "receipts/f-3", "receipts/old/f-5"]),
        ("receipts?f-3", ["receipts/f-3"]),
        ("[fg]*", ["f-1", "f-2", "g"]),
    ],
)
def test_what_a_pattern_matches(folder, pattern, names):
    assert [file.path for file in door.match(f"{folder}/{pattern}")] == [f"{folder}/{name}" for name in names]


@pytest.mark.parametrize(
    ("pattern", "entered", "names"),
    [
        ("f*", False, {"f-1", "f-2"}),
        ("*", False, {"f-1", "f-2", "g"}),
        ("**", True, {"f-1", "f-2", "g", "f-3", "4.json", "f-5"}),
        ("*/f*", True, {"f-3"}),
    ],
)
def test_folders_and_files_are_looked_at_only_if_a_match_may_lie_there(
    folder, monkeypatch, pattern, entered, names
):
    looked_at, listed = set(), set()
    stat, scandir = os.stat, os.scandir

    def noted(path, *arguments, **keywords):
        if str(folder) in str(path):  # not of other threads
            looked_at.add(os.path.basename(path))
        return stat(path, *arguments, **keywords)

    def noted_folder(path):
        listed.add(os.path.basename(str(path)))
        return scandir(path)

    monkeypatch.setattr(disk.os, "stat", noted)
    monkeypatch.setattr(disk.os, "scandir", noted_folder)
    door.match(f"{folder}/{pattern}")
    monkeypatch.undo()
    assert looked_at == names
    assert ("receipts" in listed) is entered


def test_a_long_listing_is_not_taken_for_a_disk_that_hangs(folder, monkeypatch):
    """A million receipts take longer than the silence after which a disk is given up."""
    monkeypatch.setattr(retrying, "LIMITS", Limits(0.5, 0.01, 0.1))
    stat = os.stat
    for index in range(40):
        (folder / f"f-{index:05d}").write_bytes(b"")

    def slow(path, *arguments, **keywords):
        time.sleep(0.03)
        return stat(path, *arguments, **keywords)

    monkeypatch.setattr(disk.os, "stat", slow)
    assert len(door.match(f"{folder}/f-0*")) == 40

    def hanging(path, *arguments, **keywords):
        time.sleep(2)
        return stat(path, *arguments, **keywords)

    monkeypatch.setattr(disk.os, "stat", hanging)
    with pytest.raises(StorageFailed, match=r"nothing came back for 0\.5 s"):
        door.match(f"{folder}/f-0*")
