"""What a retry reads: the failed inputs of a committed shard, and the features and ledger lines that it keeps."""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterator, Mapping

from transforms.commit import ledger, receipts, replace
from transforms.commit.files import CheckedStream, FileSummary
from transforms.commit.layout import Layout, failures_name, features_name
from transforms.commit.ledger import Line
from transforms.commit.receipts import Receipt
from transforms.elements import EVERY, Retry, Shard
from transforms.records import features
from transforms.records.features import Damage
from transforms.storage import door


class ChangedMeanwhile(RuntimeError):
    """A committed shard does not match its receipt, or no longer does."""


def of_receipt(receipt: Receipt) -> Retry | None:
    """The retry of a shard's failures; None if none of them can be retried."""
    count = ledger.retriable(receipt.failures_by_code)
    return Retry(receipt.digest, count) if count else None


class Due:
    """Shard -> the positions of the inputs to process; None if the shard is committed. Raises ChangedMeanwhile.

    (A class, because Beam pickles functions of a module by value.)
    """

    def __init__(self, layout: Layout):
        self._layout = layout

    def __call__(self, shard: Shard) -> Collection[int] | None:
        if shard.retry is None:
            return None if door.exists(self._layout.receipt(shard.label)) else EVERY
        receipt = receipts.read_receipt(self._layout, shard.label)
        if receipt is None:
            raise ChangedMeanwhile(
                f"{self._layout.receipt(shard.label)} was deleted while the job was running"
            )
        if receipt.replacing or receipt.digest != shard.retry.base:
            replace.settle(self._layout, receipt)
            return None
        return frozenset(line.position for line in _lines(self._layout, receipt) if line.can_be_retried)


def current_receipt(layout: Layout, shard: Shard, retry: Retry) -> Receipt:
    """The receipt that `retry` replaces. Raises ChangedMeanwhile if another attempt has replaced it already."""
    receipt = receipts.read_receipt(layout, shard.label)
    if receipt is None or receipt.digest != retry.base:
        raise ChangedMeanwhile(f"another attempt has retried the failures of shard {shard.label} meanwhile")
    return receipt


def committed_items(layout: Layout, receipt: Receipt) -> Generator[Line | bytes, None, None]:
    """A committed shard's records, framed as stored, and ledger lines, in the order of positions.

    Raises ChangedMeanwhile, at the latest at the end, if the files do not match the receipt.
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
    path = layout.failures(receipt.shard)
    if file := receipt.file(failures_name(receipt.shard)):
        for raw in _checked_lines(path, file):
            try:
                yield ledger.parse(raw)
            except (ValueError, KeyError, TypeError) as error:
                raise _changed(path, f"a line is not a ledger line ({error})") from error


def _checked_lines(path: str, file: FileSummary) -> Iterator[bytes]:
    with door.open_binary(path) as stream:
        checked, rest = CheckedStream(stream), b""
        while block := checked.read(1 << 20):
            *complete, rest = (rest + block).split(b"\n")
            for line in complete:
                yield line + b"\n"
    _check(path, checked, file)


def _records(layout: Layout, receipt: Receipt) -> Iterator[bytes]:
    path = layout.features(receipt.shard)
    if file := receipt.file(features_name(receipt.shard)):
        with door.open_binary(path) as stream:
            checked = CheckedStream(stream)
            for record in features.read(checked):
                if isinstance(record, Damage):
                    raise _changed(path, f"{record.reason} at offset {record.offset}")
                yield record.stored
        _check(path, checked, file)


def _check(path: str, checked: CheckedStream, file: FileSummary) -> None:
    if difference := checked.difference(file):
        raise _changed(path, difference)


def _changed(path: str, what: str) -> ChangedMeanwhile:
    return ChangedMeanwhile(
        f"{path}: {what}; `python -m pipeline.verify` shows what is wrong with the output"
    )


def read_marker(layout: Layout) -> Mapping[str, str] | None:
    """Label -> digest of the receipt to replace, for a retry that has not ended; None if there is none."""
    data = door.read_if_there(layout.retrying)
    try:
        return None if data is None else dict(json.loads(data))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{layout.retrying} is not the note of a retry ({error}): delete it and run with --retry_failures again"
        ) from error


def write_marker(layout: Layout, shards: Collection[Shard]) -> None:
    """Notes the shards to retry, so that a killed retry continues at the next start."""
    bases = {shard.label: shard.retry.base for shard in shards if shard.retry}
    door.write_atomic(layout.retrying, json.dumps(bases).encode() + b"\n")
