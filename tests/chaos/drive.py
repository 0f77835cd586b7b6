"""Runs a job through trouble until it is done, as a scheduler would: what ended is started again."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import verify
from tests import helpers, stores
from tests.chaos.trouble import Scene, Stroke, Trouble
from transforms.commit import receipts
from transforms.commit.layout import Layout

_POLL_SECONDS = 0.2
_LOOK_AGAIN_SECONDS = 0.5  # where there was nothing to hit
_REFUSED = 2  # the exit code of a request that is wrong


@dataclass
class Run:
    """One job from its first start to its end.

    Attributes:
      output: a folder on the scene's disk or in its store.
      every: seconds from one stroke to the next.
      lasts: seconds of a stroke that is undone.
      tell: gets a line per stroke and per end of the command; `log` keeps them.
      hit: the names of the kinds of trouble that came.
    """

    scene: Scene
    flags: Sequence[str]
    output: str
    every: float
    lasts: float
    most_seconds: float
    tell: Callable[[str], object] = lambda line: None
    log: list[str] = field(default_factory=list)
    hit: list[str] = field(default_factory=list)
    starts: int = 0

    def to_the_end(self, kinds: Sequence[Trouble], *, once: bool = False) -> None:
        """Runs until the command ends with 0. Fails if it is refused, or takes longer than `most_seconds`.

        `once`: each kind of trouble comes once, in this order, when a shard has been committed since the one before; else they
        come again and again, whatever the job is doing.
        """
        began = time.monotonic()
        coming = iter(kinds) if once else itertools.cycle(kinds)
        kind, due = next(coming, None), began + self.every
        lasting: list[tuple[float, Stroke]] = []
        committed = 0
        self.scene.store.use()  # a job in this process may have led it through the proxy
        self._start()
        try:
            while True:
                now = time.monotonic()
                assert now - began < self.most_seconds, "\n".join([*self.log, self._errors()])
                for stroke in [stroke for until, stroke in lasting if until <= now]:
                    lasting = [(until, other) for until, other in lasting if other is not stroke]
                    self._say(f"{stroke.story}: over")
                    stroke.undo()
                code = self.scene.launcher.poll()
                if code == 0:
                    return
                if code is not None:
                    self._say(f"the command ended with {code}: {self._last_line()}")
                    assert code != _REFUSED, self._errors()
                    self._start()
                if kind and now >= due and not lasting and not (once and self._done() <= committed):
                    stroke = kind(self.scene)
                    due = now + (self.every if stroke else _LOOK_AGAIN_SECONDS)
                    if stroke:
                        committed = self._done() if once else 0
                        self._say(stroke.story)
                        self.hit.append(kind.__name__)
                        if stroke.undo:
                            lasting.append((now + self.lasts, stroke))
                    if stroke or not once:
                        kind = next(coming, None)
                time.sleep(_POLL_SECONDS)
        finally:
            for _, stroke in lasting:
                stroke.undo()
            self.scene.launcher.kill()
            self.scene.launcher.wait()

    def check(self, whole: dict[str, bytes]) -> None:
        """Fails if the output is not that of an undisturbed run, file by file."""
        left = stores.contents(self.output)
        differing = sorted(name for name in {*left, *whole} if left.get(name) != whole.get(name))
        assert not differing, "\n".join([f"differing: {differing[:10]}", *self.log])
        assert verify.main([self.output, *self.scene.store.flags]) == verify.COMPLETE

    def _done(self) -> int:
        """Shards that are committed."""
        return len(receipts.labels(Layout(self.output)))

    def _start(self) -> None:
        self.starts += 1
        with open(self._stderr, "wb") as errors:
            self.scene.launcher = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "pipeline.main",
                    *self.flags,
                    *self.scene.engine,
                    f"--output={self.output}",
                ],
                cwd=helpers.REPO,
                env={**os.environ, **self.scene.offspring.environment},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    @property
    def _stderr(self) -> Path:
        return self.scene.disk.parent / f"{Path(self.output).name}-{self.starts}.stderr"

    def _errors(self) -> str:
        return self._stderr.read_text(errors="replace")[-3000:]

    def _last_line(self) -> str:
        return (self._errors().splitlines() or ["nothing said"])[-1]

    def _say(self, line: str) -> None:
        self.log.append(f"{time.strftime('%H:%M:%S')} {line}")
        self.tell(self.log[-1])
