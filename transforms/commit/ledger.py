"""The ledger of a shard: a line of JSON for each input that failed, in the order of their positions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from transforms.elements import Failure

FIELDS = ("key", "position", "stage", "code", "message")
STAGES = ("read", "fetch", "decode", "infer")
_FINAL = "damaged_record"  # no record: the same bytes of input would fail again


@dataclass(frozen=True)
class Line:
    """A line of a ledger."""

    position: int
    code: str
    raw: bytes

    @property
    def can_be_tried(self) -> bool:
        return self.code != _FINAL


def encode(failure: Failure) -> bytes:
    """The line of one failure."""
    values = {
        "key": failure.key.decode("utf-8", "backslashreplace"),
        "position": failure.position,
        "stage": failure.stage,
        "code": failure.code,
        "message": failure.message,
    }
    return json.dumps(values).encode() + b"\n"


def parse(raw: bytes) -> Line:
    """Raises ValueError, KeyError or TypeError where `raw` is not a line of a ledger."""
    values = json.loads(raw)
    return Line(values["position"], values["code"], raw)


def to_be_tried(failures_by_code: Mapping[str, int]) -> int:
    """How many failures can be tried again."""
    return sum(count for code, count in failures_by_code.items() if code != _FINAL)
