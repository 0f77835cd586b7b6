"""Recognizes a member of the family by the names and shapes of its arrays; reads checkpoints, without TensorFlow."""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import IO

import numpy as np

from bit import timm
from bit.models import ARCHITECTURES, Architecture, UnusableModel
from bit.weights import HEAD_BIAS, HEAD_KERNEL, STANDARDIZED, aligned, shapes

_PREFIX = "resnet/"
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_HEADER_SIZES = {(1, 0): struct.Struct("<H"), (2, 0): struct.Struct("<I")}
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]\w+)', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), *\}\s*"
)
_HEADER_BYTES_MAX = 4096  # of an array; official ones have 128
_LIKELY = "a checkpoint of another family, or a download that was cut off"


@dataclass(frozen=True)
class Checkpoint:
    """An `.npz` in the official format, its names and shapes checked by `open_checkpoint`. Implements `bit.weights.Weights`."""

    path: str
    architecture: Architecture
    classes: int

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)

    def array(self, name: str) -> np.ndarray:
        """See `Weights.array`; writeable. Raises UnusableModel if it is damaged."""
        member = self._archive.getinfo(f"{_PREFIX}{name}.npy")
        try:
            data = (
                self._stored(member)
                if member.compress_type == zipfile.ZIP_STORED
                else self._archive.read(member)
            )
            header = io.BytesIO(data[:_HEADER_BYTES_MAX])
            shape, is_fortran, dtype = _read_header(header)
            value = np.frombuffer(data, dtype, offset=header.tell())
        except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, ValueError) as error:
            raise UnusableModel(
                f"{self.path}: array {_PREFIX}{name} is damaged ({error}); fetch the file again"
            ) from error
        value = np.ascontiguousarray(value.reshape(shape, order="F" if is_fortran else "C"), np.float32)
        return value if value.flags.writeable else value.copy()  # callers modify it in place

    def _stored(self, member: zipfile.ZipInfo) -> memoryview:
        """The bytes of an uncompressed member in one read: zipfile would read small pieces."""
        with open(self.path, "rb", buffering=0) as file:
            file.seek(member.header_offset + 26)
            name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
            file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
            data = aligned(member.file_size).data
            rest = data
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise EOFError("the file ends within it")
                rest = rest[count:]
        if zlib.crc32(data) != member.CRC:
            raise ValueError("checksum mismatch")
        return data


def recognize(arrays: Mapping[str, tuple[int, ...]]) -> tuple[str, Architecture, int] | str:
    """The member of the family whose arrays have these names and shapes, all below one prefix.

    Returns (prefix, architecture, classes), or a text that says why it is no member.
    """
    root = f"root_block/{STANDARDIZED}"
    prefixes = [name.removesuffix(root) for name in arrays if name.endswith(root)]
    if len(prefixes) != 1:
        return "its variables do not have the names of the family"
    bare = {
        name.removeprefix(prefixes[0]): shape
        for name, shape in arrays.items()
        if name.startswith(prefixes[0])
    }
    member = _nearest_member(bare)
    classes = bare.get(HEAD_BIAS, (0,))[-1]
    if not member or len(bare) < len(arrays) or bare != shapes(ARCHITECTURES[member], classes):
        return "its variables are not those of any member of the family"
    return prefixes[0], ARCHITECTURES[member], classes


