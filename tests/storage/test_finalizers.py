"""No finalizer does input or output: garbage collection would wait for storage, in whatever thread it happens to run."""

from __future__ import annotations

import ast
import gc
import gzip
import importlib
import io
import lzma
import pkgutil
from collections.abc import Callable

import pytest
from backports import zstd

import transforms
from tests import helpers
from transforms.fetching import answers
from transforms.sources import summed, text_lines
from transforms.storage import door
from transforms.storage.reading import Buffered, Reader

OF_THE_LIBRARY = (
    "BufferedReader",
    "BufferedWriter",
    "TextIOWrapper",
    "GzipFile",
    "BZ2File",
    "LZMAFile",
    "ZstdFile",
)


def _streams() -> list[type[io.IOBase]]:
    """The classes below transforms/ that the library would finalize, but for answers over http(s): a socket closes at once."""
    for module in pkgutil.walk_packages(transforms.__path__, "transforms."):
        if not module.name.endswith("._native"):  # a library of C, and no module
            importlib.import_module(module.name)
    found, below = set(), [io.IOBase.__mro__[1]]  # which those in C derive from, too
    while below:
        below += (subclasses := below.pop().__subclasses__())
        found |= {cls for cls in subclasses if cls.__module__.partition(".")[0] == "transforms"}
    return sorted(found - {answers.Answer}, key=lambda cls: cls.__qualname__)


def _finalizer(cls: type) -> tuple[str, Callable[[object], None]]:
    """The package that a class has its finalizer from, and that."""
    owner = next(base for base in cls.__mro__ if "__del__" in vars(base))
    return owner.__module__.partition(".")[0], vars(owner)["__del__"]


def test_no_stream_has_a_finalizer_that_does_anything():
    streams = _streams()
    names = {cls.__name__ for cls in streams}
    assert names >= {"Reader", "Buffered", "Summed", "_Gzip", "_Members", "_Transcoded"}
    for cls in streams:
        package, finalize = _finalizer(cls)
        assert package == "transforms", cls
        finalize(object())  # on which there is nothing to close or to flush


@pytest.mark.parametrize("cls", [io.RawIOBase, io.BufferedReader, gzip.GzipFile])
def test_the_streams_of_the_library_have_one_that_closes(cls):
    assert _finalizer(cls)[0] != "transforms"


def test_no_stream_of_the_library_is_put_over_a_file_of_storage():
    calls = [
        (path.name, node.lineno)
        for path in (helpers.REPO / "transforms").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in OF_THE_LIBRARY
    ]
    assert calls == []


OPENED = {
    "as it is": (bytes, door.open_binary),
    "gzip": (gzip.compress, door.open_input),
    "xz": (lzma.compress, door.open_input),
    "zstd": (zstd.compress, text_lines.opened),
    "UTF-16": (lambda data: data.decode().encode("utf-16"), text_lines.opened),
    "UTF-32 in gzip": (lambda data: gzip.compress(data.decode().encode("utf-32")), text_lines.opened),
    "summed": (bytes, lambda path: Buffered(summed.Summed(door.open_unbuffered(path), path, 500))),
}


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of the system's file, which it closes
@pytest.mark.parametrize("what", OPENED)
def test_what_is_dropped_while_it_is_read_leaves_its_file_alone(tmp_path, monkeypatch, what):
    pack, open_file = OPENED[what]
    path = tmp_path / "file"
    path.write_bytes(pack(b"line\n" * 100))
    closed = []
    close = Reader.close
    monkeypatch.setattr(Reader, "close", lambda self: (closed.append(self), close(self)))
    stream = open_file(str(path))
    assert stream.readline() == b"line\n"
    del stream
    gc.collect()
    assert closed == []
    with open_file(str(path)) as stream:
        assert stream.readline() == b"line\n"
    assert len({id(reader) for reader in closed}) == 1
