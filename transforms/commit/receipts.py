"""The receipts that say which shards are done.

A receipt is written after the shard's files are in place; its presence is what "done" means.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from transforms.commit.files import FileSummary
from transforms.commit.layout import Layout, label_of
from transforms.storage import door

FORMAT = 1  # of receipts and manifest
NAME_ONLY = "model.name"  # may differ in a fingerprint: one model by several names; its weights decide


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
    replacing: str = ""  # the attempt whose files are being put in the place of older ones; see replace.py

    def to_json(self) -> bytes:
        """The receipt as its file holds it; equal receipts give the same bytes."""
        values = asdict(self)
        if not self.replacing:
            del values["replacing"]
        return json.dumps(values, indent=1, sort_keys=True).encode() + b"\n"

    @property
    def digest(self) -> str:
        """Tells the states of a shard apart that follow one another."""
        return hashlib.sha256(self.to_json()).hexdigest()[:16]

    def file(self, name: str) -> FileSummary | None:
        """The committed file of this name, if the shard has one."""
        return next((file for file in self.files if file.name == name), None)

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        """The receipt of a file. Raises ValueError, KeyError, TypeError or AttributeError if it is not one."""
        values = json.loads(data)
        files = tuple(FileSummary(**file) for file in values.pop("files"))
        return cls(files=files, **values)


def read_receipt(layout: Layout, label: str) -> Receipt | None:
    """The receipt of a shard, or None while it is not done."""
    data = door.read_if_there(layout.receipt(label))
    return None if data is None else Receipt.from_json(data)


def read_receipts(layout: Layout) -> list[Receipt]:
    """All receipts of the folder, in the order of their shards."""
    paths = _paths(layout)
    contents = door.read_many(paths)
    return [_parsed(path, data) for path, data in zip(paths, contents, strict=True) if data is not None]


def _parsed(path: str, data: bytes) -> Receipt:
    try:
        return Receipt.from_json(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no receipt ({error}): delete it, and its shard is done anew") from error


def labels(layout: Layout) -> list[str]:
    """The labels of the shards that are done."""
    return [label_of(path) for path in _paths(layout)]


def _paths(layout: Layout) -> list[str]:
    return [file.path for file in door.match(layout.receipt("*"))]


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
