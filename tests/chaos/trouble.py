"""What happens to a job under chaos: the kinds of trouble, and the processes that they hit."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import engines, stores
from tests.faulty_proxy import FaultyProxy


@dataclass
class Scene:
    """A job, and what it depends on.

    Attributes:
      offspring: all processes of the job; on a cluster also those of the cluster.
      store: that holds the input, and the output of some jobs; the driver reaches it past the proxy.
      proxy: in front of it, for the job.
      disk: that holds the output of the others, and nothing else.
      engine: the flags of the job that choose it.
      cluster: the engine; None for DirectRunner.
      launcher: the process of the command that a user gives, once there is one.
    """

    offspring: engines.Offspring
    store: stores.Store
    proxy: FaultyProxy
    disk: Path
    lot: random.Random
    engine: Sequence[str]
    cluster: engines.FlinkCluster | None = None
    launcher: subprocess.Popen | None = None

    def victim(self, *signs: str) -> int:
        """One of the processes whose command has one of `signs` in it; 0 if there is none."""
        return self.lot.choice(
            [pid for pid, command in self.offspring.alive().items() if any(sign in command for sign in signs)]
            or [0]
        )


@dataclass(frozen=True)
class Stroke:
    """What was done, in words, and how it ends if it lasts."""

    story: str
    undo: Callable[[], object] | None = None


_WORKERS = ("sdk_worker_main", "SdkHarness")  # of DirectRunner, of a pool

# Each returns None if there is nothing to hit yet.
Trouble = Callable[[Scene], Stroke | None]


def _signalled(process: int, number: signal.Signals) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
        return True
    return False


def kill_worker(scene: Scene) -> Stroke | None:
    """A Python worker dies, as one does that the system kills for its memory."""
    process = scene.victim(*_WORKERS)
    return Stroke(f"worker {process} killed") if process and _signalled(process, signal.SIGKILL) else None


def pause_worker(scene: Scene) -> Stroke | None:
    """A Python worker stands still and goes on, as on a machine that is moved or swaps."""
    process = scene.victim(*_WORKERS)
    if not process or not _signalled(process, signal.SIGSTOP):
        return None
    return Stroke(f"worker {process} stopped", lambda: _signalled(process, signal.SIGCONT))


def kill_decoder(scene: Scene) -> Stroke | None:
    """A process that decodes, or the one that forks them, dies."""
    process = scene.victim("forker.main")
    return Stroke(f"decoder {process} killed") if process and _signalled(process, signal.SIGKILL) else None


def kill_launcher(scene: Scene) -> Stroke | None:
    """The command itself dies, once it has workers or a job on the cluster."""
    launcher = scene.launcher
    if launcher is None or launcher.poll() is not None or not scene.victim(*_WORKERS):
        return None
    launcher.kill()
    return Stroke(f"launcher {launcher.pid} killed")


def cut_network(scene: Scene) -> Stroke | None:
    """The store closes every connection."""
    if not scene.victim(*_WORKERS):
        return None

    def mend() -> None:
        scene.proxy.chosen = lambda method, path: ""

    scene.proxy.chosen = lambda method, path: "broken off"
    return Stroke("store cut off", mend)


def fill_disk(scene: Scene) -> Stroke | None:
    """The disk of the output has no byte left."""
    if not scene.victim(*_WORKERS):
        return None
    ballast = scene.disk / "ballast"
    with open(ballast, "wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(bytes(size))
    return Stroke("disk full", ballast.unlink)


def kill_task_manager(scene: Scene) -> Stroke | None:
    """A machine of the cluster dies, and comes back."""
    assert scene.cluster
    name = scene.lot.choice(["taskmanager-1", "taskmanager-2"])
    return _of_cluster(scene.cluster, name)


def kill_job_manager(scene: Scene) -> Stroke | None:
    """The head of the cluster dies with all that it knows of jobs, and comes back."""
    assert scene.cluster
    return _of_cluster(scene.cluster, "jobmanager")


def _of_cluster(cluster: engines.FlinkCluster, name: str) -> Stroke:
    def start() -> None:
        started = cluster.run("start")
        assert started.returncode == 0, started.stderr

    cluster.kill(name)
    return Stroke(f"{name} killed", start)


EVERYWHERE: tuple[Trouble, ...] = (
    kill_worker,
    pause_worker,
    kill_decoder,
    kill_launcher,
    cut_network,
    fill_disk,
)
ON_A_CLUSTER: tuple[Trouble, ...] = (*EVERYWHERE, kill_task_manager, kill_job_manager)
