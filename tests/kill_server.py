"""A process that has imported everything and forks a job for each request, to be killed at a chosen moment.

Reads a JSON object a line: argv of the job; `kill`, null or [name of a moment, which time it comes]; `seconds`,
null or when to kill from outside; `log`, a file that gets a line for each shard that is read and, at an orderly
end, the count of all moments. Answers a line: the exit code, or the negative number of the signal.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import signal
import sys
import threading
import time

import pipeline.main
from tests import kept, warm
from transforms import decode, infer, read
from transforms.commit import files, writer
from transforms.feeding import crew, forking
from transforms.fetching.fetcher import Fetcher
from transforms.storage import disk, door


class Moments:
    """Counts the moments as they come and ends the whole process group at the chosen one."""

    def __init__(self, kill: list | None, log: str):
        self.counts: dict[str, int] = {}
        self._kill = tuple(kill) if kill else None
        self._lock = threading.Lock()
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def reach(self, name: str) -> None:
        with self._lock:
            self.counts[name] = self.counts.get(name, 0) + 1
            if (name, self.counts[name]) == self._kill:
                os.killpg(0, signal.SIGKILL)
                time.sleep(60)  # the signal is on its way to this thread too

    def is_next(self, name: str) -> bool:
        with self._lock:
            return (name, self.counts.get(name, 0) + 1) == self._kill

    def say(self, line: str) -> None:
        os.write(self._log, line.encode() + b"\n")


def kind_of(path: str) -> str:
    """Which file of the output a path is, so that moments have stable names."""
    folder, name = os.path.split(door.local(path))
    if os.path.basename(folder) == "receipts":
        return "receipt"
    for part in ("request", "manifest", "inputs", "features", "failures", "claim"):
        if part in name:
            return part
    return f"temporary{os.path.splitext(name)[1]}"


def around(owner, name: str, moments: Moments, label=lambda *a, **k: "") -> None:
    """Makes moments of the beginning and the end of each call of `owner.name`."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args, **kwargs):
        what = label(*args, **kwargs)
        if what is None:
            return original(*args, **kwargs)
        what = f"{name} {what}".strip()
        moments.reach(f"before {what}")
        result = original(*args, **kwargs)
        moments.reach(f"after {what}")
        return result

    setattr(owner, name, wrapped)


def install(moments: Moments) -> None:
    around(Fetcher, "fetch", moments)
    around(crew, "_put", moments)
    around(infer, "infer", moments)
    around(decode, "submit", moments)
    around(writer.ShardWriter, "append", moments)
    around(door, "create", moments, kind_of)
    around(door, "close_durably", moments, lambda stream, path: kind_of(path))
    around(door, "place", moments, lambda source, target: kind_of(target))
    around(door, "create_only", moments, lambda path, data: kind_of(path))
    around(door, "write_atomic", moments, lambda path, data: kind_of(path))
    around(disk, "write_temporary", moments, lambda path, data: kind_of(path))
    around(door, "delete", moments, lambda paths: kind_of(paths[0]) if paths else None)
    around(door, "remove_folder_if_empty", moments)

    whole = files.FileWriter.write

    def write_in_halves(self, data: bytes) -> None:
        if moments.is_next("half a record"):
            self._stream.write(data[: len(data) // 2])
            self._stream.flush()
        moments.reach("half a record")
        whole(self, data)

    files.FileWriter.write = write_in_halves

    chunks = read.chunks

    def noted(shard, *rest):
        moments.say(f"read {shard.label}")
        return chunks(shard, *rest)

    read.chunks = noted


def child(request: dict) -> None:
    os.setsid()
    errors = os.open(request["log"] + ".stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    moments = Moments(request["kill"], request["log"])
    install(moments)
    with kept.looks_of_beam():
        code = pipeline.main.main(request["argv"])
    moments.say(json.dumps(moments.counts))
    os._exit(code)


def main() -> None:
    import bit.tensorflow  # noqa: F401  # once for all forks; none of its operations run in this process

    forking.started = warm.Forkers().started
    gc.freeze()  # else the first collection of each fork copies all objects
    for line in sys.stdin:
        request = json.loads(line)
        began = time.monotonic()
        pid = os.fork()
        if not pid:
            child(request)
        ended = 0
        while not ended:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if request["seconds"] and time.monotonic() - began > request["seconds"]:
                os.killpg(pid, signal.SIGKILL)
                request["seconds"] = None
            time.sleep(0.002)
        seconds = time.monotonic() - began
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
