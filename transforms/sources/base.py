"""What a kind of input is to the rest of the job: how its files are told, cut into sources, read, and known again."""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from apache_beam.io.filesystem import FileMetadata

from transforms.elements import EVERY, Encoded, Failure
from transforms.fetching.settings import FetchSettings

Item = Encoded | Failure
KeyAt = Callable[[int], "bytes | None"]  # position in the shard -> key; None where it cannot be known


class BadInput(ValueError):
    """An input cannot be read as asked; the message says what, where and what to do."""


@dataclass(frozen=True)
class ReadSettings:
    """How inputs are read. `batch_size` is the number of images in a full chunk; '' stands for a kind's own default."""

    batch_size: int
    image_feature: str = ""  # the feature, column or member that holds the image
    key_feature: str = ""  # the feature, column or member that holds the key
    uri_column: str = "uri"
    pass_through: tuple[str, ...] = ()
    fetch: FetchSettings = field(default_factory=FetchSettings)


@dataclass(frozen=True)
class Reading:
    """One pass through a source.

    Attributes:
      name: the shard's name, from which default keys are made.
      settings: how to read.
      due: the positions in the shard that are to be read; the others are passed over.
      fetch: an image's bytes by its URI; raises ItemError. For sources that hold URIs.
      pool: threads to fetch ahead on.
      limit: how many inputs are looked at; None for all.
    """

    name: str
    settings: ReadSettings
    due: Container[int] = EVERY
    fetch: Callable[[str], bytes] | None = None
    pool: Executor | None = None
    limit: int | None = None


class Source(Protocol):
    """The input of one shard: frozen, picklable, small. The graph's elements carry it to the workers."""

    @property
    def uri(self) -> str:
        """The file that it is, or lies in."""

    @property
    def units(self) -> int:
        """Its size, for progress: inputs where `inputs` is known, else bytes. Reading adds to counters' `units` as it goes."""

    @property
    def inputs(self) -> int | None:
        """How many inputs it holds, where that is known before reading."""

    @property
    def cut_by(self) -> str:
        """The flag that makes more shards of the same input; '' if none does."""

    def items(self, reading: Reading) -> Generator[Item, None, Source]:
        """The inputs, in order; returns the source with what only reading tells, as sums. Called once per attempt."""

    def identity(self) -> Mapping[str, Any]:
        """What a receipt keeps of it, JSON: enough to tell on a resume whether the input is the same."""

    def change(self, before: Mapping[str, Any]) -> str:
        """Which part of the identity `before` it no longer has; '' if it is the same input. May read the file."""


@dataclass(frozen=True)
class Cutting:
    """How files are cut into sources. `listing` is where a list of image files will stand."""

    read: ReadSettings
    images_per_shard: int
    split_bytes: int | None
    listing: str


class Cut(NamedTuple):
    """What became of a request's files: the sources in order, with their shards' names, and what the user ought to know."""

    sources: Sequence[Source]
    names: Sequence[str]
    notes: tuple[str, ...] = ()
    listing: bytes | None = None  # what is to be written to `Cutting.listing`


def always(path: str, settings: ReadSettings) -> bool:
    """For kinds that no other kind's files can be mistaken for."""
    return True


class Kind(NamedTuple):
    """A kind of input; `kinds.KINDS` lists them.

    Attributes:
      name: as --input_format says it.
      is_named: whether a file name, in lower case and without its folder, says that the file is of this kind.
      sniff: whether the first bytes of a file, decompressed, say so. Asked where no name does.
      cut: makes sources of the files. Raises BadInput.
      accepts: asked where several kinds claim a file; may read it. Raises BadInput where the request must decide.
      from_folders: whether a folder is searched for files of this kind.
      unnamed_in_folders: whether files in a folder whose name tells nothing are taken for their first bytes.
      keys: (shard's name, identity in its receipt, path of the listing) -> the default key at each position, as far as it
        follows from these; None if the receipt is of another kind. For checks of an output without its input.
    """

    name: str
    is_named: Callable[[str], bool]
    sniff: Callable[[bytes], bool]
    cut: Callable[[Sequence[FileMetadata], Cutting], Cut]
    keys: Callable[[str, Mapping[str, Any], str], KeyAt | None]
    accepts: Callable[[str, ReadSettings], bool] = always
    from_folders: bool = False
    unnamed_in_folders: bool = False


def without_compression(name: str) -> str:
    """A file name without the suffix of a compression."""
    for suffix in (".gz", ".bz2", ".zst"):
        name = name.removesuffix(suffix)
    return name
