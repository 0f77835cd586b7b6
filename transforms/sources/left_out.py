"""What of a folder is never input: what systems and tools leave beside the data, and what this job wrote itself."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from transforms.commit.receipts import Layout
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

_OURS = re.compile(
    r"(?s)(.*?)(?:^|/)(?:features-\d{5,}-of-\d{5,}\.tfrecord|failures-\d{5,}-of-\d{5,}\.jsonl|receipts/\d{5,}-of-\d{5,}\.json"
    r"|manifest\.json|inputs\.txt|\.tmp/.*)"
)
_RECEIPT = re.compile(r"\d{5,}-of-\d{5,}\.json")


def by_name(relative: str, with_hidden: bool) -> str:
    """Why a file is left out for its path below the folder or glob that brings it; '' if it is not.

    `with_hidden`: the request names hidden files itself.
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
    """Why a file is left out that no kind of input claims."""
    suffix = posixpath.splitext(posixpath.basename(path))[1].lower()
    return suffix or "without suffix"


def ours(paths: Iterable[str]) -> set[str]:
    """Those of `paths` that this job wrote: files with the names of an output's, beside its receipts or its request."""
    outputs: dict[str, bool] = {}
    written = set()
    for path in paths:
        match = _OURS.fullmatch(path)
        if match:
            folder = match[1] or ("/" if path.startswith("/") else ".")
            if folder not in outputs:
                outputs[folder] = _is_output(folder)
            if outputs[folder]:
                written.add(path)
    return written


def _is_output(folder: str) -> bool:
    layout = Layout(folder)
    receipts = door.match(door.join(folder, "receipts", "*.json"))
    named = any(_RECEIPT.fullmatch(posixpath.basename(file.path)) for file in receipts)
    return named or door.exists(layout.request)
