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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["[a]", "*", "{0..1}?"])
def test_names_that_look_like_patterns_are_copied_as_they_are(tmp_path, name):
    source = tmp_path / name / "model"
    (source / "variables[0]").mkdir(parents=True)
    (source / "variables[0]" / "b").write_bytes(b"b")
    (source / "a*.pb").write_bytes(b"a")
    copy = copying.copy_to_local(str(source), str(tmp_path / "copy"))
    assert {str(p.relative_to(copy)) for p in Path(copy).rglob("*") if p.is_file()} == {
        "a*.pb",
        "variables[0]/b",
    }
    one = copying.copy_to_local(str(source / "a*.pb"), str(tmp_path / "copy"))
    assert Path(one).read_bytes() == b"a"
    assert copying.checksum(str(source)) != copying.checksum(str(source / "a*.pb"))
