"""What a retry reads: which inputs of a committed shard failed, and the features and ledger lines that stay.

Inputs that hold no record (`damaged_record`) are left as they are: the same bytes of input would fail again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from transforms.commit import receipts, replace
from transforms.commit.receipts import FileSummary, Layout, Receipt, Summed
from transforms.elements import EVERY, Retry, Shard
from transforms.records import tfrecord
from transforms.storage import door

_STAYS = "damaged_record"


class ChangedMeanwhile(RuntimeError):
    """A committed shard is not, or no longer, what its receipt says."""


@dataclass(frozen=True)
class Line:
    """A line of a ledger."""

    position: int
    code: str
    raw: bytes

    @property
    def can_be_tried(self) -> bool:
        return self.code != _STAYS


def of_receipt(receipt: Receipt) -> Retry | None:
    """The retry of a shard's failures; None if none of them can be tried again."""
    count = receipt.failures - receipt.failures_by_code.get(_STAYS, 0)
    return Retry(receipt.digest, count) if count else None


class Due:
    """Shard -> the positions of the inputs that are to be done; None if the shard is committed.

    (A class, because Beam pickles functions of a module by value.)
    """

    def __init__(self, layout: Layout):
        self._layout = layout

    def __call__(self, shard: Shard) -> Collection[int] | None:
        if shard.retry is None:
            return None if door.exists(self._layout.receipt(shard.label)) else EVERY
        receipt = receipts.read_receipt(self._layout, shard.label)
        if receipt is None:
            raise ChangedMeanwhile(f"{self._layout.receipt(shard.label)} has gone while the job runs")
        if receipt.replacing or receipt.digest != shard.retry.base:
            replace.settle(self._layout, receipt)
            return None
        return frozenset(line.position for line in _lines(self._layout, receipt) if line.can_be_tried)


def standing(layout: Layout, shard: Shard, retry: Retry) -> Receipt:
    """The receipt that is to be replaced. Raises ChangedMeanwhile if another attempt was faster."""
    receipt = receipts.read_receipt(layout, shard.label)
    if receipt is None or receipt.digest != retry.base:
        raise ChangedMeanwhile(
            f"another attempt has tried the failures of shard {shard.label} again meanwhile"
        )
    return receipt


def committed(layout: Layout, receipt: Receipt) -> Iterator[Line | bytes]:
    """What a shard holds, by position: the record, framed, or the line of the ledger.

    Raises ChangedMeanwhile at the end if the files are not those of the receipt.
    """
    lines, records = _lines(layout, receipt), _records(layout, receipt)
    line = next(lines, None)
    for position in range(receipt.inputs):
        if line and line.position == position:
            yield line
            line = next(lines, None)
        elif (record := next(records, None)) is not None:
            yield record
    if line or next(records, None) is not None:
        raise ChangedMeanwhile(f"shard {receipt.shard}: more features and failures than inputs")


def _lines(layout: Layout, receipt: Receipt) -> Iterator[Line]:
    for file in receipt.files:
        path = door.join(layout.folder, file.name)
        if path == layout.failures(receipt.shard):
            with door.open_binary(path) as stream:
                for raw in _checked_lines(path, file, stream):
                    try:
                        values = json.loads(raw)
                        yield Line(values["position"], values["code"], raw)
                    except (ValueError, KeyError, TypeError) as error:
                        raise _changed(path, f"a line is none of a ledger ({error})") from error


def _checked_lines(path: str, file: FileSummary, stream) -> Iterator[bytes]:
    summed, rest = Summed(stream), b""
    while block := summed.read(1 << 20):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield line + b"\n"
    _check(path, summed, file)


def _records(layout: Layout, receipt: Receipt) -> Iterator[bytes]:
    for file in receipt.files:
        path = door.join(layout.folder, file.name)
        if path == layout.features(receipt.shard):
            with door.open_binary(path) as stream:
                summed = Summed(stream)
                for found in tfrecord.read(summed):  # type: ignore[arg-type]
                    if isinstance(found, tfrecord.Damage):
                        raise _changed(path, f"{found.reason} at offset {found.offset}")
                    yield tfrecord.frame(found.data)
                _check(path, summed, file)


def _check(path: str, summed: Summed, file: FileSummary) -> None:
    if differs := summed.difference(file):
        raise _changed(path, differs)


def _changed(path: str, what: str) -> ChangedMeanwhile:
    return ChangedMeanwhile(
        f"{path}: {what}; `python -m pipeline.verify` tells what is wrong with the output"
    )


def read_marker(layout: Layout) -> Mapping[str, str] | None:
    """Label -> digest of the receipt to be replaced, of a retry that has not ended; None if there is none."""
    data = door.read_if_there(layout.retrying)
    return None if data is None else json.loads(data)


def write_marker(layout: Layout, shards: Collection[Shard]) -> None:
    """Notes what is to be tried again, so that a retry that was killed goes on at the next start."""
    bases = {shard.label: shard.retry.base for shard in shards if shard.retry}
    door.write_atomic(layout.retrying, json.dumps(bases).encode() + b"\n")
