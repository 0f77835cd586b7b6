"""The input files of a request: found, told apart by kind, and what was left out."""

from __future__ import annotations

import itertools
import posixpath
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem

from transforms.fetching.uris import public_uri
from transforms.sources import left_out, local_files
from transforms.sources.base import BadInput, Kind, ReadSettings
from transforms.sources.kinds import KINDS
from transforms.storage import door

AUTO = "auto"
FORMATS = (AUTO, *(kind.name for kind in KINDS))
_HEAD_BYTES = 1 << 20  # of a file that the request names and whose name says nothing
_SHORT_HEAD_BYTES = 4 << 10  # of each of perhaps a million files in a folder
_THREADS = 32


@dataclass(frozen=True)
class Found:
    """The files of a request, in order and once each, and why others are left out: path -> reason."""

    kind: Kind
    files: Sequence[FileMetadata]
    left_out: Mapping[str, str] = field(default_factory=dict)


def find(patterns: Iterable[str], input_format: str, settings: ReadSettings) -> Found:
    """The input files. Raises BadInput where there are none, where they are of several kinds, or cannot be read."""
    files, skipped = all_files(patterns, input_format, settings)
    kind = _one_kind((file.path, kind) for file, kind in files.values())
    return Found(kind, [file for file, _ in files.values()], skipped)


def all_files(
    patterns: Iterable[str], input_format: str, settings: ReadSettings
) -> tuple[dict[str, tuple[FileMetadata, Kind]], dict[str, str]]:
    """The input files by path, of whatever kinds, and why others are left out."""
    files: dict[str, tuple[FileMetadata, Kind]] = {}
    skipped: dict[str, str] = {}
    for pattern in patterns:
        for file, kind in _of_pattern(pattern, _by_name(input_format), settings, skipped):
            files[file.path] = file, kind
    return files, {path: why for path, why in skipped.items() if path not in files}


def kind_of_all(files: Iterable[FileMetadata], input_format: str, settings: ReadSettings) -> Kind:
    """What kind all these files are. Raises BadInput where they are of several."""
    asked = _by_name(input_format)
    return _one_kind((file.path, asked or _kind(file, settings)) for file in files)


def is_glob(pattern: str) -> bool:
    return any(sign in pattern for sign in "*?[")


def _by_name(input_format: str) -> Kind | None:
    return next((kind for kind in KINDS if kind.name == input_format), None)


def _one_kind(files: Iterable[tuple[str, Kind]]) -> Kind:
    kinds: dict[str, tuple[Kind, str]] = {}
    for path, kind in files:
        kinds.setdefault(kind.name, (kind, path))
    if len(kinds) > 1:
        shown = "; ".join(f"{name}: {path}" for name, (_, path) in kinds.items())
        raise BadInput(f"--input mixes kinds of files ({shown}): run one job for each, or set --input_format")
    if not kinds:
        raise BadInput("no file matches --input")
    return next(iter(kinds.values()))[0]


