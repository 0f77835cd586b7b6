"""`python -m pipeline.evaluate OUTPUT --label=FEATURE`: how often the classes that a job wrote are right."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bit.command import exit_with
from bit.outputs import TOP_CLASS
from pipeline.console import counted, say
from pipeline.labelled import Label, Labelled, NotUsable, classes_of, judged, open_output, parser

_SHOWN = 20  # classes on the screen; --json has all


@dataclass
class Tally:
    """Images of one class, and how many of them were right."""

    images: int = 0
    top_1: int = 0
    top_5: int = 0
    taken_for: Counter[int] = field(default_factory=Counter)  # wrong first classes

    def add(self, truth: int, best: Sequence[int]) -> None:
        """Counts one image; `best` are its classes, best first."""
        self.images += 1
        self.top_1 += best[0] == truth
        self.top_5 += truth in best[:5]
        if best[0] != truth:
            self.taken_for[best[0]] += 1


def evaluate(output: Labelled, offset: int = 0) -> dict[str, Any]:
    """Accuracies over all images of the output that have a label: see docs/output.md. Reads one record at a time.

    An integer label less `offset` is the index of a class; a text is the name or synset of a class, else such a number.
    Raises NotUsable if the output holds no classes, or if no label is one of a class.
    """
    dimensions = output.manifest["dimensions"]
    source = next((name for name in ("logits", TOP_CLASS) if name in dimensions), "")
    if not source and output.manifest["features"]:
        raise NotUsable(
            f"{output.layout.folder} holds neither logits nor top_k: run the job with --outputs=logits (or top_k) and a model "
            "that has a head"
        )
    known = classes_of(output)
    classes = int(dimensions["logits"]) if source == "logits" else len(known.names)
    width = int(dimensions.get(source, 0))
    tallies: dict[int, Tally] = {}
    outside: Counter[Label] = Counter()
    for row in output.rows():
        truth = _index(row.label, known.index, offset)
        if truth is None or truth < 0 or (classes and truth >= classes):
            outside[row.label] += 1
            continue
        values = row.values[source]
        best = _best(values) if source == "logits" else list(values)
        tallies.setdefault(truth, Tally()).add(truth, best)
    unusable = {**output.left_out, **({"a label that is no class": outside.total()} if outside else {})}
    images = sum(tally.images for tally in tallies.values())
    if not images:
        example = next(iter(outside), None)
        seen = f"such as {example!r}, which is no class" if example is not None else "empty or absent"
        raise NotUsable(f"no image of {output.layout.folder} has a label in {output.label!r} ({seen})")
    failed = sum(output.failures.values())
    right = sum(tally.top_1 for tally in tallies.values())
    right_in_5 = sum(tally.top_5 for tally in tallies.values()) if width >= min(5, classes or 5) else None
    named = dict(enumerate(known.names))
    return {
        "inputs": output.inputs,
        "evaluated": images,
        "failed": dict(output.failures),
        "not_evaluated": dict(sorted(unusable.items())),
        "labels_of_no_class": {str(label): count for label, count in outside.most_common(_SHOWN)},
        "top_1": right / images,
        "top_1_if_failed_are_wrong": right / (images + failed),
        "top_5": None if right_in_5 is None else right_in_5 / images,
        "mean_per_class": float(np.mean([tally.top_1 / tally.images for tally in tallies.values()])),
        "classes": [
            {
                "class": index,
                "name": named.get(index, ""),
                "images": tally.images,
                "top_1": tally.top_1 / tally.images,
                "top_5": None if right_in_5 is None else tally.top_5 / tally.images,
                "most_often_taken_for": [
                    {"class": other, "name": named.get(other, ""), "images": count}
                    for other, count in sorted(tally.taken_for.items(), key=lambda item: (-item[1], item[0]))[
                        :3
                    ]
                ],
            }
            for index, tally in sorted(tallies.items())
        ],
    }


def _index(label: Label, names: Mapping[str, int], offset: int) -> int | None:
    if isinstance(label, str):
        if label in names:  # before numbers: a class may be called '7'
            return names[label]
        try:
            label = int(label)
        except ValueError:
            return None
    return label - offset


def _best(logits: np.ndarray) -> list[int]:
    """The five best classes in top_k's order: of equal ones the first."""
    return np.argsort(-logits, kind="stable")[:5].tolist()


def _say(result: Mapping[str, Any], folder: str) -> None:
    def percent(value: float | None) -> str:
        return "     -" if value is None else f"{100 * value:5.1f}%"

    failed = sum(result["failed"].values())
    say(f"{folder}: {result['evaluated']} of {counted(result['inputs'], 'image')} evaluated")
    for what, counts in (("failed", result["failed"]), ("not evaluated", result["not_evaluated"])):
        if counts:
            listed = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
            say(f"  {what}: {sum(counts.values())} ({listed})")
    if result["labels_of_no_class"]:
        say(f"  labels of no class: {', '.join(map(repr, result['labels_of_no_class']))}")
    say(
        f"top-1 {percent(result['top_1'])}"
        + (
            f" ({percent(result['top_1_if_failed_are_wrong']).strip()} if failed images count as wrong)"
            if failed
            else ""
        )
    )
    say(
        f"top-5 {percent(result['top_5'])}"
        + ("" if result["top_5"] is not None else " (needs --top_k=5 or logits)")
    )
    say(f"mean of the classes' top-1 {percent(result['mean_per_class'])}")
    rows = sorted(result["classes"], key=lambda row: (row["top_1"], row["class"]))[:_SHOWN]
    say(
        f"{'the worst classes' if len(rows) < len(result['classes']) else 'class'}: images, top-1, top-5, taken for"
    )
    for row in rows:
        wrong = ", ".join(f"{o['name'] or o['class']} ({o['images']})" for o in row["most_often_taken_for"])
        name = f"{row['class']} {row['name']}".strip()
        say(f"  {name[:40]:40} {row['images']:8} {percent(row['top_1'])} {percent(row['top_5'])}  {wrong}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 1 if the output is damaged, 2 if the request is wrong."""
    own = parser(
        "evaluate",
        "Compares the classes that a job wrote (--outputs=logits or top_k) with a label that it passed through.",
    )
    own.add_argument(
        "--label_offset",
        type=int,
        default=0,
        metavar="N",
        help="what to subtract from integer labels: 1 if they count from 1 (default: 0)",
    )

    def judge(arguments: argparse.Namespace) -> Mapping[str, Any]:
        return evaluate(open_output(arguments.output, arguments.label), arguments.label_offset)

    return judged(argv, own, judge, _say)


if __name__ == "__main__":
    exit_with(main)
