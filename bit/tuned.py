"""What a model says of itself in two small files: the names of its classes, and the pixels that it was tuned on.

`classes.txt` has one name per line, UTF-8, in the order of the logits; `preprocessing.json` is {"image_size": 480}, and has
"exif_orientation": "apply" if pictures were turned as their metadata says. They lie in `assets/` of a SavedModel's folder, or
beside an `.npz` or `.safetensors` without an official name. Either may be absent.
Standard library only: a host that submits jobs reads them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import NamedTuple

from bit.errors import UnusableModel

CLASSES, PREPROCESSING = "classes.txt", "preprocessing.json"
FINETUNED = "model"  # the SavedModel in the output folder of `pipeline.finetune`
ORIENTATIONS = ("ignore", "apply")  # what becomes of a picture whose metadata says that it lies on its side
_SIDE_MAX = 8192  # pixels


class Preprocessing(NamedTuple):
    """How the pictures that a model was tuned on became pixels: their side, 0 if that is not known, one of ORIENTATIONS."""

    image_size: int
    exif_orientation: str = ORIENTATIONS[0]


UNKNOWN = Preprocessing(0)


def place(uri: str, kind: str, file: str) -> str:
    """Where the file CLASSES or PREPROCESSING of the model at `uri` is, if the model has it. Works on paths and URIs."""
    if kind == "npz":
        return f"{uri.rpartition('/')[0] or '.'}/{file}"
    return f"{uri.rstrip('/')}/assets/{file}"


def is_saved_model(folder: str) -> bool:
    """Whether a local folder holds a SavedModel."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("saved_model.pb", "saved_model.pbtxt"))


def saved_model(path: str) -> str:
    """The SavedModel's folder, if `path` is the local output folder of a fine-tuning, which holds it; else the path itself."""
    local, inner = os.path.expanduser(path.removeprefix("file://")), os.path.join(path, FINETUNED)
    within = os.path.join(local, FINETUNED)
    return inner if is_saved_model(within) and not is_saved_model(local) else path


def write(folder: str, classes: Sequence[str], preprocessing: Preprocessing) -> list[str]:
    """Writes both files into `folder`, the first only if there are names; returns their paths."""
    values = preprocessing._asdict()
    if preprocessing.exif_orientation == UNKNOWN.exif_orientation:
        del values["exif_orientation"]  # as in files of earlier versions
    contents = {PREPROCESSING: json.dumps(values).encode() + b"\n"}
    if classes:
        contents[CLASSES] = format_names(classes)
    for name, content in contents.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    return [os.path.join(folder, name) for name in sorted(contents)]


def format_names(classes: Sequence[str]) -> bytes:
    """The content of a `classes.txt`."""
    return "".join(f"{name}\n" for name in classes).encode()


def read_names(path: str, kind: str) -> tuple[str, ...]:
    """The class names of the model at a local path; () if it has none. Raises UnusableModel if they cannot be read."""
    file = place(path, kind, CLASSES)
    content = _content(file)
    return () if content is None else parse_names(content, file)


def parse_names(content: bytes, source: str) -> tuple[str, ...]:
    """The names in a `classes.txt`. Raises UnusableModel, which names the `source`."""
    try:
        lines = content.decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UnusableModel(
            f"{source} is not UTF-8 ({error}): save it as UTF-8, one class name per line"
        ) from error
    names = tuple(line.removesuffix("\r") for line in lines)
    if "" in names:
        raise UnusableModel(
            f"{source}: line {names.index('') + 1} is empty; the file holds one class name per line, in the order of the logits"
        )
    return names


def check_names(names: Sequence[str], classes: int, source: str) -> None:
    """Raises UnusableModel unless these can be stored as the names of a head of `classes` outputs."""
    if len(names) != classes:
        raise UnusableModel(
            f"{source}: {len(names)} class names, but the head has {classes} outputs; are they of another model?"
        )
    for name in names:
        if not name or name != name.strip("\r\n") or "\n" in name:
            raise UnusableModel(f"{source}: {name!r} is no class name: it is empty or has a line break")


def read_preprocessing(path: str, kind: str) -> Preprocessing:
    """How the model at a local path wants its pictures; UNKNOWN if it does not say. Raises UnusableModel."""
    file = place(path, kind, PREPROCESSING)
    content = _content(file)
    return UNKNOWN if content is None else parse_preprocessing(content, file)


def _content(file: str) -> bytes | None:
    try:
        with open(file, "rb") as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UnusableModel(f"{file} cannot be read ({error})") from error


def parse_preprocessing(content: bytes, source: str) -> Preprocessing:
    """The values in a `preprocessing.json`. Raises UnusableModel, which names the `source`."""
    try:
        values = json.loads(content)
        side, orientation = values["image_size"], values.get("exif_orientation", UNKNOWN.exif_orientation)
        if type(side) is not int or not 1 <= side <= _SIDE_MAX:
            reason = f"image_size is {side!r}, not a number of pixels from 1 to {_SIDE_MAX}"
        elif orientation not in ORIENTATIONS:
            reason = f"exif_orientation is {orientation!r}, not one of {', '.join(ORIENTATIONS)}"
        else:
            return Preprocessing(side, orientation)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = repr(error)
    raise UnusableModel(
        f'{source} is not like {{"image_size": 480}}: {reason}; set --image_size after mending it'
    )
