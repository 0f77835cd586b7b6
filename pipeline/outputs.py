"""What a job has committed to its output folder, for commands that read it."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from apache_beam.io.filesystem import BeamIOError

from pipeline.flags import RequestError
from transforms.commit import receipts
from transforms.commit.layout import MANIFEST, REQUEST, Layout, features_name
from transforms.commit.receipts import Receipt
from transforms.exporting.base import Part
from transforms.manifest import manifest
from transforms.storage import door, globs


@dataclass(frozen=True)
class Committed:
    """The committed shards of an output folder, in order."""

    layout: Layout
    receipts: tuple[Receipt, ...]
    shards: int  # of the job, committed or not

    @property
    def manifest(self) -> str:
        """The manifest of these shards, as JSON."""
        return manifest(self.receipts, self.fingerprint, self.shards).decode()

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """That of its shards."""
        return self.receipts[0].fingerprint

    @property
    def digest(self) -> str:
        """Differs if anything that was committed does."""
        return hashlib.sha256("".join(receipt.digest for receipt in self.receipts).encode()).hexdigest()[:16]

    @property
    def rows(self) -> int:
        """Feature records."""
        return sum(receipt.features for receipt in self.receipts)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The shards, to be exported."""
        parts, first = [], 0
        for receipt in self.receipts:
            label = receipt.shard
            parts.append(Part(label, receipt.features, first, receipt.file(features_name(label))))
            first += receipt.features
        return tuple(parts)


@dataclass(frozen=True)
class Several:
    """What one or several outputs have committed, as if they were one: in the order of outputs and shards."""

    outputs: tuple[Committed, ...]

    @property
    def manifest(self) -> str:
        """The manifest of all shards together, as JSON. Raises RequestError if the outputs were made by different requests."""
        first, *others = self.outputs
        for other in others:
            for name, (old, new) in receipts.conflicts(first.fingerprint, other.fingerprint).items():
                raise RequestError(
                    f"{other.layout.folder} has {name} = {new!r}, {first.layout.folder} has {old!r}: take them one by one"
                )
        done = itertools.chain.from_iterable(output.receipts for output in self.outputs)
        return manifest(done, first.fingerprint, sum(output.shards for output in self.outputs)).decode()

    @property
    def digest(self) -> str:
        """Differs if anything that was committed does."""
        first, *others = (output.digest for output in self.outputs)
        return hashlib.sha256("".join((first, *others)).encode()).hexdigest()[:16] if others else first

    @property
    def rows(self) -> int:
        """Feature records."""
        return sum(output.rows for output in self.outputs)

    @property
    def parts(self) -> Iterator[tuple[Committed, Part]]:
        """The shards, each with its output; its first row is one of all outputs."""
        first = 0
        for output in self.outputs:
            yield from ((output, replace(part, first=part.first + first)) for part in output.parts)
            first += output.rows

    def label(self, output: Committed, part: Part) -> str:
        """What tells a shard apart: its label, behind the folder of its output if there are several."""
        return part.label if len(self.outputs) == 1 else f"{output.layout.folder}/{part.label}"


def real(folder: str) -> str:
    """A folder in a form that is the same for each of its names."""
    return os.path.realpath(door.local(folder)) if door.is_local(folder) else folder.rstrip("/")


def folders(text: str) -> list[str]:
    """The output folders that a path or glob names, in order. One without any sign of a job is none of a glob's."""
    if globs.literal(text) is not None:
        return [text]
    # A job leaves its request at its start; those of earlier versions have a manifest only.
    marks = [file.path for name in (REQUEST, MANIFEST) for file in door.match(door.join(text, name))]
    return sorted({path.rpartition("/")[0] for path in marks})


def committed(output: str, partial: bool = False, allow_empty: bool = False) -> Committed:
    """What is committed to `output`, a path or URI.

    Raises RequestError if that is nothing, unless `partial`, if it is not all, and, unless `allow_empty`, if there is no record.
    """
    layout = Layout(output)
    try:
        done = receipts.read_receipts(layout)
        is_finished = door.exists(layout.manifest)
    except (BeamIOError, OSError, ValueError, ImportError) as error:
        raise RequestError(f"{output} cannot be read: {door.explain(output, error)}") from error
    if not done:
        is_of_none = b'"shards": 0,' in (door.read_if_there(layout.manifest) or b"")
        if allow_empty and (is_of_none or (partial and door.exists(layout.request))):
            return Committed(layout, (), 0)
        reason = (
            "no features: earlier outputs hold all of its input" if is_of_none else "no output of this job"
        )
        raise RequestError(f"{output} holds {reason}, and has no receipt of a shard")
    shards = int(done[0].shard.split("-of-")[1])
    replaced = [receipt.shard for receipt in done if receipt.replacing]
    if not partial and (len(done) < shards or replaced or not is_finished):
        raise RequestError(
            f"{output} is not finished: {len(done) - len(replaced)} of {shards} shards are committed; run the job again to "
            "complete it, or take what is committed (--partial; in Python partial=True)"
        )
    kept = tuple(receipt for receipt in done if not receipt.replacing)
    for receipt in kept:
        for name, (old, new) in receipts.conflicts(kept[0].fingerprint, receipt.fingerprint).items():
            raise RequestError(
                f"{output} mixes two jobs: {name} is {old!r} in shard {kept[0].shard} and {new!r} in {receipt.shard}; "
                "`python -m pipeline.verify` lists all differences"
            )
    result = Committed(layout, kept, shards)
    if not result.rows and not allow_empty:
        raise RequestError(f"{output} holds no features: every image failed, and the ledgers say why")
    return result


def several(texts: Sequence[str], partial: bool = False) -> Several:
    """What is committed to the outputs that paths and globs name. Several of them may be without records, but not all.

    Raises RequestError as `committed` does, and for globs that name none."""
    found = list({real(folder): folder for text in texts for folder in folders(text)}.values())
    every = (committed(folder, partial, allow_empty=len(found) > 1) for folder in found)
    result = Several(tuple(output for output in every if output.receipts))
    if not result.rows:
        raise RequestError(f"{', '.join(texts) or 'an empty list'} names no output of this job with features")
    return result
