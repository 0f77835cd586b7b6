"""The names and places of a job's files below its output folder, temporary files included.

The temporary names of all attempts at one commit begin with the commit's *stem*: the shard's label, or, for the
replacement of a committed shard, `retry-LABEL-BASE`, where BASE is the digest of the receipt to replace.
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
MANIFEST, LISTING, REQUEST = "manifest.json", "inputs.txt", "request.json"
INPUT_FILES = "input_files.txt"
CLASS_NAMES = "class_names.txt"

# Prefixes of the names, below the output folder, of files that belong to a single shard.
OF_SHARDS = (_FEATURES, _FAILURES, f"{_RECEIPTS}/", f"{_TEMPORARY}/")


def features_name(label: str) -> str:
    """The name of a shard's feature file, below the output folder."""
    return f"{_FEATURES}{label}{features.SUFFIX}"


def failures_name(label: str) -> str:
    """The name of a shard's ledger of failures, below the output folder."""
    return f"{_FAILURES}{label}.jsonl"


def receipt_name(label: str) -> str:
    """The name of a shard's receipt, below the output folder."""
    return f"{_RECEIPTS}/{label}.json"


# Hidden files are none: macOS leaves some, of the same names behind "._", on disks of other systems.
_RECEIPT = re.compile(rf"(?:.*/)?{_RECEIPTS}/([^/.][^/]*)\.json", re.DOTALL)
_DATA = re.compile(rf"{_FEATURES}{_LABEL}{re.escape(features.SUFFIX)}|{_FAILURES}{_LABEL}\.jsonl")
_OURS = (
    re.compile(rf"(.*)(?:^|/){re.escape(_TEMPORARY)}/[^/]+", re.DOTALL),
    re.compile(
        rf"(.*?)(?:^|/)(?:{_DATA.pattern}|{_RECEIPTS}/{_LABEL}\.json|"
        rf"{'|'.join(map(re.escape, (MANIFEST, LISTING, INPUT_FILES, REQUEST, CLASS_NAMES)))})",
        re.DOTALL,
    ),
)


def label_of(path: str) -> str:
    """The label in the path of a receipt; '' for any other path."""
    match = _RECEIPT.fullmatch(path)
    return match[1] if match else ""


def order(label: str) -> tuple[int, str]:
    """The key that sorts the labels of an output by their numbers: as text, 100000-of-... comes before 99999-of-..."""
    return len(label.partition("-")[0]), label


def is_data(name: str) -> bool:
    """Whether a path below an output folder, such as 'features-00000-of-00001.tfrecord', is a feature file or ledger."""
    return bool(_DATA.fullmatch(name))


def folder_of(path: str) -> str | None:
    """The output folder of `path`, if its name is one that a job gives to its files; else None."""
    if door.is_temporary(path):  # a small file that has not been renamed yet
        path = path.rsplit(".", 2)[0]
    match = next(filter(None, (pattern.fullmatch(path) for pattern in _OURS)), None)
    return (match[1] or ("/" if path.startswith("/") else ".")) if match else None


def new_attempt(label: str, base: str = "") -> str:
    """A unique name for an attempt at a shard, or at replacing its receipt of digest `base`."""
    stem = f"retry-{label}-{base}" if base else label
    return f"{stem}-{uuid.uuid4().hex}"


def stem_of(attempt: str) -> str:
    """The stem of an attempt's name, shared by all attempts at the same commit."""
    return attempt.rpartition("-")[0]


@dataclass(frozen=True)
class Layout:
    """The paths of a job's files. With '*' as label or number, a path is a glob for all files of that kind."""

    folder: str

    def features(self, label: str) -> str:
        """A shard's feature file."""
        return door.join(self.folder, features_name(label))

    def failures(self, label: str) -> str:
        """A shard's ledger of failures; absent if none failed."""
        return door.join(self.folder, failures_name(label))

    def receipt(self, label: str) -> str:
        """A shard's receipt; its presence means that the shard is done."""
        return door.join(self.folder, receipt_name(label))

    @property
    def data(self) -> str:
        """A glob for all feature files and ledgers; it may match other files, too."""
        return door.join(self.folder, "f*")

    @property
    def receipts(self) -> str:
        """The folder of the receipts."""
        return door.join(self.folder, _RECEIPTS)

    @property
    def manifest(self) -> str:
        """Written last, once all shards are done."""
        return door.join(self.folder, MANIFEST)

    @property
    def listing(self) -> str:
        """The image files that a glob or folder matched, one per line; shards refer to byte ranges of it."""
        return door.join(self.folder, LISTING)

    @property
    def input_files(self) -> str:
        """The files of any other kind that the output is made of, one per line: what is new later is told from them."""
        return door.join(self.folder, INPUT_FILES)

    @property
    def class_names(self) -> str:
        """The names of a tuned head's classes, one per line, in the order of the logits; the manifest has its digest."""
        return door.join(self.folder, CLASS_NAMES)

    @property
    def temporary(self) -> str:
        """The folder of all temporary files; deleted at the end of a run."""
        return door.join(self.folder, _TEMPORARY)

    @property
    def request(self) -> str:
        """The request of the output, by which a command that names only the output repeats it."""
        return door.join(self.folder, REQUEST)

    @property
    def running(self) -> str:
        """The note of the job that is using this output folder."""
        return door.join(self.temporary, "running.json")

    @property
    def running_before(self) -> str:
        """Where versions before 0.2 left that note."""
        return door.join(self.temporary, "request.json")

    @property
    def arrays(self) -> str:
        """The digest of the weights that a run uses."""
        return door.join(self.temporary, "arrays")

    @property
    def retrying(self) -> str:
        """The shards that a run with --retry_failures tries again; deleted when that run has ended."""
        return door.join(self.temporary, "retrying.json")

    def plan(self, digest: str) -> str:
        """The shards of a run that has too many for its graph; see plan_file.py."""
        return door.join(self.temporary, f"plan-{digest}")

    def is_finished(self) -> bool:
        """Whether all shards are committed, and the run that did so has written the manifest."""
        return door.exists(self.manifest)

    def attempts(self, stem: str) -> str:
        """A glob for all files of the attempts at one commit, claims included."""
        return door.join(self.temporary, f"{stem}-*")

    def files_of(self, attempt: str) -> str:
        """A glob for all files of one attempt but its claim."""
        return door.join(self.temporary, f"{attempt}.*")

    def claim(self, stem: str, number: int | str) -> str:
        """A claim to a commit; those after number 0 exist only where the files of earlier ones are gone."""
        return door.join(self.temporary, f"{stem}-claim-{number}.json")

    def unfinished(self, attempt: str, name: str) -> str:
        """The temporary path of an attempt's future file `name`."""
        return door.join(self.temporary, attempt + posixpath.splitext(name)[1])

    def final_receipt(self, attempt: str) -> str:
        """The final receipt of a replacement."""
        return door.join(self.temporary, f"{attempt}.receipt")

    def marked_receipt(self, attempt: str) -> str:
        """The receipt of a replacement that is in place while its files are moved."""
        return door.join(self.temporary, f"{attempt}.replacing")
