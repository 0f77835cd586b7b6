"""Job servers that Beam starts beside the launcher end with it, however it ends, and leave no folder."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from pipeline import console, job_servers
from tests import engines, helpers

# Stands for java: a server that answers on the job port and writes to its temporary folder, and never ends by itself.
FAKE_JAVA = f"""#!{sys.executable}
import os, sys, threading
import grpc
from concurrent.futures import ThreadPoolExecutor
folder = next(a for a in sys.argv if a.startswith("-Djava.io.tmpdir=")).partition("=")[2]
assert sys.argv[1] == "-XX:TieredStopAtLevel=1"  # the first, so that a user's own property takes precedence
open(os.path.join(folder, "large"), "w").write("x" * 1000)
server = grpc.server(ThreadPoolExecutor(1))
server.add_insecure_port("localhost:" + sys.argv[sys.argv.index("--job-port") + 1])
server.start()
threading.Event().wait()
"""
LAUNCHER = """
import sys
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.{module} import {kind}
from pipeline import console, job_servers
job_servers.guard()
server = {kind}(PipelineOptions(sys.argv[1:]))
server.start()
print("started", flush=True)
sys.stdin.read()
server.stop()
"""
KINDS = {"flink": "FlinkJarJobServer", "spark": "SparkJarJobServer"}


class Launcher:
    """A process that has started a job server, which has been seen to answer."""

    def __init__(self, folder: Path, engine: str = "flink"):
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        java, jar = folder / "java", folder / "server.jar"
        java.write_text(FAKE_JAVA)
        java.chmod(0o755)
        jar.touch()
        self.offspring = engines.Offspring()
        program = LAUNCHER.format(module=f"{engine}_runner", kind=KINDS[engine])
        command = [sys.executable, "-c", program, f"--job_server_java_launcher={java}"]
        self.process = subprocess.Popen(
            [*command, f"--{engine}_job_server_jar={jar}"],
            cwd=helpers.REPO,
            env={**os.environ, **self.offspring.environment, "TMPDIR": str(self.temporary)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "started\n"

    def of(self, word: str) -> int:
        """The id of the process of the server, or of its guard."""
        (process,) = [
            number
            for number, command in self.offspring.alive().items()
            if (word in command) and ("guard.main" in command) == (word == "guard.main")
        ]
        return process

    def folders(self) -> list[Path]:
        return list(self.temporary.iterdir())


@pytest.fixture
def launcher(tmp_path, request):
    launcher = Launcher(tmp_path, getattr(request, "param", "flink"))
    yield launcher
    launcher.process.kill()
    launcher.process.wait()
    launcher.process.stdout.close()
    assert not launcher.offspring.left()


@pytest.mark.parametrize("launcher", KINDS, indirect=True)
@pytest.mark.parametrize("number", [0, signal.SIGKILL, signal.SIGTERM])
def test_a_job_server_ends_with_its_launcher_and_leaves_no_folder(launcher, number):
    (folder,) = launcher.folders()
    assert (folder / "large").exists()
    if number:
        launcher.process.send_signal(number)
    else:
        launcher.process.stdin.close()
    assert launcher.process.wait(60) == -number
    assert not launcher.offspring.left()
    assert not launcher.folders()


def test_a_job_server_without_launcher_and_guard_is_named_and_ended_at_the_next_start(launcher, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(launcher.temporary))
    (folder,) = launcher.folders()
    server, guard = launcher.of("--job-port"), launcher.of("guard.main")
    assert job_servers.sweep() == []  # it is at work
    os.kill(guard, signal.SIGKILL)
    assert job_servers.sweep() == []  # its launcher is
    launcher.process.kill()
    launcher.process.wait()
    deadline = time.monotonic() + 30
    while not (lines := job_servers.sweep()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert lines == [f"removed what a killed run left on this machine: job server {server} and {folder}"]
    assert not launcher.offspring.left(10)
    assert not launcher.folders()


def test_a_folder_of_a_guard_that_was_killed_is_removed(launcher, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(launcher.temporary))
    (folder,) = launcher.folders()
    os.kill(launcher.of("guard.main"), signal.SIGKILL)
    os.kill(launcher.of("--job-port"), signal.SIGKILL)
    launcher.process.kill()
    launcher.process.wait()
    assert job_servers.sweep() == [f"removed what a killed run left on this machine: {folder}"]
    assert not launcher.folders()


def test_without_java_one_line_says_so_and_no_folder_is_left(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "server.jar").touch()
    pattern = helpers.write_shards(tmp_path / "in", (1,))
    done = helpers.job_process(
        *helpers.TINY,
        "--runner=FlinkRunner",
        "--flink_master=[local]",
        f"--flink_job_server_jar={tmp_path / 'server.jar'}",
        "--job_server_java_launcher=no-such-java",
        f"--input={pattern}",
        f"--output={tmp_path / 'out'}",
        expect=1,
        env={"TMPDIR": str(tmp_path / "tmp")},
    )
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "no-such-java, which the engine's job server needs, is not on PATH: install it" in line
    assert "--job_server_java_launcher" in line
    assert not [path for path in (tmp_path / "tmp").iterdir() if path.name.startswith("bit-features-engine")]


@pytest.mark.xdist_group("engines")
def test_prism_ends_with_a_killed_launcher(tmp_path):
    (tmp_path / "tmp").mkdir()
    offspring = engines.Offspring()
    pattern = helpers.write_shards(tmp_path / "in", (16,) * 10)
    flags = [*helpers.TINY, "--image_size=256", "--batch_size=1", f"--input={pattern}"]
    command = [sys.executable, "-m", "pipeline.main", *flags, f"--output={tmp_path / 'out'}"]
    process = subprocess.Popen(
        [*command, "--runner=PrismRunner", f"--prism_location={engines.prism()}"],
        cwd=helpers.REPO,
        env={**os.environ, **offspring.environment, "TMPDIR": str(tmp_path / "tmp")},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not list((tmp_path / "out").glob("receipts/*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not offspring.left()
    assert not list((tmp_path / "tmp").glob("bit-features-engine-*"))


def test_an_exception_in_java_is_one_record_which_only_a_failed_run_shows(capsys):
    console.configure_logging("FlinkRunner")
    process = mock.Mock(
        stdout=[
            b"WARN first\n",
            b"java.util.concurrent.ExecutionException: out of reach\n",
            b"\tat org.apache.flink.Client.ask(Client.java:1)\n",
            b"Caused by: java.net.ConnectException: refused\n",
            b"\t... 12 more\n",
            b"INFO last\n",
        ]
    )
    server = job_servers._Server("/nowhere", ["java"], "localhost:1", logging.getLogger("FlinkJarJobServer"))
    server._log(process)
    said = capsys.readouterr().err.splitlines()
    assert said == ["INFO FlinkJarJobServer: WARN first", "INFO FlinkJarJobServer: INFO last"]
    console.show_traceback()
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "INFO FlinkJarJobServer: java.util.concurrent.ExecutionException: out of reach"
    assert len(shown) == 4
    logging.getLogger("x").error("java.lang.RuntimeException: no\n\tat a.b(c.java:1)")
    console.configure_logging("FnApiRunner")
    assert capsys.readouterr().err == ""
