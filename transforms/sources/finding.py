"""Finds the input files of a request and their kind, and says what was left out."""

from __future__ import annotations

import functools
import itertools
import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from apache_beam.io.filesystem import BeamIOError, FileMetadata

from transforms.fetching.uris import public_uri
from transforms.sources import left_out, local_files, patterns
from transforms.sources.base import BadInput, Kind, ReadSettings, as_bad_input
from transforms.sources.kinds import KINDS
from transforms.storage import door, globs
from transforms.storage.errors import is_transient

AUTO = "auto"
FORMATS = (AUTO, *(kind.name for kind in KINDS))
_HEAD_BYTES = 1 << 20  # 1 MiB of a file named in the request whose name shows no kind
_SHORT_HEAD_BYTES = 4 << 10  # 4 KiB of each file in a folder, which may hold a million


@dataclass(frozen=True)
class Found:
    """The files of a request, in order and without duplicates.

    Attributes:
      left_out: path -> reason.
      folders: below which files were searched for: those that the request names, and what globs in it begin with.
    """

    kind: Kind
    files: Sequence[FileMetadata]
    left_out: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


def find(texts: Iterable[str], input_format: str, settings: ReadSettings) -> Found:
    """The input files of values of --input. Raises BadInput if there are none, they are of several kinds, or unreadable."""
    files, skipped, folders = all_files(texts, input_format, settings)
    kind = _one_kind((file.path, kind) for file, kind in files.values())
    return Found(kind, [file for file, _ in files.values()], skipped, folders)


def all_files(
    texts: Iterable[str], input_format: str, settings: ReadSettings
) -> tuple[dict[str, tuple[FileMetadata, Kind]], dict[str, str], tuple[str, ...]]:
    """The input files with their kinds by path, the reason for each file left out, and `Found.folders`. Raises BadInput.

    What matches nothing as a pattern is taken for a name, with its glob characters, braces and commas.
    """
    files: dict[str, tuple[FileMetadata, Kind]] = {}
    skipped: dict[str, str] = {}
    folders: dict[str, None] = {}
    of_pattern = functools.partial(_of_pattern, kind=_by_name(input_format), settings=settings)
    for text in texts:
        for matches in patterns.resolved(text, of_pattern):
            files |= {file.path: (file, kind) for file, kind in matches.files}
            skipped |= matches.left_out
            folders |= dict.fromkeys(matches.folders)
    return files, {path: why for path, why in skipped.items() if path not in files}, tuple(folders)


def by_several_paths(files: Iterable[FileMetadata]) -> list[tuple[str, str]]:
    """Local files that are inputs by several paths, as of --input=a,./a: (the first path, another) for each other path."""
    first: dict[str, str] = {}
    paths = [file.path for file in files if door.is_local(file.path)]
    pairs = [(first.setdefault(os.path.abspath(door.local(path)), path), path) for path in paths]
    return [(path, other) for path, other in pairs if path != other]


class _Matches(NamedTuple):
    files: list[tuple[FileMetadata, Kind]]
    left_out: dict[str, str]
    folders: tuple[str, ...]


def kind_of_all(files: Iterable[FileMetadata], input_format: str, settings: ReadSettings) -> Kind:
    """The kind of all these files. Raises BadInput if they are of several."""
    kind = _by_name(input_format)
    return _one_kind((file.path, kind or _kind(file.path, settings)) for file in files)


def is_glob(pattern: str) -> bool:
    """Whether a pattern holds one of the glob characters *, ? and [, not escaped."""
    return globs.literal(pattern) is None


def _by_name(input_format: str) -> Kind | None:
    return next((kind for kind in KINDS if kind.name == input_format), None)


