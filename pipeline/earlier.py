"""What the outputs that --skip_done names hold already. Writes nothing."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from apache_beam.io.filesystem import BeamIOError

from pipeline import outputs
from pipeline.flags import RequestError
from pipeline.options import DIRECTORY
from transforms.commit import receipts, request
from transforms.commit.layout import LISTING, Layout
from transforms.commit.receipts import Receipt
from transforms.sources import input_files, listing, uri_list
from transforms.sources.names import with_names
from transforms.sources.rows import Slice
from transforms.storage import door
from transforms.storage.errors import is_transient


class File(NamedTuple):
    """A file that an output is made of, but no list: its name, as keys have it, and the identities in its receipts."""

    name: str
    path: str  # '' if it is unknown
    identities: tuple[Mapping[str, Any], ...]


class Run(NamedTuple):
    """Rows of a list that an output is made of, as slices that follow one another."""

    name: str
    path: str  # '' if it is unknown
    is_relative: bool  # whether its names are relative to its own folder
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Earlier:
    """What the outputs that --skip_done names hold. Paths are `complete`.

    Attributes:
      fingerprints: folder of an output -> that of its shards; {} for one without shards.
      images: path of an image file -> when its output was finished, in seconds since the epoch.
      notes: what the user should know.
    """

    fingerprints: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    images: dict[str, float] = field(default_factory=dict)
    files: list[File] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> Mapping[str, Any] | None:
        """That of the last output which has one."""
        return next(filter(None, reversed([*self.fingerprints.values()])), None)

    def check(self, fingerprint: Mapping[str, Any]) -> None:
        """Raises RequestError if a run with this fingerprint would make other features of the same image."""
        for folder, before in self.fingerprints.items():
            for name, (old, new) in receipts.conflicts(before, fingerprint).items() if before else ():
                raise _differs(folder, name, old, new)

    def check_schema(self, schema: Mapping[str, Any]) -> None:
        """The same for `JobConfig.schema`, before an input is compared: what a receipt sums up depends on it."""
        for folder, before in self.fingerprints.items():
            for name, new in schema.items() if before else ():
                if (old := before["schema"].get(name)) != new:
                    raise _differs(folder, f"schema.{name}", old, new)


def _differs(folder: str, name: str, old: Any, new: Any) -> RequestError:
    return RequestError(
        f"--skip_done={folder} was made with {name} = {old!r}, this run requests {new!r}: request the same, or leave it out, and "
        "what it holds is done again"
    )


def read(texts: Sequence[str], own: str) -> Earlier:
    """What the outputs hold that `texts`, folders and globs of them, name, but for the job's `own`.

    Raises RequestError if one is not complete or cannot be read."""
    out = Earlier()
    folders: dict[str, str] = {}
    for text in texts:
        with _readable(text):
            folders |= {outputs.real(folder): folder for folder in outputs.folders(text)}
    folders.pop(outputs.real(own), None)
    for folder in sorted(folders.values()):
        with _readable(folder):
            _add(out, Layout(folder))
    return out


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


def _add(out: Earlier, layout: Layout) -> None:
    """Adds what an output holds."""
    every = receipts.read_receipts(layout)
    kept = request.kept(layout) or {}
    _check_complete(layout, [receipt.shard for receipt in every], kept)
    out.fingerprints[layout.folder] = every[0].fingerprint if every else {}
    if not every:
        return
    place = functools.partial(complete, directory=kept.get(DIRECTORY, ""))
    is_list = uri_list.is_list(every[0].input)
    if is_list and every[0].name.startswith(f"{LISTING}[") and door.exists(layout.listing):
        paths = _images(layout, every)
        at = max((file.last_updated_in_seconds for file in door.match(layout.manifest)), default=0.0)
        out.images.update((place(path), at or float("inf")) for path in paths)
    elif is_list:
        paths = [*(within := input_files.read(layout, is_list=True) or {})]
        runs = list(_runs(every, {place(path): bounds for path, bounds in within.items()}))
        out.runs.extend(runs)
        if not all(run.path for run in runs):
            out.notes.append(
                f"{layout.folder} does not say where its lists are, as it was made by an earlier version: they are known by "
                "their names and rows"
            )
    else:
        paths = [*(input_files.read(layout, is_list=False) or ())]
        of_file: dict[str, list[Mapping[str, Any]]] = {}
        for receipt in every:
            of_file.setdefault(receipt.name, []).append(receipt.input)
        by_name = {name: place(path) for name, path in with_names(paths, list(of_file)).items()}
        out.files.extend(File(name, by_name.get(name, ""), tuple(ids)) for name, ids in of_file.items())
    if not kept and any(_is_relative(path) for path in paths):
        out.notes.append(
            f"{layout.folder} does not say what its paths, such as {paths[0]}, are relative to, as it was made by an earlier "
            f"version: they are taken to be relative to {os.getcwd()}"
        )


def _images(layout: Layout, every: Sequence[Receipt]) -> list[str]:
    """The paths of the image files. Raises ValueError if their list is not the one that the shards were made of."""
    content = door.read_bytes(layout.listing)
    for receipt in every:
        start, end, _, digest = uri_list.slice_of(receipt.input)
        if hashlib.sha256(content[start:end]).hexdigest() != digest:
            raise ValueError(f"{layout.listing} is not the list that shard {receipt.shard} was made of")
    return listing.texts(content)


def _runs(every: Sequence[Receipt], within: Mapping[str, Any]) -> Iterator[Run]:
    """The rows of each list; `within`: its path -> the bounds of its rows, in order, as far as the output says them."""
    slices = [(uri_list.list_name(receipt.name), uri_list.slice_of(receipt.input)) for receipt in every]
    relative = [receipt.input.get("folder") == "." for receipt in every]
    ends = iter([(path, bounds) for path, bounds in within.items() if bounds[0] != bounds[1]])
    at = 0
    while at < len(slices):
        name, (start, end, _, _) = slices[at]
        is_relative = relative[at]
        path, bounds = next(ends, ("", None))
        run = [slices[at][1]]
        while (at := at + 1) < len(slices) and slices[at][0] == name and slices[at][1][0] == end:
            if bounds and end == bounds[1]:
                break
            run.append(slices[at][1])
            end = slices[at][1][1]
        is_right = bounds == (start, end) and posixpath.basename(path) == name
        yield Run(name, path if is_right else "", is_relative, tuple(run))


def _check_complete(layout: Layout, labels: Sequence[str], kept: Mapping[str, Any]) -> None:
    of = int(labels[0].split("-of-")[1]) if labels else 0
    if labels and len(labels) == of:
        return
    manifest = door.read_if_there(layout.manifest)
    totals = json.loads(manifest) if manifest else {}
    if not labels and totals.get("shards") == 0 and "shards_done" in totals:  # nothing was new
        return
    if not labels and (totals or not (kept or request.is_begun(layout))):
        raise RequestError(
            f"--skip_done={layout.folder} holds no output of this job, or has lost its receipts"
        )
    done = f"{len(labels)} of {of}" if labels else "none of its"
    raise RequestError(
        f"--skip_done={layout.folder} is not finished: {done} shards are committed; "
        f"`python -m pipeline.main --output={layout.folder}` goes on with it, or leave it out, and what it holds is done again"
    )


def _is_relative(path: str) -> bool:
    return "://" not in path and not path.startswith("/")


def complete(text: str, directory: str = "") -> str:
    """A path, or a line of a list of files, in a form that depends on no working directory."""
    if "://" in text or not door.is_local(text):
        return text
    path = os.path.join(directory or os.getcwd(), door.local(text)).rstrip("/") or "/"
    if "/../" in path:  # which may lead out of a link
        folder, _, name = path.rpartition("/")
        path = f"{os.path.realpath(folder)}/{name}"
    return input_files.line_of(os.path.normpath(path))
