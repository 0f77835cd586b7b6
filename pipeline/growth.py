"""Inputs that grow: which files a run takes, as some are new since its output was begun, or done by earlier outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from apache_beam.io.filesystem import FileMetadata

from pipeline import earlier
from pipeline.changes import ONLY_NEW, OTHERWISE
from pipeline.console import counted
from pipeline.earlier import Earlier, File, Run, complete
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
from transforms.sources.rows import Slice
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
    grown = replace(_new(now, done, config.read), among=[file.path for file in now.files])
    if not done.fingerprints:
        return replace(
            grown, notes=(f"--skip_done={','.join(config.skip_done)}: there is no such output yet",)
        )
    return replace(grown, notes=[*done.notes, *grown.notes])


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


def _new(now: Found, done: Earlier, settings: ReadSettings) -> Grown:
    """What of the input no earlier output holds.

    Raises RequestError if a list has changed where it was done."""
    if now.kind.again is None:
        known = {file.path: done.images.get(complete(file.path)) for file in now.files}
        files = [file for file in now.files if known[file.path] is None]
        notes = [_said(done, len(now.files) - len(files), "file")]
        later = [f.path for f in now.files if f.last_updated_in_seconds > (known[f.path] or float("inf"))]
        if later:
            which = (
                f"{counted(len(later), 'file')} of them, such as {public_uri(later[0])}, changed after that"
            )
            notes.append(
                f"{which}, and {_are(later)} left out all the same: image files are known by their paths"
            )
        return Grown(replace(now, files=files), done, notes=notes)
    if now.kind in uri_list.KINDS:
        found = {file.path: _done_rows(now.kind, file.path, done, settings) for file in now.files}
        bounds: dict[str, Bounds] = {path: (run[-1][1], None) for path, run in found.items() if run}
        rows_done = sum(rows for run in found.values() for _, _, rows, _ in run)
        return Grown(now, done, bounds=bounds, notes=[_said(done, rows_done, "row")])
    files, changed = _new_files(now, done, settings)
    notes = [_said(done, len(now.files) - len(files), "file")]
    if changed:
        which = f"{counted(len(changed), 'file')}, such as {public_uri(changed[0])},"
        has = "have" if len(changed) != 1 else "has"
        notes.append(f"{which} {has} changed since an earlier output was made, and will be done again")
    return Grown(replace(now, files=files), done, notes=notes)


def _said(done: Earlier, count: int, what: str) -> str:
    how_many = f"{counted(count, what)} of the input {'are' if count != 1 else 'is'}"
    return f"--skip_done: {how_many} in {counted(len(done.fingerprints), 'earlier output')}"


def _are(paths: Sequence[str]) -> str:
    return "are" if len(paths) != 1 else "is"


def _new_files(now: Found, done: Earlier, settings: ReadSettings) -> tuple[list[FileMetadata], list[str]]:
    """The files that are to be done, and the paths of those among them that have changed.

    At its path, a file is the same if a resume would take it so. One that an output knows by another path, at which there is
    nothing any more, or by its name alone, was moved: its bytes decide, and each stands for one file.
    """
    by_path = {complete(file.path): file for file in now.files}
    placed: dict[str, list[File]] = {}
    moved: dict[str, list[File]] = {}
    for one in done.files:
        if one.path in by_path:
            placed.setdefault(one.path, []).append(one)
        else:
            moved.setdefault(one.name, []).append(one)

    def same(path: str) -> list[File]:
        file, parts = by_path[path], path.split("/")
        here = [one for one in placed.get(path, ()) if _is_same(now.kind, file, one.identities, settings)]
        names = ("/".join(parts[at:]) for at in range(len(parts)))
        return here or [
            one
            for name in names
            for one in moved.get(name, ())
            if _is_same(now.kind, file, [{**ids, "modified": None} for ids in one.identities], settings)
        ]

    candidates = zip(by_path, door.in_parallel(same, list(by_path)), strict=True)
    used: set[int] = set()
    files, changed = [], []
    for path, ones in candidates:
        if free := [one for one in ones if id(one) not in used or one.path == path]:
            used.add(id(free[0]))
            continue
        files.append(by_path[path])
        if path in placed:
            changed.append(by_path[path].path)
    return files, changed


def _is_same(
    kind: Kind, file: FileMetadata, identities: Sequence[Mapping[str, Any]], settings: ReadSettings
) -> bool:
    assert kind.again is not None
    return all(
        identity.get("size_bytes") == file.size_in_bytes
        and not kind.again(file, identity, settings).change(identity)
        for identity in identities
    )


def _may_be(run: Run, place: str) -> bool:
    """Whether a list at `place` may be that of a run: at its path, at an unknown one, or moved where its names mean the same."""
    return run.path in ("", place) or not (run.is_relative or door.exists(run.path))


def _done_rows(kind: Kind, path: str, done: Earlier, settings: ReadSettings) -> list[Slice]:
    """The slices from the first row of a list on that earlier outputs hold."""
    place, name = complete(path), path.rpartition("/")[2]
    runs = [run for run in done.runs if run.name == name and _may_be(run, place)]
    first = next(uri_list.slices(path, kind.name, settings, 1), None) if runs else None
    out: list[Slice] = []
    disagreeing: list[Run] = []
    at = first.start if first else -1
    while following := [run for run in runs if run.slices[0][0] == at]:
        agreeing = [[*uri_list.agreeing(path, kind.name, settings, run.slices)] for run in following]
        whole = [r for r, ends in zip(following, agreeing, strict=True) if len(ends) == len(r.slices)]
        disagreeing = [run for run in following if run not in whole]
        if not whole:
            break
        longest = max(whole, key=lambda run: (run.path == place, run.slices[-1][1]))
        out += longest.slices
        at = longest.slices[-1][1]
    is_known = any(run.path == place for run in runs)
    if any(run.path == place for run in disagreeing) or (is_known and not out):
        raise RequestError(
            f"{path} has other rows than those that an output in --skip_done is made of, and what of it is new cannot be told: "
            "such a list may get further rows at its end; put what is new into a list of its own"
        )
    return out
