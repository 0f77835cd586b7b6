"""What of an input no earlier output holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from apache_beam.io.filesystem import FileMetadata

from pipeline.console import counted
from pipeline.earlier import Earlier, File, Run, complete
from pipeline.flags import RequestError
from transforms.fetching.uris import public_uri
from transforms.sources import uri_list
from transforms.sources.base import Bounds, Kind, ReadSettings
from transforms.sources.finding import Found
from transforms.sources.rows import Slice
from transforms.storage import door


class New(NamedTuple):
    """The files to do; of lists all, with the bounds of their new rows, as of `Cutting`; and what the user should know."""

    files: Sequence[FileMetadata]
    bounds: Mapping[str, Bounds]
    notes: Sequence[str]


def find(now: Found, done: Earlier, settings: ReadSettings) -> New:
    """What of the input no earlier output holds. Raises RequestError if a list has changed where it was done."""
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
        return New(files, {}, notes)
    if now.kind in uri_list.KINDS:
        present = {complete(file.path) for file in now.files}
        found = {file.path: _done_rows(now.kind, file.path, done, present, settings) for file in now.files}
        bounds: dict[str, Bounds] = {path: (run[-1][1], None) for path, run in found.items() if run}
        rows_done = sum(rows for run in found.values() for _, _, rows, _ in run)
        return New(now.files, bounds, [_said(done, rows_done, "row")])
    files, changed = _new_files(now, done, settings)
    notes = [_said(done, len(now.files) - len(files), "file")]
    if changed:
        which = f"{counted(len(changed), 'file')}, such as {public_uri(changed[0])},"
        has = "have" if len(changed) != 1 else "has"
        notes.append(f"{which} {has} changed since an earlier output was made, and will be done again")
    return New(files, {}, notes)


def _said(done: Earlier, count: int, what: str) -> str:
    how_many = f"{counted(count, what)} of the input {'are' if count != 1 else 'is'}"
    return f"--skip_done: {how_many} in {counted(len(done.fingerprints), 'earlier output')}"


def _are(paths: Sequence[str]) -> str:
    return "are" if len(paths) != 1 else "is"


def _new_files(now: Found, done: Earlier, settings: ReadSettings) -> tuple[list[FileMetadata], list[str]]:
    """The files that are to be done, and the paths of those among them that have changed.

    At its path, a file is the same if a resume would take it so. One that an output knows by another path, at which the input
    has nothing, or by its name alone, was moved: its bytes decide, and each stands for one file.
    """
    by_path = {file.path: file for file in now.files}
    places = {path: complete(path) for path in by_path}
    present = set(places.values())
    placed: dict[str, list[File]] = {}
    moved: dict[str, list[File]] = {}
    for one in done.files:
        if one.path in present:
            placed.setdefault(one.path, []).append(one)
        else:
            moved.setdefault(one.name, []).append(one)

    def same(path: str) -> list[File]:
        file, parts = by_path[path], places[path].split("/")
        here = [
            one for one in placed.get(places[path], ()) if _is_same(now.kind, file, one.identities, settings)
        ]
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
        if free := [one for one in ones if id(one) not in used or one.path == places[path]]:
            used.add(id(free[0]))
            continue
        files.append(by_path[path])
        if places[path] in placed:
            changed.append(path)
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


def _done_rows(
    kind: Kind, path: str, done: Earlier, present: Set[str], settings: ReadSettings
) -> list[Slice]:
    """The slices from the first row of a list on that earlier outputs hold. `present`: the places of all lists."""
    place, name = complete(path), path.rpartition("/")[2]
    runs = [
        run
        for run in done.runs
        if run.name == name
        # At its path, at an unknown one, or moved and meaning the same images.
        and (run.path in ("", place) or not (run.is_relative or run.path in present))
    ]
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
