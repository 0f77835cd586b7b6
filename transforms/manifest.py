"""The manifest of a run: a pure function of the receipts, written by the graph's last step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from transforms.commit import arrays, claim, receipts
from transforms.commit.claim import LostCommit
from transforms.commit.layout import Layout
from transforms.commit.receipts import Receipt
from transforms.storage import door
from transforms.storage.door import StoreSettings

_OPTIONAL = ("unfit_values", "unused_images")  # sums that are left out where they are 0


def manifest(done: Iterable[Receipt], fingerprint: Mapping[str, Any], shards: int) -> bytes:
    """The manifest as JSON: totals, failures by code, and what made the features. Equal receipts give equal bytes."""
    sums, codes = Counter[str](), Counter[str]()
    dimensions, loaded_model, versions = _Agreed(), _Agreed(), _Agreed()
    for receipt in done:
        sums["shards_done"] += 1
        for name in ("inputs", "features", "failures", *_OPTIONAL):
            sums[name] += getattr(receipt, name)
        sums["bytes"] += sum(file.bytes for file in receipt.files)
        codes.update(receipt.failures_by_code)
        dimensions.add(receipt.outputs)
        loaded_model.add(receipt.model)
        versions.add(receipt.versions)
    values = {
        "format": receipts.FORMAT,
        "shards": shards,
        **{name: sums[name] for name in ("shards_done", "inputs", "features", "failures", "bytes")},
        "failures_by_code": codes,
        **fingerprint,
        "dimensions": dimensions.values(),
        "loaded_model": loaded_model.values(),
        "versions": versions.values(),
    }
    values |= {name: sums[name] for name in _OPTIONAL if sums[name]}
    return json.dumps(values, indent=1, sort_keys=True).encode() + b"\n"


class _Agreed:
    """Values by name; where shards differ, as after an upgrade between two runs, a list of all of them."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[Any]] = {}
        self._last: Mapping[str, Any] | None = None

    def add(self, mapping: Mapping[str, Any]) -> None:
        """Takes the values of another shard."""
        if mapping is self._last:
            return
        self._last = mapping
        for name, value in mapping.items():
            values = self._by_name.setdefault(name, [])
            if value not in values:
                values.append(value)

    def values(self) -> dict[str, Any]:
        """What all shards have, or the list, by name in order."""
        return {n: v[0] if len(v) == 1 else v for n, v in sorted(self._by_name.items())}


def write_manifest(layout: Layout, fingerprint: Mapping[str, Any], shards: int) -> None:
    """Ends a run: writes the manifest from all receipts, those of earlier runs included, and deletes temporary files.

    Raises LostCommit if the receipts are not those of this run, as when another job uses the same output folder, and
    OtherWeights if they are of different weights.
    """
    seen = Counter[str]()

    def of_this_run() -> Iterator[Receipt]:
        for receipt in receipts.each(layout):
            is_of_this_run = (
                receipt.shard.endswith(f"-of-{shards:05d}")
                and not receipt.replacing
                and receipts.same_fingerprint(receipt.fingerprint, fingerprint)
            )
            seen["this" if is_of_this_run else "another"] += 1
            if is_of_this_run:
                yield receipt

    content = manifest(arrays.agreeing(layout, of_this_run()), fingerprint, shards)
    if seen["another"] or seen["this"] != shards:
        raise LostCommit(
            f"{layout.folder} holds {seen['this']} of this run's {shards} shards and {seen['another']} "
            "of another run: two jobs write to one output; stop one of them, then run the other with --overwrite"
        )
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
