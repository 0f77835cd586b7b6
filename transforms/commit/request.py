"""Two jobs on one output folder: harmless when they ask for the same, else the second is refused by name.

A job that starts leaves a note of its request beside the attempts in flight; it goes with them at the end, or when a run
ends early that has committed nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from transforms.commit import receipts
from transforms.commit.layout import Layout
from transforms.storage import door

_LIST = "list of images"


class OutputInUse(RuntimeError):
    """Another request is at work in the output folder, or was killed there."""


def enter(layout: Layout, fingerprint: Mapping[str, Any], shards: int, listing: bytes | None) -> None:
    """Leaves the note. Raises OutputInUse if there is one of another request, whose job runs or was killed."""
    now: dict[str, Any] = {"request": dict(fingerprint), "shards": shards}
    if listing is not None:
        now[_LIST] = _sum(listing)
    data = json.dumps(now, sort_keys=True).encode() + b"\n"
    while not door.create_only(layout.request, data):
        note = door.read_if_there(layout.request)
        if note is None:  # a job that ended took it away
            continue
        try:
            noted = json.loads(note)
        except ValueError:
            raise OutputInUse(
                f"{layout.request} is not the note of a running job: if no job runs there, delete it, or use --overwrite"
            ) from None
        for name, (old, new) in receipts.differences(noted, now).items():
            if name != f"request.{receipts.NAME_ONLY}":  # the same weights by another path
                raise OutputInUse(
                    f"--output={layout.folder} is in use by a job with {name.removeprefix('request.')} = {old!r}, "
                    f"this run asks for {new!r}: let that one end or stop it and use --overwrite, which drops its work; "
                    "or use another --output"
                )
        return


def leave(layout: Layout, listing: bytes | None) -> None:
    """After a run that ended early: takes the note, and the list of images, away if no shard was committed or is being."""
    if not door.match(layout.claim("*", "*")) and not receipts.labels(layout):
        if listing is not None and door.read_if_there(layout.listing) == listing:
            door.delete([layout.listing])
        door.delete([layout.request])


def is_of_other_input(layout: Layout, shards: int, listing: bytes | None) -> bool:
    """Whether a note is there that tells of other shards or another list of images than these."""
    data = door.read_if_there(layout.request)
    if data is None:
        return False
    try:
        noted = json.loads(data)
        return noted.get("shards") != shards or noted.get(_LIST) != _sum(listing)
    except (ValueError, AttributeError):  # a note that was cut short tells nothing
        return False


def _sum(listing: bytes | None) -> str | None:
    return None if listing is None else hashlib.sha256(listing).hexdigest()