def _one_kind(files: Iterable[tuple[str, Kind]]) -> Kind:
    kinds: dict[str, tuple[Kind, str]] = {}
    for path, kind in files:
        kinds.setdefault(kind.name, (kind, path))
    if len(kinds) > 1:
        shown = "; ".join(f"{name}: {path}" for name, (_, path) in kinds.items())
        raise BadInput(f"--input mixes kinds of files ({shown}): run one job per kind, or set --input_format")
    if not kinds:
        raise BadInput("no file matches --input")
    return next(iter(kinds.values()))[0]


def summary(skipped: Mapping[str, str]) -> str:
    """What was left out, by reason, with an example per reason: '2 .txt (a/notes.txt), 1 hidden (a/.b)'."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in skipped.items():
        by_reason.setdefault(reason, []).append(path)
    parts = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    return ", ".join(f"{len(paths)} {reason} ({public_uri(min(paths))})" for reason, paths in parts)


def _of_pattern(pattern: str, kind: Kind | None, settings: ReadSettings) -> _Matches:
    if pattern.startswith(("http://", "https://")):
        raise BadInput(
            f"--input={public_uri(pattern)}: put URLs into a text file, one per line, and name that file"
        )
    skipped: dict[str, str] = {}
    shown = globs.literal(pattern) or pattern
    try:
        # For a path that ends in a slash, Beam matches the files directly in that folder.
        named = [] if is_glob(pattern) or pattern.endswith("/") else door.match(pattern)
        files = _named(shown, named, kind, settings) if named else _expanded(pattern, kind, settings, skipped)
        if door.is_local(pattern):
            for file, _ in files:
                local_files.check_readable(door.local(file.path))
    except (BeamIOError, ValueError, ImportError) as error:
        if isinstance(error, BadInput) or is_transient(error):
            raise
        raise BadInput(f"--input={shown} cannot be read: {door.explain(pattern, error)}") from error
    if not files and not skipped:
        is_folder = not is_glob(pattern) and door.is_local(pattern) and os.path.isdir(door.local(shown))
        what = (
            "an empty folder"
            if is_folder
            else "no file matches; check the path, and quote globs for the shell"
        )
        raise patterns.NoFiles(f"--input={shown}: {what}")
    if not files:
        raise BadInput(_all_left_out(shown, is_glob(pattern), skipped))
    return _Matches(files, skipped, () if named else (_folder(pattern),))


def _all_left_out(shown: str, is_pattern: bool, skipped: Mapping[str, str]) -> str:
    if set(skipped.values()) == {left_out.OURS}:
        return f"--input={shown} holds only files that this job wrote ({summary(skipped)}): name its input instead"
    if is_pattern:
        return f"--input={shown}: all that matches is left out: {summary(skipped)}; files named without a glob are not"
    return (
        f"--input={shown}: no input in this folder, which is searched for "
        f"{', '.join(kind.name for kind in KINDS if kind.from_folders)} (left out: {summary(skipped)}); use a glob "
        "for other files"
    )


def _named(
    pattern: str, files: Sequence[FileMetadata], kind: Kind | None, settings: ReadSettings
) -> list[tuple[FileMetadata, Kind]]:
    """Files that the request names directly: never left out, but this job's feature files are refused."""
    for path in left_out.ours(file.path for file in files):
        if posixpath.basename(path).startswith("features-"):
            raise BadInput(
                f"--input={pattern} holds features that this job wrote, not images: name the images instead"
            )
    return [(file, kind or _kind(file.path, settings)) for file in files]


def _expanded(
    pattern: str, kind: Kind | None, settings: ReadSettings, skipped: dict[str, str]
) -> list[tuple[FileMetadata, Kind]]:
    """The input files in a folder or of a glob; the reasons for leaving out others are added to `skipped`."""
    files = _listed(pattern, skipped)
    written = left_out.ours(file.path for file in files)
    skipped |= dict.fromkeys(written, left_out.OURS)
    files = [file for file in files if file.path not in written]
    if is_glob(pattern):
        kinds = door.in_parallel(lambda path: kind or _kind(path, settings), [file.path for file in files])
        return [(file, kind) for file, kind in zip(files, kinds, strict=True) if kind]
    return _in_folder(files, kind, settings, skipped)


