"""One attempt at one shard: its files under temporary names, and their commit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from transforms.commit import claim, ledger, receipts, replace, retry_failures, versions
from transforms.commit.claim import Claim
from transforms.commit.files import FileWriter
from transforms.commit.layout import Layout, failures_name, features_name, new_attempt
from transforms.commit.receipts import Receipt
from transforms.elements import Decoded, Failure, FeatureChunk, Shard
from transforms.records import features
from transforms.storage.errors import StorageFailed

_RECORDS_AT_ONCE = 64  # more would only take more memory


class BrokenShard(RuntimeError):
    """The chunks of a shard are incomplete or out of order; nothing of it is committed."""


class ShardWriter:
    """Writes one attempt at one shard: append chunks in order, then commit, or abort.

    A retry merges its new items with the shard's committed ones.
    """

    def __init__(self, layout: Layout, shard: Shard, fingerprint: Mapping[str, Any]):
        self._layout = layout
        self._shard = shard
        self._fingerprint = fingerprint
        self._old = retry_failures.current_receipt(layout, shard, shard.retry) if shard.retry else None
        self._committed = retry_failures.committed_items(layout, self._old) if self._old else None
        self._attempt = new_attempt(shard.label, self._old.digest if self._old else "")
        self._features = self._open(features_name(shard.label))
        self._ledger: FileWriter | None = None
        self._arrived = self._position = self._written = 0
        self._codes: dict[str, int] = {}
        self._unfit = self._old.unfit_values if self._old else 0  # what failed has none
        self._model: Mapping[str, str] = self._old.model if self._old else {}
        self._outputs: dict[str, int] = dict(self._old.outputs) if self._old else {}

    def _open(self, name: str) -> FileWriter:
        return FileWriter(self._layout.unfinished(self._attempt, name), name)

    def _broken(self, what: str) -> BrokenShard:
        return BrokenShard(f"shard {self._shard.label} ({self._shard.name}): {what}")

    def append(self, chunk: FeatureChunk) -> None:
        """Writes a chunk's records and ledger lines. Raises BrokenShard if it is not the next chunk."""
        if chunk.position != self._arrived:
            what = f"expected the chunk at position {self._arrived}, got {chunk.position}"
            raise self._broken(f"{what}: this runner reordered or lost chunks")
        self._arrived += len(chunk.items)
        decoded: list[Decoded] = []  # not written yet
        for item in chunk.items:
            if self._committed:
                self._write(decoded, chunk.outputs)
                self._keep(item.position)
                self._drop_line()
            if item.position != self._position:
                raise self._broken(f"item {item.position} came at position {self._position}")
            if isinstance(item, Failure):
                self._write_line(ledger.encode(item), item.code)
            else:
                decoded.append(item)
            self._position += 1
        self._write(decoded, chunk.outputs)
        self._shard = chunk.shard  # the last chunk's shard has the checksum of the input
        self._model = chunk.model
        self._outputs |= {name: output.shape[1] for name, output in chunk.outputs.items()}

    def _write(self, decoded: list[Decoded], outputs: Mapping[str, np.ndarray]) -> None:
        """Writes the records of these images, and empties the list."""
        for start in range(0, len(decoded), _RECORDS_AT_ONCE):
            self._features.write(features.encode(decoded[start : start + _RECORDS_AT_ONCE], outputs))
        self._written += len(decoded)
        self._unfit += sum(item.unfit for item in decoded)
        decoded.clear()

    def _keep(self, end: int) -> None:
        """Copies the committed items from the current position up to `end`."""
        while self._committed and self._position < end:
            kept = next(self._committed, None)
            if isinstance(kept, bytes):
                self._features.write(kept)
                self._written += 1
            elif kept and not kept.can_be_retried:
                self._write_line(kept.raw, kept.code)
            else:
                raise self._broken(f"position {self._position} was not retried")
            self._position += 1

    def _drop_line(self) -> None:
        """Skips the ledger line that a new item replaces."""
        old = next(self._committed, None) if self._committed else None
        if not isinstance(old, ledger.Line) or not old.can_be_retried:
            raise self._broken(f"position {self._position} had not failed")

    def _write_line(self, line: bytes, code: str) -> None:
        if self._ledger is None:
            self._ledger = self._open(failures_name(self._shard.label))
        self._ledger.write(line)
        self._codes[code] = self._codes.get(code, 0) + 1

    def commit(self) -> Receipt:
        """Commits this attempt, or what another attempt has claimed or committed first; returns the receipt in place.

        What fails before the claim deletes this attempt's files; from then on whoever finds the claim needs them.
        Raises BrokenShard, LostCommit, ChangedMeanwhile or StorageFailed."""
        try:
            receipt = self._close()
        except BaseException:
            self.abort()
            raise
        # All inputs failed again, in the same way.
        if self._old and dataclasses.replace(receipt, versions=self._old.versions) == self._old:
            self.abort()
            return receipt
        mine = Claim(self._attempt, receipt)
        try:
            if self._old is None:
                return claim.commit(self._layout, mine)
            return replace.replace(self._layout, self._old.digest, mine)
        except StorageFailed:
            claim.withdraw(self._layout, self._attempt)
            raise

    def _close(self) -> Receipt:
        """Closes the files, and returns the receipt that they deserve."""
        label, source = self._shard.label, self._shard.source
        if self._old and self._committed:
            self._keep(self._old.inputs)
            next(self._committed, None)  # compares the files read with the receipt
        files = [file for file in (self._features, self._ledger) if file]
        for file in files:
            file.close()
        failed = sum(self._codes.values())
        expected = self._position if source.inputs is None else source.inputs
        if self._written + failed != expected:
            what = f"{self._written} features and {failed} failures"
            raise self._broken(f"{what} do not add up to {expected} inputs")
        current = versions.current()
        return Receipt(
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
            versions=versions.merged(self._old.versions, current) if self._old else current,
            unfit_values=self._unfit,
            unused_images=source.unused_images,
        )

    def _input(self) -> Mapping[str, Any]:
        identity = self._shard.source.identity()
        if self._old is None:
            return identity
        if not receipts.same_bytes(self._old.input, identity):
            raise self._broken("the input is not the one that the shard was made of")
        return self._old.input

    def abort(self) -> None:
        """Deletes this attempt's files, and closes the committed ones that it reads."""
        if self._committed:
            self._committed.close()
        for file in (self._features, self._ledger):
            if file:
                file.discard()
