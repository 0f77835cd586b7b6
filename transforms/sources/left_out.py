"""Files that are never taken from a folder or glob: those that systems and tools leave there, and this job's own output."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterable

from transforms.commit import request
from transforms.commit.layout import Layout, folder_of
from transforms.storage import door

HIDDEN, OURS, SECOND_LINK, SPECIAL = "hidden", "of an output of this job", "linked to twice", "not a file"
_FOLDERS = frozenset(
    (
        "_temporary", "_spark_metadata", "_delta_log", "__MACOSX", "lost+found", "@eaDir", "$RECYCLE.BIN",
        "System Volume Information",
    )
)  # fmt: skip
_FILES = frozenset(("_SUCCESS", "_metadata", "_common_metadata", "Thumbs.db", "desktop.ini"))
_SIDE_FILES = (".idx", ".index", ".crc", ".md5", ".sha1", ".sha256")


def by_name(relative: str, with_hidden: bool) -> str:
    """Why a file is left out by its path `relative` to the folder or glob; '' if it is not.

    `with_hidden`: the glob itself names hidden files.
    """
    parts = relative.split("/")
    if not with_hidden and any(part.startswith(".") for part in parts):
        return HIDDEN
    for part in parts:
        if part in _FOLDERS:
            return f"in {part}/"
    if parts[-1] in _FILES:
        return parts[-1]
    if parts[-1].lower().endswith(_SIDE_FILES):
        return posixpath.splitext(parts[-1].lower())[1]
    return ""


def by_suffix(path: str) -> str:
    """The reason for leaving out a file that no kind of input claims: its suffix."""
    suffix = posixpath.splitext(posixpath.basename(path))[1].lower()
    return suffix or "without suffix"


def ours(paths: Iterable[str]) -> set[str]:
    """Those of `paths` that this job wrote: named like output files, in a folder with receipts or a request note."""
    outputs: dict[str, bool] = {}
    written = set()
    for path in paths:
        folder = folder_of(path)
        if folder is not None:
            if folder not in outputs:
                outputs[folder] = _is_output(folder)
            if outputs[folder]:
                written.add(path)
    return written


def _is_output(folder: str) -> bool:
    layout = Layout(folder)
    receipts = door.match(Layout(door.escape(folder)).receipt("*"))
    if any(folder_of(file.path) for file in receipts) or request.is_begun(layout):
        return True
    with contextlib.suppress(request.NotARequest):  # a run that found nothing new leaves these two
        return layout.is_finished() and request.kept(layout) is not None
    return False
