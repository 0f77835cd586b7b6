"""The interface of a kind of input: how its files are recognized, cut into sources, read, and compared on a resume."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from apache_beam.io.filesystem import FileMetadata

from transforms.elements import EVERY, Encoded, Failure, Record
from transforms.fetching.settings import FetchSettings
from transforms.storage import door
from transforms.storage.damage import DAMAGED, explained
from transforms.storage.errors import is_transient

Item = Encoded | Record | Failure
Bounds = tuple[int, int | None]
WHOLE: Bounds = (0, None)
KeyAt = Callable[[int], "bytes | None"]  # position in the shard -> key; None where it cannot be known


class BadInput(ValueError):
    """An input cannot be read as requested; the message says what, where and what to do."""


@contextlib.contextmanager
def as_bad_input(path: str) -> Iterator[None]:
    """A context in which `path` is opened and read, and what is wrong with it becomes BadInput.

    A store that does not answer is no fault of the input: its error passes."""
    try:
        yield
    except BadInput:
        raise
    except DAMAGED as error:
        raise BadInput(f"{path} cannot be read: {explained(error)}") from error
    except (OSError, ValueError) as error:
        if is_transient(error):
            raise
        raise BadInput(f"{path} cannot be read: {door.explain(path, error)}") from error


@dataclass(frozen=True)
class ReadSettings:
    """How inputs are read. `batch_size` is the number of images in a full chunk; '' means the kind's own default."""

    batch_size: int
    image_feature: str = ""  # the feature, column or member that holds the image
    key_feature: str = ""  # the feature, column or member that holds the key
    uri_column: str = "uri"
    pass_through: tuple[str, ...] = ()
    fetch: FetchSettings = field(default_factory=FetchSettings)
    kinds: tuple[tuple[str, str], ...] = ()  # types of columns in `pass_through`: see `records.values`

    @functools.cached_property
    def kinds_by_name(self) -> Mapping[str, str]:
        """The types by column. One that is missing lets each value have its own, as earlier versions did."""
        return dict(self.kinds)


@dataclass(frozen=True)
class Reading:
    """One pass through a source.

    Attributes:
      name: the shard's name, from which default keys are made.
      settings: how to read.
      due: the positions in the shard that are to be read; the others are skipped.
      fetch: returns an image's bytes by its URI; raises ItemError. For sources that hold URIs.
      pool: threads to fetch ahead on.
      limit: how many inputs to read at most; None for all.
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
        """The file that the source is or lies in."""

    @property
    def units(self) -> int:
        """Its size, for progress: inputs where `inputs` is known, else bytes. Reading adds to `units` in the counters."""

    @property
    def inputs(self) -> int | None:
        """How many inputs it holds, where that is known before reading."""

    @property
    def cut_by(self) -> str:
        """The flag that cuts the same input into more shards; '' if there is none."""

    @property
    def unused_images(self) -> int:
        """How many images it holds beside those of its inputs, in the source that `items` returns. Receipts keep it."""

    def items(self, reading: Reading) -> Generator[Item, None, Source]:
        """The inputs, in order; returns the source completed with what only reading finds out, such as checksums.

        Called once per attempt."""

    def identity(self) -> Mapping[str, Any]:
        """What a receipt keeps of it, as JSON: enough to decide on a resume whether the input is the same."""

    def change(self, before: Mapping[str, Any]) -> str:
        """The name of a value in the identity `before` that has changed; '' if it is the same input. May read the file."""


@dataclass(frozen=True)
class Cutting:
    """How files are cut into sources.

    Attributes:
      listing: the path at which a list of image files will be written.
      among: the paths of all files of the input, if the files are only the new ones: names tell all of them apart.
      bounds: list -> where its rows begin that are due, and where they end, if it may have further ones: offsets as of slices.
    """

    read: ReadSettings
    images_per_shard: int | None  # None: as `shard_size` has it
    split_bytes: int | None
    listing: str
    among: Sequence[str] = ()
    bounds: Mapping[str, Bounds] = field(default_factory=dict)


class Cut(NamedTuple):
    """The sources of a request's files, in order, with their shards' names and notes for the user.

    `problem` says why no run that has something to do can go well; '' if there is no such reason.
    """

    sources: Sequence[Source]
    names: Sequence[str]
    notes: tuple[str, ...] = ()
    listing: bytes | None = None  # what is to be written to `Cutting.listing`
    images_per_shard: int | None = None  # at most; None for kinds that are not cut by rows
    kinds: tuple[tuple[str, str], ...] = ()  # the type of each column that is passed through
    problem: str = ""


def always(path: str, settings: ReadSettings) -> bool:
    """The `accepts` of kinds whose file names and first bytes no other kind claims."""
    return True


class Kind(NamedTuple):
    """A kind of input; `kinds.KINDS` lists them.

    Attributes:
      name: the value of --input_format.
      is_named: whether a file name, in lower case and without its folder, says that the file is of this kind.
      sniff: whether the first bytes of a file, decompressed, say so. Called only where the name does not.
      cut: cuts the files into sources. Raises BadInput.
      accepts: called where several kinds claim a file; may read it. Raises BadInput where the request must decide.
      from_folders: whether a folder is searched for files of this kind.
      unnamed_in_folders: whether a folder's files whose names no kind claims are taken by their first bytes.
      again: (file, identity in a receipt, settings) -> the source that the receipt is of, in the file as it is now; called
        for files whose names are those of the receipt's shard. None where the output itself lists the inputs.
      keys: (shard's name, identity in its receipt, path of the listing) -> the default key at each position, as far as
        it follows from these; None if the receipt belongs to another kind. For checks of an output without its input.
    """

    name: str
    is_named: Callable[[str], bool]
    sniff: Callable[[bytes], bool]
    cut: Callable[[Sequence[FileMetadata], Cutting], Cut]
    keys: Callable[[str, Mapping[str, Any], str], KeyAt | None]
    again: Callable[[FileMetadata, Mapping[str, Any], ReadSettings], Source] | None = None
    accepts: Callable[[str, ReadSettings], bool] = always
    from_folders: bool = False
    unnamed_in_folders: bool = False