def open_checkpoint(path: str, architecture: str = "") -> Checkpoint | timm.TimmCheckpoint:
    """Reads the array headers of an `.npz`, or of timm's `.safetensors`, and determines the architecture from them.

    Raises UnusableModel, which lists every missing, unexpected and misshapen array, or says that it is not
    `architecture` (a key of ARCHITECTURES; '' accepts any member).
    """
    names: dict[str, str] = {}
    if path.endswith(timm.SUFFIX):
        arrays, dtypes, names = timm.headers(path)
    else:
        arrays, dtypes = _headers(path)
    member = _nearest_member(arrays)
    if not member:
        some = ", ".join(sorted(map(_full, arrays))[:5]) or "nothing"
        raise UnusableModel(
            f"{path} is not a BiT checkpoint: it has no arrays {_PREFIX}block1/... (it holds {some}); {_LIKELY}"
        )
    classes = arrays.get(HEAD_BIAS, arrays.get(HEAD_KERNEL, (0,)))[-1]
    if problems := _problems(arrays, dtypes, shapes(ARCHITECTURES[member], classes)):
        first = f"{path} does not hold {member} as official checkpoints do ({_LIKELY}):"
        raise UnusableModel("\n  ".join([first, *problems]))
    if architecture and architecture != member:
        raise UnusableModel(f"{path} holds {member}, not {architecture}: rename it, or use the right file")
    if names:
        return timm.TimmCheckpoint(path, ARCHITECTURES[member], classes, names)
    return Checkpoint(path, ARCHITECTURES[member], classes)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape, whether in Fortran's order, and the dtype of an array, up to whose values it reads. Raises as NumPy does.

    NumPy reads headers with Python's own parser, which in 3.11 fails at random if threads use it at once
    (python/cpython#106905). So this reads those that NumPy writes, and NumPy any others.
    """
    version = np.lib.format.read_magic(file)
    prefix = _HEADER_SIZES[version]
    data = file.read(prefix.size)
    if len(data) < prefix.size:
        raise EOFError("the file ends within a header")
    (size,) = prefix.unpack(data)
    data += file.read(size)
    if len(data) == prefix.size + size and (found := _HEADER.fullmatch(data, prefix.size)):
        dtype, order, shape = found.groups()
        return tuple(map(int, shape.replace(b",", b" ").split())), order == b"True", np.dtype(dtype.decode())
    return _HEADER_READERS[version](io.BytesIO(data))


def _headers(path: str) -> tuple[dict[str, tuple[int, ...]], dict[str, np.dtype]]:
    """Shapes and dtypes by name without 'resnet/'; a name that lacks it gets a leading '/'."""
    arrays, dtypes = {}, {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    shape, _, dtype = _read_header(file)
                name = member.removesuffix(".npy")
                name = name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else f"/{name}"
                arrays[name], dtypes[name] = shape, dtype
    except FileNotFoundError:
        raise UnusableModel(
            f"no file {path}: check the path, or use a name from `python -m bit.models`"
        ) from None
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError) as error:
        raise UnusableModel(
            f"{path} is not an .npz archive ({error}); the download may have been cut off, or an error page saved"
        ) from error
    return arrays, dtypes


def _nearest_member(arrays: Mapping[str, tuple[int, ...]]) -> str:
    """The member of the family whose arrays differ least from these; '' if none is similar."""
    if not any(name.startswith("block1/unit01/") for name in arrays):
        return ""

    def differences(member: str) -> int:
        expected = shapes(ARCHITECTURES[member])
        return sum(arrays.get(name) != expected.get(name) for name in expected.keys() | arrays.keys())

    return min(ARCHITECTURES, key=differences)


def _problems(
    arrays: dict[str, tuple[int, ...]], dtypes: dict[str, np.dtype], expected: dict[str, tuple[int, ...]]
) -> list[str]:
    common = expected.keys() & arrays.keys()
    problems = [f"missing: {_full(name)} {expected[name]}" for name in expected.keys() - arrays.keys()]
    problems += [
        f"misshapen: {_full(name)} has {arrays[name]}, expected {expected[name]}"
        for name in common
        if arrays[name] != expected[name]
    ]
    problems += [
        f"not floating-point: {_full(name)} holds {dtypes[name]}"
        for name in common
        if dtypes[name].kind != "f"
    ]
    problems += [f"unexpected: {_full(name)} {arrays[name]}" for name in arrays.keys() - expected.keys()]
    return sorted(problems)


def _full(name: str) -> str:
    return name[1:] if name.startswith("/") else _PREFIX + name
