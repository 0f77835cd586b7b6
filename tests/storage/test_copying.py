"""Copies of remote files to this machine."""

import os
from pathlib import Path

import pytest

from transforms.storage import copying


def test_copying_a_model_leaves_no_half_file_under_its_name(tmp_path, monkeypatch):
    source = tmp_path / "model"
    (source / "variables").mkdir(parents=True)
    (source / "saved_model.pb").write_bytes(b"a" * 10)
    (source / "variables" / "variables.index").write_bytes(b"b" * 20)
    target = tmp_path / "cache"
    original = copying._blocks

    def broken(stream):
        yield next(original(stream))
        raise OSError("connection lost")

    monkeypatch.setattr(copying, "_blocks", broken)
    with pytest.raises(OSError, match="connection lost"):
        copying.copy_to_local(str(source), str(target))
    assert not [p for p in target.rglob("*") if p.is_file() and not p.name.endswith(".part")]
    monkeypatch.setattr(copying, "_blocks", original)
    copied = Path(copying.copy_to_local(str(source), str(target)))
    assert (copied / "variables" / "variables.index").read_bytes() == b"b" * 20
    os.utime(source / "variables" / "variables.index", (1, 1))
    assert Path(copying.copy_to_local(str(source), str(target))) != copied
