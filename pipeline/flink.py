"""The jobs of one output on a Flink cluster, seen and canceled through the REST API of its JobManager."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from transforms.storage import door

_TIMEOUT_SECONDS = 30.0
# For which a JobManager may not answer while a job is awaited: something may start it again meanwhile.
AWAY_SECONDS = 300.0
_REST_SECONDS = 0.5  # between two requests
_OVER = ("FINISHED", "CANCELED", "FAILED")  # a job of which one of these is said stays that way
_NAME = "bit-features"


class JobLost(RuntimeError):
    """A job on a cluster is out of reach, or its JobManager has forgotten it; no image is the cause."""


def job_name(folder: str, prefix: str = "") -> str:
    """The name of a job on a cluster: the same for each job that writes to a folder, and for no other."""
    place = os.path.abspath(door.local(folder)) if door.is_local(folder) else folder
    digest = hashlib.sha256(os.fsencode(place)).hexdigest()[:12]
    last = re.sub(r"[^\w.]+", "-", os.path.basename(place), flags=re.ASCII).strip("-")[:40]
    return "-".join(filter(None, (prefix or _NAME, last, digest)))


@dataclass(frozen=True)
class Job:
    """A job as the JobManager knows it. `began`: seconds since the epoch."""

    id: str
    state: str
    began: float

    @property
    def is_running(self) -> bool:
        """Whether it will go on, also after a restart."""
        return self.state not in _OVER

    @property
    def since(self) -> str:
        """When it began, in this machine's time."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.began))

    def __str__(self) -> str:
        return f"Flink job {self.id}"


@dataclass(frozen=True)
class Jobs:
    """The jobs of a name on a cluster; `url` is that of its JobManager.

    All methods raise OSError if that does not answer, or sends something else than an answer.
    """

    url: str
    name: str

    def __str__(self) -> str:
        return self.url

    def all(self) -> list[Job]:
        """Those that the JobManager remembers, the newest first."""
        answer = self._ask("jobs/overview")
        try:
            jobs = [job for job in answer["jobs"] if job["name"] == self.name]
            ours = [Job(job["jid"], job["state"], job["start-time"] / 1000) for job in jobs]
        except (KeyError, TypeError) as error:
            raise OSError(f"{self.url}/jobs/overview sent no list of jobs: {str(answer)[:200]}") from error
        return sorted(ours, key=lambda job: -job.began)

    def running(self) -> list[Job]:
        """Those that are not over."""
        return [job for job in self.all() if job.is_running]

    def cancel(self, seconds: float = 10.0) -> None:
        """Requests the end of all that run, for so long again while the JobManager does not answer.

        Beam's own cancellation fails: its job server only stops waiting, and its client for uber jars requests a path
        that does not exist.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                for job in self.running():
                    self._ask(f"jobs/{job.id}?mode=cancel", "PATCH")
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_REST_SECONDS)

    def end(self, seconds: float = 120.0) -> None:
        """Cancels all that run, and returns once they are over. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        self.cancel(seconds)
        while True:
            try:
                running = self.running()
            except OSError:
                if time.monotonic() > deadline:
                    raise
            else:
                if not running:
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"job {running[0].id} on {self.url} is not canceled within {seconds:g} s"
                    )
            time.sleep(_REST_SECONDS)

    def lost(self, said: str) -> JobLost | None:
        """The error for a job that has been submitted and then failed with the text `said`; None if that says what happened."""
        try:
            jobs = self.all()
        except OSError as error:
            return self.gone(error)
        if jobs and jobs[0].is_running:
            return JobLost(
                f"the connection to job {jobs[0].id} on {self.url} was lost; the job runs on. Run the same command again: it "
                "waits for the job, and does what is left"
            )
        if not jobs and _FORGOTTEN.search(said):
            return JobLost(
                f"the JobManager at {self.url} was started again and no longer knows the job. Committed shards are safe. Run "
                "the same command again: it does what is left"
            )
        return None

    def gone(self, error: OSError) -> JobLost:
        """The error for a JobManager that does not answer, as `error` says."""
        return JobLost(
            f"the JobManager at {self.url} is gone ({_reason(error)}), and with it the job, unless the cluster has high "
            "availability. Committed shards are safe, and TaskManagers register again by themselves. Once the JobManager "
            "is back, run the same command again: it does what is left"
        )

    def _ask(self, path: str, method: str = "GET") -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}/{path}", method=method)
        try:
            with _DIRECT.open(request, timeout=_TIMEOUT_SECONDS) as response:
                return dict(json.load(response))
        except (HTTPException, ValueError, TypeError) as error:  # cut off, or of something on the way
            raise OSError(f"{self.url}/{path} sent no answer of a JobManager: {error!r}") from error


# Flink's own client does not use the proxies of the environment either.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


# How clients of Flink say that a JobManager which was there does not know a job, or was away for some time.
_FORGOTTEN = re.compile(
    r"Could not find Flink job|JobNotFound|Connection refused|ConnectException|failed with status 404"
)


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error)
