"""From an output to its page."""

from __future__ import annotations

import argparse

from pipeline import outputs
from pipeline.console import say
from pipeline.look import about, alike, contents, doubles, labels, page, projection, scan, thumbnails
from pipeline.of_output import Found
from transforms.similarity.vectors import Vectors


def page_of(
    arguments: argparse.Namespace,
    committed: outputs.Committed,
    report: about.Report | None,
    found: Found,
    vector: str,
) -> bytes:
    """The page. Equal outputs and inputs give equal bytes on one machine."""
    say(f"reading {committed.rows} features")
    scanned = scan.read(committed, vector, arguments.limit)
    exact = doubles.find(scanned, committed, vector)
    rows = exact.rows  # of the sample, then those of duplicates that are not in it
    vectors, sample = Vectors.of(exact.vectors), Vectors.of(exact.vectors[: len(scanned.rows)])
    say(f"comparing {len(rows)} pictures, and drawing their map")
    near = alike.near_duplicates(sample, rows[: len(scanned.rows)], arguments.threshold)
    shown = contents.Shown(
        facts=about.facts(arguments.output, committed, report),
        notes=about.notes(committed, report, bool(found.pictures)),
        failures=about.failures(committed),
        rows=rows,
        sampled=len(scanned.rows),
        statistics=scanned.statistics,
        neighbours=alike.neighbours(vectors),
        exact=exact,
        near=near,
        threshold=arguments.threshold,
        map=projection.project(sample.block(slice(None)).unit),
        label=labels.choose(arguments.label, rows[: len(scanned.rows)]),
    )
    text = contents.describe(shown)
    if found.pictures:
        say(f"reading {len(rows)} pictures again")
    text["thumbnails"] = thumbnails.read(rows, found.pictures, page.room(text))
    missing = sum(not thumbnail for thumbnail in text["thumbnails"])
    if found.pictures and missing:
        say(f"{missing} of {len(rows)} pictures cannot be read any more, or are not those that were computed")
    return page.render(text, title=f"Features in {text['output']}")
