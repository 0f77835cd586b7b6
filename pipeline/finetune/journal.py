"""What a run tells while it trains: a line on stderr, `metrics.jsonl`, and TensorBoard's event files."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.finetune.checkpoints import replace_file
from pipeline.progress import duration, speed
from transforms.records import tfrecord

METRICS, EVALUATED = "metrics.jsonl", "evaluation/top1"
_LIVE_SECONDS, _PLAIN_SECONDS = 0.5, 10.0


class Journal:
    """Follows a run from the update `step` on; what an interrupted run told of later ones is forgotten."""

    def __init__(self, folder: Path, step: int, end: int):
        # The last evaluation is repeated by a run that goes on after it: the reports need its pictures.
        self.entries = [
            entry
            for entry in read(folder / METRICS)
            if entry["step"] < step and not (step == end == entry["step"] + 1 and EVALUATED in entry)
        ]
        self._end = end
        kept = "".join(f"{json.dumps(entry)}\n" for entry in self.entries).encode()
        replace_file(folder / METRICS, lambda stream: stream.write(kept))
        self._file = open(folder / METRICS, "a", encoding="utf-8")  # noqa: SIM115
        events = folder / "tensorboard"
        events.mkdir(exist_ok=True)
        # The newest of several files of a run is read last.
        name = f"events.out.tfevents.{int(time.time()):010d}.{step:09d}"
        self._events = open(events / name, "wb")  # noqa: SIM115
        event_pb2 = _event_pb2()
        self._event(event_pb2.Event(file_version="brain.Event:2"))
        # At which TensorBoard forgets what an interrupted run told of this and later steps.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._event(event_pb2.Event(step=step, session_log=start))
        self._began = self._drawn = time.monotonic()
        self._images = self._updates = 0

    def trained(self, step: int, loss: float, accuracy: float, rate: float, images: int, failed: int) -> None:
        """Notes an update, and draws the line if it is time."""
        self._images += images
        per_second = self._images / (time.monotonic() - self._began)
        entry = {"step": step, "loss": loss, "accuracy": accuracy, "learning_rate": rate, "images": images}
        self.add(entry | {"images_per_second": round(per_second, 3)})
        interval = _LIVE_SECONDS if console.is_live() else _PLAIN_SECONDS
        if time.monotonic() - self._drawn >= interval or step + 1 == self._end:
            self._drawn = time.monotonic()
            left = (self._drawn - self._began) / self._updates * (self._end - step - 1)
            line = (
                f"step {step + 1}/{self._end}, loss {loss:.4f}, accuracy {accuracy:.1%}, {speed(per_second)}, "
                f"{failed} failed" + (f", about {duration(left)} left" if step + 1 < self._end else "")
            )
            console.show(line)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Notes values of a step: 'step', and numbers by name."""
        self._updates += "learning_rate" in entry
        self.entries.append(dict(entry))
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        event = _event_pb2().Event(step=entry["step"])
        for name, value in entry.items():
            if name != "step":
                event.summary.value.add(tag=name, simple_value=value)
        self._event(event)

    def was_evaluated(self, step: int) -> bool:
        """Whether there is an evaluation after the update `step`."""
        return any(entry["step"] == step and EVALUATED in entry for entry in reversed(self.entries[-2:]))

    def close(self) -> None:
        """Erases the live line, and closes the files."""
        console.show("")
        self._file.close()
        self._events.close()

    def _event(self, event: Any) -> None:
        event.wall_time = time.time()
        self._events.write(tfrecord.frame(event.SerializeToString()))
        self._events.flush()


def _event_pb2() -> Any:
    from tensorflow.core.util import event_pb2  # the launcher imports no TensorFlow

    return event_pb2


def read(path: Path) -> list[dict[str, Any]]:
    """The entries of a `metrics.jsonl`, without a last line that was cut off."""
    entries = []
    for line in path.read_text("utf-8").split("\n") if path.exists() else ():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries
