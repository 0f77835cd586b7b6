"""What the outputs that --skip_done names hold already. Writes nothing."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from apache_beam.io.filesystem import BeamIOError

from pipeline import outputs
from pipeline.flags import RequestError
from pipeline.options import DIRECTORY
from transforms.commit import receipts, request
from transforms.commit.layout import Layout
from transforms.commit.receipts import Receipt
from transforms.sources import listing, uri_list
from transforms.sources.base import WHOLE, Bounds
from transforms.sources.rows import Slice
from transforms.storage import door
from transforms.storage.errors import is_transient

_BOUNDS = re.compile(r"(.*)\[(\d+):(\d+)\]", re.DOTALL)


def files_of(layout: Layout) -> list[str] | None:
    """The files that an output was begun with, in order; None if it does not list them, as of an earlier version."""
    for path in (layout.listing, layout.input_files):
        if (content := door.read_if_there(path)) is not None:
            return listing.texts(content)
    return None


def line_of(path: str) -> str:
    """A path as `files_of` gives it."""
    return listing.texts(listing.line(path) + b"\n")[0]


def complete(text: str, directory: str = "") -> str:
    """A path, or a line of a list of files, in a form that depends on no working directory."""
    if "://" in text or not door.is_local(text):
        return text
    return line_of(os.path.abspath(os.path.join(directory, door.local(text))))


def bounded(line: str) -> tuple[str, Bounds]:
    """A line that `files_of` gives for a list, and the bounds of the rows that the output is made of."""
    match = _BOUNDS.fullmatch(line)
    return (match[1], (int(match[2]), int(match[3]))) if match else (line, WHOLE)


def name_of(path: str) -> str:
    """A path without its folder."""
    return path.rpartition("/")[2]


@dataclass(frozen=True)
class Earlier:
    """What the outputs that --skip_done names hold.

    Attributes:
      fingerprints: folder of a complete output -> that of its shards; {} for one without shards.
      paths: the files that they are made of, complete.
      shards: name of a file, below the common folder of its output's files -> for each such output the identities in the
        receipts of its shards.
      slices: path of a list, complete, or its name alone -> runs of slices that follow one another.
    """

    fingerprints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    paths: Set[str] = frozenset()
    shards: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]] = field(default_factory=dict)
    slices: Mapping[str, Sequence[Sequence[Slice]]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> Mapping[str, Any] | None:
        """That of the last output which has one."""
        return next(filter(None, reversed([*self.fingerprints.values()])), None)

    def check(self, fingerprint: Mapping[str, Any]) -> None:
        """Raises RequestError if a run with this fingerprint would make other features of the same image."""
        for folder, before in self.fingerprints.items():
            differences = receipts.conflicts(before, fingerprint) if before else {}
            for name, (old, new) in differences.items():
                raise RequestError(
                    f"--skip_done={folder} was made with {name} = {old!r}, this run requests {new!r}: request the same, or "
                    "leave it out, and what it holds is done again"
                )


def read(texts: Sequence[str], own: str) -> Earlier:
    """What the outputs hold that `texts`, folders and globs of them, name, but for the job's `own`.

    Raises RequestError if one is not complete or cannot be read."""
    fingerprints: dict[str, Mapping[str, Any]] = {}
    paths: set[str] = set()
    shards: dict[str, list[list[Mapping[str, Any]]]] = {}
    slices: dict[str, list[list[Slice]]] = {}
    folders: dict[str, None] = {}
    for text in texts:
        with _readable(text):
            folders |= dict.fromkeys(outputs.folders(text))
    for folder in sorted(folders):
        if complete(folder) != complete(own):
            with _readable(folder):
                fingerprints[folder] = _read(Layout(folder), paths, shards, slices)
    return Earlier(fingerprints, paths, shards, slices)


@contextlib.contextmanager
def _readable(text: str) -> Iterator[None]:
    """A context in which outputs are read, and what is wrong with them becomes RequestError."""
    try:
        yield
    except RequestError:
        raise
    except (OSError, BeamIOError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        if is_transient(error):
            raise
        raise RequestError(f"--skip_done={text} cannot be read: {door.explain(text, error)}") from error


def _read(
    layout: Layout,
    paths: set[str],
    shards: dict[str, list[list[Mapping[str, Any]]]],
    slices: dict[str, list[list[Slice]]],
) -> Mapping[str, Any]:
    """Adds what an output holds, and returns its fingerprint."""
    labels = receipts.labels(layout)
    _check_complete(layout, labels)
    directory = (request.kept(layout) or {}).get(DIRECTORY, "")
    files = [complete(text, directory) for text in files_of(layout) or ()]
    paths.update(files)
    if not labels:
        return {}
    if door.exists(layout.listing):  # image files: no receipt says more than the list of them
        return _receipt(layout, labels[0]).fingerprint
    fingerprint: Mapping[str, Any] = {}
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    runs: list[tuple[str, list[Slice]]] = []  # with the name of the list
    for receipt in receipts.each(layout):
        fingerprint = receipt.fingerprint
        if not uri_list.is_list(receipt.input):
            by_name.setdefault(receipt.name, []).append(receipt.input)
            continue
        name, slice_ = uri_list.list_name(receipt.name), uri_list.slice_of(receipt.input)
        if not runs or runs[-1][0] != name or runs[-1][1][-1][1] != slice_[0]:
            runs.append((name, []))
        runs[-1][1].append(slice_)
    for name, identities in by_name.items():
        shards.setdefault(name, []).append(identities)
    lists = [bounded(path)[0] for path in files] if runs else []
    paths.update(lists)
    remaining = iter(lists)
    for name, run in runs:
        path = next((path for path in remaining if name_of(path) == name), "")
        for place in filter(None, (path, name)):
            slices.setdefault(place, []).append(run)
    return fingerprint


def _receipt(layout: Layout, label: str) -> Receipt:
    receipt = receipts.read_receipt(layout, label)
    if receipt is None:
        raise ValueError(f"{layout.receipt(label)} is gone")
    return receipt


def _check_complete(layout: Layout, labels: Sequence[str]) -> None:
    of = int(labels[0].split("-of-")[1]) if labels else 0
    if len(labels) == of and (labels or layout.is_finished()):  # without shards: nothing was new
        return
    if not labels and not request.is_begun(layout) and not door.exists(layout.request):
        raise RequestError(f"--skip_done={layout.folder} holds no output of this job")
    done = f"{len(labels)} of {of}" if labels else "none of its"
    raise RequestError(
        f"--skip_done={layout.folder} is not finished: {done} shards are committed; "
        f"`python -m pipeline.main --output={layout.folder}` goes on with it, or leave it out, and what it holds is done again"
    )
