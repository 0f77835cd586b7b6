"""The manifest of a run: a pure function of the receipts, written by the graph's last step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from transforms.commit import arrays, claim, receipts
from transforms.commit.claim import LostCommit
from transforms.commit.layout import Layout
from transforms.commit.receipts import Receipt
from transforms.storage import door
from transforms.storage.door import StoreSettings


def manifest(done: Sequence[Receipt], fingerprint: Mapping[str, Any], shards: int) -> bytes:
    """The manifest as JSON: totals, failures by code, and what made the features. Equal receipts give equal bytes."""
    codes: dict[str, int] = {}
    for receipt in done:
        for code, count in receipt.failures_by_code.items():
            codes[code] = codes.get(code, 0) + count
    totals = {
        name: sum(getattr(receipt, name) for receipt in done) for name in ("inputs", "features", "failures")
    }
    values = {
        "format": receipts.FORMAT,
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
    if unfit := sum(receipt.unfit_values for receipt in done):
        values["unfit_values"] = unfit
    return json.dumps(values, indent=1, sort_keys=True).encode() + b"\n"


def _agreed(mappings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Values by name; where shards differ, as after an upgrade between two runs, a list of all of them."""
    values_by_name: dict[str, list[Any]] = {}
    for mapping in mappings:
        for name, value in mapping.items():
            values = values_by_name.setdefault(name, [])
            if value not in values:
                values.append(value)
    return {
        name: values[0] if len(values) == 1 else values for name, values in sorted(values_by_name.items())
    }


def write_manifest(layout: Layout, fingerprint: Mapping[str, Any], shards: int) -> None:
    """Ends a run: writes the manifest from all receipts, those of earlier runs included, and deletes temporary files.

    Raises LostCommit if the receipts are not those of this run, as when another job uses the same output folder, and
    OtherWeights if they are of different weights.
    """
    done = receipts.read_receipts(layout)
    of_this_run = [
        receipt
        for receipt in done
        if receipt.shard.endswith(f"-of-{shards:05d}")
        and not receipt.replacing
        and receipts.same_fingerprint(receipt.fingerprint, fingerprint)
    ]
    if not len(done) == len(of_this_run) == shards:
        raise LostCommit(
            f"{layout.folder} holds {len(of_this_run)} of this run's {shards} shards and {len(done) - len(of_this_run)} "
            "of another run: two jobs write to one output; stop one of them, then run the other with --overwrite"
        )
    arrays.check(layout, done)
    content = manifest(done, fingerprint, shards)
    if door.read_if_there(layout.manifest) != content:
        door.delete([layout.retrying])  # or a run killed before its sweep would retry again
        door.write_atomic(layout.manifest, content)
    claim.sweep_all(layout)


class WriteManifest(beam.DoFn):
    """One arbitrary element, once all shards are committed -> the manifest's path."""

    def __init__(
        self,
        layout: Layout,
        fingerprint: Mapping[str, Any],
        shards: int,
        stores: StoreSettings = StoreSettings(),  # noqa: B008  # frozen
    ):
        self._arguments = (layout, fingerprint, shards)
        self._stores = stores

    def setup(self):
        """Finds the stores of the launcher."""
        door.adopt(self._stores)

    def process(self, _) -> Iterator[str]:
        """Writes the manifest. Raises LostCommit or OtherWeights."""
        write_manifest(*self._arguments)
        yield self._arguments[0].manifest
