"""Cancelling on a Flink cluster: Beam's job server only stops to wait there, and its uber-jar client asks a wrong path."""

from __future__ import annotations

import json
import urllib.request

_TIMEOUT_SECONDS = 30


def is_cluster(master: str) -> bool:
    """Whether `--flink_master` names a cluster, instead of asking for Flink inside the job server."""
    return bool(master) and not master.startswith("[")


def cancel(master: str, job_id: str) -> None:
    """Cancels the unfinished jobs that Beam submitted as `job_id` to the cluster at `master`, a host:port or URL.

    Raises OSError where the cluster does not answer.
    """
    url = (master if "://" in master else f"http://{master}").rstrip("/")
    with urllib.request.urlopen(f"{url}/jobs/overview", timeout=_TIMEOUT_SECONDS) as answer:
        jobs = json.load(answer)["jobs"]
    for job in jobs:
        # Beam's id is the name that the job has on the cluster, then an underscore and a random part.
        if job_id.rpartition("_")[0] == job["name"] and job["end-time"] < 0:
            request = urllib.request.Request(f"{url}/jobs/{job['jid']}?mode=cancel", method="PATCH")
            urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()
