"""The input files of a request: found, told apart by kind, and looked into before anything starts."""

from __future__ import annotations

import itertools
import posixpath
import zlib

from apache_beam.io.filesystem import BeamIOError, FileMetadata

from pipeline.flags import INPUT_FORMATS, RequestError
from pipeline.options import JobConfig
from transforms.errors import ItemError
from transforms.fetching.uris import public_uri
from transforms.records import examples, tfrecord
from transforms.sources import uri_list
from transforms.storage import door

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
_FILES_SAMPLED = 16  # whose first record is looked at before the job starts


def find(config: JobConfig) -> tuple[str, list[FileMetadata]]:
    """The input files, in order and once each, and what kind they all are."""
    found: dict[str, FileMetadata] = {}
    kinds: dict[str, str] = {}
    for pattern in config.inputs:
        for file in _match(pattern, config.input_format):
            found[file.path] = file
            kind = config.input_format if config.input_format != "auto" else _kind(file)
            kinds.setdefault(kind, file.path)
    if len(kinds) > 1:
        shown = "; ".join(f"{kind}: {path}" for kind, path in kinds.items())
        raise RequestError(
            f"--input mixes kinds of files ({shown}): run one job for each, or set --input_format"
        )
    return next(iter(kinds)), list(found.values())


def _match(pattern: str, input_format: str) -> list[FileMetadata]:
    if pattern.startswith(("http://", "https://")):
        raise RequestError(
            f"--input={public_uri(pattern)}: put URLs into a text file, one on each line, and name that file"
        )
    try:
        is_glob = any(sign in pattern for sign in "*?[")
        # Of a name that ends in a slash Beam matches what lies directly in it, and leaves out the folders within.
        files = door.match(pattern) if is_glob or not pattern.endswith("/") else []
        if not files and not is_glob:
            inside = door.match(door.join(pattern.rstrip("/"), "**"))
            files = [file for file in inside if _in_folder(file.path, input_format)]
            if inside and not files:
                raise RequestError(
                    f"--input={pattern}: no TFRecord and no image file in this folder; name files by a glob"
                )
    except (BeamIOError, ValueError, ImportError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"--input={pattern} cannot be read: {door.explain(pattern, error)}") from error
    if not files:
        raise RequestError(
            f"--input={pattern}: no file matches; check the path, and quote globs for the shell"
        )
    return files


def _in_folder(path: str, input_format: str) -> bool:
    name = path.lower()
    if input_format == "tfrecord" or (input_format == "auto" and ".tfrecord" in posixpath.basename(name)):
        return True
    return name.endswith(_IMAGE_SUFFIXES)


def _kind(file: FileMetadata) -> str:
    """What a file is, by its name, else by its first bytes."""
    name = posixpath.basename(file.path).lower()
    if ".tfrecord" in name:
        return "tfrecord"
    if name.endswith(_IMAGE_SUFFIXES):
        return "images"
    kind = uri_list.format_of(name)
    if kind:
        return kind
    if file.size_in_bytes == 0 or _is_tfrecord(_sample(file.path)):
        return "tfrecord"
    raise RequestError(
        f"{file.path} is neither a TFRecord file nor a list or image by its name: "
        f"if it is one, say which with --input_format={'|'.join(INPUT_FORMATS[1:])}"
    )


def _sample(path: str) -> list[tfrecord.Record | tfrecord.Damage]:
    """What stands in the first MiB of a file."""
    with door.open_input(path) as stream:
        return list(itertools.islice(tfrecord.read(stream, 0, 1 << 20, aligned=True), 1000))


def _is_tfrecord(found: list[tfrecord.Record | tfrecord.Damage]) -> bool:
    return any(isinstance(item, tfrecord.Record) or item.reason != tfrecord.NO_HEADER for item in found)


def look_into(files: list[FileMetadata], config: JobConfig) -> None:
    """Refuses files that are no TFRecords, and names of features that the first records do not have."""
    asked = [config.read.image_feature, *filter(None, [config.read.key_feature]), *config.read.pass_through]
    seen: set[str] = set()
    total = 0
    for file in files[:_FILES_SAMPLED]:
        try:
            found = _sample(file.path)
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise RequestError(f"{file.path} cannot be read: {error}") from error
        if found and not _is_tfrecord(found):
            raise RequestError(
                f"{file.path} is not a TFRecord file: no record header in its first bytes; "
                "for a list of URIs or image files set --input_format"
            )
        parsed, refused = 0, ""
        for item in found:
            try:
                if isinstance(item, tfrecord.Record):
                    seen |= set(examples.parse(item.data).features.feature)
                    parsed += 1
            except ItemError as error:
                refused = str(error)
        if refused and not parsed:
            raise RequestError(f"{file.path}: {refused}; the job reads TFRecords of tf.Example")
        total += parsed
    missing = [name for name in asked if name not in seen]
    if total and missing:
        raise RequestError(
            f"no feature {', '.join(map(repr, missing))} in {files[0].path}; there are {', '.join(sorted(seen))}: "
            "name them with --image_feature, --key_feature and --pass_through"
        )


def short_names(paths: list[str]) -> list[str]:
    """Paths below their common folder, so that keys do not tell where the input lies."""
    folders = [posixpath.dirname(path) for path in paths]
    common = folders[0].split("/")
    for folder in folders[1:]:
        parts = folder.split("/")
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(common, parts, strict=False))
        common = [part for part, _ in same]
    prefix = "/".join(common)
    return [path[len(prefix) :].lstrip("/") for path in paths]
