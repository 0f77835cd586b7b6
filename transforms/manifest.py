"""The end of a run: its manifest, written by the graph's last step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam

from transforms.commit import claim, receipts
from transforms.commit.claim import LostCommit
from transforms.commit.receipts import Layout
from transforms.storage import door


def write_manifest(layout: Layout, fingerprint: Mapping[str, Any], shards: int) -> None:
    """Closes a run: the manifest from all receipts, those of earlier runs included; and no other file is left.

    Raises LostCommit if the receipts are not those of this run, as when another job has the same output folder.
    """
    done = receipts.read_receipts(layout)
    of_this_run = [
        receipt
        for receipt in done
        if receipt.shard.endswith(f"-of-{shards:05d}")
        and not receipt.replacing
        and receipts.same_making(receipt.fingerprint, fingerprint)
    ]
    if not len(done) == len(of_this_run) == shards:
        raise LostCommit(
            f"{layout.folder} holds {len(of_this_run)} of this run's {shards} shards and {len(done) - len(of_this_run)} "
            "of another run: two jobs write to one output; stop one of them, then run the other with --overwrite"
        )
    content = receipts.manifest(done, fingerprint, shards)
    if door.read_if_there(layout.manifest) != content:
        door.delete([layout.retrying])  # else a run killed before its sweep would try again
        door.write_atomic(layout.manifest, content)
    claim.sweep_all(layout)


class WriteManifest(beam.DoFn):
    """Any one element, after all shards are committed -> the manifest's path."""

    def __init__(self, layout: Layout, fingerprint: Mapping[str, Any], shards: int):
        self._arguments = (layout, fingerprint, shards)

    def process(self, _) -> Iterator[str]:
        write_manifest(*self._arguments)
        yield self._arguments[0].manifest
