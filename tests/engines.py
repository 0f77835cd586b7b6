"""Real engines for the tests: their programs are installed once into a folder that outlives a run."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import apache_beam

from tests import helpers

LOCAL_CLUSTER = helpers.REPO / "deploy" / "flink" / "local_cluster.sh"

KUSTOMIZE = "v5.5.0"

# Programs and jars of engines; CI may keep this folder between runs.
CACHE = Path(os.environ.get("BIT_FEATURES_TEST_CACHE", "~/.cache/bit-features-tests")).expanduser()


def require(program: str, packages: str) -> str:
    """The path of a program that tests of engines cannot do without."""
    path = shutil.which(program)
    assert path, f"{program} is not on PATH, and this test needs it: apt-get install {packages}"
    return path


def install(target: Path, command: list[str], **environment: str) -> Path:
    """Runs an installation that makes `target`, unless an earlier one ran to its end."""
    CACHE.mkdir(parents=True, exist_ok=True)
    key = zlib.crc32(str(target).encode())
    with open(CACHE / f"{target.name}-{key:08x}.installed", "a+") as note:
        fcntl.flock(note, fcntl.LOCK_EX)  # another process of this test run may want the same
        note.seek(0)
        if note.read() != "yes" or not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
            assert target.exists(), f"{' '.join(command)} left no {target}"
            note.truncate(0)
            note.write("yes")
    return target


def environment(name: str, *arguments: str) -> Path:
    """The interpreter of an environment with other packages, made once and kept; `arguments`: of uv's and pip's `install`."""
    folder = CACHE / name
    python = folder / "bin" / "python"
    # As scripts/venv.sh: pip where uv does not reach the index.
    script = (
        '"$0" -m venv --clear "$1" && shift && '
        '{ UV_NATIVE_TLS=1 "$0" -m uv pip install --quiet --python "$1" "${@:2}" || '
        '"$1" -m pip install --quiet --disable-pip-version-check --no-compile "${@:2}"; }'
    )
    command = ["bash", "-c", script, sys.executable, str(folder), str(python), *arguments]
    return install(python, command)


def prism() -> Path:
    """Beam's Prism, built from its Go module at the version of the Python SDK."""
    version = f"v{apache_beam.__version__}"
    folder = CACHE / f"prism-{version}"
    module = f"github.com/apache/beam/sdks/v2/go/cmd/prism@{version}"
    go = require("go", "golang")
    return install(folder / "prism", [go, "install", module], GOBIN=str(folder), GOFLAGS="-mod=mod")


def kustomize() -> Path:
    """The program that `kubectl apply -k` has within, built from its Go module."""
    folder = CACHE / f"kustomize-{KUSTOMIZE}"
    module = f"sigs.k8s.io/kustomize/kustomize/v5@{KUSTOMIZE}"
    go = require("go", "golang")
    return install(folder / "kustomize", [go, "install", module], GOBIN=str(folder), GOFLAGS="-mod=mod")


