"""What the page holds, as JSON, with texts of bounded length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.look import page
from pipeline.look.about import Failures
from pipeline.look.doubles import GROUPS, MEMBERS, Exact
from pipeline.look.labels import Labels
from pipeline.look.projection import Map
from pipeline.look.scan import Row
from pipeline.look.statistics import Statistics

_BINS = 40
_MAP_STEPS = 4095  # per axis
_LISTED = 60  # dimensions named
_PASSED = 6  # features shown per picture
_TEXT_BYTES = 4_000_000  # of keys and features, as they stand in the page
_LONGEST = 300  # characters
_LENGTHS = (_LONGEST, 150, 80, 40, 20)


@dataclass(frozen=True)
class Shown:
    """All that the page shows but the pictures themselves."""

    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    failures: Sequence[Failures]
    rows: Sequence[Row]  # the sample, then others
    sampled: int
    statistics: Statistics
    neighbours: tuple[np.ndarray, np.ndarray]
    exact: Exact
    near: Sequence[Sequence[int]]
    threshold: float
    map: Map
    label: Labels


def describe(shown: Shown) -> dict[str, Any]:
    """The JSON of the page, without thumbnails."""
    rows, statistics = shown.rows, shown.statistics
    passed = list(rows[0].passed)[:_PASSED]
    keys, values = _texts(rows, passed)
    indices, cosines = shown.neighbours
    edges, counts = _histogram(statistics.norms)
    return {
        "output": clipped(dict(shown.facts)["Output"], 2000),
        "facts": [[name, clipped(value, 2000)] for name, value in shown.facts],
        "notes": [clipped(note, 2000) for note in shown.notes],
        "failures": [
            {
                "code": one.code,
                "count": one.count,
                "meaning": one.meaning,
                "remedy": one.remedy,
                "examples": [
                    [clipped(key, _LONGEST), clipped(message, 500)] for key, message in one.examples
                ],
            }
            for one in shown.failures
        ],
        "features": statistics.rows,
        "sampled": shown.sampled,
        "keys": keys,
        "sizes": [[row.width, row.height] for row in rows],
        "passed": [clipped(name, _LONGEST) for name in passed],
        "values": values,
        "neighbours": indices.tolist(),
        "cosines": [[round(value, 3) for value in row] for row in cosines.tolist()],
        "map": {
            "method": shown.map.method,
            "points": np.rint(shown.map.points * _MAP_STEPS).astype(int).tolist(),
            "steps": _MAP_STEPS,
        },
        "label": {
            "feature": clipped(shown.label.feature, _LONGEST),
            "names": [clipped(text(name), 60) for name in shown.label.names],
            "counts": shown.label.counts,
            "of": shown.label.of,
            "others": shown.label.others,
        },
        "norms": {"edges": edges, "counts": counts, "of": len(statistics.norms)},
        "dimensions": {
            "count": shown.exact.vectors.shape[1],
            "dead": _listed(statistics.dead),
            "saturated": _listed(statistics.saturated),
            "zeros": statistics.zeros / (statistics.rows * shown.exact.vectors.shape[1]),
        },
        "exact": {
            "groups": [list(pair) for pair in zip(shown.exact.groups, shown.exact.sizes, strict=True)],
            "total": shown.exact.total,
            "superfluous": shown.exact.superfluous,
            "share": shown.exact.share,
        },
        "near": {
            "groups": [[group[:MEMBERS], len(group)] for group in map(list, shown.near[:GROUPS])],
            "total": len(shown.near),
            "superfluous": sum(len(group) - 1 for group in shown.near),
            "threshold": shown.threshold,
        },
    }


def _texts(rows: Sequence[Row], passed: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Keys, and the values of the passed-through features, as long as there is room for."""
    for longest in _LENGTHS:
        keys = [clipped(text(row.key), longest) for row in rows]
        values = [
            [clipped(", ".join(map(text, row.passed[name])), longest) for name in passed] for row in rows
        ]
        if len(page.as_json([keys, values]).encode()) <= _TEXT_BYTES:
            break
    return keys, values


def text(value: bytes) -> str:
    """Bytes as they are shown."""
    return value.decode("utf-8", "backslashreplace")


def clipped(value: str, longest: int) -> str:
    """A text without its middle, if it is longer than that. Half a surrogate pair, which UTF-8 cannot hold, is escaped."""
    value = value.encode("utf-8", "backslashreplace").decode()
    if len(value) <= longest:
        return value
    end = longest // 2
    return f"{value[: longest - end - 1]}…{value[-end:]}"


def _histogram(norms: np.ndarray) -> tuple[list[float], list[int]]:
    bins = min(_BINS, max(1, round(2 * len(norms) ** 0.5)))
    counts, edges = np.histogram(norms.astype(np.float64), bins)
    return [float(f"{edge:.6g}") for edge in edges], counts.tolist()


def _listed(indices: np.ndarray) -> dict[str, Any]:
    return {"count": len(indices), "first": indices[:_LISTED].tolist()}
