"""Inputs that grow: which files a run takes, as some are new since its output was begun, or done by earlier outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from apache_beam.io.filesystem import FileMetadata

from pipeline import earlier, new_input
from pipeline.changes import ONLY_NEW, OTHERWISE
from pipeline.console import counted
from pipeline.earlier import Earlier
from pipeline.flags import RequestError
from pipeline.options import JobConfig
from transforms.commit import request
from transforms.commit.layout import Layout
from transforms.commit.receipts import Receipt
from transforms.fetching.uris import public_uri
from transforms.sources import input_files, listing, uri_list
from transforms.sources.base import WHOLE, Bounds, Kind, ReadSettings
from transforms.sources.finding import Found
from transforms.sources.input_files import line_of
from transforms.sources.names import with_names
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
    notes: Sequence[str] = ()

    def refusal(self, layout: Layout) -> str:
        """Why a run of a finished output has nothing to do although there is more."""
        remedy = ONLY_NEW.format(layout.folder, "files and rows")
        return f"--output={layout.folder} is finished, and --input has grown since it was begun ({self.more}): {remedy}"


def find(config: JobConfig, layout: Layout, existing: Sequence[Receipt], now: Found) -> Grown:
    """What of the input, as it is now, a run takes: what its output was begun with, else what no earlier output holds.

    `existing`: the receipts in the output. Raises RequestError if --skip_done names an output that is not finished, or a list has
    changed where it was done."""
    is_begun = bool(existing) or request.is_begun(layout) or door.exists(layout.request)
    if is_begun and not config.overwrite and (before := _files_of(layout, now.kind)):
        return _as_begun(config, layout, existing, before, now)
    if not config.skip_done:
        return Grown(now)
    done = earlier.read(config.skip_done, config.output)
    done.check_schema(config.schema)
    new = new_input.find(now, done, config.read)
    notes = [*done.notes, *new.notes]
    if not done.fingerprints:
        notes = [f"--skip_done={','.join(config.skip_done)}: there is no such output yet"]
    found, among = replace(now, files=new.files), [file.path for file in now.files]
    return Grown(found, done, among, new.bounds, notes=notes)


def _files_of(layout: Layout, kind: Kind) -> dict[str, Bounds] | None:
    """The files that the output was begun with, by their lines; None if it does not list them, as of an earlier version."""
    if kind.again is not None:
        return input_files.read(layout, kind in uri_list.KINDS)
    content = door.read_if_there(layout.listing)
    return None if content is None else dict.fromkeys(listing.texts(content), WHOLE)


def _as_begun(
    config: JobConfig, layout: Layout, existing: Sequence[Receipt], before: Mapping[str, Bounds], now: Found
) -> Grown:
    """The files, and the rows of lists, that an output was begun with."""
    by_line = {line_of(file.path): file for file in now.files}
    if gone := [line for line in before if line not in by_line]:
        if not config.skip_done:  # it is refused by what has changed of the whole
            return Grown(now)
        raise RequestError(
            f"--output={layout.folder} was begun with {counted(len(gone), 'file')} that --input has no longer, such as "
            f"{public_uri(gone[0])}: {OTHERWISE}"
        )
    files = [by_line[line] for line in before]
    bounds = {by_line[line].path: bounds for line, bounds in before.items() if bounds != WHOLE}
    every = [file.path for file in now.files] if config.skip_done and not existing else []
    grown = Grown(replace(now, files=files), among=_among(files, existing) or every, bounds=bounds)
    if config.skip_done:  # a later run does what is new
        return grown
    added = sorted(by_line[line].path for line in by_line.keys() - before.keys())
    longer = [
        path for path, (_, end) in bounds.items() if _has_rows(now.kind, path, (end or 0, None), config.read)
    ]
    more = "; ".join(
        f"{what} such as {public_uri(paths[0])}"
        for what, paths in (
            (f"{counted(len(added), 'new file')},", added),
            (f"further rows in {counted(len(longer), 'list')},", longer),
        )
        if paths
    )
    note = (
        f"--input has grown since {layout.folder} was begun ({more}), which this run leaves out: "
        f"--skip_done={layout.folder} with another --output does it, once this output is finished"
    )
    return replace(grown, more=more, left_out=added, notes=(note,) if more else ())


def _among(files: Sequence[FileMetadata], existing: Sequence[Receipt]) -> list[str]:
    """A path in the folder below which the names in the receipts are; none if that follows from the files."""
    of_files = [receipt for receipt in existing if not uri_list.is_list(receipt.input)]
    if not of_files:
        return []
    name, (index, of) = of_files[0].name, map(int, of_files[0].shard.split("-of-"))
    if of == len(files) and files[index].path.endswith(name):  # each is a shard
        placed = {name: files[index].path}
    else:
        names = list(dict.fromkeys(receipt.name for receipt in of_files))
        placed = with_names([file.path for file in files], names)
    return [f"{placed[name][: -len(name)]}x"] if placed else []


def _has_rows(kind: Kind, path: str, bounds: Bounds, settings: ReadSettings) -> bool:
    return next(uri_list.slices(path, kind.name, settings, 1, bounds), None) is not None
