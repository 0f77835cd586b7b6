"""The label that colours the map: a passed-through feature, or the pictures' folders, if it sorts them into groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.finetune.labels import folder_name
from pipeline.flags import RequestError
from pipeline.labelled import FOLDER
from pipeline.look.scan import Row
from pipeline.outputs import Committed
from transforms.errors import ItemError

COLOURS = 10  # groups with a colour of their own
_MOST_GROUPS = 1000  # of a label that is chosen without being asked for


@dataclass(frozen=True)
class Labels:
    """The groups of the pictures: `of` has an index into `names` per row, -1 for a group without a colour of its own."""

    feature: str  # '' if there is none
    names: tuple[bytes, ...]  # the largest first
    counts: tuple[int, ...]
    of: tuple[int, ...]
    others: int  # groups without a colour


def check(feature: str, committed: Committed) -> None:
    """Raises RequestError if the feature that was asked for was not passed through."""
    passed = committed.receipts[0].fingerprint["schema"]["pass_through"]
    if feature and feature not in (*passed, FOLDER):
        there = f"it passed through {', '.join(passed)}" if passed else "it passed nothing through"
        raise RequestError(
            f"--label={feature}: the job copied no such feature; {there} (--pass_through); --label={FOLDER} takes the folders "
            "of image files"
        )


def choose(feature: str, rows: Sequence[Row]) -> Labels:
    """The groups by `feature`, or by the first that has one value per picture and some pictures per group.

    Last comes the folder that a picture lies in, by its key.
    """
    for name in [feature] if feature else list(dict.fromkeys([*rows[0].passed, FOLDER])):
        all_values = [row.passed[name] if name in row.passed else _folder(row.key) for row in rows]
        values = [of_row[:1] for of_row in all_values]
        counts = Counter(values)
        counts.pop((), None)
        is_sorting = 1 < len(counts) <= min(_MOST_GROUPS, max(COLOURS, len(rows) // 2))
        if feature or (is_sorting and all(len(of_row) == 1 for of_row in all_values)):
            largest = sorted(counts, key=lambda value: (-counts[value], value))[:COLOURS]
            place = {value: index for index, value in enumerate(largest)}
            return Labels(
                name,
                tuple(value[0] for value in largest),
                tuple(counts[value] for value in largest),
                tuple(place.get(value, -1) for value in values),
                len(counts) - len(largest),
            )
    return Labels("", (), (), (-1,) * len(rows), 0)


def _folder(key: bytes) -> tuple[bytes, ...]:
    try:
        return (folder_name(key).encode(),)
    except ItemError:
        return ()
