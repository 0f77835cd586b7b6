"""Receipts: a shard is done when its receipt exists, which is written once the shard's files are in place."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bit import mirrors
from transforms.commit.files import FileSummary
from transforms.commit.layout import Layout, label_of, order
from transforms.storage import door

FORMAT = 1  # version of the receipt and manifest format
NAME_ONLY = "model.name"  # may differ: a model has several names, its weights decide
_AT_ONCE = 1000  # receipts whose bytes are in memory at the same time
_ALIKE = ("failures_by_code", "outputs", "fingerprint", "model", "versions")  # in most receipts of an output


@dataclass(frozen=True)
class Receipt:
    """What is recorded of one committed shard."""

    shard: str  # its label
    name: str
    input: Mapping[str, Any]
    inputs: int
    features: int
    failures: int
    failures_by_code: Mapping[str, int]
    files: tuple[FileSummary, ...]
    outputs: Mapping[str, int]  # output -> values per record; empty in a shard without features
    fingerprint: Mapping[str, Any]  # of the request: model, preprocessing, precision, schema
    model: Mapping[str, str]  # the identity reported by the loaded model
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT
    unfit_values: int = 0  # passed-through values that did not fit the type of their column
    unused_images: int = 0  # that the input holds beside those of its inputs: see `Source.unused_images`
    replacing: str = ""  # the attempt whose files are replacing older ones; see replace.py

    def to_json(self) -> bytes:
        """The content of the receipt's file; equal receipts give equal bytes."""
        values = asdict(self)
        for name in ("replacing", "unfit_values", "unused_images"):
            if not values[name]:
                del values[name]
        return json.dumps(values, indent=1, sort_keys=True).encode() + b"\n"

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that distinguish the successive states of a shard."""
        return hashlib.sha256(self.to_json()).hexdigest()[:16]

    def file(self, name: str) -> FileSummary | None:
        """The committed file of this name, if the shard has one."""
        return next((file for file in self.files if file.name == name), None)

    @classmethod
    def from_json(cls, data: bytes, like: Receipt | None = None) -> Receipt:
        """The inverse of `to_json`. Raises ValueError, KeyError, TypeError or AttributeError if it is not a receipt.

        `like`: a receipt whose objects this one takes where their values are equal.
        """
        values = json.loads(data)
        files = tuple(FileSummary(**file) for file in values.pop("files"))
        for name in ("input", "failures_by_code", "outputs", "fingerprint", "model"):
            if not isinstance(values[name], dict):
                raise TypeError(f"{name} is no object")
        if like:
            values |= {n: same for n in _ALIKE if n in values and (same := getattr(like, n)) == values[n]}
            values["input"] = {sys.intern(name): value for name, value in values["input"].items()}
        return cls(files=files, **values)


def read_receipt(layout: Layout, label: str) -> Receipt | None:
    """The receipt of a shard; None while it is not done."""
    data = door.read_if_there(layout.receipt(label))
    return None if data is None else Receipt.from_json(data)


def read_receipts(layout: Layout) -> list[Receipt]:
    """All receipts of the output folder, in the order of their shards. Raises ValueError if one is damaged."""
    return list(each(layout))


def each(layout: Layout) -> Iterator[Receipt]:
    """The same, one after the other. Values in which they agree are the same objects: there may be a million receipts."""
    paths = _paths(layout)
    before: Receipt | None = None
    for start in range(0, len(paths), _AT_ONCE):
        some = paths[start : start + _AT_ONCE]
        for path, data in zip(some, door.read_many(some), strict=True):
            if data is not None:
                before = _parsed(path, data, before)
                yield before


def _parsed(path: str, data: bytes, before: Receipt | None) -> Receipt:
    try:
        return Receipt.from_json(data, before)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a receipt ({error}): delete it and run again to redo its shard"
        ) from error


def labels(layout: Layout) -> list[str]:
    """The labels of the shards that are done, in their order."""
    return [label_of(path) for path in _paths(layout)]


def _paths(layout: Layout) -> list[str]:
    paths = (file.path for file in door.match(layout.receipt("*")) if label_of(file.path))
    return sorted(paths, key=lambda path: order(label_of(path)))


def same_fingerprint(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two fingerprints stand for the same features. The model's name may differ; its weights may not."""
    return not conflicts(old, new)


def conflicts(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The differences of two fingerprints that change features."""
    if old == new:
        return {}
    return {name: values for name, values in differences(old, new).items() if name != NAME_ONLY}


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """The differences of two nested mappings: dotted name -> (old value, new value)."""
    out: dict[str, tuple[Any, Any]] = {}
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            out |= differences(before, after, f"{prefix}{name}.")
        elif before != after and not (name == "weights" and _same_checkpoint(old, new)):
            out[f"{prefix}{name}"] = (before, after)
    if f"{prefix}precision" in out:
        out.pop(f"{prefix}numerics", None)  # the version of another precision
    return out


def _same_checkpoint(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether both models are the same official checkpoint.

    Earlier versions identified it by TF-Hub's handle, or by the checksum of the copy at gs://bit_models, if it was named so.
    """

    def bucket_url(model: Mapping[str, Any]) -> str:
        weights = str(model.get("weights"))
        return mirrors.bucket_url(str(model.get("name")) if weights.startswith("checksums:") else weights)

    return bool(bucket_url(old)) and bucket_url(old) == bucket_url(new)


def same_bytes(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two identities of inputs that have been read stand for the same bytes."""
    ignored = {"modified"} if first.get("crc32c") and second.get("crc32c") else set()
    return all(first.get(name) == second.get(name) for name in {*first, *second} - ignored)