class Offspring:
    """The processes that were started with this object's environment, however far down and whoever their parent is now."""

    def __init__(self) -> None:
        self._mark = f"BIT_FEATURES_TEST_RUN={uuid.uuid4().hex}"

    @property
    def environment(self) -> dict[str, str]:
        return dict([self._mark.split("=")])

    def alive(self) -> dict[int, str]:
        """Id -> command of each."""
        processes = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    if self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                        processes[int(folder.name)] = command
                except OSError:
                    continue
        return processes

    def left(self, seconds: float = 60) -> dict[int, str]:
        """Those that have not ended by themselves within some time; they are then killed."""
        deadline = time.monotonic() + seconds
        while (processes := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return processes


def flink_job_server() -> Path:
    """Beam's job server for Flink with Flink itself, as `deploy/flink/local_cluster.sh build` puts it together."""
    require("java", "default-jdk-headless")
    require("mvn", "maven")
    description = helpers.REPO / "deploy" / "flink" / "job-server.xml"
    target = CACHE / f"flink-job-server-{zlib.crc32(description.read_bytes()):08x}.jar"
    return install(target, [str(LOCAL_CLUSTER), "build"], JOB_SERVER_JAR=str(target))


def embedded_flink() -> tuple[str, ...]:
    """Flags for Flink inside the job server, which retries nothing."""
    jar = flink_job_server()
    return (
        "--runner=FlinkRunner",
        "--flink_master=[local]",
        "--flink_version=1.19",
        f"--flink_job_server_jar={jar}",
    )


def embedded_spark() -> tuple[str, ...]:
    """Flags for Spark inside Beam's job server for it, with the workers in the launching process."""
    require("java", "default-jdk-headless")
    description = helpers.REPO / "deploy" / "spark" / "job-server.xml"
    folder = CACHE / f"spark-job-server-{zlib.crc32(description.read_bytes()):08x}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(description, folder / "pom.xml")
    mvn = require("mvn", "maven")
    command = [mvn, "--quiet", "--batch-mode", "--file", str(folder / "pom.xml"), "package"]
    jar = install(folder / "target" / "spark-job-server-1.jar", command)
    return ("--runner=SparkRunner", f"--spark_job_server_jar={jar}", "--environment_type=LOOPBACK")


def free_ports(count: int) -> list[int]:
    """Unused ports on loopback, below the range that the system assigns from."""
    ports: list[int] = []
    for port in random.Random(os.getpid()).sample(range(18000, 30000), 1000):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)):
                ports.append(port)
        if len(ports) == count:
            return ports
    raise AssertionError("no free port")


@dataclass(frozen=True)
class FlinkCluster:
    """The cluster of `deploy/flink/local_cluster.sh`: two TaskManagers of two slots, each with a pool of Python workers."""

    folder: Path
    environment: dict[str, str]
    flags: tuple[str, ...]

    @property
    def address(self) -> str:
        return f"localhost:{self.environment['REST_PORT']}"

    @property
    def jar(self) -> str:
        return self.environment["JOB_SERVER_JAR"]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs the script."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            [str(LOCAL_CLUSTER), command], env=environment, capture_output=True, text=True, timeout=400
        )

    def start(self) -> str:
        """Starts again what has ended; returns what the script says."""
        started = self.run("start")
        assert started.returncode == 0, started.stderr
        return started.stderr

    def ask(self, path: str) -> dict:
        """What Flink's REST API answers."""
        with urllib.request.urlopen(f"http://{self.address}/{path}", timeout=30) as answer:
            return json.load(answer)

    def jobs(self) -> list[dict]:
        """Flink's own account of the jobs, the newest first."""
        return sorted(self.ask("jobs/overview")["jobs"], key=lambda job: -job["start-time"])

    def pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text())

    def kill(self, name: str) -> None:
        os.kill(self.pid(name), signal.SIGKILL)

    def workers(self) -> set[int]:
        """The ids of the Python workers that run, of all pools."""
        pools = {int(path.read_text()) for path in self.folder.glob("workers-*.pid")}
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                process = int(folder.name)
                if (
                    os.getpgid(process) in pools - {process}
                    and b"SdkHarness" in (folder / "cmdline").read_bytes()
                ):
                    found.add(process)
        return found

    def workers_started(self) -> list[list[str]]:
        """What each pool has called the Python workers that it has started, in their order."""
        logs = [path.read_text() for path in sorted(self.folder.glob("workers-*.log"))]
        return [re.findall(r"Starting worker .*?worker_id=\"([^\"]+)", log) for log in logs]


@contextmanager
def flink_cluster(folder: Path, **variables: str) -> Iterator[FlinkCluster]:
    rest, rpc, pool = free_ports(3)
    environment = {
        "CLUSTER": str(folder),
        "JOB_SERVER_JAR": str(flink_job_server()),
        "REST_PORT": str(rest),
        "RPC_PORT": str(rpc),
        "POOL_PORT": str(pool),
        **variables,
    }
    cluster = FlinkCluster(folder, environment, ())
    try:
        # The flags are those of the command that the script prints.
        printed = [word for word in cluster.start().replace("\\\n", " ").split() if word.startswith("--")]
        yield replace(cluster, flags=tuple(word for word in printed if not word.endswith("=...")))
    finally:
        stopped = cluster.run("stop")
        assert stopped.returncode == 0, stopped.stderr


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
