"""Real engines for the tests: their programs are installed once into a folder that outlives a run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apache_beam

from tests import helpers

LOCAL_CLUSTER = helpers.REPO / "deploy" / "flink" / "local_cluster.sh"

# Programs and jars of engines; CI may keep this folder between runs.
CACHE = Path(os.environ.get("BIT_FEATURES_TEST_CACHE", "~/.cache/bit-features-tests")).expanduser()


def require(program: str, packages: str) -> str:
    """The path of a program that tests of engines cannot do without."""
    found = shutil.which(program)
    assert found, f"{program} is not on PATH, and this test needs it: apt-get install {packages}"
    return found


def install(target: Path, command: list[str], **environment: str) -> Path:
    """Runs an installation whose last effect is `target`, unless it is there from an earlier run."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
        assert target.exists(), f"{' '.join(command)} left no {target}"
    return target


def prism() -> Path:
    """Beam's Prism, built from its Go module at the version of the Python SDK."""
    version = f"v{apache_beam.__version__}"
    folder = CACHE / f"prism-{version}"
    module = f"github.com/apache/beam/sdks/v2/go/cmd/prism@{version}"
    go = require("go", "golang")
    return install(folder / "prism", [go, "install", module], GOBIN=str(folder), GOFLAGS="-mod=mod")


def running(name: str) -> set[int]:
    """Ids of the processes whose program is called `name`."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                program = (folder / "cmdline").read_bytes().split(b"\0")[0]
            except OSError:
                continue
            if os.path.basename(program.decode()) == name:
                found.add(int(folder.name))
    return found


def flink_job_server() -> Path:
    """Beam's job server for Flink with Flink itself, as `deploy/flink/local_cluster.sh build` puts it together."""
    require("java", "default-jdk-headless")
    require("mvn", "maven")
    description = helpers.REPO / "deploy" / "flink" / "job-server.xml"
    target = CACHE / f"flink-job-server-{zlib.crc32(description.read_bytes()):08x}.jar"
    return install(target, [str(LOCAL_CLUSTER), "build"], JOB_SERVER_JAR=str(target))


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nothing listens on, below those that the system hands out by itself."""
    found: list[int] = []
    for port in random.Random(os.getpid()).sample(range(18000, 30000), 1000):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)):
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free port")


@dataclass(frozen=True)
class FlinkCluster:
    """The cluster of `deploy/flink/local_cluster.sh`: two TaskManagers of two slots, one pool of Python workers."""

    folder: Path
    rest_port: int
    pool_port: int
    flags: tuple[str, ...]

    def jobs(self) -> list[dict]:
        """Flink's own account of the jobs, the newest first."""
        with urllib.request.urlopen(f"http://localhost:{self.rest_port}/jobs/overview", timeout=30) as answer:
            return sorted(json.load(answer)["jobs"], key=lambda job: -job["start-time"])

    def kill(self, name: str) -> None:
        os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGKILL)

    def workers_started(self) -> int:
        return (self.folder / "workers.log").read_text().count("Starting worker")


@contextmanager
def flink_cluster(folder: Path) -> Iterator[FlinkCluster]:
    jar = flink_job_server()
    rest, rpc, pool = free_ports(3)
    environment = {
        **os.environ,
        "CLUSTER": str(folder),
        "JOB_SERVER_JAR": str(jar),
        "REST_PORT": str(rest),
        "RPC_PORT": str(rpc),
        "POOL_PORT": str(pool),
    }
    command = [str(LOCAL_CLUSTER), "start"]
    started = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    try:
        assert started.returncode == 0, started.stderr
        # The flags are those that the script tells its user.
        told = [word for word in started.stderr.replace("\\\n", " ").split() if word.startswith("--")]
        flags = [word for word in told if not word.endswith("=...")]
        yield FlinkCluster(folder, rest, pool, tuple(flags))
    finally:
        subprocess.run([str(LOCAL_CLUSTER), "stop"], env=environment, check=True, timeout=60)


def wait_for_port(port: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket() as probe:
            if not probe.connect_ex(("localhost", port)):
                return
        assert time.monotonic() < deadline, f"nothing listens on port {port}"
        time.sleep(0.05)


def maven_jar(artifact: str) -> Path:
    """The jar of `group:name:version` from Maven's central repository."""
    mvn = require("mvn", "maven")
    _, name, version = artifact.split(":")
    folder = CACHE / "maven"
    command = [
        mvn,
        "--batch-mode",
        "dependency:copy",
        f"-Dartifact={artifact}",
        f"-DoutputDirectory={folder}",
    ]
    return install(folder / f"{name}-{version}.jar", command)