def _listed(pattern: str, skipped: dict[str, str]) -> list[FileMetadata]:
    is_pattern, root = is_glob(pattern), _folder(pattern)
    rest = pattern[len(root) :].lstrip("/")
    with_hidden = is_pattern and any(part.startswith(".") for part in rest.split("/"))
    if door.is_local(pattern):
        walk = _walk(door.local(pattern), door.local(root), rest if is_pattern else "", with_hidden)
        files = walk.files()
        skipped |= walk.skipped
        return files
    files = []
    for file in door.match(pattern if is_pattern else door.join(pattern.rstrip("/"), "**")):
        reason = left_out.by_name(file.path[len(root) :].strip("/"), with_hidden)
        if reason:
            skipped[file.path] = reason
        elif not file.path.endswith("/"):  # an object that stands for a folder
            files.append(file)
    return files


def _folder(pattern: str) -> str:
    """The folder below which everything lies that a pattern, or a folder, stands for."""
    if is_glob(pattern):
        return re.split(r"[*?[]", pattern, maxsplit=1)[0].rpartition("/")[0]
    return (globs.literal(pattern) or pattern).rstrip("/")


def _walk(pattern: str, root: str, glob: str, with_hidden: bool) -> local_files.Walk:
    root = root or ("/" if pattern.startswith("/") else "")
    if not glob:
        return local_files.Walk(root, None, (), True, with_hidden)
    *folders, _ = glob.split("/")
    levels = list(itertools.takewhile(lambda part: "**" not in part, folders))
    return local_files.Walk(
        root, globs.regex(pattern), [globs.regex(part) for part in levels], "**" in glob, with_hidden
    )


def _in_folder(
    files: Sequence[FileMetadata], requested: Kind | None, settings: ReadSettings, skipped: dict[str, str]
) -> list[tuple[FileMetadata, Kind]]:
    searched = [requested] if requested else [kind for kind in KINDS if kind.from_folders]
    sniffed = [requested] if requested else [kind for kind in searched if kind.unnamed_in_folders]

    def kind_of(path: str) -> Kind | None:
        name = posixpath.basename(path).lower()
        claims = [kind for kind in searched if kind.is_named(name)]
        if claims:
            return _resolve(path, claims, settings)
        if any(kind.is_named(name) for kind in KINDS):
            return None
        if requested and not requested.unnamed_in_folders:
            # As the request says, whatever their bytes are.
            return requested if requested.from_folders else None
        with as_bad_input(path):  # as it is: nothing that is wrong with its content can end the search
            head = door.read_head(path, _SHORT_HEAD_BYTES)
        return next((kind for kind in sniffed if head and kind.sniff(head)), None)

    kinds = door.in_parallel(kind_of, [file.path for file in files])
    skipped |= {
        f.path: left_out.by_suffix(f.path) for f, kind in zip(files, kinds, strict=True) if kind is None
    }
    return [(file, kind) for file, kind in zip(files, kinds, strict=True) if kind]


def _kind(path: str, settings: ReadSettings) -> Kind:
    """The kind of a file, by its name, else by its first bytes."""
    name = posixpath.basename(path).lower()
    claims = [kind for kind in KINDS if kind.is_named(name)]
    if not claims:
        with as_bad_input(path), door.open_input(path) as stream:
            door.check_compression(path)
            head = door.head(stream, _HEAD_BYTES)
        claims = [kind for kind in KINDS if kind.sniff(head)]
    if not claims:
        raise BadInput(
            f"neither its name nor its first bytes say what {path} is: name its kind with "
            f"--input_format={'|'.join(FORMATS[1:])}"
        )
    return _resolve(path, claims, settings)


def _resolve(path: str, claims: Sequence[Kind], settings: ReadSettings) -> Kind:
    if len(claims) == 1:
        return claims[0]
    return next((kind for kind in claims if kind.accepts(path, settings)), claims[0])
