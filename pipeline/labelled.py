"""Reads a finished job's output, shard by shard, together with a label that was passed through, for commands that judge it."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from apache_beam.io.filesystem import BeamIOError

from bit import models, outputs, tuned
from bit.labels import read_labels
from pipeline import flags, of_output
from pipeline.console import say
from pipeline.finetune.labels import folder_name
from pipeline.flags import RequestError
from transforms.commit import receipts
from transforms.commit.layout import Layout
from transforms.commit.receipts import Receipt
from transforms.errors import ItemError
from transforms.records import features
from transforms.records.features import Damage
from transforms.storage import door

Label = int | str
FOLDER = "folder"  # in place of a feature: the name of the folder that an image file lies in


class NotUsable(ValueError):
    """The output cannot answer the question. Exit code 2."""


class Damaged(ValueError):
    """The output is not as it was committed. Exit code 1."""


_EPILOG = """\
Beam's options for the access to stores are accepted too. All messages go to stderr.

exit codes: 0 done, 1 the output is damaged, or a store does not answer, 2 the request is wrong
"""


def parser(name: str, description: str) -> flags.Parser:
    """The parser of a command that judges an output, with the flags that all of them have."""
    out = of_output.parser(name, "--label=FEATURE [flags]", description, _EPILOG)
    out.add_argument(
        "--label",
        default="",
        metavar="FEATURE",
        help=f"name that --pass_through gave the label, or '{FOLDER}' for the name of the folder that an image file lies in "
        "(required)",
    )
    out.add_argument("--json", action="store_true", help="print all figures to stdout, as one line of JSON")
    return out


def judged(
    argv: Sequence[str] | None,
    own: flags.Parser,
    judge: Callable[[argparse.Namespace], Mapping[str, Any]],
    tell: Callable[[Mapping[str, Any], str], None],
) -> int:
    """Says what `judge` returns for a command line by `tell`, and prints it if asked to; returns the exit code.

    Args:
      own: a parser from `parser`, with the command's own flags; one named --test names another output.
    """
    try:
        arguments, beam_options = of_output.parse(sys.argv[1:] if argv is None else argv, own, "label")
        command = own.prog.rpartition(".")[2]
        of_output.enter(beam_options, command, arguments.output, getattr(arguments, "test", ""))
        result = judge(arguments)
    except (RequestError, NotUsable, BeamIOError, ImportError) as error:
        say(f"error: {error}")
        return 2
    except (Damaged, OSError) as error:
        say(f"error: {error}")
        return 1
    tell(result, arguments.output)
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False))
    return 0


@dataclass
class Row:
    """One image of the output that has one label."""

    key: bytes
    label: Label
    values: Mapping[str, Any]  # of the record, by feature


@dataclass
class Labelled:
    """The output of a finished job. `rows` counts what it leaves out."""

    layout: Layout
    label: str  # name of the feature that holds it
    manifest: Mapping[str, Any]
    done: list[Receipt]
    left_out: Counter[str] = field(default_factory=Counter)  # images without one label, by reason

    @property
    def inputs(self) -> int:
        """Images of the input, failed ones included."""
        return sum(receipt.inputs for receipt in self.done)

    @property
    def failures(self) -> Mapping[str, int]:
        """Failed images by code. Their labels are not known: they have no record."""
        return self.manifest["failures_by_code"]

    def rows(self) -> Iterator[Row]:
        """The images that have one label, in the order of the input. Raises Damaged."""
        self.left_out.clear()
        for receipt in self.done:
            if not receipt.features:
                continue
            path = self.layout.features(receipt.shard)
            count = 0
            with door.open_binary(path) as stream:
                for record in features.read(stream):
                    if isinstance(record, Damage):
                        raise _damaged(self.layout, path, record.reason)
                    count += 1
                    values = record.values()
                    label = self._label_of(values)
                    if isinstance(label, _No):
                        self.left_out[label.reason] += 1
                    else:
                        yield Row(values[features.KEY][0], label, values)
            if count != receipt.features:
                raise _damaged(self.layout, path, f"{count} records, but the receipt says {receipt.features}")

    def _label_of(self, values: Mapping[str, Any]) -> Label | _No:
        if self.label in self.manifest["schema"]["pass_through"]:
            return _label(values.get(self.label))
        return _of_key(values[features.KEY][0])


def open_output(folder: str, label: str) -> Labelled:
    """The output of a job in `folder`. Raises NotUsable if it holds none, is unfinished, or was written without `label`.

    `label`: a feature that was passed through, or FOLDER."""
    layout = Layout(folder.rstrip("/") or "/")
    content = door.read_if_there(layout.manifest)
    if content is None:
        raise NotUsable(
            f"{folder} holds no output of a finished job: it has no manifest.json; give the --output folder of a job, and if "
            "that was stopped, run it again"
        )
    try:
        manifest = json.loads(content)
        passed = manifest["schema"]["pass_through"]
        done = receipts.read_receipts(layout)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(layout, layout.manifest, repr(error)) from error
    if label not in passed and label != FOLDER:
        has = f"it passed through {', '.join(passed)}" if passed else "it passed nothing through"
        raise NotUsable(
            f"--label={label}: the job wrote no such feature ({has}); run it with --pass_through={label} into another "
            f"--output; --label={FOLDER} takes the folders of image files"
        )
    return Labelled(layout, label, manifest, done)


@dataclass(frozen=True)
class Classes:
    """The classes of a head, as far as they are known."""

    names: Sequence[str] = ()  # readable, by index
    index: Mapping[str, int] = field(default_factory=dict)  # of each name and synset that only one class has


def classes_of(output: Labelled) -> Classes:
    """The classes of the model's head. Raises Damaged if their names are not those that the job wrote."""
    if recorded := output.manifest.get("class_names", ""):
        path = output.layout.class_names
        content = door.read_if_there(path) or b""
        if recorded != f"sha256:{hashlib.sha256(content).hexdigest()}":
            raise _damaged(output.layout, path, "its digest is not that in the manifest")
        names = tuned.parse_names(content, path)
        return Classes(names, _unique(names))
    try:
        model = models.resolve(output.manifest["model"]["name"])
    except (models.UnknownModel, models.UnusableModel):  # a path that is gone
        return Classes()
    count = output.manifest["dimensions"].get("logits") or outputs.classes(model)
    labels = read_labels(outputs.task(model, count)) if isinstance(count, int) else None
    if labels is None or labels.synsets is None:
        return Classes()
    readable = [name.decode() for name in labels.names.tolist()]
    return Classes(
        readable, _unique(readable) | _unique([synset.decode() for synset in labels.synsets.tolist()])
    )


def _unique(names: Sequence[str]) -> dict[str, int]:
    count = Counter(names)
    return {name: index for index, name in enumerate(names) if count[name] == 1}


@dataclass(frozen=True)
class _No:
    reason: str


def _label(values: Any) -> Label | _No:
    if values is None or not len(values):
        return _No("no label")
    if len(values) > 1:
        return _No("several labels")
    (value,) = values
    if isinstance(value, bytes):
        text = value.decode(errors="surrogateescape").strip()
        return text if text else _No("no label")
    if isinstance(value, int):
        return value
    return (
        int(value) if np.isfinite(value) and value == int(value) else _No("a label that is no whole number")
    )


def _of_key(key: bytes) -> Label | _No:
    try:
        return folder_name(key)
    except ItemError:
        return _No("no folder")


def _damaged(layout: Layout, path: str, what: str) -> Damaged:
    return Damaged(f"{path}: {what}; `python -m pipeline.verify {layout.folder}` shows all that is wrong")
