"""How many CPUs this process may use: on a shared machine or in a container fewer than the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS, _OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available() -> int:
    """At least 1: the CPUs of the process's affinity, at most as many as its cgroup's quota is worth, rounded up."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(quota) for quota in _quotas(_CGROUPS, _OF_PROCESS))]))


def _quotas(root: Path, of_process: Path) -> Iterator[float]:
    """The quotas, in CPUs, of the process's cgroup and those above it, in versions 1 and 2 of cgroups."""
    try:
        lines = of_process.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base = root
        elif "cpu" in controllers.split(","):
            base = root / controllers if (root / controllers).is_dir() else root / "cpu"
        else:
            continue
        # In a container the path may be the host's, of which only the container's own part is mounted at the root.
        folder = base / path.strip("/")
        for level in dict.fromkeys((folder, *folder.parents)):
            if level.is_relative_to(base):
                yield from _quota(level)


def _quota(folder: Path) -> Iterator[float]:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if quota.strip() != "max" and int(quota) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return


def seconds_of(process: int) -> float:
    """The CPU time that a process has taken; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
