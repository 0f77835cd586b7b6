"""The ledger of a shard: one line of JSON per failed input, ordered by position."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from transforms.elements import Failure

FIELDS = ("key", "position", "stage", "code", "message")
OPTIONAL = ("http_status",)  # only where an answer over HTTP ended a fetch
STAGES = ("read", "fetch", "decode", "infer")
_FINAL = "damaged_record"  # the same input bytes would fail again


@dataclass(frozen=True)
class Line:
    """A ledger line; `raw` is its bytes, newline included."""

    position: int
    code: str
    raw: bytes

    @property
    def can_be_retried(self) -> bool:
        """Whether --retry_failures tries this input again."""
        return self.code != _FINAL


def encode(failure: Failure) -> bytes:
    """The ledger line of a failure."""
    values: dict[str, object] = {
        "key": failure.key.decode("utf-8", "backslashreplace"),
        "position": failure.position,
        "stage": failure.stage,
        "code": failure.code,
        "message": failure.message,
    }
    if failure.http_status is not None:
        values["http_status"] = failure.http_status
    return json.dumps(values).encode() + b"\n"


def parse(raw: bytes) -> Line:
    """Reads a ledger line. Raises ValueError, KeyError or TypeError if `raw` is not one."""
    values = json.loads(raw)
    return Line(values["position"], values["code"], raw)


def retriable(failures_by_code: Mapping[str, int]) -> int:
    """How many failures --retry_failures would try again."""
    return sum(count for code, count in failures_by_code.items() if code != _FINAL)
