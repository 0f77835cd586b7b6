"""The request of an output, kept so that it can be repeated; and the note of the job that is using the output folder.

Two jobs on one output folder are harmless for equal requests; otherwise the second is refused, and the difference named.
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


class NotARequest(ValueError):
    """A file that has the name of the kept request, and is none."""


def content(flags: Mapping[str, Any]) -> bytes:
    """What is kept of a request: the values of the flags that decide what the output holds, by their names, sorted."""
    return json.dumps(flags, indent=1, sort_keys=True).encode() + b"\n"


def kept(layout: Layout) -> dict[str, Any] | None:
    """The flags of the request that made the output; None where there is none. Raises NotARequest."""
    data = door.read_if_there(layout.request)
    return None if data is None else parse(data, layout.request)


def parse(data: bytes, path: str) -> dict[str, Any]:
    """The inverse of `content`. Raises NotARequest, with `path`."""
    try:
        flags = json.loads(data)
        inputs = flags.get("input") if isinstance(flags, dict) else None
        is_list = isinstance(inputs, list) and all(isinstance(text, str) for text in inputs)
        if is_list and inputs and isinstance(flags.get("model"), str):
            return flags
        reason = "it has no list of texts as input, or no text as model"
    except ValueError as error:
        reason = str(error)
    raise NotARequest(f"{path} is not the request of a job ({reason})")


class OutputInUse(RuntimeError):
    """A job with another request is using the output folder, or was killed while using it."""


def enter(layout: Layout, fingerprint: Mapping[str, Any], shards: int, listing: bytes | None) -> None:
    """Leaves the note. Raises OutputInUse if there is a note of another request, whose job is running or was killed."""
    now: dict[str, Any] = {"request": dict(fingerprint), "shards": shards}
    if listing is not None:
        now[_LIST] = _sum(listing)
    data = json.dumps(now, sort_keys=True).encode() + b"\n"
    if note := door.read_if_there(layout.running_before):
        _check_same(layout, layout.running_before, note, now)
    while not door.create_only(layout.running, data):
        note = door.read_if_there(layout.running)
        if note is None:  # a job that ended has deleted it
            continue
        _check_same(layout, layout.running, note, now)
        return


def _check_same(layout: Layout, path: str, note: bytes, now: Mapping[str, Any]) -> None:
    try:
        noted = json.loads(note)
    except ValueError:
        raise OutputInUse(
            f"{path} is not the note of a running job: if no job runs there, delete it, or use --overwrite"
        ) from None
    for name, (old, new) in receipts.differences(noted, now).items():
        if name != f"request.{receipts.NAME_ONLY}":  # the same weights by another name
            raise OutputInUse(
                f"--output={layout.folder} is in use by a job with {name.removeprefix('request.')} = {old!r}, "
                f"this run asks for {new!r}: let that job end, or, if it was killed or you stop it, use --overwrite, which "
                "deletes its work; or use another --output"
            )


def leave(layout: Layout, own: Mapping[str, bytes]) -> None:
    """After a run that ended early: deletes its notes and `own` files, path -> content, if no shard was or is being committed."""
    if not door.match(layout.claim("*", "*")) and not receipts.labels(layout):
        door.delete([path for path, content in own.items() if door.read_if_there(path) == content])
        door.delete([layout.running, layout.running_before, layout.arrays])


def is_begun(layout: Layout) -> bool:
    """Whether a job is using the output folder, or was killed while using it."""
    return any(map(door.exists, notes(layout)))


def notes(layout: Layout) -> tuple[str, ...]:
    """Where the note of a job may be."""
    return layout.running, layout.running_before


def fingerprint(layout: Layout) -> Mapping[str, Any] | None:
    """The fingerprint in the note; None if there is no note, or one that was cut short."""
    try:
        noted = json.loads(
            door.read_if_there(layout.running) or door.read_if_there(layout.running_before) or b"{}"
        )
        return noted.get("request")
    except (ValueError, AttributeError):
        return None


def is_of_other_input(layout: Layout, shards: int, listing: bytes | None) -> bool:
    """Whether there is a note of a request with another number of shards or another list of images."""
    data = next(filter(None, map(door.read_if_there, notes(layout))), None)
    if data is None:
        return False
    try:
        noted = json.loads(data)
        return noted.get("shards") != shards or noted.get(_LIST) != _sum(listing)
    except (ValueError, AttributeError):  # a note that was cut short tells nothing
        return False


def _sum(listing: bytes | None) -> str | None:
    return None if listing is None else hashlib.sha256(listing).hexdigest()
