"""Labels of examples, as inputs hold them, and the classes that they are of."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from transforms.elements import Encoded
from transforms.errors import ItemError
from transforms.records import examples

Label = int | str
_CLASSES_MAX = 1_000_000
_WHOLE = re.compile(r"-?\d{1,18}")


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


def of_folder(item: Encoded) -> str:
    """The label of an image file: see `folder_name`."""
    return folder_name(item.key)


def folder_name(key: bytes) -> str:
    """The name of the folder that an image file lies in, by its key. Raises ItemError if its path has none."""
    path = key.decode("utf-8", "surrogateescape")
    path = unquote(path, errors="surrogateescape") if path.startswith("file://") else path
    name = posixpath.basename(posixpath.dirname(path))
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


def classes_of(labels: Sequence[Label], names: Sequence[str] = ()) -> Classes:
    """The classes of all labels that occur. Raises BadClasses.

    Whole numbers, also as texts, are numbers of classes from 0 on; texts are sorted by code point. `names` gives the order
    instead, and the name of each number.
    """
    texts = [str(label) for label in labels]
    if not texts:
        raise BadClasses("no example has a label")
    number_of = {name: number for number, name in enumerate(names)}
    if twice := [name for number, name in enumerate(names) if number_of[name] != number]:
        raise BadClasses(f"--classes names {sorted(twice)[0]!r} twice")
    if names and set(texts) <= set(names):
        return Classes(tuple(names), {label: number_of[str(label)] for label in labels})
    if all(_WHOLE.fullmatch(text) for text in texts):
        numbers = {label: int(label) for label in labels}
        least, most = min(numbers.values()), max(numbers.values())
        limit = len(names) or _CLASSES_MAX
        if least < 0 or most >= limit:
            raise BadClasses(
                f"labels are numbers of classes from 0 on, below {limit}, but there is {least if least < 0 else most}"
            )
        return Classes(tuple(names) or tuple(str(number) for number in range(most + 1)), numbers)
    if names:
        missing = sorted(set(texts) - set(names))
        raise BadClasses(f"{len(missing)} labels are not in --classes, such as {missing[0]!r}")
    number_of = {text: number for number, text in enumerate(sorted(set(texts)))}
    return Classes(tuple(number_of), {label: number_of[str(label)] for label in labels})
