"""Inputs that grow: which files a run takes, as some are new since its output was begun, or done by earlier outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from apache_beam.io.filesystem import FileMetadata

from pipeline import earlier
from pipeline.changes import ONLY_NEW
from pipeline.console import counted
from pipeline.earlier import Earlier, complete, line_of, name_of
from pipeline.flags import RequestError
from pipeline.options import JobConfig
from transforms.commit import request
from transforms.commit.layout import Layout
from transforms.commit.receipts import Receipt
from transforms.fetching.uris import public_uri
from transforms.sources import listing, uri_list
from transforms.sources.base import WHOLE, Bounds, Kind, ReadSettings, Source
from transforms.sources.finding import Found
from transforms.sources.rows import Slice
from transforms.sources.uri_list import UriSlice
from transforms.storage import door


@dataclass(frozen=True)
class Grown:
    """The part of the input that a run takes.

    Attributes:
      found: its files; of lists, also those without new rows.
      earlier: what the outputs hold that are skipped.
      among, bounds: as of `Cutting`.
      more: what came to the input since the run's own output was begun, in words.
      left_out: the files among it.
      notes: what the user should know of all that.
    """

    found: Found
    earlier: Earlier = field(default_factory=Earlier)
    among: Sequence[str] = ()
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    more: str = ""
    left_out: Sequence[str] = ()
    notes: tuple[str, ...] = ()

    def refusal(self, layout: Layout) -> str:
        """Why a run of a finished output has nothing to do although there is more."""
        remedy = ONLY_NEW.format(layout.folder, "files and rows")
        return f"--output={layout.folder} is finished, and --input has grown since it was begun ({self.more}): {remedy}"


def listed(files: Iterable[FileMetadata], sources: Iterable[Source], bounds: Mapping[str, Bounds]) -> bytes:
    """The content of `Layout.input_files`: a line for each file, with the bounds of its rows if it is a list."""
    within = {path: (start, start) for path, (start, _) in bounds.items()}  # of lists without new rows
    for source in sources:
        if isinstance(source, UriSlice):
            start, _ = within.setdefault(source.uri, (source.start, source.end))
            within[source.uri] = start, source.end
    lines = (
        listing.line(file.path) + (b"[%d:%d]" % within[file.path] if file.path in within else b"")
        for file in files
    )
    return b"".join(line + b"\n" for line in lines)


def find(config: JobConfig, layout: Layout, existing: Sequence[Receipt], now: Found) -> Grown:
    """What of the input, as it is now, a run takes: what its output was begun with, else what no earlier output holds.

    `existing`: the receipts in the output. Raises RequestError if --skip_done names an output that is not finished, or a list has
    changed where it was done."""
    is_begun = not config.overwrite and (bool(existing) or request.is_begun(layout))
    before = earlier.files_of(layout) if is_begun else None
    done = earlier.read(config.skip_done, config.output) if config.skip_done else Earlier()
    among = [file.path for file in now.files] if config.skip_done else ()
    if before:
        grown = _as_begun(before, now, config.read)
        note = (
            f"--input has grown since {layout.folder} was begun ({grown.more}), which this run leaves out: "
            f"--skip_done={layout.folder} with another --output does it, once this output is finished"
        )
        return replace(grown, earlier=done, among=among, notes=(note,) if grown.more else ())
    if not config.skip_done:
        return Grown(now)
    grown = replace(_new(now, done, config.read), among=among)
    if done.fingerprints:
        return grown
    return replace(grown, notes=(f"--skip_done={','.join(config.skip_done)}: there is no such output yet",))


def _as_begun(before: Sequence[str], now: Found, settings: ReadSettings) -> Grown:
    """The files, and the rows of lists, that an output was begun with; all that there are now, if a file is gone."""
    is_list = now.kind in uri_list.KINDS
    within = dict(map(earlier.bounded, before)) if is_list else dict.fromkeys(before, WHOLE)
    by_line = {line_of(file.path): file for file in now.files}
    if not within.keys() <= by_line.keys():
        return Grown(now)
    files = [by_line[line] for line in within]
    added = sorted(by_line[line].path for line in by_line.keys() - within.keys())
    bounds = {by_line[line].path: bounds for line, bounds in within.items() if is_list}
    longer = [
        path
        for path, (_, end) in bounds.items()
        if end is not None
        and any(True for _ in uri_list.slices(path, now.kind.name, settings, 1, (end, None)))
    ]
    more = "; ".join(
        f"{what} such as {public_uri(paths[0])}"
        for what, paths in (
            (f"{counted(len(added), 'new file')},", added),
            (f"further rows in {counted(len(longer), 'list')},", longer),
        )
        if paths
    )
    return Grown(replace(now, files=files), bounds=bounds, more=more, left_out=added)


def _new(now: Found, done: Earlier, settings: ReadSettings) -> Grown:
    """What of the input no earlier output holds.

    An input is done if a resume would take it for the same: an image file by its path, a row of a list by its place and text,
    any other file by its name, size and time, or bytes. Raises RequestError if a list has changed where it was done.
    """
    if now.kind.again is None:
        files = [file for file in now.files if complete(file.path) not in done.paths]
        return Grown(
            replace(now, files=files), done, notes=(_said(done, len(now.files) - len(files), "file"),)
        )
    if now.kind in uri_list.KINDS:
        found = {file.path: _done_rows(now.kind, file.path, done, settings) for file in now.files}
        bounds: dict[str, Bounds] = {path: (run[-1][1], None) for path, run in found.items() if run}
        rows_done = sum(rows for run in found.values() for _, _, rows, _ in run)
        return Grown(now, done, bounds=bounds, notes=(_said(done, rows_done, "row"),))
    by_path = {file.path: file for file in now.files}
    are_done = door.in_parallel(lambda path: _is_done(now.kind, by_path[path], done, settings), [*by_path])
    files = [file for file, is_done in zip(now.files, are_done, strict=True) if not is_done]
    notes = [_said(done, len(now.files) - len(files), "file")]
    if changed := [file.path for file in files if complete(file.path) in done.paths]:
        which = f"{counted(len(changed), 'file')}, such as {public_uri(changed[0])},"
        has = "have" if len(changed) != 1 else "has"
        notes.append(f"{which} {has} changed since an earlier output was made, and will be done again")
    return Grown(replace(now, files=files), done, notes=tuple(notes))


def _said(done: Earlier, count: int, what: str) -> str:
    how_many = f"{counted(count, what)} of the input {'are' if count != 1 else 'is'}"
    return f"--skip_done: {how_many} in {counted(len(done.fingerprints), 'earlier output')}"


def _is_done(kind: Kind, file: FileMetadata, done: Earlier, settings: ReadSettings) -> bool:
    def is_same(identity: Mapping[str, Any]) -> bool:
        assert kind.again is not None
        is_as_large = identity.get("size_bytes") == file.size_in_bytes
        return is_as_large and not kind.again(file, identity, settings).change(identity)

    parts = file.path.split("/")
    names = ("/".join(parts[at:]) for at in range(len(parts)))
    return any(all(map(is_same, identities)) for name in names for identities in done.shards.get(name, ()))


def _done_rows(kind: Kind, path: str, done: Earlier, settings: ReadSettings) -> list[Slice]:
    """The slices from the first row of a list on that earlier outputs hold."""
    own = done.slices.get(complete(path))
    runs: Sequence[Sequence[Slice]] = own or done.slices.get(name_of(path), ())
    first = next(uri_list.slices(path, kind.name, settings, 1), None) if runs else None
    out: list[Slice] = []
    at = first.start if first else -1
    while following := [run for run in runs if run[0][0] == at]:
        agreeing = [[*uri_list.agreeing(path, kind.name, settings, run)] for run in following]
        whole = [run for run, ends in zip(following, agreeing, strict=True) if len(ends) == len(run)]
        if not whole:
            break
        at = max(run[-1][1] for run in whole)
        out += next(run for run in whole if run[-1][1] == at)
    if own and (following or not out):
        raise RequestError(
            f"{path} has other rows than those that an output in --skip_done is made of, and what of it is new cannot be told: "
            "such a list may get further rows at its end; put what is new into a list of its own"
        )
    return out
