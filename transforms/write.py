"""WriteShards: feature chunks in, committed shards out; and the manifest that closes a run."""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import time
import uuid
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import apache_beam as beam
import google_crc32c

from transforms import commit, identity, receipts, records, storage, tally, tfrecord
from transforms.commit import Claim, LostCommit
from transforms.elements import Decoded, Failure, FeatureChunk, RecordFile, Shard
from transforms.receipts import FileSummary, Layout, Receipt

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
        self._stream = storage.create(path)

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self.bytes += len(data)
        self._crc = google_crc32c.extend(self._crc, data)

    def close(self) -> None:
        storage.close_durably(self._stream, self.path)

    def discard(self) -> None:
        storage.discard(self._stream, self.path)

    def summary(self) -> FileSummary:
        return FileSummary(self._name, self.bytes, f"{self._crc:08x}")


class ShardWriter:
    """Writes one attempt at one shard: append chunks in order, then commit; or abort."""

    def __init__(self, layout: Layout, shard: Shard, fingerprint: Mapping[str, Any]):
        self._layout = layout
        self._shard = shard
        self._fingerprint = fingerprint
        self._attempt = f"{shard.label}-{uuid.uuid4().hex}"
        self._features = self._open(f"features-{shard.label}.tfrecord")
        self._ledger: _File | None = None
        self._position = self._written = 0
        self._codes: dict[str, int] = {}
        self._model: Mapping[str, str] = {}
        self._outputs: dict[str, int] = {}

    def _open(self, name: str) -> _File:
        return _File(commit.temporary(self._layout, self._attempt, name), name)

    def append(self, chunk: FeatureChunk) -> None:
        """Writes a chunk's records and ledger lines; BrokenShard if it is not the next one."""
        if chunk.position != self._position:
            raise BrokenShard(
                f"shard {self._shard.label} ({self._shard.name}): expected the chunk at position {self._position}, "
                f"got {chunk.position}: this runner reordered or lost chunks"
            )
        for item in chunk.items:
            if item.position != self._position:
                raise BrokenShard(
                    f"shard {self._shard.label}: item {item.position} stands at {self._position}"
                )
            if isinstance(item, Failure):
                self._fail(item)
            else:
                values = {name: output[item.row] for name, output in chunk.outputs.items()}
                self._features.write(tfrecord.frame(records.encode(item, values)))
                self._written += 1
            self._position += 1
        self._shard = chunk.shard  # the last one tells what was read
        self._model = chunk.model
        self._outputs |= {name: output.shape[1] for name, output in chunk.outputs.items()}

    def _fail(self, failure: Failure) -> None:
        if self._ledger is None:
            self._ledger = self._open(f"failures-{self._shard.label}.jsonl")
        line = {
            "key": failure.key.decode("utf-8", "backslashreplace"),
            "position": failure.position,
            "stage": failure.stage,
            "code": failure.code,
            "message": failure.message,
        }
        self._ledger.write(json.dumps(line).encode() + b"\n")
        self._codes[failure.code] = self._codes.get(failure.code, 0) + 1

    def commit(self) -> Receipt:
        """Commits this attempt, or what another attempt has claimed or committed before; returns what stands."""
        label, source = self._shard.label, self._shard.source
        files = [file for file in (self._features, self._ledger) if file]
        for file in files:
            file.close()
        failed = sum(self._codes.values())
        expected = self._position if isinstance(source, RecordFile) else source.rows
        if self._written + failed != expected:
            raise BrokenShard(
                f"shard {label} ({self._shard.name}): {self._written} features and {failed} failures "
                f"do not add up to {expected} inputs"
            )
        receipt = Receipt(
            shard=label,
            name=self._shard.name,
            input=identity.input_identity(self._shard),
            inputs=expected,
            features=self._written,
            failures=failed,
            failures_by_code=dict(sorted(self._codes.items())),
            files=tuple(file.summary() for file in files),
            outputs=dict(sorted(self._outputs.items())),
            fingerprint=self._fingerprint,
            model=dict(self._model),
            versions=versions(),
        )
        return commit.commit(self._layout, Claim(self._attempt, receipt))

    def abort(self) -> None:
        """Drops this attempt's files."""
        for file in (self._features, self._ledger):
            if file:
                file.discard()


class IsDone:
    """Whether a shard is committed. (A class, because Beam pickles functions of a module by value.)"""

    def __init__(self, layout: Layout):
        self._layout = layout

    def __call__(self, shard: Shard) -> bool:
        return storage.exists(self._layout.receipt(shard.label))


class WriteShards(beam.DoFn):
    """FeatureChunk... -> the label of each committed shard.

    Commits in `process`, when a shard's last chunk arrives, because a bundle may be the whole job.
    """

    def __init__(self, layout: Layout, fingerprint: Mapping[str, Any]):
        self._layout = layout
        self._fingerprint = fingerprint
        self._writers: dict[str, ShardWriter] = {}

    def start_bundle(self):
        self._abort()

    def process(self, chunk: FeatureChunk) -> Iterator[str]:
        began = time.monotonic()
        label = chunk.shard.label
        if chunk.position == 0 and label in self._writers:
            self._writers.pop(label).abort()
        if label not in self._writers:
            self._writers[label] = ShardWriter(self._layout, chunk.shard, self._fingerprint)
        self._writers[label].append(chunk)
        features = sum(isinstance(item, Decoded) for item in chunk.items)
        if chunk.is_last:
            self._writers.pop(label).commit()
        tally.PROCESS.add(
            features=features,
            failures=len(chunk.items) - features,
            shards=int(chunk.is_last),
            write_seconds=time.monotonic() - began,
        )
        if chunk.is_last:
            yield label

    def teardown(self):
        self._abort()

    def _abort(self) -> None:
        for writer in self._writers.values():
            writer.abort()
        self._writers = {}


def write_manifest(layout: Layout, fingerprint: Mapping[str, Any], shards: int) -> None:
    """Closes a run: the manifest from all receipts, those of earlier runs included; and no other file is left.

    Raises LostCommit if the receipts are not those of this run, as when another job has the same output folder.
    """
    done = receipts.read_receipts(layout)
    of_this_run = [
        receipt
        for receipt in done
        if receipt.shard.endswith(f"-of-{shards:05d}")
        and receipts.same_making(receipt.fingerprint, fingerprint)
    ]
    if not len(done) == len(of_this_run) == shards:
        raise LostCommit(
            f"{layout.folder} holds {len(of_this_run)} of this run's {shards} shards and {len(done) - len(of_this_run)} "
            "of another run: two jobs write to one output; stop one of them, then run the other with --overwrite"
        )
    content = receipts.manifest(done, fingerprint, shards)
    if storage.read_if_there(layout.manifest) != content:
        storage.write_atomic(layout.manifest, content)
    commit.sweep_all(layout)


class WriteManifest(beam.DoFn):
    """Any one element, after all shards are committed -> the manifest's path."""

    def __init__(self, layout: Layout, fingerprint: Mapping[str, Any], shards: int):
        self._arguments = (layout, fingerprint, shards)

    def process(self, _) -> Iterator[str]:
        write_manifest(*self._arguments)
        yield self._arguments[0].manifest
