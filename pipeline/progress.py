"""The progress of a run on stderr: one live line on a terminal, otherwise a plain line every few seconds."""

from __future__ import annotations

import abc
import functools
import time
from dataclasses import dataclass, replace

from pipeline import console
from pipeline.console import counted
from pipeline.plan import Plan
from transforms import counters
from transforms.commit import receipts, retry_failures
from transforms.commit.layout import label_of
from transforms.elements import Shard
from transforms.storage import door

_LIVE_SECONDS = 0.5
_PLAIN_SECONDS = 10.0
_LONG_SECONDS = 600.0  # for one shard
_SHARE = 10  # at most every tenth second goes into lines
_BATCHES = 2  # after the first one, before anything is said about the pace


@dataclass(frozen=True)
class Snapshot:
    """How far a run has come; `images_total` is 0 if it cannot be known before reading."""

    images: int
    images_total: int
    failures: int
    shards: int
    shards_total: int
    fraction: float  # of the input, 0 to 1
    seconds: float  # since the first batch was done, if that is known, else since the start
    first: int = 0  # images of the first batch, which the rate leaves out
    doing: str = "starting"  # what happens before the first batch is done

    @property
    def rate(self) -> float:
        """Images per second, failures included; 0 while it is not known."""
        return max(0, self.images - self.first) / self.seconds if self.seconds > 0 else 0.0

    def line(self) -> str:
        """As shown to the user."""
        if not self.images:
            return self.doing
        total = f"/{self.images_total:,}" if self.images_total else ""
        parts = [
            counted(self.images, "image") if not total else f"{self.images:,}{total} images",
            *([speed(self.rate)] if self.rate else []),
            f"{self.failures:,} failed",
            f"shard {self.shards}/{self.shards_total}",
        ]
        if 0 < self.fraction < 1 and self.rate:
            parts.append(f"about {duration(self.seconds * (1 - self.fraction) / self.fraction)} left")
        return ", ".join(parts)


def speed(rate: float) -> str:
    """Formats images per second: 12.3/s; below 1, with two significant digits: 0.053/s."""
    return f"{rate:.1f}/s" if rate >= 1 or not rate else f"{rate:.2g}/s"


