"""Samples of a WebDataset tar: runs of members with one key, `KEY.EXTENSION`.

As in https://github.com/webdataset/webdataset the key goes up to the first dot of the file name and has its folder.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from transforms.errors import ItemError
from transforms.imaging.formats import SUFFIXES
from transforms.records import tar
from transforms.records.tfrecord import Damage
from transforms.sources.base import ReadSettings

KEY_ALONE = "__key__"  # --key_feature: the key of the sample, without the name of the file
_NAMED = 10  # members in a message
_META = re.compile(r"__[^/]*__(/|$)")  # what WebDataset leaves out


@dataclass
class Sample:
    """The members of a sample by extension; those that are wanted have their content."""

    offset: int  # of the first one
    key: str
    image: str = ""  # the extension of the member that is the image; '' while there is none
    members: dict[str, tar.Member] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)  # extensions of further images, not asked for

    def content(self, extension: str) -> bytes:
        """Of a member that was wanted; ItemError 'missing_feature' if there is none."""
        member = self.members.get(extension)
        if member is None or not extension:
            what = f"no member {extension!r}" if extension else "no member with the suffix of an image"
            names = list(itertools.islice(self.members, _NAMED))
            more = ", ..." if len(names) < len(self.members) else ""
            raise ItemError("missing_feature", f"{what}; there are {', '.join(names)}{more}")
        if member.data is None:
            raise ItemError("missing_feature", f"member {member.name!r} {member.problem}")
        return member.data

    def key_of(self, extension: str) -> bytes:
        """What --key_feature names: the key itself, or what a member holds, without white space around it."""
        if extension == KEY_ALONE:
            return self.key.encode("utf-8", "surrogateescape")
        key = self.content(extension).strip()
        if not key:
            raise ItemError("missing_feature", f"member {extension!r}, which is to be the key, is empty")
        return key


class Samples:
    """Gathers members into samples, and holds the content only of what is due and wanted."""

    def __init__(self, settings: ReadSettings, due: Container[int]):
        self._settings, self._due = settings, due
        self._wanted = {settings.key_feature, *settings.pass_through}
        self._sample: Sample | None = None  # the one that is being gathered
        self._damage: list[Damage] = []  # met since it began: comes behind it
        self._position = 0  # of the sample, or of what comes next

    def read(self, stream: BinaryIO) -> Iterator[Sample | Damage]:
        for entry in tar.read(stream, self._wants):
            if isinstance(entry, Damage):
                self._damage.append(entry)
                if self._sample is None:
                    yield from self._ended()
                continue
            key, extension = _split(entry.name)
            if key is None:
                continue
            if not self._goes_on(key, extension):
                yield from self._ended()
                self._sample = Sample(entry.offset, key)
            assert self._sample is not None
            self._sample.members[extension] = entry
            if self._can_be_image(extension):
                if not self._sample.image:
                    self._sample.image = extension
                elif extension not in self._wanted:
                    self._sample.unused.append(extension)
        yield from self._ended()

    def _ended(self) -> Iterator[Sample | Damage]:
        """What is complete, and nothing is being gathered any more."""
        ended: list[Sample | Damage] = [*([self._sample] if self._sample else []), *self._damage]
        self._position += len(ended)
        self._sample, self._damage = None, []
        yield from ended

    def _goes_on(self, key: str, extension: str) -> bool:
        """Whether a member belongs to the sample that is being gathered. A second one with its name does not."""
        return self._sample is not None and self._sample.key == key and extension not in self._sample.members

    def _wants(self, name: str) -> bool:
        key, extension = _split(name)
        if key is None or not extension:
            return False
        goes_on = self._goes_on(key, extension)
        has_image = goes_on and self._sample is not None and self._sample.image
        position = self._position + (0 if goes_on else len(self._damage) + (self._sample is not None))
        is_image = not has_image and self._can_be_image(extension)
        return position in self._due and (is_image or extension in self._wanted)

    def _can_be_image(self, extension: str) -> bool:
        """Whether it is that of --image_feature, or one of images."""
        if self._settings.image_feature:
            return extension == self._settings.image_feature
        return f".{extension}".endswith(SUFFIXES)


def _split(name: str) -> tuple[str | None, str]:
    """The key and the extension of a member, in lower case; no key for what is no part of a sample."""
    folder, slash, file = name.rpartition("/")
    if file.startswith(".") or "__MACOSX" in folder.split("/") or _META.match(name):
        return None, ""
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension.lower()
