"""A commit that a full disk stops: what nobody needs any more is deleted, what a later run carries out is kept."""

from __future__ import annotations

import dataclasses
import errno
import os

import pytest

from tests.commit.attempts import LABEL, SHARD, Attempt
from tests.fakes import feature_chunk
from transforms.commit import receipts, replace, retry_failures
from transforms.commit.layout import Layout
from transforms.commit.writer import ShardWriter
from transforms.storage.disk import Disk
from transforms.storage.errors import StorageFailed


def fill_the_disk(monkeypatch, operation: str, path: str) -> None:
    """From now on there is no room for this operation on paths that contain `path`."""
    plain = getattr(Disk, operation)

    def full(self, *arguments):
        if any(path in argument for argument in arguments if isinstance(argument, str)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(self, *arguments)

    monkeypatch.setattr(Disk, operation, full)


@pytest.mark.parametrize(
    ("operation", "path", "left"),
    [
        ("create_only", "-claim-0.json", []),
        ("place", "features-", [".jsonl", ".tfrecord", "claim"]),
        ("create_only", "receipts/", ["claim"]),
    ],
)
def test_a_first_commit(tmp_path, monkeypatch, operation, path, left):
    layout = Layout(str(tmp_path))
    with monkeypatch.context() as full:
        fill_the_disk(full, operation, path)
        with pytest.raises(StorageFailed, match="ENOSPC"):
            Attempt(layout, 1, 2, 1).finish()
    assert kinds(tmp_path) == left
    Attempt(layout, 2, 2, 1).finish()
    assert kinds(tmp_path) == []
    # Where the first attempt had claimed the shard, the second carries out its commit.
    (line,) = (tmp_path / f"failures-{LABEL}.jsonl").read_text().splitlines()
    assert ('"message": "1"' in line) == bool(left)


@pytest.mark.parametrize(
    ("operation", "path", "left"),
    [
        ("upload", ".receipt", []),
        ("upload", ".replacing", []),
        ("create_only", "-claim-0.json", []),
        ("place", "features-", [".receipt", ".tfrecord", "claim"]),
    ],
)
def test_a_retry(tmp_path, monkeypatch, operation, path, left):
    layout = Layout(str(tmp_path))
    Attempt(layout, 1, 2, 1).finish()
    old = receipts.read_receipt(layout, LABEL)
    shard = dataclasses.replace(SHARD, retry=retry_failures.of_receipt(old))
    writer = ShardWriter(layout, shard, {})
    writer.append(dataclasses.replace(feature_chunk(2, 1, last=True), position=0, shard=shard))
    with monkeypatch.context() as full:
        fill_the_disk(full, operation, path)
        with pytest.raises(StorageFailed, match="ENOSPC"):
            writer.commit()
    assert kinds(tmp_path) == left
    receipt = replace.settle(layout, receipts.read_receipt(layout, LABEL))
    assert (receipt.features, receipt.failures) == ((3, 0) if left else (2, 1))
    assert kinds(tmp_path) == []


def kinds(folder) -> list[str]:
    """What there is below .tmp: 'claim', or the suffix of an attempt's file."""
    names = os.listdir(folder / ".tmp") if (folder / ".tmp").is_dir() else []
    return sorted("claim" if "-claim-" in name else os.path.splitext(name)[1] for name in names)
