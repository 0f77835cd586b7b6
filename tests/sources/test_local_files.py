"""The walk through a local folder: how deep it goes, and why it leaves files out. As `finding` uses it: test_finding.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests import helpers
from transforms.sources import left_out
from transforms.sources.base import BadInput
from transforms.sources.local_files import Walk, check_readable


@pytest.fixture
def root(tmp_path):
    for name in ("a.jpg", "x/b.jpg", "x/y/c.jpg", "z/d.jpg", "x/.h/e.jpg", "x/f.md5"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return str(tmp_path)


def walked(root: str, pattern: str = "", levels=(), is_deep: bool = True, with_hidden: bool = False):
    """(files, reasons for leaving out others), by their path below the root."""
    compiled = re.compile(re.escape(root) + "/" + pattern) if pattern else None
    walk = Walk(root, compiled, [re.compile(level) for level in levels], is_deep, with_hidden)
    files = walk.files()
    assert all(file.size_in_bytes == os.path.getsize(file.path) for file in files)
    below = len(root) + 1
    return [f.path[below:] for f in files], {path[below:]: why for path, why in walk.skipped.items()}


def test_everything_below_a_folder(root):
    files, skipped = walked(root)
    assert files == ["a.jpg", "x/b.jpg", "x/y/c.jpg", "z/d.jpg"]
    assert skipped == {"x/.h/e.jpg": left_out.HIDDEN, "x/f.md5": ".md5"}
    assert "x/.h/e.jpg" in walked(root, with_hidden=True)[0]


def test_only_folders_that_a_pattern_can_lead_into_are_entered(root, monkeypatch):
    entered = []
    monkeypatch.setattr(Walk, "_entries", lambda walk, folder, list=Walk._entries: (
        entered.append(folder[len(root) + 1 :]) or list(walk, folder)
    ))  # fmt: skip
    assert walked(root, r"x/[^/]*\.jpg\Z", [r"x\Z"], is_deep=False)[0] == ["x/b.jpg"]
    assert entered == ["", "x"]
    entered.clear()
    assert walked(root, r"x/.*\.jpg\Z", [r"x\Z"])[0] == ["x/b.jpg", "x/y/c.jpg"]
    assert entered == ["", "x", "x/y"]


def test_what_does_not_match_is_not_left_out_either(root):
    assert walked(root, r".*\.png\Z") == ([], {})


def test_a_pipe_is_no_file(root):
    os.mkfifo(f"{root}/pipe.jpg")
    files, skipped = walked(root)
    assert "pipe.jpg" not in files
    assert skipped["pipe.jpg"] == left_out.SPECIAL


def test_of_several_names_for_a_file_its_own_is_taken(root):
    os.symlink("x/y/c.jpg", f"{root}/1.jpg")
    os.symlink("x", f"{root}/2")
    os.symlink("..", f"{root}/x/up")
    files, skipped = walked(root)
    assert files == ["a.jpg", "x/b.jpg", "x/y/c.jpg", "z/d.jpg"]
    assert skipped["1.jpg"] == skipped["2"] == skipped["x/up"] == left_out.SECOND_LINK


def test_a_broken_link_ends_the_search_unless_it_is_left_out_anyway(root):
    os.symlink("nowhere", f"{root}/.hidden.jpg")
    assert walked(root)[1][".hidden.jpg"] == left_out.HIDDEN
    os.symlink("nowhere", f"{root}/broken.jpg")
    with pytest.raises(BadInput, match=r"/broken\.jpg is a broken link .*repair or remove it"):
        walked(root)
    assert walked(root, r"a.*")[0] == ["a.jpg"]


def test_a_folder_that_vanishes_meanwhile_is_empty(root, monkeypatch):
    scandir = os.scandir

    def vanish(folder):
        if folder.endswith("/z"):
            raise FileNotFoundError(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", vanish)
    assert walked(root)[0] == ["a.jpg", "x/b.jpg", "x/y/c.jpg"]


def test_a_file_that_this_user_may_not_read_is_refused(root):
    check_readable(f"{root}/a.jpg")
    os.chmod(f"{root}/a.jpg", 0)
    program = (
        f"from transforms.sources.local_files import check_readable; check_readable({root + '/a.jpg'!r})"
    )
    command = [*helpers.without_roots_rights(), sys.executable, "-c", program]
    done = subprocess.run(command, cwd=helpers.REPO, capture_output=True, text=True)
    assert f"BadInput: {root}/a.jpg cannot be read (Permission denied): give this user" in done.stderr
