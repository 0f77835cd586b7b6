"""DirectRunner's workers: how they start, what ends them, and what that means for the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import fleet, worker_process
from tests import engines, helpers
from transforms.commit import writer

PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


def test_neither_a_blank_in_the_interpreters_path_nor_a_proxy_keeps_workers_away(tmp_path):
    """The path as after `python -m venv 'a folder'`."""
    venv, name = Path(sys.executable).parent.parent, "a folder, quote's & $HOME, тест"
    (tmp_path / name).symlink_to(venv)
    pattern = helpers.write_shards(tmp_path / "in", (2, 2))
    command = [tmp_path / name / "bin" / "python", "-m", "pipeline.main", *helpers.TINY, *PROCESSES]
    command.append("--direct_num_workers=1")
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [*command, f"--input={pattern}", f"--output={tmp_path / 'out'}"],
        cwd=helpers.REPO,
        env={**os.environ, **proxies, "no_proxy": "elsewhere"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert helpers.manifest(tmp_path / "out")["features"] == 4


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("sys.stderr.write('no such library'); sys.exit(7)", "ended with exit code 7"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        (
            "print('no such library', file=sys.stderr, flush=True); time.sleep(900)",
            "did not come up within ",
        ),
    ],
)
def test_a_worker_that_does_not_come_up_ends_the_run(tmp_path, monkeypatch, capfd, program, said):
    monkeypatch.setattr(
        worker_process, "COMMAND", [sys.executable, "-c", f"import os, signal, sys, time; {program}"]
    )
    monkeypatch.setattr(worker_process, "_START_SECONDS", 5)
    pattern = helpers.write_shards(tmp_path / "in", (2, 2))
    helpers.job(*PROCESSES, f"--input={pattern}", output=tmp_path / "out", expect=1)
    err = capfd.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "run the same command again" in line
    assert ("it wrote: no such library" in line) == ("library" in program)
    assert "Traceback" not in err


def test_a_worker_that_is_slow_to_come_up_is_waited_for_as_long_as_it_computes(tmp_path, monkeypatch):
    """As on a machine with more to do than it can."""
    command = list(worker_process.COMMAND)
    command[-1] = f"import time\nwhile time.process_time() < 3: pass\n{command[-1]}"
    monkeypatch.setattr(worker_process, "COMMAND", command)
    monkeypatch.setattr(worker_process, "_START_SECONDS", 1)
    monkeypatch.setattr(worker_process, "_MOST_STARTS", 600)
    pattern = helpers.write_shards(tmp_path / "in", (2, 2))
    helpers.job(*PROCESSES, "--direct_num_workers=1", f"--input={pattern}", output=tmp_path / "out")
    assert helpers.manifest(tmp_path / "out")["features"] == 4


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-9, "by SIGKILL, as where memory runs out"),
        (-15, "by SIGTERM"),
        (-99, "by signal 99"),
        (3, "with exit code 3"),
    ],
)
def test_how_a_process_ended(code, said):
    assert worker_process.how(code) == said


def test_a_killed_worker_is_one_line_and_the_next_run_goes_on(tmp_path):
    pattern = helpers.write_shards(tmp_path / "in", (40,) * 6)
    output, offspring = tmp_path / "out", engines.Offspring()
    flags = [*helpers.TINY, "--batch_size=1", "--image_size=128", f"--input={pattern}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.main", *flags, *PROCESSES, f"--output={output}"],
        cwd=helpers.REPO,
        env={**os.environ, **offspring.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not list(output.glob("receipts/*.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim = next(id_ for id_, command in offspring.alive().items() if "sdk_worker_main" in command)
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 1
    said = [line for line in err.splitlines() if "shards to do" not in line and "shard " not in line]
    (line,) = [line for line in said if "waiting for the first" not in line]
    assert line.startswith(f"error: WorkerDied: worker process {victim} ended by SIGKILL")
    assert "run the same command again" in line
    assert not offspring.left()
    helpers.job(*flags[2:], output=output)
    helpers.job(*flags[2:], output=tmp_path / "whole")
    assert helpers.contents(output) == helpers.contents(tmp_path / "whole")


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_a_bundle_that_fails_ends_those_of_other_workers(tmp_path, monkeypatch, mode):
    plain, failed = writer.ShardWriter.commit, []

    def commit(self):
        # Not one of an earlier run, whose thread was left to itself.
        if not failed and self._layout.folder == str(tmp_path / "out"):
            failed.append(self._shard.label)
            self.abort()
            raise OSError("no space left")
        time.sleep(1)
        return plain(self)

    monkeypatch.setattr(writer.ShardWriter, "commit", commit)
    monkeypatch.setattr(fleet, "GRACE_SECONDS", 0.5)
    pattern = helpers.write_shards(tmp_path / "in", (1,) * 60)
    flags = ["--direct_num_workers=2", f"--direct_running_mode={mode}", f"--input={pattern}"]
    helpers.job(*flags, output=tmp_path / "out", expect=1)
    assert len(list(tmp_path.glob("out/receipts/*.json"))) < 25  # the other worker had 30
