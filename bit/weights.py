"""Weights of the family: official names and shapes, `.npz` checkpoints, untrained weights, standardization.

NumPy only. Kernels are HWIO float32, as in the official checkpoints.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from bit.models import ARCHITECTURES, Architecture, UnusableModel

HEAD_KERNEL = "head/conv2d/kernel"
HEAD_BIAS = "head/conv2d/bias"
STANDARDIZED = "standardized_conv2d/kernel"
# Names what Untrained makes: other values need another number.
UNTRAINED_VERSION = "untrained-v1"
_PREFIX = "resnet/"
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LIKELY = "a checkpoint of another family, or a download cut short"


def shapes(architecture: Architecture, classes: int = 0) -> dict[str, tuple[int, ...]]:
    """Array names (without 'resnet/') and shapes of a checkpoint; `classes` is 0 where there is no head."""
    cin = architecture.root_channels
    out: dict[str, tuple[int, ...]] = {f"root_block/{STANDARDIZED}": (7, 7, 3, cin)}
    for block, units in enumerate(architecture.units):
        mid = architecture.root_channels << block
        for unit in range(1, units + 1):
            at = f"block{block + 1}/unit{unit:02d}"
            out[f"{at}/a/group_norm/gamma"] = out[f"{at}/a/group_norm/beta"] = (cin,)
            out[f"{at}/a/{STANDARDIZED}"] = (1, 1, cin, mid)
            if unit == 1:
                out[f"{at}/a/proj/{STANDARDIZED}"] = (1, 1, cin, 4 * mid)
            out[f"{at}/b/group_norm/gamma"] = out[f"{at}/b/group_norm/beta"] = (mid,)
            out[f"{at}/b/{STANDARDIZED}"] = (3, 3, mid, mid)
            out[f"{at}/c/group_norm/gamma"] = out[f"{at}/c/group_norm/beta"] = (mid,)
            out[f"{at}/c/{STANDARDIZED}"] = (1, 1, mid, 4 * mid)
            cin = 4 * mid
    out["group_norm/gamma"] = out["group_norm/beta"] = (cin,)
    if classes:
        out[HEAD_KERNEL] = (1, 1, cin, classes)
        out[HEAD_BIAS] = (classes,)
    return out


class Weights(Protocol):
    """Arrays of one network, read or made one at a time."""

    @property
    def architecture(self) -> Architecture: ...

    @property
    def classes(self) -> int:
        """Outputs of the head; 0 where there is none."""

    def array(self, name: str) -> np.ndarray:
        """float32, shape `shapes(architecture, classes)[name]`; not standardized."""


@dataclass(frozen=True)
class Untrained:
    """Seeded weights, the same everywhere: norms and biases as at the start of training, kernels uniform in
    [-1, 1) (in the head: a hundredth of it). The bits are SFC64's, a stream that NumPy keeps."""

    architecture: Architecture
    classes: int = 0

    def array(self, name: str) -> np.ndarray:
        shape = shapes(self.architecture, self.classes)[name]
        if name.endswith("gamma"):
            return np.ones(shape, np.float32)
        if name.endswith(("beta", "bias")):
            return np.zeros(shape, np.float32)
        seed = hashlib.sha256(f"{UNTRAINED_VERSION}/{name}/{shape}".encode()).digest()
        count = math.prod(shape)
        raw = np.random.SFC64(int.from_bytes(seed[:16], "little")).random_raw(-(-count // 2))
        bits = raw.astype("<u8", copy=False).view("<i4")[:count]
        scale = np.float32(2.0**-31 * (0.01 if name == HEAD_KERNEL else 1.0))
        return (bits.astype(np.float32) * scale).reshape(shape)


@dataclass(frozen=True)
class Checkpoint:
    """An `.npz` in the official format whose names and shapes were found right; see `open_checkpoint`."""

    path: str
    architecture: Architecture
    classes: int

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)

    def array(self, name: str) -> np.ndarray:
        try:
            with self._archive.open(f"{_PREFIX}{name}.npy") as file:
                value = np.lib.format.read_array(file, allow_pickle=False)
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise UnusableModel(
                f"{self.path}: array {_PREFIX}{name} is damaged ({error}); fetch the file again"
            ) from error
        return np.ascontiguousarray(value, np.float32)

    def sha256(self) -> str:
        """Hexadecimal digest of the file, as `sha256sum` prints it."""
        digest = hashlib.sha256()
        with open(self.path, "rb", buffering=0) as file:
            while piece := file.read(8 << 20):  # 8 MiB
                digest.update(piece)
        return digest.hexdigest()


def open_checkpoint(path: str, architecture: str = "") -> Checkpoint:
    """Reads the directory and the array headers of an `.npz`; tells the architecture by its arrays.

    Raises UnusableModel that names every missing, unexpected and misshapen array, or says that it is not
    `architecture` (a key of ARCHITECTURES; '' accepts any member).
    """
    found, dtypes = _headers(path)
    member = _nearest_member(found)
    if not member:
        some = ", ".join(sorted(map(_full, found))[:5]) or "nothing"
        raise UnusableModel(
            f"{path} is no BiT checkpoint: it has no arrays {_PREFIX}block1/... (it holds {some}); {_LIKELY}"
        )
    classes = found.get(HEAD_BIAS, found.get(HEAD_KERNEL, (0,)))[-1]
    if problems := _problems(found, dtypes, shapes(ARCHITECTURES[member], classes)):
        first = f"{path} does not hold {member} as the official checkpoints do ({_LIKELY}):"
        raise UnusableModel("\n  ".join([first, *problems]))
    if architecture and architecture != member:
        raise UnusableModel(f"{path} holds {member}, not {architecture}: rename it, or take the right file")
    return Checkpoint(path, ARCHITECTURES[member], classes)


def _headers(path: str) -> tuple[dict[str, tuple[int, ...]], dict[str, np.dtype]]:
    """Shapes and dtypes by name without 'resnet/'; a name that lacks it gets a leading '/'."""
    found, dtypes = {}, {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    shape, _, dtype = _HEADER_READERS[version](file)
                name = member.removesuffix(".npy")
                name = name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else f"/{name}"
                found[name], dtypes[name] = shape, dtype
    except FileNotFoundError:
        raise UnusableModel(f"no file {path}: check it, or take a name from `python -m bit.models`") from None
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError) as error:
        raise UnusableModel(
            f"{path} is no .npz archive ({error}); a download cut short, or an error page saved"
        ) from error
    return found, dtypes


def _nearest_member(found: dict[str, tuple[int, ...]]) -> str:
    """The member of the family whose arrays are most like the found ones; '' where there is no likeness."""
    if not any(name.startswith("block1/unit01/") for name in found):
        return ""

    def differences(member: str) -> int:
        expected = shapes(ARCHITECTURES[member])
        return sum(found.get(name) != expected.get(name) for name in expected.keys() | found.keys())

    return min(ARCHITECTURES, key=differences)


def _problems(
    found: dict[str, tuple[int, ...]], dtypes: dict[str, np.dtype], expected: dict[str, tuple[int, ...]]
) -> list[str]:
    common = expected.keys() & found.keys()
    problems = [f"missing: {_full(name)} {expected[name]}" for name in expected.keys() - found.keys()]
    problems += [
        f"misshapen: {_full(name)} has {found[name]}, expected {expected[name]}"
        for name in common
        if found[name] != expected[name]
    ]
    problems += [
        f"no floating-point numbers: {_full(name)} holds {dtypes[name]}"
        for name in common
        if dtypes[name].kind != "f"
    ]
    problems += [f"unexpected: {_full(name)} {found[name]}" for name in found.keys() - expected.keys()]
    return sorted(problems)


def _full(name: str) -> str:
    return name[1:] if name.startswith("/") else _PREFIX + name


def standardize(kernel: np.ndarray) -> np.ndarray:
    """HWIO float32 -> the same, with mean 0 and variance 1 over HWI for each output channel.

    Population variance, 1e-10 inside the root (`StandardizedConv2D` in the authors' `bit_tf2/models.py`).
    Sums run in float64: a float32 sum over 13,824 values would show in the features.
    """
    flat = kernel.reshape(-1, kernel.shape[-1])
    centred = flat - flat.mean(axis=0, dtype=np.float64).astype(np.float32)
    variance = np.square(centred).mean(axis=0, dtype=np.float64)
    centred *= (1.0 / np.sqrt(variance + 1e-10)).astype(np.float32)
    return centred.reshape(kernel.shape)


def folded(weights: Weights, head: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, float32 array) with kernels standardized, the head's arrays only if `head`.

    A few arrays are read ahead on threads, never more: a caller that turns each one into its own form
    needs the size of the network once, plus that of a few arrays.
    """

    def one(name: str) -> tuple[str, np.ndarray]:
        value = weights.array(name)
        return name, standardize(value) if name.endswith(STANDARDIZED) else value

    names = iter(shapes(weights.architecture, weights.classes if head else 0))
    with ThreadPoolExecutor(2) as pool:
        ahead = [pool.submit(one, name) for _, name in zip(range(3), names, strict=False)]
        while ahead:
            yield ahead.pop(0).result()
            if (name := next(names, None)) is not None:
                ahead.append(pool.submit(one, name))
