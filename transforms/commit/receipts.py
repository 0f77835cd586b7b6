"""Names of the output files, and the receipts that say which shards are done.

A receipt is written after the shard's files are in place; its presence is what "done" means.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import google_crc32c

from transforms.storage import door

FORMAT = 1  # of receipts and manifest
NAME_ONLY = "model.name"  # may differ in a fingerprint: one model by several names; its weights decide


@dataclass(frozen=True)
class Layout:
    """Where the files of a job stand below its output folder."""

    folder: str

    def features(self, label: str) -> str:
        return door.join(self.folder, f"features-{label}.tfrecord")

    def failures(self, label: str) -> str:
        return door.join(self.folder, f"failures-{label}.jsonl")

    def receipt(self, label: str) -> str:
        return door.join(self.folder, "receipts", f"{label}.json")

    @property
    def manifest(self) -> str:
        return door.join(self.folder, "manifest.json")

    @property
    def listing(self) -> str:
        """The image files that a glob or folder matched, one a line: what the shards of such a job refer to."""
        return door.join(self.folder, "inputs.txt")

    def claim(self, label: str, number: int) -> str:
        return door.join(self.temporary, f"{label}-claim-{number}.json")

    def begun(self, label: str) -> str:
        """Is there once an attempt at the shard has begun, until the shard is done."""
        return door.join(self.temporary, f"{label}-begun")

    @property
    def retrying(self) -> str:
        """Which shards a run with --retry_failures tries again; there until that run has ended."""
        return door.join(self.temporary, "retrying.json")

    @property
    def request(self) -> str:
        """What the job that is at work here was asked for."""
        return door.join(self.temporary, "request.json")

    @property
    def temporary(self) -> str:
        return door.join(self.folder, ".tmp")


@dataclass(frozen=True)
class FileSummary:
    """What a committed file must look like."""

    name: str
    bytes: int
    crc32c: str  # of the whole file, eight hexadecimal digits


@dataclass
class Summed:
    """A stream that sums up what is read from it."""

    stream: Any
    size: int = field(default=0, init=False)
    crc: int = field(default=0, init=False)

    def read(self, count: int) -> bytes:
        data = self.stream.read(count)
        self.size += len(data)
        self.crc = google_crc32c.extend(self.crc, data)
        return data

    def difference(self, file: FileSummary) -> str:
        """How what was read differs from what a receipt says; '' if it does not."""
        if self.size != file.bytes:
            return f"{self.size} bytes, the receipt says {file.bytes}"
        if f"{self.crc:08x}" != file.crc32c:
            return f"CRC-32C {self.crc:08x}, the receipt says {file.crc32c}"
        return ""


@dataclass(frozen=True)
class Receipt:
    """The account of one committed shard."""

    shard: str  # its label
    name: str
    input: Mapping[str, Any]
    inputs: int
    features: int
    failures: int
    failures_by_code: Mapping[str, int]
    files: tuple[FileSummary, ...]
    outputs: Mapping[str, int]  # values of each output in a record; empty in a shard without one
    fingerprint: Mapping[str, Any]  # what made it: model, preprocessing, precision, schema
    model: Mapping[str, str]  # what the loaded model said of itself
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT
    replacing: str = (
        ""  # the attempt whose files are just being put in the place of older ones; see replace.py
    )

    def to_json(self) -> bytes:
        values = asdict(self)
        if not self.replacing:
            del values["replacing"]
        return json.dumps(values, indent=1, sort_keys=True).encode() + b"\n"

    @property
    def digest(self) -> str:
        """Tells the states of a shard apart that follow one another."""
        return hashlib.sha256(self.to_json()).hexdigest()[:16]

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        values = json.loads(data)
        files = tuple(FileSummary(**file) for file in values.pop("files"))
        return cls(files=files, **values)


def read_receipt(layout: Layout, label: str) -> Receipt | None:
    """The receipt of a shard, or None while it is not done."""
    data = door.read_if_there(layout.receipt(label))
    return None if data is None else Receipt.from_json(data)


def read_receipts(layout: Layout) -> list[Receipt]:
    """All receipts of the folder, in the order of their shards."""
    found = door.match(door.join(layout.folder, "receipts", "*.json"))
    contents = door.read_many([metadata.path for metadata in found])
    return [_parsed(file.path, data) for file, data in zip(found, contents, strict=True) if data is not None]


def _parsed(path: str, data: bytes) -> Receipt:
    try:
        return Receipt.from_json(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no receipt ({error}): delete it, and its shard is done anew") from error


def labels(layout: Layout) -> list[str]:
    """The labels of the shards that are done."""
    found = door.match(door.join(layout.folder, "receipts", "*.json"))
    return [metadata.path.rsplit("/", 1)[-1].removesuffix(".json") for metadata in found]


def manifest(receipts: Iterable[Receipt], fingerprint: Mapping[str, Any], shards: int) -> bytes:
    """The manifest as JSON: totals, failures by code, what made the features. The same receipts give the same bytes."""
    done = list(receipts)
    codes: dict[str, int] = {}
    for receipt in done:
        for code, count in receipt.failures_by_code.items():
            codes[code] = codes.get(code, 0) + count
    totals = {
        name: sum(getattr(receipt, name) for receipt in done) for name in ("inputs", "features", "failures")
    }
    account = {
        "format": FORMAT,
        "shards": shards,
        "shards_done": len(done),
        **totals,
        "failures_by_code": codes,
        **fingerprint,
        "dimensions": _agreed(receipt.outputs for receipt in done),
        "loaded_model": _agreed(receipt.model for receipt in done),
        "versions": _agreed(receipt.versions for receipt in done),
        "bytes": sum(file.bytes for receipt in done for file in receipt.files),
    }
    return json.dumps(account, indent=1, sort_keys=True).encode() + b"\n"


def _agreed(mappings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Values by name; where the shards differ, as after an upgrade between two runs, a list of all."""
    seen: dict[str, list[Any]] = {}
    for mapping in mappings:
        for name, value in mapping.items():
            values = seen.setdefault(name, [])
            if value not in values:
                values.append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in sorted(seen.items())}


def same_making(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two fingerprints stand for the same features. The model's name is for people: its weights decide."""
    return not set(differences(old, new)) - {NAME_ONLY}


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Where two nested mappings differ: dotted name -> (old value, new value)."""
    out: dict[str, tuple[Any, Any]] = {}
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            out |= differences(before, after, f"{prefix}{name}.")
        elif before != after:
            out[f"{prefix}{name}"] = (before, after)
    return out


def same_bytes(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two identities, both of inputs that have been read, are of the same content."""
    summed = bool(one.get("crc32c")) and bool(other.get("crc32c"))
    return _without_time(one) == _without_time(other) if summed else dict(one) == dict(other)


def _without_time(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name != "modified"}
