"""Where the files of a job stand below its output folder, and what they are called, those of its attempts included.

All attempts at one commit begin their temporary names alike, with the commit's *stem*: the shard's label, or for the
replacement of a committed shard `retry-LABEL-BASE`, where BASE is the digest of the receipt to be replaced.
"""

from __future__ import annotations

import posixpath
import re
import uuid
from dataclasses import dataclass

from transforms.records import features
from transforms.storage import door

_LABEL = r"\d{5,}-of-\d{5,}"
_FEATURES, _FAILURES, _RECEIPTS, _TEMPORARY = "features-", "failures-", "receipts", ".tmp"
MANIFEST, LISTING = "manifest.json", "inputs.txt"

# How the names of files begin that belong to one shard, in the folder of a job.
OF_SHARDS = (_FEATURES, _FAILURES, f"{_RECEIPTS}/", f"{_TEMPORARY}/")


def features_name(label: str) -> str:
    """The file of a shard's features, below the output folder."""
    return f"{_FEATURES}{label}{features.SUFFIX}"


def failures_name(label: str) -> str:
    """The ledger of a shard's failures, below the output folder."""
    return f"{_FAILURES}{label}.jsonl"


def receipt_name(label: str) -> str:
    """The receipt of a shard, below the output folder."""
    return f"{_RECEIPTS}/{label}.json"


_RECEIPT = re.compile(rf"(?:.*/)?{_RECEIPTS}/([^/]+)\.json", re.DOTALL)
_DATA = re.compile(rf"{_FEATURES}{_LABEL}{re.escape(features.SUFFIX)}|{_FAILURES}{_LABEL}\.jsonl")
_OURS = tuple(
    re.compile(rf"(.*?)(?:^|/)(?:{names})", re.DOTALL)
    for names in (
        rf"{_DATA.pattern}|{_RECEIPTS}/{_LABEL}\.json|{re.escape(MANIFEST)}|{re.escape(LISTING)}",
        rf"{re.escape(_TEMPORARY)}/[^/]+",
    )
)


def label_of(path: str) -> str:
    """The label in the path of a receipt; '' in any other path."""
    match = _RECEIPT.fullmatch(path)
    return match[1] if match else ""


def is_data(name: str) -> bool:
    """Whether a path below an output folder, such as 'features-00000-of-00001.tfrecord', is a shard's data."""
    return bool(_DATA.fullmatch(name))


def folder_of(path: str) -> str | None:
    """The output folder that `path` lies in, by the names that a job gives to its files; None for other names."""
    if door.is_temporary(path):  # a small file that is not yet renamed
        path = path.rsplit(".", 2)[0]
    match = next(filter(None, (pattern.fullmatch(path) for pattern in _OURS)), None)
    return (match[1] or ("/" if path.startswith("/") else ".")) if match else None


def new_attempt(label: str, base: str = "") -> str:
    """The name of a new attempt at a shard, or at replacing its receipt of digest `base`."""
    stem = f"retry-{label}-{base}" if base else label
    return f"{stem}-{uuid.uuid4().hex}"


def stem_of(attempt: str) -> str:
    """What the names of all attempts at the same commit begin with."""
    return attempt.rpartition("-")[0]


@dataclass(frozen=True)
class Layout:
    """The paths of a job's files. A label or number '*' gives the pattern that matches all of a kind."""

    folder: str

    def features(self, label: str) -> str:
        return door.join(self.folder, features_name(label))

    def failures(self, label: str) -> str:
        return door.join(self.folder, failures_name(label))

    def receipt(self, label: str) -> str:
        return door.join(self.folder, receipt_name(label))

    @property
    def data(self) -> str:
        """The pattern of all features and ledgers; it may match other files, too."""
        return door.join(self.folder, "f*")

    @property
    def receipts(self) -> str:
        return door.join(self.folder, _RECEIPTS)

    @property
    def manifest(self) -> str:
        return door.join(self.folder, MANIFEST)

    @property
    def listing(self) -> str:
        """The image files that a glob or folder matched, one per line: what the shards of such a job refer to."""
        return door.join(self.folder, LISTING)

    @property
    def temporary(self) -> str:
        return door.join(self.folder, _TEMPORARY)

    @property
    def request(self) -> str:
        """What the job that is at work here was asked for."""
        return door.join(self.temporary, "request.json")

    @property
    def retrying(self) -> str:
        """Which shards a run with --retry_failures tries again; there until that run has ended."""
        return door.join(self.temporary, "retrying.json")

    def begun(self, label: str) -> str:
        """Is there once an attempt at the shard has begun, until the shard is done."""
        return door.join(self.temporary, f"{label}-begun")

    def attempts(self, stem: str) -> str:
        """The pattern of all that attempts at one commit leave, their claims included."""
        return door.join(self.temporary, f"{stem}-*")

    def claim(self, stem: str, number: int | str) -> str:
        return door.join(self.temporary, f"{stem}-claim-{number}.json")

    def unfinished(self, attempt: str, name: str) -> str:
        """Where an attempt writes the file that will be called `name`."""
        return door.join(self.temporary, attempt + posixpath.splitext(name)[1])

    def final_receipt(self, attempt: str) -> str:
        """The receipt of a replacement as it will stand in the end."""
        return door.join(self.temporary, f"{attempt}.receipt")

    def marked_receipt(self, attempt: str) -> str:
        """The receipt of a replacement as it stands while the files are put in place."""
        return door.join(self.temporary, f"{attempt}.replacing")
