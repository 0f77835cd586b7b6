"""Examples that cannot be used: `failures.jsonl`, and which of them another epoch tries again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.finetune.checkpoints import replace_file
from transforms.elements import Failure

Place = tuple[str, str, int]  # input, shard, position
# Codes of fetches that may succeed later: docs/fetching.md has them all.
_MAY_PASS = frozenset(
    ("connect", "dns", "host_busy", "http_5xx", "read_error", "timeout", "tls", "truncated")
)
_STATUSES_THAT_MAY_PASS = frozenset((408, 425, 429))


class NothingUsable(Exception):
    """None of many pictures could be used; `failed` lists them. Exit code 3."""

    def __init__(self, message: str, failed: Sequence[Failed] = ()):
        super().__init__(message)
        self.failed = failed


class Failed(NamedTuple):
    """An example that cannot be used, as `failures.jsonl` lists it."""

    input: str  # 'input' or 'validation': the flag that names it
    shard: str
    position: int
    key: str
    stage: str  # 'read' | 'label' | 'fetch' | 'decode'
    code: str
    message: str

    @property
    def place(self) -> Place:
        """What no other example has: shards of both inputs may have the same name."""
        return self.input, self.shard, self.position

    def __str__(self) -> str:
        return f"{self.key}: {self.code}: {self.message}"


def may_pass(failure: Failure) -> bool:
    """Whether the picture may be there at another time: hosts fail and recover, files that are damaged stay so."""
    return failure.stage == "fetch" and (
        failure.code in _MAY_PASS or failure.http_status in _STATUSES_THAT_MAY_PASS
    )


def write(path: Path, failed: Iterable[Failed]) -> None:
    """One JSON line for each, in order."""
    lines = "".join(json.dumps(one._asdict(), ensure_ascii=False) + "\n" for one in sorted(set(failed)))
    replace_file(path, lambda stream: stream.write(lines.encode("utf-8", "backslashreplace")))


def read(path: Path) -> list[Failed]:
    """What `write` wrote; [] if there is no file."""
    if not path.exists():
        return []
    return [Failed(**json.loads(line)) for line in path.read_text("utf-8").split("\n") if line]
