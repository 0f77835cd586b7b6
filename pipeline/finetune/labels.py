"""Labels of examples, as inputs hold them, and the classes that they are of."""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from pipeline.console import counted
from transforms.elements import Encoded
from transforms.errors import ItemError
from transforms.records import examples

Label = int | str
_CLASSES_MAX = 1_000_000
_WHOLE = re.compile(r"-?\d{1,18}")
_CANONICAL = re.compile(r"0|[1-9][0-9]{0,17}")
# Numbers of classes with gaps are taken as they are up to this many outputs, or this many outputs per class that occurs.
_OUTPUTS_FREE, _OUTPUTS_PER_CLASS = 1000, 10

_LISTED = (
    "list the classes in --classes=FILE, one per line: the labels that there are, for as many outputs, or all numbers from 0 on, "
    "or their names"
)


@dataclass(frozen=True)
class Classes:
    """The classes in the order of the logits; `numbers` is label -> class."""

    names: tuple[str, ...]
    numbers: dict[Label, int]

    def by_text(self) -> dict[str, int]:
        """The class of each label as text, and of each name that is no label."""
        labels = {str(label): number for label, number in self.numbers.items()}
        return {name: number for number, name in enumerate(self.names)} | labels


class BadClasses(ValueError):
    """The labels cannot be those of one classification; the message says why and what to do."""


def of_folder(item: Encoded, mixed: Container[str] = ()) -> str:
    """The label of an image file: see `folder_name`. Files in the `mixed` folders have none: see `mixed_folders`."""
    if mixed and _folder(item.key) in mixed:
        raise ItemError(
            "no_label", "the file lies beside the folders of the classes: move it into one of them"
        )
    return folder_name(item.key)


def mixed_folders(searched: Iterable[str], paths: Iterable[str]) -> frozenset[str]:
    """Those of the folders that were `searched` in which files lie beside folders with files; absolute ones twice.

    They hold the folders of the classes, so a file in them is of no class. `paths` are those of all files."""
    folders = {posixpath.dirname(path) for path in paths}
    above = {folder[:at] for folder in folders for at in range(len(folder)) if folder[at] == "/"}
    mixed = {folder for folder in searched if folder in folders and folder in above}
    # The key of a local file with an odd name is a file: URI, which is absolute.
    return frozenset(mixed | {os.path.abspath(folder) for folder in mixed if "://" not in folder})


def _folder(key: bytes) -> str:
    path = key.decode("utf-8", "surrogateescape")
    path = (
        unquote(path.removeprefix("file://"), errors="surrogateescape")
        if path.startswith("file://")
        else path
    )
    return posixpath.dirname(path)


def folder_name(key: bytes) -> str:
    """The name of the folder that an image file lies in, by its key. Raises ItemError if its path has none."""
    name = posixpath.basename(_folder(key))
    if not name or name.endswith(":"):
        raise ItemError("no_label", "the file lies in no folder whose name could be its class")
    # Files of names hold text only: what is not UTF-8 is shown as escapes, so that no two names become one.
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if "\n" in name or "\r" in name:
        raise ItemError("bad_label", f"the name of the folder {name!r} has several lines: rename it")
    return name


def of_feature(item: Encoded, feature: str) -> Label:
    """The one value of a feature that was passed through: a whole number or a text. Raises ItemError."""
    features = examples.Features.FromString(item.passed).feature
    if feature not in features:
        raise ItemError("no_label", f"there is no {feature!r} here")
    if item.unfit:
        raise ItemError("bad_label", f"{feature!r} does not fit the type of its column")
    value = features[feature]
    kind = value.WhichOneof("kind")
    values: Any = getattr(value, kind).value if kind else ()
    if len(values) != 1:
        raise ItemError(
            "no_label" if not values else "bad_label", f"{feature!r} has {len(values)} values, not one"
        )
    if kind == "int64_list":
        return int(values[0])
    if kind == "float_list":
        if not math.isfinite(values[0]) or values[0] != int(values[0]):
            raise ItemError("bad_label", f"{feature!r} is {values[0]:g}, which is no class")
        return int(values[0])
    try:
        text = values[0].decode().strip()
    except UnicodeDecodeError as error:
        raise ItemError("bad_label", f"{feature!r} is not UTF-8 ({error})") from error
    if not text:
        raise ItemError("no_label", f"{feature!r} is empty")
    if "\n" in text or "\r" in text:
        raise ItemError("bad_label", f"{feature!r} has several lines")
    return text


def classes_of(labels: Sequence[Label], names: Sequence[str] = (), are_folders: bool = False) -> Classes:
    """The classes of all labels that occur. Raises BadClasses if there are fewer than two, or too many.

    Whole numbers, also as texts, are numbers of classes from 0 on; texts are sorted by code point. `names` gives the order
    instead, and the name of each number. Names of folders are texts, unless they are exactly the numbers of `names`, or
    without names 0 to n - 1, in digits without leading zeros.
    """
    texts = [str(label) for label in labels]
    if not texts:
        raise BadClasses("no example has a label")
    number_of = {name: number for number, name in enumerate(names)}
    if twice := [name for number, name in enumerate(names) if number_of[name] != number]:
        raise BadClasses(f"--classes names {sorted(twice)[0]!r} twice")
    if names and set(texts) <= set(names):
        return _checked(Classes(tuple(names), {label: number_of[str(label)] for label in labels}))
    if _are_numbers(texts, len(names), are_folders):
        return _checked(_of_numbers({label: int(label) for label in labels}, names))
    if names:
        missing = sorted(set(texts) - set(names))
        raise BadClasses(
            f"{counted(len(missing), 'label')} not in --classes, such as {missing[0]!r}: add a line for each"
        )
    number_of = {text: number for number, text in enumerate(sorted(set(texts)))}
    if len(number_of) > _CLASSES_MAX:
        raise BadClasses(
            f"{len(number_of):,} different labels, more than {_CLASSES_MAX:,}: is this the feature that holds the class?"
        )
    return _checked(Classes(tuple(number_of), {label: number_of[str(label)] for label in labels}))


def _are_numbers(texts: Sequence[str], named: int, are_folders: bool) -> bool:
    if not are_folders:
        return all(_WHOLE.fullmatch(text) for text in texts)
    limit = named or len(set(texts))
    return all(_CANONICAL.fullmatch(text) and int(text) < limit for text in texts)


def _of_numbers(numbers: dict[Label, int], names: Sequence[str]) -> Classes:
    least, most, count = min(numbers.values()), max(numbers.values()), len(set(numbers.values()))
    limit = len(names) or _CLASSES_MAX
    if least < 0 or most >= limit:
        raise BadClasses(
            f"labels are numbers of classes from 0 on, below {limit:,}, but there is {least if least < 0 else most}"
            + ("" if names else f": {_LISTED}")
        )
    if not names and most >= max(_OUTPUTS_FREE, _OUTPUTS_PER_CLASS * count):
        raise BadClasses(
            f"{counted(count, 'class', 'classes')} with numbers up to {most} would make a head of {most + 1:,} outputs: {_LISTED}"
        )
    return Classes(tuple(names) or tuple(str(number) for number in range(most + 1)), numbers)


def _checked(classes: Classes) -> Classes:
    if len(set(classes.numbers.values())) < 2:
        name = classes.names[next(iter(classes.numbers.values()))]
        raise BadClasses(
            f"all examples are of one class, {name!r}: two or more are needed. Image files lie in one folder per class, and "
            "--input names the folder of these"
        )
    return classes
