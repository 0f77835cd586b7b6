"""Two jobs on one output folder: harmless when they ask for the same, else the second is refused by name.

A job that starts leaves a note of its request beside the attempts in flight; it goes with them at the end, or when a run
ends early that has committed nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.flags import RequestError
from transforms.commit import receipts
from transforms.commit.receipts import Layout
from transforms.storage import door

_LIST = "list of images"


def enter(layout: Layout, fingerprint: Mapping[str, Any], shards: int, listing: bytes | None) -> None:
    """Leaves the note. Raises RequestError if there is one of another request, whose job runs or was killed."""
    now: dict[str, Any] = {"request": dict(fingerprint), "shards": shards}
    if listing is not None:
        now[_LIST] = _sum(listing)
    data = json.dumps(now, sort_keys=True).encode() + b"\n"
    while not door.create_only(layout.request, data):
        found = door.read_if_there(layout.request)
        if found is None:  # a job that ended took it away
            continue
        for name, (old, new) in receipts.differences(json.loads(found), now).items():
            if name != f"request.{receipts.NAME_ONLY}":  # the same weights by another path
                raise RequestError(
                    f"--output={layout.folder} is in the hands of a job with {name.removeprefix('request.')} = {old!r}, "
                    f"this run asks for {new!r}: let that one end or stop it and use --overwrite, which drops its work; "
                    "or use another --output"
                )
        return


def leave(layout: Layout) -> None:
    """After a run that ended early: takes the note away if no shard was committed or is being committed."""
    begun = [path for path in door.match(door.join(layout.temporary, "*")) if "-claim-" in path.path]
    if not begun and not receipts.labels(layout):
        door.delete([layout.request])


def is_of_other_input(layout: Layout, shards: int, listing: bytes | None) -> bool:
    """Whether a note is there that tells of other shards or another list of images than these."""
    data = door.read_if_there(layout.request)
    if data is None:
        return False
    noted = json.loads(data)
    return noted.get("shards") != shards or noted.get(_LIST) != _sum(listing)


def _sum(listing: bytes | None) -> str | None:
    return None if listing is None else hashlib.sha256(listing).hexdigest()
