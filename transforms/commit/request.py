"""Two jobs on one output folder: harmless for equal requests; otherwise the second is refused, and the difference named.

A job that starts leaves a note of its request in the temporary folder. It is deleted at the end of the run, or when a run
ends early without having committed anything.
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
    """A job with another request is using the output folder, or was killed while using it."""


def enter(layout: Layout, fingerprint: Mapping[str, Any], shards: int, listing: bytes | None) -> None:
    """Leaves the note. Raises OutputInUse if there is a note of another request, whose job is running or was killed."""
    now: dict[str, Any] = {"request": dict(fingerprint), "shards": shards}
    if listing is not None:
        now[_LIST] = _sum(listing)
    data = json.dumps(now, sort_keys=True).encode() + b"\n"
    while not door.create_only(layout.request, data):
        note = door.read_if_there(layout.request)
        if note is None:  # a job that ended has deleted it
            continue
        try:
            noted = json.loads(note)
        except ValueError:
            raise OutputInUse(
                f"{layout.request} is not the note of a running job: if no job runs there, delete it, or use --overwrite"
            ) from None
        for name, (old, new) in receipts.differences(noted, now).items():
            if name != f"request.{receipts.NAME_ONLY}":  # the same weights by another name
                raise OutputInUse(
                    f"--output={layout.folder} is in use by a job with {name.removeprefix('request.')} = {old!r}, "
                    f"this run asks for {new!r}: let that job end, or stop it and use --overwrite, which deletes its work; "
                    "or use another --output"
                )
        return


def leave(layout: Layout, listing: bytes | None) -> None:
    """After a run that ended early: deletes the note and the list of images if no shard was or is being committed."""
    if not door.match(layout.claim("*", "*")) and not receipts.labels(layout):
        if listing is not None and door.read_if_there(layout.listing) == listing:
            door.delete([layout.listing])
        door.delete([layout.request, layout.arrays])


def is_of_other_input(layout: Layout, shards: int, listing: bytes | None) -> bool:
    """Whether there is a note of a request with another number of shards or another list of images."""
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