def duration(seconds: float) -> str:
    """Formats seconds: 12s, 3m05s, 2h01m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


@dataclass(frozen=True)
class Pace:
    """How long a shard takes. `at_once`: shards that are done side by side."""

    plan: Plan
    at_once: int
    batch_size: int

    @functools.cached_property
    def _largest(self) -> Shard | None:
        whole = (shard for shard in self.plan.todo if not shard.retry)
        return max(whole, key=lambda shard: shard.units, default=None)

    def overdue(self, now: Snapshot) -> str:
        """What a user should know if no shard is done after long, where only receipts tell how far a run is; else ''."""
        if now.shards or now.seconds <= _LONG_SECONDS or self._largest is None:
            return ""
        cut_by = self._largest.source.cut_by
        advice = f"a smaller {cut_by} with another --output" if cut_by else "an input of smaller files"
        return (
            f"no shard is done after {duration(now.seconds)}, and a run that is stopped loses what it has done of one: "
            f"{advice} would save more often"
        )

    def silent(self, now: Snapshot) -> str:
        """The same of workers that are elsewhere."""
        if now.shards or now.seconds <= _LONG_SECONDS:
            return ""
        return (
            f"no shard is done after {duration(now.seconds)}: the workers' logs tell whether they compute; engines wait without "
            "end for workers that cannot start"
        )

    def warning(self, now: Snapshot) -> str:
        """What a user should know if a shard takes long, once the first batches have passed; else ''."""
        largest = self._largest
        done = max(0, now.images - now.first)
        if largest is None or done < _BATCHES * max(now.first, self.batch_size) or not now.rate:
            return ""
        # Of a file of records it is only known how much of it the images were.
        images = largest.source.inputs or largest.units * now.images / max(
            1.0, now.fraction * self.plan.units
        )
        rate = now.rate / min(self.at_once, len(self.plan.todo))  # of one shard
        if images / rate <= _LONG_SECONDS or images <= self.batch_size:
            return ""
        cut_by = largest.source.cut_by
        if cut_by == "--images_per_shard":
            batches = max(1, int(_LONG_SECONDS * rate / self.batch_size))
            advice = f"{cut_by}={batches * self.batch_size} with another --output"
        elif cut_by:
            mebibytes = largest.units * _LONG_SECONDS * rate / images / 2**20
            advice = f"{cut_by}={max(1, int(mebibytes))}MiB with another --output"
        else:
            advice = "an input of smaller files"
        return (
            f"a shard of about {counted(round(images), 'image')} takes {duration(images / rate)} at this rate, and a run that "
            f"is stopped loses what it has done of one: {advice} would save more often"
        )


class Display(abc.ABC):
    """Shows how far a run has come, from time to time. `in_process`: whether the workers count in this process."""

    def __init__(self, in_process: bool):
        self._in_process = in_process
        self._began = self._drawn = time.monotonic()
        self._took = 0.0  # seconds for the last line: listing a million receipts takes long

    @abc.abstractmethod
    def line(self) -> str:
        """The state of the run now, as shown to the user. May raise what the store raises."""

    @property
    def interval_seconds(self) -> float:
        """The shortest time between two lines; longer where each has to read receipts."""
        return _LIVE_SECONDS if console.is_live() and self._in_process else _PLAIN_SECONDS

    def draw(self) -> None:
        """Shows the state of the run, at most once per interval."""
        began = time.monotonic()
        if began - self._drawn < max(self.interval_seconds, _SHARE * self._took):
            return
        try:
            line = self.line()
        except Exception as error:  # a store that does not answer must not end a healthy run
            line = f"progress unknown: {error}"
        self._drawn, self._took = began, time.monotonic() - began
        console.show(line)


class Progress(Display):
    """Follows the job: by this process's counts if the workers are in it, else by the receipts that appear.

    `is_here`: whether the workers are on this machine. A shard that takes long is warned of in either case.
    """

    def __init__(
        self, plan: Plan, in_process: bool, is_here: bool = False, at_once: int = 1, batch_size: int = 1
    ):
        super().__init__(in_process)
        self._plan = plan
        pace = Pace(plan, at_once, batch_size)
        self._warning = pace.warning if in_process else pace.overdue if is_here else pace.silent
        self._warned = False
        self._before = counters.PROCESS.counts()
        self._images_total = plan.images or 0
        self._weights = {shard.label: shard.units for shard in plan.todo}
        self._retries = {shard.label: shard.retry for shard in plan.todo if shard.retry}
        self._counted: dict[str, receipts.Receipt] = {}

    def snapshot(self) -> Snapshot:
        """The state of the run now. Raises what the store raises, if receipts have to be read."""
        since, first, doing = (
            self._began,
            0,
            "waiting for the first committed shard; the workers load the model first",
        )
        if self._in_process:
            now, before = counters.PROCESS.counts(), self._before
            since, first = counters.PROCESS.first or (since, 0)
            doing = counters.PROCESS.doing
            features, failures = now.out_features - before.out_features, now.failures - before.failures
            shards, read = now.shards - before.shards, now.units - before.units
        else:
            self._count_receipts()
            counted = self._counted.values()
            features, failures = sum(r.features for r in counted), sum(r.failures for r in counted)
            shards, read = len(self._counted), sum(self._weights[r.shard] for r in counted)
        return Snapshot(
            features + failures,
            self._images_total,
            failures,
            shards,
            len(self._plan.todo),
            min(1.0, read / self._plan.units) if self._plan.units else 0.0,
            time.monotonic() - since,
            first,
            doing,
        )

    def _count_receipts(self) -> None:
        layout = self._plan.layout
        for file in door.match(layout.receipt("*")):
            label = label_of(file.path)
            if label in self._weights and label not in self._counted:
                receipt = receipts.read_receipt(layout, label)
                if receipt and (label not in self._retries or receipt.digest != self._retries[label].base):
                    self._counted[label] = self._of_this_run(receipt)

    def _of_this_run(self, receipt: receipts.Receipt) -> receipts.Receipt:
        """The receipt; after a retry, one that counts only the inputs that were retried."""
        remaining = retry_failures.of_receipt(receipt)
        if receipt.shard not in self._retries:
            return receipt
        failed = remaining.inputs if remaining else 0
        return replace(receipt, failures=failed, features=self._retries[receipt.shard].inputs - failed)

    def line(self) -> str:
        """The state of the run now, as shown to the user, who is told once, in a line above, if a shard takes long."""
        snapshot = self.snapshot()
        if not self._warned and (warning := self._warning(snapshot)):
            self._warned = True
            console.say(warning)
        return snapshot.line()
