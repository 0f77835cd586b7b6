"""One attempt at one shard: its files under temporary names, then its commit."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import platform
import uuid
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import google_crc32c

from transforms.commit import claim, receipts, replace, retry
from transforms.commit.claim import Claim
from transforms.commit.receipts import FileSummary, Layout, Receipt
from transforms.elements import Failure, FeatureChunk, Shard
from transforms.records import examples, tfrecord
from transforms.storage import door

_PACKAGES = ("apache-beam", "numpy", "opencv-python-headless", "pillow", "simplejpeg", "tensorflow")


class BrokenShard(RuntimeError):
    """The chunks of a shard do not add up; nothing of it is committed."""


@functools.cache
def versions() -> dict[str, str]:
    """The versions that decide the bytes of a feature."""
    known = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # another distribution of the same module
            known[name] = metadata.version(name)
    return known


class _File:
    """A file under a temporary name, with its size and checksum."""

    def __init__(self, path: str, name: str):
        self.path = path
        self._name = name
        self.bytes = 0
        self._crc = 0
        self._stream = door.create(path)

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self.bytes += len(data)
        self._crc = google_crc32c.extend(self._crc, data)

    def close(self) -> None:
        door.close_durably(self._stream, self.path)

    def discard(self) -> None:
        door.discard(self._stream, self.path)

    def summary(self) -> FileSummary:
        return FileSummary(self._name, self.bytes, f"{self._crc:08x}")


class ShardWriter:
    """Writes one attempt at one shard: append chunks in order, then commit; or abort.

    A retry merges what it gets with what the shard holds.
    """

    def __init__(self, layout: Layout, shard: Shard, fingerprint: Mapping[str, Any]):
        self._layout = layout
        self._shard = shard
        self._fingerprint = fingerprint
        self._old = retry.standing(layout, shard, shard.retry) if shard.retry else None
        self._committed = retry.committed(layout, self._old) if self._old else None
        self._attempt = (
            replace.attempt_name(shard.label, self._old.digest)
            if self._old
            else f"{shard.label}-{uuid.uuid4().hex}"
        )
        self._features = self._open(f"features-{shard.label}.tfrecord")
        self._ledger: _File | None = None
        self._arrived = self._position = self._written = 0
        self._codes: dict[str, int] = {}
        self._model: Mapping[str, str] = self._old.model if self._old else {}
        self._outputs: dict[str, int] = dict(self._old.outputs) if self._old else {}

    def _open(self, name: str) -> _File:
        return _File(claim.temporary(self._layout, self._attempt, name), name)

    def append(self, chunk: FeatureChunk) -> None:
        """Writes a chunk's records and ledger lines; BrokenShard if it is not the next one."""
        if chunk.position != self._arrived:
            raise BrokenShard(
                f"shard {self._shard.label} ({self._shard.name}): expected the chunk at position {self._arrived}, "
                f"got {chunk.position}: this runner reordered or lost chunks"
            )
        self._arrived += len(chunk.items)
        for item in chunk.items:
            if self._committed:
                self._keep(item.position)
                self._drop_line()
            if item.position != self._position:
                raise BrokenShard(
                    f"shard {self._shard.label}: item {item.position} stands at {self._position}"
                )
            if isinstance(item, Failure):
                self._fail(item)
            else:
                values = {name: output[item.row] for name, output in chunk.outputs.items()}
                self._features.write(tfrecord.frame(examples.encode(item, values)))
                self._written += 1
            self._position += 1
        self._shard = chunk.shard  # the last one tells what was read
        self._model = chunk.model
        self._outputs |= {name: output.shape[1] for name, output in chunk.outputs.items()}

    def _keep(self, end: int) -> None:
        """Copies what the shard holds from here up to the position `end`."""
        while self._committed and self._position < end:
            kept = next(self._committed, None)
            if isinstance(kept, bytes):
                self._features.write(kept)
                self._written += 1
            elif kept and not kept.can_be_tried:
                self._write_line(kept.raw, kept.code)
            else:
                raise BrokenShard(
                    f"shard {self._shard.label} ({self._shard.name}): position {self._position} was not tried again"
                )
            self._position += 1

    def _drop_line(self) -> None:
        """Passes over the ledger line that a new item replaces."""
        old = next(self._committed, None) if self._committed else None
        if not isinstance(old, retry.Line) or not old.can_be_tried:
            raise BrokenShard(
                f"shard {self._shard.label} ({self._shard.name}): position {self._position} had not failed"
            )

    def _fail(self, failure: Failure) -> None:
        line = {
            "key": failure.key.decode("utf-8", "backslashreplace"),
            "position": failure.position,
            "stage": failure.stage,
            "code": failure.code,
            "message": failure.message,
        }
        self._write_line(json.dumps(line).encode() + b"\n", failure.code)

    def _write_line(self, line: bytes, code: str) -> None:
        if self._ledger is None:
            self._ledger = self._open(f"failures-{self._shard.label}.jsonl")
        self._ledger.write(line)
        self._codes[code] = self._codes.get(code, 0) + 1

    def commit(self) -> Receipt:
        """Commits this attempt, or what another attempt has claimed or committed before; returns what stands."""
        label, source = self._shard.label, self._shard.source
        if self._old and self._committed:
            self._keep(self._old.inputs)
            next(self._committed, None)  # checks what was read
        files = [file for file in (self._features, self._ledger) if file]
        for file in files:
            file.close()
        failed = sum(self._codes.values())
        expected = self._position if source.inputs is None else source.inputs
        if self._written + failed != expected:
            raise BrokenShard(
                f"shard {label} ({self._shard.name}): {self._written} features and {failed} failures "
                f"do not add up to {expected} inputs"
            )
        receipt = Receipt(
            shard=label,
            name=self._shard.name,
            input=self._input(),
            inputs=expected,
            features=self._written,
            failures=failed,
            failures_by_code=dict(sorted(self._codes.items())),
            files=tuple(file.summary() for file in files),
            outputs=dict(sorted(self._outputs.items())),
            fingerprint=self._fingerprint,
            model=dict(self._model),
            versions=_both(self._old.versions, versions()) if self._old else versions(),
        )
        if self._old is None:
            return claim.commit(self._layout, Claim(self._attempt, receipt))
        # All failed again, in the same way.
        if dataclasses.replace(receipt, versions=self._old.versions) == self._old:
            self.abort()
            return receipt
        return replace.replace(self._layout, self._old.digest, Claim(self._attempt, receipt))

    def _input(self) -> Mapping[str, Any]:
        now = self._shard.source.identity()
        if self._old is None:
            return now
        if not receipts.same_bytes(self._old.input, now):
            raise BrokenShard(
                f"shard {self._shard.label} ({self._shard.name}): the input is not the one that the shard was made of"
            )
        return self._old.input

    def abort(self) -> None:
        """Drops this attempt's files."""
        for file in (self._features, self._ledger):
            if file:
                file.discard()


def _both(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """The versions that made a shard; of what was upgraded before a retry, both."""
    return {
        name: " and ".join(
            dict.fromkeys(filter(None, [*old.get(name, "").split(" and "), new.get(name, "")]))
        )
        for name in {**old, **new}
    }
