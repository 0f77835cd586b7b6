"""Outputs of jobs that tests write themselves: any values as features, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import google_crc32c

from tests import helpers
from transforms.commit.files import FileSummary
from transforms.commit.layout import Layout, features_name
from transforms.commit.receipts import Receipt
from transforms.manifest import manifest
from transforms.records import tfrecord


def write(
    folder: Path,
    shards: Sequence[Sequence[Mapping[str, object]]],
    dimensions: Mapping[str, int],
    label: str = "label",
    failures: int = 0,
    **fingerprint: object,
) -> Path:
    """The output of a finished job whose records hold these features; `failures` are of the first shard."""
    layout = Layout(str(folder))
    (folder / "receipts").mkdir(parents=True)
    fingerprint = {
        "model": {"name": "/no/such/model", "weights": "sha256:0"},
        "schema": {"pass_through": [label]},
        **fingerprint,
    }
    done = []
    for index, records in enumerate(shards):
        shard = f"{index:05d}-of-{len(shards):05d}"
        data = b"".join(tfrecord.frame(helpers.example(record)) for record in records)
        (folder / features_name(shard)).write_bytes(data)
        crc = google_crc32c.Checksum(data).hexdigest().decode()
        failed = 0 if index else failures
        receipt = Receipt(
            shard=shard,
            name=f"in-{index}",
            input={},
            inputs=len(records) + failed,
            features=len(records),
            failures=failed,
            failures_by_code={"bad_jpeg": failed} if failed else {},
            files=(FileSummary(features_name(shard), len(data), crc),),
            outputs=dict(dimensions) if records else {},
            fingerprint=fingerprint,
            model={},
        )
        (folder / "receipts" / f"{shard}.json").write_bytes(receipt.to_json())
        done.append(receipt)
    Path(layout.manifest).write_bytes(manifest(done, fingerprint, len(shards)))
    return folder