def summary(skipped: Mapping[str, str]) -> str:
    """What was left out, by reason, with an example of each: '2 .txt (a/notes.txt), 1 hidden (a/.b)'."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in skipped.items():
        by_reason.setdefault(reason, []).append(path)
    parts = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    return ", ".join(f"{len(paths)} {reason} ({public_uri(min(paths))})" for reason, paths in parts)


def _of_pattern(
    pattern: str, asked: Kind | None, settings: ReadSettings, skipped: dict[str, str]
) -> list[tuple[FileMetadata, Kind]]:
    if pattern.startswith(("http://", "https://")):
        raise BadInput(
            f"--input={public_uri(pattern)}: put URLs into a text file, one on each line, and name that file"
        )
    here: dict[str, str] = {}
    try:
        # Of a name that ends in a slash Beam matches what lies directly in it.
        named = [] if is_glob(pattern) or pattern.endswith("/") else door.match(pattern)
        files = _named(pattern, named, asked, settings) if named else _brought(pattern, asked, settings, here)
        if door.is_local(pattern):
            for file, _ in files:
                local_files.check_readable(door.local(file.path))
    except (BeamIOError, ValueError, ImportError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"--input={pattern} cannot be read: {door.explain(pattern, error)}") from error
    if not files:
        raise BadInput(_nothing(pattern, here))
    skipped |= here
    return files


def _nothing(pattern: str, skipped: Mapping[str, str]) -> str:
    if skipped and set(skipped.values()) == {left_out.OURS}:
        return (
            f"--input={pattern} holds only what this job wrote ({summary(skipped)}): name its input instead"
        )
    if skipped and is_glob(pattern):
        return f"--input={pattern}: all that matches is left out: {summary(skipped)}; name a file to have it taken as it is"
    if skipped:
        return (
            f"--input={pattern}: no input in this folder, which is searched for "
            f"{', '.join(kind.name for kind in KINDS if kind.from_folders)} (left out: {summary(skipped)}); name other "
            "files by a glob"
        )
    return f"--input={pattern}: no file matches; check the path, and quote globs for the shell"


def _named(
    pattern: str, files: Sequence[FileMetadata], asked: Kind | None, settings: ReadSettings
) -> list[tuple[FileMetadata, Kind]]:
    """Files that the request names one by one: never left out, but features of ours are no images."""
    for path in left_out.ours(file.path for file in files):
        if posixpath.basename(path).startswith("features-"):
            raise BadInput(
                f"--input={pattern} holds features that this job wrote, not images: name its input instead"
            )
    return [(file, asked or _kind(file, settings)) for file in files]


def _brought(
    pattern: str, asked: Kind | None, settings: ReadSettings, skipped: dict[str, str]
) -> list[tuple[FileMetadata, Kind]]:
    """The files that a folder or glob brings; why others are not among them goes to `skipped`."""
    files = _listed(pattern, skipped)
    written = left_out.ours(file.path for file in files)
    skipped |= dict.fromkeys(written, left_out.OURS)
    files = [file for file in files if file.path not in written]
    if is_glob(pattern):
        kinds = _mapped(lambda file: asked or _kind(file, settings), files)
        return [(file, kind) for file, kind in zip(files, kinds, strict=True) if kind]
    return _in_folder(files, asked, settings, skipped)


def _listed(pattern: str, skipped: dict[str, str]) -> list[FileMetadata]:
    globs = is_glob(pattern)
    root = re.split(r"[*?[]", pattern, maxsplit=1)[0].rpartition("/")[0] if globs else pattern.rstrip("/")
    rest = pattern[len(root) :].lstrip("/")
    with_hidden = globs and any(part.startswith(".") for part in rest.split("/"))
    if door.is_local(pattern):
        walk = _walk(door.local(pattern), door.local(root), rest if globs else "", with_hidden)
        files = walk.files()
        skipped |= walk.skipped
        return files
    found = []
    for file in door.match(pattern if globs else door.join(root, "**")):
        reason = left_out.by_name(file.path[len(root) :].strip("/"), with_hidden)
        if reason:
            skipped[file.path] = reason
        elif not file.path.endswith("/"):  # what stands for a folder there
            found.append(file)
    return found


def _walk(pattern: str, root: str, glob: str, with_hidden: bool) -> local_files.Walk:
    root = root or ("/" if pattern.startswith("/") else "")
    if not glob:
        return local_files.Walk(root, None, (), True, with_hidden)
    *folders, _ = glob.split("/")
    levels = list(itertools.takewhile(lambda part: "**" not in part, folders))
    return local_files.Walk(
        root, _regex(pattern), [_regex(part) for part in levels], "**" in glob, with_hidden
    )


def _regex(glob: str) -> re.Pattern[str]:
    return re.compile(FileSystem.translate_pattern(glob))


def _in_folder(
    files: Sequence[FileMetadata], asked: Kind | None, settings: ReadSettings, skipped: dict[str, str]
) -> list[tuple[FileMetadata, Kind]]:
    searched = [asked] if asked else [kind for kind in KINDS if kind.from_folders]
    sniffed = [asked] if asked else [kind for kind in searched if kind.unnamed_in_folders]

    def kind_of(file: FileMetadata) -> Kind | None:
        name = posixpath.basename(file.path).lower()
        claims = [kind for kind in searched if kind.is_named(name)]
        if claims:
            return _decided(file.path, claims, settings)
        if any(kind.is_named(name) for kind in KINDS):
            return None
        if asked and not asked.unnamed_in_folders:
            return asked if asked.from_folders else None  # as the request says: no look at their bytes
        head = _head(file.path, door.read_head)
        return next((kind for kind in sniffed if head and kind.sniff(head)), None)

    kinds = _mapped(kind_of, files)
    skipped |= {
        f.path: left_out.by_suffix(f.path) for f, kind in zip(files, kinds, strict=True) if kind is None
    }
    return [(file, kind) for file, kind in zip(files, kinds, strict=True) if kind]


def _mapped(work: Callable[[FileMetadata], Kind | None], files: Sequence[FileMetadata]) -> list[Kind | None]:
    if not files or door.is_local(files[0].path):
        return [work(file) for file in files]
    with ThreadPoolExecutor(_THREADS) as pool:  # a request each
        return list(pool.map(work, files))


def _kind(file: FileMetadata, settings: ReadSettings) -> Kind:
    """What a file is, by its name, else by its first bytes."""
    name = posixpath.basename(file.path).lower()
    claims = [kind for kind in KINDS if kind.is_named(name)]
    if not claims:
        head = _head(file.path, _decompressed)
        claims = [kind for kind in KINDS if kind.sniff(head)]
    if not claims:
        raise BadInput(
            f"neither its name nor its first bytes say what {file.path} is: name its kind with "
            f"--input_format={'|'.join(FORMATS[1:])}"
        )
    return _decided(file.path, claims, settings)


def _decided(path: str, claims: Sequence[Kind], settings: ReadSettings) -> Kind:
    if len(claims) == 1:
        return claims[0]
    return next((kind for kind in claims if kind.accepts(path, settings)), claims[0])


def _decompressed(path: str, count: int) -> bytes:
    with door.open_input(path) as stream:
        return stream.read(count)


def _head(path: str, read: Callable[[str, int], bytes]) -> bytes:
    """The first bytes of a file."""
    try:
        return read(path, _SHORT_HEAD_BYTES if read is door.read_head else _HEAD_BYTES)
    except (OSError, BeamIOError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read: {door.explain(path, error)}") from error
