"""The values that flow through the graph."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from transforms.sources.base import Source

EVERY = range(sys.maxsize)  # position
IMAGE = "; image: "  # in the message of a failure, before the address of its image


@dataclass(frozen=True)
class Retry:
    """Marks a committed shard of which only the failed inputs are tried again."""

    base: str  # digest of the receipt to replace
    inputs: int  # how many failed inputs are tried again


@dataclass(frozen=True)
class Shard:
    """The unit of distribution, order and commit: one input slice, one output file."""

    index: int
    of: int
    source: Source
    name: str  # the input's name in messages and receipts; also the stem of default keys
    retry: Retry | None = None

    @property
    def units(self) -> int:
        """How much of the input is to be processed, for progress: see `Source.units`."""
        return self.retry.inputs if self.retry and self.source.inputs is not None else self.source.units

    @property
    def label(self) -> str:
        """'00003-of-00012', as in the output file names."""
        return f"{self.index:05d}-of-{self.of:05d}"


@dataclass(frozen=True)
class Failure:
    """An input that ends in the ledger instead of in a feature record."""

    key: bytes
    position: int  # in the shard, from 0
    stage: str  # 'read' | 'fetch' | 'decode' | 'infer'
    code: str
    message: str
    http_status: int | None = None  # of the answer that ended a fetch

    def of_image(self, address: str) -> Failure:
        """The same, with the address of its image at the end of the message. '': the key is the address."""
        return replace(self, message=f"{self.message}{IMAGE}{address}") if address else self


@dataclass(frozen=True)
class Encoded:
    """An image as the bytes of its file.

    `passed` is a serialized Features body to copy into the record, and `unfit` how many of its values did not fit their column.
    `address` is where it was fetched from, without secrets, if the key does not say that.
    """

    key: bytes
    position: int
    data: bytes
    passed: bytes = b""
    unfit: int = 0
    address: str = ""


@dataclass(frozen=True)
class Fields:
    """Which features of a tf.Example hold the image and its key ('' for the default key), and which are passed through."""

    image: str
    key: str = ""
    passed: tuple[str, ...] = ()
    kinds: tuple[tuple[str, str], ...] = ()  # the type of each that is passed through: see `records.values`


class Record(NamedTuple):  # as a frozen dataclass takes five times as long to make
    """An image in a serialized tf.Example, which is checked and parsed where the image is decoded: see `records.images`."""

    key: bytes  # the default key
    position: int
    data: bytes | memoryview
    crc: bytes  # the stored checksum of `data`; b"" if they have been compared
    fields: Fields
    uri: str  # of the file, without secrets
    offset: int  # in the (decompressed) file, of the record's header

    def __reduce__(self):
        """A view into a block of the file is pickled as its own bytes."""
        return Record, tuple(self._replace(data=bytes(self.data)))


class Decoded(NamedTuple):
    """A decoded image; its pixels or outputs are in row `row` of the chunk's arrays."""

    key: bytes
    position: int
    row: int
    width: int
    height: int
    sha256: str  # of the encoded bytes, in hexadecimal
    passed: bytes = b""
    unfit: int = 0  # as in Encoded, like the next
    address: str = ""


@dataclass(frozen=True)
class EncodedChunk:
    """Consecutive items of one shard, at most `batch_size` of them images, the rest failures."""

    shard: Shard
    position: int  # of the first item, among the shard's items that are processed
    is_last: bool
    items: tuple[Encoded | Record | Failure, ...]

    def __len__(self) -> int:
        return sum(not isinstance(item, Failure) for item in self.items)

    @property
    def nbytes(self) -> int:
        """Bytes of the encoded images or records."""
        return sum(len(item.data) for item in self.items if not isinstance(item, Failure))


@dataclass(frozen=True)
class PixelChunk:
    """Decoded images: `pixels` is float32 (batch_size, side, side, 3), RGB in [0, 255], unused rows zero.

    `pixels` is None when no image of the chunk could be decoded.
    """

    shard: Shard
    position: int
    is_last: bool
    items: tuple[Decoded | Failure, ...]
    pixels: np.ndarray | None

    def __len__(self) -> int:
        return sum(isinstance(item, Decoded) for item in self.items)

    @property
    def nbytes(self) -> int:
        """Bytes of the pixel array."""
        return 0 if self.pixels is None else self.pixels.nbytes


class Pending(Protocol):
    """Outputs that a device is still computing; see `transforms.infer`."""

    def wait(self) -> None:
        """Returns once the device is done, whether or not it failed."""

    def resolved(self) -> FeatureChunk:
        """The chunk with its outputs; images for which the model failed have become failures. Called once."""


@dataclass(frozen=True)
class FeatureChunk:
    """The model's outputs by name, each (batch_size, ...) with row `Decoded.row` for each decoded item.

    While they are `pending`, `outputs` is empty, and an item may still become a failure: see `resolved`.
    """

    shard: Shard
    position: int
    is_last: bool
    items: tuple[Decoded | Failure, ...]
    outputs: Mapping[str, np.ndarray]
    model: Mapping[str, str] = field(default_factory=dict)  # the loaded model's identity
    pending: Pending | None = None

    def resolved(self) -> FeatureChunk:
        """The chunk with its outputs, once the device has computed them. Raises what the model raises for all images."""
        return self.pending.resolved() if self.pending else self

    def __len__(self) -> int:
        return sum(isinstance(item, Decoded) for item in self.items)

    @property
    def nbytes(self) -> int:
        """Bytes of the output arrays."""
        return sum(array.nbytes for array in self.outputs.values())
